"""`splite_deploy.decoders.softargmax` in torch."""

from __future__ import annotations

import torch
from torch import Tensor

from splite_deploy.decoders.base import InputSize
from splite_deploy.decoders.softargmax import SoftArgmax
from splite_deploy.decoders.torch.heatmap import SoftHeatmapModule


class SoftArgmaxModule(SoftHeatmapModule):
    """Keypoints (N, K, 2) in input pixels and scores (N, K) from a heatmap (N, K, H, W) of logits."""

    def __init__(self, decoder: SoftArgmax, keypoints: int, size: InputSize) -> None:
        super().__init__(decoder, keypoints, size)
        self._score_window = decoder.score_window

    def forward(self, heatmap: Tensor) -> tuple[Tensor, ...]:
        """Keypoints and scores."""
        weights = torch.softmax(self.logits(heatmap), dim=-1)
        keypoints = self.expected(weights)
        return keypoints, self.window_mass(weights, keypoints)

    def window_mass(self, weights: Tensor, keypoints: Tensor) -> Tensor:
        """Scores (N, K): the weights (N, K, H * W) within the window around each keypoint, clipped to [0, 1].

        The window is the product of a mask over columns and one over rows, so that its mass is two small products of
        matrices.
        """
        near = self.near(self.cells(keypoints), self._score_window).to(weights.dtype)
        columns, rows = self.columns_and_rows(near)
        maps = weights.reshape(-1, self.keypoints, self.height, self.width)
        mass = rows.unsqueeze(2) @ (maps @ columns.unsqueeze(3))
        return mass.reshape(-1, self.keypoints).clamp(0, 1)
