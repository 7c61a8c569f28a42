"""SPLite Hand: inverted residual blocks, a pixel-shuffle head, 21 heatmaps and 21 depth maps.

Everything is convolution, batch norm, ReLU and (optionally) squeeze-excite, so that the graph quantises and
prunes well: no hard-swish (it loses accuracy in INT8) and no transposed convolution (two of 64 channels take
longer than the rest of the network on one CPU thread; a pixel shuffle costs a tenth of that).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from layers import conv_bn, round_width

STAGES = (  # channels, blocks, expansion; every stage halves the resolution
    (24, 2, 3.0),  # stride 4
    (48, 3, 4.0),  # stride 8
    (96, 4, 4.0),  # stride 16
)
STEM_CHANNELS = 16
HEAD_CHANNELS = (48, 32)  # at stride 8 and stride 4


class SqueezeExcite(nn.Module):
    """Channel gate (Hu et al. 2018) with a hard sigmoid, which integer runtimes have."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        inner = round_width(channels / reduction)
        self.reduce = nn.Conv2d(channels, inner, 1)
        self.expand = nn.Conv2d(inner, channels, 1)
        self.act = nn.ReLU(inplace=True)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.expand(self.act(self.reduce(squeezed))))


class InvertedResidual(nn.Module):
    """Expand, depthwise, optional squeeze-excite, project (Sandler et al. 2018); residual where shapes allow."""

    def __init__(self, cin: int, cout: int, *, stride: int, expansion: float, squeeze_excite: bool) -> None:
        super().__init__()
        hidden = round_width(cin * expansion)
        self.expand = conv_bn(cin, hidden, 1)
        self.depthwise = conv_bn(hidden, hidden, 3, stride=stride, groups=hidden)
        self.gate = SqueezeExcite(hidden) if squeeze_excite else nn.Identity()
        self.project = conv_bn(hidden, cout, 1, act=False)
        self.residual = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.gate(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class Upsample(nn.Module):
    """1x1 convolution, pixel shuffle by 2, lateral connection, depthwise-separable smoothing."""

    def __init__(self, cin: int, lateral: int, cout: int) -> None:
        super().__init__()
        self.up = conv_bn(cin, 4 * cout, 1)
        self.shuffle = nn.PixelShuffle(2)
        self.lateral = conv_bn(lateral, cout, 1, act=False)
        self.smooth = nn.Sequential(conv_bn(cout, cout, 3, groups=cout), conv_bn(cout, cout, 1))

    def forward(self, x: Tensor, lateral: Tensor) -> Tensor:
        smoothed: Tensor = self.smooth(self.shuffle(self.up(x)) + self.lateral(lateral))
        return smoothed


class SpliteHand(nn.Module):
    """Hand crop to heatmap logits and depth maps, both at stride 4.

    Args:
        width: Multiplies every channel count (then rounded to a multiple of 8).
        depth: Multiplies the number of blocks of each stage.
        keypoints: Number of keypoints K.
        squeeze_excite: Gates the blocks at stride 16 with squeeze-excite.
    """

    def __init__(
        self, width: float = 1.0, depth: float = 1.0, keypoints: int = 21, squeeze_excite: bool = True
    ) -> None:
        super().__init__()
        channels = round_width(STEM_CHANNELS * width)
        self.stem = conv_bn(3, channels, 3, stride=2)
        stages: list[nn.Module] = []
        outputs: list[int] = []
        for index, (base, blocks, expansion) in enumerate(STAGES):
            cout = round_width(base * width)
            stage: list[nn.Module] = []
            for block in range(max(1, round(blocks * depth))):
                stage.append(
                    InvertedResidual(
                        channels,
                        cout,
                        stride=2 if block == 0 else 1,
                        expansion=expansion,
                        squeeze_excite=squeeze_excite and index == len(STAGES) - 1,
                    )
                )
                channels = cout
            stages.append(nn.Sequential(*stage))
            outputs.append(channels)
        self.stage4, self.stage8, self.stage16 = stages
        head8, head4 = (round_width(c * width) for c in HEAD_CHANNELS)
        self.up8 = Upsample(outputs[2], outputs[1], head8)
        self.up4 = Upsample(head8, outputs[0], head4)
        self.heatmap = nn.Conv2d(head4, keypoints, 1)
        self.depth = nn.Conv2d(head4, keypoints, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Runs the network.

        Args:
            image: (N, 3, H, W) float32, normalised; H and W multiples of 16.

        Returns:
            heatmap: (N, K, H/4, W/4) logits of a spatial softmax.
            depth: (N, K, H/4, W/4) depth relative to the root keypoint, in palm units, to be averaged with the
                softmax as weights (Iqbal et al. 2018).
        """
        x4: Tensor = self.stage4(self.stem(image))
        x8: Tensor = self.stage8(x4)
        x16: Tensor = self.stage16(x8)
        features = self.up4(self.up8(x16, x8), x4)
        return self.heatmap(features), self.depth(features)


def build(width: float = 1.0, depth: float = 1.0, keypoints: int = 21, squeeze_excite: bool = True) -> nn.Module:
    """Builds an untrained network; see `SpliteHand` for the arguments."""
    torch._assert(width > 0 and depth > 0, "width and depth must be positive")
    return SpliteHand(width, depth, keypoints, squeeze_excite)
