"""`splite_deploy.decoders.taylor` in torch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.base import InputSize
from splite_deploy.decoders.heatmap import HeatmapDecoder
from splite_deploy.decoders.taylor import LEAST_DETERMINANT, Border, surroundings
from splite_deploy.decoders.torch.heatmap import HeatmapModule


class PeakModule(HeatmapModule):
    """Smoothed maps around one cell each, and differences of what they hold there.

    Args:
        decoder: Its parameters.
        keypoints: Their number K.
        size: Of the network's input.
        reach: How many cells to each side are read.
        kernel: What maps are smoothed with, see `splite_deploy.decoders.taylor.blurring`; 1 smooths nothing.
        border: What lies around them.
        stencil: (P * P, D) from P = 2 * reach + 1 cells squared to D differences.
        pairs: (K, 2) channels of vectors, x and y of each keypoint, for `vectors`.
    """

    _above: Tensor
    _beside: Tensor
    _stencil: Tensor
    _pairs: Tensor
    _owners: Tensor
    _inmost: Tensor
    _most: Tensor

    def __init__(
        self,
        decoder: HeatmapDecoder,
        keypoints: int,
        size: InputSize,
        *,
        reach: int,
        kernel: int = 1,
        border: Border = "zero",
        stencil: FloatArray | None = None,
        pairs: ArrayLike | None = None,
    ) -> None:
        super().__init__(decoder, keypoints, size)
        self._constant("_above", surroundings(self.height, reach, kernel, border))
        self._constant("_beside", surroundings(self.width, reach, kernel, border).swapaxes(1, 2))
        if stencil is not None:
            self._constant("_stencil", stencil)
        if pairs is not None:
            pairs = np.ascontiguousarray(pairs)
            owners = [np.flatnonzero((pairs == channel).any(axis=1)) for channel in range(pairs.max() + 1)]
            self.register_buffer("_pairs", torch.tensor(pairs), persistent=False)
            self.register_buffer(
                "_owners", torch.tensor([one[0] if len(one) else 0 for one in owners]), persistent=False
            )
        middle = [(self.width - 1) / 2, (self.height - 1) / 2]
        self._constant("_inmost", middle)
        self._constant("_most", [half - reach for half in middle])

    def around(self, maps: Tensor, cells: Tensor) -> Tensor:
        """(N, K, P * P): what maps (N, K, H, W), once smoothed, hold around cells (N, K, 2), column and row."""
        squares = self._read(maps, cells.to(torch.int64))
        return squares.reshape(-1, self.keypoints, self._above.shape[1] * self._beside.shape[2])

    def _read(self, maps: Tensor, cells: Tensor) -> Tensor:
        return self._above[cells[..., 1]] @ maps @ self._beside[cells[..., 0]]

    def vectors(self, maps: Tensor, cells: Tensor) -> Tensor:
        """(N, K, 2): what the channels for x and y of maps (N, C, H, W) hold at cells (N, K, 2); `reach` is 0.

        All channels are read: few operations are quicker than little work.
        """
        found = self._read(maps, cells.to(torch.int64)[:, self._owners])
        return found.reshape(-1, len(self._owners))[:, self._pairs]

    def inside(self, cells: Tensor) -> Tensor:
        """(N, K, 1): 1 where cells (N, K, 2) have ``reach`` neighbours on each side, 0 elsewhere."""
        beyond = ((cells - self._inmost).abs() - self._most).amax(dim=-1, keepdim=True)
        return (beyond <= 0).to(cells.dtype)

    def differences(self, around: Tensor) -> Tensor:
        """(N, K, D): those that the stencil takes of (N, K, P * P)."""
        return around @ self._stencil

    def newton_step(self, logs: Tensor) -> Tensor:
        """See `splite_deploy.decoders.taylor.newton_step`."""
        slopes, crossed, curvatures, mixed = torch.split(self.differences(logs), 2, dim=-1)
        down, right = torch.split(curvatures, 1, dim=-1)
        determinant = down * right - mixed[..., :1] ** 2
        has_top = (determinant > LEAST_DETERMINANT) & (down < 0)
        # A finite number: onnx2tf makes sums of products of a choice, and 0 * inf is not finite
        step = (mixed * crossed - curvatures * slopes) / torch.where(has_top, determinant, 1e30)
        return step.clamp(-1, 1)
