"""What the decoders of heatmaps share. N crops, K keypoints, H, W size of a heatmap.

Cell i of a heatmap of stride s is centred at (i + .5) * s input pixels, so that a decoded keypoint lies in the input's
continuous pixel coordinates: origin at the corner of the first pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from splite_deploy.decoders.base import Array, Decoder
from splite_deploy.errors import require


@dataclass(frozen=True)
class HeatmapDecoder(Decoder):
    """What all soft-argmax decoders have.

    Attributes:
        stride: Input pixels per heatmap cell.
        beta: Inverse temperature of the softmax; must be the one of training.
    """

    roles: ClassVar[tuple[str, ...]] = ("heatmap",)
    stride: float
    beta: float

    def __post_init__(self) -> None:
        require(0 < self.stride < math.inf, "decoder.stride must be positive")
        require(0 < self.beta < math.inf, "decoder.beta must be positive")


@lru_cache(maxsize=8)
def cell_centres(height: int, width: int, stride: float) -> Array:
    """(H * W, 2) centres (x, y) of the cells in input pixels."""
    ys, xs = np.mgrid[0:height, 0:width]
    centres: Array = ((np.stack([xs, ys], -1).reshape(-1, 2) + 0.5) * stride).astype(np.float32)
    return centres


def softmax(heatmap: Array, beta: float) -> Array:
    """Spatial softmax of ``beta * heatmap``: the same shape, summing to one over the cells of each map."""
    logits = heatmap.reshape(*heatmap.shape[:2], -1) * np.float32(beta)
    logits -= logits.max(axis=2, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=2, keepdims=True)
    weights: Array = logits.reshape(heatmap.shape)
    return weights


def near(centre: NDArray[np.integer[Any]], size: int, window: int) -> NDArray[np.bool_]:
    """(N, K, size): which of ``size`` cells lie within ``window // 2`` of ``centre`` (N, K)."""
    cells: NDArray[np.bool_] = np.abs(np.arange(size) - centre[..., None]) <= window // 2
    return cells
