"""Global soft-argmax over heatmap logits (Sun et al. 2018, integral regression, arXiv 1711.08229)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.base import Decoded, InputSize
from splite_deploy.decoders.heatmap import SoftHeatmapDecoder, cell_centres, cells_of, near, softmax
from splite_deploy.errors import require


@dataclass(frozen=True)
class SoftArgmax(SoftHeatmapDecoder):
    """The expected cell centre under softmax(beta * heatmap).

    Attributes:
        score_window: The score is the softmax mass inside this odd number of cells squared around the cell that the
            keypoint lies in, a number in [0, 1]. It says how concentrated the heatmap is; it is no calibrated
            probability.
    """

    type: ClassVar[str] = "softargmax"
    score_window: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.score_window > 0 and self.score_window % 2 == 1, "decoder.score_window must be odd")

    def decode(self, outputs: Mapping[str, FloatArray], size: InputSize) -> Decoded:
        """Keypoints and scores from ``heatmap`` (N, K, H, W), logits."""
        keypoints, weights = softargmax(outputs["heatmap"], self)
        return Decoded(keypoints, window_mass(weights, keypoints, self), None)


def softargmax(heatmap: FloatArray, decoder: SoftHeatmapDecoder) -> tuple[FloatArray, FloatArray]:
    """Expected cell centre under softmax(beta * heatmap), over the whole map.

    Args:
        heatmap: (N, K, H, W) logits.
        decoder: Stride, alignment and beta.

    Returns:
        Keypoints (N, K, 2) in input pixels and the softmax weights (N, K, H, W).
    """
    weights = softmax(heatmap, decoder.beta)
    n, k, height, width = heatmap.shape
    keypoints = weights.reshape(n, k, -1) @ cell_centres(decoder, height, width)
    return keypoints, weights


def window_mass(weights: FloatArray, keypoints: FloatArray, decoder: SoftArgmax) -> FloatArray:
    """Softmax mass within ``score_window`` cells squared around each keypoint, (N, K) in [0, 1]."""
    height, width = weights.shape[2:]
    cells = cells_of(keypoints, decoder, height, width)
    both = near(cells, max(height, width), decoder.score_window).astype(np.float32)  # axes at once: calls take the time
    columns, rows = both[..., 0, :width, None], both[..., 1, None, :height]
    mass = (rows @ (weights @ columns))[..., 0, 0]
    return mass.clip(0.0, 1.0)
