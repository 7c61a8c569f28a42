"""Layers that the hand networks are built of."""

from __future__ import annotations

from torch import nn


def round_width(channels: float, multiple: int = 8) -> int:
    """Returns the multiple of ``multiple`` nearest to ``channels``, at least one of it."""
    return max(multiple, int(channels / multiple + 0.5) * multiple)


def conv_bn(cin: int, cout: int, kernel: int, *, stride: int = 1, groups: int = 1, act: bool = True) -> nn.Sequential:
    """Convolution with "same" padding and no bias, batch norm and, unless ``act`` is false, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(cout),
    ]
    if act:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
