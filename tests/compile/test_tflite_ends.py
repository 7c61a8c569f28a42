"""Pre- and postprocessing inside of TFLite files: the same numbers as the host's, in every precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("ai_edge_litert")

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools.flatbuffer_utils import convert_object_to_bytearray, read_model_from_bytearray
from converters import use_any_converter
from tiny_tflite import VECTORS

from splite_deploy.bundle import Artifact
from splite_deploy.compile.tflite.compiler import TfliteCompiler
from splite_deploy.compile.tflite.ends import with_normalisation
from splite_deploy.decoders import (
    Argmax,
    Coordinates,
    Dark,
    Decoder,
    Expectation,
    Offset,
    SoftArgmax,
    SoftArgmaxDepth,
    SoftArgmaxWindow,
    SoftHeatmapDecoder,
    Udp,
    Volume,
    decode,
)
from splite_deploy.export.graph.fuse import decode_beside, in_network
from splite_deploy.export.graph.walk import from_proto, serialised
from splite_deploy.runtime.backends.tflite_file import parse_contents, read_operators
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.session import open_bytes
from splite_deploy.spec import InputSpec, ModelSpec, SkeletonSpec

GREY = (127.5, 127.5, 127.5), (64.0, 64.0, 64.0)
IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
helper = onnx.helper
STATISTICS = pytest.mark.parametrize(("mean", "std"), [GREY, IMAGENET], ids=["one scale", "three scales"])
Outputs = dict[str, NDArray[np.float32]]


def run(content: bytes, image: NDArray[Any]) -> Outputs:
    """Outputs of a file by their name in the signature."""
    found: Outputs = Interpreter(model_content=content, num_threads=1).get_signature_runner()(image=image)
    return found


def normalised(crop: NDArray[np.uint8], mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """(1, h, w, 3) as the host computes it."""
    spec = InputSpec(*crop.shape[1:3], "rgb", mean, std, 1.25, 127)
    return np.ascontiguousarray(Preprocessor(spec, "rgb").normalise(crop).transpose(0, 2, 3, 1))


@pytest.fixture
def crop() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (1, 64, 48, 3), np.uint8)


# --- the input ---


@STATISTICS
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_crops_give_what_normalised_crops_give(precision: str, mean: Any, std: Any, crop: NDArray[np.uint8]) -> None:
    content = (VECTORS / f"tiny.{precision}.tflite").read_bytes()
    made = with_normalisation(content, mean, std, planes_first=False)
    (image,) = parse_contents(made, "made").inputs.items()
    assert (image[0], image[1].dtype, image[1].shape) == ("image", "uint8", (1, 64, 48, 3))
    expected, found = run(content, normalised(crop, mean, std)), run(made, crop)
    assert list(found) == list(expected)
    for role, values in expected.items():
        largest = np.abs(values).max()
        # In int8 a value between two steps may fall to either side, which one of 8 bits is a 255th of
        tolerance = largest / 255 if precision == "int8" else 1e-5 * largest
        np.testing.assert_allclose(found[role], values, rtol=0, atol=tolerance)
    if precision != "int8" and mean == GREY[0]:  # where the numbers are exact the results are
        np.testing.assert_array_equal(found["heatmap"], expected["heatmap"])


@STATISTICS
def test_padding_along_the_border_stands_for_the_mean(mean: Any, std: Any) -> None:
    """A crop of the mean's grey looks like zeros to the network; with the mean in a bias its border would not."""
    content = (VECTORS / "tiny.fp32.tflite").read_bytes()
    grey = np.broadcast_to(np.round(np.array(mean)).astype(np.uint8), (1, 64, 48, 3))
    exact = tuple(map(float, grey[0, 0, 0]))
    found = run(with_normalisation(content, exact, std, planes_first=False), np.ascontiguousarray(grey))
    for role, values in run(content, np.zeros((1, 64, 48, 3), np.float32)).items():
        np.testing.assert_allclose(found[role], values, rtol=0, atol=1e-5)


@STATISTICS
def test_arithmetic_is_float_and_as_wide_as_the_crop(mean: Any, std: Any) -> None:
    made = with_normalisation((VECTORS / "tiny.int8.tflite").read_bytes(), mean, std, planes_first=False)
    names = [operator.name for operator in read_operators(made)]
    arithmetic = ["ADD"] if std == GREY[1] else ["MUL", "ADD"]
    assert names[: len(arithmetic) + 2] == ["DEQUANTIZE", *arithmetic, "QUANTIZE"]
    (graph,) = read_model_from_bytearray(made).subgraphs
    for operator in graph.operators[1 : 1 + len(arithmetic)]:
        assert list(graph.tensors[operator.inputs[1]].shape) == [1, 1, 48, 3]


def test_a_network_that_takes_planes(crop: NDArray[np.uint8]) -> None:
    model = read_model_from_bytearray((VECTORS / "tiny.fp32.tflite").read_bytes())
    (graph,), (signature,) = model.subgraphs, model.signatureDefs
    code, order, planes, turn = schema.OperatorCodeT(), schema.TensorT(), schema.TensorT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.TRANSPOSE
    code.version = 1
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.array([0, 2, 3, 1], np.int32).tobytes(), np.uint8)
    order.name, order.type, order.shape = "order", schema.TensorType.INT32, [4]
    order.buffer = len(model.buffers)
    planes.name, planes.shape = "planes", [1, 3, 64, 48]
    turn.opcodeIndex, turn.inputs = len(model.operatorCodes), [len(graph.tensors) + 1, len(graph.tensors)]
    turn.outputs = [graph.inputs[0]]
    model.operatorCodes.append(code)
    model.buffers.append(buffer)
    graph.inputs = [len(graph.tensors) + 1]
    signature.inputs[0].tensorIndex = graph.inputs[0]
    graph.tensors += [order, planes]
    graph.operators = [turn, *graph.operators]
    content = bytes(convert_object_to_bytearray(model))

    image = normalised(crop, *IMAGENET)
    expected = run(content, np.ascontiguousarray(image.transpose(0, 3, 1, 2)))
    found = run(with_normalisation(content, *IMAGENET, planes_first=True), crop)
    for role, values in expected.items():
        np.testing.assert_allclose(found[role], values, rtol=0, atol=1e-5)


# --- the decoders, by the real converter ---

K, H, W = 5, 32, 24
DECODERS: dict[str, Decoder] = {
    "softargmax": SoftArgmax(4.0, "udp", 1.0, 3),
    "window": SoftArgmaxWindow(4.0, "centre", 10.0, 5),
    "depth": SoftArgmaxDepth(4.0, "corner", 2.0, 3, 1, "palm", ((0, 1),)),
    "argmax": Argmax(4.0, "centre", "quarter"),
    "dark": Dark(4.0, "centre", 5),
    "udp": Udp(4.0, "udp", "gaussian", 5),
    "combined": Udp(4.0, "udp", "combined", 3, 0.2),
    "expectation": Expectation(4.0, "corner"),
    "offset": Offset(4.0, "centre", "yyxx", "pixel"),
    "volume": Volume(4.0, "centre", 2.0, 3, 5, 10.0, 1, "palm", ((0, 1),)),
    "coordinates": Coordinates("unit"),
    "keypoints": Coordinates("pixel"),  # which are the network's output as it is
}


def network(decoder: Decoder, columns: int) -> tuple[ModelSpec, Any]:
    """A network of one layer for each output."""
    rng = np.random.default_rng(3)
    nodes, constants, outputs = [], [], []
    size = InputSpec(H, W, "rgb", *IMAGENET, 1.25, 127)
    for role, shape in decoder.shapes(K, size).items():
        channels = columns * K if isinstance(decoder, Coordinates) else shape[0]
        weights = rng.normal(0, 0.3, (channels, 3, 4, 4)).astype(np.float32)
        constants += [
            helper.make_tensor(f"{role}/weights", 1, weights.shape, weights.ravel()),
            helper.make_tensor(f"{role}/bias", 1, [channels], rng.normal(0.5, 0.1, channels).astype(np.float32)),
        ]
        if isinstance(decoder, Coordinates):
            constants.append(helper.make_tensor("shape", 7, [3], [1, K, columns]))
            conv = helper.make_node("Conv", ["image", f"{role}/weights", f"{role}/bias"], ["a"], strides=[4, 4])
            nodes += [
                conv,
                helper.make_node("GlobalAveragePool", ["a"], ["b"]),
                helper.make_node("Reshape", ["b", "shape"], [role]),
            ]
            outputs.append(helper.make_tensor_value_info(role, 1, [1, K, columns]))
        else:
            nodes.append(helper.make_node("Conv", ["image", f"{role}/weights", f"{role}/bias"], [role], strides=[4, 4]))
            outputs.append(helper.make_tensor_value_info(role, 1, [1, channels, H // 4, W // 4]))
    image = helper.make_tensor_value_info("image", 1, [1, 3, H, W])
    graph = helper.make_graph(nodes, "network", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    spec = ModelSpec(
        "any",
        size,
        decoder,
        SkeletonSpec(tuple(f"k{index}" for index in range(K)), ()),
        palm_mm=88.0,
    )
    return spec, from_proto(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "columns"), [*((name, 2) for name in DECODERS), ("coordinates", 3)], ids=[*DECODERS, "with scores"]
)
def test_decoders(name: str, columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_any_converter(monkeypatch)
    decoder = DECODERS[name]
    spec, model = network(decoder, columns)
    crops = np.random.default_rng(1).integers(0, 256, (16, H, W, 3), np.uint8)
    with TfliteCompiler(tmp_path / "log") as compiler:
        beside = {role: in_network(role) for role in decoder.roles}
        graph = serialised(decode_beside(model, spec), "model.onnx")
        compiler.begin(graph, spec, ["fp32", "fp16", "int8"], calibration=crops, beside=beside)
        artifacts = compiler.finish(tmp_path)
        for artifact in artifacts:
            assert [tensor.role for tensor in artifact.outputs] == list(decoder.roles)
            content = (tmp_path / artifact.file).read_bytes()
            for normalises in (False, True):
                made, described = compiler.fused(content, artifact, normalises=normalises)
                check_decoded(spec, content, artifact, made, described, crops[:4])
    floats = {operator.name for operator in read_operators(made) if "int8" not in (*operator.inputs, *operator.outputs)}
    assert ("SOFTMAX" in floats) == isinstance(decoder, SoftHeatmapDecoder)


def check_decoded(
    spec: ModelSpec,
    content: bytes,
    artifact: Artifact,
    made: bytes,
    described: Artifact,
    crops: NDArray[np.uint8],
) -> None:
    """The keypoints of a file are those that the host decodes from the network's outputs."""
    assert [tensor.role for tensor in described.outputs] == list(spec.decoder.decoded_roles)
    assert described.sha256 != artifact.sha256 and described.precision == artifact.precision
    prepare = Preprocessor(spec.input, "rgb")
    with open_bytes(content, artifact, threads=1) as plain, open_bytes(made, described, threads=1) as fused:
        assert [tensor.shape for tensor in fused.outputs] == [tensor.shape for tensor in described.outputs]
        for crop in crops[:, None]:
            expected = decode(plain.run({"image": prepare.normalise(crop)}), spec)
            found = decode(fused.run({"image": prepare.feed(crop, fused.inputs[0])}), spec)
            np.testing.assert_allclose(found.keypoints, expected.keypoints, rtol=0, atol=0.02)
            np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-3)
            if expected.depth is not None and found.depth is not None:
                np.testing.assert_allclose(found.depth, expected.depth, rtol=0, atol=1e-3)
            assert (expected.depth is None) == (found.depth is None)
