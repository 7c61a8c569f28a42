"""The error budget: what plain int8 breaks is mended layer by layer, and nothing that collapsed passes."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir  # noqa: TID253
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper  # noqa: TID253

from splite_deploy.errors import ExportError, ParityError, UsageError
from splite_deploy.export.graph import walk
from splite_deploy.export.graph.walk import from_proto, run_graph
from splite_deploy.export.quant import search
from splite_deploy.export.quant.precision import to_int8
from splite_deploy.export.quant.ranges import calibrate
from splite_deploy.export.quant.search import Budget, search_within_budget
from splite_deploy.metrics.parity import compare, measure_deviation, violations
from splite_deploy.spec import ModelSpec, load_model_toml

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


def test_a_head_that_int8_ruins_is_saved(spec: ModelSpec) -> None:
    """Steps of 1000 / 255 logits leave nothing of a softmax; 8 bits before a float head do."""
    graph, x = pose_graph(logits=500.0), smooth()
    reference = run_graph(graph, x)
    ranges, budget, told = calibrate(graph, x, "minmax"), Budget(deviation_px=0.5), []
    made, _ = to_int8(graph, x, "ort", quantise_head=True, ranges=ranges)
    plain = measure_deviation(reference, run_graph(made, x), spec)
    assert budget.used(plain) > 1

    options = {"quantise_head": True, "ranges": ranges, "progress": told.append}
    found, report = search_within_budget(graph, x, reference, spec, budget, "ort", **options)
    assert report.plain.parity.deviation_px == plain.parity.deviation_px
    assert budget.used(report.final) <= 1
    assert {row.layer for row in report.excluded} <= set(report.int8.excluded)
    assert "heatmap" in {row.layer for row in report.excluded}
    isolated = [row.isolated_p95_px for row in report.excluded]
    assert isolated[0] == max(isolated)
    assert report.excluded[-1].accumulated_p95_px == report.final.parity.deviation_px.p95
    assert all(row.latency_ms > 0 and row.op == "Conv" for row in report.excluded)
    written = measure_deviation(reference, run_graph(found, x), spec)
    assert written.parity.deviation_px == report.final.parity.deviation_px
    assert told[0] == "every layer in int8" and any("alone: heatmap" in line for line in told)


def test_half_of_the_deviation_is_reached_for_tensorrt_too(spec: ModelSpec) -> None:
    graph, x = pose_graph(layers=6), smooth()
    reference, ranges = run_graph(graph, x), calibrate(graph, x)
    made, _ = to_int8(graph, x, "trt", ranges=ranges)
    budget = Budget(measure_deviation(reference, run_graph(made, x), spec).parity.deviation_px.p95 / 2)
    found, report = search_within_budget(graph, x, reference, spec, budget, "trt", ranges=ranges)
    assert budget.used(report.plain) > 1 >= budget.used(report.final)
    assert 0 < len(report.excluded) < 8
    assert not any(value.dtype == ir.DataType.INT32 for value in found.graph.initializers.values())


def test_a_budget_that_holds_returns_nothing(spec: ModelSpec) -> None:
    graph, x = pose_graph(), smooth(4)
    reference = run_graph(graph, x)
    _, report = search_within_budget(graph, x, reference, spec, Budget(20.0), "ort")
    assert report.excluded == () and report.plain == report.final
    assert set(report.int8.excluded) == {"heatmap", "depth"}


def test_a_hopeless_budget_is_an_error(spec: ModelSpec) -> None:
    graph, x = pose_graph(), smooth(4)
    reference = run_graph(graph, x)
    with pytest.raises(ParityError, match=r"only one layer in int8 the budget is still exceeded: .*1e-06\)") as raised:
        search_within_budget(graph, x, reference, spec, Budget(1e-6, 1e-6), "ort")
    assert "fp16" in raised.value.hint


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


def test_budgets_are_checked(spec: ModelSpec) -> None:
    for values in ((), (0.0,), (None, -1.0), (float("nan"),)):
        with pytest.raises(UsageError, match="positive number") as raised:
            Budget(*values)  # type: ignore[arg-type]
        assert raised.value.hint
    graph, x = pose_graph(), smooth(2)
    reference = run_graph(graph, x)
    deviation = measure_deviation(reference, reference, dataclasses.replace(spec, palm_mm=None))
    with pytest.raises(UsageError, match="no depth in millimetres"):
        Budget(depth_mm=1.0).used(deviation)
    made, _ = to_int8(graph, x, "ort")
    with pytest.raises(ExportError, match="brings its own quantisation"):
        search_within_budget(made, x, reference, spec, Budget(1.0), "ort")


def test_the_maximum_may_be_six_times_the_budget(spec: ModelSpec) -> None:
    from splite_deploy.bundle import Parity, Percentiles
    from splite_deploy.metrics.parity import Deviation

    parity = Parity("torch", "a", 1, "", {}, Percentiles(0.1, 0.5, 5.9), Percentiles(0.0, 1.0, 9.0), "mm")
    assert Budget(deviation_px=1.0).used(Deviation(parity, 0)) == pytest.approx(5.9 / 6)
    assert Budget(deviation_px=0.4).used(Deviation(parity, 0)) == pytest.approx(5.9 / 2.4)
    assert Budget(depth_mm=2.0).used(Deviation(parity, 0)) == pytest.approx(0.75)
    far = dataclasses.replace(parity, deviation_px=Percentiles(0.1, 0.9, 1.0))
    assert Budget(deviation_px=1.0, depth_mm=100.0).used(Deviation(far, 0)) == pytest.approx(0.9)


def test_the_graph_is_converted_never_and_its_layers_are_listed_once(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, x = pose_graph(layers=20), smooth(2)
    reference, calls = run_graph(graph, x), Counter[str]()

    def counted(module: Any, name: str) -> None:
        function = getattr(module, name)

        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return function(*arguments)

        monkeypatch.setattr(module, name, call)

    counted(search, "layers")
    counted(search, "named_nodes")
    counted(walk, "from_proto")
    with pytest.raises(ParityError):
        search_within_budget(graph, x, reference, spec, Budget(1e-6), "ort")
    assert calls == {"layers": 1, "named_nodes": 1}


def test_many_layers_do_not_take_long(spec: ModelSpec) -> None:
    graph, x = pose_graph(layers=20), smooth(8)
    reference = run_graph(graph, x)
    start = time.process_time()
    with pytest.raises(ParityError):
        search_within_budget(graph, x, reference, spec, Budget(1e-6), "ort")
    assert time.process_time() - start < 30
