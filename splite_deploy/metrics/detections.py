"""How well boxes are found, against labels. Pure numpy; in each image P boxes were found, and G are labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.people import overlaps
from splite_deploy.metrics.accuracy import Scene, average_precision

LOOSE, STRICT = 0.3, 0.5
"""Intersection over union from which a box is the labelled one: enough to crop by, and that of PASCAL VOC."""


@dataclass(frozen=True)
class FoundBoxes:
    """What was found in one image, and what is labelled there.

    Attributes:
        boxes: (P, 4) xyxy.
        scores: (P,) of every box, however low.
        labelled: (G, 4) boxes that have to be found.
        ignored: (I, 4) boxes that nobody has to find: what overlaps one counts neither way.
    """

    boxes: FloatArray
    scores: FloatArray
    labelled: NDArray[np.float64]
    ignored: NDArray[np.float64]

    @property
    def empty(self) -> bool:
        """Whether the image is known to show nothing."""
        return len(self.labelled) == len(self.ignored) == 0

    def above(self, min_score: float) -> FoundBoxes:
        """The same with the boxes of this score and higher ones alone."""
        sure = self.scores >= min_score
        return FoundBoxes(self.boxes[sure], self.scores[sure], self.labelled, self.ignored)

    def scene(self) -> Scene:
        """As `average_precision` takes it."""
        wanted = np.concatenate([self.labelled, self.ignored]).astype(np.float32)
        ignored = np.arange(len(wanted)) >= len(self.labelled)
        similarity = overlaps(self.boxes.astype(np.float32), wanted).astype(np.float64)
        return Scene(similarity, self.scores.astype(np.float64), ignored, ignored)


@dataclass(frozen=True)
class BoxAccuracy:
    """How well boxes are found.

    Attributes:
        boxes: Labelled boxes.
        ap_30: Average precision at an overlap of 0.3 (intersection over union), over all scores.
        ap_50: The same at 0.5.
        min_score: The threshold of the model, from which a box is given.
        recall_30: Share of the labelled boxes that it gives, at an overlap of 0.3.
        recall_50: The same at 0.5.
        empty_images: Images that show nothing.
        false_alarms: Boxes given in such an image, on average; None without any.
    """

    boxes: int
    ap_30: float
    ap_50: float
    min_score: float
    recall_30: float
    recall_50: float
    empty_images: int
    false_alarms: float | None


def box_accuracy(found: Sequence[FoundBoxes], min_score: float) -> BoxAccuracy | None:
    """How well the boxes of images were found; None where none is labelled.

    Args:
        found: One for each image.
        min_score: The threshold of the model.
    """
    labelled = sum(len(one.labelled) for one in found)
    if not labelled:
        return None
    scenes = [one.scene() for one in found]
    given = [one.above(min_score) for one in found]
    alarms = [len(one.boxes) for one in given if one.empty]
    return BoxAccuracy(
        boxes=labelled,
        ap_30=average_precision(scenes, (LOOSE,)),
        ap_50=average_precision(scenes, (STRICT,)),
        min_score=min_score,
        recall_30=sum(_recalled(one, LOOSE) for one in given) / labelled,
        recall_50=sum(_recalled(one, STRICT) for one in given) / labelled,
        empty_images=len(alarms),
        false_alarms=float(np.mean(alarms)) if alarms else None,
    )


def _recalled(found: FoundBoxes, least: float) -> int:
    """How many labelled boxes have a partner, the largest overlap first, each of both once."""
    return len(pairs_of(overlaps(found.labelled.astype(np.float32), found.boxes), least))


def pairs_of(shares: FloatArray, least: float) -> list[tuple[int, int]]:
    """Rows and columns of overlaps (P, Q) that belong together: the largest first, each of both once."""
    left, pairs = shares.copy(), []
    while left.size and left.max() >= least:
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        pairs.append((int(row), int(column)))
        left[row], left[:, column] = -1, -1
    return pairs
