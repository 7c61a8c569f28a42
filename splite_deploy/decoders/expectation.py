"""The mean of a heatmap's cells, weighted by what they hold: the map divided by its sum.

AlphaPose's integral of maps that a sigmoid gives (Fang et al. 2022, arXiv 2211.03375), and others of non-negative maps
that are no softmax (Nibali et al. 2018, arXiv 1801.07372).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.base import Decoded, InputSize
from splite_deploy.decoders.heatmap import HeatmapDecoder, cell_centres

FLOOR = 1e-12
"""What every cell holds at least, so that a map without anything has a mean, too: its middle."""


@dataclass(frozen=True)
class Expectation(HeatmapDecoder):
    """The expected cell centre under heatmap / sum(heatmap).

    Negative values count as 0; a map without positive ones gives its middle. The score is the largest value, clipped to
    [0, 1].
    """

    type: ClassVar[str] = "expectation"

    def decode(self, outputs: Mapping[str, FloatArray], size: InputSize) -> Decoded:
        """Keypoints and scores from ``heatmap`` (N, K, H, W), after its activation."""
        heatmap = outputs["heatmap"]
        n, k, height, width = heatmap.shape
        weights = np.maximum(heatmap, np.float32(FLOOR)).reshape(n, k, -1)
        scores = weights.max(axis=2)
        weights /= scores[..., None]  # so that no sum overflows
        keypoints = (weights @ cell_centres(self, height, width)) / weights.sum(axis=2)[..., None]
        return Decoded(keypoints, scores.clip(0.0, 1.0), None)
