"""The largest cell of a heatmap, and a quarter of a cell towards its larger neighbours.

Newell et al. 2016 (stacked hourglass, arXiv 1603.06937); Xiao et al. 2018 (Simple Baseline, arXiv 1804.06208), HRNet,
AlphaPose, mmpose's MSRAHeatmap and Lite-HRNet read their maps so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.base import Decoded, InputSize
from splite_deploy.decoders.heatmap import HeatmapDecoder, largest_cells, places, steps_of
from splite_deploy.decoders.taylor import inside, neighbours

QUARTER_STENCIL = np.zeros((9, 2), np.float32)
"""From the 3 x 3 cells around the largest to the differences of its neighbours, right - left and below - above."""
QUARTER_STENCIL[[5, 7], [0, 1]], QUARTER_STENCIL[[3, 1], [0, 1]] = 1, -1


@dataclass(frozen=True)
class Argmax(HeatmapDecoder):
    """The centre of the largest cell, or a place a quarter of a cell beside it.

    The score is the value of the cell, clipped to [0, 1].

    Attributes:
        offset: ``quarter``: on each axis a quarter of a cell towards the larger of the two neighbours, nowhere if they
            are equal, and on none if the cell lies at the border of the map; ``none``: the centre of the cell.
    """

    type: ClassVar[str] = "argmax"
    offset: Literal["quarter", "none"]

    def rounding_px(self, size: InputSize) -> float:
        """The diagonal of what lies between two places that are found: half a cell, or a whole one."""
        _, height, width = self.shapes(1, size)["heatmap"]
        assert isinstance(height, int) and isinstance(width, int)
        return float(np.linalg.norm(steps_of(self, height, width))) * (0.5 if self.offset == "quarter" else 1.0)

    def decode(self, outputs: Mapping[str, FloatArray], size: InputSize) -> Decoded:
        """Keypoints and scores from ``heatmap`` (N, K, H, W).

        Newell et al. move what lies inside of the outermost cells, as is done here. Simple Baseline's
        ``get_final_preds`` leaves the second column and row alone, too: it counts from 0 what they count from 1.
        """
        heatmap = outputs["heatmap"]
        height, width = heatmap.shape[2:]
        rows, columns = largest_cells(heatmap)
        cells = np.stack([columns, rows], -1).astype(np.float32)
        if self.offset == "quarter":
            slopes = neighbours(heatmap, rows, columns, 1) @ QUARTER_STENCIL
            cells += np.float32(0.25) * np.sign(slopes) * inside(cells, height, width, 1)
        return Decoded(places(cells, self, height, width), heatmap.max(axis=(2, 3)).clip(0.0, 1.0), None)
