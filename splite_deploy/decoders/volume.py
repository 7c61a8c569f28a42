"""Integral regression over a volume of logits (Sun et al. 2018, arXiv 1711.08229).

The mean of x, y and z under a softmax over all cells of a volume for each keypoint. Moon et al. 2019 (arXiv 1907.11346)
and the volumes of Human3.6M's networks are read so; 64 bins along z are usual.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.base import Decoded, InputSize, Sizes
from splite_deploy.decoders.depth import Depth, DepthUnit
from splite_deploy.decoders.heatmap import cell_centres
from splite_deploy.decoders.softargmax import SoftArgmax, window_mass
from splite_deploy.errors import require


@dataclass(frozen=True)
class Volume(SoftArgmax):
    """The expected centre, in x, y and z, of a cell under softmax(beta * volume).

    The volume is (N, K * bins, H, W): all bins of the first keypoint, then those of the next. Depths are relative to
    the root keypoint, so that it does not matter where z is 0. The score is that of `SoftArgmax`, of the volume summed
    along z.

    Attributes:
        bins: Cells along z, the nearest one first.
        depth_extent: How long the volume is along z, in ``unit``: a bin measures ``depth_extent / bins``.
        root_keypoint: Depths are relative to this keypoint.
        unit: ``palm``: palm lengths, the root mean square of ``scale_bones``; ``mm``: millimetres; ``pixel``: pixels of
            the input.
        scale_bones: Pairs of keypoints whose root mean square length is one palm.
    """

    type: ClassVar[str] = "volume"
    layouts: ClassVar[Mapping[str, str]] = {"volume": "NCHW"}
    joined: ClassVar[Mapping[str, str]] = {"C": "KD"}
    bins: int
    depth_extent: float
    root_keypoint: int
    unit: DepthUnit
    scale_bones: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.bins > 1, "decoder.bins must be 2 or more")
        require(0 < self.depth_extent < math.inf, "decoder.depth_extent must be positive")
        self.depth.check_fields()

    @property
    def depth(self) -> Depth:
        """How z is to be read."""
        return Depth(self.root_keypoint, self.unit, self.scale_bones)

    def shapes(self, keypoints: int, size: InputSize) -> Mapping[str, Sizes]:
        """All bins of all keypoints as channels, and one cell for each stride."""
        _, *cells = super().shapes(keypoints, size)["volume"]
        return {"volume": (keypoints * self.bins, *cells)}

    def check(self, keypoints: int, size: InputSize) -> None:
        """Refuses keypoints that the skeleton lacks, too."""
        super().check(keypoints, size)
        self.depth.check(keypoints)

    @property
    def depths(self) -> FloatArray:
        """(bins,) centres along z in ``unit``, from the middle of the volume."""
        middle = (self.bins - 1) / 2
        return ((np.arange(self.bins) - middle) * (self.depth_extent / self.bins)).astype(np.float32)

    def peaks(self, outputs: Mapping[str, FloatArray]) -> NDArray[np.intp]:
        """(N, K, 3) bin, row and column of the largest cell."""
        n, channels, *plane = outputs["volume"].shape
        cells = outputs["volume"].reshape(n, channels // self.bins, -1).argmax(axis=2)
        return np.stack(np.unravel_index(cells, (self.bins, *plane)), -1)

    def decode(self, outputs: Mapping[str, FloatArray], size: InputSize) -> Decoded:
        """Keypoints, scores and depths from ``volume`` (N, K * bins, H, W), logits."""
        n, channels, height, width = outputs["volume"].shape
        k = channels // self.bins
        plane, along = self._marginals(outputs["volume"].reshape(n * k, self.bins, height * width))
        keypoints = plane.reshape(n, k, -1) @ cell_centres(self, height, width)
        absolute = along.reshape(n, k, -1) @ self.depths
        scores = window_mass(plane.reshape(n, k, height, width), keypoints, self)
        return Decoded(keypoints, scores, absolute - absolute[:, self.root_keypoint, None])

    def _marginals(self, volumes: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The softmax of each of (M, bins, H * W) logits, summed along z, (M, H * W), and over x and y, (M, bins)."""
        count, bins, cells = volumes.shape
        plane, along = np.empty((count, cells), np.float32), np.empty((count, bins), np.float32)
        scratch = np.empty((bins, cells), np.float32)  # one volume at a time, which a cache holds
        for volume, over_z, over_xy in zip(volumes, plane, along, strict=True):
            np.subtract(volume, volume.max(), out=scratch)
            scratch *= np.float32(self.beta)
            np.exp(scratch, out=scratch)
            scratch.sum(axis=0, out=over_z)
            scratch.sum(axis=1, out=over_xy)
        return plane / plane.sum(axis=1, keepdims=True), along / along.sum(axis=1, keepdims=True)
