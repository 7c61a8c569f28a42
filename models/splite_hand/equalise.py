"""Cross-layer equalisation of SPLite Hand: channels get comparable ranges, and the float network says what it said.

A channel may be divided by a factor where it is made and multiplied by it where it is read, since all that lies between
is linear or a ReLU (Nagel et al. 2019, arXiv 1906.04721, section 4.1). int8 has one scale for all channels of a tensor,
so that a single wide channel takes the digits of all others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from arch import InvertedResidual, SpliteHand, SqueezeExcite

SHARE = 0.5
"""Exponent of a channel's range in its factor; the rest is that of the weights that read it (Xiao et al. 2023, arXiv
2211.10438, alpha). A depthwise convolution has scales for its channels: what reads a channel there costs nothing."""
_SMALLEST_RANGE, _SMALLEST_FACTOR = 1e-3, 1e-2  # relative to the widest channel: nearly dead ones stay as they are


@dataclass(frozen=True)
class Coupled:
    """Channels that several layers share.

    Attributes:
        makers: Layers that end in these channels: `arch.conv_bn`, or a convolution with bias.
        readers: Convolutions that read them.
        seen: Modules whose outputs say how wide the channels are.
        shuffled: The maker that has four channels for each, which a pixel shuffle joins.
    """

    makers: list[nn.Module]
    readers: list[nn.Module]
    seen: list[nn.Module]
    shuffled: nn.Module | None = None


def coupled_channels(network: SpliteHand) -> Iterator[Coupled]:
    """All channels of the network but those of its outputs, from the image on."""

    def pair(maker: nn.Module, *readers: nn.Module) -> Coupled:
        return Coupled([maker], list(readers), [maker])

    first = network.stage4[0]
    assert isinstance(first, InvertedResidual)
    yield pair(network.stem, first.expand[0])
    after = (network.stage8[0], network.stage16[0], None)
    lateral = (network.up4.lateral[0], network.up8.lateral[0], network.up8.up[0])
    for stage, following, beside in zip((network.stage4, network.stage8, network.stage16), after, lateral, strict=True):
        blocks = [block for block in stage if isinstance(block, InvertedResidual)]
        for block in blocks:
            yield pair(block.expand, block.depthwise[0])
            gate = block.gate
            if isinstance(gate, SqueezeExcite):
                yield pair(block.depthwise, gate.reduce, block.project[0])
                yield pair(gate.reduce, gate.expand)
            else:
                yield pair(block.depthwise, block.project[0])
        readers = [block.expand[0] for block in (*blocks[1:], following) if isinstance(block, InvertedResidual)]
        makers: list[nn.Module] = [block.project for block in blocks]
        yield Coupled(makers, [*readers, beside], [*makers, *blocks])
    for up, read_by in ((network.up8, [network.up4.up[0]]), (network.up4, [network.heatmap, network.depth])):
        assert isinstance(up.smooth[0], nn.Sequential) and isinstance(up.smooth[1], nn.Sequential)
        yield Coupled([up.up, up.lateral], [up.smooth[0][0]], [up.shuffle, up.lateral], up.up)
        yield pair(up.smooth[0], up.smooth[1][0])
        yield pair(up.smooth[1], *read_by)


@torch.no_grad()
def equalise(network: SpliteHand, crops: Tensor) -> None:
    """Equalises the channels of a network, in place.

    Args:
        network: In evaluation mode, without fake quantisers.
        crops: (N, 3, h, w) normalised, on which the ranges of activations are measured.
    """
    for coupled in coupled_channels(network):
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
            assert isinstance(reader, nn.Conv2d)
            reader.weight.mul_(factor[:, None, None, None] if reader.groups > 1 else factor[None, :, None, None])


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
        assert isinstance(reader, nn.Conv2d)
        if reader.groups == 1:
            weight = reader.weight.abs()
            found.append((weight / weight.amax((1, 2, 3), keepdim=True)).amax((0, 2, 3)))
    return torch.stack(found).amax(0).clamp(min=_SMALLEST_RANGE) if found else None
