"""Checkpoints that are masked but not compacted: weights set to zero that still cost their full time. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from splite_deploy.errors import CheckpointError
from splite_deploy.text import command

LEAST_SHARE = 0.1
"""From this share of zeros on a network counts as masked; a few dead channels come from any training."""
_ORIG, _MASK = "_orig", "_mask"


@dataclass
class Zeros:
    """What is exactly zero in a network, of how many.

    Attributes:
        filters: Filters of convolutions, one per output channel.
        scales: Scales of batch and instance norms, one per channel.
        weights: Weights of convolutions.
    """

    filters: tuple[int, int] = (0, 0)
    scales: tuple[int, int] = (0, 0)
    weights: tuple[int, int] = (0, 0)


def apply_masks(tensors: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Tensor], int]:
    """Multiplies what ``torch.nn.utils.prune`` keeps apart: NAME = NAME_orig * NAME_mask.

    Args:
        tensors: A state dict.
        path: Where it comes from, for messages.

    Returns:
        The plain state dict, and how many tensors were masked.

    Raises:
        CheckpointError: A mask has another shape than its weights.
    """
    plain = dict(tensors)
    bases = [name.removesuffix(_ORIG) for name in tensors if name.endswith(_ORIG)]
    masked = [name for name in bases if name + _MASK in tensors]
    for name in masked:
        weight, mask = plain.pop(name + _ORIG), plain.pop(name + _MASK)
        if weight.shape != mask.shape:
            raise CheckpointError(
                f"{path}: the mask of '{name}' has shape {tuple(mask.shape)}, its weights {tuple(weight.shape)}.",
                hint="Call torch.nn.utils.prune.remove(module, name) where it was pruned, and save again.",
            )
        plain[name] = weight * mask.to(weight.dtype)
    return plain, len(masked)


def count_zeros(network: nn.Module) -> Zeros:
    """Counts what is exactly zero.

    A channel of a convolution is zero where its whole filter is; the bias does not count, since what is left is a
    constant. Depthwise convolutions are left out: their channels are those of the layer before them. A scale of a norm
    silences a channel as well; it is counted apart, since the channel is the same.
    """
    zeros = Zeros()
    for module in network.modules():
        if isinstance(module, _ConvNd) and not 1 < module.groups == module.in_channels:
            zero = module.weight.detach() == 0
            if module.transposed:  # (in, out / groups, ...): the output channels first
                zero = zero.reshape(module.groups, -1, *zero.shape[1:]).movedim(2, 1).flatten(0, 1)
            zeros.weights = _add(zeros.weights, zero)
            zeros.filters = _add(zeros.filters, zero.flatten(1).all(1))
        elif isinstance(module, _NormBase) and isinstance(module.weight, Tensor):
            zeros.scales = _add(zeros.scales, module.weight.detach() == 0)
    return zeros


def _add(counts: tuple[int, int], zero: Tensor) -> tuple[int, int]:
    return counts[0] + int(zero.sum()), counts[1] + zero.numel()


def _share(counts: tuple[int, int]) -> float:
    return counts[0] / max(1, counts[1])


def masked_notes(network: nn.Module, checkpoint: Path, model: Path) -> tuple[str, ...]:
    """Says that a network is masked and not smaller, with the command that removes what is zero.

    Args:
        network: With its weights.
        checkpoint: Where they come from, for the command.
        model: Its ``model.toml``, likewise.

    Returns:
        One note; none where less than `LEAST_SHARE` is zero of each kind that `count_zeros` counts.
    """
    zeros = count_zeros(network)
    if _share(zeros.scales) >= LEAST_SHARE:
        found, what = zeros.scales, "scales of its norms are zero. Remove these channels"
        how = "bn-scale --threshold 1e-12 --round-to 1"  # all that is exactly zero, and nothing else
    elif _share(zeros.filters) >= LEAST_SHARE:
        found, what = zeros.filters, "filters of its convolutions are zero. Remove as many channels"
        how = f"l1 --ratio {math.floor(_share(zeros.filters) * 100) / 100:g} --round-to 1"
    elif _share(zeros.weights) >= LEAST_SHARE:
        found, what = zeros.weights, "weights are zero, but hardly a whole channel. Remove the least, and fine-tune"
        how = "group-norm --speed-up 2"
    else:
        return ()
    typed = command("compact", checkpoint, "--model", model, "--method", *how.split(), "-o", "compacted.safetensors")
    counts = f"{found[0]} of {found[1]} {what}"
    return (f"the network is masked, not smaller: {counts}: {typed}",)
