"""How well boxes are found, against labels. Pure numpy; in each image P boxes were found, and G are labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.bundle.report import BoxAccuracy
from splite_deploy.decoders.people import covered, overlaps
from splite_deploy.metrics.accuracy import Scene, average_precision

LOOSE, STRICT = 0.3, 0.5
"""Intersection over union from which a box is the labelled one: enough to crop by, and that of PASCAL VOC."""
MOST_BOXES = 100
"""So many boxes of an image count in the average precision, the surest (COCO, "Detection Evaluation")."""


def no_boxes() -> NDArray[np.float64]:
    """(0, 4)."""
    return np.empty((0, 4))


@dataclass(frozen=True)
class FoundBoxes:
    """What was found in one image, and what is labelled there.

    Attributes:
        boxes: (P, 4) xyxy, by falling score.
        scores: (P,) of every box, however low.
        labelled: (G, 4) boxes that have to be found.
        ignored: (I, 4) boxes that nobody has to find: what overlaps one counts neither way, however often, as what
            PASCAL VOC calls difficult.
        crowds: (C, 4) boxes in which nobody is told apart: what lies inside one counts neither way, as of COCO's.
    """

    boxes: FloatArray
    scores: FloatArray
    labelled: NDArray[np.float64]
    ignored: NDArray[np.float64]
    crowds: NDArray[np.float64] = field(default_factory=no_boxes)

    @property
    def empty(self) -> bool:
        """Whether the image is known to show nothing."""
        return len(self.labelled) == len(self.ignored) == len(self.crowds) == 0

    def given(self, min_score: float, most: int | None = None) -> FoundBoxes:
        """The same with what a threshold of the score gives alone.

        Args:
            min_score: The threshold.
            most: Of more boxes these many; None is all of them.
        """
        sure = np.flatnonzero(self.scores >= min_score)[:most]
        return FoundBoxes(self.boxes[sure], self.scores[sure], self.labelled, self.ignored, self.crowds)

    def scene(self) -> Scene:
        """As `average_precision` takes it.

        With a labelled box that is the intersection over union, as with one to ignore; with a crowd it is the share of
        the found box that the crowd covers (COCO, "Detection Evaluation": ``iscrowd``).
        """
        boxes = self.boxes.astype(np.float64)
        shares = overlaps(boxes, self.labelled), overlaps(boxes, self.ignored), covered(boxes, self.crowds)
        similarity = np.concatenate(shares, axis=1)
        ignored = np.arange(similarity.shape[1]) >= len(self.labelled)
        return Scene(similarity, self.scores.astype(np.float64), ignored, ignored)


def box_accuracy(found: Sequence[FoundBoxes], min_score: float, most: int | None = None) -> BoxAccuracy | None:
    """How well the boxes of images were found; None where none is labelled.

    Args:
        found: One for each image.
        min_score: The threshold of the model.
        most: So many boxes of an image the model gives at most; None is any number.
    """
    labelled = sum(len(one.labelled) for one in found)
    if not labelled:
        return None
    scenes = [one.scene() for one in found]
    given = [one.given(min_score, most) for one in found]
    alarms = [len(one.boxes) for one in given if one.empty]
    return BoxAccuracy(
        boxes=labelled,
        ap_30=average_precision(scenes, (LOOSE,), most=MOST_BOXES),
        ap_50=average_precision(scenes, (STRICT,), most=MOST_BOXES),
        min_score=min_score,
        recall_30=sum(_recalled(one, LOOSE) for one in given) / labelled,
        recall_50=sum(_recalled(one, STRICT) for one in given) / labelled,
        empty_images=len(alarms),
        false_alarms=float(np.mean(alarms)) if alarms else None,
    )


def _recalled(found: FoundBoxes, least: float) -> int:
    """How many labelled boxes have a partner, the largest overlap first, each of both once."""
    boxes = found.boxes.astype(np.float64)
    shares = overlaps(found.labelled, boxes)
    return len(pairs_of(shares, least))


def pairs_of(shares: NDArray[np.floating[Any]], least: float) -> list[tuple[int, int]]:
    """Rows and columns of overlaps (P, Q) that belong together: the largest first, each of both once."""
    left, pairs = shares.copy(), []
    while left.size and left.max() >= least:
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        pairs.append((int(row), int(column)))
        left[row], left[:, column] = -1, -1
    return pairs
