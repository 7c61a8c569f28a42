"""A TFLite file as a graph to walk and to change, through the schema's objects that ``ai_edge_litert`` brings."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from functools import cache
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TYPES = {0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 4: np.int64, 6: np.bool_, 7: np.int16, 9: np.int8}
_FLOAT32 = 0

WEIGHTED: Mapping[str, int] = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "FULLY_CONNECTED": 1,
    "TRANSPOSE_CONV": 1,
    "BATCH_MATMUL": 1,
    "CONV_3D": 1,
}
"""Operators with weights, and the input that holds them; BATCH_MATMUL may have two activations."""

MOVERS = frozenset(
    {
        "PAD", "PADV2", "MIRROR_PAD", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "SLICE", "STRIDED_SLICE",
        "SPLIT", "GATHER", "PACK", "UNPACK", "CONCATENATION", "MAX_POOL_2D", "AVERAGE_POOL_2D", "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "MAXIMUM", "MINIMUM", "REDUCE_MAX", "REDUCE_MIN",
    }
)  # fmt: skip
"""Operators whose results have the scale of what they read."""
Range = tuple[float, float]
"""The smallest and the largest value that the integers of a tensor stand for; it holds zero."""


def indices(entries: Iterable[Any]) -> dict[str, int]:
    """The tensors of one side of a signature by name."""
    return {entry.name.decode(): int(entry.tensorIndex) for entry in entries}


class Operator:
    """One operator of a `Network`.

    Attributes:
        raw: The schema's object.
        kind: For example ``CONV_2D``; the name of a custom one.
        inputs: Tensors by index; -1 for what is left out.
        outputs: Tensors by index.
    """

    def __init__(self, raw: Any, kind: str) -> None:
        self.raw, self.kind = raw, kind
        self.inputs: list[int] = [int(tensor) for tensor in raw.inputs]
        self.outputs: list[int] = [int(tensor) for tensor in raw.outputs]


class Network:
    """The first graph of a file; its tensors have names that differ, made so where they do not.

    Args:
        content: The file.

    Attributes:
        operators: In the order in which they run; the list may be changed.
        inputs: Tensors by index.
        outputs: Tensors by index.
    """

    def __init__(self, content: bytes) -> None:
        schema = _schema()
        self.model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
        for buffer in self.model.buffers:
            if buffer.data is None and buffer.offset > 1:  # weights that lie behind the flatbuffer
                buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
        self.graph: Any = self.model.subgraphs[0]
        self.inputs = [int(tensor) for tensor in self.graph.inputs]
        self.outputs = [int(tensor) for tensor in self.graph.outputs]
        self.operators = [Operator(raw, self._kind(raw.opcodeIndex)) for raw in self.graph.operators]
        self._name_tensors()

    def content(self) -> bytes:
        """The file of the graph as it is now."""
        return self._packed(self.updated())

    def updated(self) -> Any:
        """The schema's object of the file as it is now."""
        for operator in self.operators:
            operator.raw.inputs, operator.raw.outputs = operator.inputs, operator.outputs
        self.graph.operators = [operator.raw for operator in self.operators]
        self.graph.inputs, self.graph.outputs = self.inputs, self.outputs
        return self.model

    def copy(self) -> Network:
        """A copy to change, which shares the constants."""
        shared = {id(buffer): buffer for buffer in self.model.buffers}
        made = copy.deepcopy(self, shared)
        made.model.buffers = list(made.model.buffers)
        return made

    def with_kinds(self, content: bytes, kinds: Mapping[int, str]) -> bytes:
        """A file with other kinds in entries of its table of operators, and its weights inside of the flatbuffer."""
        changed = bytearray(content)
        model = _schema().Model.GetRootAs(changed)
        for index, kind in kinds.items():
            table = model.OperatorCodes(index)._tab
            number = getattr(_schema().BuiltinOperator, kind)
            for slot, packer, value in ((4, Struct("<b"), min(number, 127)), (10, Struct("<i"), number)):
                packer.pack_into(changed, table.Pos + table.Offset(slot), value)
        if not any(model.Buffers(index).Offset() > 1 for index in range(model.BuffersLength())):
            return bytes(changed)
        return Network(bytes(changed)).content()

    def name(self, tensor: int) -> str:
        """The name of a tensor, which no other has."""
        name: str = self.graph.tensors[tensor].name.decode("utf-8")
        return name

    def signed(self) -> dict[str, str]:
        """The names of the outputs' tensors by the names that the signature has for them."""
        signatures = self.model.signatureDefs or ()
        return {role: self.name(tensor) for one in signatures for role, tensor in indices(one.outputs).items()}

    def result(self, operator: Operator) -> str:
        """The name of the first tensor that an operator makes, by which operators are named."""
        return self.name(operator.outputs[0])

    def shape(self, tensor: int) -> tuple[int, ...]:
        """The shape of a tensor."""
        found = self.graph.tensors[tensor].shape
        return () if found is None else tuple(int(size) for size in found)

    def is_float(self, tensor: int) -> bool:
        """Whether a tensor is float32."""
        return tensor >= 0 and bool(self.graph.tensors[tensor].type == _FLOAT32)

    def constant(self, tensor: int) -> NDArray[Any] | None:
        """What the file says of a constant; None of an activation, and of what is left out."""
        if tensor < 0:
            return None
        found = self.graph.tensors[tensor]
        data = self.model.buffers[found.buffer].data
        if data is None or len(data) == 0 or found.type not in _TYPES:
            return None
        values: NDArray[Any] = np.frombuffer(np.asarray(data, np.uint8).tobytes(), _TYPES[found.type])
        return values.reshape(self.shape(tensor)) if values.size != 1 or self.shape(tensor) else values.reshape(())

    def activations(self, operator: Operator) -> list[int]:
        """The float tensors that an operator reads and that are no constants."""
        return [tensor for tensor in operator.inputs if self.is_float(tensor) and self.constant(tensor) is None]

    def makers(self) -> dict[int, Operator]:
        """The operator that makes each tensor."""
        return {tensor: operator for operator in self.operators for tensor in operator.outputs}

    def readers(self) -> dict[int, list[Operator]]:
        """The operators that read each tensor; outputs of the graph have one more, which is not listed."""
        found: dict[int, list[Operator]] = {}
        for operator in self.operators:
            for tensor in dict.fromkeys(operator.inputs):
                if tensor >= 0:
                    found.setdefault(tensor, []).append(operator)
        return found

    def add_constant(self, name: str, values: NDArray[Any]) -> int:
        """Adds a constant tensor; its name must be new."""
        buffer = _schema().BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        tensor = _schema().TensorT()
        tensor.name = name.encode()
        tensor.shape = list(values.shape)
        tensor.type = next(code for code, dtype in _TYPES.items() if values.dtype == dtype)
        tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def add_activation(self, name: str, shape: tuple[int, ...]) -> int:
        """Adds a float32 tensor that an operator makes; its name must be new."""
        tensor = _schema().TensorT()
        tensor.name, tensor.shape, tensor.buffer, tensor.type = name.encode(), list(shape), 0, _FLOAT32
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def insert(self, before: Operator, kind: str, inputs: list[int], output: int, options: Any) -> None:
        """Adds an operator that runs right before another one."""
        raw = _schema().OperatorT()
        raw.inputs, raw.outputs, raw.opcodeIndex = inputs, [output], 0
        operator = Operator(raw, kind)
        self.set_kind(operator, kind, options)
        self.operators.insert(self.operators.index(before), operator)

    def add_kind(self, kind: str, version: int = 1) -> int:
        """Adds an entry to the table of operators; returns its place."""
        number = getattr(_schema().BuiltinOperator, kind)
        added = _schema().OperatorCodeT()
        added.builtinCode, added.deprecatedBuiltinCode, added.version = number, min(number, 127), version
        self.model.operatorCodes.append(added)
        return len(self.model.operatorCodes) - 1

    def set_kind(self, operator: Operator, kind: str, options: Any, version: int = 1) -> None:
        """Makes an operator one of another kind, with options of the schema."""
        operator.kind, operator.raw.opcodeIndex = kind, self.add_kind(kind, version)
        operator.raw.builtinOptionsType = getattr(_schema().BuiltinOptions, type(options).__name__[:-1])
        operator.raw.builtinOptions = options

    def options(self, kind: str) -> Any:
        """New options of the schema, for example of ``FullyConnectedOptions``."""
        return getattr(_schema(), f"{kind}T")()

    @staticmethod
    def _packed(model: Any) -> bytes:
        import flatbuffers

        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _kind(self, index: int) -> str:
        code = self.model.operatorCodes[index]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)  # the old field holds one byte
        kind = _kinds()[number]
        return code.customCode.decode() if kind == "CUSTOM" else kind

    def _name_tensors(self) -> None:
        known: set[bytes] = set()
        for graph in self.model.subgraphs:
            for index, tensor in enumerate(graph.tensors):
                name = tensor.name or b""
                if not name or name in known:
                    name = name + b":%d" % index
                    while name in known:
                        name += b"'"
                tensor.name = name
                known.add(name)


def _schema() -> Any:
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


@cache
def _kinds() -> dict[int, str]:
    """The name of each built-in operator by its number."""
    return {value: name for name, value in vars(_schema().BuiltinOperator).items() if not name.startswith("_")}
