"""What a ``.tflite`` file computes with, read back from it: its tensors, its operators and the types they work in.

The file is read as data, by the accessors that the FlatBuffers compiler made of LiteRT's schema; none of its code runs.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from splite_deploy.errors import BackendError, CompileError

_IDENTIFIER = b"TFL3"
_TYPES = {value: name.lower() for name, value in vars(schema.TensorType).items() if name.isupper()}
_OPERATORS = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL", "CONV_3D")
_UNPACKING = ("DEQUANTIZE", "DENSIFY")
"""Operators that turn constants into what others read, once, while a file is loaded."""


@dataclass(frozen=True)
class Operator:
    """One operator.

    Attributes:
        name: For example ``CONV_2D``.
        inputs: Types of its inputs as it reads them; those left out are not listed.
        outputs: Types of its outputs.
        result: Name of its first output.
        weights: Type in which its weights are stored, however they are read; empty for an operator without weights.
        weight_count: Number of its weights.
        computed: Types of the inputs that other operators or the caller compute; the rest lies in the file.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    result: str
    weights: str = ""
    weight_count: int = 0
    computed: tuple[str, ...] = ()

    @property
    def unpacks_weights(self) -> bool:
        """Whether it does no more than that, once, while the file is loaded."""
        return self.name in _UNPACKING and not self.computed

    @property
    def types(self) -> str:
        """For example ``int8,int8,int32->int8``; ``[float16]`` follows where the weights are stored in another type."""
        stored = f"[{self.weights}]" if self.weights and self.weights != self.inputs[1] else ""
        return f"{','.join(self.inputs)}{stored}->{','.join(self.outputs)}"


@dataclass(frozen=True)
class FileTensor:
    """An input or an output of the file.

    Attributes:
        shape: Its sizes.
        dtype: numpy name of its type.
    """

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Tensor:
    """An input or an output of a file of any maker.

    Attributes:
        name: Its name in the file.
        called: Its name in the file's signature; empty where the file has none.
        shape: Its sizes; None where the file leaves one open.
        dtype: numpy name of its type.
        scale: What a step of its integers stands for; None where they stand for themselves, or it is float.
        zero_point: The integer that stands for 0; None without a scale.
    """

    name: str
    called: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None
    zero_point: int | None


@dataclass(frozen=True)
class ForeignContents:
    """A file of any maker without its weights: its first graph, which is what an interpreter runs.

    Attributes:
        inputs: Its inputs, in the file's order.
        outputs: Its outputs, likewise.
        operators: In the order in which they run.
        custom: Names of the operators that LiteRT does not define, sorted.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    custom: tuple[str, ...]


@dataclass(frozen=True)
class Contents:
    """A ``.tflite`` file without its weights.

    Attributes:
        inputs: Its inputs by their name in the signature.
        outputs: Its outputs, likewise.
        operators: In the order in which they run.
    """

    inputs: Mapping[str, FileTensor]
    outputs: Mapping[str, FileTensor]
    operators: tuple[Operator, ...]

    def histogram(self) -> dict[str, dict[str, int]]:
        """How many operators of each name work in which types: ``{"CONV_2D": {"int8,int8,int32->int8": 25}}``."""
        found: dict[str, Counter[str]] = {}
        for operator in self.operators:
            found.setdefault(operator.name, Counter())[operator.types] += 1
        return {name: dict(sorted(found[name].items())) for name in sorted(found)}


def read_contents(path: Path) -> Contents:
    """Reads a file with one signature, as `splite_deploy.compile.tflite.compiler` makes them.

    Raises:
        CompileError: It is no such file.
    """
    return parse_contents(path.read_bytes(), path.name)


def parse_contents(data: bytes, name: str) -> Contents:
    """The same from memory; the name is for messages."""
    if data[4:8] != _IDENTIFIER:
        raise CompileError(f"{name} is not a TFLite file.", hint="Compile the bundle again.")
    model = schema.Model.GetRootAs(data)
    if model.SignatureDefsLength() != 1:
        raise CompileError(
            f"{name} has {model.SignatureDefsLength()} signatures, not one.", hint="Compile the bundle again."
        )
    signature = model.SignatureDefs(0)
    graph = model.Subgraphs(signature.SubgraphIndex())
    return Contents(
        dict(_tensor(graph, signature.Inputs(index)) for index in range(signature.InputsLength())),
        dict(_tensor(graph, signature.Outputs(index)) for index in range(signature.OutputsLength())),
        tuple(_operators(model, graph)),
    )


def read_operators(data: bytes) -> tuple[Operator, ...]:
    """The operators of the first graph of a file, also of one without a signature, in the order in which they run."""
    model = schema.Model.GetRootAs(data)
    return tuple(_operators(model, model.Subgraphs(0)))


def read_foreign(data: bytes, name: str) -> ForeignContents:
    """Reads a file of any maker: without a signature, or with several.

    Args:
        data: The file.
        name: Its name, for messages.

    Raises:
        BackendError: It is no TFLite file, or a damaged one.
    """
    with _reading(data, name):
        model = schema.Model.GetRootAs(data)
        graph = model.Subgraphs(0)
        called: dict[int, str] = {}
        for number in range(model.SignatureDefsLength() if model.SignatureDefsLength() == 1 else 0):
            signature = model.SignatureDefs(number)
            entries = [signature.Inputs(i) for i in range(signature.InputsLength())]
            entries += [signature.Outputs(i) for i in range(signature.OutputsLength())]
            if signature.SubgraphIndex() == 0:
                called = {entry.TensorIndex(): entry.Name().decode() for entry in entries}
        operators = tuple(_operators(model, graph))
        codes = [model.OperatorCodes(index) for index in range(model.OperatorCodesLength())]
        custom = {_name(code) for code in codes if _number(code) == schema.BuiltinOperator.CUSTOM}
        return ForeignContents(
            tuple(_foreign(graph, index, called) for index in graph.InputsAsNumpy().tolist()),
            tuple(_foreign(graph, index, called) for index in graph.OutputsAsNumpy().tolist()),
            operators,
            tuple(sorted(custom)),
        )


@contextmanager
def _reading(data: bytes, name: str) -> Iterator[None]:
    """Tells what a file that is not what it should be trips its reader over.

    Raises:
        BackendError: It is no TFLite file, or a damaged one.
    """
    hint = "Name a file that TensorFlow Lite's converter or another tool wrote as a .tflite file."
    if data[4:8] != _IDENTIFIER:
        kind = "an ONNX graph?" if data[:1] == b"\x08" else "it does not begin as one"
        raise BackendError(f"{name} is not a TFLite file: {kind}.", hint=hint)
    try:
        yield
    except (
        struct.error,
        AttributeError,
        TypeError,
        KeyError,
        IndexError,
        ValueError,
        OverflowError,
        MemoryError,
    ) as err:
        # What numbers that point beyond the file, or at nothing, end in: the accessors check none of them.
        raise BackendError(
            f"{name} is a damaged TFLite file: its content ends, or points beyond its end.",
            hint="Copy or convert it again.",
        ) from err


def _foreign(graph: Any, index: int, called: Mapping[int, str]) -> Tensor:
    tensor = graph.Tensors(index)
    sizes = [] if tensor.ShapeIsNone() else tensor.ShapeAsNumpy().tolist()
    if not tensor.ShapeSignatureIsNone() and tensor.ShapeSignatureLength() == len(sizes):
        sizes = tensor.ShapeSignatureAsNumpy().tolist()
    dtype, steps = _TYPES[tensor.Type()], tensor.Quantization()
    scale, zero = None, None
    if steps is not None and steps.ScaleLength() == 1 and steps.Scale(0) > 0 and "int" in dtype:
        scale, zero = float(steps.Scale(0)), int(steps.ZeroPoint(0)) if steps.ZeroPointLength() else 0
    shape = tuple(None if size < 0 else size for size in sizes)
    return Tensor((tensor.Name() or b"").decode(), called.get(index, ""), shape, dtype, scale, zero)


def _tensor(graph: Any, entry: Any) -> tuple[str, FileTensor]:
    tensor = graph.Tensors(entry.TensorIndex())
    return entry.Name().decode(), FileTensor(tuple(tensor.ShapeAsNumpy().tolist()), _TYPES[tensor.Type()])


def _operators(model: Any, graph: Any) -> Iterator[Operator]:
    stored: dict[int, str] = {}  # type of the constant behind a tensor
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        if model.Buffers(tensor.Buffer()).DataLength():
            stored[index] = _TYPES[tensor.Type()]
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        inputs = [i for i in operator.InputsAsNumpy().tolist() if i >= 0]
        outputs = operator.OutputsAsNumpy().tolist()
        name = _name(model.OperatorCodes(operator.OpcodeIndex()))
        if name in _UNPACKING and inputs[0] in stored:
            stored[outputs[0]] = stored[inputs[0]]
        weighted = name in _WEIGHTED and inputs[1] in stored
        count = 1
        for size in graph.Tensors(inputs[1]).ShapeAsNumpy().tolist() if weighted else ():
            count *= size
        yield Operator(
            name,
            tuple(_TYPES[graph.Tensors(i).Type()] for i in inputs),
            tuple(_TYPES[graph.Tensors(i).Type()] for i in outputs),
            graph.Tensors(outputs[0]).Name().decode(),
            stored[inputs[1]] if weighted else "",
            count if weighted else 0,
            tuple(_TYPES[graph.Tensors(i).Type()] for i in inputs if i not in stored),
        )


def _name(code: Any) -> str:
    number = _number(code)
    if number == schema.BuiltinOperator.CUSTOM:
        return str(code.CustomCode().decode())
    known: str = _OPERATORS.get(number, f"operator {number}")  # of a later LiteRT than the one installed
    return known


def _number(code: Any) -> int:
    number: int = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # the old field holds one byte
    return number
