"""What frames take while `PoseEstimator.follow` loads a bundle that was installed, and while it changes over to it.

    python benchmarks/follow_load.py first.splite second.splite --out benchmarks/results/follow-load.jsonl

Frames come at ``--fps`` to an estimator that follows a store with the first bundle. Then the second one is put into the
store by another process, so that what `install` does is no part of it, and frames go on until it has proven itself.
Three spans are told apart: before, from the installation to the first frame of the new bundle, and from there on. Every
frame has to be answered. A large graph is read by ONNX Runtime while it holds Python's lock: that is what the longest
frame of the second span shows. The bundles are networks for the same task; two of one network will do. Appends one JSON
line.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from splite_deploy import PoseEstimator
from splite_deploy.bench import append_record, read_environment
from splite_deploy.bundle import Bundle
from splite_deploy.errors import SpliteError
from splite_deploy.spec.plain import to_plain

KIND = "follow-load"
SPANS = ("before", "while it is loaded", "after")
PUT = """
import shutil, sys
from pathlib import Path
from splite_deploy.updates import Store
store = Store(Path(sys.argv[1]))
with store.adding() as place:
    shutil.copytree(sys.argv[2], place, dirs_exist_ok=True)
    store.switch(place)
"""


def put(store: Path, bundle: Path) -> subprocess.Popen[bytes]:
    """Begins to put a bundle into a store without verifying it."""
    return subprocess.Popen([sys.executable, "-c", PUT, store, bundle])


def measure(options: argparse.Namespace, store: Path) -> dict[str, Any]:
    first, second = options.bundles
    if put(store, first).wait():
        sys.exit(f"error: {first} cannot be put into a store.")
    golden = Bundle.open(first).golden().image
    taken: dict[str, list[float]] = {span: [] for span in SPANS}
    told: list[str] = []
    with PoseEstimator.follow(store, "ort", threads=1, proving_frames=options.proving, told=told.append) as estimator:
        begun, due_s, installing = estimator.slot, time.perf_counter(), None
        while len(taken["after"]) < options.frames:
            if installing is None and len(taken["before"]) >= options.frames:
                installing = put(store, second)
            time.sleep(max(0.0, due_s - time.perf_counter()))
            began_s = time.perf_counter()
            pose = estimator(golden.pixels, golden.box)
            ended_s = time.perf_counter()
            assert np.isfinite(pose.keypoints).all()
            span = "after" if estimator.slot != begun else "before" if installing is None else "while it is loaded"
            taken[span].append(1000 * (ended_s - began_s))
            due_s = max(due_s + 1 / options.fps, ended_s)
    if installing is None or installing.wait():
        sys.exit(f"error: {second} cannot be put into a store.")
    return {
        "kind": KIND,
        "record_version": 1,
        "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bundles": [one.name for one in options.bundles],
        "model_bytes": [opened.size_of(opened.find("ort")) for opened in map(Bundle.open, options.bundles)],
        "fps": options.fps,
        "spans": {span: figures(times, options.fps) for span, times in taken.items()},
        "told": [text.replace(str(store), "STORE") for text in told],
        "environment": to_plain(read_environment()),
    }


def figures(taken: Sequence[float], fps: float) -> dict[str, Any]:
    """Of the frames of a span, in ms; late is one that took longer than the time to the next."""
    p50, p95, p99 = np.percentile(taken, (50, 95, 99))
    late = sum(one > 1000 / fps for one in taken)
    return {"frames": len(taken), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "max_ms": max(taken), "late": late}


def table(record: dict[str, Any]) -> Table:
    """What a person reads of it."""
    made = Table(
        title=f"{record['bundles'][1]}: {record['model_bytes'][1] / 1e6:.1f} MB, {record['fps']:g} frames a second"
    )
    for heading in ("span", "frames", "p50 ms", "p95 ms", "p99 ms", "longest ms", "late"):
        made.add_column(heading, justify="left" if heading == "span" else "right")
    for span, row in record["spans"].items():
        times = (f"{row[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms"))
        made.add_row(span, str(row["frames"]), *times, str(row["late"]))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs=2, type=Path, help="what runs, and what is installed then")
    parser.add_argument("--fps", type=float, default=30.0, help="frames in a second (default: 30)")
    parser.add_argument("--frames", type=int, default=300, help="before, and after (default: 300)")
    parser.add_argument("--proving", type=int, default=30, help="see PoseEstimator.follow (default: 30)")
    parser.add_argument("--out", type=Path, help="JSON lines file to append a record to")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            record = measure(options, Path(folder) / "store")
        if options.out is not None:
            append_record(options.out, record)
    except (SpliteError, OSError) as err:
        sys.exit(f"error: {err}")
    Console().print(table(record))


if __name__ == "__main__":
    main()
