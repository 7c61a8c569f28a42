"""Ranges of a TFLite file's tensors: those of the graph that it was made from where the values are the same.

Converters rename, transpose and fuse, but what flows stays the same. A fingerprint of a tensor's values that does not
depend on their order finds it again; what has none, as the inside of a decomposed norm, is measured on crops.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.compile.tflite.network import MOVERS, Network, Range

_TOLERANCE = 1e-3  # of the largest value: kernels sum in another order
_PADDING = 1e30  # what max pools are padded with is no value


@dataclass(frozen=True)
class Fingerprint:
    """What the values of a tensor have in common in every order.

    Attributes:
        count: Number of values for one crop.
        figures: (crops, 4): smallest, largest, mean, and root of the mean square for each crop.
    """

    count: int
    figures: NDArray[np.float64]

    def matches(self, other: Fingerprint) -> bool:
        """Whether two tensors hold the same values but for rounding."""
        if self.count != other.count or self.figures.shape != other.figures.shape:
            return False
        scale = np.abs(self.figures[:, :2]).max(initial=0.0)
        return bool(np.abs(self.figures - other.figures).max(initial=0.0) <= _TOLERANCE * scale)


@dataclass(frozen=True)
class KnownRange:
    """A tensor of the graph that a file was made from.

    Attributes:
        fingerprint: Of its values on the first crops.
        limits: What its integers stand for.
    """

    fingerprint: Fingerprint
    limits: Range


def fingerprint(values: Sequence[NDArray[Any]]) -> Fingerprint:
    """The fingerprint of a tensor from its values for each crop."""
    figures = [
        (value.min(), value.max(), value.mean(dtype=np.float64), np.sqrt(np.square(value, dtype=np.float64).mean()))
        for value in values
    ]
    return Fingerprint(values[0].size, np.array(figures, np.float64))


def find_ranges(content: bytes, crops: FloatArray, known: Sequence[KnownRange] = ()) -> dict[str, Range]:
    """The range of every float activation of a float32 file, by name.

    Args:
        content: The file; its input is NHWC.
        crops: (N, h, w, 3) float32, normalised; the first are those of the fingerprints.
        known: Of the graph that the file was made from; may be empty.

    Returns:
        The range by name: of the equal tensor where there is one, of the one that it is moved to where that alone
        reads it, else the smallest and largest value on the crops.
    """
    network = Network(content)
    made = [t for operator in network.operators for t in operator.outputs if network.is_float(t)]
    tensors = [tensor for tensor in (*network.inputs, *made) if network.is_float(tensor)]
    seen: dict[int, list[NDArray[Any]]] = {tensor: [] for tensor in tensors} if known else {}
    for values in _run(content, crops[: len(known[0].fingerprint.figures)] if known else crops[:0], tensors):
        for tensor, value in values.items():
            seen[tensor].append(value)
    by_count: dict[int, list[KnownRange]] = {}
    for one in known:
        by_count.setdefault(one.fingerprint.count, []).append(one)
    found: dict[int, Range] = {}
    for tensor, rows in seen.items():
        own = fingerprint(rows)
        equal = [one.limits for one in by_count.get(own.count, ()) if one.fingerprint.matches(own)]
        if equal:
            found[tensor] = min(low for low, _ in equal), max(high for _, high in equal)
    _from_readers(network, found)
    missing = [tensor for tensor in tensors if tensor not in found]
    found.update(_measured(content, crops, missing) if missing else {})
    return {network.name(tensor): limits for tensor, limits in found.items()}


def _from_readers(network: Network, found: dict[int, Range]) -> None:
    """What one operator alone reads, to move it, needs no wider range than what that makes of it."""
    readers = network.readers()
    for operator in reversed(network.operators):
        read = network.activations(operator)
        if operator.kind in MOVERS and len(read) == 1 and len(operator.outputs) == 1 and operator.outputs[0] in found:
            tensor = read[0]
            if tensor not in found and len(readers[tensor]) == 1 and tensor not in network.outputs:
                found[tensor] = found[operator.outputs[0]]


def _measured(content: bytes, crops: FloatArray, tensors: Collection[int]) -> dict[int, Range]:
    limits: dict[int, Range] = {}
    for values in _run(content, crops, tensors):
        for tensor, value in values.items():
            inside = value[np.abs(value) < _PADDING]
            low, high = limits.get(tensor, (0.0, 0.0))
            limits[tensor] = min(low, float(inside.min(initial=0.0))), max(high, float(inside.max(initial=0.0)))
    return limits


def _run(content: bytes, crops: FloatArray, tensors: Collection[int]) -> Any:
    """The values of tensors by index, crop after crop."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=content,
        num_threads=1,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    for crop in crops:
        interpreter.set_tensor(source, crop[None])
        interpreter.invoke()
        yield {tensor: interpreter.get_tensor(tensor) for tensor in tensors}
