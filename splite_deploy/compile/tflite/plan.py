"""Which operators of a float32 TFLite file may compute in int8, and which stay float."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np

from splite_deploy.compile.tflite.network import MOVERS, WEIGHTED, Network, Operator

SCALING = frozenset({"ADD", "SUB", "MUL", "MEAN", "SUM", *WEIGHTED})
"""Operators that compute in int32 and scale the result as they like."""
_FUNCTIONS = frozenset(
    {"LOGISTIC", "TANH", "HARD_SWISH", "GELU", "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "LEAKY_RELU", "PRELU"}
)
_CLAMPS: Mapping[str, tuple[float, float]] = {
    "RELU": (0.0, np.inf),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
    "RELU_0_TO_1": (0.0, 1.0),
}
_ARITHMETIC = frozenset({"ADD", "SUB", "MUL", "MEAN", "SUM", "SQUARED_DIFFERENCE", "MAXIMUM", "MINIMUM", "ABS", "NEG"})
"""What stays float with a softmax or norm that it is part of."""
_COPIES = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "SPLIT",
                     "CONCATENATION", "PACK", "UNPACK", "GATHER"})  # fmt: skip
_NO_FAST_KERNEL = "XNNPACK multiplies two activations in float alone"
_NO_KERNEL = "it has no int8 form that keeps its values"
_SOFTMAX = "a softmax raises rounding errors to the power of e"
_WEIGHTS_FIRST = "its weights come first, which no int8 kernel takes"
_AROUND = "it is part of a softmax or norm in float"
_BETWEEN = "it lies between operators in float"
EXCLUDED = "excluded from quantisation"
FOR_HEADS = "crops with hands or people alone do not show the range of what says whether there are any"


def float_operators(network: Network, excluded: Collection[str], for_heads: Collection[str] = ()) -> dict[str, str]:
    """The operators that stay float in full-integer files, by name, with the reason.

    Args:
        network: A simplified one.
        excluded: Names of operators that the caller excludes.
        for_heads: Names of those that give heads, such as ``presence``.
    """
    makers, readers = network.makers(), network.readers()
    names = [network.result(operator) for operator in network.operators]
    found = {name: EXCLUDED if name in excluded else FOR_HEADS for name in names if name in {*excluded, *for_heads}}

    def neighbours(operator: Operator) -> Iterator[Operator]:
        for tensor in network.activations(operator):
            if tensor in makers:
                yield makers[tensor]
        for tensor in operator.outputs:
            yield from readers.get(tensor, ())

    pending: list[Operator] = []
    for operator in network.operators:
        if operator.kind not in MOVERS | SCALING | _FUNCTIONS and computes(network, operator):
            found.setdefault(network.result(operator), _SOFTMAX if "SOFTMAX" in operator.kind else _NO_KERNEL)
            pending.append(operator)
        elif operator.kind == "BATCH_MATMUL" and len(network.activations(operator)) == 2:
            found.setdefault(network.result(operator), _NO_FAST_KERNEL)
        elif operator.kind == "BATCH_MATMUL" and network.constant(operator.inputs[0]) is not None:
            found.setdefault(network.result(operator), _WEIGHTS_FIRST)  # as resizing by bicubic weights is written
    seen = {id(operator) for operator in pending}
    while pending:
        for other in neighbours(pending.pop()):
            joined = other.kind in _ARITHMETIC and not _is_residual(network, other)
            if id(other) not in seen and (joined or other.kind in _COPIES):
                seen.add(id(other))
                pending.append(other)
                if joined:
                    found.setdefault(network.result(other), _AROUND)
    grouped: set[int] = set()
    for operator in network.operators:
        if id(operator) in grouped or operator.kind in WEIGHTED or network.result(operator) in found:
            continue
        group, border, waiting = [operator], list[Operator](), [operator]
        grouped.add(id(operator))
        while waiting:
            for other in neighbours(waiting.pop()):
                if other.kind in WEIGHTED or network.result(other) in found:
                    border.append(other)
                elif id(other) not in grouped:
                    grouped.add(id(other))
                    group.append(other)
                    waiting.append(other)
        if not any(network.result(other) not in found for other in border):
            found.update({network.result(member): _BETWEEN for member in group if computes(network, member)})
    return found


def serving_alone(network: Network, outputs: Collection[str]) -> set[str]:
    """Names of the operators whose results go into some of the network's outputs and nowhere else.

    Args:
        network: A simplified one.
        outputs: Names of these outputs' tensors.
    """
    readers, names = network.readers(), set[str]()

    def alone(tensor: int) -> bool:
        given = tensor not in network.outputs or network.name(tensor) in outputs
        return given and names.issuperset(map(network.result, readers.get(tensor, ())))

    for operator in reversed(network.operators):
        read = any(tensor in network.outputs or readers.get(tensor) for tensor in operator.outputs)
        if read and all(map(alone, operator.outputs)):
            names.add(network.result(operator))
    return names


def computes(network: Network, operator: Operator) -> bool:
    """Whether an operator works on float numbers at all; others compute shapes and indices."""
    return any(map(network.is_float, (*operator.inputs, *operator.outputs)))


def _is_residual(network: Network, operator: Operator) -> bool:
    """Whether this is the sum of two activations of one shape, as at the end of a residual block."""
    read = network.activations(operator)
    return operator.kind == "ADD" and len(set(read)) == 2 and network.shape(read[0]) == network.shape(read[1])


def bounds(network: Network, operator: Operator) -> tuple[float, float] | None:
    """The range to which an operator clamps, which holds zero; None of any other."""
    if operator.kind in _CLAMPS:
        return _CLAMPS[operator.kind]
    if operator.kind not in ("MAXIMUM", "MINIMUM"):
        return None
    constants = [values for values in map(network.constant, operator.inputs) if values is not None]
    if len(constants) != 1 or constants[0].size != 1:
        return None
    bound = float(constants[0].reshape(()))
    if operator.kind == "MAXIMUM":
        return (bound, np.inf) if bound <= 0 else None
    return (-np.inf, bound) if bound >= 0 else None
