"""`splite_deploy.decoders.softargmax_window` in torch."""

from __future__ import annotations

import torch
from torch import Tensor

from splite_deploy.decoders.base import InputSize
from splite_deploy.decoders.softargmax_window import SoftArgmaxWindow
from splite_deploy.decoders.torch.heatmap import SoftHeatmapModule


class SoftArgmaxWindowModule(SoftHeatmapModule):
    """Keypoints (N, K, 2) in input pixels and scores (N, K) from a heatmap (N, K, H, W)."""

    def __init__(self, decoder: SoftArgmaxWindow, keypoints: int, size: InputSize) -> None:
        super().__init__(decoder, keypoints, size)
        self._window = decoder.window

    def forward(self, heatmap: Tensor) -> tuple[Tensor, ...]:
        """Keypoints and scores."""
        columns, rows = self.columns_and_rows(self.near(self.largest(heatmap), self._window))
        inside = self.flat(rows.unsqueeze(3) & columns.unsqueeze(2))
        logits = torch.where(inside, self.logits(heatmap), -torch.inf)
        return self.expected(torch.softmax(logits, dim=-1)), self.score(heatmap)
