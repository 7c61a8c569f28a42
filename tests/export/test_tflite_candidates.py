"""int8 TFLite files take their ranges from the graph that they come from, and layers return to float."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

pytest.importorskip("ai_edge_quantizer")
ir = pytest.importorskip("onnx_ir")
onnx = pytest.importorskip("onnx")

from splite_deploy.arrays import FloatArray
from splite_deploy.compile.tflite.converter import Converted
from splite_deploy.compile.tflite.network import Network
from splite_deploy.export.graph.walk import from_proto, run_graph
from splite_deploy.export.quant.ranges import calibrate
from splite_deploy.export.quant.tflite_candidates import TfliteCandidates, int8_note, known_ranges
from tests.shared.tflite_networks import TfliteNetwork

CROPS = np.random.default_rng(2).normal(0, 1, (6, 3, 16, 16)).astype(np.float32)


def both() -> tuple[ir.Model, Converted]:
    """Two convolutions with a ReLU between them, as ONNX and as TFLite."""
    net = TfliteNetwork(1, 16, 16, 3)
    hidden = net.conv(net.image, 8, 3, relu=True, name="tensor_7")
    heatmap = net.conv(hidden, 5, name="heatmap")
    content = net.content(heatmap)
    constants = [
        values for values in map(Network(content).constant, range(len(net.graph.tensors))) if values is not None
    ]
    kernel, bias, head, head_bias = constants
    weights = {
        "w": kernel.transpose(0, 3, 1, 2),
        "b": bias,
        "v": head.transpose(0, 3, 1, 2),
        "c": head_bias,
    }
    nodes = [
        onnx.helper.make_node("Conv", ["image", "w", "b"], ["summed"], "first", pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Relu", ["summed"], ["shown"], "relu"),
        onnx.helper.make_node("Conv", ["shown", "v", "c"], ["out0"], "last"),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 16, 16])],
        [onnx.helper.make_tensor_value_info("out0", onnx.TensorProto.FLOAT, [1, 5, 16, 16])],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(values), name) for name, values in weights.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    return from_proto(model), Converted(content, {"image": "NHWC", "out0": "NHWC"})


def scales(content: bytes) -> Mapping[str, float]:
    network = Network(content)
    return {
        network.name(tensor).removesuffix("_quantized"): float(network.graph.tensors[tensor].quantization.scale[0])
        for operator in network.operators
        for tensor in operator.outputs
        if not network.is_float(tensor)
    }


def distance(outputs: Mapping[str, FloatArray], reference: Mapping[str, FloatArray]) -> float:
    return float(np.abs(outputs["out0"] - reference["out0"]).max() / np.abs(reference["out0"]).max())


def test_the_ranges_of_the_graph_are_those_of_the_file() -> None:
    model, converted = both()
    ranges = calibrate(model, CROPS, "mse")
    content, report = TfliteCandidates(converted, model, ranges, CROPS).make()
    found = scales(content)
    assert found["shown"] == pytest.approx(ranges.limits["shown"][1] / 255, rel=1e-5)
    low, high = ranges.limits["out0"]
    assert found["heatmap"] == pytest.approx((high - low) / 255, rel=1e-5)
    assert report.int8 == ("shown", "heatmap") and report.islands == ()


def test_a_candidate_gives_outputs_by_role_and_layers_return_to_float() -> None:
    model, converted = both()
    candidates = TfliteCandidates(converted, model, calibrate(model, CROPS, "mse"), CROPS)
    assert dict(candidates.layers) == {"shown": "CONV_2D", "heatmap": "CONV_2D"}
    reference, errors = run_graph(model, CROPS), []
    for floats in ((), ("heatmap",)):
        with candidates.open(floats) as network:
            outputs = network(CROPS)
        assert outputs["out0"].shape == (6, 5, 16, 16)
        errors.append(distance(outputs, reference))
    assert errors[1] < errors[0] < 0.03


def test_what_is_known_of_a_graph() -> None:
    model, _ = both()
    ranges = calibrate(model, CROPS, "minmax")
    known = {one.name: one for one in known_ranges(model, ranges, CROPS[:2])}
    assert set(known) == {"image", "summed", "shown", "out0"}
    assert known["image"].fingerprint.count == 3 * 16 * 16
    np.testing.assert_allclose(known["image"].fingerprint.figures[1, 2], CROPS[1].mean(), rtol=1e-4)
    assert all(one.limits == ranges.limits[name] for name, one in known.items())


def test_the_note_names_what_stays_in_float() -> None:
    model, converted = both()
    candidates = TfliteCandidates(converted, model, calibrate(model, CROPS, "mse"), CROPS)
    assert int8_note("a.tflite", candidates.make()[1]) == ("a.tflite: 2 operators in int8; in float: none")
    assert int8_note("a.tflite", candidates.make(["heatmap"])[1]) == (
        "a.tflite: 1 operators in int8; in float: heatmap (CONV_2D): excluded from quantisation"
    )
