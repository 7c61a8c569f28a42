"""SSD-style detectors with keypoints, as MediaPipe's BlazeFace and palm detection: offsets from a grid of anchors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.base import InputSize, Sizes
from splite_deploy.decoders.people import PeopleDecoder, Rows, sigmoid
from splite_deploy.errors import require


@dataclass(frozen=True)
class Anchors(PeopleDecoder):
    """Boxes and keypoints relative to anchors, and logits of the scores.

    The fields of the anchors are options of MediaPipe's ``SsdAnchorsCalculator``, the others of its
    ``TensorsToDetectionsCalculator`` and ``NonMaxSuppressionCalculator``.

    Attributes:
        strides: Input pixels per cell of each layer; neighbours of the same stride share their cells.
        aspect_ratios: Width by height of the anchors of a layer.
        interpolated_scale_aspect_ratio: That of one anchor more in each layer, of a scale between those of this layer
            and the next; 0 for none.
        anchor_offset: Where in its cell an anchor lies, in x and y, as a share of the cell; 0.5 is the middle.
        fixed_anchor_size: Whether every anchor is as large as the input, so that sizes and offsets are shares of it.
        min_scale: Share of the input that an anchor of the first layer measures; absent with fixed sizes.
        max_scale: The same of the last layer.
        scale: What numbers are divided by before they are multiplied with an anchor: `x_scale` and its kind, input
            pixels as a rule.
        score_clipping: Logits are clipped to so much in either direction before the sigmoid.
        nms: What becomes of candidates that overlap: ``greedy`` or ``weighted``, see `suppress`.
    """

    type: ClassVar[str] = "anchors"
    strides: tuple[int, ...]
    aspect_ratios: tuple[float, ...]
    interpolated_scale_aspect_ratio: float
    anchor_offset: float
    fixed_anchor_size: bool
    scale: float
    score_clipping: float
    nms: Literal["greedy", "weighted"]
    min_scale: float | None = None
    max_scale: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(min(self.strides, default=0) > 0, "decoder.strides must be positive numbers")
        require(min(self.aspect_ratios, default=1) > 0, "decoder.aspect_ratios must be positive")
        both = self.min_scale is not None and self.max_scale is not None
        require(self.fixed_anchor_size or both, "decoder.min_scale and max_scale tell how large anchors are: give both")
        require(self.scale > 0, "decoder.scale must be positive")
        require(self.score_clipping > 0, "decoder.score_clipping must be positive")

    def way(self) -> Literal["greedy", "weighted", "none"]:
        """As the field says."""
        return self.nms

    @property
    def layouts(self) -> Mapping[str, str]:
        """``boxes`` with the keypoints behind each, and ``logits``."""
        return {"boxes": "NAC", "logits": "NAC"}

    def shapes(self, keypoints: int, size: InputSize) -> Mapping[str, Sizes]:
        """One row for each anchor."""
        count = len(grid(self, size.height, size.width))
        return {"boxes": (count, 4 + 2 * keypoints), "logits": (count, 1)}

    def scored(self, outputs: Mapping[str, FloatArray], size: InputSize) -> tuple[FloatArray, Rows]:
        """Scores of all candidates, and the candidates as they are asked for.

        Centre and keypoints of a box lie at x / scale * (width of the anchor) + (its centre), and it measures
        w / scale * (width of the anchor); the same in y. Keypoints have the score of their box.
        """
        numbers, clip = outputs["boxes"], self.score_clipping
        scores = sigmoid(outputs["logits"][..., 0].clip(-clip, clip))
        anchors = grid(self, size.height, size.width)

        def rows(crop: int, which: NDArray[np.intp]) -> FloatArray:
            centre, extent = np.split(anchors[which], 2, axis=1)
            pairs = numbers[crop, which].reshape(len(which), numbers.shape[2] // 2, 2)
            points = pairs * (extent / np.float32(self.scale))[:, None]
            sides, points[:, 1] = points[:, 1] / 2, 0.0
            points += centre[:, None]
            its_scores = scores[crop, which][:, None]
            found = np.empty((len(which), points.shape[1] - 2, 3), np.float32)
            found[..., :2], found[..., 2] = points[:, 2:], its_scores
            box = points[:, 0] - sides, points[:, 0] + sides
            return np.concatenate(
                [*box, its_scores, found.reshape(len(which), 3 * found.shape[1])], axis=1, dtype=np.float32
            )

        return scores, rows


@lru_cache(maxsize=8)
def grid(decoder: Anchors, height: int, width: int) -> FloatArray:
    """Centre x, y, width and height of every anchor in input pixels, (A, 4), by the options of MediaPipe's calculator.

    Layers of the same stride in a row are joined: cell by cell, all anchors of these layers.
    """
    strides, layers = decoder.strides, len(decoder.strides)
    found, layer = [], 0
    while layer < layers:
        sizes, stride = [], strides[layer]
        while layer < layers and strides[layer] == stride:
            scale, following = (_scale(decoder, number) for number in (layer, layer + 1))
            ratio = decoder.interpolated_scale_aspect_ratio
            shapes = [(scale, each) for each in decoder.aspect_ratios]
            shapes += [(math.sqrt(scale * following), ratio)] if ratio > 0 else []
            sizes += [(each * math.sqrt(ratio), each / math.sqrt(ratio)) for each, ratio in shapes]
            layer += 1
        rows, columns = -(-height // stride), -(-width // stride)
        anchors = np.empty((rows, columns, len(sizes), 4))
        anchors[..., 0] = ((np.arange(columns) + decoder.anchor_offset) / columns)[:, None]
        anchors[..., 1] = ((np.arange(rows) + decoder.anchor_offset) / rows)[:, None, None]
        anchors[..., 2:] = 1.0 if decoder.fixed_anchor_size else sizes
        found.append(anchors.reshape(-1, 4))
    pixels: FloatArray = (np.concatenate(found) * (width, height, width, height)).astype(np.float32)
    return pixels


def _scale(decoder: Anchors, layer: int) -> float:
    """The share of the input that anchors of a layer measure; that behind the last is the whole."""
    low, high, layers = decoder.min_scale or 1.0, decoder.max_scale or 1.0, len(decoder.strides)
    if layer == layers:
        return 1.0
    return (low + high) / 2 if layers == 1 else low + (high - low) * layer / (layers - 1)
