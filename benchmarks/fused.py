"""Fused pre- and postprocessing beside that of the host, and beside another way to write the same graphs.

    python benchmarks/fused.py [--against OTHER.py] [--frames 3000]
    python benchmarks/fused.py --bundles PLAIN.splite FUSED.splite [--frames 3000]

OTHER.py holds `fuse_input` and `fuse_decode` of its own, which take and return an ``onnx_ir.Model``.

With two bundles of one network, the second with fused pre- and postprocessing, whole estimators are timed: what a call
takes, what its session's inference alone takes, the difference, and how much of that cuts the crop. A box of 120 px is
enlarged; one of 240 px is averaged first, which takes longer. The gain of the fused artifact is the ratio of the calls.

All run in turn in this process, on one thread. Printed are the minimum, which other work on the machine moves least,
and the median.
"""

from __future__ import annotations

import argparse
import runpy
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx  # noqa: TID253
import onnx_ir as ir  # noqa: TID253
import onnxruntime as ort
from onnx import helper  # noqa: TID253

from splite_deploy.bench.interleaved import Run, interleave
from splite_deploy.bundle import Bundle
from splite_deploy.decoders import (
    Argmax,
    Dark,
    Decoder,
    Expectation,
    HeatmapDecoder,
    Offset,
    SoftArgmax,
    SoftArgmaxDepth,
    SoftArgmaxWindow,
    Udp,
    decode,
)
from splite_deploy.export.graph.fuse import fuse_decode, fuse_input
from splite_deploy.export.graph.walk import from_proto, to_proto
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.spec import InputSpec, ModelSpec, SkeletonSpec

Fuse = Callable[[ir.Model, ModelSpec], ir.Model]
Parts = dict[str, tuple[Fuse, Fuse]]
"""`fuse_input` and `fuse_decode` by the name of who wrote them."""
CASES: dict[str, tuple[HeatmapDecoder, int, int, int]] = {
    "softargmax-depth, 21 x 32 x 32": (SoftArgmaxDepth(4.0, "corner", 1.0, 5, 9, "palm", ((0, 9),)), 21, 32, 32),
    "softargmax, udp, 17 x 64 x 48": (SoftArgmax(4.0, "udp", 1.0, 5), 17, 64, 48),
    "softargmax-window, 17 x 64 x 48": (SoftArgmaxWindow(4.0, "centre", 10.0, 9), 17, 64, 48),
    "argmax, 17 x 64 x 48": (Argmax(4.0, "centre", "quarter"), 17, 64, 48),
    "dark, 17 x 64 x 48": (Dark(4.0, "centre", 11), 17, 64, 48),
    "udp, 17 x 64 x 48": (Udp(4.0, "udp", "gaussian", 11), 17, 64, 48),
    "expectation, 17 x 64 x 48": (Expectation(4.0, "centre"), 17, 64, 48),
    "offset, 17 x 17 x 17": (Offset(16.0, "centre", "yyxx", "pixel"), 17, 17, 17),
}
"""Decoder, keypoints, and size of the maps."""
FRAME = 480, 640
SIDES_PX = 120, 240
PARTS = "call", "session", "crop"


def model(decoder: Decoder, keypoints: int, height: int, width: int) -> ModelSpec:
    """A model of which nothing but this matters."""
    image = InputSpec(height, width, "rgb", (123.7, 116.3, 103.5), (58.4, 57.1, 57.4), 1.25, 127)
    return ModelSpec("any", image, decoder, SkeletonSpec(tuple(f"k{i}" for i in range(keypoints)), ()), palm_mm=88.0)


def through(shapes: dict[str, tuple[int, ...]]) -> ir.Model:
    """A graph that gives what it takes, under other names."""
    inputs, outputs = (
        [helper.make_tensor_value_info(f"{way}{role}", onnx.TensorProto.FLOAT, shape) for role, shape in shapes.items()]
        for way in ("in_", "")
    )
    nodes = [helper.make_node("Identity", [f"in_{role}"], [role]) for role in shapes]
    graph = helper.make_graph(nodes, "through", inputs, outputs)
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def run_of(graph: ir.Model, feeds: dict[str, Any]) -> Run:
    """A graph in ONNX Runtime on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(to_proto(graph).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda index: session.run(None, feeds)


def cases(parts: Parts) -> dict[str, dict[str, Run]]:
    """What is timed side by side."""
    rng = np.random.default_rng(0)
    spec = model(CASES["softargmax-depth, 21 x 32 x 32"][0], 21, 128, 128)
    crop, prepare = rng.integers(0, 256, (1, 128, 128, 3), np.uint8), Preprocessor(spec.input, "rgb")
    plain = through({"image": (1, 3, 128, 128)})
    found: dict[str, dict[str, Run]] = {"normalise, 128 x 128": {"host": lambda index: prepare.normalise(crop)}}
    for name, (fuse, _) in parts.items():
        found["normalise, 128 x 128"][name] = run_of(fuse(plain, spec), {"in_image": crop})
    for case, (decoder, keypoints, height, width) in CASES.items():
        spec = model(decoder, keypoints, round(height * decoder.stride), round(width * decoder.stride))
        shapes = decoder.shapes(keypoints, spec.input)
        maps = {role: rng.normal(size=(1, *shape)).astype(np.float32) for role, shape in shapes.items()}  # type: ignore[arg-type]
        found[case] = {"host": lambda index, maps=maps, spec=spec: decode(maps, spec)}  # type: ignore[misc]
        for name, (_, fuse) in parts.items():
            began = time.perf_counter()
            graph = fuse(through({role: values.shape for role, values in maps.items()}), spec)
            took_ms = 1e3 * (time.perf_counter() - began)
            label = f"{name} ({len(graph.graph) - len(maps)} nodes, made in {took_ms:.0f} ms)"
            found[case][label] = run_of(graph, {f"in_{role}": values for role, values in maps.items()})
    return found


@dataclass(frozen=True)
class Cost:
    """What one call of an estimator takes, milliseconds: the minimum and the median."""

    call_ms: tuple[float, float]
    session_ms: tuple[float, float]
    crop_ms: tuple[float, float]

    @property
    def beyond_ms(self) -> tuple[float, float]:
        """What a call takes beyond its session's inference."""
        return self.call_ms[0] - self.session_ms[0], self.call_ms[1] - self.session_ms[1]


def estimator_costs(plain: Bundle, fused: Bundle, side_px: int, frames: int) -> dict[str, dict[str, Cost]]:
    """The artifacts that both bundles hold, with their ends outside and inside, on a box in the middle of a frame.

    Args:
        plain: Without fused pre- and postprocessing.
        fused: With.
        side_px: Of the box.
        frames: Timed calls of each.
    """
    frame = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (*FRAME, 3), np.uint8), (9, 9), 0)
    middle = FRAME[1] / 2, FRAME[0] / 2
    box = np.array([*(c - side_px / 2 for c in middle), *(c + side_px / 2 for c in middle)])
    there = {one.label: one for one in fused.manifest.artifacts}
    labels = [one.label for one in plain.manifest.artifacts if one.label in there]
    runs: dict[str, Run] = {}
    with ExitStack() as stack:
        for label in labels:
            for name, bundle in (("host", plain), ("fused", fused)):
                backend, precision = there[label].backend, there[label].precision
                opened = stack.enter_context(PoseEstimator.open(bundle.path, backend, precision, threads=1))
                tensor, _ = opened.prepare(frame, [box])
                runs.update(_parts(f"{label} {name}", opened, frame, box, {opened.session.inputs[0].name: tensor}))
        timed = interleave(runs, frames)

    def cost(name: str) -> Cost:
        figures = [(float(s.min()), float(np.median(s))) for s in (timed[f"{name} {part}"] for part in PARTS)]
        return Cost(*figures)

    return {label: {name: cost(f"{label} {name}") for name in ("host", "fused")} for label in labels}


def _parts(name: str, opened: PoseEstimator, frame: Any, box: Any, feeds: dict[str, Any]) -> dict[str, Run]:
    parts: tuple[Run, ...] = (
        lambda index: opened(frame, box),
        lambda index: opened.session.run(feeds),
        lambda index: opened.preprocessor.crop(frame, box),
    )
    return {f"{name} {part}": run for part, run in zip(PARTS, parts, strict=True)}


def print_estimators(plain: Bundle, fused: Bundle, frames: int) -> None:
    """Prints `estimator_costs`."""
    for side_px in SIDES_PX:
        print(f"box of {side_px} px; minimum and median, ms")
        for label, costs in estimator_costs(plain, fused, side_px, frames).items():
            for name, cost in costs.items():
                figures = (cost.call_ms, cost.session_ms, cost.beyond_ms, cost.crop_ms)
                call, session, beyond, crop = (f"{least:.3f} {median:.3f}" for least, median in figures)
                print(
                    f"    {label} {name:5s}  call {call}  session {session}  beyond it {beyond}, of which crop {crop}"
                )
            gains = [
                before / after for before, after in zip(costs["host"].call_ms, costs["fused"].call_ms, strict=True)
            ]
            print(f"    {label} fused: {gains[0]:.2f} and {gains[1]:.2f} times as fast as with both ends outside")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="a Python file with fuse_input and fuse_decode")
    parser.add_argument("--frames", type=int, default=3000, help="timed runs of each (default: 3000)")
    parser.add_argument("--bundles", type=Path, nargs=2, metavar=("PLAIN", "FUSED"), help="time whole estimators")
    options = parser.parse_args()
    if options.bundles:
        print_estimators(*map(Bundle.open, options.bundles), options.frames)
        return
    parts: Parts = {"graph": (fuse_input, fuse_decode)}
    if options.against:
        other = runpy.run_path(str(options.against))
        parts[options.against.stem] = other["fuse_input"], other["fuse_decode"]
    for case, runs in cases(parts).items():
        print(case)
        for name, samples in interleave(runs, options.frames).items():
            print(f"    {name:45s} minimum {1e3 * samples.min():7.1f} us, median {1e3 * np.median(samples):7.1f} us")


if __name__ == "__main__":
    main()
