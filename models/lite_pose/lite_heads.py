"""From features to heatmaps or SimCC vectors."""

from __future__ import annotations

from lite_blocks import conv_bn, scaled
from torch import Tensor, nn


def deconvolutions(cin: int, channels: int, *, grouped: bool = False) -> nn.Sequential:
    """Three transposed convolutions of 4x4, each of which doubles the resolution (Xiao et al. 2018).

    Args:
        cin: Channels that come in.
        channels: Of each of the three.
        grouped: One group for each channel, as in ViPNAS (Xu et al. 2021).
    """
    layers: list[nn.Module] = []
    for index in range(3):
        first = cin if index == 0 else channels
        groups = channels if grouped else 1
        layers += [
            nn.ConvTranspose2d(first, channels, 4, 2, 1, groups=groups, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def pixel_shuffles(cin: int, channels: int) -> nn.Sequential:
    """Three pixel shuffles by 2 (Shi et al. 2016), of 4, 2 and 1 times ``channels``.

    The first follows the features at once where they have the channels for it, and a 1x1 convolution otherwise; before
    each of the others stands a 3x3 convolution: the "dense upsampling convolution" of FastPose (Fang et al. 2022).
    """
    first = [] if cin == 16 * channels else [conv_bn(cin, 16 * channels, 1)]
    return nn.Sequential(
        *(*first, nn.PixelShuffle(2)),
        *(conv_bn(4 * channels, 8 * channels, 3), nn.PixelShuffle(2)),
        *(conv_bn(2 * channels, 4 * channels, 3), nn.PixelShuffle(2)),
    )


class SimCC(nn.Module):
    """Two vectors a keypoint, over the columns and over the rows of the input (Li et al. 2022).

    Args:
        cin: Channels of the features.
        keypoints: Their number K.
        cells: Height and width of the features.
        bins: Rows and columns of the input times the split ratio.
    """

    def __init__(self, cin: int, keypoints: int, cells: tuple[int, int], bins: tuple[int, int]) -> None:
        super().__init__()
        self.keypoints, self.area = keypoints, cells[0] * cells[1]
        self.maps = nn.Conv2d(cin, keypoints, 1)
        self.simcc_x, self.simcc_y = nn.Linear(self.area, bins[1]), nn.Linear(self.area, bins[0])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        flat = self.maps(x).reshape(-1, self.keypoints, self.area)
        return self.simcc_x(flat), self.simcc_y(flat)


UPSAMPLING = ("none", "deconvolution", "grouped-deconvolution", "pixel-shuffle")


def upsampling(kind: str, cin: int, channels: int, width: float) -> tuple[nn.Module, int]:
    """The layers that bring features of stride 32 to stride 4, and the channels behind them."""
    wide = scaled(channels, width)
    if kind == "none":
        return nn.Identity(), cin
    if kind == "pixel-shuffle":
        return pixel_shuffles(cin, wide), wide
    return deconvolutions(cin, wide, grouped=kind == "grouped-deconvolution"), wide
