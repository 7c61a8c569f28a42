"""TFLite's int8 of several bundles of one network on photographs: how far keypoints move, and latency in turn.

    python benchmarks/tflite_int8.py hand.splite other.splite --data HAND_DIGITS

With a bundle that another version of splite-deploy made, this compares quantisers: up to 0.2.0 it was TensorFlow's.
Deviations are those from the first bundle's float32 file, in percent of the longer side of the tight box of the labels.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from splite_deploy.arrays import FloatArray
from splite_deploy.bench.interleaved import interleave
from splite_deploy.bundle import Bundle
from splite_deploy.decoders import decode
from splite_deploy.errors import SpliteError
from splite_deploy.metrics.accuracy import box_side, keypoint_error
from splite_deploy.metrics.labels import read_labels
from splite_deploy.runtime.io.images import read_image
from splite_deploy.runtime.preprocess import Preprocessor, invert, transform_points
from splite_deploy.runtime.session import Session, open_session
from splite_deploy.runtime.verify import run_each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", help="bundles of one network; the first has tflite fp32")
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled photographs (labels.json)")
    parser.add_argument("--frames", type=int, default=500, help="timed runs of each")
    options = parser.parse_args()
    try:
        with ExitStack() as stack:
            compared(options.bundles, options.data, options.frames, stack)
    except SpliteError as err:
        sys.exit(f"error: {err}")


def compared(bundles: list[Path], data: Path, frames: int, stack: ExitStack) -> None:
    """Prints the table."""

    def opened(path: Path, precision: str) -> Session:
        return stack.enter_context(open_session(Bundle.open(path), backend="tflite", precision=precision, threads=1))

    sessions = {"fp32": opened(bundles[0], "fp32"), **{path.name: opened(path, "int8") for path in bundles}}
    spec, labels = Bundle.open(bundles[0]).model, read_labels(data, split="val")
    preprocessor = Preprocessor(spec.input, "rgb")
    cut = [preprocessor.crop(cv2.cvtColor(read_image(one.path), cv2.COLOR_BGR2RGB), one.box) for one in labels]
    tensors = preprocessor.normalise([crop for crop, _ in cut])
    truth = np.stack([one.keypoints for one in labels])
    sides = box_side(truth)[:, None]
    found = {}
    for name, session in sessions.items():
        keypoints = decode(run_each(session, tensors, spec), spec).keypoints.astype(np.float64)
        found[name] = np.stack([transform_points(k, invert(m)) for k, (_, m) in zip(keypoints, cut, strict=True)])
    image = sessions["fp32"].inputs[0].name
    runs = {name: partial(_run, session, {image: tensors[:1]}) for name, session in sessions.items()}
    taken_ms = interleave(runs, frames)
    table = Table("", "error %", "deviation p95 %", "max %", "p50 ms", "minimum ms")
    for name, keypoints in found.items():
        moved = 100 * keypoint_error(keypoints, found["fp32"]) / sides
        error = 100 * float((keypoint_error(keypoints, truth) / sides).mean())
        times = taken_ms[name]
        figures = [error, float(np.percentile(moved, 95)), float(moved.max())]
        row = [*(f"{figure:.3f}" for figure in figures), f"{np.median(times):.4f}", f"{times.min():.4f}"]
        table.add_row(name, *row)
    Console().print(table)
    print(f"{len(labels)} photographs, {frames} runs in turn on one thread")


def _run(session: Session, feeds: dict[str, FloatArray], index: int) -> object:
    return session.run(feeds)


if __name__ == "__main__":
    main()
