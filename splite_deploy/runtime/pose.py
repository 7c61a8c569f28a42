"""What the runtime returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.decoders import Unit

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Pose:
    """Keypoints of one hand or body.

    Attributes:
        keypoints: (K, 2) float32, (x, y) in pixels of the source image, origin at the corner of its first pixel.
        scores: (K,) float32 in [0, 1]; the rule is the decoder's. For soft-argmax it says how concentrated the
            heatmap is and is no calibrated probability.
        box: (4,) float32 xyxy, the box that was asked for, in pixels of the source image.
        keypoints_3d: (K, 3) float32, x right, y down, z away from the camera, or None. Relative to the root keypoint;
            in camera coordinates where intrinsics and a bone length were given.
        unit: Unit of ``keypoints_3d``: ``palm`` or ``mm``; None without 3D.
    """

    keypoints: Array
    scores: Array
    box: Array
    keypoints_3d: Array | None
    unit: Unit | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data with numbers rounded to a thousandth, as ``splite-deploy run --json`` writes it."""
        return {
            "box": _rounded(self.box),
            "keypoints": _rounded(self.keypoints),
            "scores": _rounded(self.scores),
            "keypoints_3d": None if self.keypoints_3d is None else _rounded(self.keypoints_3d, 4),
            "unit": self.unit,
        }


def _rounded(values: Array, digits: int = 3) -> Any:
    return np.round(values.astype(np.float64), digits).tolist()
