"""Detectors without keypoints in the shape of published ones, with seeded weights."""

from __future__ import annotations

import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253

STRIDES = (8, 16, 32)


def _conv(cin: int, cout: int, stride: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout), nn.SiLU())


class _Levels(nn.Module):
    """Features at strides 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(_conv(3, 8), _conv(8, 16), _conv(16, 24))
        self.middle, self.coarse = _conv(24, 32), _conv(32, 32)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.fine(image)
        middle = self.middle(fine)
        return fine, middle, self.coarse(middle)


class YoloDetect(nn.Module):
    """As YOLOv8 to YOLO12 are exported: (N, 4 + classes, A), xywh in pixels and sigmoids of the classes."""

    def __init__(self, classes: int = 3, side: int = 64) -> None:
        super().__init__()
        self.levels = _Levels()
        self.heads = nn.ModuleList(nn.Conv2d(channels, 4 + classes, 1) for channels in (24, 32, 32))
        for stride in STRIDES:
            cells = side // stride
            index = torch.arange(cells * cells)
            centres = (torch.stack([index % cells, index // cells]) + 0.5) * stride
            self.register_buffer(f"centres_{stride}", centres.float(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        found = []
        for features, head, stride in zip(self.levels(image), self.heads, STRIDES, strict=True):
            maps = head(features).flatten(2)
            centre = maps[:, :2].tanh() * stride + self.get_buffer(f"centres_{stride}")
            size = (maps[:, 2:4].sigmoid() * 3 + 0.5) * stride
            found.append(torch.cat([centre, size, maps[:, 4:].sigmoid()], 1))
        return torch.cat(found, 2)


class RtmDet(nn.Module):
    """As RTMDet is exported without its suppression: boxes (N, A, 4) xyxy in pixels and scores (N, A, classes)."""

    def __init__(self, classes: int = 1, side: int = 64) -> None:
        super().__init__()
        self.yolo = YoloDetect(classes, side)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found = self.yolo(image).transpose(1, 2)
        centre, half = found[..., :2], found[..., 2:4] / 2
        return {"dets": torch.cat([centre - half, centre + half], 2), "scores": found[..., 4:]}


def _seeded(network: nn.Module, side: int) -> nn.Module:
    """With statistics of noise, so that scores differ from place to place."""
    torch.manual_seed(5)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=1.4 * (module.in_channels * module.kernel_size[0] ** 2) ** -0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        network.train()(torch.rand(8, 3, side, side))
    return network.eval()


def yolo(classes: int = 3, side: int = 64) -> nn.Module:
    """Of random weights."""
    return _seeded(YoloDetect(classes, side), side)


def rtmdet(classes: int = 1, side: int = 64) -> nn.Module:
    """The same."""
    return _seeded(RtmDet(classes, side), side)
