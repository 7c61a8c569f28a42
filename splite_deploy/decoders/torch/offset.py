"""`splite_deploy.decoders.offset` in torch."""

from __future__ import annotations

from torch import Tensor

from splite_deploy.decoders.base import InputSize
from splite_deploy.decoders.offset import Offset
from splite_deploy.decoders.torch.taylor import PeakModule


class OffsetModule(PeakModule):
    """Keypoints (N, K, 2) in input pixels and scores (N, K) from maps (N, K, H, W) and offsets (N, 2 K, H, W)."""

    def __init__(self, decoder: Offset, keypoints: int, size: InputSize) -> None:
        super().__init__(decoder, keypoints, size, reach=0, pairs=decoder.channels(keypoints))
        self._in_cells = decoder.offset_unit == "cell"

    def forward(self, heatmap: Tensor, offset: Tensor) -> tuple[Tensor, ...]:
        """Keypoints and scores."""
        cells = self.largest(heatmap)
        moved = self.vectors(offset, cells)
        keypoints = self.places(cells + moved) if self._in_cells else self.places(cells) + moved
        return keypoints, self.score(heatmap)
