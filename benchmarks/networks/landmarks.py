"""Convolutional networks that give coordinates."""

from __future__ import annotations

from itertools import pairwise

import torch
from blocks import conv_bn, deconvolutions
from torch import Tensor, nn
from torch.nn import functional


class Integral3D(nn.Module):
    """Means of a volume's softmax (Sun et al. 2018): (N, K, 3) of x and y from 0 to 1, and depth.

    Args:
        keypoints: Their number K.
        depth: Bins of the volume along z.
        decode: Without it the volume itself is given, (N, K, depth, H, W).
    """

    def __init__(self, keypoints: int, depth: int = 64, *, decode: bool = True) -> None:
        super().__init__()
        self.keypoints, self.depth, self.decode = keypoints, depth, decode
        widths = (3, 16, 32, 64, 64)
        pairs = pairwise(widths)
        self.backbone = nn.Sequential(*(conv_bn(cin, cout, 3, 2) for cin, cout in pairs))
        self.up, self.head = deconvolutions(64, 64, 1), nn.Conv2d(64, keypoints * depth, 1)

    def forward(self, image: Tensor) -> Tensor:
        volume = self.head(self.up(self.backbone(image)))
        n, _, h, w = volume.shape
        if not self.decode:
            return volume.reshape(n, self.keypoints, self.depth, h, w)
        flat = functional.softmax(volume.reshape(n, self.keypoints, -1), 2)
        p = flat.reshape(n, self.keypoints, self.depth, h, w)
        z = (p.sum((3, 4)) * torch.arange(self.depth)).sum(2, keepdim=True)
        y = (p.sum((2, 4)) * torch.arange(h)).sum(2, keepdim=True)
        x = (p.sum((2, 3)) * torch.arange(w)).sum(2, keepdim=True)
        return torch.cat([(x + 0.5) / w, (y + 0.5) / h, z / self.depth - 0.5], 2)


class BlazeBlock(nn.Module):
    """Depthwise and pointwise convolution over an identity that is pooled and padded with channels of zeros.

    Bazarevsky et al. 2019 and 2020; zeros come last, as in MediaPipe's graphs.
    """

    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.added = stride, cout - cin
        self.depthwise = nn.Conv2d(cin, cin, 5, stride, 2, groups=cin, bias=False)
        self.pointwise, self.act = conv_bn(cin, cout, 1, act=None), nn.PReLU(cout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pointwise(self.depthwise(x))
        if self.stride > 1:
            x = functional.max_pool2d(x, self.stride)
        if self.added:
            x = functional.pad(x, (0, 0, 0, 0, 0, self.added))
        activated: Tensor = self.act(y + x)
        return activated


class BlazeLandmarks(nn.Module):
    """Blaze blocks and a convolution over the whole of the last map: (N, K, 3) of pixels and a score."""

    STAGES = ((24, 2), (32, 2), (48, 2), (96, 2))  # channels, blocks; each halves the resolution

    def __init__(self, keypoints: int, side: int = 128) -> None:
        super().__init__()
        self.keypoints, self.side, cin = keypoints, side, 16
        layers: list[nn.Module] = [conv_bn(3, cin, 3, 2, act=nn.ReLU)]
        for cout, count in self.STAGES:
            layers += [BlazeBlock(cin, cout, 2), *(BlazeBlock(cout, cout) for _ in range(count - 1))]
            cin = cout
        self.features = nn.Sequential(*layers)
        self.points = nn.Conv2d(cin, 2 * keypoints, side // 32)
        self.scores = nn.Conv2d(cin, keypoints, side // 32)

    def forward(self, image: Tensor) -> Tensor:
        features = self.features(image)
        points = self.points(features).reshape(-1, self.keypoints, 2) * self.side
        scores = torch.sigmoid(self.scores(features)).reshape(-1, self.keypoints, 1)
        return torch.cat([points + self.side / 2, scores], 2)
