"""Ranges of a TFLite file's tensors: those of the graph that it was made from where the values are the same.

Converters rename, transpose and fuse, but what flows stays the same. A fingerprint of a tensor's values that does not
depend on their order finds it again; what has none, as the inside of a decomposed norm, is measured on crops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.compile.tflite.network import MOVERS, Network, Range
from splite_deploy.compile.tflite.plan import bounds, float_operators
from splite_deploy.compile.tflite.simplify import simplified
from splite_deploy.runtime.io.native_output import own_output

_TOLERANCE = 1e-3  # of the largest value: kernels sum in another order
_MEASURED = 32
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
        name: What it is called there.
        fingerprint: Of its values on the first crops.
        limits: What its integers stand for.
    """

    name: str
    fingerprint: Fingerprint
    limits: Range


def fingerprint(values: Sequence[NDArray[Any]]) -> Fingerprint:
    """The fingerprint of a tensor from its values for each crop."""
    figures = [
        (value.min(), value.max(), value.mean(dtype=np.float64), np.sqrt(np.square(value, dtype=np.float64).mean()))
        for value in values
    ]
    return Fingerprint(values[0].size, np.array(figures, np.float64))


def with_known_names(content: bytes, crops: FloatArray, known: Sequence[KnownRange]) -> bytes:
    """A float32 file whose tensors are called as those of the graph that it was made from; see `find_ranges`.

    Where several tensors hold the same values the first gets the name; inputs, outputs, and what has no equal keep
    theirs.
    """
    network = Network(content)
    kept = {*network.inputs, *network.outputs}
    taken = {network.name(tensor) for tensor in range(len(network.graph.tensors))}
    made = [tensor for operator in network.operators for tensor in operator.outputs if network.is_float(tensor)]
    for tensor, equal in _equal(network, made, crops, known).items():
        name = equal[0].name
        if tensor not in kept and name not in taken:
            network.graph.tensors[tensor].name = name.encode()
            taken.add(name)
    return network.content()


def find_ranges(content: bytes, crops: FloatArray, known: Sequence[KnownRange] = ()) -> dict[str, Range]:
    """The ranges that a float32 file needs in int8, by the name of the tensor in its simplified form.

    Args:
        content: The file; its input is NHWC.
        crops: (N, h, w, C) float32, normalised; the first are those of the fingerprints.
        known: Of the graph that the file was made from; may be empty.

    Returns:
        The range of the equal tensor where there is one (of all of them, where several are equal); of what a tensor is
        moved or clamped to, where that alone reads it; else the smallest and largest value on the crops, at most
        `_MEASURED` of them.
    """
    network = simplified(content)
    made = [tensor for operator in network.operators for tensor in operator.outputs]
    tensors = [tensor for tensor in (*network.inputs, *made) if network.is_float(tensor)]
    found: dict[int, Range] = {}
    for tensor, equal in (_equal(network, tensors, crops, known) if known else {}).items():
        lows, highs = zip(*(one.limits for one in equal), strict=True)
        found[tensor] = min(lows), max(highs)
    _carry(network, found)
    floats = float_operators(network, ())
    needed = {
        tensor
        for operator in network.operators
        if network.result(operator) not in floats
        for tensor in (*operator.inputs, *operator.outputs)
    }
    missing = [tensor for tensor in tensors if tensor not in found and tensor in needed]
    if missing:
        found.update(_measured(network, crops, missing))
    return {network.name(tensor): limits for tensor, limits in found.items()}


def _equal(
    network: Network, tensors: Sequence[int], crops: FloatArray, known: Sequence[KnownRange]
) -> dict[int, list[KnownRange]]:
    """The known tensors that hold the same values as a tensor, by its index."""
    seen: dict[int, list[NDArray[Any]]] = {tensor: [] for tensor in tensors}
    for values in _run(network, crops[: len(known[0].fingerprint.figures)], tensors):
        for tensor, value in values.items():
            seen[tensor].append(value)
    by_count: dict[int, list[KnownRange]] = {}
    for one in known:
        by_count.setdefault(one.fingerprint.count, []).append(one)
    found = {}
    for tensor, rows in seen.items():
        if not rows[0].size:  # a slice that holds nothing
            continue
        own = fingerprint(rows)
        if equal := [one for one in by_count.get(own.count, ()) if one.fingerprint.matches(own)]:
            found[tensor] = equal
    return found


def _carry(network: Network, found: dict[int, Range]) -> None:
    """Carries ranges through operators that only move or clamp values.

    What one of them alone reads needs no wider range than what it makes of it.
    """
    readers = network.readers()
    for operator in reversed(network.operators):
        read, (result, *others) = network.activations(operator), operator.outputs
        carries = operator.kind in MOVERS or bounds(network, operator) is not None
        if not carries or len(read) != 1 or others or result not in found or read[0] in found:
            continue
        if len(readers[read[0]]) == 1 and read[0] not in network.outputs:
            found[read[0]] = found[result]
    for operator in network.operators:
        read = network.activations(operator)
        if operator.kind in MOVERS and len(read) == 1 and read[0] in found:
            for tensor in operator.outputs:
                found.setdefault(tensor, found[read[0]])


def _measured(network: Network, crops: FloatArray, tensors: Sequence[int]) -> dict[int, Range]:
    limits = dict.fromkeys(tensors, (0.0, 0.0))
    for values in _run(network, crops[:: -(-len(crops) // _MEASURED)], tensors):
        for tensor, value in values.items():
            inside = value[np.abs(value) < _PADDING]
            low, high = limits[tensor]
            limits[tensor] = min(low, float(inside.min(initial=0.0))), max(high, float(inside.max(initial=0.0)))
    return limits


def _run(network: Network, crops: FloatArray, tensors: Sequence[int]) -> Iterator[dict[int, NDArray[Any]]]:
    """The values of tensors by index, crop after crop."""
    from ai_edge_litert.interpreter import Interpreter

    exposed = network.copy()
    exposed.outputs = [tensor for tensor in tensors if tensor not in network.inputs]
    exposed.model.signatureDefs = []
    interpreter = Interpreter(model_content=exposed.content(), num_threads=1)
    with own_output():
        interpreter.allocate_tensors()
    (source,), outputs = interpreter.get_input_details(), interpreter.get_output_details()
    for crop in crops:
        interpreter.set_tensor(source["index"], crop[None])
        interpreter.invoke()
        values = {one: interpreter.get_tensor(out["index"]) for one, out in zip(exposed.outputs, outputs, strict=True)}
        yield values | ({network.inputs[0]: crop[None]} if network.inputs[0] in tensors else {})
