"""Blocks that the networks of this folder share, in forms that every converter takes.

Gates are 1x1 convolutions on a mean, channels are shuffled by reshape and transpose, and nothing depends on values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def round_width(channels: float, multiple: int = 8) -> int:
    """The multiple of ``multiple`` nearest to ``channels``, and at most a tenth below it (Howard et al. 2017)."""
    rounded = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * channels else rounded


def scaled(channels: int, width: float) -> int:
    """A published number of channels times a width multiplier; the published one itself at a width of one."""
    return channels if width == 1 else round_width(channels * width)


def conv_bn(
    cin: int, cout: int, kernel: int = 3, stride: int = 1, *, groups: int = 1, act: type[nn.Module] | None = nn.ReLU
) -> nn.Sequential:
    """Convolution with "same" padding and no bias, batch norm and, unless ``act`` is None, an activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(cout),
    ]
    return nn.Sequential(*layers) if act is None else nn.Sequential(*layers, act())


def depthwise(channels: int, kernel: int = 3, stride: int = 1, act: type[nn.Module] | None = None) -> nn.Sequential:
    """Depthwise `conv_bn`, linear unless told otherwise."""
    return conv_bn(channels, channels, kernel, stride, groups=channels, act=act)


class Gate(nn.Module):
    """Channel gate of squeeze-and-excitation (Hu et al. 2018) with 1x1 convolutions.

    Args:
        channels: What is gated.
        inner: Channels between both convolutions.
        hard: A hard sigmoid, as in MobileNetV3, which integer runtimes have.
    """

    def __init__(self, channels: int, inner: int, *, hard: bool) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)
        self.act = nn.ReLU()
        self.gate = nn.Hardsigmoid() if hard else nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.gate(self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True)))))
        return x * weights


class ChannelShuffle(nn.Module):
    """Interleaves two halves of the channels (Zhang et al. 2018)."""

    def forward(self, x: Tensor) -> Tensor:
        channels, height, width = x.shape[1:]  # from the tensor, since compaction changes them
        halves = x.reshape(-1, 2, channels // 2, height, width)
        return halves.transpose(1, 2).reshape(-1, channels, height, width)


class ShuffleUnit(nn.Module):
    """The unit of ShuffleNetV2 (Ma et al. 2018): works on one half, or on both where it halves the resolution."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        half = cout // 2
        self.split = stride == 1
        if not self.split:
            self.kept = nn.Sequential(depthwise(cin, 3, stride), conv_bn(cin, half, 1))
        self.worked = nn.Sequential(
            conv_bn(half if self.split else cin, half, 1), depthwise(half, 3, stride), conv_bn(half, half, 1)
        )
        self.shuffle = ChannelShuffle()

    def forward(self, x: Tensor) -> Tensor:
        if self.split:
            kept, worked = x.chunk(2, dim=1)
        else:
            kept, worked = self.kept(x), x
        shuffled: Tensor = self.shuffle(torch.cat((kept, self.worked(worked)), dim=1))
        return shuffled


class InvertedResidual(nn.Module):
    """Expand, depthwise, gate, project (Sandler et al. 2018, Howard et al. 2019).

    Args:
        cin: Channels that come in.
        hidden: Channels between; no expansion where they are ``cin`` and ``always_expand`` is false.
        cout: Channels that go out.
        kernel: Side of the middle convolution.
        stride: Of the middle convolution.
        act: Activation behind the first two convolutions.
        gate: Inner channels of a gate; 0 for none.
        groups: Of the middle convolution; 0 for a depthwise one.
        always_expand: Whether there is an expansion even to the same width.
    """

    def __init__(
        self,
        cin: int,
        hidden: int,
        cout: int,
        kernel: int = 3,
        stride: int = 1,
        act: type[nn.Module] = nn.ReLU,
        *,
        gate: int = 0,
        groups: int = 0,
        always_expand: bool = False,
    ) -> None:
        super().__init__()
        self.residual = stride == 1 and cin == cout
        layers: list[nn.Module] = [conv_bn(cin, hidden, 1, act=act)] if always_expand or hidden != cin else []
        layers.append(conv_bn(hidden, hidden, kernel, stride, groups=groups or hidden, act=act))
        if gate:
            layers.append(Gate(hidden, gate, hard=True))
        self.block = nn.Sequential(*layers, conv_bn(hidden, cout, 1, act=None))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.residual else y
