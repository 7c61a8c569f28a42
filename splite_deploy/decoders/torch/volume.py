"""`splite_deploy.decoders.volume` in torch."""

from __future__ import annotations

import torch
from torch import Tensor

from splite_deploy.decoders.base import InputSize
from splite_deploy.decoders.torch.softargmax import SoftArgmaxModule
from splite_deploy.decoders.volume import Volume


class VolumeModule(SoftArgmaxModule):
    """Keypoints (N, K, 2), scores (N, K) and depths (N, K) from a volume (N, K * bins, H, W) of logits."""

    _root: Tensor
    _depths: Tensor

    def __init__(self, decoder: Volume, keypoints: int, size: InputSize) -> None:
        super().__init__(decoder, keypoints, size)
        self._bins = decoder.bins
        self.register_buffer("_root", torch.tensor([decoder.root_keypoint]), persistent=False)
        self._constant("_depths", decoder.depths[:, None])

    def forward(self, volume: Tensor) -> tuple[Tensor, ...]:
        """Keypoints, scores and depths relative to the root keypoint."""
        cells = self.height * self.width
        logits = volume.reshape(-1, self.keypoints, self._bins * cells)
        weights = torch.softmax(logits if self.beta == 1 else logits * self.beta, dim=-1)
        weights = weights.reshape(-1, self.keypoints, self._bins, cells)
        plane = weights.sum(dim=2)
        keypoints = self.expected(plane)
        absolute = (weights.sum(dim=3) @ self._depths).squeeze(-1)
        return keypoints, self.window_mass(plane, keypoints), absolute - absolute.index_select(1, self._root)
