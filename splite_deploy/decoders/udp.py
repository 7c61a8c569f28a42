"""Unbiased data processing (UDP, Huang et al. 2020, arXiv 1911.07524), as mmpose's UDPHeatmap reads its two targets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.base import Decoded, InputSize, Sizes
from splite_deploy.decoders.heatmap import HeatmapDecoder, largest_cells, places
from splite_deploy.decoders.taylor import UDP_STENCIL, blurred_peaks, check_kernel, neighbours, newton_step
from splite_deploy.errors import require

LEAST, MOST = 1e-3, 50.0
"""Of what a logarithm is taken."""


@dataclass(frozen=True)
class Udp(HeatmapDecoder):
    """A Gaussian's top by a Newton step, or a disk with offsets from its cells to the keypoint.

    ``alignment`` is ``udp`` in both. The score is the largest value, of the combined target that of the smoothed map,
    clipped to [0, 1].

    Attributes:
        target: ``gaussian``: one map for each keypoint. ``combined``: three for each keypoint, one after the other: 1
            in a disk around it, and how far it lies to the right of each cell, and below, by the disk's radius.
        blur_kernel: Odd side in cells of the Gaussian that maps are smoothed with; 1 smooths nothing. The disk is
            smoothed with twice this side and 1. Published with 11.
        radius_factor: Of ``combined``: the disk's radius by the longer side of the map. Published with 0.0546875.
    """

    type: ClassVar[str] = "udp"
    target: Literal["gaussian", "combined"]
    blur_kernel: int
    radius_factor: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.alignment == "udp", 'decoder.alignment is "udp" wherever decoder.type is')
        check_kernel(self.blur_kernel)
        if self.target == "combined":
            require(self.radius_factor is not None, 'decoder.radius_factor belongs to decoder.target = "combined"')
            require(0 < (self.radius_factor or 0) < math.inf, "decoder.radius_factor must be positive")
        else:
            require(self.radius_factor is None, 'decoder.radius_factor is for decoder.target = "combined" alone')

    @property
    def layouts(self) -> Mapping[str, str]:
        """One map for each keypoint, or three."""
        return {"heatmap" if self.target == "gaussian" else "combined": "NCHW"}

    def shapes(self, keypoints: int, size: InputSize) -> Mapping[str, Sizes]:
        """K channels, or 3 K."""
        return super().shapes(keypoints if self.target == "gaussian" else 3 * keypoints, size)

    def heatmap(self, outputs: Mapping[str, FloatArray]) -> FloatArray:
        """(N, K, H, W): Gaussians, or disks."""
        return outputs["heatmap"] if self.target == "gaussian" else outputs["combined"][:, ::3]

    def radius(self, height: int, width: int) -> float:
        """Of the disk, in cells of a map of this size."""
        return (self.radius_factor or 0.0) * max(height, width)

    def decode(self, outputs: Mapping[str, FloatArray], size: InputSize) -> Decoded:
        """Keypoints and scores from ``heatmap`` (N, K, H, W) or ``combined`` (N, 3 K, H, W)."""
        heatmap = self.heatmap(outputs)
        height, width = heatmap.shape[2:]
        if self.target == "gaussian":
            rows, columns = largest_cells(heatmap)
            scores = heatmap.max(axis=(2, 3))
            around = self._scaled(neighbours(heatmap, rows, columns, 1, self.blur_kernel), heatmap, scores)
            step = newton_step(np.log(around.clip(LEAST, MOST)), UDP_STENCIL)
        else:
            maps = heatmap.reshape(-1, height, width)
            found, values = blurred_peaks(maps, 2 * self.blur_kernel + 1, "mirror")
            scores = values.reshape(heatmap.shape[:2])
            rows, columns = np.divmod(found.reshape(scores.shape), width)
            x, y = (
                neighbours(outputs["combined"][:, channel::3], rows, columns, 0, self.blur_kernel, "mirror")
                for channel in (1, 2)
            )
            step = np.concatenate([x, y], -1) * np.float32(self.radius(height, width))
        cells = np.stack([columns, rows], -1).astype(np.float32) + step
        return Decoded(places(cells, self, height, width), scores.clip(0.0, 1.0), None)

    def _scaled(self, around: FloatArray, heatmap: FloatArray, most: FloatArray) -> FloatArray:
        """What smoothed maps hold around their largest cells, by a factor that gives each map the maximum it had.

        A factor matters only to what is limited afterwards, and only for that whole maps are smoothed: the factor is at
        least 1, and at most what the middle cell asks for.

        Args:
            around: (N, K, 9), the middle cell in the middle.
            heatmap: (N, K, H, W), before it is smoothed.
            most: (N, K) its maxima.
        """
        limited = (around.min(axis=-1) < LEAST) | (around.max(axis=-1) * most > MOST * around[..., 4])
        if limited.any():
            _, values = blurred_peaks(heatmap[limited], self.blur_kernel, "zero")
            around[limited] *= (most[limited] / np.maximum(values, np.float32(LEAST**2)))[:, None]
        return around
