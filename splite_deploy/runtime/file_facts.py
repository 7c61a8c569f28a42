"""What a file without a bundle says of itself: inputs, outputs, operators, and how its numbers are stored.

Imports neither torch nor onnx nor TensorFlow. A TFLite file is read as data, without running anything of it; the sizes
and types of an ONNX graph's inputs and outputs are ONNX Runtime's, which infers what the file leaves out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from splite_deploy.bundle import TensorSpec
from splite_deploy.runtime.backends.litert import unique
from splite_deploy.runtime.backends.onnx_file import OnnxContents, read_onnx
from splite_deploy.runtime.backends.precision import Numbers, numbers_of_onnx, numbers_of_tflite
from splite_deploy.runtime.backends.tflite_file import Tensor, read_foreign
from splite_deploy.runtime.session import backend_of, configured, open_model_file, read_file
from splite_deploy.spec import Precision


@dataclass(frozen=True)
class TensorFacts:
    """One input or output of a file, in the file's own layout.

    Attributes:
        name: What a session calls it, and ``source`` of model.toml: its name in the file's signature where there is
            one, in the graph else.
        shape: Its sizes; None where the file leaves one open.
        dtype: numpy name of its type in the file.
        scale: What a step of its integers stands for; None where they stand for themselves, or it is float.
        zero_point: The integer that stands for 0; None without a scale.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None

    def __str__(self) -> str:
        sizes = " x ".join("?" if size is None else str(size) for size in self.shape) or "a number"
        steps = "" if self.scale is None else f", steps of {self.scale:.6g} from {self.zero_point}"
        return f"{self.name}: {sizes} {self.dtype}{steps}"


@dataclass(frozen=True)
class FileFacts:
    """What a file says of itself.

    Attributes:
        file: Its name.
        format: What kind of file it is, as in a manifest: ``onnx``, ``tflite``, ``engine``.
        size_bytes: Its size.
        inputs: Its inputs, in its own order.
        outputs: Its outputs, in its own order.
        operators: How many of each kind; none of an engine, which does not tell.
        custom: Operators that its format does not define, which nothing but its maker's runtime may have.
        precision: What a manifest would call it.
        numbers: How its weights are stored and what it computes in, as text.
        producer: What wrote it; empty where it does not say.
        opset: ONNX operator set; None for other formats.
    """

    file: str
    format: str
    size_bytes: int
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    operators: Mapping[str, int]
    custom: tuple[str, ...]
    precision: Precision
    numbers: str
    producer: str = ""
    opset: int | None = None


def describe_file(path: Path, data: bytes | None = None) -> FileFacts:
    """Reads what a file of a backend says of itself.

    Args:
        path: An ``.onnx`` or ``.tflite`` file, or another that `splite_deploy.runtime.session.open_file` opens.
        data: Its content, where that has been read; None reads the file.

    Raises:
        UsageError: No backend runs such a file, it does not exist, or it cannot be read.
        MissingDependencyError: What reads it is not installed.
        BackendError: It is not what its name says, or its backend cannot load it.
    """
    chosen = backend_of(path)
    file = read_file(path, chosen, data=data)
    kind, data = file.format, file.data
    if kind == "tflite":
        return describe_tflite(data, path.name)
    contents = read_onnx(data, path.name) if kind == "onnx" else OnnxContents("", None, {}, {})
    options = configured(chosen, reference=bool(chosen.reference))  # nothing is optimised for a look
    with open_model_file(chosen, file, options=options) as session:
        inputs, outputs = _as_told(session.inputs), _as_told(session.outputs)
    numbers = numbers_of_onnx(contents) if kind == "onnx" else Numbers("fp32", "not told", frozenset())
    return FileFacts(
        path.name,
        kind,
        len(data),
        inputs,
        outputs,
        dict(sorted(contents.operators.items())),
        tuple(sorted(name for name in contents.operators if "." in name)),
        numbers.precision,
        numbers.said,
        contents.producer,
        contents.opset,
    )


def describe_tflite(data: bytes, name: str) -> FileFacts:
    """The facts of a TFLite file in memory.

    Args:
        data: The file.
        name: Its name.

    Raises:
        BackendError: It is no TFLite file, or a damaged one.
    """

    def facts(tensors: Sequence[Tensor]) -> tuple[TensorFacts, ...]:
        names = unique([tensor.called or tensor.name for tensor in tensors])
        return tuple(
            TensorFacts(n, t.shape, t.dtype, t.scale, t.zero_point) for n, t in zip(names, tensors, strict=True)
        )

    contents = read_foreign(data, name)
    numbers = numbers_of_tflite(contents.operators)
    return FileFacts(
        name,
        "tflite",
        len(data),
        facts(contents.inputs),
        facts(contents.outputs),
        dict(sorted(Counter(one.name for one in contents.operators).items())),
        contents.custom,
        numbers.precision,
        numbers.said,
    )


def _as_told(tensors: Iterable[TensorSpec]) -> tuple[TensorFacts, ...]:
    """Tensors of a session as facts."""
    return tuple(TensorFacts(one.name, one.shape, one.dtype) for one in tensors)
