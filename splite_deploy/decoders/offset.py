"""The largest cell of a heatmap, and the vector from it to the keypoint that a second output holds there.

Papandreou et al. 2017 and 2018 (arXiv 1701.01779, 1803.08225); PoseNet for TensorFlow.js and Lite reads one pose so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.base import Decoded, InputSize, Sizes
from splite_deploy.decoders.heatmap import HeatmapDecoder, largest_cells, places, steps_of

OffsetOrder = Literal["yyxx", "xxyy", "yxyx", "xyxy"]
OffsetUnit = Literal["pixel", "cell"]


@dataclass(frozen=True)
class Offset(HeatmapDecoder):
    """The centre of the largest cell plus the offset there.

    The score is the value of the cell, clipped to [0, 1]: a network that gives logits needs its sigmoid before.

    Attributes:
        offset_order: Of the 2 K channels of offsets: ``yyxx``: all y, then all x (PoseNet); ``xxyy``; ``yxyx``: y and x
            of the first keypoint, then of the next; ``xyxy``.
        offset_unit: ``pixel``: offsets are input pixels (PoseNet); ``cell``: they are cells of the heatmap.
    """

    type: ClassVar[str] = "offset"
    layouts: ClassVar[Mapping[str, str]] = {"heatmap": "NCHW", "offset": "NCHW"}
    offset_order: OffsetOrder
    offset_unit: OffsetUnit

    def shapes(self, keypoints: int, size: InputSize) -> Mapping[str, Sizes]:
        """K maps, and twice as many offsets."""
        _, *cells = super().shapes(keypoints, size)["heatmap"]
        return {"heatmap": (keypoints, *cells), "offset": (2 * keypoints, *cells)}

    def channels(self, keypoints: int) -> NDArray[np.intp]:
        """(K, 2): which channels of offsets are x and y of each keypoint."""
        order = np.arange(2 * keypoints)
        pairs = order.reshape(2, -1).T if self.offset_order in ("yyxx", "xxyy") else order.reshape(-1, 2)
        return pairs if self.offset_order[0] == "x" else pairs[:, ::-1]

    def decode(self, outputs: Mapping[str, FloatArray], size: InputSize) -> Decoded:
        """Keypoints and scores from ``heatmap`` (N, K, H, W) and ``offset`` (N, 2 K, H, W)."""
        heatmap, offsets = outputs["heatmap"], outputs["offset"]
        n, k, height, width = heatmap.shape
        rows, columns = largest_cells(heatmap)
        crops, keypoints = np.arange(n)[:, None], np.arange(k)
        moved = offsets[crops[..., None], self.channels(k), rows[..., None], columns[..., None]]
        if self.offset_unit == "cell":
            moved = moved * steps_of(self, height, width)
        cells = np.stack([columns, rows], -1).astype(np.float32)
        scores = heatmap[crops, keypoints, rows, columns].clip(0.0, 1.0)
        return Decoded(places(cells, self, height, width) + moved, scores, None)
