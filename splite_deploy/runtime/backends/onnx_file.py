"""What has to be known of an ONNX file before an inference engine sees it, without the package onnx.

Fields have the numbers of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto); they are stored as
https://protobuf.dev/programming-guides/encoding describes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from splite_deploy.errors import BackendError

LEAST_OPSET = 9
"""The oldest operator set that ``export`` takes: older graphs have batch norms, loops and casts of other forms."""
_VARINT, _I64, _LEN, _START_GROUP, _END_GROUP, _I32 = range(6)
_TENSOR = "TensorProto"
_WITHIN: Mapping[str, Mapping[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: _TENSOR, 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        **dict.fromkeys((5, 10), _TENSOR),
        **dict.fromkeys((6, 11), "GraphProto"),
        **dict.fromkeys((22, 23), "SparseTensorProto"),
    },
    "SparseTensorProto": dict.fromkeys((1, 2), _TENSOR),
    "TrainingInfoProto": dict.fromkeys((1, 2), "GraphProto"),
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
}
"""The messages in which tensors may lie, by the number of their field."""
_DATA_LOCATION, _EXTERNAL = 14, 1
_INT32 = 0xFFFFFFFF  # what protobuf keeps of an enumeration's number
_ELEMENTS: Mapping[int, str] = {
    **{1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string"},
    **{9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16"},
}
"""numpy's names of the types of a TensorProto, by their number."""


@dataclass(frozen=True)
class OnnxContents:
    """A graph without its weights.

    Attributes:
        producer: What wrote it, with its version; empty where it does not say.
        opset: Version of the operators of ONNX itself; None where it does not say.
        operators: How many nodes of each kind, subgraphs included; those of another domain with its name before theirs.
        weights: Number of constants, element by element, by their type.
    """

    producer: str
    opset: int | None
    operators: Mapping[str, int]
    weights: Mapping[str, int]


def read_onnx(data: bytes, name: str) -> OnnxContents:
    """Reads a graph's file without running it.

    Args:
        data: The file.
        name: Its name, for messages.

    Raises:
        BackendError: It is no ONNX graph.
    """
    try:
        return _contents(memoryview(data))
    except (IndexError, ValueError, KeyError) as err:
        raise BackendError(
            f"{name} is not an ONNX graph: it is no protocol buffer of that form.",
            hint="Name a file that an exporter wrote as .onnx.",
        ) from err


def _contents(data: memoryview) -> OnnxContents:
    producer, opset = ["", ""], None
    operators, weights, graphs = Counter[str](), Counter[str](), 0
    for kind, content in _messages(data):
        if kind == "ModelProto":
            for number, value in _fields(content):
                if number in (2, 3) and isinstance(value, memoryview):
                    producer[number - 2] = bytes(value).decode()
                elif number == 8 and isinstance(value, memoryview):
                    of_set = dict(_fields(value))
                    if not of_set.get(1):
                        opset = of_set[2]
        elif kind == "NodeProto":
            named = {number: bytes(value).decode() for number, value in _strings(content, (4, 7))}
            domain = named.get(7, "")
            operators[f"{domain}.{named[4]}" if domain not in ("", "ai.onnx") else named[4]] += 1
        elif kind == _TENSOR:
            weights.update(_elements(content))
        graphs += kind == "GraphProto"
    if not graphs:
        raise ValueError("no graph")
    return OnnxContents(" ".join(filter(None, producer)), opset if isinstance(opset, int) else None, operators, weights)


def _elements(tensor: memoryview) -> dict[str, int]:
    """The type of a tensor and how many elements it has."""
    count, kind = 1, 0
    for number, value in _fields(tensor):
        if number == 2 and isinstance(value, int):
            kind = value
        elif number == 1 and isinstance(value, int):
            count *= value
        elif number == 1 and isinstance(value, memoryview):  # packed
            place = 0
            while place < len(value):
                size, place = _varint(value, place)
                count *= size
    return {_ELEMENTS.get(kind, f"type {kind}"): count}


def _strings(content: memoryview, numbers: tuple[int, ...]) -> Iterator[tuple[int, memoryview]]:
    for number, value in _fields(content):
        if number in numbers and isinstance(value, memoryview):
            yield number, value


def refuse_external_data(data: bytes, name: str) -> None:
    """Raises where a graph keeps weights in other files: nobody checked those, and the engine would look for them.

    Args:
        data: The graph's file.
        name: Its name, for the message.

    Raises:
        BackendError: It does.
    """
    if has_external_data(data):
        raise BackendError(
            f"{name} keeps weights in another file, which nothing here has checked.",
            hint="Put the weights into the graph: onnx.save(onnx.load('GRAPH.onnx'), 'WHOLE.onnx').",
        )


def has_external_data(data: bytes) -> bool:
    """Whether a graph keeps weights in other files; False for what is no graph."""
    # Such a tensor names its file under the key "location": most graphs are done with here, however large they are.
    if b"location" not in data:
        return False
    try:
        return _any_external(memoryview(data))
    except (IndexError, ValueError):
        return False  # no protocol buffer: the engine will say so


def _any_external(data: memoryview) -> bool:
    for kind, content in _messages(data):
        if kind == _TENSOR:
            for number, value in _fields(content):
                if number == _DATA_LOCATION and isinstance(value, int) and value & _INT32 == _EXTERNAL:
                    return True
    return False


def _messages(data: memoryview) -> Iterator[tuple[str, memoryview]]:
    """A file's messages in which tensors may lie, and the tensors themselves, each with its kind."""
    left = [("ModelProto", data)]
    while left:
        kind, content = left.pop()
        yield kind, content
        within = _WITHIN.get(kind, {})
        for number, value in _fields(content) if within else ():
            if isinstance(value, memoryview) and number in within:
                left.append((within[number], value))


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message, in order; those of fixed length and within groups, which onnx.proto has none of, not."""
    place, depth = 0, 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            value, place = _varint(data, place)
            if depth == 0:
                yield number, value
        elif wire_type == _LEN:
            size, place = _varint(data, place)
            if place + size > len(data):
                raise ValueError("a field that ends after its message")
            if depth == 0:
                yield number, data[place : place + size]
            place += size
        elif wire_type in (_I64, _I32):
            place += 8 if wire_type == _I64 else 4
        elif wire_type in (_START_GROUP, _END_GROUP):
            depth += 1 if wire_type == _START_GROUP else -1
        else:
            raise ValueError(f"wire type {wire_type}")


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")
