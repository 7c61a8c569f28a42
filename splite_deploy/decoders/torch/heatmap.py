"""What the torch modules of heatmap decoders share. N crops, K keypoints, H, W size of a heatmap."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from splite_deploy.decoders.base import InputSize
from splite_deploy.decoders.heatmap import HeatmapDecoder, SoftHeatmapDecoder, cell_centres, edges_and_steps


class HeatmapModule(nn.Module):
    """The cells of K heatmaps of one size: where they are, and which lie in a window.

    Args:
        decoder: Its parameters.
        keypoints: Their number K.
        size: Of the network's input.
    """

    centres: Tensor
    _edges: Tensor
    _steps: Tensor
    _axes: Tensor
    _index: Tensor
    _cells: Tensor

    def __init__(self, decoder: HeatmapDecoder, keypoints: int, size: InputSize) -> None:
        super().__init__()
        _, height, width = next(iter(decoder.shapes(keypoints, size).values()))
        assert isinstance(height, int) and isinstance(width, int)
        self.keypoints, self.height, self.width = keypoints, height, width
        edges, steps = edges_and_steps(decoder, height, width)
        self._has_edges = bool(edges.any())
        self._constant("centres", cell_centres(decoder, height, width))
        self._constant("_edges", edges)
        self._constant("_steps", steps)
        self._constant("_axes", np.repeat(np.eye(2), (width, height), axis=1))  # x for every column, y for every row
        self._constant("_index", np.concatenate([np.arange(width), np.arange(height)]))
        index = np.arange(height * width)
        self._constant("_cells", np.stack([index % width, index // width], axis=-1))

    def _constant(self, name: str, values: ArrayLike) -> None:
        # Follows the module to its device, and stays out of checkpoints
        self.register_buffer(name, torch.tensor(np.asarray(values, np.float32)), persistent=False)

    def flat(self, maps: Tensor) -> Tensor:
        """Maps (N, K, H, W) as (N, K, H * W)."""
        return maps.reshape(-1, self.keypoints, self.height * self.width)

    def largest(self, maps: Tensor) -> Tensor:
        """The largest cell (N, K, 2), column and row, of maps (N, K, H, W)."""
        return F.embedding(self.flat(maps).argmax(dim=-1), self._cells)

    def score(self, maps: Tensor) -> Tensor:
        """The largest value (N, K) of maps (N, K, H, W), clipped to [0, 1]."""
        return self.flat(maps).amax(dim=-1).clamp(0, 1)

    def positive(self, values: Tensor, least: float) -> Tensor:
        """Values (...) without negative ones, and a small number more: no less than it, and hardly changed.

        A maximum of both would be nearer to the formulas, but onnx2tf makes it one of the values and 0.
        """
        return values.clamp(min=0) + least

    def places(self, cells: Tensor) -> Tensor:
        """Where places among the cells, (N, K, 2) with 0 at the centre of the first, lie in input pixels."""
        return cells * self._steps + (self._edges + self._steps / 2)

    def expected(self, weights: Tensor) -> Tensor:
        """Expected cell centre (N, K, 2) in input pixels under weights (N, K, H * W)."""
        return weights @ self.centres

    def cells(self, keypoints: Tensor) -> Tensor:
        """The cell (column, row) that each keypoint (N, K, 2), in input pixels, lies in."""
        return torch.floor(((keypoints - self._edges) if self._has_edges else keypoints) / self._steps)

    def near(self, cells: Tensor, window: int) -> Tensor:
        """Which columns, then which rows, lie within ``window // 2`` of cells (N, K, 2): (N, K, W + H) bool.

        Both at once: on small maps it is the number of operations that takes the time.
        """
        return (cells @ self._axes - self._index).abs() <= float(window // 2)

    def columns_and_rows(self, near: Tensor) -> tuple[Tensor, Tensor]:
        """The parts (N, K, W) and (N, K, H) of what `near` gives."""
        columns, rows = torch.split(near, [self.width, self.height], dim=-1)
        return columns, rows


class SoftHeatmapModule(HeatmapModule):
    """The same with a softmax over the cells.

    Args:
        decoder: Its parameters.
        keypoints: Their number K.
        size: Of the network's input.
    """

    def __init__(self, decoder: SoftHeatmapDecoder, keypoints: int, size: InputSize) -> None:
        super().__init__(decoder, keypoints, size)
        self.beta = decoder.beta

    def logits(self, heatmap: Tensor) -> Tensor:
        """What the softmax is taken of, (N, K, H * W)."""
        flat = self.flat(heatmap)
        return flat if self.beta == 1 else flat * self.beta
