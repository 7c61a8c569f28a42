"""Whether `AdaptiveEstimator` keeps a budget while other work takes the processor, and what that costs in accuracy.

    python benchmarks/adaptive.py large.splite small.splite --data HAND_DIGITS --out benchmarks/results/adaptive.jsonl

Accuracy tells something where the errors of the variants differ, as those of the dense and the compacted SPLite Hand 2
do; docs/adaptive.md has the commands.

The bundles, the most accurate first, have a dynamic batch (`export --dynamic-batch`): a frame is one inference of
``--hands`` crops. Frames come at ``--fps``, and this process has one CPU alone, where a load generator takes turns with
it: none, one or two processes that count, by a schedule of ``--hold`` seconds each. First every variant is measured
under each load: that tells which of them can keep the budget. Then the same schedule runs with the adaptive estimator,
with the first variant alone and with the last alone. Counted are windows of 60 frames, one behind the other and within
one load, whose 95th percentile keeps the budget. The error is that of the variant that ran each frame, on labelled
photographs. Appends one JSON line.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from hands_in_frame import frame_and_boxes
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from splite_deploy import AdaptiveEstimator, PoseEstimator, Variant
from splite_deploy.bench import append_record, read_environment
from splite_deploy.bench.evaluation import estimate_of, evaluation_labels, keypoint_errors
from splite_deploy.errors import SpliteError
from splite_deploy.keeper import end_with_parent
from splite_deploy.runtime.adaptive import variants_of
from splite_deploy.runtime.governor import REST_S, WINDOW
from splite_deploy.spec.plain import to_plain

KIND = "adaptive"
LOADS = (0, 1, 2)
"""Processes that take turns with the frames on one CPU."""
ALONE_FRAMES = 240
KEYPOINTS = 21
Call = Callable[[Any, Any], object]


def count(parent: int) -> None:
    """Takes a processor, until the process that started it ends."""
    end_with_parent(parent)
    number = 0
    while True:
        number += 1


@contextmanager
def load(processes: int) -> Iterator[None]:
    """Other work on the CPU of this process, which it inherits."""
    context = get_context("spawn")
    started = [context.Process(target=count, args=(os.getpid(),), daemon=True) for _ in range(processes)]
    for one in started:
        one.start()
    if started:
        time.sleep(1.0)  # they import first
    try:
        yield
    finally:
        for one in started:
            one.terminate()
            one.join()


def paced(call: Call, what: tuple[Any, Any], frames: int, fps: float, before: Callable[[], object]) -> list[float]:
    """What each frame took, in ms, of frames that come at a steady rate; late ones are followed by the next at once."""
    taken, due_s = [], time.perf_counter()
    for _ in range(frames):
        time.sleep(max(0.0, due_s - time.perf_counter()))
        before()
        began_s = time.perf_counter()
        call(*what)
        ended_s = time.perf_counter()
        taken.append(1000 * (ended_s - began_s))
        due_s = max(due_s + 1 / fps, ended_s)
    return taken


def windows(taken: Sequence[float]) -> np.ndarray[Any, Any]:
    """95th percentiles of windows, one behind the other."""
    whole = np.array(taken[: len(taken) // WINDOW * WINDOW]).reshape(-1, WINDOW)
    return np.percentile(whole, 95, axis=1)


def measured_alone(variants: Sequence[Variant], what: Any, fps: float, progress: Progress) -> dict[int, list[float]]:
    """By load, the p95 of each variant."""
    task = progress.add_task("variants under load", total=len(LOADS) * len(variants))
    found: dict[int, list[float]] = {}
    for processes in LOADS:
        with load(processes):
            found[processes] = []
            for one in variants:
                with PoseEstimator.open(one.path, one.backend, one.precision, threads=1) as estimator:
                    taken = paced(estimator.batch, what, ALONE_FRAMES, fps, lambda: None)
                found[processes].append(float(np.percentile(taken[WINDOW // 2 :], 95)))
                progress.advance(task)
    return found


def errors_of(variants: Sequence[Variant], data: Path) -> list[float]:
    """Mean error of each variant on labelled photographs, percent of the box."""
    labels, means = evaluation_labels(data, KEYPOINTS), []
    for one in variants:
        with PoseEstimator.open(one.path, one.backend, one.precision, threads=1, color="rgb") as estimator:
            means.append(
                keypoint_errors(labels, estimate_of(estimator.at_any_angle)).summary().mean_error_box_pct or 0.0
            )
    return means


def driven(
    call: Call, schedule: Sequence[int], what: Any, frames: int, fps: float, before: Callable[[], object]
) -> list[list[float]]:
    """What frames took under each load of the schedule."""
    parts = []
    for processes in schedule:
        with load(processes):
            parts.append(paced(call, what, frames, fps, before))
    return parts


def summary(
    parts: Sequence[Sequence[float]], schedule: Sequence[int], alone: dict[int, list[float]], budget_ms: float
) -> dict[str, Any]:
    """Shares of windows that kept the budget, of those in which some variant can."""
    kept = possible = 0
    for taken, processes in zip(parts, schedule, strict=True):
        if min(alone[processes]) <= budget_ms:
            found = windows(taken)
            possible += len(found)
            kept += int((found <= budget_ms).sum())
    everything = np.concatenate([np.asarray(one) for one in parts])
    return {
        "windows": possible,
        "kept_share": kept / possible if possible else None,
        "frames": len(everything),
        "late_share": float((everything > budget_ms).mean()),
        "p50_ms": float(np.median(everything)),
        "p95_ms": float(np.percentile(everything, 95)),
    }


def measure(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    variants = [one for path in options.bundles for one in variants_of(path)]
    what, frames = frame_and_boxes(options.hands), int(options.hold * options.fps)
    errors = errors_of(variants, options.data)
    alone = measured_alone(variants, what, options.fps, progress)
    budget_ms = options.budget_ms or 1.5 * alone[0][0]
    rng = np.random.default_rng(options.seed)
    schedule = [0, *(int(one) for one in rng.choice(LOADS, options.changes))]
    rows: dict[str, dict[str, Any]] = {}
    task = progress.add_task("schedule", total=3 * len(schedule) * frames)
    ran: list[int] = []
    with AdaptiveEstimator(variants, budget_ms, threads=1, max_loaded=options.max_loaded) as adaptive:

        def before() -> None:
            progress.advance(task)
            ran.append(variants.index(adaptive.active))

        began_s = time.monotonic()
        parts = driven(adaptive.batch, schedule, what, frames, options.fps, before)
        switches = [{**asdict(one), "at_s": one.at_s - began_s} for one in adaptive.switches]
        failed = {variants[index].label: str(err) for index, err in adaptive.failed.items()}
    rows["adaptive"] = summary(parts, schedule, alone, budget_ms)
    rows["adaptive"]["error_pct"] = float(np.mean([errors[index] for index in ran]))
    for index in (0, len(variants) - 1):
        one = variants[index]
        with PoseEstimator.open(one.path, one.backend, one.precision, threads=1) as estimator:
            parts = driven(estimator.batch, schedule, what, frames, options.fps, lambda: progress.advance(task))
        rows[f"always {one.label}"] = summary(parts, schedule, alone, budget_ms) | {"error_pct": errors[index]}
    times = [one["at_s"] for one in switches]
    return {
        "kind": KIND,
        "record_version": 1,
        "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "variants": [one.label for one in variants],
        "errors_pct": errors,
        "hands": options.hands,
        "fps": options.fps,
        "budget_ms": budget_ms,
        "hold_s": options.hold,
        "schedule": schedule,
        "rest_s": REST_S,
        "max_loaded": options.max_loaded,
        "p95_alone_ms": {str(key): value for key, value in alone.items()},
        "rows": rows,
        "switches": switches,
        "closest_switches_s": min(np.diff(times).tolist(), default=None) if len(times) > 1 else None,
        "failed": failed,
        "environment": to_plain(read_environment()),
    }


def table(record: dict[str, Any]) -> Table:
    """What a person reads of it."""
    made = Table(title=f"budget {record['budget_ms']:.2f} ms, {len(record['switches'])} changes")
    for heading in ("", "windows kept", "late frames", "p50 ms", "p95 ms", "error %"):
        made.add_column(heading, justify="right" if heading else "left")
    for name, row in record["rows"].items():
        kept = "none can" if row["kept_share"] is None else f"{row['kept_share']:.1%} of {row['windows']}"
        figures = f"{row['late_share']:.1%}", f"{row['p50_ms']:.2f}", f"{row['p95_ms']:.2f}", f"{row['error_pct']:.2f}"
        made.add_row(name, kept, *figures)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, help="the most accurate first")
    parser.add_argument("--data", type=Path, required=True, help="labelled photographs")
    parser.add_argument("--hands", type=int, default=8, help="crops of a frame (default: 8)")
    parser.add_argument("--fps", type=float, default=30.0, help="frames in a second (default: 30)")
    parser.add_argument("--budget-ms", type=float, help="default: 1.5 times what the first takes without a load")
    parser.add_argument("--hold", type=float, default=30.0, help="seconds of each load (default: 30)")
    parser.add_argument("--changes", type=int, default=9, help="loads after the first, which is none (default: 9)")
    parser.add_argument("--seed", type=int, default=0, help="of the schedule")
    parser.add_argument("--cpu", type=int, help="the CPU that all share (default: the last one)")
    parser.add_argument("--max-loaded", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON lines file to append a record to")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0)) if options.cpu is None else options.cpu})
    try:
        with Progress(console=Console(stderr=True)) as progress:
            record = measure(options, progress)
        if options.out is not None:
            append_record(options.out, record)
    except (SpliteError, OSError) as err:
        sys.exit(f"error: {err}")
    Console().print(table(record))


if __name__ == "__main__":
    main()
