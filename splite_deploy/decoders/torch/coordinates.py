"""`splite_deploy.decoders.coordinates` in torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from splite_deploy.decoders.base import InputSize
from splite_deploy.decoders.coordinates import Coordinates


class CoordinatesModule(nn.Module):
    """Keypoints (N, K, 2) in input pixels, scores (N, K) and, where there is one, the depth (N, K) of coordinates."""

    _factor: Tensor
    _offset: Tensor

    def __init__(self, decoder: Coordinates, keypoints: int, size: InputSize) -> None:
        super().__init__()
        factor, offset = decoder.factors(size)
        self._decoder, self._depth_factor = decoder, float(factor[0])
        self._shifted = bool(offset.any())
        self.register_buffer("_factor", torch.tensor(factor), persistent=False)
        self.register_buffer("_offset", torch.tensor(offset), persistent=False)

    def forward(self, coordinates: Tensor, scores: Tensor | None = None) -> tuple[Tensor, ...]:
        """Keypoints, scores, depth; scores that nobody gave are 1."""
        decoder, columns = self._decoder, coordinates.shape[-1]
        keypoints = coordinates[..., :2] * self._factor if columns > 2 else coordinates * self._factor
        if self._shifted:
            keypoints = keypoints + self._offset
        if scores is not None:
            sure = scores.clamp(0, 1).expand(-1, coordinates.shape[1])
        elif columns > 2 + decoder.has_z:
            sure = coordinates[..., 2 + decoder.has_z].clamp(0, 1)
        else:
            sure = torch.ones_like(coordinates[..., 0])
        if decoder.depth is None:
            return keypoints, sure
        z = coordinates[..., 2]
        depth = z - z[:, decoder.depth.root_keypoint].unsqueeze(1)
        return keypoints, sure, depth * self._depth_factor if decoder.depth.unit == "pixel" else depth
