"""What the page of ``run --view`` costs the loop that it shows: without it, served to nobody, and to several browsers.

    python benchmarks/view_cost.py hand.splite clip.avi [--box X0,Y0,X1,Y1] [--viewers 3] [--fps 30]

The frames of the clip are decoded before, and given to a tracker on one thread, as many per second as --fps says. The
ways take turns, a second each. A viewer is a process that asks as the page does: for the next picture as soon as it has
one. Printed are percentiles of the time from a frame to its keypoints, the time that handing a frame over takes, and
the pictures per second of each viewer.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from splite_deploy import BoxTracker, PoseEstimator, open_camera
from splite_deploy.runtime.preprocess import Image
from splite_deploy.viewer.board import Board
from splite_deploy.viewer.server import serve

VIEWER = """
import re, sys, urllib.request
after, run, seen = -1, "", 0
try:
    while True:
        body = urllib.request.urlopen(f"{sys.argv[1]}next?run={run}&after={after}").read()
        after, run = int(re.search(rb'"frame": (-?[0-9]+)', body)[1]), re.search(rb'"run": "(\\w+)"', body)[1].decode()
        seen += b"image/jpeg" in body
except OSError:
    print(seen)
"""


def run_loop(
    track: BoxTracker, frames: Sequence[Image], fps: float, seconds: float, board: Board | None, frame_ms: list[float]
) -> list[float]:
    """Follows for some seconds; the time of each frame is appended, and those of handing them over are given."""
    handed_ms = []
    began_s = time.perf_counter()
    for index in range(round(seconds * fps)):
        time.sleep(max(0.0, began_s + index / fps - time.perf_counter()))
        frame, arrived_s = frames[index % len(frames)], time.perf_counter()
        pose = track(frame)
        found_s = time.perf_counter()
        if board is not None:
            board.show(frame, [pose], track.found, arrived_s)
            handed_ms.append(1000 * (time.perf_counter() - found_s))
        frame_ms.append(1000 * (found_s - arrived_s))
    return handed_ms


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--box", default="")
    parser.add_argument("--viewers", type=int, default=3)
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    with open_camera(options.clip) as camera:
        frames = [frame for frame, _ in zip(camera, range(300), strict=False)]
    ways: dict[str, int | None] = {"without": None, "nobody": 0, "one viewer": 1}
    ways[f"{options.viewers} viewers"] = options.viewers
    frame_ms: dict[str, list[float]] = {name: [] for name in ways}
    handed_ms: dict[str, list[float]] = {name: [] for name in ways}
    seen: dict[str, list[int]] = {name: [] for name in ways}
    with PoseEstimator.open(options.bundle, "ort", threads=1) as estimator:
        track = BoxTracker(estimator, [float(part) for part in options.box.split(",")] if options.box else None)
        for _ in range(options.rounds):
            for name, viewers in ways.items():
                board = None if viewers is None else Board("", "", estimator.spec.skeleton, {"": estimator})
                with serve(board, "127.0.0.1", 0) if board is not None else nullcontext() as served:
                    command = [sys.executable, "-c", VIEWER, served.address if served is not None else ""]
                    children = [
                        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(viewers or 0)
                    ]
                    run_loop(track, frames, options.fps, 0.5, board, [])
                    handed_ms[name] += run_loop(track, frames, options.fps, 1.0, board, frame_ms[name])
                seen[name] += [int(child.communicate()[0]) for child in children]
    for name, values in frame_ms.items():
        p50, p90, p99 = np.percentile(values, [50, 90, 99])
        line = {"way": name, "frames": len(values), "p50_ms": round(p50, 3), "p90_ms": round(p90, 3)}
        line |= {"p99_ms": round(p99, 3), "min_ms": round(min(values), 3)}
        if handed_ms[name]:
            line |= {"handed_p50_ms": round(float(np.median(handed_ms[name])), 4)}
            line |= {"handed_p99_ms": round(float(np.percentile(handed_ms[name], 99)), 4)}
        if seen[name]:
            line["pictures"] = round(float(np.mean(seen[name])), 1)
        print(json.dumps(line))


if __name__ == "__main__":
    main()
