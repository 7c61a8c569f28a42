"""What the decoders of heatmaps share: where the cells lie, which of them is the largest, and the softmax over them.

Pixels are continuous: the origin is the corner of the input's first pixel, whose centre is (.5, .5). N crops, K
keypoints, H, W size of a heatmap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.base import LEAST_STRIDE, Decoder, InputSize, Sizes
from splite_deploy.errors import require

Alignment = Literal["corner", "centre", "udp"]
Points = NDArray[np.float64]

ALIGNMENTS: Mapping[Alignment, str] = {
    "centre": "i * stride + .5, targets drawn at joint / stride in pixel indices (Simple Baseline, HRNet, AlphaPose, "
    "mmpose's MSRAHeatmap: most published networks)",
    "udp": "i * (W - 1) / (w - 1) + .5 (mmpose's UDPHeatmap, ViTPose)",
    "corner": "(i + .5) * stride, half-pixel resizing (SPLite Hand)",
}
_SLACK = 0.01
"""How far a stride with a fraction may be rounded, in pixels of the input; in cells it is less."""

_HINT = "Say where the training put the centre of heatmap cell i, in input pixels from the corner of the first one: "
_HINT += "; ".join(f'alignment = "{name}" for {where}' for name, where in ALIGNMENTS.items())
_HINT += ". With the wrong one all keypoints are off, by 1.5 px at stride 4, and no check can see it."


@dataclass(frozen=True)
class HeatmapDecoder(Decoder):
    """What all decoders of heatmaps have.

    Attributes:
        stride: Input pixels per heatmap cell: the input's size by the heatmap's.
        alignment: Where the centre of cell i lies, see `Axis.of`; must be the one of training.
    """

    stride: float
    alignment: Alignment = field(metadata={"hint": _HINT})

    def __post_init__(self) -> None:
        require(0 < self.stride < math.inf, "decoder.stride must be positive")
        require(self.stride >= LEAST_STRIDE, f"decoder.stride is {self.stride:g}, and at least {LEAST_STRIDE:g} pixels")

    @property
    def layouts(self) -> Mapping[str, str]:
        """One map for each keypoint."""
        return {"heatmap": "NCHW"}

    def shapes(self, keypoints: int, size: InputSize) -> Mapping[str, Sizes]:
        """Maps of one size: K channels, and one cell for each stride."""
        cells = (math.ceil(pixels / self.stride - _SLACK) for pixels in (size.height, size.width))
        return dict.fromkeys(self.roles, (keypoints, *cells))

    def check(self, keypoints: int, size: InputSize) -> None:
        """Refuses a stride that does not divide the input, or the input less its last pixel if cells lie on pixels."""
        for name, pixels in (("height", size.height), ("width", size.width)):
            wholes = (pixels, pixels - 1) if self.alignment == "centre" else (pixels,)
            off = min(abs(round(whole / self.stride) * self.stride - whole) for whole in wholes)
            require(off < _SLACK, f"decoder.stride {self.stride:g} does not divide input.{name} {pixels}")

    def heatmap(self, outputs: Mapping[str, FloatArray]) -> FloatArray:
        """(N, K, H, W): what is largest at the keypoints, among the outputs by role."""
        return outputs["heatmap"]

    def peaks(self, outputs: Mapping[str, FloatArray]) -> NDArray[np.intp]:
        """(N, K, 2) row and column of the largest cell."""
        return np.stack(largest_cells(self.heatmap(outputs)), -1)


@dataclass(frozen=True)
class SoftHeatmapDecoder(HeatmapDecoder):
    """What those with a softmax have, too.

    Attributes:
        beta: Inverse temperature of the softmax; must be the one of training.
    """

    beta: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.beta < math.inf, "decoder.beta must be positive")


@dataclass(frozen=True)
class Axis:
    """Where the cells of one axis of a heatmap lie in the input: cell i is centred at ``edge + (i + .5) * step``.

    Attributes:
        edge: Where the first cell begins, input pixels.
        step: Distance of two cells' centres, input pixels.
    """

    edge: float
    step: float

    @classmethod
    def of(cls, decoder: HeatmapDecoder, cells: int) -> Axis:
        """The axis of a heatmap of so many cells.

        * ``corner``: cell i is centred at (i + .5) * stride.
        * ``centre``: at i * stride + .5, the centre of pixel i * stride: targets are drawn around joint / stride, where
          joints are pixel indices (Xiao et al. 2018, arXiv 1804.06208). An input of (w - 1) * stride + 1 pixels has w
          cells, the last at its last pixel (Papandreou et al. 2018, arXiv 1803.08225).
        * ``udp``: at i * (W - 1) / (w - 1) + .5, where W = w * stride: the first and the last cell are centred where
          the first and the last pixel are (Huang et al. 2020, arXiv 1911.07524).
        """
        if decoder.alignment == "corner":
            return cls(0.0, decoder.stride)
        step = decoder.stride
        if decoder.alignment == "udp" and cells > 1:
            step = (cells * decoder.stride - 1) / (cells - 1)
        return cls(0.5 - step / 2, step)

    def centres(self, cells: int) -> NDArray[np.float64]:
        """(cells,) centres in input pixels."""
        return self.edge + (np.arange(cells) + 0.5) * self.step


@lru_cache(maxsize=8)
def cell_centres(decoder: HeatmapDecoder, height: int, width: int) -> FloatArray:
    """(H * W, 2) centres (x, y) of the cells in input pixels."""
    xs, ys = Axis.of(decoder, width).centres(width), Axis.of(decoder, height).centres(height)
    return np.stack([np.tile(xs, height), np.repeat(ys, width)], -1).astype(np.float32)


@lru_cache(maxsize=8)
def edges_and_steps(decoder: HeatmapDecoder, height: int, width: int) -> tuple[FloatArray, FloatArray]:
    """Edge and step of `Axis` for x and y, (2,) each."""
    columns, rows = Axis.of(decoder, width), Axis.of(decoder, height)
    return np.array([columns.edge, rows.edge], np.float32), np.array([columns.step, rows.step], np.float32)


def steps_of(decoder: HeatmapDecoder, height: int, width: int) -> FloatArray:
    """(2,) distance of two cells' centres in x and in y, input pixels."""
    return edges_and_steps(decoder, height, width)[1]


def places(cells: FloatArray, decoder: HeatmapDecoder, height: int, width: int) -> FloatArray:
    """Where places among the cells, (N, K, 2) column and row with 0 at the centre of the first, lie: input pixels."""
    first, steps = _first_and_steps(decoder, height, width)
    return (first + cells * steps).astype(np.float32)


@lru_cache(maxsize=8)
def _first_and_steps(decoder: HeatmapDecoder, height: int, width: int) -> tuple[Points, Points]:
    columns, rows = Axis.of(decoder, width), Axis.of(decoder, height)
    first = np.array([columns.centres(1)[0], rows.centres(1)[0]])
    return first, np.array([columns.step, rows.step])


def cells_of(keypoints: FloatArray, decoder: HeatmapDecoder, height: int, width: int) -> FloatArray:
    """The cell (column, row) that each keypoint (N, K, 2), in input pixels, lies in: whole numbers."""
    edges, steps = edges_and_steps(decoder, height, width)
    cells: FloatArray = np.floor((keypoints - edges) / steps)
    return cells


def largest_cells(heatmap: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns, (N, K) each, of the largest cells of maps (N, K, H, W): the first of several, row by row."""
    return np.divmod(heatmap.reshape(*heatmap.shape[:2], -1).argmax(axis=2), heatmap.shape[3])


def softmax(heatmap: FloatArray, beta: float) -> FloatArray:
    """Spatial softmax of ``beta * heatmap``: the same shape, summing to one over the cells of each map."""
    logits = heatmap.reshape(*heatmap.shape[:2], -1) * np.float32(beta)
    logits -= logits.max(axis=2, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=2, keepdims=True)
    weights: FloatArray = logits.reshape(heatmap.shape)
    return weights


def near(centre: NDArray[Any], size: int, window: int) -> NDArray[np.bool_]:
    """(..., size): which of ``size`` cells lie within ``window // 2`` of each ``centre`` (...), a whole number."""
    cells: NDArray[np.bool_] = np.abs(_numbers(size) - centre[..., None]) <= window // 2
    return cells


@lru_cache
def _numbers(count: int) -> FloatArray:
    return np.arange(count, dtype=np.float32)
