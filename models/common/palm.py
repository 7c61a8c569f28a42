"""Lengths of hands in palms, the unit of what cannot be measured in millimetres from one picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from splite_deploy.decoders import SoftArgmaxDepth


def palm_depth(points_mm: NDArray[np.floating], decoder: SoftArgmaxDepth) -> NDArray[np.float64]:
    """Depth of (K, 3) points relative to the root keypoint, in palms."""
    bones = np.array(decoder.scale_bones)
    lengths = np.linalg.norm(points_mm[bones[:, 0]] - points_mm[bones[:, 1]], axis=1)
    depth: NDArray[np.float64] = points_mm[:, 2] - points_mm[decoder.root_keypoint, 2]
    return depth / np.sqrt(np.square(lengths).mean())
