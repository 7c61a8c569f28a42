"""Soft-argmax inside a window around the peak: for heatmaps trained to unit-peak Gaussians."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.base import Decoded, InputSize
from splite_deploy.decoders.heatmap import SoftHeatmapDecoder, largest_cells, near
from splite_deploy.decoders.softargmax import softargmax
from splite_deploy.errors import require


@dataclass(frozen=True)
class SoftArgmaxWindow(SoftHeatmapDecoder):
    """The expected cell centre inside a square window around the largest cell, clipped at the border of the map.

    The score is the value of the peak, clipped to [0, 1].

    Attributes:
        window: Odd side of the window in cells.
    """

    type: ClassVar[str] = "softargmax-window"
    window: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.window > 0 and self.window % 2 == 1, "decoder.window must be odd")

    def decode(self, outputs: Mapping[str, FloatArray], size: InputSize) -> Decoded:
        """Keypoints and scores from ``heatmap`` (N, K, H, W)."""
        heatmap = outputs["heatmap"]
        height, width = heatmap.shape[2:]
        rows, columns = largest_cells(heatmap)
        inside = near(rows, height, self.window)[..., :, None] & near(columns, width, self.window)[..., None, :]
        masked = np.where(inside, heatmap, -np.inf).astype(np.float32)
        scores = np.clip(heatmap.max(axis=(2, 3)), 0.0, 1.0)
        return Decoded(softargmax(masked, self)[0], scores, None)
