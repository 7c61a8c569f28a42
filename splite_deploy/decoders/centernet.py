"""Detectors whose heatmap has a peak at the middle of each object: CenterNet and its like (Zhou et al. 2019).

One cell is one candidate, numbered row by row. A candidate is an object where its score is the largest of the 3 x 3
cells around it, which is the published suppression (arXiv 1904.07850, section 3); where boxes of two such peaks still
overlap by more than `PeopleDecoder.overlap`, the surer one stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.base import LEAST_STRIDE, InputSize, Sizes
from splite_deploy.decoders.people import PeopleDecoder, Rows, sigmoid
from splite_deploy.errors import require


@dataclass(frozen=True)
class CenterNet(PeopleDecoder):
    """A heatmap of middles, and at each of its cells a box and keypoints.

    Attributes:
        stride: Input pixels per cell.
        heatmap: What the cells hold: ``logits``, of which a sigmoid is taken, or ``probabilities``.
        boxes: What four numbers of a cell say, or two: ``distances`` from the cell to the left, upper, right and lower
            side (as of FCOS and TTFNet), or ``sizes``, width and height around the middle.
        offsets: Whether a further output says how far the middle lies from the cell, x and y; with ``sizes``.
        origin: What distances, offsets and keypoints are measured from: the upper left ``corner`` of the cell, as in
            the published network, or its ``centre``. Without offsets the middle of a box lies there.
        unit: Of all these: ``cell``, as published, or ``pixel`` of the input.
        keypoints: Whether a further output has the vectors to the keypoints, x and y of each in turn.
    """

    type: ClassVar[str] = "centernet"
    stride: float
    heatmap: Literal["logits", "probabilities"]
    boxes: Literal["distances", "sizes"]
    offsets: bool
    origin: Literal["corner", "centre"]
    unit: Literal["cell", "pixel"]
    keypoints: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.stride >= LEAST_STRIDE, f"decoder.stride is {self.stride:g}, and at least {LEAST_STRIDE:g} pixels")
        said = 'decoder.offsets move the middle of boxes of a size: with decoder.boxes = "distances" they are false'
        require(not self.offsets or self.boxes == "sizes", said)

    @property
    def layouts(self) -> Mapping[str, str]:
        """``heatmap`` and ``boxes``, then ``offsets`` and ``keypoints`` where there are any."""
        more = [role for role, given in (("offsets", self.offsets), ("keypoints", self.keypoints)) if given]
        return dict.fromkeys(("heatmap", "boxes", *more), "NCHW")

    def shapes(self, keypoints: int, size: InputSize) -> Mapping[str, Sizes]:
        """Maps of one cell for each stride."""
        channels = {"heatmap": 1, "boxes": 4 if self.boxes == "distances" else 2, "offsets": 2}
        channels["keypoints"] = 2 * keypoints
        return {role: (channels[role], *self._cells(size)) for role in self.layouts}

    def check(self, keypoints: int, size: InputSize) -> None:
        """Refuses a stride that does not divide the input, and keypoints that nothing gives."""
        for name, pixels in (("height", size.height), ("width", size.width)):
            off = abs(round(pixels / self.stride) * self.stride - pixels)
            require(off < 0.01, f"decoder.stride {self.stride:g} does not divide input.{name} {pixels}")
        said = f"decoder.keypoints is {str(self.keypoints).lower()}, and the skeleton has {keypoints} keypoints"
        require(self.keypoints == (keypoints > 0), said)

    def stand_out(self, scores: FloatArray, size: InputSize) -> NDArray[np.bool_]:
        """Cells whose score no neighbour's exceeds."""
        height, width = self._cells(size)
        maps = scores.reshape(-1, height, width)
        across = maps.copy()
        np.maximum(across[..., 1:], maps[..., :-1], out=across[..., 1:])
        np.maximum(across[..., :-1], maps[..., 1:], out=across[..., :-1])
        around = across.copy()
        np.maximum(around[:, 1:], across[:, :-1], out=around[:, 1:])
        np.maximum(around[:, :-1], across[:, 1:], out=around[:, :-1])
        peaks: NDArray[np.bool_] = (maps >= around).reshape(scores.shape)
        return peaks

    def scored(self, outputs: Mapping[str, FloatArray], size: InputSize) -> tuple[FloatArray, Rows]:
        """Scores of all candidates, and the candidates as they are asked for.

        With p, the corner or the centre of a cell, and u, the stride or 1: a box reaches from p - u (left, top) to
        p + u (right, bottom); or it measures u (width, height) around p + u offset. A keypoint lies at p + u (x, y),
        and has the score of its box.
        """
        flat = {role: values.reshape(*values.shape[:2], -1) for role, values in outputs.items()}
        heatmap = flat["heatmap"][:, 0]
        scores = sigmoid(heatmap) if self.heatmap == "logits" else heatmap
        origins = origins_of(self, *self._cells(size))
        unit = np.float32(self.scale)

        def rows(crop: int, which: NDArray[np.intp]) -> FloatArray:
            at = origins[which]
            numbers = {role: values[crop][:, which].T * unit for role, values in flat.items() if role != "heatmap"}
            if self.boxes == "distances":
                box = [at - numbers["boxes"][:, :2], at + numbers["boxes"][:, 2:]]
            else:
                middle, half = at + numbers.get("offsets", 0), numbers["boxes"] / 2
                box = [middle - half, middle + half]
            points = numbers.get("keypoints", np.empty((len(which), 0), np.float32))
            its_scores = scores[crop, which][:, None]
            placed = np.empty((len(which), points.shape[1] // 2, 3), np.float32)
            placed[..., :2] = points.reshape(*placed.shape[:2], 2) + at[:, None]
            placed[..., 2] = its_scores
            columns = *box, its_scores, placed.reshape(len(which), 3 * placed.shape[1])
            return np.concatenate(columns, axis=1, dtype=np.float32)

        return scores, rows

    @property
    def scale(self) -> float:
        """Input pixels of one of its units."""
        return self.stride if self.unit == "cell" else 1.0

    def _cells(self, size: InputSize) -> tuple[int, int]:
        """Rows and columns."""
        return round(size.height / self.stride), round(size.width / self.stride)


@lru_cache(maxsize=8)
def origins_of(decoder: CenterNet, height: int, width: int) -> FloatArray:
    """(H * W, 2) of every cell, row by row: what its numbers are measured from, x and y in input pixels."""
    shift = 0.5 if decoder.origin == "centre" else 0.0
    index = np.arange(height * width)
    cells = np.stack([index % width, index // width], axis=1)
    places: FloatArray = ((cells + shift) * decoder.stride).astype(np.float32)
    return places
