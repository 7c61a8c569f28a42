"""Folds the constants of removed channels into the layers that read them. Imports torch.

A batch norm whose scale is 0 outputs its shift: act(beta), everywhere. Removing the channel removes that constant
too. It is added to the bias of the reader; or, since y = gamma (x - mean) / sigma + beta, subtracted from the mean of
the batch norm after the reader. That is exact where every position of the reader's output gets the same sum; a padded
convolution sees zeros instead of the constant at its borders, and there it is not.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from splite_deploy.compact.groups import Groups, Index, Removed

_EXACT = 1e-6
"""Largest deviation, relative to the largest value, that counts as float32's rounding."""


@dataclass(frozen=True)
class Folded:
    """The constants that one layer reads, and whether they were folded.

    Attributes:
        layer: The layer.
        channels: Number of its removed input channels with a constant.
        folded: Whether it was folded; not where no bias or batch norm can take it, or where it is not constant.
        effect: Largest remaining change of the layer's output, before its batch norm; 0 where the fold is exact,
            None where the layer is no module of torch's own and was not observed.
    """

    layer: str
    channels: int
    folded: bool
    effect: float | None


def fold(network: nn.Module, groups: Groups, removed: Removed, batches: Iterable[Tensor]) -> list[Folded]:
    """Folds the constants of removed channels in place.

    Args:
        network: The network before removal; its biases and running means are changed.
        groups: Its channels.
        removed: The channels to remove.
        batches: Inputs, (N, ...), on which the constants are observed.

    Returns:
        A row for every layer that reads such a channel, in the order of the network.
    """
    silent = _silent(network, groups, removed)
    readers = {
        name: index
        for name, layer in groups.layers.items()
        if not layer.depthwise and silent[(index := layer.inputs)[index >= 0]].any()
    }
    if not readers:
        return []
    rows, state = [], network.state_dict(keep_vars=True)
    sums = _contributions(network, readers, silent, batches)
    for name, index in readers.items():
        layer = groups.layers[name]
        count = int(silent[index[index >= 0]].sum())
        if name not in sums:
            rows.append(Folded(name, count, False, None))
            continue
        total, pieces = sums[name]
        stays = torch.from_numpy((layer.outputs < 0) | ~removed[layer.outputs])
        scale = max(float(piece[:, stays].abs().max()) for piece in pieces)
        left = max(float((piece - total).abs()[:, stays].max()) for piece in pieces)
        near = torch.cat([((piece - total).abs()[:, stays] <= _EXACT * scale).flatten() for piece in pieces])
        folded = layer.shift is not None and bool(near.float().mean() >= 0.5)  # otherwise it is not constant
        if folded:
            assert layer.shift is not None
            sign = -1 if layer.shift.endswith("running_mean") else 1
            with torch.no_grad():
                state[layer.shift] += sign * total.flatten()
        effect = left if folded else scale
        rows.append(Folded(name, count, folded, 0.0 if effect <= _EXACT * scale else effect))
    return rows


def _silent(network: nn.Module, groups: Groups, removed: Removed) -> Removed:
    """Channels that go and of which a batch norm has scale 0 and shift other than 0."""
    state, silent = network.state_dict(), np.zeros(groups.count, bool)
    for scale, shift in groups.scales:
        index = groups.axes[scale, 0]
        constant = ((state[scale] == 0) & (state[shift] != 0)).cpu().numpy()
        silent[index[(index >= 0) & constant]] = True
    return silent & removed


def _contributions(
    network: nn.Module, readers: dict[str, Index], silent: Removed, batches: Iterable[Tensor]
) -> dict[str, tuple[Tensor, list[Tensor]]]:
    """Per reader the sum of its constant inputs: the median, (1, out, 1), and all of it, (N, out, positions) each."""
    pieces: dict[str, list[Tensor]] = {name: [] for name in readers}
    with ExitStack() as hooks, torch.no_grad():
        for name, index in readers.items():
            layer = network.get_submodule(name)
            if not isinstance(layer, (_ConvNd, nn.Linear)):
                continue
            alone: Any = copy.deepcopy(layer)
            if alone.bias is not None:
                alone.bias.data.zero_()
            goes = torch.from_numpy((index >= 0) & silent[index])

            def observe(_: nn.Module, given: Any, name: str = name, alone: Any = alone, goes: Tensor = goes) -> None:
                axis = -1 if isinstance(alone, nn.Linear) else 1
                mask = goes.to(given[0].dtype).reshape(-1, *[1] * (given[0].dim() - 2 if axis == 1 else 0))
                result = alone(given[0] * mask)
                channels_first = result.movedim(axis, 1)
                pieces[name].append(channels_first.reshape(*channels_first.shape[:2], -1))

            hooks.callback(layer.register_forward_pre_hook(observe).remove)
        for batch in batches:
            network(batch)
    totals = {}
    for name, seen in pieces.items():
        if not seen:  # its weight is used, but it is not called
            continue
        flat = torch.cat([piece.transpose(0, 1).flatten(1) for piece in seen], 1)
        totals[name] = (flat.median(1).values.reshape(1, -1, 1), seen)
    return totals
