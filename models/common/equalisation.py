"""Cross-layer equalisation: channels get comparable ranges, and the float network says what it said.

A channel may be divided by a factor where it is made and multiplied by it where it is read, since all that lies between
is linear or a ReLU (Nagel et al. 2019, arXiv 1906.04721, section 4.1). int8 has one scale for all channels of a tensor,
so that a single wide channel takes the digits of all others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SHARE = 0.5
"""Exponent of a channel's range in its factor; the rest is that of the weights that read it (Xiao et al. 2023, arXiv
2211.10438, alpha). A depthwise convolution has scales for its channels: what reads a channel there costs nothing."""
_SMALLEST_RANGE, _SMALLEST_FACTOR = 1e-3, 1e-2  # relative to the widest channel: nearly dead ones stay as they are


@dataclass(frozen=True)
class Coupled:
    """Channels that several layers share.

    Attributes:
        makers: Layers that end in these channels: a convolution with its batch norm, or one with bias.
        readers: Convolutions and linear layers that read them.
        seen: Modules whose outputs say how wide the channels are.
        shuffled: The maker that has four channels for each, which a pixel shuffle joins.
    """

    makers: list[nn.Module]
    readers: list[nn.Module]
    seen: list[nn.Module]
    shuffled: nn.Module | None = None


@torch.no_grad()
def equalise_channels(network: nn.Module, channels: Iterable[Coupled], crops: Tensor) -> None:
    """Equalises channels of a network, in place.

    Args:
        network: In evaluation mode, without fake quantisers.
        channels: All but those of its outputs, from the image on.
        crops: (N, 3, h, w) normalised, on which the ranges of activations are measured.
    """
    for coupled in channels:
        ranges = _ranges(network, coupled.seen, crops)
        ranges = ranges.clamp(min=_SMALLEST_RANGE * float(ranges.max()))
        weights = _read_weights(coupled.readers)
        factor = ranges / ranges.max() if weights is None else ranges**SHARE / weights ** (1 - SHARE)
        factor = (factor / factor.max()).clamp(min=_SMALLEST_RANGE if weights is None else _SMALLEST_FACTOR)
        for maker in coupled.makers:
            own = factor.repeat_interleave(4) if maker is coupled.shuffled else factor
            for tensor in _last(maker):
                tensor.div_(own.reshape(-1, *[1] * (tensor.dim() - 1)))
        for reader in coupled.readers:
            weight = _weight(reader)
            weight.mul_(factor.reshape((-1, 1, 1, 1) if _depthwise(reader) else (1, -1, *[1] * (weight.dim() - 2))))


def _last(maker: nn.Module) -> tuple[Tensor, Tensor]:
    """The weight and bias that scale the output of a layer."""
    layer = maker[1] if isinstance(maker, nn.Sequential) else maker
    assert isinstance(layer, nn.BatchNorm2d | nn.Conv2d) and layer.bias is not None
    return layer.weight, layer.bias


def _ranges(network: nn.Module, modules: list[nn.Module], crops: Tensor) -> Tensor:
    """(C,) the largest magnitude of each channel of what these modules give."""
    found: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output: found.append(output.abs().amax((0, 2, 3))))
        for module in modules
    ]
    network(crops)
    for hook in hooks:
        hook.remove()
    return torch.stack(found).amax(0)


def _read_weights(readers: list[nn.Module]) -> Tensor | None:
    """(C,) the largest weight that reads each channel, as a share of its row's; None where none shares a scale."""
    found = []
    for reader in readers:
        if not _depthwise(reader):
            weight = (
                _weight(reader).abs().flatten(2) if isinstance(reader, nn.Conv2d) else _weight(reader).abs()[..., None]
            )
            found.append((weight / weight.amax((1, 2), keepdim=True)).amax((0, 2)))
    return torch.stack(found).amax(0).clamp(min=_SMALLEST_RANGE) if found else None


def _depthwise(reader: nn.Module) -> bool:
    return isinstance(reader, nn.Conv2d) and reader.groups > 1


def _weight(reader: nn.Module) -> Tensor:
    assert isinstance(reader, nn.Conv2d | nn.Linear)
    return reader.weight
