"""What has to be known of an ONNX file before an inference engine sees it, without the package onnx.

Fields have the numbers of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto); they are stored as
https://protobuf.dev/programming-guides/encoding describes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from splite_deploy.errors import BackendError

LEAST_OPSET = 9
"""The oldest operator set that ``export`` takes: older graphs have batch norms, loops and casts of other forms."""
_VARINT, _I64, _LEN, _START_GROUP, _END_GROUP, _I32 = range(6)
_TENSOR, _ATTRIBUTE = "TensorProto", "AttributeProto"
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
_DIMS, _DATA_TYPE, _RAW_DATA, _DATA_LOCATION, _EXTERNAL = 1, 2, 9, 14, 1
_INT32 = 0xFFFFFFFF  # what protobuf keeps of an enumeration's number
_ELEMENTS: Mapping[int, str] = {
    **{1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string"},
    **{9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16"},
}
"""numpy's names of the types of a TensorProto, by their number."""
_BITS: Mapping[int, int] = {
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13, 14), 64),
    15: 128,
}
"""Of one element in the raw data of a TensorProto, by the number of its type."""
_NAME, _INT, _INTS = 1, 3, 8
_SINGLE_STEPS = (b"group", b"blocksize")
_STEPS = (b"strides", b"dilations", b"kernel_shape", *_SINGLE_STEPS)
_SIGN = 1 << 63  # from here on a number is a negative one
_MOST_ELEMENTS = 1 << 40
_DEEPEST = 100  # of protobuf's own parsers
_MOST_PARTS = 4_000_000


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


def joined_contents(parts: Sequence[OnnxContents]) -> OnnxContents:
    """Parts of a graph as one."""
    operators, weights = Counter[str](), Counter[str]()
    for one in parts:
        operators.update(one.operators)
        weights.update(one.weights)
    return OnnxContents(parts[0].producer, parts[0].opset, operators, weights)


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
        elif number == 1 and isinstance(value, memoryview):
            for size in _packed(value):
                count *= size
    return {_ELEMENTS.get(kind, f"type {kind}"): count}


def _strings(content: memoryview, numbers: tuple[int, ...]) -> Iterator[tuple[int, memoryview]]:
    for number, value in _fields(content):
        if number in numbers and isinstance(value, memoryview):
            yield number, value


def check_onnx(data: bytes, name: str) -> None:
    """Checks a graph's file before native code sees it: its form as a protocol buffer, and its constants.

    A tensor anywhere in it, also in branches, functions, sparse tensors and what is for training, that keeps its values
    in another file is refused: nobody has checked that file, and an engine would look for it wherever the graph says.

    Args:
        data: The file.
        name: Its name, for messages.

    Raises:
        BackendError: It is damaged, or keeps weights in another file.
    """
    try:
        graphs = 0
        for kind, content in _messages(memoryview(data)):
            graphs += kind == "GraphProto"
            if kind == _ATTRIBUTE:
                _check_attribute(content)
            if kind == _TENSOR and _is_external(content):
                raise BackendError(
                    f"{name} keeps weights in another file, which nothing here has checked.",
                    hint="Put the weights into the graph: onnx.save(onnx.load('GRAPH.onnx'), 'WHOLE.onnx').",
                )
        if not graphs:
            raise ValueError("it holds no graph")
    except (IndexError, ValueError) as err:
        why = "it ends within a number" if isinstance(err, IndexError) else str(err)
        raise BackendError(
            f"{name} is no ONNX graph, or a damaged one of {len(data):,} bytes: {why}.",
            hint="Copy it again, or export it again from its framework.",
        ) from err


def _check_attribute(attribute: memoryview) -> None:
    """Checks steps, which ONNX Runtime divides by.

    Raises:
        ValueError: One is 0, or less.
    """
    name = b""
    values: list[int] = []
    for number, value in _fields(attribute):
        if number == _NAME and isinstance(value, memoryview):
            name = bytes(value)
            if name not in _STEPS:
                return
        elif number in (_INT, _INTS):
            values += [value] if isinstance(value, int) else _packed(value)
    if name in _SINGLE_STEPS:
        values = values or [0]  # protobuf's default, where it is left out
    if name in _STEPS and any(not 0 < value < _SIGN for value in values):
        raise ValueError(f"a node has {name.decode()} below 1")


def _is_external(tensor: memoryview) -> bool:
    """Whether a tensor keeps its values in another file; else its values are as many as its shape says.

    Raises:
        ValueError: They are not.
    """
    count, kind, external, raw = 1, 0, False, None
    for number, value in _fields(tensor):
        if number == _DIMS:
            for size in [value] if isinstance(value, int) else _packed(value):
                if size > _MOST_ELEMENTS:  # a negative one, too
                    raise ValueError("a tensor has a size that is none")
                count *= size
        elif number == _DATA_TYPE and isinstance(value, int):
            kind = value & _INT32
        elif number == _DATA_LOCATION and isinstance(value, int):
            external |= value & _INT32 == _EXTERNAL
        elif number == _RAW_DATA and isinstance(value, memoryview):
            raw = len(value)
    if external:
        return True
    if count > _MOST_ELEMENTS:
        raise ValueError(f"a tensor has {count:,} elements")
    if raw is not None and kind in _BITS and raw != (count * _BITS[kind] + 7) // 8:
        raise ValueError(f"a tensor of {count:,} elements has {raw:,} bytes of {_ELEMENTS.get(kind, f'type {kind}')}")
    return False


def _packed(values: memoryview) -> Iterator[int]:
    place = 0
    while place < len(values):
        value, place = _varint(values, place)
        yield value


def _messages(data: memoryview) -> Iterator[tuple[str, memoryview]]:
    """A file's messages in which tensors may lie, and the tensors themselves, each with its kind.

    Raises:
        IndexError: The file ends within a number.
        ValueError: It is no protocol buffer, or nested too deeply, or has too many parts.
    """
    left, parts = [("ModelProto", data, 0)], 0
    while left:
        kind, content, depth = left.pop()
        yield kind, content
        within = _WITHIN.get(kind)
        if within is None:
            continue
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        for number, value in _fields(content):
            parts += 1
            if number in within and isinstance(value, memoryview):
                left.append((within[number], value, depth + 1))
        if parts > _MOST_PARTS:
            raise ValueError("it has too many parts")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message, in order; those of fixed length and within groups, which onnx.proto has none of, not."""
    place, end, depth = 0, len(data), 0
    while place < end:
        tag = data[place]
        place += 1
        if tag >= 0x80:
            tag, place = _varint(data, place - 1)
            if tag > _INT32:
                raise ValueError("a field has a number that none has")
        wire_type = tag & 7
        if wire_type == _LEN:
            size = data[place]
            place += 1
            if size >= 0x80:
                size, place = _varint(data, place - 1)
            stop = place + size
            if stop > end:
                raise ValueError("a field ends after its message")
            if depth == 0:
                yield tag >> 3, data[place:stop]
            place = stop
        elif wire_type == _VARINT:
            value, place = _varint(data, place)
            if depth == 0:
                yield tag >> 3, value
        elif wire_type in (_I64, _I32):
            place += 8 if wire_type == _I64 else 4
            if place > end:
                raise ValueError("a field ends after its message")
        elif wire_type in (_START_GROUP, _END_GROUP):
            depth += 1 if wire_type == _START_GROUP else -1
            if depth < 0:
                raise ValueError("a group ends that has not begun")
        else:
            raise ValueError(f"a field has the wire type {wire_type}")
    if depth:
        raise ValueError("a group does not end")


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
            raise ValueError("a number has more than ten bytes")
