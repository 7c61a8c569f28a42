"""SPLite Hand 2: dense convolutions with few channels, in residual blocks, and four heads.

A block is one 3x3 and one 1x1 convolution. No layer is depthwise, nothing is gated: integer kernels of CPUs run dense
convolutions at several times the rate of depthwise ones (on ARM they alone use dot products), and a gate sends a tensor
through memory twice.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from layers import conv_bn


class Block(nn.Module):
    """3x3, ReLU, 1x1, added to what came in (He et al. 2016), ReLU.

    Args:
        channels: Of its input and output.
        partial: The 3x3 convolution sees a quarter of the channels and the others pass it by (Chen et al. 2023).
    """

    def __init__(self, channels: int, *, partial: bool = False) -> None:
        super().__init__()
        self.partial = partial
        seen = channels // 4 if partial else channels
        self.spatial = conv_bn(seen, seen, 3)
        self.mix = conv_bn(channels, channels, 1, act=False)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        summed: Tensor = self.act(x + self.mix(self.passed(x)))
        return summed

    def passed(self, x: Tensor) -> Tensor:
        """What the 1x1 convolution reads."""
        if self.partial:
            first, *others = x.chunk(4, dim=1)
            return torch.cat([self.spatial(first), *others], dim=1)
        seen: Tensor = self.spatial(x)
        return seen


class Upsample(nn.Module):
    """1x1 convolution, pixel shuffle by 2, sum with a lateral 1x1 convolution, ReLU, a convolution that smooths it."""

    def __init__(self, cin: int, lateral: int, cout: int, kernel: int) -> None:
        super().__init__()
        self.up = conv_bn(cin, 4 * cout, 1, act=False)
        self.shuffle = nn.PixelShuffle(2)
        self.lateral = conv_bn(lateral, cout, 1, act=False)
        self.act = nn.ReLU(inplace=True)
        self.smooth = conv_bn(cout, cout, kernel)

    def forward(self, x: Tensor, lateral: Tensor) -> Tensor:
        smoothed: Tensor = self.smooth(self.act(self.shuffle(self.up(x)) + self.lateral(lateral)))
        return smoothed


class SpliteHand2(nn.Module):
    """Hand crop to heatmap logits and depth maps at stride 4, and two facts about the crop.

    Args:
        channels: At strides 4, 8 and 16; the stem has those of stride 4.
        blocks: Residual blocks at these strides.
        head: Channels behind the two pixel shuffles, at strides 8 and 4.
        smooth: Side of the kernels there.
        keypoints: Number of keypoints K.
        partial: Blocks look at a quarter of their channels; see `Block`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        blocks: Sequence[int],
        head: Sequence[int],
        smooth: Sequence[int],
        keypoints: int = 21,
        partial: bool = False,
    ) -> None:
        super().__init__()
        self.stem = conv_bn(3, channels[0], 3, stride=2)

        def stage(cin: int, cout: int, count: int) -> nn.Sequential:
            down = conv_bn(cin, cout, 3, stride=2)
            return nn.Sequential(down, *(Block(cout, partial=partial) for _ in range(count)))

        self.stage4 = stage(channels[0], channels[0], blocks[0])
        self.stage8 = stage(channels[0], channels[1], blocks[1])
        self.stage16 = stage(channels[1], channels[2], blocks[2])
        self.up8 = Upsample(channels[2], channels[1], head[0], smooth[0])
        self.up4 = Upsample(head[0], channels[0], head[1], smooth[1])
        self.heatmap = nn.Conv2d(head[1], keypoints, 1)
        self.depth = nn.Conv2d(head[1], keypoints, 1)
        self.presence = nn.Linear(channels[2], 1)
        self.handedness = nn.Linear(channels[2], 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Runs the network.

        Args:
            image: (N, 3, H, W) float32, normalised; H and W multiples of 16.

        Returns:
            heatmap: (N, K, H/4, W/4) logits of a spatial softmax.
            depth: (N, K, H/4, W/4) depth relative to the root keypoint, in palm units, to be averaged with the
                softmax as weights (Iqbal et al. 2018).
            presence: (N, 1) logit of there being a hand.
            handedness: (N, 1) logit of its being a right one.
        """
        x4: Tensor = self.stage4(self.stem(image))
        x8: Tensor = self.stage8(x4)
        x16: Tensor = self.stage16(x8)
        features = self.up4(self.up8(x16, x8), x4)
        mean = x16.mean((2, 3))
        return {
            "heatmap": self.heatmap(features),
            "depth": self.depth(features),
            "presence": self.presence(mean),
            "handedness": self.handedness(mean),
        }


def build(
    channels: Sequence[int] = (16, 32, 64),
    blocks: Sequence[int] = (1, 2, 2),
    head: Sequence[int] = (32, 32),
    smooth: Sequence[int] = (3, 1),
    keypoints: int = 21,
    partial: bool = False,
) -> nn.Module:
    """Builds an untrained network; see `SpliteHand2` for the arguments."""
    torch._assert(len(channels) == len(blocks) == 3, "channels and blocks are three numbers each")
    torch._assert(len(head) == len(smooth) == 2, "head and smooth are two numbers each")
    return SpliteHand2(channels, blocks, head, smooth, keypoints, partial)
