"""Soft-argmax inside a window around the peak: for heatmaps trained to unit-peak Gaussians."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.base import Decoded, InputSize
from splite_deploy.decoders.heatmap import SoftHeatmapDecoder, largest_cells, places
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
        n, k, height, width = heatmap.shape
        rows, columns = largest_cells(heatmap)
        ys, xs = (_around(cells, size, self.window) for cells, size in ((rows, height), (columns, width)))
        crops, keypoints = np.arange(n)[:, None, None, None], np.arange(k)[:, None, None]
        values = heatmap[crops, keypoints, ys.clip(0, height - 1)[..., None], xs.clip(0, width - 1)[..., None, :]]
        peaks = heatmap[crops[..., 0, 0], keypoints[:, 0, 0], rows, columns]
        weights = np.exp((values - peaks[..., None, None]) * np.float32(self.beta))
        weights *= _inside(ys, height)[..., None] & _inside(xs, width)[..., None, :]
        total = weights.sum(axis=(2, 3))
        cells = [(weights.sum(axis=axis) * at).sum(axis=2) / total for axis, at in ((2, xs), (3, ys))]
        return Decoded(places(np.stack(cells, -1).astype(np.float32), self, height, width), peaks.clip(0.0, 1.0), None)


def _around(cells: NDArray[np.intp], size: int, window: int) -> NDArray[np.intp]:
    """(N, K, P) indices within ``window // 2`` of cells (N, K), no further away than an axis of ``size`` is long."""
    reach = min(window // 2, size - 1)
    found: NDArray[np.intp] = cells[..., None] + np.arange(-reach, reach + 1)
    return found


def _inside(indices: NDArray[np.intp], size: int) -> NDArray[np.bool_]:
    return (indices >= 0) & (indices < size)
