"""Mixed precision: what plain int8 breaks is mended layer by layer, and nothing that collapsed passes."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir  # noqa: TID253
import pytest
from int8_cpu import EXACT_INT8
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper  # noqa: TID253

from splite_deploy.bundle import Parity, Percentiles
from splite_deploy.errors import CompileError, ParityError
from splite_deploy.export.graph.walk import from_proto, run_graph
from splite_deploy.export.quant.candidates import OnnxCandidates
from splite_deploy.export.quant.precision import to_int8
from splite_deploy.export.quant.qdq import Consumer
from splite_deploy.export.quant.ranges import calibrate
from splite_deploy.export.quant.search import Found, Goal, Network, keep_limits
from splite_deploy.export.reference import Reference
from splite_deploy.metrics.parity import MAX_FACTOR, compare, measure_deviation, share_used, violations
from splite_deploy.spec import LimitSpec, ModelSpec, load_model_toml
from splite_deploy.text import Part

Array = NDArray[np.float32]
SIZE = (64, 48)  # of the tiny model, whose spec is used


@pytest.fixture
def spec(tiny_model: Path) -> ModelSpec:
    return load_model_toml(tiny_model)[0]


def smooth(count: int = 12) -> Array:
    """Crops with one bright blob each, at different places."""
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[: SIZE[0], : SIZE[1]]
    found = []
    for _ in range(count):
        y, x = rng.uniform(12, SIZE[0] - 12), rng.uniform(12, SIZE[1] - 12)
        blob = np.exp(-((ys - y) ** 2 + (xs - x) ** 2) / 60)
        found.append(np.stack([blob, blob * 0.5, -blob]) + rng.normal(0, 0.02, (3, *SIZE)))
    return np.stack(found).astype(np.float32)


def pose_graph(*, logits: float = 20.0, layers: int = 2) -> ir.Model:
    """Convolutions of stride 2 and 2, ``layers`` between, and two heads whose logits span about ``logits``."""
    rng = np.random.default_rng(1)
    constants: dict[str, Any] = {}
    nodes, name, channels = [], "image", 3
    for index in range(2 + layers):
        stride = 2 if index < 2 else 1
        constants[f"w{index}"] = np.abs(rng.normal(0, 1, (8, channels, 3, 3))) / (9 * channels) ** 0.5
        constants[f"b{index}"] = rng.normal(0, 0.02, 8)
        inputs = [name, f"w{index}", f"b{index}"]
        nodes.append(
            helper.make_node("Conv", inputs, [f"c{index}"], f"conv{index}", strides=[stride] * 2, pads=[1, 1, 1, 1])
        )
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"], f"relu{index}"))
        name, channels = f"r{index}", 8
    for head in ("heatmap", "depth"):
        constants[f"w_{head}"] = np.abs(rng.normal(0, 1, (5, 8, 1, 1)))
        constants[f"b_{head}"] = np.zeros(5)
        nodes.append(helper.make_node("Conv", [name, f"w_{head}", f"b_{head}"], [head], head))
    shape = [1, 5, SIZE[0] // 4, SIZE[1] // 4]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, *SIZE])],
        [helper.make_tensor_value_info(head, TensorProto.FLOAT, shape) for head in ("heatmap", "depth")],
        [numpy_helper.from_array(value.astype(np.float32), key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    largest = np.abs(run_graph(from_proto(model), smooth())["heatmap"]).max()
    for tensor in model.graph.initializer:
        if tensor.name == "w_heatmap":
            scaled = numpy_helper.to_array(tensor) * np.float32(logits / largest)
            tensor.CopyFrom(numpy_helper.from_array(scaled, "w_heatmap"))
    return from_proto(model)


@pytest.fixture
def goal(spec: ModelSpec) -> Callable[..., Goal]:
    """What a graph has to keep on these crops: a limit of p95 and six times as much, and any depth."""

    def make(graph: ir.Model, crops: Array, px: float, depth: float | None = None, **options: Any) -> Goal:
        # Pixels that the preprocessing makes these crops of are not needed: nothing here has a session
        reference = Reference(
            "onnx", spec, np.zeros((len(crops), *SIZE, 3), np.uint8), run_graph(graph, crops), "blobs"
        )
        vars(reference)["tensors"] = crops
        limits = LimitSpec(px, MAX_FACTOR * px, 1000.0 if depth is None else depth)
        if depth is None:  # the depth of random weights is larger than a spec may allow
            object.__setattr__(limits, "depth_p95", float("inf"))
        return Goal(reference, limits, **options)

    return make


def deviation(goal: Goal, graph: ir.Model, consumer: Consumer = "ort") -> Parity:
    found = run_graph(graph, goal.reference.tensors, optimise=consumer == "ort")
    return goal.reference.measure("", found).parity


@pytest.mark.parametrize("consumer", ["ort", "trt"])
def test_half_of_the_deviation_is_reached(goal: Callable[..., Goal], consumer: Consumer) -> None:
    graph, x, told = pose_graph(layers=6), smooth(), []
    candidates = OnnxCandidates(graph, calibrate(graph, x), consumer)
    plain, report = candidates.make(())
    wanted = goal(graph, x, 100.0)
    half = deviation(wanted, plain, consumer).deviation_px.p95 / 2
    wanted = goal(graph, x, half, progress=told.append)
    found = keep_limits(candidates, wanted, "an int8 graph")
    record = found.record
    assert record is not None and record.artifact == "an int8 graph" and record.layers == 8
    assert 0 < len(found.floats) < 8 and found.floats == tuple(one.layer for one in record.excluded)
    assert record.plain.deviation_px == deviation(wanted, plain, consumer).deviation_px
    made, mixed_report = candidates.make(found.floats)
    assert record.mixed.deviation_px == deviation(wanted, made, consumer).deviation_px
    assert record.mixed.deviation_px.p95 <= 0.95 * half < record.plain.deviation_px.p95
    assert set(found.floats) <= set(mixed_report.excluded) and not set(found.floats) & set(report.excluded)
    assert all(one.op == "Conv" and one.isolated_p95_px > 0 for one in record.excluded)
    assert record.plain.latency_ms > 0 and record.mixed.latency_ms > 0
    assert told[0] == "an int8 graph breaks its limits: looking for the layers that have to stay in float"
    assert told[1:9] == [f"what layer {number} of 8 costs" for number in range(1, 9)]
    assert all(isinstance(one, Part) for one in told[1:]) and not isinstance(told[0], Part)
    assert "whether 1 of 8 in float are enough" in told
    # the heads stay in float with any mixture
    assert {"heatmap", "depth"} <= set(report.excluded) & set(mixed_report.excluded)


def test_what_keeps_its_limits_is_not_searched(goal: Callable[..., Goal]) -> None:
    graph, x, told = pose_graph(), smooth(4), []
    candidates = OnnxCandidates(graph, calibrate(graph, x), "ort")
    assert keep_limits(candidates, goal(graph, x, 20.0, progress=told.append), "int8") == Found()
    assert told == []


def test_what_broke_is_told_with_its_figures(goal: Callable[..., Goal]) -> None:
    graph, x = pose_graph(), smooth(4)
    candidates = OnnxCandidates(graph, calibrate(graph, x), "ort")
    with pytest.raises(ParityError) as raised:
        keep_limits(candidates, goal(graph, x, 1e-6, 1e-6, hint="do this"), "ort int8")
    told = raised.value.message
    assert told.startswith(
        "ort int8 breaks its limits on 4 crops with only one of 4 layers in int8: keypoint deviation"
    )
    assert re.search(r"deviation p95 0\.\d+ px \(limit 1e-06\); keypoint deviation max 0\.\d+ px \(limit 6e-06\)", told)
    assert re.search(r"; depth deviation p95 [\d.]+ mm \(limit 9e-05\)\.", told)
    assert told.endswith("The maximum may be 6 times the limit of p95.")
    assert raised.value.hint == "do this"


def test_depth_alone_can_rule_layers_out(goal: Callable[..., Goal]) -> None:
    graph, x = pose_graph(layers=6), smooth()
    candidates = OnnxCandidates(graph, calibrate(graph, x), "ort")
    depth = deviation(goal(graph, x, 100.0), candidates.make(())[0]).depth
    assert depth is not None
    wanted = goal(graph, x, 100.0, depth.p95 / 90 / 2)  # palms
    record = keep_limits(candidates, wanted, "int8").record
    assert record is not None and record.mixed.depth is not None and record.excluded
    assert record.mixed.depth.p95 <= depth.p95 / 2


def test_a_layer_that_int8_ruins_goes_first(goal: Callable[..., Goal]) -> None:
    """One channel a thousand times as large leaves the others nothing of 8 bits."""
    graph, x = pose_graph(layers=6), smooth()
    for name in ("w4", "b4"):
        value = graph.graph.initializers[name]
        array = value.const_value.numpy().copy()
        array[0] = array[0] * 1000
        value.const_value = ir.tensor(array, name=name)
    following = graph.graph.initializers["w5"]
    array = following.const_value.numpy().copy()
    array[:, 0] /= 1000
    following.const_value = ir.tensor(array, name="w5")
    candidates = OnnxCandidates(graph, calibrate(graph, x, "minmax"), "ort")
    found = keep_limits(candidates, goal(graph, x, 0.5), "int8")
    assert found.record is not None and len(found.floats) <= 2
    assert found.record.excluded[0].layer in ("conv4", "conv5")  # who makes that tensor, or who reads it


@EXACT_INT8
def test_a_search_may_start_with_layers_in_float(goal: Callable[..., Goal]) -> None:
    graph, x = pose_graph(layers=6), smooth()
    candidates = OnnxCandidates(graph, calibrate(graph, x), "ort")
    half = deviation(goal(graph, x, 100.0), candidates.make(())[0]).deviation_px.p95 / 2
    first = keep_limits(candidates, goal(graph, x, half), "int8")
    assert keep_limits(candidates, goal(graph, x, half), "int8", first.floats) == Found(first.floats)
    tighter = keep_limits(candidates, goal(graph, x, 0.7 * half), "int8", first.floats)
    assert tighter.floats[: len(first.floats)] == first.floats and len(tighter.floats) > len(first.floats)
    assert tighter.record is not None and len(tighter.record.excluded) == len(tighter.floats) - len(first.floats)
    assert tighter.record.layers == 8 - len(first.floats)


def test_calibration_on_black_crops_is_detected(spec: ModelSpec) -> None:
    """The graph is valid and runs; only the keypoints tell."""
    graph, x = pose_graph(), smooth()
    black = np.full_like(x[:2], -2.0)
    blind, _ = to_int8(graph, black, "ort")
    reference, candidate = run_graph(graph, x), run_graph(blind, x)
    parity = compare("fp32 -> int8", reference, candidate, spec, "crops")
    assert any("keypoint deviation p95" in text for text in violations(parity, spec.limits, spec))
    assert parity.deviation_px.max > 5
    assert measure_deviation(reference, candidate, spec).peak_switches > 0
    good, _ = to_int8(graph, x, "ort")
    assert (
        measure_deviation(reference, run_graph(good, x), spec).parity.deviation_px.max < 0.2 * parity.deviation_px.max
    )


def test_a_jump_to_another_mode_is_counted(spec: ModelSpec) -> None:
    heatmap = np.zeros((1, 5, 16, 12), np.float32)
    heatmap[..., 4, 4] = 10.0
    moved = heatmap.copy()
    moved[0, 0, 4, 4], moved[0, 0, 4, 7] = 0.0, 10.0  # three cells: another mode
    moved[0, 1, 4, 4], moved[0, 1, 6, 4] = 0.0, 10.0  # two: its neighbourhood
    depth = np.zeros_like(heatmap)
    reference, candidate = {"heatmap": heatmap, "depth": depth}, {"heatmap": moved, "depth": depth}
    assert measure_deviation(reference, candidate, spec).peak_switches == 1
    assert measure_deviation(reference, reference, spec).peak_switches == 0


def test_the_largest_share_of_a_limit_counts(spec: ModelSpec) -> None:
    parity = Parity("torch", "a", 1, "", {}, Percentiles(0.1, 0.5, 5.9), Percentiles(0.0, 1.0, 9.0), "mm")
    assert share_used(parity, LimitSpec(1.0, 6.0, 1.0), spec) == pytest.approx(5.9 / 6)
    assert share_used(parity, LimitSpec(0.4, 60.0, 1.0), spec) == pytest.approx(0.5 / 0.4)
    assert share_used(parity, LimitSpec(10.0, 60.0, 2 / 90), spec) == pytest.approx(0.5)  # a palm is 90 mm
    flat = dataclasses.replace(parity, depth=None, depth_unit="")
    assert share_used(flat, LimitSpec(1.0, 60.0, None), spec) == pytest.approx(0.5)


def test_each_mixture_is_compared_once(goal: Callable[..., Goal]) -> None:
    graph, x, opened = pose_graph(layers=20), smooth(4), []
    candidates = OnnxCandidates(graph, calibrate(graph, x), "ort")

    class Counted:
        layers = candidates.layers

        def open(self, floats: Collection[str]) -> AbstractContextManager[Network]:
            opened.append(frozenset(floats))
            return candidates.open(floats)

    half = deviation(goal(graph, x, 100.0), candidates.make(())[0]).deviation_px.p95 / 2
    found = keep_limits(Counted(), goal(graph, x, half), "int8")
    assert found.record is not None
    assert Counter(opened)[frozenset()] == Counter(opened)[frozenset(found.floats)] == 2  # to compare, and to time
    assert len(opened) <= 1 + 22 + 12 + 8 + 2  # plain, each layer alone, by halves, spared, timed
    assert max(Counter(opened).values()) == 2


def test_a_layer_that_is_in_float_wherever_its_neighbours_are_costs_nothing(goal: Callable[..., Goal]) -> None:
    """TFLite's compiler makes no file in which it would be the only one in int8."""
    graph, x = pose_graph(layers=6), smooth()
    candidates = OnnxCandidates(graph, calibrate(graph, x), "ort")

    class Joined:
        layers = candidates.layers

        def open(self, floats: Collection[str]) -> AbstractContextManager[Network]:
            if not set(self.layers) - set(floats) - {"conv2"}:
                raise CompileError("no convolution remains to quantise.")
            return candidates.open(floats)

    half = deviation(goal(graph, x, 100.0), candidates.make(())[0]).deviation_px.p95 / 2
    found = keep_limits(Joined(), goal(graph, x, half), "int8")
    assert found.floats and "conv2" not in found.floats
