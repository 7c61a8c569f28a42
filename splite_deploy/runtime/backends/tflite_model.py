"""A ``.tflite`` file of any maker, read and checked before an interpreter sees it.

LiteRT believes a file: numbers that point beyond it, or at nothing, end its process. Here the bytes are checked as a
FlatBuffer, then everything that points at something else: tensors at buffers, operators at tensors and kinds,
signatures at graphs; then the operators, as far as their kernels read what they do not check.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from splite_deploy.errors import BackendError
from splite_deploy.runtime.backends.flatbuffer import DamagedError, Record, read_flatbuffer
from splite_deploy.runtime.backends.tflite_operators import called_graphs, check_operator
from splite_deploy.runtime.backends.tflite_schema import OPERATORS, SCHEMA, TYPES

_IDENTIFIER = b"TFL3"
_BITS = {
    **dict.fromkeys(("int4", "uint4"), 4),
    "int2": 2,
    **dict.fromkeys(("uint8", "int8", "bool"), 8),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 16),
    **dict.fromkeys(("float32", "int32", "uint32"), 32),
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 64),
    "complex128": 128,
}
"""Of one element in a buffer; other types have no fixed size."""
_RANGES = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-(2**15), 2**15 - 1),
    "uint16": (0, 2**16 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int4": (-8, 7),
    "int2": (-2, 1),
}
"""Of the integers that stand for others by a scale."""
_MOST_ELEMENTS = 2**31 - 1
_MOST_AXES = 8
_VERSION = 3


class ModelTensor(NamedTuple):
    """A tensor of a graph.

    Attributes:
        name: Its name; empty where it has none.
        shape: Its sizes.
        signature: The same, with -1 where the file leaves one open; empty where it says no more.
        dtype: numpy name of its type, or LiteRT's where numpy has none.
        data: Its content, where it is a constant; None else.
        scale: Of its integers: one for all, or one for each element of an axis; empty where they have none.
        zero_point: The integers that stand for 0, likewise.
        axis: That axis.
        variable: Whether it keeps its content from one run to the next.
        sparse: Whether its content leaves out zeros.
    """

    name: str
    shape: tuple[int, ...]
    signature: tuple[int, ...]
    dtype: str
    data: memoryview | None
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int
    variable: bool
    sparse: bool

    @property
    def size(self) -> int:
        """Number of its elements."""
        return elements(self.shape)


class ModelOperator(NamedTuple):
    """An operator of a graph.

    Attributes:
        name: For example ``CONV_2D``; of one that LiteRT does not define the name its maker gave it.
        custom: Whether LiteRT does not define it.
        inputs: Numbers of the tensors it reads; -1 for one that is left out.
        outputs: Numbers of those it writes.
        options: The fields of its options, of both sets; empty where it has none.
    """

    name: str
    custom: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Record


class ModelGraph(NamedTuple):
    """A graph; the first of a file is what an interpreter runs."""

    tensors: tuple[ModelTensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operators: tuple[ModelOperator, ...]


class ModelSignature(NamedTuple):
    """Names of a graph's inputs and outputs, with the numbers of their tensors."""

    graph: int
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


class TfliteModel(NamedTuple):
    """A file."""

    graphs: tuple[ModelGraph, ...]
    signatures: tuple[ModelSignature, ...]


def read_tflite(data: bytes, name: str) -> TfliteModel:
    """Reads and checks a file.

    Args:
        data: The file.
        name: Its name, for messages.

    Raises:
        BackendError: It is no TFLite file, or a damaged one.
    """
    if data[4:8] != _IDENTIFIER:
        kind = "it looks like an ONNX graph" if data[:1] == b"\x08" else "it does not begin as one"
        raise BackendError(
            f"{name} is not a TFLite file: {kind}.",
            hint="Name a file that TensorFlow Lite's converter or another tool wrote as a .tflite file.",
        )
    try:
        return _model(read_flatbuffer(data, SCHEMA, "Model"), data)
    except DamagedError as err:
        raise BackendError(
            f"{name} is a damaged TFLite file of {len(data):,} bytes: {err}.", hint="Copy or convert it again."
        ) from err


def elements(shape: Sequence[int]) -> int:
    """Number of elements of a shape."""
    count = 1
    for size in shape:
        count *= size
    return count


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise DamagedError(message)


def _model(model: Record, data: bytes) -> TfliteModel:
    _require(model["version"] == _VERSION, f"its schema has the version {model['version']}, not {_VERSION}")
    buffers = [_content(buffer, data, number) for number, buffer in enumerate(model["buffers"] or ())]
    codes = [_operator_name(code) for code in model["operator_codes"] or ()]
    found: Sequence[Record] = model["subgraphs"] or ()
    _require(bool(found), "it holds no graph")
    metadata = [*(model["metadata_buffer"] or ()), *(one["buffer"] for one in model["metadata"] or ())]
    _within(metadata, len(buffers), "its metadata", "buffer")
    graphs = tuple(
        _graph(graph, buffers, codes, "its graph" if not number else f"graph {number}")
        for number, graph in enumerate(found)
    )
    _check_calls(graphs)
    signatures = tuple(_signature(one, graphs) for one in model["signature_defs"] or ())
    return TfliteModel(graphs, signatures)


def _content(buffer: Record, data: bytes, number: int) -> memoryview | None:
    """The bytes of a buffer; None where it is empty. Those of large files lie after the FlatBuffer."""
    if buffer["offset"] > 1:
        end = buffer["offset"] + buffer["size"]
        _require(end <= len(data), f"buffer {number} ends beyond its end")
        return memoryview(data)[buffer["offset"] : end]
    content: memoryview | None = buffer["data"]
    return content or None


def _operator_name(code: Record) -> tuple[str, bool]:
    """Name of a kind of operators, and whether its maker defined it."""
    number = max(code["builtin_code"], code["deprecated_builtin_code"])  # the old field holds one byte
    _require(number >= 0, f"it has an operator of the kind {number}")
    name = OPERATORS[number] if number < len(OPERATORS) else f"operator {number}"  # of a later LiteRT
    if name == "CUSTOM":
        _require(bool(code["custom_code"]), "an operator of its maker's own has no name")
        return code["custom_code"], True
    return name, False


def _within(numbers: Collection[int], count: int, who: str, what: str, least: int = 0) -> None:
    for number in numbers:
        if not least <= number < count:
            raise DamagedError(f"{who} names the {what} {number} of {count}")


def _graph(
    graph: Record,
    buffers: Sequence[memoryview | None],
    codes: Sequence[tuple[str, bool]],
    which: str,
) -> ModelGraph:
    tensors = tuple([_tensor(one, buffers, number) for number, one in enumerate(graph["tensors"] or ())])
    count = len(tensors)
    inputs, outputs = graph["inputs"] or (), graph["outputs"] or ()
    _within(inputs, count, f"{which} takes and", "tensor")
    _within(outputs, count, f"{which} gives and", "tensor")
    operators = []
    ready = {*inputs, -1}
    ready.update(i for i, one in enumerate(tensors) if one.data is not None or one.variable or not one.size)
    written = {*inputs, *(i for i, one in enumerate(tensors) if one.variable)}
    for number, one in enumerate(graph["operators"] or ()):
        index = one["opcode_index"]
        _within((index,), len(codes), f"operator {number}", "kind")
        name, custom = codes[index]
        who = f"operator {number} ({name})"
        reads, writes = one["inputs"] or (), one["outputs"] or ()
        _within(reads, count, who, "tensor", least=-1)
        _within(writes, count, who, "tensor", least=-1 if custom else 0)
        _within(one["intermediates"] or (), count, who, "tensor")
        for tensor in reads:
            _require(tensor in ready, f"{who} reads tensor {tensor}, which nothing before it writes")
        for tensor in writes:
            _require(
                tensor not in written and (tensor < 0 or tensors[tensor].data is None),
                f"{who} writes tensor {tensor}: a constant, an input, a state, or written before",
            )
        ready.update(writes)
        written.update(one for one in writes if one >= 0)
        operator = ModelOperator(name, custom, reads, writes, _options(one, who))
        operators.append(operator)
        if not custom:
            check_operator(operator, tensors, who)
    for tensor in outputs:
        _require(tensor in ready, f"{which} gives tensor {tensor}, which nothing writes")
    return ModelGraph(tensors, inputs, outputs, tuple(operators))


def _check_calls(graphs: Sequence[ModelGraph]) -> None:
    """Checks which graphs operators run: those after their own, so that none runs itself.

    Raises:
        DamagedError: One runs another.
    """
    for place, graph in enumerate(graphs):
        for number, operator in enumerate(graph.operators):
            for called in called_graphs(operator):
                who = f"operator {number} ({operator.name}) of graph {place}"
                _require(place < called < len(graphs), f"{who} runs graph {called} of {len(graphs)}")


def _options(operator: Record, who: str) -> Record:
    _require(
        operator["large_custom_options_offset"] <= 1 or operator["large_custom_options_size"] == 0,
        f"{who} keeps options outside of the FlatBuffer",
    )
    kind = operator["builtin_options_type"] or operator["builtin_options_2_type"]
    options: Record = operator["builtin_options"] or operator["builtin_options_2"] or {}
    return {"": kind, **options}


def _tensor(tensor: Record, buffers: Sequence[memoryview | None], number: int) -> ModelTensor:
    who = f"tensor {number}"
    _require(tensor["type"] >= 0, f"{who} has the type {tensor['type']}")
    dtype = TYPES[tensor["type"]] if tensor["type"] < len(TYPES) else f"type {tensor['type']}"
    shape, signature = tensor["shape"] or (), tensor["shape_signature"] or ()
    _within((tensor["buffer"],), len(buffers), who, "buffer")
    _require(len(shape) <= _MOST_AXES, f"{who} has {len(shape)} axes")
    _require(not signature or len(signature) == len(shape), f"{who} has two shapes of unlike length")
    _require(min(signature, default=0) >= -1, f"{who} has a size of {min(signature, default=0)}")
    _require(min(shape, default=0) >= 0, f"{who} has a size of {min(shape, default=0)}")
    count = elements(shape)
    _require(count <= _MOST_ELEMENTS, f"{who} has {count:,} elements")
    data, bits = buffers[tensor["buffer"]], _BITS.get(dtype)
    sparse = tensor["sparsity"] is not None
    if data is not None and bits is not None and not sparse:
        wanted = (count * bits + 7) // 8
        _require(len(data) == wanted, f"{who} has {len(data):,} bytes, and its shape {wanted:,}")
    steps: Mapping[str, Any] = tensor["quantization"] or {}
    scale, zero = steps.get("scale") or (), steps.get("zero_point") or ()
    axis = steps.get("quantized_dimension", 0)
    if len(scale) > 1:
        _require(0 <= axis < len(shape), f"{who} is quantised along the axis {axis} of {len(shape)}")
        _require(len(scale) == shape[axis], f"{who} has {len(scale)} scales for {shape[axis]} elements")
    _require(len(zero) == len(scale), f"{who} has {len(zero)} zero points for {len(scale)} scales")
    if scale and dtype in _RANGES:
        low, high = _RANGES[dtype]
        _require(low <= min(zero) and max(zero) <= high, f"{who} has a zero point beyond {dtype}")
        _require(all(0 <= one < math.inf for one in scale), f"{who} has a scale that is no step")
    if sparse:
        _check_sparse(tensor["sparsity"], shape, data, bits, who)
    return ModelTensor(
        tensor["name"] or "", shape, signature, dtype, data, scale, zero, axis, bool(tensor["is_variable"]), sparse
    )


def _check_sparse(sparsity: Record, shape: Sequence[int], data: memoryview | None, bits: int | None, who: str) -> None:
    """Checks how a tensor leaves out zeros: its axes in their order, blocks last, each dense or with two tables.

    The form is that of https://arxiv.org/abs/1804.10112 (TACO), as the comments of LiteRT's schema describe it.
    """
    order, blocks = sparsity["traversal_order"] or (), sparsity["block_map"] or ()
    axes = sparsity["dim_metadata"] or ()
    whole = len(shape) + len(blocks)
    _require(sorted(order) == list(range(whole)) and len(axes) == whole, f"{who} names not each axis once")
    _within(blocks, len(shape), who, "axis")
    sizes = list(shape)
    block_sizes = []
    for place, axis in enumerate(order):
        if axis >= len(shape):
            size = axes[place]["dense_size"]
            block = blocks[axis - len(shape)]
            _require(axes[place]["format"] == 0 and size > 0, f"{who} has a block without size")
            _require(sizes[block] % size == 0, f"{who} has blocks of {size} in an axis of {sizes[block]}")
            sizes[block] //= size
            block_sizes.append(size)
    parts = 1
    for place, axis in enumerate(order):
        described = axes[place]
        wanted = described["dense_size"] if axis >= len(shape) else sizes[axis]
        if described["format"] == 0:
            _require(described["dense_size"] == wanted, f"{who} has another size than its dense axis")
            parts *= wanted
            _require(parts <= _MOST_ELEMENTS, f"{who} has too many elements")
            continue
        _require(described["format"] == 1, f"{who} has an axis of the form {described['format']}")
        segments, indices = (
            tuple((described[name] or {}).get("values") or ()) for name in ("array_segments", "array_indices")
        )
        rising = all(before <= after for before, after in pairwise(segments))
        _require(
            len(segments) == parts + 1 and segments[0] == 0 and segments[-1] == len(indices) and rising,
            f"{who} has a table of segments that does not fit",
        )
        _within(indices, wanted, who, "index")
        parts = len(indices)
    if data is not None and bits is not None:
        _require(len(data) == (parts * bits + 7) // 8, f"{who} has {len(data):,} bytes for {parts:,} elements")


def _signature(signature: Record, graphs: Sequence[ModelGraph]) -> ModelSignature:
    who = f"its signature '{signature['signature_key'] or ''}'"
    _within((signature["subgraph_index"],), len(graphs), who, "graph")
    graph = graphs[signature["subgraph_index"]]
    sides = []
    for side in ("inputs", "outputs"):
        entries = tuple((entry["name"] or "", entry["tensor_index"]) for entry in signature[side] or ())
        _within([index for _, index in entries], len(graph.tensors), who, "tensor")
        sides.append(entries)
    return ModelSignature(signature["subgraph_index"], *sides)
