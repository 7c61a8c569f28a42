"""`splite_deploy.decoders.anchors` in torch: all that comes before the suppression of what overlaps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from splite_deploy.decoders.anchors import Anchors, grid
from splite_deploy.decoders.base import InputSize


class AnchorsModule(nn.Module):
    """Candidates (N, A, 5 + 3 K) in input pixels from boxes (N, A, 4 + 2 K) and logits (N, A, 1)."""

    _centre: Tensor
    _extent: Tensor

    def __init__(self, decoder: Anchors, keypoints: int, size: InputSize) -> None:
        super().__init__()
        self._clip, self._points = decoder.score_clipping, keypoints + 2
        anchors = torch.from_numpy(grid(decoder, size.height, size.width).copy())[:, None]
        self.register_buffer("_centre", anchors[..., :2], persistent=False)
        self.register_buffer("_extent", anchors[..., 2:] / decoder.scale, persistent=False)

    def forward(self, boxes: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
        """Candidates."""
        score = logits.clamp(-self._clip, self._clip).sigmoid()
        points = boxes.reshape(-1, len(self._extent), self._points, 2) * self._extent
        sides = points[:, :, 1] / 2
        centre = points[:, :, 0] + self._centre[:, 0]
        xy = points[:, :, 2:] + self._centre
        seen = score[..., None].expand(-1, -1, self._points - 2, -1)
        placed = torch.cat([xy, seen], dim=3).reshape(-1, len(self._extent), 3 * (self._points - 2))
        columns = [centre - sides, centre + sides, score, placed]
        return (torch.cat(columns, dim=2),)
