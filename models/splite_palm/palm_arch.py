"""SPLite Palm: dense 3x3 and 1x1 convolutions in residual blocks, and maps of one cell for eight pixels.

Integer kernels run dense convolutions several times as fast as depthwise ones, per multiply-add; there are no gates,
and no activation but ReLU. Two levels below the maps look at whole hands, which may fill the input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

STEM = 5
"""Side of the first kernel, which goes to stride 4 at once: half of the work of finer stems was there."""
CHANNELS = (16, 32, 64, 64)
"""At strides 4, 8, 16 and 32."""
BLOCKS = (0, 1, 2, 2)
"""Residual blocks there."""
INNER = 24
"""Channels between the convolutions of a block, at most."""
HEAD = 32
BOX_CELLS = 3.0
"""What distances to the sides begin with, cells."""


def conv_bn(cin: int, cout: int, kernel: int, *, stride: int = 1, act: bool = True) -> nn.Sequential:
    """Convolution with "same" padding and no bias, batch norm and, unless ``act`` is false, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(cout),
    ]
    if act:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """A 3x3 convolution to few channels, a 1x1 back, and what went in (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = min(channels, INNER)
        self.body = nn.Sequential(conv_bn(channels, inner, 3), conv_bn(inner, channels, 1, act=False))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(x + self.body(x))
        return y


class Upsample(nn.Module):
    """1x1 convolution, pixel shuffle by 2, and the finer level added."""

    def __init__(self, cin: int, lateral: int, cout: int) -> None:
        super().__init__()
        self.up = conv_bn(cin, 4 * cout, 1, act=False)
        self.shuffle = nn.PixelShuffle(2)
        self.lateral = conv_bn(lateral, cout, 1, act=False)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, lateral: Tensor) -> Tensor:
        y: Tensor = self.act(self.shuffle(self.up(x)) + self.lateral(lateral))
        return y


class SplitePalm(nn.Module):
    """Picture to a map of hands' middles, and at each cell a box and two keypoints.

    Args:
        width: Multiplies every channel count (then rounded to a multiple of 8).
        keypoints: Number of keypoints K.
    """

    def __init__(self, width: float = 1.0, keypoints: int = 2) -> None:
        super().__init__()
        channels = [max(8, round(count * width / 8) * 8) for count in CHANNELS]
        levels, before = [], 3
        for count, blocks in zip(channels, BLOCKS, strict=True):
            down = conv_bn(before, count, 3, stride=2) if levels else conv_bn(before, count, STEM, stride=4)
            levels.append(nn.Sequential(down, *(Residual(count) for _ in range(blocks))))
            before = count
        self.fine = nn.Sequential(*levels[:2])
        self.middle, self.coarse = levels[2], levels[3]
        head = max(8, round(HEAD * width / 8) * 8)
        self.up16 = Upsample(channels[3], channels[2], head)
        self.up8 = Upsample(head, channels[1], head)
        self.smooth = conv_bn(head, head, 3)
        self.heatmap = nn.Conv2d(head, 1, 1)
        self.boxes = nn.Conv2d(head, 4, 1)
        self.keypoints = nn.Conv2d(head, 2 * keypoints, 1)
        assert self.heatmap.bias is not None and self.boxes.bias is not None
        nn.init.constant_(self.heatmap.bias, -4.0)  # few cells are the middle of a hand
        nn.init.constant_(self.boxes.bias, BOX_CELLS)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Runs the network.

        Args:
            image: (N, 3, H, W) float32, normalised; H and W multiples of 32.

        Returns:
            heatmap: (N, 1, H/8, W/8) logits: is the middle of a hand in this cell?
            boxes: (N, 4, H/8, W/8) distances from the cell's centre to the left, upper, right and lower side, cells.
            keypoints: (N, 2 K, H/8, W/8) vectors from there to the keypoints, x and y of each in turn, cells.
        """
        x8: Tensor = self.fine(image)
        x16: Tensor = self.middle(x8)
        features = self.smooth(self.up8(self.up16(self.coarse(x16), x16), x8))
        return {
            "heatmap": self.heatmap(features),
            "boxes": self.boxes(features),
            "keypoints": self.keypoints(features),
        }


def build(width: float = 1.0, keypoints: int = 2) -> nn.Module:
    """Builds an untrained network; see `SplitePalm` for the arguments."""
    torch._assert(width > 0 and keypoints > 0, "width and keypoints must be positive")
    return SplitePalm(width, keypoints)
