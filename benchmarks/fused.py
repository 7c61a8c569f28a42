"""Fused pre- and postprocessing beside that of the host, and beside another way to write the same graphs.

    python benchmarks/fused.py [--against OTHER.py] [--frames 3000]

OTHER.py holds `fuse_input` and `fuse_decode` of its own, which take and return an ``onnx_ir.Model``.

All run in turn in this process; graphs in ONNX Runtime on one thread. Printed are the minimum, which other work on the
machine moves least, and the median.
"""

from __future__ import annotations

import argparse
import runpy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx  # noqa: TID253
import onnx_ir as ir  # noqa: TID253
import onnxruntime as ort
from onnx import helper  # noqa: TID253

from splite_deploy.bench.interleaved import Run, interleave
from splite_deploy.decoders import Decoder, HeatmapDecoder, SoftArgmax, SoftArgmaxDepth, SoftArgmaxWindow, decode
from splite_deploy.export.graph.fuse import fuse_decode, fuse_input
from splite_deploy.export.graph.walk import from_proto, to_proto
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.spec import InputSpec, ModelSpec, SkeletonSpec

Fuse = Callable[[ir.Model, ModelSpec], ir.Model]
Parts = dict[str, tuple[Fuse, Fuse]]
"""`fuse_input` and `fuse_decode` by the name of who wrote them."""
CASES: dict[str, tuple[HeatmapDecoder, int, int, int]] = {
    "softargmax-depth, 21 x 32 x 32": (SoftArgmaxDepth(4.0, 1.0, "corner", 5, 9, "palm", ((0, 9),)), 21, 32, 32),
    "softargmax, udp, 17 x 64 x 48": (SoftArgmax(4.0, 1.0, "udp", 5), 17, 64, 48),
    "softargmax-window, 17 x 64 x 48": (SoftArgmaxWindow(4.0, 10.0, "centre", 9), 17, 64, 48),
}
"""Decoder, keypoints, and size of the maps."""


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
        maps = {role: rng.normal(size=(1, keypoints, height, width)).astype(np.float32) for role in decoder.roles}
        found[case] = {"host": lambda index, maps=maps, spec=spec: decode(maps, spec)}  # type: ignore[misc]
        for name, (_, fuse) in parts.items():
            began = time.perf_counter()
            graph = fuse(through({role: values.shape for role, values in maps.items()}), spec)
            took_ms = 1e3 * (time.perf_counter() - began)
            label = f"{name} ({len(graph.graph) - len(maps)} nodes, made in {took_ms:.0f} ms)"
            found[case][label] = run_of(graph, {f"in_{role}": values for role, values in maps.items()})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="a Python file with fuse_input and fuse_decode")
    parser.add_argument("--frames", type=int, default=3000, help="timed runs of each (default: 3000)")
    options = parser.parse_args()
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
