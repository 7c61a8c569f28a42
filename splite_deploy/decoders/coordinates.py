"""Networks that give coordinates themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.base import Decoded, Decoder, InputSize, Sizes


@dataclass(frozen=True)
class Coordinates(Decoder):
    """Coordinates (N, K, 2), or (N, K, 3) with a score in the last column.

    Attributes:
        scale: ``unit``: 0-1 over the input's width and height; ``pixel``: input pixels, origin at the corner.
    """

    type: ClassVar[str] = "coordinates"
    layouts: ClassVar[Mapping[str, str]] = {"coordinates": "NKC"}
    scale: Literal["unit", "pixel"]

    def shapes(self, keypoints: int, size: InputSize) -> Mapping[str, Sizes]:
        """Two columns, or three."""
        return {"coordinates": (keypoints, (2, 3))}

    def decode(self, outputs: Mapping[str, FloatArray], size: InputSize) -> Decoded:
        """Keypoints and scores from ``coordinates``; without a score it is 1, since none was given."""
        values = outputs["coordinates"]
        factor = np.array([size.width, size.height] if self.scale == "unit" else [1, 1], np.float32)
        scores = np.clip(values[..., 2], 0.0, 1.0) if values.shape[2] == 3 else np.ones(values.shape[:2], np.float32)
        return Decoded(values[..., :2] * factor, scores, None)
