"""Blocks that several of these networks are built from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv_bn(
    cin: int, cout: int, kernel: int = 3, stride: int = 1, *, groups: int = 1, act: type[nn.Module] | None = nn.ReLU
) -> nn.Sequential:
    """Convolution with "same" padding and no bias, batch norm and, unless ``act`` is None, an activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(cout),
    ]
    return nn.Sequential(*layers) if act is None else nn.Sequential(*layers, act())


def deconvolutions(cin: int, cout: int, count: int = 3, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Transposed convolutions, each of which doubles height and width (Xiao et al. 2018)."""
    layers: list[nn.Module] = []
    for index in range(count):
        first = cin if index == 0 else cout
        layers += [nn.ConvTranspose2d(first, cout, 4, 2, 1, bias=False), nn.BatchNorm2d(cout), act()]
    return nn.Sequential(*layers)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """View, transpose, contiguous, view: as in Zhang et al. 2018 and nearly every implementation since."""
    n, c, h, w = x.size()
    x = x.view(n, groups, c // groups, h, w)
    return torch.transpose(x, 1, 2).contiguous().view(n, -1, h, w)


class LinearGate(nn.Module):
    """Channel gate with linear layers and views, as in AlphaPose."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        inner = channels // reduction
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.gate = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        n, c, _, _ = x.size()
        gate: Tensor = self.gate(self.pool(x).view(n, c)).view(n, c, 1, 1)
        return x * gate


class ConvGate(nn.Module):
    """Channel gate with convolutions; MobileNetV3's has a hard sigmoid."""

    def __init__(self, channels: int, inner: int, *, hard: bool) -> None:
        super().__init__()
        self.pool, self.reduce, self.expand = (
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, inner, 1),
            nn.Conv2d(inner, channels, 1),
        )
        self.sigmoid = nn.Hardsigmoid() if hard else nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.sigmoid(self.expand(functional.relu(self.reduce(self.pool(x)))))
        return gate * x


class BasicBlock(nn.Module):
    """Residual block of two convolutions (He et al. 2016)."""

    def __init__(self, cin: int, cout: int, stride: int = 1, *, gated: bool = False) -> None:
        super().__init__()
        self.first, self.second = conv_bn(cin, cout, 3, stride), conv_bn(cout, cout, act=None)
        self.down = conv_bn(cin, cout, 1, stride, act=None) if stride != 1 or cin != cout else nn.Identity()
        self.gate = LinearGate(cout) if gated else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.gate(self.second(self.first(x))) + self.down(x))


class ResNet18(nn.Module):
    """ResNet-18 of a width of its own, with or without gates; features of stride 32."""

    def __init__(self, width: int = 32, *, gated: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, width, 7, 2), nn.MaxPool2d(3, 2, 1))
        stages, cin = [], width
        for index in range(4):
            cout = width << index
            first = BasicBlock(cin, cout, 1 if index == 0 else 2, gated=gated)
            stages.append(nn.Sequential(first, BasicBlock(cout, cout, gated=gated)))
            cin = cout
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.stages(self.stem(x))
        return features


class Bottleneck(nn.Module):
    """Residual block that narrows to a quarter of its channels in between (He et al. 2016)."""

    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        super().__init__()
        inner = cout // 4
        self.body = nn.Sequential(
            conv_bn(cin, inner, 1), conv_bn(inner, inner, 3, stride), conv_bn(inner, cout, 1, act=None)
        )
        self.down = conv_bn(cin, cout, 1, stride, act=None) if stride != 1 or cin != cout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.down(x))


class DeepResNet(nn.Module):
    """ResNet of bottlenecks, of the depth of its stages: 3, 8, 36, 3 are ResNet-152; features of stride 32."""

    def __init__(self, depths: Sequence[int], width: int = 64) -> None:
        super().__init__()
        stages: list[nn.Module] = [conv_bn(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)]
        cin = width
        for index, depth in enumerate(depths):
            cout = 4 * width << index
            stages += [
                Bottleneck(cin if block == 0 else cout, cout, 1 + (block == 0 < index)) for block in range(depth)
            ]
            cin = cout
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.stages(x)
        return features
