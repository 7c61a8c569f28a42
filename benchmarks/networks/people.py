"""A single-stage network for several people in the shape of YOLOv8-pose (Jocher et al. 2023), of any width."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from blocks import conv_bn
from torch import Tensor, nn
from torch.nn import functional

Form = Literal["decoded", "final", "one", "levels", "parts"]


def _conv(cin: int, cout: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return conv_bn(cin, cout, kernel, stride, act=nn.SiLU)


class Bottleneck(nn.Module):
    """Two convolutions, with or without a residual sum."""

    def __init__(self, channels: int, *, residual: bool) -> None:
        super().__init__()
        self.first, self.second, self.residual = _conv(channels, channels), _conv(channels, channels), residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return x + y if self.residual else y


class C2f(nn.Module):
    """Halves the channels, runs bottlenecks over one half, and joins all that came about."""

    def __init__(self, cin: int, cout: int, count: int = 1, *, residual: bool = False) -> None:
        super().__init__()
        half = cout // 2
        self.split = _conv(cin, 2 * half, 1)
        self.blocks = nn.ModuleList(Bottleneck(half, residual=residual) for _ in range(count))
        self.join = _conv((2 + count) * half, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.split(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        joined: Tensor = self.join(torch.cat(parts, 1))
        return joined


class SPPF(nn.Module):
    """Three max poolings in a row, joined with what they pool."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.join = _conv(channels, channels // 2, 1), _conv(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.reduce(x)]
        for _ in range(3):
            parts.append(functional.max_pool2d(parts[-1], 5, 1, 2))
        joined: Tensor = self.join(torch.cat(parts, 1))
        return joined


class Branch(nn.Sequential):
    """A branch of the head: two convolutions and one of 1 x 1."""

    def __init__(self, cin: int, inner: int, cout: int) -> None:
        super().__init__(_conv(cin, inner), _conv(inner, inner), nn.Conv2d(inner, cout, 1))


class YoloPose(nn.Module):
    """Backbone, a neck up and down, and a head with branches for boxes, scores and keypoints.

    Args:
        keypoints: Their number K, with a visibility each.
        height: Of the input, pixels.
        width: Of the input, pixels.
        widths: Channels of the stem and of each stage; the last ones, one for each of ``strides``, have a head.
        strides: Of the levels that have a head.
        bins: Of each side of a box.
        inner: Channels of the branches of the head.
        form: What it gives: ``decoded`` (N, 5 + 3 K, A), ``final`` (N, 20, 6 + 3 K), ``one`` (N, 4 bins + 1 + 3 K, A),
            or maps of each level, whole (``levels``) or in three ``parts``.
    """

    def __init__(
        self,
        keypoints: int = 17,
        height: int = 128,
        width: int = 128,
        widths: Sequence[int] = (16, 32, 48, 64, 96),
        strides: Sequence[int] = (8, 16, 32),
        bins: int = 16,
        inner: int = 32,
        form: Form = "decoded",
    ) -> None:
        super().__init__()
        self.bins, self.form, self.keypoints = bins, form, keypoints
        self.stem = _conv(3, widths[0], 3, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(_conv(cin, cout, 3, 2), C2f(cout, cout, residual=True)) for cin, cout in pairwise(widths)
        )
        self.pool = SPPF(widths[-1])
        levels = list(widths[-len(strides) :])
        self.up = nn.ModuleList(C2f(a + b, b) for a, b in zip(levels[:0:-1], levels[-2::-1], strict=True))
        self.down = nn.ModuleList(_conv(a, a, 3, 2) for a in levels[:-1])
        self.mix = nn.ModuleList(C2f(a + b, b) for a, b in pairwise(levels))
        self.box = nn.ModuleList(Branch(channels, inner, 4 * bins) for channels in levels)
        self.score = nn.ModuleList(Branch(channels, inner, 1) for channels in levels)
        self.points = nn.ModuleList(Branch(channels, inner, 3 * keypoints) for channels in levels)
        cells = [
            torch.stack(torch.meshgrid(torch.arange(width // s), torch.arange(height // s), indexing="xy"), -1)
            for s in strides
        ]
        self.register_buffer("cells", torch.cat([c.reshape(-1, 2) for c in cells]).T.float()[None], persistent=False)
        sizes = [torch.full((len(c.reshape(-1, 2)),), float(s)) for c, s in zip(cells, strides, strict=True)]
        self.register_buffer("sizes", torch.cat(sizes)[None, None], persistent=False)
        self.register_buffer("numbers", torch.arange(bins).float()[None, None, :, None], persistent=False)
        for branch, stride in zip(self.score, strides, strict=True):
            nn.init.constant_(branch[-1].bias, -4.0 - 0.1 * stride / 8)  # type: ignore[arg-type]

    cells: Tensor
    sizes: Tensor
    numbers: Tensor

    def maps(self, x: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Boxes, scores and keypoints of each level."""
        features, y = [], self.stem(x)
        for stage in self.stages:
            y = stage(y)
            features.append(y)
        features[-1] = self.pool(features[-1])
        features = features[-len(self.box) :]
        for index, mix in enumerate(self.up):
            level = len(features) - 2 - index
            above = functional.interpolate(features[level + 1], scale_factor=2.0, mode="nearest")
            features[level] = mix(torch.cat([above, features[level]], 1))
        for level, (down, mix) in enumerate(zip(self.down, self.mix, strict=True)):
            features[level + 1] = mix(torch.cat([down(features[level]), features[level + 1]], 1))
        branches = zip(features, self.box, self.score, self.points, strict=True)
        return [(box(f), score(f), points(f)) for f, box, score, points in branches]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        maps = self.maps(x)
        if self.form == "parts":
            return [part for level in maps for part in level]
        if self.form == "levels":
            return [torch.cat(level, 1) for level in maps]
        box, score, points = (torch.cat([level[part].flatten(2) for level in maps], 2) for part in range(3))
        if self.form == "one":
            return torch.cat([box, score, points], 1)
        sides = (box.reshape(-1, 4, self.bins, box.shape[2]).softmax(2) * self.numbers).sum(2)
        low, high = self.cells + 0.5 - sides[:, :2], self.cells + 0.5 + sides[:, 2:]
        placed = points.reshape(-1, self.keypoints, 3, box.shape[2])
        xy = (placed[:, :, :2] * 2 + self.cells[:, None]) * self.sizes[:, None]
        placed = torch.cat([xy, placed[:, :, 2:].sigmoid()], 2).flatten(1, 2)
        if self.form == "decoded":
            corners = torch.cat([(low + high) / 2, high - low], 1) * self.sizes
            return torch.cat([corners, score.sigmoid(), placed], 1)
        rows = torch.cat([torch.cat([low, high], 1) * self.sizes, score.sigmoid(), 0 * score, placed], 1)
        best = score[:, 0].topk(20).indices
        return rows.transpose(1, 2).gather(1, best[..., None].expand(-1, -1, rows.shape[1]))
