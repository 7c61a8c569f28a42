r"""Accuracy and time of SPLite Palm as every artifact of its bundle runs it, beside the hand network in the same run.

    python benchmarks/hand_detector.py palm.splite hand.splite --data HANDS_VARIED --digits HAND_DIGITS \
        --out benchmarks/results/hand-detector.jsonl

Accuracy is that of `models/splite_palm/palm_evaluate.py`, which says what figures mean. Time is the inference alone,
one thread, all artifacts of both bundles in turn; the hand network's is that of the same backend and precision.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console

from splite_deploy.bench import append_record, read_environment
from splite_deploy.bench.bootstrap import ratio_of_medians
from splite_deploy.bench.interleaved import Run, interleave
from splite_deploy.bench.stats import LatencyStats
from splite_deploy.bundle import Bundle
from splite_deploy.errors import SpliteError, UsageError
from splite_deploy.runtime.session import Session, open_session
from splite_deploy.spec.plain import to_plain

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "models" / "splite_palm"))
from palm_evaluate import Picture, digits, empty, figures_of, varied

KIND = "hand-detector"


def measure(
    palm: Bundle, hand: Bundle, sets: dict[str, list[Picture]], frames: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Evaluates every artifact of a detector, and times it with those of the hand network.

    Args:
        palm: The detector.
        hand: The hand network.
        sets: Pictures by the name of their set.
        frames: Timed inferences of each.
        say: Called with each step as it begins.

    Raises:
        UsageError: The hand network has no artifact of the same backend and precision.
    """
    runs: dict[str, Run] = {}
    rows: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        for bundle, name in ((palm, "palm"), (hand, "hand")):
            for one in bundle.manifest.artifacts:
                session = stack.enter_context(open_session(bundle, one.backend, one.precision, threads=1))
                runs[f"{name} {one.label}"] = _run(session)
        for one in palm.manifest.artifacts:
            if f"hand {one.label}" not in runs:
                raise UsageError(
                    f"{hand.path} has no {one.label}.", hint="Export both bundles with the same -b and -p."
                )
            say(f"evaluating {one.label}")
            accuracy = figures_of(palm.path, one.backend, one.precision, sets)
            rows[one.label] = {"accuracy": accuracy, "bytes": (palm.path / one.file).stat().st_size}
        say(f"timing {frames} inferences of each in turn")
        samples = interleave(runs, frames)
    for label, row in rows.items():
        own, other = samples[f"palm {label}"], samples[f"hand {label}"]
        row |= {
            "latency": to_plain(LatencyStats.from_samples(own)),
            "hand_latency": to_plain(LatencyStats.from_samples(other)),
            "over_hand": asdict(ratio_of_medians(own, other)),
        }
    return {
        "kind": KIND,
        "record_version": 1,
        "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "checkpoint": palm.manifest.source.checkpoint,
        "hand": hand.manifest.source.checkpoint,
        "artifacts": rows,
        "environment": to_plain(read_environment()),
    }


def _run(session: Session) -> Run:
    """Its inference, of noise in the shape of its input with a batch of one."""
    image = session.inputs[0]
    shape = [1 if size is None else size for size in image.shape]
    noise = np.random.default_rng(0).normal(0, 1, shape)
    tensor = noise.astype(image.dtype) if image.dtype.startswith("float") else noise.clip(0, 1).astype(image.dtype)
    return lambda _: session.run({image.name: tensor})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("palm", type=Path, help="bundle of SPLite Palm")
    parser.add_argument("hand", type=Path, help="bundle of the hand network")
    parser.add_argument("--data", type=Path, required=True, help="folder of hands-varied")
    parser.add_argument("--digits", type=Path, required=True, help="folder of hand-digits")
    parser.add_argument("--frames", type=int, default=1000, help="timed inferences of each (default: 1000)")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to append to")
    options = parser.parse_args()
    log = Console(stderr=True)
    cv2.setNumThreads(1)
    try:
        with log.status("reading pictures") as status:
            sets = {
                "hands-varied val": varied(options.data) + empty(options.data),
                "hand-digits val": digits(options.digits),
            }
            bundles = Bundle.open(options.palm), Bundle.open(options.hand)
            record = measure(*bundles, sets, options.frames, status.update)
        append_record(options.out, record)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    for label, row in record["artifacts"].items():
        print(
            label, row["accuracy"], f"{row['latency']['min_ms']:.3f} ms, {row['over_hand']['value']:.2f} of the hand's"
        )


if __name__ == "__main__":
    main()
