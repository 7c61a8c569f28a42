"""`splite_deploy.decoders.boxes` in torch: all that comes before the suppression of what overlaps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from splite_deploy.decoders.base import InputSize
from splite_deploy.decoders.boxes import Boxes


class BoxesModule(nn.Module):
    """Candidates (N, A, 5) in input pixels from boxes (N, A, 4), scores (N, A, C) and, of some, labels (N, A, 1)."""

    _factor: Tensor

    def __init__(self, decoder: Boxes, keypoints: int, size: InputSize) -> None:
        super().__init__()
        self._decoder = decoder
        factor = (size.width, size.height) * 2 if decoder.scale == "unit" else (1,) * 4
        self.register_buffer("_factor", torch.tensor(factor, dtype=torch.float32), persistent=False)

    def forward(self, boxes: Tensor, scores: Tensor, labels: Tensor | None = None) -> tuple[Tensor, ...]:
        """Candidates."""
        decoder = self._decoder
        score = scores if int(scores.shape[2]) == 1 else scores.amax(dim=2, keepdim=True)
        if decoder.scores == "logits":
            score = score.sigmoid()
        if decoder.label is not None and labels is not None:
            score = score * ((labels - decoder.label).abs() < 0.5).to(score.dtype)
        if decoder.scale == "unit":
            boxes = boxes * self._factor
        if decoder.boxes == "xywh":
            half = boxes[..., 2:] / 2
            boxes = torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], dim=2)
        return (torch.cat([boxes, score], dim=2),)
