"""The YOLO family's pose networks, from what their heads give or from what exporters have made of it.

Cells of a level of stride s: cell (column i, row j) covers the input pixels from i * s to (i + 1) * s. Candidates are
numbered level by level, within one by anchor, row and column, as `torch.Tensor.flatten` has it.
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

Form = Literal["decoded", "final", "anchor-free", "anchor-based"]
Heads = Literal["one", "levels", "parts"]

_NEEDS: Mapping[Form, tuple[str, ...]] = {
    "decoded": ("boxes", "scale", "objectness"),
    "final": ("boxes", "scale"),
    "anchor-free": ("strides", "heads", "bins"),
    "anchor-based": ("strides", "heads", "anchors"),
}
"""The fields that a form needs; the others of them it does not take."""


@dataclass(frozen=True)
class YoloPose(PeopleDecoder):
    """A single-stage network of the YOLO family.

    Attributes:
        form: What the network gives. ``decoded``: for each candidate box, score and keypoints in pixels, as
            ultralytics' exporter writes it (YOLOv8-pose, YOLO11-pose), or YOLOv5-pose and YOLOv7-pose with their
            detection layer. ``final``: people after non-maximum suppression, each with box, score, class and keypoints
            (YOLO26-pose; ultralytics' ``nms=True``). ``anchor-free``: the convolutions' outputs of a YOLOv8-pose head.
            ``anchor-based``: those of a YOLOv5-pose or YOLOv7-pose head.
        visibility: Whether a keypoint has a third number beside x and y, its visibility, which is its score; else it
            has the score of the person.
        boxes: Columns of a box: ``xywh`` (centre, width, height) or ``xyxy``; for ``decoded`` and ``final``.
        scale: Of boxes and keypoints: ``pixel``, or ``unit``: 0-1 over the input's width and height; for ``decoded``
            and ``final``.
        objectness: Whether an objectness is before the scores of the classes, to be multiplied by them (YOLOv5,
            YOLOv7); for ``decoded``.
        strides: Input pixels per cell, level by level; for ``anchor-free`` and ``anchor-based``.
        heads: How these give their channels: ``one`` output of all levels, flattened and joined; ``levels``: one output
            for each level; ``parts``: for each level a box, a score and a keypoints output (``anchor-free``).
        bins: Channels for each side of a box, a distribution over 0, 1, 2, ... strides (distribution focal loss, Li et
            al. 2020, arXiv 2006.04388); 1 where the channel is the distance itself; for ``anchor-free``.
        anchors: For each level width and height of its anchors in input pixels, in turn; for ``anchor-based``.
        classes: Number of classes; the score is that of the highest.
    """

    type: ClassVar[str] = "yolo-pose"
    form: Form
    visibility: bool
    boxes: Literal["xywh", "xyxy"] | None = None
    scale: Literal["unit", "pixel"] | None = None
    objectness: bool | None = None
    strides: tuple[float, ...] | None = None
    heads: Heads | None = None
    bins: int | None = None
    anchors: tuple[tuple[float, ...], ...] | None = None
    classes: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in dict.fromkeys(name for names in _NEEDS.values() for name in names):
            needed, given = name in _NEEDS[self.form], getattr(self, name) is not None
            says = "needs" if needed else "does not take"
            require(needed == given, f'decoder.form = "{self.form}" {says} decoder.{name}')
        require(self.classes > 0, "decoder.classes must be positive")
        require(self.bins is None or self.bins > 0, "decoder.bins must be positive")
        require(self.strides is None or min(self.strides, default=0) > 0, "decoder.strides must be positive numbers")
        least = min(self.strides or (), default=LEAST_STRIDE)
        require(least >= LEAST_STRIDE, f"decoder.strides holds {least:g}, and at least {LEAST_STRIDE:g} pixels each")
        if self.anchors is not None:
            pairs = all(anchors and len(anchors) % 2 == 0 and min(anchors) > 0 for anchors in self.anchors)
            require(pairs, "decoder.anchors must be pairs of a width and a height for each level")
            require(len(self.anchors) == len(self.strides or ()), "decoder.anchors must have a list for each stride")
            require(self.heads != "parts", 'decoder.heads = "parts" is for decoder.form = "anchor-free"')

    def way(self) -> Literal["greedy", "weighted", "none"]:
        """Nothing is left to suppress in ``final``."""
        return "none" if self.form == "final" else "greedy"

    @property
    def layouts(self) -> Mapping[str, str]:
        """One output ``people``, or one or three for each level."""
        if self.strides is None or self.heads == "one":
            return {"people": "NAC" if self.form == "final" else "NCA"}
        levels = range(len(self.strides))
        if self.heads == "levels":
            return {f"level_{level}": "NCHW" for level in levels}
        return {f"{part}_{level}": "NCHW" for level in levels for part in ("box", "score", "keypoints")}

    def shapes(self, keypoints: int, size: InputSize) -> Mapping[str, Sizes]:
        """Levels of one cell for each stride; any number of candidates where there are no strides."""
        box, scores = 4 * (self.bins or 1), self._score_columns
        columns = box + scores + self._point_columns * keypoints
        if self.strides is None:
            return {"people": (None, columns) if self.form == "final" else (columns, None)}
        cells = [(round(size.height / stride), round(size.width / stride)) for stride in self.strides]
        if self.heads == "one":
            counts = zip(self._anchors_of_each, cells, strict=True)
            return {"people": (columns, sum(anchors * height * width for anchors, (height, width) in counts))}
        found: dict[str, Sizes] = {}
        for level, (anchors, its_cells) in enumerate(zip(self._anchors_of_each, cells, strict=True)):
            if self.heads == "levels":
                found[f"level_{level}"] = (anchors * columns, *its_cells)
            else:
                found[f"box_{level}"] = (box, *its_cells)
                found[f"score_{level}"] = (scores, *its_cells)
                found[f"keypoints_{level}"] = (self._point_columns * keypoints, *its_cells)
        return found

    def check(self, keypoints: int, size: InputSize) -> None:
        """Refuses a stride that does not divide the input, and outputs of keypoints where there are none."""
        said = 'decoder.heads = "parts" has an output of keypoints for each level, and the skeleton has none'
        require(self.heads != "parts" or keypoints > 0, said)
        for stride in self.strides or ():
            for name, pixels in (("height", size.height), ("width", size.width)):
                off = abs(round(pixels / stride) * stride - pixels)
                require(off < 0.01, f"decoder.strides {stride:g} does not divide input.{name} {pixels}")

    @property
    def _anchors_of_each(self) -> tuple[int, ...]:
        """How many anchors a cell of each level has."""
        if self.anchors is None:
            return (1,) * len(self.strides or ())
        return tuple(len(anchors) // 2 for anchors in self.anchors)

    @property
    def _point_columns(self) -> int:
        """Columns of a keypoint."""
        return 3 if self.visibility else 2

    @property
    def _score_columns(self) -> int:
        """Columns between box and keypoints."""
        if self.form == "final":
            return 2  # the score and the number of its class
        return self.classes + (self.form == "anchor-based" or bool(self.objectness))

    def scored(self, outputs: Mapping[str, FloatArray], size: InputSize) -> tuple[FloatArray, Rows]:
        """Scores of all candidates, and the candidates as they are asked for.

        * ``decoded``, ``final``: the columns as they are.
        * ``anchor-free`` (ultralytics' ``Pose`` head): with a cell's centre at (i + .5, j + .5) strides the box reaches
          to the left, top, right and bottom of it by the distances of `bins`; score and keypoints' scores are sigmoids;
          a keypoint is at (2 * x + i, 2 * y + j) strides.
        * ``anchor-based`` (YOLO-Pose, Maji et al. 2022, arXiv 2204.06806; YOLOv7's ``IKeypoint``): with sigmoids of its
          four numbers the box has its centre at (2 * x + i - .5, 2 * y + j - .5) strides and measures (2 * w)^2 by
          (2 * h)^2 anchors; the score is the product of the sigmoids of objectness and class; a keypoint is at
          (2 * x + i - .5, 2 * y + j - .5) strides, and its score is a sigmoid.
        """
        box, score, keypoints = self._parts(outputs)
        raw = self.strides is not None
        values = sigmoid(score) if raw else score
        if self.form == "final":
            scores = values[:, 0]
        elif self.form == "anchor-based" or self.objectness:
            scores = values[:, 0] * values[:, 1:].max(axis=1)
        else:
            scores = values.max(axis=1)
        cells = grid(self, size.height, size.width) if raw else None

        def rows(crop: int, which: NDArray[np.intp]) -> FloatArray:
            picked = box[crop][:, which].T, keypoints[crop][:, which].T
            boxes, points = self._decoded(*picked, None if cells is None else cells[which], size)
            if not self.visibility:
                likewise = np.broadcast_to(scores[crop][which][:, None, None], (*points.shape[:2], 1))
                points = np.concatenate([points, likewise], axis=2)
            columns = boxes, scores[crop][which][:, None], points.reshape(len(points), 3 * points.shape[1])
            return np.concatenate(columns, axis=1, dtype=np.float32)

        return scores, rows

    def _parts(self, outputs: Mapping[str, FloatArray]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Boxes, scores and keypoints of all candidates: (N, channels, A) each."""
        box, scores = 4 * (self.bins or 1), self._score_columns
        if self.heads == "parts":
            flat = [values.reshape(*values.shape[:2], -1) for values in (outputs[role] for role in self.roles)]
            return np.concatenate(flat[::3], 2), np.concatenate(flat[1::3], 2), np.concatenate(flat[2::3], 2)
        if self.heads == "levels":
            levels = []
            for role, anchors in zip(self.roles, self._anchors_of_each, strict=True):
                count, channels, height, width = outputs[role].shape
                values = outputs[role].reshape(count, anchors, channels // anchors, height * width)
                levels.append(values.swapaxes(1, 2).reshape(count, channels // anchors, -1))
            people = np.concatenate(levels, axis=2)
        else:
            people = outputs["people"].swapaxes(1, 2) if self.form == "final" else outputs["people"]
        return people[:, :box], people[:, box : box + scores], people[:, box + scores :]

    def _decoded(
        self, box: FloatArray, keypoints: FloatArray, cells: FloatArray | None, size: InputSize
    ) -> tuple[FloatArray, FloatArray]:
        """Boxes (M, 4) xyxy and keypoints (M, K, 2 or 3) in input pixels, of the channels (M, C) of M candidates."""
        points = keypoints.reshape(len(keypoints), keypoints.shape[1] // self._point_columns, self._point_columns)
        if cells is None:
            factor = np.array([size.width, size.height] if self.scale == "unit" else [1, 1], np.float32)
            xy, corners = points[..., :2] * factor, box * np.tile(factor, 2)
            if self.boxes == "xywh":
                corners = _corners(corners[:, :2], corners[:, 2:])
            return corners, np.concatenate([xy, points[..., 2:]], axis=2)
        cell, stride = cells[:, :2], cells[:, 2:3]
        if self.form == "anchor-based":
            half = sigmoid(box)
            corners = _corners((2 * half[:, :2] + cell - 0.5) * stride, (2 * half[:, 2:]) ** 2 * cells[:, 3:5])
            cell = cell - 0.5
        else:
            away = _expected(box.reshape(len(box), 4, box.shape[1] // 4))
            corners = np.concatenate([cell + 0.5 - away[:, :2], cell + 0.5 + away[:, 2:]], axis=1) * stride
        xy = (2 * points[..., :2] + cell[:, None]) * stride[:, None]
        return corners, np.concatenate([xy, sigmoid(points[..., 2:])], axis=2)


def _corners(centre: FloatArray, extent: FloatArray) -> FloatArray:
    """Boxes (M, 4) xyxy of their centres and sizes, (M, 2) each."""
    return np.concatenate([centre - extent / 2, centre + extent / 2], axis=1)


def _expected(distances: FloatArray) -> FloatArray:
    """(M, 4) expected bins of logits (M, 4, bins); of a single bin the number itself."""
    if distances.shape[2] == 1:
        return distances[..., 0]
    weights = np.exp(distances - distances.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    expected: FloatArray = weights @ np.arange(distances.shape[2], dtype=np.float32)
    return expected


@lru_cache(maxsize=8)
def grid(decoder: YoloPose, height: int, width: int) -> FloatArray:
    """(A, 5) of every candidate: column and row of its cell, stride, and width and height of its anchor (or 0)."""
    levels = []
    for level, stride in enumerate(decoder.strides or ()):
        rows, columns = round(height / stride), round(width / stride)
        anchors = np.reshape((0, 0) if decoder.anchors is None else decoder.anchors[level], (-1, 2))
        found = np.empty((len(anchors), rows, columns, 5), np.float32)
        found[..., 0], found[..., 1] = np.arange(columns), np.arange(rows)[:, None]
        found[..., 2], found[..., 3:] = stride, anchors[:, None, None]
        levels.append(found.reshape(-1, 5))
    return np.concatenate(levels)
