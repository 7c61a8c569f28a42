"""The importance of a channel, by four measures. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from splite_deploy.compact.groups import ChannelGroup, Groups
from splite_deploy.compact.labels import rows
from splite_deploy.errors import ExportError

Method = Literal["bn-scale", "group-norm", "l1", "taylor"]
METHODS: tuple[Method, ...] = ("bn-scale", "group-norm", "l1", "taylor")
Loss = Callable[[Any], Tensor]
"""From the network's output, of any kind, to a scalar."""
Scores = NDArray[np.float64]
"""Importance of every channel, (channels,); NaN where the method has nothing to go by."""


def output_energy(outputs: Any) -> Tensor:
    """Sum over the outputs of their mean square: a loss for the Taylor measure that needs no labels."""
    tensors = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
    return torch.stack([tensor.square().mean() for tensor in tensors]).sum()


def bn_scale(network: nn.Module, groups: Groups) -> Scores:
    """Mean of |gamma| over the batch norms of a channel (Liu et al., Network Slimming, ICCV 2017), as gamma is."""
    state = network.state_dict()
    sums, counts = np.zeros(groups.count), np.zeros(groups.count)
    for scale, _ in groups.scales:
        index = groups.axes[scale, 0]
        values = state[scale].abs().double().cpu().numpy()
        np.add.at(sums, index[index >= 0], values[index >= 0])
        np.add.at(counts, index[index >= 0], 1)
    return np.divide(sums, counts, out=np.full(groups.count, np.nan), where=counts > 0)


def norms(network: nn.Module, groups: Groups, channel_groups: Iterable[ChannelGroup], power: int) -> Scores:
    """L1 or L2 norm over all weights that a channel couples, relative to the mean of its group.

    ``power`` 1: I = sum |w| (Li et al., ICLR 2017). ``power`` 2: I = sqrt(sum w^2) (group norm; Fang et al., DepGraph,
    CVPR 2023, eq. 4). Without the division by the mean, layers with more inputs would seem more important.
    """
    state = network.state_dict()
    sums = sum_of_units(groups, {name: state[name].abs() ** power for name in weights_of(groups, network)})
    scores = sums ** (1 / power)
    for group in channel_groups:
        mean = np.nanmean(scores[group.channels])
        scores[group.channels] /= mean if mean > 0 else 1
    return scores


def stored(network: nn.Module, groups: Groups, channel_groups: Iterable[ChannelGroup], method: Method) -> Scores:
    """Importance from the stored weights alone: every method but "taylor"."""
    if method == "bn-scale":
        return bn_scale(network, groups)
    return norms(network, groups, channel_groups, 1 if method == "l1" else 2)


def taylor(network: nn.Module, groups: Groups, batches: Iterable[Tensor], loss: Loss) -> Scores:
    """First-order estimate of the change of the loss: I = sum over batches and weights of |w * dL/dw|.

    Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, with the absolute value inside
    the sum. Weights and batch norms' scales and shifts count; the network stays in evaluation mode.

    Raises:
        ExportError: The loss is no finite scalar.
    """
    names = {id(tensor): name for name, tensor in reversed(network.state_dict(keep_vars=True).items())}
    parameters = {names[id(p)]: p for p in network.parameters() if p.is_floating_point()}
    wanted = {name: parameters[name] for name in {key[0] for key in groups.axes} if name in parameters}
    totals = {name: torch.zeros_like(parameter) for name, parameter in wanted.items()}
    for batch in batches:
        with torch.enable_grad():
            value = loss(network(batch))
        if value.dim() or not torch.isfinite(value):
            raise ExportError(f"The loss is {value}, not a finite number.", hint="Let it return a scalar tensor.")
        gradients = torch.autograd.grad(value, list(wanted.values()), allow_unused=True)
        for (name, parameter), gradient in zip(wanted.items(), gradients, strict=True):
            if gradient is not None:
                totals[name] += (parameter.detach() * gradient).abs()
    return sum_of_units(groups, totals)


def weights_of(groups: Groups, network: nn.Module) -> list[str]:
    """Weights of layers and scales of norms; biases and shifts do not measure the size of a channel."""
    names = {name for name, _ in groups.axes}
    added = {shift for _, shift in groups.scales} | {name for name in names if name.endswith(".bias")}
    trained = {name for name, tensor in network.state_dict(keep_vars=True).items() if isinstance(tensor, nn.Parameter)}
    return sorted((names & trained) - added)


def sum_of_units(groups: Groups, values: dict[str, Tensor]) -> Scores:
    """Sums values over every channel's slices of all its tensors."""
    sums, seen = np.zeros(groups.count), np.zeros(groups.count, bool)
    for (name, axis), index in groups.axes.items():
        if name in values:
            sums_of_rows = rows(values[name], axis).sum(1).double().cpu().numpy()
            np.add.at(sums, index[index >= 0], sums_of_rows[index >= 0])
            seen[index[index >= 0]] = True
    return np.where(seen, sums, np.nan)
