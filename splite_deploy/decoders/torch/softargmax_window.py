"""`splite_deploy.decoders.softargmax_window` in torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from splite_deploy.decoders.base import InputSize
from splite_deploy.decoders.softargmax_window import SoftArgmaxWindow
from splite_deploy.decoders.torch.heatmap import SoftHeatmapModule


class SoftArgmaxWindowModule(SoftHeatmapModule):
    """Keypoints (N, K, 2) in input pixels and scores (N, K) from a heatmap (N, K, H, W)."""

    _cells: Tensor

    def __init__(self, decoder: SoftArgmaxWindow, keypoints: int, size: InputSize) -> None:
        super().__init__(decoder, keypoints, size)
        self._window = decoder.window
        index = np.arange(self.height * self.width)
        self._constant("_cells", np.stack([index % self.width, index // self.width], axis=-1))

    def forward(self, heatmap: Tensor) -> tuple[Tensor, ...]:
        """Keypoints and scores."""
        flat = self.flat(heatmap)
        peak = F.embedding(flat.argmax(dim=-1), self._cells)
        columns, rows = self.columns_and_rows(self.near(peak, self._window))
        inside = self.flat(rows.unsqueeze(3) & columns.unsqueeze(2))
        logits = torch.where(inside, self.logits(heatmap), -torch.inf)
        return self.expected(torch.softmax(logits, dim=-1)), flat.amax(dim=-1).clamp(0, 1)
