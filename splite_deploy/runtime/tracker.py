"""From one frame to the next without a detector: the next box is where the keypoints were."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from splite_deploy.errors import UsageError
from splite_deploy.metrics.labels import tight_box
from splite_deploy.metrics.turned_boxes import Turn, box_around
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.pose import Pose
from splite_deploy.runtime.preprocess import AnyImage, check_image

MIN_SIDE_PX = 8.0
"""Keypoints closer together than this are no hand or person."""
_MOST_MARGIN = 10.0
MOST_SIDES = 16.0
"""Neither are those that lie further apart than so many times the longer side of the frame."""


def next_box(
    pose: Pose, height: int, width: int, *, margin: float, min_score: float, turn: Turn | None = None
) -> NDArray[np.float64] | None:
    """The box in which to look in the next frame.

    Args:
        pose: Of this frame.
        height: Of the frame, pixels.
        width: Of the frame, pixels.
        margin: By how much the tight box of the keypoints grows on each side, as a share of its longer side.
        min_score: What the mean score has to reach.
        turn: For a network whose crops are turned: which keypoints tell the angle, see `InputSpec.turn`. Where they
            fall together the angle stays what it was.

    Returns:
        (4,) xyxy in pixels, or with ``turn`` (5,) with an angle, over -180 and up to 180 degrees; None if the hand or
        person is lost: the scores are too low, the keypoints fell into a point or far apart, or they lie outside the
        frame.
    """
    tight = tight_box(pose.keypoints)
    side_px = float((tight[2:] - tight[:2]).max())
    if not (pose.scores.mean() >= min_score and MIN_SIDE_PX <= side_px <= MOST_SIDES * max(height, width)):
        return None
    centre = (tight[:2] + tight[2:]) / 2
    if not ((centre >= 0).all() and (centre < (width, height)).all()):
        return None
    if turn is not None:
        return box_around(pose.keypoints, turn, pose.angle_deg or 0.0, margin)
    grow_px = margin * side_px
    grown: NDArray[np.float64] = tight + np.array([-grow_px, -grow_px, grow_px, grow_px])
    return grown


class BoxTracker:
    """Follows one hand or person through the frames of a camera.

    Attributes:
        box: Where it looks in the next frame; None is the whole frame. Where crops are turned it has the angle that the
            keypoints of the last frame tell; that jumps from 180 to -180 degrees, where the crop does not.
        found: Whether the last frame showed a hand or person.

    Args:
        estimator: Of the model.
        start: xyxy box in pixels in which to look at first, and again whenever it is lost; None is the whole frame. It
            may have an angle where crops are turned.
        margin: See `next_box`; the model's own padding of boxes comes on top.
        min_score: See `next_box`. Scores are no probabilities and differ between models: look at those of frames with
            and without a hand or person.
    """

    def __init__(
        self, estimator: PoseEstimator, start: ArrayLike | None = None, *, margin: float = 0.05, min_score: float = 0.3
    ) -> None:
        if not (-_MOST_MARGIN < margin < _MOST_MARGIN and math.isfinite(min_score)):
            raise UsageError(
                f"The margin {margin} or the least score {min_score} is no sensible number.",
                hint="The margin is a share of the box, such as 0.05; scores lie between 0 and 1.",
            )
        self.estimator = estimator
        self.box: ArrayLike | None = start
        self.found = False
        self._start, self._margin, self._min_score = start, margin, min_score

    def __call__(self, frame: AnyImage, **options: Any) -> Pose:
        """Finds the keypoints in the next frame; ``options`` are those of `PoseEstimator.__call__`, without ``box``.

        Raises:
            UsageError: The frame, the start box or an option cannot be used.
            BackendError: The backend failed.
        """
        pose = self.estimator(frame, self.box, **options)
        height, width = check_image(frame).shape[:2]
        limits = {"margin": self._margin, "min_score": self._min_score}
        followed = next_box(pose, height, width, **limits, turn=self.estimator.spec.input.turn)
        self.found = followed is not None
        self.box = self._start if followed is None else followed
        return pose
