"""`splite_deploy.decoders.coordinates` in torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from splite_deploy.decoders.base import InputSize
from splite_deploy.decoders.coordinates import Coordinates


class CoordinatesModule(nn.Module):
    """Keypoints (N, K, 2) in input pixels and scores (N, K) from coordinates (N, K, 2 or 3)."""

    _factor: Tensor

    def __init__(self, decoder: Coordinates, keypoints: int, size: InputSize) -> None:
        super().__init__()
        factor = (size.width, size.height) if decoder.scale == "unit" else (1, 1)
        self.register_buffer("_factor", torch.tensor(factor, dtype=torch.float32), persistent=False)

    def forward(self, coordinates: Tensor) -> tuple[Tensor, ...]:
        """Keypoints and scores; without a third column scores are 1."""
        if coordinates.shape[-1] == 3:
            return coordinates[..., :2] * self._factor, coordinates[..., 2].clamp(0, 1)
        return coordinates * self._factor, torch.ones_like(coordinates[..., 0])
