"""float16 and int8 graphs: what they compute in, what each consumer asks for, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx  # noqa: TID253
import onnx_ir as ir  # noqa: TID253
import pytest
from graphs import export_net
from int8_cpu import EXACT_INT8
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper  # noqa: TID253

from splite_deploy.errors import BackendError, ExportError, UsageError
from splite_deploy.export.graph.walk import (
    attributes,
    constant,
    from_proto,
    load,
    named_nodes,
    readers,
    run_graph,
    save,
    sizes,
    to_proto,
)
from splite_deploy.export.quant.engine_graphs import rounding_to_nearest, to_int8_fp16
from splite_deploy.export.quant.precision import to_fp16, to_int8
from splite_deploy.export.quant.qdq import output_channels, prepare
from splite_deploy.export.quant.ranges import METHODS, calibrate

torch = pytest.importorskip("torch")
pytest.importorskip("onnxsim")

Array = NDArray[np.float32]
GraphOf = Callable[[str], ir.Model]

INT8_NETS = ["mobile", "shuffle", "se", "unet", "fuse", "pixel-shuffle", "masked", "tied", "grouped"]
ISLANDS = {
    "mobile": ["Add", "ReduceMean"],
    "unet": ["ConvTranspose"],
    "grouped": ["Add", "BatchNormalization", "ConvTranspose", "ConvTranspose", "Mul", "PRelu"],
}
"""Operators that ONNX Runtime runs in float: it has no int8 kernel of them, or a neighbour has none."""


def crops(count: int = 8, size: int = 16) -> Array:
    return np.random.default_rng(0).standard_normal((count, 3, size, size)).astype(np.float32)


@pytest.fixture(scope="module")
def graph_of() -> GraphOf:
    """The graph of one of tests/shared/nets.py, exported once."""
    made: dict[str, ir.Model] = {}

    def find(name: str) -> ir.Model:
        if name not in made:
            made[name] = export_net(nets.randomised(nets.NETS[name]()))
        return made[name]

    return find


def conv_graph(
    *, weight: float = 0.1, bias: bool = True, after: tuple[str, ...] = (), batch: int | str = 1
) -> ir.Model:
    """image -> Conv 1x1 -> the operators of ``after`` -> Conv 1x1 -> heatmap, the first one of ``weight``."""
    nodes, name = [], "image"
    constants = {"w0": np.full((4, 3, 1, 1), weight), "w1": np.full((5, 4, 1, 1), 0.1), "b": np.full(4, 0.01)}
    nodes.append(helper.make_node("Conv", [name, "w0", *(["b"] if bias else [])], ["c0"], "first"))
    name = "c0"
    for index, op in enumerate(after):
        nodes.append(helper.make_node(op, [name], [f"x{index}"], f"{op}{index}"))
        name = f"x{index}"
    nodes.append(helper.make_node("Conv", [name, "w1"], ["heatmap"], "last"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("heatmap", TensorProto.FLOAT, [batch, 5, 8, 8])],
        [
            numpy_helper.from_array(value.astype(np.float32), key)
            for key, value in constants.items()
            if bias or key != "b"
        ],
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


# --- calibration


def test_ranges_hold_what_was_seen_and_zero() -> None:
    graph = conv_graph(after=("Relu",), batch="batch")
    x = np.abs(crops(20, 8)) + 1
    ranges = calibrate(graph, x)
    assert ranges.extremes["image"] == (pytest.approx(float(x.min())), pytest.approx(float(x.max())))
    assert ranges.limits["image"] == (0.0, pytest.approx(float(x.max())))
    np.testing.assert_allclose(ranges.means["image"], x.mean((0, 2, 3)), rtol=1e-5)
    assert ranges.shapes["image"] == (3, 8, 8)


@pytest.mark.parametrize("method", METHODS)
def test_a_static_batch_and_a_dynamic_one_give_the_same_ranges(method: Any) -> None:
    static, dynamic = conv_graph(), conv_graph(batch="batch")
    found = [calibrate(graph, crops(11, 8), method) for graph in (static, dynamic)]
    assert found[0].limits.keys() == found[1].limits.keys()
    for name, limits in found[0].limits.items():
        assert limits == pytest.approx(found[1].limits[name], rel=1e-4)


def test_percentile_clips_an_outlier() -> None:
    graph, x = conv_graph(batch="batch"), crops(2000, 8)
    x[0, 0, 0, 0] = 300.0
    assert calibrate(graph, x).limits["image"][1] == 300.0
    low, high = calibrate(graph, x, "percentile").limits["image"]
    assert 3 < high < 10
    assert -10 < low < -3


def test_mse_has_less_squared_error_than_the_whole_range() -> None:
    graph, x = conv_graph(batch="batch"), crops(200, 8) ** 5

    def error(low: float, high: float) -> float:
        step = (high - low) / 255
        return float(np.square(np.round((np.clip(x, low, high) - low) / step) * step + low - x).mean())

    whole, chosen = (calibrate(graph, x, method) for method in ("minmax", "mse"))  # type: ignore[arg-type]
    assert error(*chosen.limits["image"]) <= error(*whole.limits["image"])
    assert chosen.magnitudes["image"] <= whole.magnitudes["image"]


def test_calibration_refuses_what_does_not_fit(tmp_path: Path) -> None:
    graph = conv_graph()
    with pytest.raises(UsageError, match="'best' is not a calibration method") as raised:
        calibrate(graph, crops(2, 8), "best")  # type: ignore[arg-type]
    assert "minmax, percentile, entropy, mse" in raised.value.hint
    with pytest.raises(ExportError, match=r"float32 crops \(N, 3, 8, 8\), not float32 \(2, 3, 9, 9\)"):
        calibrate(graph, crops(2, 9))
    with pytest.raises(ExportError, match=r"not float32 \(0, 3, 8, 8\)"):
        calibrate(graph, crops(0, 8))
    with pytest.raises(ExportError, match="hold NaN or infinity") as raised_nan:
        calibrate(graph, np.full((1, 3, 8, 8), np.nan, np.float32))
    assert "mean and std" in raised_nan.value.hint
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(BackendError, match="is no ONNX graph, or a damaged one"):
        load(tmp_path / "bad.onnx")


def test_a_network_that_overflows_in_float32_is_named() -> None:
    graph = conv_graph(weight=1e38)
    with pytest.raises(ExportError, match="'c0', made by first, is not finite in float32"):
        calibrate(graph, np.full((1, 3, 8, 8), 100, np.float32))


# --- float16


@pytest.mark.parametrize("name", ["se", "unet", "fuse", "pixel-shuffle"])
def test_float16_keeps_types_and_results(graph_of: GraphOf, name: str) -> None:
    graph = graph_of(name)
    model, report = to_fp16(graph, crops())
    assert report.float16
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.dtype == ir.DataType.FLOAT
    before, after = run_graph(graph, crops()), run_graph(model, crops())
    for key, value in before.items():
        assert np.abs(after[key] - value).max() < 0.02 * np.abs(value).max()


def test_float16_leaves_large_activations_in_float32() -> None:
    graph = conv_graph(weight=5000.0, after=("Sigmoid",))
    _, report = to_fp16(graph, crops(4, 8))
    reasons = {kept.node: kept.reason for kept in report.excluded}
    assert set(reasons) == {"first", "Sigmoid0"}
    assert "'c0' reaches" in reasons["first"] and "over 8188" in reasons["first"]


def test_float16_sees_the_sum_inside_a_mean() -> None:
    x = np.full((2, 3, 8, 8), 1000.0, np.float32)
    model = conv_graph(after=("GlobalAveragePool",))
    model.graph.outputs[0].shape = ir.Shape([1, 5, 1, 1])
    _, report = to_fp16(model, x)
    assert [(kept.op, kept.reason[:18]) for kept in report.excluded] == [("GlobalAveragePool", "it sums up to 1.92")]
    assert report.float32 == {"GlobalAveragePool": 1}
    assert report.float16 == {"Conv": 2}


def test_float16_that_stays_float32_is_refused() -> None:
    graph = conv_graph(weight=1e-9, bias=False)
    x = np.full((1, 3, 8, 8), 1e-6, np.float32)
    with pytest.raises(ExportError, match=r"every node stays in float32: first \('image' stays below 1e-06") as raised:
        to_fp16(graph, x)
    assert raised.value.hint


def test_the_first_node_with_infinity_is_named() -> None:
    graph = conv_graph(weight=500.0, after=("Relu",))
    quietly = calibrate(graph, crops(2, 8))
    with pytest.raises(ExportError, match=r"the node first \(Conv\) is the first to give NaN or infinity") as raised:
        to_fp16(graph, np.full((1, 3, 8, 8), 100, np.float32), ranges=quietly)
    assert "more images with --calibration" in raised.value.hint


# --- int8


@pytest.mark.parametrize("name", INT8_NETS)
@pytest.mark.parametrize("consumer", ["ort", "trt"])
def test_int8_of_every_network(graph_of: GraphOf, name: str, consumer: Any) -> None:
    graph = graph_of(name)
    made, report = to_int8(graph, crops(), consumer, method="minmax")
    before, after = run_graph(graph, crops()), run_graph(made, crops())
    for key, value in before.items():
        assert np.abs(after[key] - value).mean() < 0.1 * np.abs(value).max()
    if consumer == "ort":
        assert report.nodes["QLinearConv"] == sum("Conv" in name for name in _weighted(graph, report.quantised))
        present = {node.op_type for node in graph.graph}  # of onnxsim 0.8 without the Mul of LayerScale
        assert sorted(report.float_islands.values()) == [op for op in ISLANDS.get(name, []) if op in present]
    else:
        assert_fits_tensorrt(made)


def _weighted(graph: ir.Model, names: tuple[str, ...]) -> list[str]:
    nodes = named_nodes(prepare(graph).graph)
    return [name for name in names if nodes[name].op_type == "Conv"]


def assert_fits_tensorrt(model: ir.Model) -> None:
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constant(node.inputs[2])
            assert zero is not None and zero.dtype == np.int8 and not zero.any()
        if node.op_type == "DequantizeLinear" and (stored := constant(node.inputs[0])) is not None:
            assert stored.dtype == np.int8


def constants(model: ir.Model) -> dict[str, Any]:
    return {name: constant(value) for name, value in model.graph.initializers.items()}


def test_both_graphs_share_the_weights_and_differ_where_the_consumers_do(graph_of: GraphOf) -> None:
    graph, found = graph_of("se"), {}
    ranges = calibrate(graph, crops())
    for consumer in ("ort", "trt"):
        made, _ = to_int8(graph, crops(), consumer, ranges=ranges)  # type: ignore[arg-type]
        found[consumer] = constants(made)
    assert any(value.dtype == np.int32 for value in found["ort"].values())
    assert not any(value.dtype == np.int32 for value in found["trt"].values())
    weights = [name for name in found["trt"] if name.endswith("weight_quantized")]
    for name in weights:
        assert np.abs(found["ort"][name].astype(int) - found["trt"][name]).max() <= 1
        scale = found["trt"][name.replace("_quantized", "_scale")]
        assert scale.shape == found["trt"][name].shape[:1]  # one per output channel
        assert np.abs(found["trt"][name].reshape(len(scale), -1)).max(axis=1).min() == 127
    assert weights
    for node in made.graph:
        if node.op_type == "DequantizeLinear" and node.inputs[0].name in weights:
            assert attributes(node) == {"axis": 0}


def test_the_head_is_found_by_position_and_stays_float(graph_of: GraphOf) -> None:
    graph = graph_of("fuse")
    heads = [node.name for node in graph.graph if {value.name for value in node.outputs} & {"41", *outputs(graph)}]
    _, report = to_int8(graph, crops(), "ort")
    assert set(report.excluded) == set(heads) and len(heads) == 2
    _, whole = to_int8(graph, crops(), "ort", quantise_head=True)
    assert whole.excluded == () and set(heads) <= set(whole.quantised)
    assert "Conv" not in whole.nodes


def outputs(graph: ir.Model) -> set[str | None]:
    return {value.name for value in graph.graph.outputs}


def test_the_graph_that_is_given_stays_as_it_is(graph_of: GraphOf) -> None:
    graph = graph_of("se")
    before = to_proto(graph)
    to_fp16(graph, crops())
    for consumer in ("ort", "trt"):
        quantised, _ = to_int8(graph, crops(), consumer)  # type: ignore[arg-type]
        between = to_proto(quantised)
        to_int8(quantised, crops(), consumer)  # type: ignore[arg-type]
        if consumer == "trt":
            rounding_to_nearest(to_int8_fp16(quantised, ()))
        assert to_proto(quantised) == between
    assert to_proto(graph) == before


def test_float_nodes_stay_float(graph_of: GraphOf) -> None:
    graph = graph_of("pixel-shuffle")
    first = graph.graph[0].name
    _, report = to_int8(graph, crops(), "ort", exclude=[first])
    assert first in report.excluded and first not in report.quantised
    assert report.nodes["Conv"] + report.nodes.get("FusedConv", 0) == 2
    with pytest.raises(UsageError, match="The graph has no node missing") as raised:
        to_int8(graph, crops(), "ort", exclude=["missing"])
    assert first in raised.value.hint


def test_nothing_left_to_quantise_is_refused() -> None:
    graph = conv_graph()
    with pytest.raises(ExportError, match="no layer with weights remains to quantise") as raised:
        to_int8(graph, crops(2, 8), "ort", exclude=["first"])
    assert "fp16" in raised.value.hint


def test_a_hard_sigmoid_is_no_island() -> None:
    """It lends its slope to the convolution before it; the results stay the same."""
    graph = conv_graph(weight=2.0, after=("HardSigmoid",))
    prepared = prepare(graph)
    assert [node.op_type for node in prepared.graph] == ["Conv", "Clip", "Conv"]
    x = crops(4, 8)
    np.testing.assert_allclose(run_graph(prepared, x)["heatmap"], run_graph(graph, x)["heatmap"], atol=1e-6)
    _, report = to_int8(graph, x, "ort", quantise_head=True)
    assert report.float_islands == {} and report.nodes["QLinearConv"] == 2


def test_an_island_is_reported_with_its_operator() -> None:
    graph = conv_graph(after=("Softplus",))
    _, report = to_int8(graph, crops(2, 8), "ort")
    assert report.float_islands == {"Softplus0": "Softplus"}


@EXACT_INT8
def test_a_nearly_dead_channel_does_not_overflow_its_bias() -> None:
    graph = conv_graph(weight=1e-20)
    x = crops(4, 8)
    made, _ = to_int8(graph, x, "ort", quantise_head=True)
    before, after = run_graph(graph, x), run_graph(made, x)
    np.testing.assert_allclose(after["heatmap"], before["heatmap"], atol=1e-4)


def test_weights_of_seven_bits(graph_of: GraphOf) -> None:
    made, _ = to_int8(graph_of("se"), crops(), "ort", reduce_range=True)
    weights = [value for value in constants(made).values() if value.dtype == np.int8 and value.ndim]
    assert weights and all(np.abs(value.astype(int)).max() <= 63 for value in weights)


def test_a_refused_graph_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, out = conv_graph(), tmp_path / "q.onnx"
    save(to_int8(graph, crops(2, 8), "ort")[0], out)
    before = out.read_bytes()

    def refuse(model: object) -> None:
        raise onnx.checker.ValidationError("broken")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(ExportError, match="would not be valid ONNX"):
        save(to_int8(graph, crops(2, 8), "trt")[0], out)
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["q.onnx"]


# --- networks trained with fake quantisation


def trained_graph(*, symmetric: bool) -> ir.Model:
    from torch import nn
    from torch.ao import quantization as ao

    per_tensor = torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine

    class Fake(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
            limits = {"quant_min": -128, "quant_max": 127, "dtype": torch.qint8}
            self.a = ao.FakeQuantize(ao.MovingAverageMinMaxObserver, **limits, qscheme=per_tensor)
            observer = ao.MovingAveragePerChannelMinMaxObserver
            self.w = ao.FakeQuantize(observer, **limits, qscheme=torch.per_channel_symmetric, ch_axis=0)

        def forward(self, x: Any) -> Any:
            return nn.functional.conv2d(self.a(x), self.w(self.conv.weight), self.conv.bias, padding=1)

    network = nn.Sequential(Fake(3, 8), nn.ReLU(), Fake(8, 5))
    network(torch.from_numpy(crops()))
    network.apply(ao.disable_observer)
    return export_net(network.eval())


@EXACT_INT8
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_trained_quantisation_is_kept() -> None:
    graph = trained_graph(symmetric=True)
    made, reports = {}, {}
    for consumer in ("ort", "trt"):
        made[consumer], reports[consumer] = to_int8(graph, crops(), consumer)  # type: ignore[arg-type]
        assert reports[consumer].method is None and reports[consumer].crops == 0
        assert "kept the graph's own quantisation (4 quantisers)" in reports[consumer].notes[0]
    assert to_proto(made["trt"]) == to_proto(graph)
    assert_fits_tensorrt(made["trt"])
    # Same scales, another type: the same numbers, now in an int8 kernel; the last output is not quantised
    assert reports["ort"].nodes["QLinearConv"] == 1 and len(reports["ort"].excluded) == 1
    before, after = run_graph(graph, crops()), run_graph(made["ort"], crops())
    for name, value in before.items():
        step = float(constants(graph)["2.a.scale"].ravel()[0])
        assert np.abs(after[name] - value).max() <= 2 * step
    with pytest.raises(ExportError, match="is quantised to int8 already"):
        to_fp16(graph, crops())


class FakeQuantised(torch.nn.Module):
    """A layer between fake quantisers of set scales, as a network trained for int8 has them, and a float head."""

    def __init__(self, layer: str, activation: torch.nn.Module, scale: float, zero_point: int, kind: Any) -> None:
        from torch import nn
        from torch.ao import quantization as ao

        super().__init__()
        self.join = layer == "sum"
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = nn.Conv2d(3, 3, 3, padding=1, groups=3 if layer == "depthwise" else 1)
        self.head = nn.Conv2d(3, 3, 1, bias=False)  # gives what it takes
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(3)[..., None, None])
        self.activation = activation
        self.image = self.quantiser(0.1, 0, torch.qint8)
        self.branch = self.quantiser(scale, 0, torch.qint8)
        self.result = self.quantiser(scale, zero_point, kind)
        observer = ao.MovingAveragePerChannelMinMaxObserver
        limits = {"quant_min": -128, "quant_max": 127, "dtype": torch.qint8}
        self.weight = ao.FakeQuantize(observer, **limits, qscheme=torch.per_channel_symmetric, ch_axis=0)
        self.weight(self.layer.weight)
        self.weight.disable_observer()

    @staticmethod
    def quantiser(scale: float, zero_point: int, kind: Any) -> Any:
        from torch.ao import quantization as ao

        # torch's own choice for x86 has 7 bits: 0 to 127
        limits = {"quant_min": -128, "quant_max": 127} if kind == torch.qint8 else {"quant_min": 0, "quant_max": 127}
        made = ao.FakeQuantize(ao.MovingAverageMinMaxObserver, **limits, dtype=kind, qscheme=torch.per_tensor_affine)
        made.scale.fill_(scale)
        made.zero_point.fill_(zero_point)
        made.disable_observer()
        return made

    def forward(self, x: Any) -> Any:
        x, weight = self.image(x), self.weight(self.layer.weight)
        y = torch.nn.functional.conv2d(x, weight, self.layer.bias, padding=1, groups=self.layer.groups)
        return self.head(self.result(self.activation(x + self.branch(y) if self.join else y)))


ACTIVATIONS = {"none": torch.nn.Identity, "relu": torch.nn.ReLU, "relu6": torch.nn.ReLU6, "clip": torch.nn.Hardtanh}


@EXACT_INT8
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("layer", ["conv", "depthwise", "sum"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("scale", "zero_point", "kind"),
    [(0.01, 0, torch.qint8), (0.01, -128, torch.qint8), (0.01, 0, torch.quint8), (0.05, 0, torch.qint8)],
    ids=["symmetric", "from zero", "seven bits", "beyond six"],
)
def test_values_beyond_the_trained_range_saturate_as_in_training(
    layer: str, activation: str, scale: float, zero_point: int, kind: Any
) -> None:
    """Equal to torch's fake quantisers but for a step where a sum of products lies half way: its order differs."""
    network = FakeQuantised(layer, ACTIVATIONS[activation](), scale, zero_point, kind).eval()
    x = 8 * crops()
    made, report = to_int8(export_net(network), x, "ort")
    assert len(report.quantised) == 1
    (found,) = run_graph(made, x).values()
    with torch.inference_mode():
        expected = np.concatenate([network(torch.from_numpy(one[None])).numpy() for one in x])
    steps = np.abs(found - expected) / scale
    assert (expected == expected.max()).sum() > 20  # many values lie beyond the range
    assert found.max() == expected.max() and found.min() == expected.min()
    assert steps.max() < (2.01 if network.join else 1.01) and (steps > 0.01).mean() < 0.005


def test_a_relu_before_a_symmetric_quantiser_keeps_its_largest_value() -> None:
    """1.5 and 2.0 lie beyond 127 steps of 0.01."""
    scales = {"in": np.float32(0.02), "out": np.float32(0.01), "zero": np.int8(0)}
    weight = {"w": np.array([[[[127]]]], np.int8), "w_scale": np.float32(1 / 127)}  # one
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "in", "zero"], ["a"]),
        helper.make_node("DequantizeLinear", ["a", "in", "zero"], ["b"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "zero"], ["c"]),
        helper.make_node("Conv", ["b", "c"], ["d"]),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("QuantizeLinear", ["e", "out", "zero"], ["f"]),
        helper.make_node("DequantizeLinear", ["f", "out", "zero"], ["g"]),
        helper.make_node("Conv", ["g", "one"], ["heatmap"]),
    ]
    values = {**scales, **weight, "one": np.ones((1, 1, 1, 1), np.float32)}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 1, 4]) for name in ("image", "heatmap")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))
    x = np.array([[[[-1.0, 0.5, 1.5, 2.0]]]], np.float32)
    made, report = to_int8(model, x, "ort")
    assert report.nodes["QLinearConv"] == 1
    np.testing.assert_allclose(run_graph(model, x)["heatmap"].ravel(), [0, 0.5, 1.27, 1.27], atol=1e-6)
    np.testing.assert_allclose(run_graph(made, x)["heatmap"].ravel(), [0, 0.5, 1.27, 1.27], atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_trained_quantisation_that_tensorrt_refuses_is_named() -> None:
    graph = trained_graph(symmetric=False)
    with pytest.raises(
        ExportError, match=r"TensorRT does not support this quantisation: .*a zero point that is not 0"
    ) as raised:
        to_int8(graph, crops(), "trt")
    assert "symmetric" in raised.value.hint


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_trained_layer_that_runs_in_float_is_named() -> None:
    """Without the quantiser behind it the first convolution cannot be fused."""
    model = trained_graph(symmetric=True)
    conv = [node for node in model.graph if node.op_type == "Conv"][1]
    relu = next(node for node in model.graph if node.op_type == "Relu")
    (quantiser,) = readers(relu.outputs[0])
    softplus = ir.node("Softplus", relu.outputs, name="softplus")
    relu.append(softplus)
    quantiser.replace_input_with(0, softplus.outputs[0])
    with pytest.raises(ExportError, match="ONNX Runtime runs /0/Conv in float32: their results") as raised:
        to_int8(model, crops(), "ort")
    assert "Fake-quantise" in raised.value.hint and conv.name not in raised.value.message


@EXACT_INT8
def test_a_dynamic_batch_stays_dynamic() -> None:
    graph, x = conv_graph(batch="batch"), crops(11, 8)
    before = run_graph(graph, x)["heatmap"]
    half, _ = to_fp16(graph, x)
    np.testing.assert_allclose(run_graph(half, x)["heatmap"], before, atol=1e-3)
    for consumer in ("ort", "trt"):
        made, _ = to_int8(graph, x, consumer, quantise_head=True)  # type: ignore[arg-type]
        np.testing.assert_allclose(run_graph(made, x)["heatmap"], before, atol=5e-3)
    assert sizes(made.graph.inputs[0])[0] is None


PARSE = """
import sys, tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(0)
parser = trt.OnnxParser(network, logger)
assert parser.parse_from_file(sys.argv[1]), [parser.get_error(i).desc() for i in range(parser.num_errors)]
assert builder.build_serialized_network(network, builder.create_builder_config()) is not None
"""


@pytest.mark.parametrize("name", ["se", "pixel-shuffle", "fuse"])
def test_tensorrt_takes_the_graph(graph_of: GraphOf, tmp_path: Path, name: str) -> None:
    """In a process of its own: the library ends the process where it fails badly."""
    module = next((m for m in ("tensorrt_rtx", "tensorrt_rtx_bindings") if _is_installed(m)), None)
    if module is None:
        pytest.skip("tensorrt_rtx_cu13_bindings and tensorrt_rtx_cu13_libs are not installed")
    save(to_int8(graph_of(name), crops(), "trt")[0], tmp_path / "q.onnx")
    code = PARSE.replace("tensorrt_rtx as trt", f"{module} as trt")
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "q.onnx"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("columns", "expected"), [(25, 25), (None, 0)])
def test_the_columns_of_a_product_of_two_activations(columns: int | None, expected: int) -> None:
    given = [ir.Value(name=name, shape=ir.Shape(shape)) for name, shape in (("a", [100, 32]), ("b", [32, columns]))]
    assert output_channels(ir.node("MatMul", given)) == expected


def _is_installed(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None
