"""A ``.tflite`` file is checked before LiteRT sees it: what would end the process is an error that says so."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splite_deploy.errors import BackendError
from splite_deploy.runtime.backends.flatbuffer import DamagedError, Schema, read_flatbuffer
from splite_deploy.runtime.backends.tflite_model import TfliteModel, read_tflite

VECTORS = Path(__file__).parents[1] / "vectors"
FILES = sorted(VECTORS.glob("*.tflite"))
NET = (VECTORS / "foreign.signed.tflite").read_bytes()


def reading(data: bytes, name: str) -> tuple[TfliteModel | None, BackendError | None]:
    """What is read, or why it is not."""
    try:
        return read_tflite(data, name), None
    except BackendError as err:
        return None, err


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.name))
def test_whole_files_are_read(file: Path) -> None:
    model = read_tflite(file.read_bytes(), file.name)
    assert model.graphs[0].operators and model.graphs[0].inputs and model.graphs[0].outputs


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.name))
def test_no_part_of_a_file_is_a_file(file: Path) -> None:
    """Trailing zeros may be missing; what is read without them is what was there."""
    data = file.read_bytes()
    for length in range(8, len(data), max(1, len(data) // 150)):
        found, refused = reading(data[:length], file.name)
        if refused is None:
            assert found == read_tflite(data, file.name)
        else:
            assert f"{file.name} is a damaged TFLite file of {length:,} bytes: " in refused.message
            assert refused.hint == "Copy or convert it again."


def test_a_file_cut_short() -> None:
    with pytest.raises(BackendError, match=r"^hand\.tflite is a damaged TFLite file of 2,500 bytes: .* its end"):
        read_tflite(NET[:2500], "hand.tflite")


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\x1c\0\0\0TFL3", b"\x08\x07\x12\x04torch", b"\0" * 100])
def test_what_is_no_file(data: bytes) -> None:
    with pytest.raises(BackendError, match=r"a\.tflite is (not|a damaged) "):
        read_tflite(data, "a.tflite")


@pytest.mark.parametrize("seed", range(8))
def test_changed_bytes_are_an_error_or_change_nothing_else(seed: int) -> None:
    """No byte makes the reader fail in another way."""
    rng = random.Random(seed)
    refused = 0
    for _ in range(60):
        data = bytearray(FILES[rng.randrange(len(FILES))].read_bytes())
        for _ in range(rng.choice((1, 4, 16))):
            place = rng.randrange(len(data))
            if rng.random() < 0.5:
                data[place] = rng.randrange(256)
            else:
                struct.pack_into(
                    "<i", data, min(place & ~3, len(data) - 4), rng.choice((0, -1, 1, 2**31 - 1, -(2**31)))
                )
        _, error = reading(bytes(data), "a.tflite")
        if error is not None:
            refused += 1
            assert "a.tflite" in error.message and error.hint
    assert refused > 10


def changed(change: Callable[[Any], None], data: bytes = NET) -> bytes:
    """The file with one thing else, written by the FlatBuffers compiler's own code."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    import flatbuffers

    model = schema.ModelT.InitFromPackedBuf(data, 0)
    change(model)
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def operator(model: Any, name: str) -> Any:
    """The first operator of a kind."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    number = getattr(schema.BuiltinOperator, name)
    return next(
        one for one in model.subgraphs[0].operators if model.operatorCodes[one.opcodeIndex].builtinCode == number
    )


def tensor_of(model: Any, name: str, place: int) -> Any:
    return model.subgraphs[0].tensors[operator(model, name).inputs[place]]


def content_of(model: Any, name: str, place: int, values: list[int]) -> None:
    model.buffers[tensor_of(model, name, place).buffer].data = np.frombuffer(np.int32(values).tobytes(), np.uint8)


def set_field(owner: Callable[[Any], Any], field: str, value: Any) -> Callable[[Any], None]:
    return lambda model: setattr(owner(model), field, value)


def conv(model: Any) -> Any:
    return operator(model, "CONV_2D")


def graph(model: Any) -> Any:
    return model.subgraphs[0]


def image(model: Any) -> Any:
    return tensor_of(model, "CONV_2D", 0)


def kernel(model: Any) -> Any:
    return tensor_of(model, "CONV_2D", 1)


CHANGES: list[tuple[str, Callable[[Any], None]]] = [
    ("its schema has the version 4, not 3", set_field(lambda m: m, "version", 4)),
    ("it holds no graph", set_field(lambda m: m, "subgraphs", [])),
    (r"its graph takes and names the tensor 900 of \d+", set_field(graph, "inputs", [900])),
    (r"its graph gives and names the tensor -1 of \d+", set_field(graph, "outputs", [-1])),
    (r"operator \d+ \(CONV_2D\) names the tensor 77 of", set_field(conv, "inputs", [77, 1, 2])),
    (r"operator \d+ \(CONV_2D\) names the tensor -1 of", set_field(conv, "outputs", [-1])),
    (r"operator \d+ names the kind 99 of \d", set_field(conv, "opcodeIndex", 99)),
    (r"\(CONV_2D\) has fewer inputs than it reads", set_field(conv, "inputs", [0])),
    (r"\(CONV_2D\) has no output", lambda m: (setattr(conv(m), "outputs", []), setattr(graph(m), "outputs", []))[0]),
    (r"\(CONV_2D\) lacks its options", lambda m: (setattr(conv(m), "builtinOptions", None),
                                                  setattr(conv(m), "builtinOptionsType", 0))[0]),
    (r"\(CONV_2D\) has padding 2", set_field(lambda m: conv(m).builtinOptions, "padding", 2)),
    (r"\(CONV_2D\) has fused_activation_function 9",
     set_field(lambda m: conv(m).builtinOptions, "fusedActivationFunction", 9)),
    (r"\(CONV_2D\) has stride_w 0", set_field(lambda m: conv(m).builtinOptions, "strideW", 0)),
    (r"\(CONV_2D\) has dilation_h_factor 0", set_field(lambda m: conv(m).builtinOptions, "dilationHFactor", 0)),
    (r"tensor \d+ names the buffer 4000 of", set_field(kernel, "buffer", 4000)),
    (r"tensor \d+ has [\d,]+ bytes, and its shape", set_field(kernel, "shape", [8, 3, 3, 9])),
    (r"tensor \d+ has a size of -4", set_field(image, "shape", [1, -4, 4, 3])),
    (r"tensor \d+ has 4,294,967,296 elements", set_field(image, "shape", [65536, 65536])),
    (r"tensor \d+ has 9 axes", set_field(image, "shape", [1] * 9)),
    (r"writes tensor \d+: a constant", lambda m: setattr(conv(m), "outputs", [conv(m).inputs[1]])),
    (r"reads tensor \d+, which nothing before it writes", lambda m: setattr(graph(m), "inputs", [])),
    (r"its signature '.*' names the tensor 300 of",
     set_field(lambda m: m.signatureDefs[0].inputs[0], "tensorIndex", 300)),
    (r"its signature '.*' names the graph 3 of 1", set_field(lambda m: m.signatureDefs[0], "subgraphIndex", 3)),
]  # fmt: skip


def test_a_depthwise_convolution_without_a_bias() -> None:
    """LiteRT reads the bias all the same."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

    def change(model: Any) -> None:
        one = conv(model)
        one.inputs = list(one.inputs)[:2]
        code = model.operatorCodes[one.opcodeIndex]
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEPTHWISE_CONV_2D

    with pytest.raises(BackendError, match=r"\(DEPTHWISE_CONV_2D\) has fewer inputs than it reads"):
        read_tflite(changed(change), "a.tflite")


@pytest.mark.parametrize(("message", "change"), CHANGES, ids=[message for message, _ in CHANGES])
def test_numbers_that_point_at_nothing(message: str, change: Callable[[Any], None]) -> None:
    with pytest.raises(BackendError, match=message) as caught:
        read_tflite(changed(change), "a.tflite")
    assert caught.value.hint == "Copy or convert it again."


def test_scales_that_do_not_fit() -> None:
    data = (VECTORS / "tiny.int8.tflite").read_bytes()
    steps = lambda model: tensor_of(model, "CONV_2D", 1).quantization  # noqa: E731
    for message, field, value in (
        (r"tensor \d+ is quantised along the axis 7 of 4", "quantizedDimension", 7),
        (r"tensor \d+ has 3 scales for \d+ elements", "scale", [1.0, 1.0, 1.0]),
        (r"tensor \d+ has 1 zero points for \d+ scales", "zeroPoint", [0]),
    ):
        with pytest.raises(BackendError, match=message):
            read_tflite(changed(set_field(steps, field, value), data), "a.tflite")
    for message, field, value in (
        (r"tensor \d+ has a zero point beyond int8", "zeroPoint", 999),
        (r"tensor \d+ has a scale that is no step", "scale", float("nan")),
    ):
        with pytest.raises(BackendError, match=message):
            read_tflite(changed(lambda m, f=field, v=value: fill(steps(m), f, v), data), "a.tflite")


def fill(owner: Any, field: str, value: float) -> None:
    """Gives all elements of a vector one value."""
    setattr(owner, field, [value] * len(getattr(owner, field)))


@pytest.mark.parametrize(
    ("message", "name", "place", "values"),
    [
        (r"\(PAD\) has paddings of \[0, 0, -1, 1, 1, 1, 0, 0\]", "PAD", 1, [0, 0, -1, 1, 1, 1, 0, 0]),
        (r"\(TRANSPOSE\) has the axis 4 of 3", "TRANSPOSE", 1, [0, 2, 4]),
        (r"\(TRANSPOSE\) has the order \[0, 2, 2\]", "TRANSPOSE", 1, [0, 2, 2]),
        (r"\(REDUCE_MAX\) has the axis 1000 of", "REDUCE_MAX", 1, [1000]),
        (r"\(RESHAPE\) gives the shape \[1, 7, 5\] of \d+ elements", "RESHAPE", 1, [1, 7, 5]),
        (r"\(STRIDED_SLICE\) has a step of 0", "STRIDED_SLICE", 3, [1, 1, 0]),
    ],
)
def test_constants_that_an_operator_cannot_take(message: str, name: str, place: int, values: list[int]) -> None:
    data = (VECTORS / "tiny.fp32.tflite").read_bytes() if name == "PAD" else NET

    def change(model: Any) -> None:
        content_of(model, name, place, values)
        tensor_of(model, name, place).shape = [len(values)] if name != "PAD" else [4, 2]

    with pytest.raises(BackendError, match=message):
        read_tflite(changed(change, data), "a.tflite")


def test_a_graph_may_not_run_itself() -> None:
    """Without end; a kernel looks for the graph in all of them."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

    def change(model: Any) -> None:
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode = schema.BuiltinOperator.CALL_ONCE, 127
        model.operatorCodes.append(code)
        one = schema.OperatorT()
        one.opcodeIndex, one.inputs, one.outputs = len(model.operatorCodes) - 1, [], []
        one.builtinOptions, one.builtinOptionsType = (
            schema.CallOnceOptionsT(),
            schema.BuiltinOptions.CallOnceOptions,
        )
        model.subgraphs[0].operators.append(one)

    with pytest.raises(BackendError, match=r"\(CALL_ONCE\) of graph 0 runs graph 0 of 1"):
        read_tflite(changed(change), "a.tflite")


# --- FlatBuffers of any kind ---

TREE = Schema("Node name:s children:[Node] next:Node sizes:[q] flag:? kind:|Kind\nLeaf size:q=7", {"Kind": "Leaf Node"})


def test_what_is_shared_is_read_once() -> None:
    """20 levels of a tree whose two branches are one: a million nodes where each is read anew."""
    levels = 20
    body = struct.pack("<HHHH", 8, 8, 0, 4)
    node = lambda distance, back: struct.pack("<iI", back, distance)  # noqa: E731
    data = struct.pack("<I", 4 + len(body)) + body
    for _ in range(levels):
        data += node(8 - 4, len(data) - 4)  # its vector follows
        data += struct.pack("<III", 2, 8, 4)
    data += struct.pack("<iI", len(data) - 4, 4) + struct.pack("<I", 0)
    root = read_flatbuffer(data, TREE, "Node")
    depth = 0
    while root["children"]:
        assert len(root["children"]) == 2 and root["children"][0] is root["children"][1]
        root, depth = root["children"][0], depth + 1
    assert depth == levels


def test_a_table_that_holds_itself() -> None:
    """The reader ends; what it found holds itself, too."""
    data = struct.pack("<I", 16) + struct.pack("<HHHHHH", 10, 8, 0, 0, 4, 0) + struct.pack("<iI", 12, 0xFFFFFFFC)
    with pytest.raises(DamagedError, match="next of a table \\(Node\\) lies beyond its end"):
        read_flatbuffer(data, TREE, "Node")
