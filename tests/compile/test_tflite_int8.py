"""int8 in TFLite: which operators compute in it, with which ranges, and that what they compute is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")
pytest.importorskip("ai_edge_quantizer")
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from splite_deploy.compile.tflite.network import Network
from splite_deploy.compile.tflite.quantise import Int8Quantiser, QuantisationReport, quantise
from splite_deploy.compile.tflite.ranges import KnownRange, find_ranges, fingerprint
from splite_deploy.errors import CompileError, UsageError
from splite_deploy.runtime.backends.tflite_file import read_operators
from tests.shared.tflite_networks import TfliteNetwork, run_tflite

INPUTS = np.random.default_rng(1).normal(0, 1, (8, 16, 16, 3)).astype(np.float32)


def made(content: bytes, exclude: tuple[str, ...] = ()) -> tuple[bytes, QuantisationReport]:
    return Int8Quantiser(content, find_ranges(content, INPUTS)).quantise(exclude)


def kinds(content: bytes) -> Counter[str]:
    return Counter(operator.name for operator in read_operators(content))


def error(content: bytes, int8: bytes) -> float:
    """The root of the mean squared difference as a share of that of the values."""
    (before,), (after,) = run_tflite(content, INPUTS), run_tflite(int8, INPUTS)
    return float(np.sqrt(np.square(after - before).mean() / np.square(before).mean()))


def gated(net: TfliteNetwork) -> bytes:
    x = net.conv(net.image, 8, 3, relu=True, name="stem")
    gate = net.conv(net.mean(x), 8, name="gate")
    gate = net.add("RELU_0_TO_1", [gate], net.shape(gate), "hard_sigmoid")
    x = net.add("MUL", [x, gate], net.shape(x), "gated", schema.MulOptionsT())
    return net.content(net.conv(x, 4, name="head"))


def clamped(net: TfliteNetwork) -> bytes:
    x = net.conv(net.image, 8, 3)
    x = net.add("MAXIMUM", [x, net.constant(-0.5)], net.shape(x))
    x = net.add("MINIMUM", [x, net.constant(0.25)], net.shape(x), "clamped")
    return net.content(net.conv(x, 4))


def pooled(net: TfliteNetwork) -> bytes:
    return net.content(net.conv(net.padded_pool(net.conv(net.image, 8, relu=True)), 4))


def pooled_signed(net: TfliteNetwork) -> bytes:
    return net.content(net.conv(net.padded_pool(net.conv(net.image, 8)), 4))


def shuffled(net: TfliteNetwork) -> bytes:
    x = net.conv(net.image, 16)
    options = schema.DepthToSpaceOptionsT()
    options.blockSize = 2
    return net.content(net.conv(net.add("DEPTH_TO_SPACE", [x], (1, 32, 32, 4), "shuffled", options), 4))


def leaky(net: TfliteNetwork) -> bytes:
    options = schema.LeakyReluOptionsT()
    options.alpha = 0.1
    x = net.conv(net.image, 8)
    x = net.conv(net.add("LEAKY_RELU", [x], net.shape(x), "leaky", options), 8)
    alpha = net.constant(np.linspace(0.05, 0.4, 8).reshape(1, 1, 8))
    return net.content(net.conv(net.add("PRELU", [x, alpha], net.shape(x), "prelu"), 4))


def hard_swish(net: TfliteNetwork) -> bytes:
    x = net.conv(net.image, 8, 3)
    return net.content(net.conv(net.add("HARD_SWISH", [x], net.shape(x), "swish", schema.HardSwishOptionsT()), 4))


def normalised(net: TfliteNetwork) -> bytes:
    """A batch normalisation behind a residual sum, whose channels differ tenfold in scale."""
    x = net.conv(net.image, 8)
    x = net.add("ADD", [x, net.conv(x, 8)], net.shape(x), "residual", schema.AddOptionsT())
    x = net.add("MUL", [x, net.constant(np.logspace(-1, 0, 8))], net.shape(x), options=schema.MulOptionsT())
    options = schema.AddOptionsT()
    options.fusedActivationFunction = schema.ActivationFunctionType.RELU
    x = net.add("ADD", [x, net.constant(net.random.normal(0, 0.1, 8))], net.shape(x), "normalised", options)
    return net.content(net.conv(x, 4))


def enlarged(net: TfliteNetwork) -> bytes:
    """A transposed convolution as converters write it: cut to its size, then the bias and a ReLU."""
    x = net.conv(net.image, 8)
    weights = net.constant(net.random.normal(0, 0.2, (6, 4, 4, 8)))
    options = schema.TransposeConvOptionsT()
    options.strideH = options.strideW = 2
    options.padding = schema.Padding.VALID
    size = net.constant([1, 34, 34, 6], np.int32)
    x = net.add("TRANSPOSE_CONV", [size, weights, x], (1, 34, 34, 6), "whole", options)
    begin, end = net.constant([0, 1, 1, 0], np.int32), net.constant([1, 33, 33, 6], np.int32)
    steps = net.constant([1, 1, 1, 1], np.int32)
    x = net.add("STRIDED_SLICE", [x, begin, end, steps], (1, 32, 32, 6), "cut", schema.StridedSliceOptionsT())
    relu = schema.AddOptionsT()
    relu.fusedActivationFunction = schema.ActivationFunctionType.RELU
    x = net.add("ADD", [x, net.constant(net.random.normal(0, 0.5, 6))], (1, 32, 32, 6), "enlarged", relu)
    return net.content(net.conv(x, 4))


def turned(net: TfliteNetwork) -> bytes:
    """A ReLU behind a transposition, as converters write one in the other order of axes."""
    x = net.conv(net.image, 8)
    x = net.add("TRANSPOSE", [x, net.constant([0, 3, 1, 2], np.int32)], (1, 8, 16, 16), "turned")
    x = net.add("RELU", [x], (1, 8, 16, 16), "relu")
    x = net.add("TRANSPOSE", [x, net.constant([0, 2, 3, 1], np.int32)], (1, 16, 16, 8), "back")
    return net.content(net.conv(x, 4))


def joined(net: TfliteNetwork) -> bytes:
    options = schema.ConcatenationOptionsT()
    options.axis = 3
    parts = [net.conv(net.image, 4), net.conv(net.image, 4, relu=True)]
    return net.content(net.conv(net.add("CONCATENATION", parts, (1, 16, 16, 8), "joined", options), 4))


def product(net: TfliteNetwork) -> bytes:
    """A matrix product with constants, whose outputs differ a hundredfold in scale."""
    x = net.conv(net.image, 8)
    x = net.add("RESHAPE", [x, net.constant([1, 256, 8], np.int32)], (1, 256, 8))
    weights = net.random.normal(0, 1, (8, 6)) * np.logspace(-2, 0, 6)
    x = net.add("BATCH_MATMUL", [x, net.constant(weights)], (1, 256, 6), "product", schema.BatchMatMulOptionsT())
    return net.content(x)


def attention(net: TfliteNetwork) -> bytes:
    x = net.conv(net.image, 8)
    x = net.add("RESHAPE", [x, net.constant([1, 256, 8], np.int32)], (1, 256, 8))
    options = schema.BatchMatMulOptionsT()
    options.adjY = True
    scores = net.add("BATCH_MATMUL", [x, x], (1, 256, 256), "scores", options)
    scores = net.add("MUL", [scores, net.constant(0.35)], (1, 256, 256), "scaled", schema.MulOptionsT())
    softmax = schema.SoftmaxOptionsT()
    softmax.beta = 1.0
    scores = net.add("SOFTMAX", [scores], (1, 256, 256), "softmax", softmax)
    x = net.add("BATCH_MATMUL", [scores, x], (1, 256, 8), "weighed", schema.BatchMatMulOptionsT())
    x = net.add("RESHAPE", [x, net.constant([1, 16, 16, 8], np.int32)], (1, 16, 16, 8))
    return net.content(net.conv(x, 4))


def normed(net: TfliteNetwork) -> bytes:
    """The L2 norm over the channels, as converters write it."""
    x = net.conv(net.image, 8, name="before")
    square = net.add("MUL", [x, x], net.shape(x), "square", schema.MulOptionsT())
    options = schema.ReducerOptionsT()
    options.keepDims = True
    total = net.add("SUM", [square, net.constant([3], np.int32)], (1, 16, 16, 1), "sum", options)
    total = net.add("SQRT", [total], (1, 16, 16, 1), "root")
    total = net.add("MAXIMUM", [total, net.constant(1e-5)], (1, 16, 16, 1), "safe")
    return net.content(net.conv(net.add("DIV", [x, total], net.shape(x), "normed", schema.DivOptionsT()), 4, name="c"))


@pytest.mark.parametrize(
    "build",
    [
        gated,
        clamped,
        pooled,
        pooled_signed,
        shuffled,
        leaky,
        hard_swish,
        normalised,
        enlarged,
        turned,
        joined,
        product,
    ],
)
def test_every_operator_computes_in_int8_and_is_right(build: Callable[[TfliteNetwork], bytes]) -> None:
    content = build(TfliteNetwork(1, 16, 16, 3))
    int8, report = made(content)
    assert report.islands == () and report.excluded == ()
    assert kinds(int8)["QUANTIZE"] == kinds(int8)["DEQUANTIZE"] == 1
    assert error(content, int8) < 0.03


@pytest.mark.parametrize(
    ("build", "gone"),
    [
        (gated, {"RELU_0_TO_1"}),
        (clamped, {"MAXIMUM", "MINIMUM"}),
        (turned, {"RELU"}),
        (hard_swish, {"HARD_SWISH"}),
        (normalised, {"MUL"}),
        (product, {"BATCH_MATMUL"}),
    ],
)
def test_operators_that_int8_does_better_without_vanish(
    build: Callable[[TfliteNetwork], bytes], gone: set[str]
) -> None:
    content = build(TfliteNetwork(1, 16, 16, 3))
    assert gone <= kinds(content).keys()
    assert not gone & kinds(made(content)[0]).keys()


def test_a_clamp_stays_behind_a_convolution_that_stays_float() -> None:
    content = gated(TfliteNetwork(1, 16, 16, 3))
    int8, report = made(content, ("gate",))
    assert kinds(int8)["RELU_0_TO_1"] == 1 and error(content, int8) < 0.03
    assert {(one.name, one.kind, one.reason) for one in report.excluded} == {
        ("gate", "CONV_2D", "excluded from quantisation"),
        ("hard_sigmoid", "RELU_0_TO_1", "excluded from quantisation"),
        ("gated", "MUL", "excluded from quantisation"),
    }


def test_the_padding_of_a_max_pool_is_zero_behind_a_relu_and_the_lowest_number_elsewhere() -> None:
    int8 = made(pooled(TfliteNetwork(1, 16, 16, 3)))[0]
    assert kinds(int8)["PAD"] == 1 and "PADV2" not in kinds(int8)
    network = Network(made(pooled_signed(TfliteNetwork(1, 16, 16, 3)))[0])
    (pad,) = (operator for operator in network.operators if operator.kind == "PADV2")
    value = network.constant(pad.inputs[2])
    assert value is not None and value.dtype == np.int8 and int(value.reshape(())) == -128


@pytest.mark.parametrize(
    ("build", "islands"),
    [
        (
            attention,
            {
                "scores": "XNNPACK multiplies two activations in float alone",
                "scaled": "it is part of a softmax or norm in float",
                "softmax": "a softmax raises rounding errors to the power of e",
                "weighed": "XNNPACK",
            },
        ),
        (
            normed,
            {"square": "it is part", "sum": "it is part", "root": "it has no int8 form", "safe": "", "normed": ""},
        ),
    ],
)
def test_softmax_and_norms_stay_float_and_are_named(
    build: Callable[[TfliteNetwork], bytes], islands: dict[str, str]
) -> None:
    content = build(TfliteNetwork(1, 16, 16, 3))
    int8, report = made(content)
    assert {one.name for one in report.islands} == islands.keys()
    assert all(one.reason.startswith(islands[one.name]) for one in report.islands)
    assert error(content, int8) < 0.06  # products of products, and norms of short vectors
    types = {operator.name: operator.outputs for operator in read_operators(int8)}
    assert types["CONV_2D"] == ("int8",) and types.get("SOFTMAX", types.get("DIV")) == ("float32",)


def test_an_operator_without_an_int8_form_costs_its_neighbours_nothing() -> None:
    net = TfliteNetwork(1, 16, 16, 3)
    x = net.conv(net.image, 8)
    content = net.content(net.conv(net.add("COS", [x], net.shape(x), "cosine"), 4))
    int8, report = made(content)
    assert [(one.name, one.kind) for one in report.islands] == [("cosine", "COS")]
    assert len(report.int8) == 2 and error(content, int8) < 0.03


def test_weights_have_a_scale_for_each_output_channel() -> None:
    network = Network(made(product(TfliteNetwork(1, 16, 16, 3)))[0])
    scales = {o.kind: len(network.graph.tensors[o.inputs[1]].quantization.scale) for o in network.operators
              if o.kind in ("CONV_2D", "FULLY_CONNECTED")}  # fmt: skip
    assert scales == {"CONV_2D": 8, "FULLY_CONNECTED": 6}


def test_the_same_network_gives_the_same_file() -> None:
    first, second = (made(gated(TfliteNetwork(1, 16, 16, 3)))[0] for _ in range(2))
    assert first == second


def test_layers_are_excluded_one_by_one() -> None:
    content = gated(TfliteNetwork(1, 16, 16, 3))
    quantiser = Int8Quantiser(content, find_ranges(content, INPUTS))
    assert [(layer.name, layer.kind) for layer in quantiser.layers] == [
        ("stem", "CONV_2D"),
        ("gate", "CONV_2D"),
        ("head", "CONV_2D"),
    ]
    plain = quantiser.quantise()[0]
    for layer in quantiser.layers:
        int8, report = quantiser.quantise({layer.name})
        assert layer.name in {one.name for one in report.excluded} and layer.name not in report.int8
        assert error(content, int8) < 0.03
    assert quantiser.quantise()[0] == plain
    with pytest.raises(UsageError, match="no layer tail") as caught:
        quantiser.quantise({"tail"})
    assert caught.value.hint == "It has: stem, gate, head."
    with pytest.raises(CompileError, match="no convolution remains"):
        quantiser.quantise({"stem", "gate", "head"})


def dense(net: TfliteNetwork, x: int, weights: list[list[float]], bias: list[float], name: str, *, relu: bool) -> int:
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = schema.ActivationFunctionType.RELU if relu else 0
    return net.add("FULLY_CONNECTED", [x, net.constant(weights), net.constant(bias)], (1, len(bias)), name, options)


def last_layer(net: TfliteNetwork) -> int:
    return dense(net, net.mean(net.image), [[4, 4, 4]], [-6], "logit", relu=False)


def hidden_layer(net: TfliteNetwork) -> int:
    """Its first unit is silent where somebody is there."""
    hidden = dense(net, net.mean(net.image), [[-4, -4, -4], [4, 4, 4]], [4, 0], "hidden", relu=True)
    return dense(net, hidden, [[-3, 1]], [-4], "logit", relu=False)


def sum_of_two(net: TfliteNetwork) -> int:
    pooled = net.mean(net.image)
    parts = [dense(net, pooled, [[2, 2, 2]], [-3], name, relu=False) for name in ("one", "other")]
    return net.add("ADD", parts, (1, 1), "logit", schema.AddOptionsT())


def with_presence(net: TfliteNetwork, head: Callable[[TfliteNetwork], int] = last_layer) -> bytes:
    """A map, and a probability that is high where the picture is bright."""
    x = net.conv(net.image, 8, 3, relu=True, name="trunk")
    presence = net.add("LOGISTIC", [head(net)], (1, 1), "sure")
    return net.content(net.conv(x, 4, name="map"), presence=presence)


@pytest.mark.parametrize("exclude", [(), ("map",)], ids=["all int8", "the map in float"])
@pytest.mark.parametrize("head", [last_layer, hidden_layer, sum_of_two])
def test_a_head_can_say_what_it_said_of_no_crop_that_ranges_come_from(
    head: Callable[[TfliteNetwork], int], exclude: tuple[str, ...]
) -> None:
    content = with_presence(TfliteNetwork(1, 16, 16, 3), head)
    there, not_there = np.abs(INPUTS) + 0.2, INPUTS - INPUTS.mean((1, 2, 3), keepdims=True)
    ranges = find_ranges(content, there)
    assert ranges["logit"][0] == 0, "no crop shows nobody"
    quantiser = Int8Quantiser(content, ranges)
    assert [layer.name for layer in quantiser.layers] == ["trunk", "map"], "a search need not ask for the head"
    int8, report = quantiser.quantise(exclude)
    assert [one.name for one in report.excluded] == [*exclude]
    assert {"logit", "sure"} < {one.name for one in report.islands if "do not show the range" in one.reason}
    said = run_tflite(content, not_there)[1]
    assert said.max() < 0.01 and run_tflite(content, there)[1].min() > 0.6
    np.testing.assert_allclose(run_tflite(int8, not_there)[1], said, atol=0.02)
    weights_only = Int8Quantiser(content, {}, recipe="dynamic-range")
    assert "logit" in {layer.name for layer in weights_only.layers} or head is sum_of_two


def test_a_layer_that_gives_a_head_and_more_stays_float() -> None:
    net = TfliteNetwork(1, 16, 16, 3)
    both = net.conv(net.conv(net.image, 8, 3, relu=True, name="trunk"), 5, name="both")
    size, begin = net.constant([1, 16, 16, 4], np.int32), net.constant([0, 0, 0, 0], np.int32)
    heatmap = net.add("SLICE", [both, begin, size], (1, 16, 16, 4), "map", schema.SliceOptionsT())
    presence = net.add("LOGISTIC", [net.mean(both)], (1, 1, 1, 5), "sure")
    content = net.content(heatmap, presence=presence)
    _, report = Int8Quantiser(content, find_ranges(content, INPUTS)).quantise()
    assert report.int8 == ("trunk",)


def test_a_network_that_is_one_head_has_nothing_to_quantise() -> None:
    net = TfliteNetwork(1, 16, 16, 3)
    heatmap = net.conv(net.image, 4, 3, name="map")
    content = net.content(heatmap, presence=net.add("LOGISTIC", [net.mean(heatmap)], (1, 1, 1, 4), "sure"))
    with pytest.raises(CompileError, match="no convolution remains") as caught:
        Int8Quantiser(content, find_ranges(content, INPUTS)).quantise()
    assert "What gives presence or handedness always stays float" in caught.value.hint


def test_integer_io_and_a_head() -> None:
    content = with_presence(TfliteNetwork(1, 16, 16, 3))
    ranges = find_ranges(content, np.abs(INPUTS) + 0.2)
    assert ranges["sure"][1] < 1
    int8, _ = Int8Quantiser(content, ranges, integer_io=True).quantise()
    _, sure = Interpreter(model_content=int8).get_output_details()
    assert sure["dtype"] == np.int8 and sure["quantization"] == (pytest.approx(1 / 255), -128)


def test_integer_io_and_dynamic_range() -> None:
    content = pooled(TfliteNetwork(1, 16, 16, 3))
    integer = Network(quantise(content, INPUTS, "full-integer", True)[0])
    assert [integer.graph.tensors[t].type for t in (*integer.inputs, *integer.outputs)] == [schema.TensorType.INT8] * 2
    assert not {"QUANTIZE", "DEQUANTIZE"} & {operator.kind for operator in integer.operators}
    dynamic = quantise(content, INPUTS, "dynamic-range", False)[0]
    convs = [operator for operator in read_operators(dynamic) if operator.name == "CONV_2D"]
    assert {(conv.weights, conv.outputs) for conv in convs} == {("int8", ("float32",))}
    assert error(content, dynamic) < 0.03


def test_a_missing_range_is_an_error_that_names_the_tensor() -> None:
    content = pooled(TfliteNetwork(1, 16, 16, 3))
    ranges = find_ranges(content, INPUTS)
    del ranges["pooled"], ranges["padded"], ranges["conv_2d_0"]
    with pytest.raises(CompileError, match=r"No range is known of conv_2d_0"):
        Int8Quantiser(content, ranges).quantise()


def test_padding_values_enter_no_range() -> None:
    content = pooled_signed(TfliteNetwork(1, 16, 16, 3))
    ranges = find_ranges(content, INPUTS)
    assert ranges["padded"] == ranges["conv_2d_0"] and -10 < ranges["padded"][0] < -1


def test_ranges_are_those_of_the_tensor_with_the_same_values() -> None:
    content = gated(TfliteNetwork(1, 16, 16, 3))
    network = Network(content)
    values = [run_tflite(_showing(content, "stem"), INPUTS[index : index + 1])[0] for index in (0, 1)]
    planes_first = [value.transpose(0, 3, 1, 2) for value in values]
    known = [
        KnownRange("stem", fingerprint(planes_first), (0.0, 1.25)),
        KnownRange("other", fingerprint([value * 1.01 for value in planes_first]), (0.0, 99.0)),
    ]
    found = find_ranges(content, INPUTS, known)
    assert found["stem"] == (0.0, 1.25)
    assert found.keys() >= {network.name(tensor) for operator in network.operators for tensor in operator.outputs}
    assert found["hard_sigmoid"][0] >= 0 and found["hard_sigmoid"][1] <= 1


def test_a_tensor_that_one_operator_moves_needs_no_wider_range_than_what_it_is_moved_to() -> None:
    """A transposed convolution is cut to its size afterwards; what is cut off needs no levels."""
    net = TfliteNetwork(1, 16, 16, 3)
    x = net.conv(net.image, 8, name="whole")
    starts, sizes = net.constant([0, 1, 1, 0], np.int32), net.constant([1, 14, 14, 8], np.int32)
    content = net.content(net.conv(net.add("SLICE", [x, starts, sizes], (1, 14, 14, 8), "cut"), 4))
    values = [run_tflite(_showing(content, "cut"), INPUTS[index : index + 1])[0] for index in (0, 1)]
    found = find_ranges(content, INPUTS, [KnownRange("x", fingerprint(values), (-0.5, 0.75))])
    assert found["cut"] == found["whole"] == (-0.5, 0.75)


def test_tensors_of_one_name_are_told_apart() -> None:
    net = TfliteNetwork(1, 16, 16, 3)
    content = net.content(net.conv(net.conv(net.image, 8, name="conv"), 4, name="conv"))
    int8, report = made(content)
    assert len(set(report.int8)) == 2 and error(content, int8) < 0.03


def _showing(content: bytes, name: str) -> bytes:
    """The network cut off behind the tensor of this name."""
    network = Network(content)
    network.outputs = [tensor for o in network.operators for tensor in o.outputs if network.name(tensor) == name]
    network.model.signatureDefs = []
    return network.content()
