"""Convolutional networks that give heatmaps, in the shape of those of the literature, and small."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from blocks import ConvGate, DeepResNet, ResNet18, channel_shuffle, conv_bn, deconvolutions
from torch import Tensor, nn
from torch.nn import functional


class SimpleBaseline(nn.Module):
    """ResNet and three transposed convolutions (Xiao et al. 2018)."""

    def __init__(self, keypoints: int, width: int = 32) -> None:
        super().__init__()
        self.backbone, self.deconvolutions = ResNet18(width), deconvolutions(8 * width, 64)
        self.head = nn.Conv2d(64, keypoints, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.head(self.deconvolutions(self.backbone(x)))
        return maps


class DeepBaseline(nn.Module):
    """ResNet of bottlenecks and three transposed convolutions (Xiao et al. 2018).

    Args:
        keypoints: Their number.
        depths: Blocks of each stage.
        width: Channels of the first convolution.
        up: Channels of the transposed convolutions.
    """

    def __init__(self, keypoints: int, depths: Sequence[int] = (3, 8, 36, 3), width: int = 64, up: int = 256) -> None:
        super().__init__()
        self.backbone, self.deconvolutions = DeepResNet(depths, width), deconvolutions(32 * width, up)
        self.head = nn.Conv2d(up, keypoints, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.head(self.deconvolutions(self.backbone(x)))
        return maps


class InvertedResidual(nn.Module):
    """Expand, depthwise, gate, project (Howard et al. 2019)."""

    def __init__(
        self, cin: int, hidden: int, cout: int, kernel: int, stride: int, *, gated: bool, act: type[nn.Module]
    ) -> None:
        super().__init__()
        self.residual = stride == 1 and cin == cout
        self.block = nn.Sequential(
            conv_bn(cin, hidden, 1, act=act),
            conv_bn(hidden, hidden, kernel, stride, groups=hidden, act=act),
            ConvGate(hidden, max(8, hidden // 4 // 8 * 8), hard=True) if gated else nn.Identity(),
            conv_bn(hidden, cout, 1, act=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.residual else y


class MobileNetV3(nn.Module):
    """MobileNetV3-Small and transposed convolutions with hard-swish."""

    BLOCKS = (  # hidden, channels, kernel, stride, gated, hard-swish
        (16, 16, 3, 2, True, False),
        (72, 24, 3, 2, False, False),
        (88, 24, 3, 1, False, False),
        (96, 40, 5, 2, True, True),
        (240, 40, 5, 1, True, True),
        (120, 48, 5, 1, True, True),
        (144, 48, 5, 1, True, True),
        (288, 96, 5, 2, True, True),
        (576, 96, 5, 1, True, True),
    )

    def __init__(self, keypoints: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn(3, 16, 3, 2, act=nn.Hardswish)]
        cin = 16
        for hidden, cout, kernel, stride, gated, hard_swish in self.BLOCKS:
            act: type[nn.Module] = nn.Hardswish if hard_swish else nn.ReLU
            layers.append(InvertedResidual(cin, hidden, cout, kernel, stride, gated=gated, act=act))
            cin = cout
        self.features = nn.Sequential(*layers, conv_bn(cin, 192, 1, act=nn.Hardswish))
        self.deconvolutions = deconvolutions(192, 64, act=nn.Hardswish)
        self.head = nn.Conv2d(64, keypoints, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.head(self.deconvolutions(self.features(x)))
        return maps


class ShuffleUnit(nn.Module):
    """Splits channels, works on one half, shuffles both (Ma et al. 2018)."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        half = cout // 2
        self.stride, worked = stride, cin if stride > 1 else half
        if stride > 1:
            self.kept = nn.Sequential(conv_bn(cin, cin, 3, stride, groups=cin, act=None), conv_bn(cin, half, 1))
        depthwise = conv_bn(half, half, 3, stride, groups=half, act=None)
        self.worked = nn.Sequential(conv_bn(worked, half, 1), depthwise, conv_bn(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            return channel_shuffle(torch.cat((self.kept(x), self.worked(x)), dim=1), 2)
        kept, worked = x.chunk(2, dim=1)
        return channel_shuffle(torch.cat((kept, self.worked(worked)), dim=1), 2)


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 and transposed convolutions."""

    STAGES = ((48, 2), (96, 4), (192, 2))  # channels, units

    def __init__(self, keypoints: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1))
        units, cin = [], 24
        for cout, count in self.STAGES:
            units += [ShuffleUnit(cin, cout, 2), *(ShuffleUnit(cout, cout, 1) for _ in range(count - 1))]
            cin = cout
        self.units = nn.Sequential(*units)
        self.deconvolutions, self.head = deconvolutions(cin, 64), nn.Conv2d(64, keypoints, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.head(self.deconvolutions(self.units(self.stem(x))))
        return maps


class CrossResolutionWeights(nn.Module):
    """Weights of all branches' channels from all branches, pooled to the smallest (Yu et al. 2021)."""

    def __init__(self, channels: list[int], reduction: int = 8) -> None:
        super().__init__()
        self.channels, total = channels, sum(channels)
        inner = total // reduction
        self.reduce = nn.Sequential(nn.Conv2d(total, inner, 1), nn.BatchNorm2d(inner), nn.ReLU())
        self.expand = nn.Sequential(nn.Conv2d(inner, total, 1), nn.BatchNorm2d(total), nn.Sigmoid())

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        h, w = branches[-1].shape[-2:]
        pooled = [functional.adaptive_avg_pool2d(branch, (h, w)) for branch in branches[:-1]]
        weights = self.expand(self.reduce(torch.cat([*pooled, branches[-1]], dim=1)))
        return [
            branch * functional.interpolate(weight, size=branch.shape[-2:], mode="nearest")
            for branch, weight in zip(branches, torch.split(weights, self.channels, dim=1), strict=True)
        ]


class ConditionalUnit(nn.Module):
    """Shuffle units in all branches, whose pointwise convolutions are replaced by weights."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        halves = [count // 2 for count in channels]
        self.across = CrossResolutionWeights(halves)
        self.depthwise = nn.ModuleList(conv_bn(c, c, groups=c, act=None) for c in halves)
        self.within = nn.ModuleList(ConvGate(c, c // 4, hard=False) for c in halves)

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        halves = [branch.chunk(2, dim=1) for branch in branches]
        worked = self.across([half[1] for half in halves])
        worked = [gate(conv(x)) for x, conv, gate in zip(worked, self.depthwise, self.within, strict=True)]
        return [channel_shuffle(torch.cat([half[0], x], 1), 2) for half, x in zip(halves, worked, strict=True)]


class LiteHRNet(nn.Module):
    """Three branches of strides 4, 8 and 16 (Yu et al. 2021)."""

    def __init__(self, keypoints: int, channels: tuple[int, ...] = (40, 80, 160)) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 32, 3, 2), conv_bn(32, channels[0], 3, 2))
        pairs = pairwise(channels)
        self.transitions = nn.ModuleList(conv_bn(high, low, 3, 2) for high, low in pairs)
        self.units = nn.ModuleList(ConditionalUnit(channels) for _ in range(2))
        self.fuse = nn.ModuleList(conv_bn(low, channels[0], 1, act=None) for low in channels[1:])
        self.head = nn.Conv2d(channels[0], keypoints, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.stem(x)]
        for transition in self.transitions:
            branches.append(transition(branches[-1]))
        for unit in self.units:
            branches = unit(branches)
        y = branches[0]
        for fuse, low in zip(self.fuse, branches[1:], strict=True):
            y = y + functional.interpolate(fuse(low), size=y.shape[-2:], mode="nearest")
        maps: Tensor = self.head(functional.relu(y))
        return maps


class PreActivated(nn.Module):
    """Bottleneck with batch norm and ReLU before each convolution (Newell et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.block = nn.Sequential(
            *(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, half, 1)),
            *(nn.BatchNorm2d(half), nn.ReLU(), nn.Conv2d(half, half, 3, 1, 1)),
            *(nn.BatchNorm2d(half), nn.ReLU(), nn.Conv2d(half, channels, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.block(x)
        return y


class HourglassLevel(nn.Module):
    """Halves the resolution, works there, and adds what was skipped; levels lie in each other."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.skipped, self.before, self.behind = (PreActivated(channels) for _ in range(3))
        self.inner = HourglassLevel(channels, levels - 1) if levels > 1 else PreActivated(channels)

    def forward(self, x: Tensor) -> Tensor:
        low = self.behind(self.inner(self.before(functional.max_pool2d(x, 2))))
        risen: Tensor = self.skipped(x) + functional.interpolate(low, scale_factor=2)
        return risen


class Hourglass(nn.Module):
    """Two stacked hourglasses; the heatmaps of the last (Newell et al. 2016)."""

    def __init__(self, keypoints: int, channels: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, channels, 7, 2), PreActivated(channels), nn.MaxPool2d(2))
        self.hourglasses = nn.ModuleList(HourglassLevel(channels, 3) for _ in range(2))
        self.features = nn.ModuleList(conv_bn(channels, channels, 1) for _ in range(2))
        self.between, self.head = nn.Conv2d(channels, keypoints, 1), nn.Conv2d(channels, keypoints, 1)
        self.merge_features, self.merge_maps = nn.Conv2d(channels, channels, 1), nn.Conv2d(keypoints, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        features = self.features[0](self.hourglasses[0](x))
        x = x + self.merge_features(features) + self.merge_maps(self.between(features))
        maps: Tensor = self.head(self.features[1](self.hourglasses[1](x)))
        return maps


class FastPose(nn.Module):
    """Gated ResNet and pixel shuffles, the first of them right behind a residual sum (Fang et al. 2022)."""

    def __init__(self, keypoints: int, width: int = 32) -> None:
        super().__init__()
        self.backbone, self.shuffle = ResNet18(width, gated=True), nn.PixelShuffle(2)
        self.up = nn.Sequential(
            *(conv_bn(2 * width, 4 * width), nn.PixelShuffle(2)), *(conv_bn(width, 2 * width), nn.PixelShuffle(2))
        )
        self.head = nn.Conv2d(width // 2, keypoints, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.head(self.up(self.shuffle(self.backbone(x))))
        return maps


class UNet(nn.Module):
    """U-Net with transposed convolutions; heatmaps of the input's own size (Ronneberger et al. 2015)."""

    def __init__(self, keypoints: int, channels: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.down = nn.ModuleList(self._double(cin, cout) for cin, cout in pairwise((3, *channels)))
        risen = channels[::-1]
        pairs = list(pairwise(risen))
        self.up = nn.ModuleList(nn.ConvTranspose2d(low, high, 2, 2) for low, high in pairs)
        self.fuse = nn.ModuleList(self._double(low, high) for low, high in pairs)
        self.head = nn.Conv2d(channels[0], keypoints, 1)

    @staticmethod
    def _double(cin: int, cout: int) -> nn.Sequential:
        return nn.Sequential(conv_bn(cin, cout), conv_bn(cout, cout))

    def forward(self, x: Tensor) -> Tensor:
        skipped: list[Tensor] = []
        for index, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if index else x)
            skipped.append(x)
        for up, fuse, skip in zip(self.up, self.fuse, skipped[-2::-1], strict=True):
            x = fuse(torch.cat([skip, up(x)], dim=1))
        maps: Tensor = self.head(x)
        return maps
