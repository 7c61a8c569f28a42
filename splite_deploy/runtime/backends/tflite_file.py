"""What a ``.tflite`` file computes with, read back from it: its tensors, its operators and the types they work in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from splite_deploy.errors import CompileError

_TYPES = {value: name.lower() for name, value in vars(schema.TensorType).items() if name.isupper()}
_OPERATORS = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL", "CONV_3D")


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
        return self.name == "DEQUANTIZE" and not self.computed

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
    if data[4:8] != b"TFL3":
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
        if name == "DEQUANTIZE" and inputs[0] in stored:
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
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # the old field holds one byte
    name: str = code.CustomCode().decode() if _OPERATORS[number] == "CUSTOM" else _OPERATORS[number]
    return name
