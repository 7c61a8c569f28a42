"""What a file's numbers are, as far as the file tells: what a manifest says of them is compared with that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from splite_deploy.bundle.manifest import REEXPORT
from splite_deploy.errors import BundleError
from splite_deploy.runtime.backends.onnx_file import OnnxContents, joined_contents, read_onnx
from splite_deploy.spec import PRECISIONS, Precision

if TYPE_CHECKING:
    from splite_deploy.runtime.backends.base import ModelFile
    from splite_deploy.runtime.backends.tflite_file import Operator

_INTEGERS = ("int8", "uint8", "int16", "int4", "int2")
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinear", "ConvInteger", "MatMulInteger", "DynamicQuantize")


@dataclass(frozen=True)
class Numbers:
    """How a file stores and computes numbers.

    Attributes:
        precision: What a manifest would call it, by most of its weights.
        said: The same in words, with the types that it holds.
        held: Every precision that some of its weights or layers have; empty where it has no weights, and nothing tells.
    """

    precision: Precision
    said: str
    held: frozenset[Precision]


def precision_of(file: ModelFile) -> Precision:
    """What an ONNX graph computes in: what its artifact says or, without one, what its own constants do.

    Raises:
        BackendError: The file is damaged.
    """
    if file.artifact is not None:
        return file.artifact.precision
    return numbers_of_onnx(read_onnx(file.data, file.name)).precision


def check_precision(file: ModelFile) -> None:
    """Compares what the manifest calls an artifact with what its file is made of; an engine does not tell.

    Some layers of an int8 or fp16 file may be in float; one of which none is int8 or fp16 is something else, and so is
    a file that is rougher than it is called, but for a graph in float that simulates the steps of int8.

    Raises:
        BundleError: They contradict each other.
        BackendError: The file is damaged.
    """
    if file.said is None or file.format not in ("onnx", "onnx-parts", "tflite"):
        return
    is_onnx = file.format != "tflite"
    if is_onnx:
        numbers = numbers_of_onnx(joined_contents([read_onnx(one.data, one.name) for one in file.each()]))
    else:
        from splite_deploy.runtime.backends.tflite_file import read_operators  # which others need not wait for

        numbers = numbers_of_tflite(read_operators(file.data))
    said = file.said.precision
    if not numbers.held or said == numbers.precision:
        return
    rougher = PRECISIONS.index(said) > PRECISIONS.index(numbers.precision)
    simulated = is_onnx and numbers.precision == "int8"  # float, with the steps of a network trained so
    if not (said in numbers.held if rougher else simulated):
        raise BundleError(
            f"{file.name} is {numbers.precision} ({numbers.said}); the manifest says {said}.", hint=REEXPORT
        )


def numbers_of_tflite(operators: Iterable[Operator]) -> Numbers:
    """What most weights of a file are stored in, and what most of them are computed with."""
    weights, computed, types = Counter[str](), Counter[str](), set[str]()
    for one in operators:
        types.update(one.inputs, one.outputs)
        if one.weights:
            weights[one.weights] += one.weight_count
            computed[one.inputs[0]] += one.weight_count
    if not weights:
        return Numbers("fp32", "no weights", frozenset())
    ((stored, _),), ((acting, _),) = weights.most_common(1), computed.most_common(1)
    held = frozenset[Precision](
        "int8" if kind in _INTEGERS else "fp16" if kind == "float16" else "fp32"
        for kind in (*weights, *(types & {"int8", "int16"}))  # uint8 may be the crop, as it is
    )
    mixed = f" ({_listed(weights)} weights)" if len(weights) > 1 else ""
    if stored in _INTEGERS and acting in _INTEGERS:
        return Numbers("int8", f"{stored} weights, {acting} activations{mixed}", held)
    if stored in _INTEGERS:
        return Numbers("int8", f"{stored} weights, {acting} activations: dynamic range, or weights alone{mixed}", held)
    if stored == "float16":
        return Numbers("fp16", f"float16 weights, {acting} activations{mixed}", held)
    return Numbers("fp32", f"{stored}{mixed}", held)


def numbers_of_onnx(contents: OnnxContents) -> Numbers:
    """The same of an ONNX graph, by its operators and constants."""
    weights = Counter({kind: count for kind, count in contents.weights.items() if kind != "int64"})
    if any(name.rpartition(".")[2].startswith(_QUANTISED) for name in contents.operators):
        return Numbers("int8", f"quantised ({_listed(weights)} constants)", frozenset[Precision](("int8",)))
    if not weights:
        return Numbers("fp32", "no weights", frozenset())
    held = frozenset[Precision]("fp16" if kind == "float16" else "fp32" for kind in weights)
    most = weights.most_common(1)[0][0]
    if most == "float16":
        return Numbers("fp16", f"float16 ({_listed(weights)} constants)", held)
    return Numbers("fp32", most, held)


def _listed(weights: Counter[str]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in weights.most_common())
