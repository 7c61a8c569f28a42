"""What a ``.tflite`` file computes with, read back from it: its tensors, its operators and the types they work in.

`splite_deploy.runtime.backends.tflite_model` reads and checks it; none of its code runs, and LiteRT is not needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from splite_deploy.errors import BackendError, CompileError
from splite_deploy.runtime.backends.tflite_model import ModelGraph, ModelTensor, elements, read_tflite

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
    try:
        model = read_tflite(data, name)
    except BackendError as err:
        raise CompileError(err.message, hint="Compile the bundle again.") from err
    if len(model.signatures) != 1:
        raise CompileError(f"{name} has {len(model.signatures)} signatures, not one.", hint="Compile the bundle again.")
    (signature,) = model.signatures
    graph = model.graphs[signature.graph]
    inputs, outputs = (
        {called: FileTensor(graph.tensors[index].shape, graph.tensors[index].dtype) for called, index in side}
        for side in (signature.inputs, signature.outputs)
    )
    return Contents(inputs, outputs, tuple(_operators(graph)))


def read_operators(data: bytes) -> tuple[Operator, ...]:
    """The operators of the first graph of a file, also of one without a signature, in the order in which they run.

    Raises:
        BackendError: It is no TFLite file, or a damaged one.
    """
    return tuple(_operators(read_tflite(data, "The file").graphs[0]))


def read_foreign(data: bytes, name: str) -> ForeignContents:
    """Reads a file of any maker: without a signature, or with several.

    Args:
        data: The file.
        name: Its name, for messages.

    Raises:
        BackendError: It is no TFLite file, or a damaged one.
    """
    model = read_tflite(data, name)
    graph = model.graphs[0]
    called: dict[int, str] = {}
    if len(model.signatures) == 1 and model.signatures[0].graph == 0:
        (signature,) = model.signatures
        called = {index: entry for entry, index in (*signature.inputs, *signature.outputs)}
    return ForeignContents(
        tuple(_foreign(graph.tensors[index], called.get(index, "")) for index in graph.inputs),
        tuple(_foreign(graph.tensors[index], called.get(index, "")) for index in graph.outputs),
        tuple(_operators(graph)),
        tuple(sorted({one.name for each in model.graphs for one in each.operators if one.custom})),
    )


def _foreign(tensor: ModelTensor, called: str) -> Tensor:
    scale, zero = None, None
    if len(tensor.scale) == 1 and tensor.scale[0] > 0 and "int" in tensor.dtype:
        scale, zero = tensor.scale[0], tensor.zero_point[0]
    shape = tuple(None if size < 0 else size for size in tensor.signature or tensor.shape)
    return Tensor(tensor.name, called, shape, tensor.dtype, scale, zero)


def _operators(graph: ModelGraph) -> Iterator[Operator]:
    tensors = graph.tensors
    stored = {index: one.dtype for index, one in enumerate(tensors) if one.data is not None}  # types of constants
    for operator in graph.operators:
        inputs = [index for index in operator.inputs if index >= 0]
        outputs = [index for index in operator.outputs if index >= 0]
        name = operator.name
        if name in _UNPACKING and inputs[0] in stored:
            stored[outputs[0]] = stored[inputs[0]]
        weighted = name in _WEIGHTED and inputs[1] in stored
        yield Operator(
            name,
            tuple([tensors[index].dtype for index in inputs]),
            tuple([tensors[index].dtype for index in outputs]),
            tensors[outputs[0]].name if outputs else "",
            stored[inputs[1]] if weighted else "",
            elements(tensors[inputs[1]].shape) if weighted else 0,
            tuple([tensors[index].dtype for index in inputs if index not in stored]),
        )
