"""What 'bench --compare' finds and when it cries: real runs of one file, and of the same file made slower.

    python benchmarks/compare_power.py hand.splite --out benchmarks/results/compare-power.jsonl

Each pair is three processes in a row: two alike, and one whose sessions spin for 5 % of the fastest frame after every
inference. The first two have to be no difference or unclear, the first and the third slower. Appends one JSON line.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from splite_deploy.bench import Extras, append_record, append_result, read_environment, read_results, run_bench
from splite_deploy.bench.compare import THRESHOLD, StageChange, compare
from splite_deploy.bench.loop import END_TO_END
from splite_deploy.errors import SpliteError
from splite_deploy.runtime.backends.base import BaseSession
from splite_deploy.spec.plain import to_plain

KIND = "compare-power"
SLOWDOWN = 0.05


def plant(spin_ms: float) -> None:
    """From now on every inference of this process spins for a while at its end."""
    run = BaseSession.run

    def slow(self: BaseSession, feeds: Any) -> Any:
        outputs = run(self, feeds)
        end_ns = time.perf_counter_ns() + round(1e6 * spin_ms)
        while time.perf_counter_ns() < end_ns:
            pass
        return outputs

    BaseSession.run = slow  # type: ignore[method-assign]


def one_run(bundle: Path, spin_ms: float, out: Path) -> None:
    """Measures in this process."""
    if spin_ms > 0:
        plant(spin_ms)
    extras = Extras(cold_start=False)
    append_result(out, run_bench(bundle, backend="ort", precision="fp32", threads=1, extras=extras))


def apart(bundle: Path, spin_ms: float, out: Path) -> Path:
    """Measures in a process of its own."""
    arguments = [bundle, "--spin-ms", spin_ms, "--out", out, "--one"]
    subprocess.run([sys.executable, __file__, *map(str, arguments)], check=True)
    return out


def changes(before: Path, after: Path) -> list[StageChange]:
    return list(compare(read_results(before), read_results(after))[0].stages)


def study(bundle: Path, pairs: int) -> dict[str, Any]:
    """The record of all pairs."""
    environment, date_utc = read_environment(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    told: dict[str, list[StageChange]] = {"same": [], "slowed": []}
    alarms_of_any_stage = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (first,) = read_results(apart(bundle, 0.0, folder / "first.jsonl"))
        spin_ms = SLOWDOWN * first.stages[END_TO_END].min_ms
        for pair in range(pairs):
            base, same, slowed = (
                apart(bundle, spin, folder / f"{kind}{pair}.jsonl")
                for kind, spin in (("base", 0.0), ("same", 0.0), ("slowed", spin_ms))
            )
            alike = changes(base, same)
            alarms_of_any_stage += any(change.outcome in ("slower", "faster") for change in alike)
            for kind, found in (("same", alike), ("slowed", changes(base, slowed))):
                (frame,) = [change for change in found if change.stage == END_TO_END]
                told[kind].append(frame)
                medians, least = frame.median.value, frame.minimum.value
                print(f"{pair:2d} {kind:6s} medians {medians:.3f}, minimum {least:.3f}: {frame.outcome}", flush=True)
    return {
        "kind": KIND,
        "record_version": 2,
        "date_utc": date_utc,
        "pairs": pairs,
        "frames": first.frames,
        "slowdown": SLOWDOWN,
        "threshold": THRESHOLD,
        "outcomes": {kind: dict(Counter(change.outcome for change in found)) for kind, found in told.items()},
        "same_with_an_alarm_in_any_stage": alarms_of_any_stage,
        "median_ratios": {kind: [change.median.value for change in found] for kind, found in told.items()},
        "minimum_ratios": {kind: [change.minimum.value for change in found] for kind, found in told.items()},
        "environment": to_plain(environment),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--pairs", type=int, default=20, help="(default: 20)")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to append to")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--spin-ms", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        if options.one:
            one_run(options.bundle, options.spin_ms, options.out)
            return
        record = study(options.bundle, options.pairs)
        append_record(options.out, record)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    same, slowed = record["outcomes"]["same"], record["outcomes"]["slowed"]
    cried = same.get("slower", 0) + same.get("faster", 0)
    print(f"the same file: {cried} false alarms in {options.pairs} pairs ({same})")
    print(f"{SLOWDOWN:.0%} slower: found in {slowed.get('slower', 0)} of {options.pairs} pairs ({slowed})")


if __name__ == "__main__":
    main()
