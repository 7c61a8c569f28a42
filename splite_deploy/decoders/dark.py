"""The largest cell and a Newton step on the logarithm of the smoothed map.

DARK, Zhang et al. 2020, arXiv 1910.06278; mmpose's MSRAHeatmap with ``unbiased`` reads its maps so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.base import Decoded, InputSize
from splite_deploy.decoders.heatmap import HeatmapDecoder, largest_cells, places
from splite_deploy.decoders.taylor import DARK_STENCIL, check_kernel, inside, neighbours, newton_step

LEAST = 1e-10
"""Of what a logarithm is taken."""


@dataclass(frozen=True)
class Dark(HeatmapDecoder):
    """The top of a Gaussian whose logarithm is expanded around the largest cell.

    Only where the cell has two neighbours on each side: elsewhere it is the centre of the cell. The score is the value
    of the cell before the map is smoothed, clipped to [0, 1].

    Attributes:
        blur_kernel: Odd side in cells of the Gaussian that the map is smoothed with (the paper's modulation; beyond the
            border it is 0); 1 smooths nothing. Published with 11 for targets of 2 cells' standard deviation, 17 for 3.
    """

    type: ClassVar[str] = "dark"
    blur_kernel: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kernel(self.blur_kernel)

    def decode(self, outputs: Mapping[str, FloatArray], size: InputSize) -> Decoded:
        """Keypoints and scores from ``heatmap`` (N, K, H, W).

        The paper gives a smoothed map the maximum that it had; a factor is nothing to the derivatives of a logarithm.
        """
        heatmap = outputs["heatmap"]
        height, width = heatmap.shape[2:]
        rows, columns = largest_cells(heatmap)
        cells = np.stack([columns, rows], -1).astype(np.float32)
        around = np.maximum(neighbours(heatmap, rows, columns, 2, self.blur_kernel), np.float32(LEAST))
        cells += newton_step(np.log(around), DARK_STENCIL) * inside(cells, height, width, 2)
        return Decoded(places(cells, self, height, width), heatmap.max(axis=(2, 3)).clip(0.0, 1.0), None)
