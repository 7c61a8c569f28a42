"""Lightweight pose networks: a backbone, upsampling and a head, for people in crops of 256 x 192."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from lite_backbones import BACKBONES, LiteHRNet
from lite_heads import UPSAMPLING, SimCC, upsampling
from torch import Tensor, nn

HEADS = ("heatmap", "simcc")


class LitePose(nn.Module):
    """Crop of a person to heatmaps or to SimCC vectors.

    Heatmaps are of stride 4, or 32 without upsampling behind any backbone but Lite-HRNet. Those of an integral
    head, which a softmax is taken of, and those that imitate Gaussians differ in training alone: see ``[decoder]`` of
    ``model.toml``.

    Args:
        backbone: A key of `lite_backbones.BACKBONES`.
        upsampling: One of `lite_heads.UPSAMPLING`.
        channels: Behind the upsampling.
        head: ``heatmap`` or ``simcc``.
        keypoints: Their number K.
        width: Multiplies the channels of backbone and upsampling.
        kernel: Side of the convolution that makes the heatmaps.
        size: Height and width of the input, in pixels; used by SimCC alone.
        split: Bins of SimCC for each pixel of the input.
    """

    def __init__(
        self,
        backbone: str,
        upsampling_kind: str,
        channels: int,
        head: str,
        keypoints: int,
        width: float,
        kernel: int,
        size: tuple[int, int],
        split: float,
    ) -> None:
        super().__init__()
        self.backbone = BACKBONES[backbone](width)
        features = self.backbone.channels
        assert isinstance(features, int)
        self.upsampling, features = upsampling(upsampling_kind, features, channels, width)
        if head == "heatmap":
            self.head: nn.Module = nn.Conv2d(features, keypoints, kernel, 1, kernel // 2)
        else:
            stride = 32 if upsampling_kind == "none" and not isinstance(self.backbone, LiteHRNet) else 4
            cells = size[0] // stride, size[1] // stride
            self.head = SimCC(features, keypoints, cells, (round(size[0] * split), round(size[1] * split)))

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Runs the network.

        Args:
            image: (N, 3, H, W) float32, normalised; H and W multiples of 32.

        Returns:
            Heatmaps (N, K, H / 4, W / 4); or (N, K, W * split) and (N, K, H * split) logits over columns and rows.
        """
        found: Tensor | tuple[Tensor, Tensor] = self.head(self.upsampling(self.backbone(image)))
        return found


def build(
    backbone: str = "mobilenetv3-small",
    upsampling: str = "deconvolution",
    channels: int = 256,
    head: str = "heatmap",
    keypoints: int = 17,
    width: float = 1.0,
    kernel: int = 1,
    height_px: int = 256,
    width_px: int = 192,
    split: float = 2.0,
) -> nn.Module:
    """Builds an untrained network; see `LitePose` for the arguments.

    Raises:
        ValueError: There is no such backbone, upsampling or head.
    """
    for name, value, known in (
        ("backbone", backbone, tuple(BACKBONES)),
        ("upsampling", upsampling, UPSAMPLING),
        ("head", head, HEADS),
    ):
        if value not in known:
            raise ValueError(f"{name} is '{value}': it has to be one of {', '.join(known)}")
    torch._assert(width > 0 and keypoints > 0, "width and keypoints must be positive")
    size = height_px, width_px
    return LitePose(backbone, upsampling, channels, head, keypoints, width, kernel, size, split)
