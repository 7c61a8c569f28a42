"""What has to be known of an ONNX file before an inference engine sees it, without the package onnx.

Fields have the numbers of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto); they are stored as
https://protobuf.dev/programming-guides/encoding describes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from splite_deploy.errors import BackendError

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
    left = [("ModelProto", data)]
    while left:
        kind, content = left.pop()
        for number, value in _fields(content):
            if kind == _TENSOR:
                if number == _DATA_LOCATION and isinstance(value, int) and value & _INT32 == _EXTERNAL:
                    return True
            elif isinstance(value, memoryview) and number in _WITHIN[kind]:
                left.append((_WITHIN[kind][number], value))
    return False


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
