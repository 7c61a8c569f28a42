"""Backbones of lightweight pose networks, written from their papers. Each has ``channels``, those of its features.

Sizes are compared with the published ones in tests/models/test_lite_pose.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from lite_blocks import ChannelShuffle, Gate, InvertedResidual, ShuffleUnit, conv_bn, depthwise, round_width, scaled
from torch import Tensor, nn


class MobileNetV2(nn.Sequential):
    """MobileNetV2 (Sandler et al. 2018, table 2); features of stride 32."""

    STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    """Expansion, channels, blocks, stride."""

    def __init__(self, width: float = 1.0) -> None:
        cin = scaled(32, width)
        layers: list[nn.Module] = [conv_bn(3, cin, 3, 2, act=nn.ReLU6)]
        for expansion, base, blocks, stride in self.STAGES:
            cout = scaled(base, width)
            for block in range(blocks):
                step = stride if block == 0 else 1
                layers.append(InvertedResidual(cin, cin * expansion, cout, 3, step, nn.ReLU6))
                cin = cout
        self.channels = scaled(1280, max(1.0, width))
        super().__init__(*layers, conv_bn(cin, self.channels, 1, act=nn.ReLU6))


class MobileNetV3(nn.Sequential):
    """MobileNetV3 (Howard et al. 2019, tables 1 and 2); features of stride 32.

    Args:
        size: ``small`` or ``large``.
        width: Multiplies the channels.
    """

    BLOCKS: Mapping[str, tuple[tuple[int, int, int, int, bool, bool], ...]] = {
        "small": (
            *((3, 16, 16, 2, True, False), (3, 72, 24, 2, False, False), (3, 88, 24, 1, False, False)),
            *((5, 96, 40, 2, True, True), (5, 240, 40, 1, True, True), (5, 240, 40, 1, True, True)),
            *((5, 120, 48, 1, True, True), (5, 144, 48, 1, True, True)),
            *((5, 288, 96, 2, True, True), (5, 576, 96, 1, True, True), (5, 576, 96, 1, True, True)),
        ),
        "large": (
            *((3, 16, 16, 1, False, False), (3, 64, 24, 2, False, False), (3, 72, 24, 1, False, False)),
            *((5, 72, 40, 2, True, False), (5, 120, 40, 1, True, False), (5, 120, 40, 1, True, False)),
            *((3, 240, 80, 2, False, True), (3, 200, 80, 1, False, True)),
            *((3, 184, 80, 1, False, True), (3, 184, 80, 1, False, True)),
            *((3, 480, 112, 1, True, True), (3, 672, 112, 1, True, True)),
            *((5, 672, 160, 2, True, True), (5, 960, 160, 1, True, True), (5, 960, 160, 1, True, True)),
        ),
    }
    """Kernel, expanded channels, channels, stride, gate, hard-swish."""

    def __init__(self, size: str = "small", width: float = 1.0) -> None:
        cin = scaled(16, width)
        layers: list[nn.Module] = [conv_bn(3, cin, 3, 2, act=nn.Hardswish)]
        for kernel, expanded, base, stride, gated, hard_swish in self.BLOCKS[size]:
            hidden, cout = scaled(expanded, width), scaled(base, width)
            act: type[nn.Module] = nn.Hardswish if hard_swish else nn.ReLU
            inner = round_width(hidden / 4) if gated else 0
            layers.append(InvertedResidual(cin, hidden, cout, kernel, stride, act, gate=inner))
            cin = cout
        self.channels = 6 * cin
        super().__init__(*layers, conv_bn(cin, self.channels, 1, act=nn.Hardswish))


class ViPNASMobileNetV3(nn.Sequential):
    """The MobileNetV3 that a search for pose found (Xu et al. 2021, S-ViPNAS-MobileNetV3); features of stride 32.

    Its middle convolutions are grouped and not depthwise; a width multiplier keeps the channels in a group.
    """

    STAGES = (
        *((16, 1, 1, 3, 2, True, 1, False), (24, 5, 4, 7, 1, True, 2, False), (40, 4, 4, 7, 8, False, 2, False)),
        *((80, 5, 4, 5, 4, True, 2, True), (112, 5, 4, 7, 2, True, 1, True), (160, 6, 4, 5, 4, True, 2, True)),
    )
    """Channels, expansion, blocks, kernel, channels in a group, gate, stride, hard-swish."""

    def __init__(self, width: float = 1.0) -> None:
        cin = scaled(16, width)
        layers: list[nn.Module] = [conv_bn(3, cin, 3, 2, act=nn.Hardswish)]
        for base, expansion, blocks, kernel, grouped, gated, stride, hard_swish in self.STAGES:
            cout = scaled(base, width)
            hidden = cout * expansion
            act: type[nn.Module] = nn.Hardswish if hard_swish else nn.ReLU
            for block in range(blocks):
                layers.append(
                    InvertedResidual(
                        *(cin, hidden, cout, kernel, stride if block == 0 else 1, act),
                        gate=hidden // 4 if gated else 0,
                        groups=hidden // grouped,
                        always_expand=True,
                    )
                )
                cin = cout
        self.channels = cin
        super().__init__(*layers)


class ShuffleNetV2(nn.Sequential):
    """ShuffleNetV2 (Ma et al. 2018, table 5); features of stride 32."""

    BLOCKS = (4, 8, 4)
    WIDTHS: Mapping[float, tuple[int, int, int, int]] = {
        0.5: (48, 96, 192, 1024),
        1.0: (116, 232, 464, 1024),
        1.5: (176, 352, 704, 1024),
        2.0: (244, 488, 976, 2048),
    }
    """The published widths; others are multiples of the second."""

    def __init__(self, width: float = 1.0) -> None:
        published = self.WIDTHS.get(width)
        widths = published or (*(round_width(base * width) for base in self.WIDTHS[1.0][:3]), 1024)
        cin = 24
        layers: list[nn.Module] = [conv_bn(3, cin, 3, 2), nn.MaxPool2d(3, 2, 1)]
        for cout, blocks in zip(widths[:3], self.BLOCKS, strict=True):
            layers += [ShuffleUnit(cin, cout, 2), *(ShuffleUnit(cout, cout, 1) for _ in range(blocks - 1))]
            cin = cout
        self.channels = widths[3]
        super().__init__(*layers, conv_bn(cin, self.channels, 1))


class ResidualBlock(nn.Module):
    """Residual block (He et al. 2016): two 3x3 convolutions, or three that are narrow within.

    Args:
        cin: Channels that come in.
        inner: Channels of the 3x3 convolution.
        cout: Channels that go out: those of the 3x3 convolution, or more.
        stride: Of the 3x3 convolution (the first one of two).
        gate: Inner channels of a gate behind the last convolution; 0 for none.
        narrow: Whether there are three.
    """

    def __init__(self, cin: int, inner: int, cout: int, stride: int, *, gate: int, narrow: bool) -> None:
        super().__init__()
        if narrow:
            layers = [conv_bn(cin, inner, 1), conv_bn(inner, inner, 3, stride), conv_bn(inner, cout, 1, act=None)]
        else:
            layers = [conv_bn(cin, inner, 3, stride), conv_bn(inner, cout, 3, act=None)]
        if gate:
            self.worked = nn.Sequential(*layers, Gate(cout, gate, hard=False))
        else:
            self.worked = nn.Sequential(*layers)
        self.shortcut = conv_bn(cin, cout, 1, stride, act=None) if stride > 1 or cin != cout else nn.Identity()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        summed: Tensor = self.act(self.worked(x) + self.shortcut(x))
        return summed


class ResNet(nn.Sequential):
    """ResNet (He et al. 2016), plain or gated; features of stride 32.

    Args:
        depth: 18, 34, 50, 101 or 152.
        gates: ``none``; ``every``, a gate of a 16th of the channels in each block (Hu et al. 2018); or ``first``, one
            of all channels in the first block of each stage, as FastPose has them (Fang et al. 2022).
        width: Multiplies the channels.
    """

    BLOCKS: Mapping[int, tuple[int, int, int, int]] = {
        18: (2, 2, 2, 2),
        34: (3, 4, 6, 3),
        50: (3, 4, 6, 3),
        101: (3, 4, 23, 3),
        152: (3, 8, 36, 3),
    }

    def __init__(self, depth: int = 50, gates: str = "none", width: float = 1.0) -> None:
        narrow = depth >= 50
        cin = scaled(64, width)
        layers: list[nn.Module] = [conv_bn(3, cin, 7, 2), nn.MaxPool2d(3, 2, 1)]
        for stage, blocks in enumerate(self.BLOCKS[depth]):
            inner = scaled(64 << stage, width)
            cout = inner * 4 if narrow else inner
            for block in range(blocks):
                stride = 2 if block == 0 and stage > 0 else 1
                gate = {"none": 0, "every": cout // 16, "first": 0 if block else cout}[gates]
                layers.append(ResidualBlock(cin, inner, cout, stride, gate=gate, narrow=narrow))
                cin = cout
        self.channels = cin
        super().__init__(*layers)


class CrossResolutionWeights(nn.Module):
    """Weights for the channels of all branches, from all of them pooled to the smallest (Yu et al. 2021)."""

    def __init__(self, channels: list[int], reduction: int = 8) -> None:
        super().__init__()
        self.channels, total = channels, sum(channels)
        self.weigh = nn.Sequential(
            conv_bn(total, total // reduction, 1), conv_bn(total // reduction, total, 1, act=nn.Sigmoid)
        )
        count = len(channels)
        self.pools = nn.ModuleList(nn.AvgPool2d(2 << index) for index in reversed(range(count - 1)))
        self.rises = nn.ModuleList(nn.Upsample(scale_factor=float(2 << index)) for index in reversed(range(count - 1)))

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        pooled = [pool(branch) for pool, branch in zip(self.pools, branches[:-1], strict=True)]
        weights = torch.split(self.weigh(torch.cat([*pooled, branches[-1]], dim=1)), self.channels, dim=1)
        risen = [rise(weight) for rise, weight in zip(self.rises, weights[:-1], strict=True)]
        return [branch * weight for branch, weight in zip(branches, [*risen, weights[-1]], strict=True)]


class ConditionalUnit(nn.Module):
    """Shuffle units in all branches, whose 1x1 convolutions are replaced by weights (Yu et al. 2021)."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        halves = [count // 2 for count in channels]
        self.across = CrossResolutionWeights(halves)
        self.convolutions = nn.ModuleList(depthwise(half) for half in halves)
        self.within = nn.ModuleList(Gate(half, half // 4, hard=False) for half in halves)
        self.shuffles = nn.ModuleList(ChannelShuffle() for _ in channels)

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        halves = [branch.chunk(2, dim=1) for branch in branches]
        worked = self.across([half[1] for half in halves])
        worked = [gate(conv(x)) for x, conv, gate in zip(worked, self.convolutions, self.within, strict=True)]
        joined = [torch.cat((half[0], x), dim=1) for half, x in zip(halves, worked, strict=True)]
        return [shuffle(x) for shuffle, x in zip(self.shuffles, joined, strict=True)]


def separable(cin: int, cout: int, stride: int = 1, *, act: bool = True) -> nn.Sequential:
    """Depthwise 3x3 and 1x1 convolution, each with a batch norm, and a ReLU behind the second."""
    return nn.Sequential(depthwise(cin, 3, stride), conv_bn(cin, cout, 1, act=nn.ReLU if act else None))


class Fusion(nn.Module):
    """Brings every branch to the resolution of every other one and adds them (Sun et al. 2019, Yu et al. 2021)."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.ModuleList(self._path(source, target, channels) for source in range(len(channels)))
            for target in range(len(channels))
        )
        self.act = nn.ReLU()

    @staticmethod
    def _path(source: int, target: int, channels: list[int]) -> nn.Module:
        cin, cout = channels[source], channels[target]
        if source > target:
            return nn.Sequential(
                conv_bn(cin, cout, 1, act=None), nn.Upsample(scale_factor=float(1 << (source - target)))
            )
        steps = target - source
        last = [separable(cin, cout, 2, act=False)] if steps else []
        return nn.Sequential(*(separable(cin, cin, 2) for _ in range(steps - 1)), *last)

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        fused = []
        for paths in self.paths:
            assert isinstance(paths, nn.ModuleList)
            first, *others = (path(branch) for path, branch in zip(paths, branches, strict=True))
            for other in others:
                first = first + other
            fused.append(self.act(first))
        return fused


class LiteHRNet(nn.Module):
    """Lite-HRNet-18 and -30 (Yu et al. 2021); features of stride 4.

    Branches are brought together from the lowest resolution up, as in the authors' network, but by a bilinear
    interpolation between the centres of pixels: the one between corners is wrong in some converters.

    Args:
        depth: 18 or 30.
        width: Multiplies the channels of the branches.
    """

    CHANNELS = (40, 80, 160, 320)
    MODULES: Mapping[int, tuple[int, int, int]] = {18: (2, 4, 2), 30: (3, 8, 3)}
    UNITS = 2  # in a module
    STEM = 32

    def __init__(self, depth: int = 18, width: float = 1.0) -> None:
        super().__init__()
        widths = [scaled(base, width) for base in self.CHANNELS]
        half = self.STEM // 2
        self.stem = conv_bn(3, self.STEM, 3, 2)
        self.kept = separable(half, half, 2)
        self.worked = nn.Sequential(
            conv_bn(half, self.STEM, 1), depthwise(self.STEM, 3, 2), conv_bn(self.STEM, half, 1)
        )
        self.shuffle = ChannelShuffle()
        self.first = separable(self.STEM, widths[0])
        self.branches = nn.ModuleList(separable(high, low, 2) for high, low in pairwise((self.STEM, *widths[1:])))
        self.stages = nn.ModuleList()
        for index, modules in enumerate(self.MODULES[depth]):
            channels = widths[: index + 2]
            stage = nn.ModuleList()
            for _ in range(modules):
                stage.extend([*(ConditionalUnit(channels) for _ in range(self.UNITS)), Fusion(channels)])
            self.stages.append(stage)
        self.projections = nn.ModuleList(separable(low, high) for low, high in pairwise(reversed(widths)))
        self.last = separable(widths[0], widths[0])
        self.rise = nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False)
        self.channels = widths[0]

    def forward(self, image: Tensor) -> Tensor:
        kept, worked = self.stem(image).chunk(2, dim=1)
        x = self.shuffle(torch.cat((self.kept(kept), self.worked(worked)), dim=1))
        branches = [self.first(x)]
        lowest = x  # the second branch begins before the first one is widened
        for branch, stage in zip(self.branches, self.stages, strict=True):
            branches.append(branch(lowest))
            assert isinstance(stage, nn.ModuleList)
            for layer in stage:
                branches = layer(branches)
            lowest = branches[-1]
        y = branches[-1]
        for projection, higher in zip(self.projections, reversed(branches[:-1]), strict=True):
            y = higher + self.rise(projection(y))
        features: Tensor = self.last(y)
        return features


BACKBONES: Mapping[str, Callable[[float], nn.Module]] = {
    "mobilenetv2": MobileNetV2,
    "mobilenetv3-small": lambda width: MobileNetV3("small", width),
    "mobilenetv3-large": lambda width: MobileNetV3("large", width),
    "vipnas-mobilenetv3": ViPNASMobileNetV3,
    "shufflenetv2": ShuffleNetV2,
    "lite-hrnet-18": lambda width: LiteHRNet(18, width),
    "lite-hrnet-30": lambda width: LiteHRNet(30, width),
    **{f"resnet-{depth}": lambda width, depth=depth: ResNet(depth, "none", width) for depth in ResNet.BLOCKS},
    **{f"se-resnet-{depth}": lambda width, depth=depth: ResNet(depth, "every", width) for depth in ResNet.BLOCKS},
    **{f"fastpose-{depth}": lambda width, depth=depth: ResNet(depth, "first", width) for depth in ResNet.BLOCKS},
}
"""By name, from the width multiplier."""
