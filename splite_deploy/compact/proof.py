"""Removes channels, or sets them to zero, and proves that both give the same outputs. Imports torch."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from splite_deploy.compact.groups import Groups, Removed
from splite_deploy.errors import CheckpointError, ExportError
from splite_deploy.export.source.header import set_sizes
from splite_deploy.export.source.reshape import reshape_to

TOLERANCE = 1e-5
"""Largest difference of an output relative to its range; more than float32's rounding means a wrong index."""
FLATTEST = 0.25
"""Least range of an output over its largest size: a chance that is nearly 1 in all crops differs by its rounding."""
_SAY = (
    "forward() probably holds a width as a number (view, reshape, split, an index): take it from the tensor. Where a "
    "view splits the channels in two, the larger part has to be the one that depends on the width."
)


def zeroed(network: nn.Module, groups: Groups, removed: Removed) -> nn.Module:
    """A copy in which the removed channels are zero."""
    twin = copy.deepcopy(network)
    silence(twin, groups, removed)
    return twin


def silence(network: nn.Module, groups: Groups, removed: Removed) -> None:
    """Sets all parameters of the removed channels to zero, in every layer that they occur in."""
    state = network.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, axis in groups.axes:
            if isinstance(state[name], nn.Parameter):
                state[name].index_fill_(axis, groups.drop((name, axis), removed).to(state[name].device), 0.0)


def without(network: nn.Module, groups: Groups, removed: Removed, example: Tensor) -> nn.Module:
    """A copy without the channels, made by the loader of compacted checkpoints.

    Raises:
        ExportError: The network does not run with the remaining widths; the message names the layer.
    """
    state = network.state_dict(keep_vars=True)
    first: dict[int, str] = {}
    tensors = {}
    for name, tensor in state.items():
        first.setdefault(id(tensor), name)  # axes know tied tensors by their first name
        value = tensor.detach()
        for axis in range(tensor.dim()):
            if (first[id(tensor)], axis) in groups.axes:
                value = value.index_select(axis, groups.keep((first[id(tensor)], axis), removed))
        tensors[name] = value.clone()
    twin = copy.deepcopy(network)
    set_sizes(twin, groups.split_sizes(removed))
    try:
        reshape_to(twin, tensors, example)
    except CheckpointError as err:
        raise ExportError(f"The network does not run with its channels removed: {err.message}", hint=_SAY) from err
    twin.load_state_dict(tensors)
    for parameter in twin.parameters():
        parameter.grad = None
    return twin


def difference(first: nn.Module, second: nn.Module, batches: Iterable[Tensor]) -> tuple[float, float]:
    """Largest difference between the outputs of two networks, and the same relative to the output's range.

    Args:
        first: The network whose outputs give the range: largest minus smallest value, and no less than `FLATTEST` of
            the largest size.
        second: The other.
        batches: Inputs, (N, ...).

    Raises:
        ExportError: Their outputs have different shapes.
    """
    gaps, shares = [0.0], [0.0]
    with torch.inference_mode():
        for batch in batches:
            for ours, theirs in zip(_outputs(first(batch)), _outputs(second(batch)), strict=True):
                if ours.shape != theirs.shape:
                    raise ExportError(
                        f"An output's shape changed from {tuple(ours.shape)} to {tuple(theirs.shape)}.", hint=_SAY
                    )
                gap = float((ours - theirs).abs().max())
                span = max(float(ours.max() - ours.min()), FLATTEST * float(ours.abs().max())) or 1.0
                gaps.append(gap)
                shares.append(gap / span)
    return float(np.max(gaps)), float(np.max(shares))  # of numpy, which lets no NaN pass


def prove(zero: nn.Module, compacted: nn.Module, batches: Iterable[Tensor]) -> float:
    """Compares the compacted network with the one whose channels are zero; returns the largest difference.

    Raises:
        ExportError: It exceeds `TOLERANCE` of the output's range.
    """
    largest, relative = difference(zero, compacted, batches)
    if not relative <= TOLERANCE:
        raise ExportError(
            f"Removing the channels is not the same as setting them to zero: the outputs differ by {largest:.3g}, "
            f"{relative:.1g} of their range.",
            hint=_SAY,
        )
    return largest


def _outputs(result: Tensor | Iterable[Tensor]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)
