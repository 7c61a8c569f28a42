"""Detectors whose graph gives finished boxes and their scores, without keypoints: YOLO, RTMDet, DETR and others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.base import InputSize, Sizes
from splite_deploy.decoders.people import PeopleDecoder, Rows, sigmoid
from splite_deploy.errors import BackendError, require

_FAR_BELOW = -1e4  # whose sigmoid is 0, and which float16 holds


@dataclass(frozen=True)
class Boxes(PeopleDecoder):
    """Boxes and the scores of their classes, one row for each candidate.

    Which columns of which output these are, ``[outputs]`` of ``model.toml`` says: one output of YOLO's holds both.

    Attributes:
        boxes: Columns of a box: ``xywh`` (centre, width, height) or ``xyxy``.
        scale: Of boxes: ``pixel``, or ``unit``: 0-1 over the input's width and height.
        scores: What the scores are: ``logits``, of which a sigmoid is taken, or ``probabilities``. Of several classes
            the highest counts.
        nms: What becomes of candidates that overlap: ``greedy`` leaves the surest, ``none`` all of them, where the
            graph has seen to that.
        label: Where a third output gives the class of each candidate: the class that counts. Absent: there is none.
    """

    type: ClassVar[str] = "boxes"
    boxes: Literal["xywh", "xyxy"]
    scale: Literal["unit", "pixel"]
    scores: Literal["logits", "probabilities"]
    nms: Literal["greedy", "none"]
    label: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.label is None or self.label >= 0, "decoder.label must be the number of a class, from 0 on")

    def way(self) -> Literal["greedy", "weighted", "none"]:
        """As the field says."""
        return self.nms

    def nobody(self, role: str) -> float:
        """A score before its sigmoid is far below 0."""
        return _FAR_BELOW if role == "scores" and self.scores == "logits" else 0.0

    @property
    def layouts(self) -> Mapping[str, str]:
        """``boxes`` and ``scores``, then ``labels`` where one of them counts."""
        return dict.fromkeys(("boxes", "scores", *(() if self.label is None else ("labels",))), "NAC")

    def shapes(self, keypoints: int, size: InputSize) -> Mapping[str, Sizes]:
        """Any number of candidates and of classes."""
        sizes: dict[str, Sizes] = {"boxes": (None, 4), "scores": (None, None), "labels": (None, 1)}
        return {role: sizes[role] for role in self.layouts}

    def check(self, keypoints: int, size: InputSize) -> None:
        """Refuses keypoints, which nothing gives."""
        require(keypoints == 0, f"the decoder 'boxes' finds boxes alone, and the skeleton has {keypoints} keypoints")

    def scored(self, outputs: Mapping[str, FloatArray], size: InputSize) -> tuple[FloatArray, Rows]:
        """Scores of all candidates, and the candidates as they are asked for.

        Raises:
            BackendError: The outputs are of different numbers of candidates, or there are no classes.
        """
        counts = {role: values.shape[1] for role, values in outputs.items() if role in self.layouts}
        if len(set(counts.values())) > 1 or outputs["scores"].shape[2] == 0:
            said = ", ".join(f"{count} of '{role}'" for role, count in counts.items())
            raise BackendError(
                f"The outputs do not hold the same candidates: {said}, and {outputs['scores'].shape[2]} classes.",
                hint="Name the right outputs in [outputs] of model.toml, with their layout and slice.",
            )
        highest = outputs["scores"].max(axis=2)
        scores = sigmoid(highest) if self.scores == "logits" else highest
        if self.label is not None:
            scores = scores * (np.abs(outputs["labels"][..., 0] - self.label) < 0.5)
        factor = np.array([size.width, size.height] * 2 if self.scale == "unit" else [1] * 4, np.float32)

        def rows(crop: int, which: NDArray[np.intp]) -> FloatArray:
            box = outputs["boxes"][crop, which] * factor
            if self.boxes == "xywh":
                half = box[:, 2:] / 2
                box = np.concatenate([box[:, :2] - half, box[:, :2] + half], axis=1)
            return np.concatenate([box, scores[crop, which][:, None]], axis=1, dtype=np.float32)

        return scores.astype(np.float32, copy=False), rows
