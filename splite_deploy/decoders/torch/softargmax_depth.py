"""`splite_deploy.decoders.softargmax_depth` in torch."""

from __future__ import annotations

import torch
from torch import Tensor

from splite_deploy.decoders.base import InputSize
from splite_deploy.decoders.softargmax_depth import SoftArgmaxDepth
from splite_deploy.decoders.torch.softargmax import SoftArgmaxModule


class SoftArgmaxDepthModule(SoftArgmaxModule):
    """Keypoints and scores as `SoftArgmaxModule`, and depths (N, K) relative to the root keypoint."""

    _root: Tensor

    def __init__(self, decoder: SoftArgmaxDepth, keypoints: int, size: InputSize) -> None:
        super().__init__(decoder, keypoints, size)
        self.register_buffer("_root", torch.tensor([decoder.root_keypoint]), persistent=False)

    def forward(self, heatmap: Tensor, depth: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]  # one map more
        """Keypoints, scores and depths from maps (N, K, H, W)."""
        weights = torch.softmax(self.logits(heatmap), dim=-1)
        keypoints = self.expected(weights)
        return keypoints, self.window_mass(weights, keypoints), self.relative_depth(weights, depth)

    def relative_depth(self, weights: Tensor, depth: Tensor) -> Tensor:
        """Expected depths (N, K) of maps (N, K, H, W) under weights (N, K, H * W), minus that of the root keypoint."""
        absolute = (weights * self.flat(depth)).sum(dim=-1)
        return absolute - absolute.index_select(1, self._root)
