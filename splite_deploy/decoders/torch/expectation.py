"""`splite_deploy.decoders.expectation` in torch."""

from __future__ import annotations

from torch import Tensor

from splite_deploy.decoders.expectation import FLOOR
from splite_deploy.decoders.torch.heatmap import HeatmapModule


class ExpectationModule(HeatmapModule):
    """Keypoints (N, K, 2) in input pixels and scores (N, K) from a heatmap (N, K, H, W)."""

    def forward(self, heatmap: Tensor) -> tuple[Tensor, ...]:
        """Keypoints and scores."""
        weights = self.positive(self.flat(heatmap), FLOOR)
        scores = weights.amax(dim=-1, keepdim=True)
        weights = weights / scores
        keypoints = self.expected(weights) / weights.sum(dim=-1, keepdim=True)
        return keypoints, scores.squeeze(-1).clamp(max=1)
