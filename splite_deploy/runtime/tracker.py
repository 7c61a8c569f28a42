"""From one frame to the next without a detector: the next box is where the keypoints were."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from splite_deploy.arrays import is_number
from splite_deploy.errors import UsageError
from splite_deploy.metrics.labels import tight_box
from splite_deploy.metrics.turned_boxes import Turn, box_around, box_at
from splite_deploy.runtime.any_angle import QUARTERS_DEG, usable_box
from splite_deploy.runtime.estimator import Estimator
from splite_deploy.runtime.pose import Pose
from splite_deploy.runtime.preprocess import AnyImage, check_box, check_image

MIN_SIDE_PX = 8.0
"""Keypoints closer together than this are no hand or person."""
_CORNERS = 4
_MOST_MARGIN = 10.0
MOST_SIDES = 16.0
"""Neither are those that lie further apart than so many times the longer side of the frame."""


def check_limits(margin: float, min_score: float, min_presence: float) -> None:
    """Refuses limits of `next_box` that are no sensible numbers.

    Raises:
        UsageError: They are not.
    """
    are_numbers = all(map(is_number, (margin, min_score, min_presence)))
    if not (are_numbers and -_MOST_MARGIN < margin < _MOST_MARGIN and 0 <= min_score <= 1 and 0 <= min_presence <= 1):
        raise UsageError(
            f"The margin {margin}, the least score {min_score} or the least presence {min_presence} is no sensible "
            "number.",
            hint="The margin is a share of the box, such as 0.05; scores and presence lie between 0 and 1.",
        )


def check_estimator(given: object, part: str) -> None:
    """Refuses what is no estimator, as the name of its file.

    Args:
        given: What somebody has passed.
        part: What it was to be.

    Raises:
        UsageError: It is none.
    """
    if not isinstance(given, Estimator):
        raise UsageError(
            f"The {part} is a {type(given).__name__}, not a PoseEstimator.",
            hint="Pass what PoseEstimator.open gives for the bundle, or PoseEstimator.open_file for a file.",
        )


def next_box(
    pose: Pose,
    height: int,
    width: int,
    *,
    margin: float,
    min_score: float,
    min_presence: float = 0.5,
    turn: Turn | None = None,
) -> NDArray[np.float64] | None:
    """The box in which to look in the next frame.

    Args:
        pose: Of this frame.
        height: Of the frame, pixels.
        width: Of the frame, pixels.
        margin: By how much the tight box of the keypoints grows on each side, as a share of its longer side.
        min_score: What the mean score has to reach, of a network that does not say how likely the crop shows a hand or
            person.
        min_presence: What `Pose.presence` has to reach, of one that does.
        turn: For a network whose crops are turned: which keypoints tell the angle, see `InputSpec.turn`. Where they
            fall together the angle stays what it was.

    Returns:
        (4,) xyxy in pixels, or with ``turn`` (5,) with an angle, over -180 and up to 180 degrees; None if the hand or
        person is lost: the presence or the scores are too low, the keypoints fell into a point or far apart, or they
        lie outside the frame.
    """
    shown = pose.scores.mean() >= min_score if pose.presence is None else pose.presence >= min_presence
    tight = tight_box(pose.keypoints)
    side_px = float((tight[2:] - tight[:2]).max())
    if not (shown and MIN_SIDE_PX <= side_px <= MOST_SIDES * max(height, width)):
        return None
    centre = (tight[:2] + tight[2:]) / 2
    if not ((centre >= 0).all() and (centre < (width, height)).all()):
        return None
    if turn is not None:
        return _not_empty(box_around(pose.keypoints, turn, pose.angle_deg or 0.0, margin))
    grow_px = margin * side_px
    return _not_empty(tight + np.array([-grow_px, -grow_px, grow_px, grow_px]))


def _not_empty(box: NDArray[np.float64]) -> NDArray[np.float64]:
    """The box, at least a pixel wide and high: keypoints may lie on a line, of which a crop shows the surroundings."""
    middle, half = (box[:2] + box[2:4]) / 2, np.maximum(box[2:4] - box[:2], 1.0) / 2
    return np.concatenate([middle - half, middle + half, box[4:]])


class BoxTracker:
    """Follows one hand or person through the frames of a camera. Where their size changes it begins anew.

    Attributes:
        box: Where it looks in the next frame; None is the whole frame. Where crops are turned it has the angle that the
            keypoints of the last frame tell; that jumps from 180 to -180 degrees, where the crop does not.
        found: Whether the last frame showed a hand or person.

    Args:
        estimator: Of the model.
        start: xyxy box in pixels in which to look at first, and again whenever it is lost; None is the whole frame. It
            may have an angle where crops are turned; without one it is found by two to six looks at a frame, see
            `PoseEstimator.at_any_angle`. Where these find nobody, two looks a frame follow until somebody is found: at
            each quarter in turn, and around the keypoints that this gives.
        margin: See `next_box`; the model's own padding of boxes comes on top.
        min_score: See `next_box`. Scores are no probabilities and differ between models: look at those of frames with
            and without a hand or person.
        min_presence: See `next_box`.

    Raises:
        UsageError: The network gives no keypoints, or a value is out of its range.
    """

    def __init__(
        self,
        estimator: Estimator,
        start: ArrayLike | None = None,
        *,
        margin: float = 0.05,
        min_score: float = 0.3,
        min_presence: float = 0.5,
    ) -> None:
        check_limits(margin, min_score, min_presence)
        check_estimator(estimator, "estimator")
        if estimator.spec.keypoint_count == 0:
            raise UsageError(
                f"The model '{estimator.spec.name}' finds boxes alone, and no keypoints that could be followed.",
                hint="Give what its detect() finds to a Tracker.",
            )
        self.estimator = estimator
        self.box: ArrayLike | None = start
        self.found = False
        self._start = start
        self._size: tuple[int, ...] | None = None
        self._nobody_frames = 0  # in which `_start` was looked into at all angles, or at one quarter
        self._limits = {"margin": margin, "min_score": min_score, "min_presence": min_presence}

    def __call__(self, frame: AnyImage, **options: Any) -> Pose:
        """Finds the keypoints in the next frame; ``options`` are those of `PoseEstimator.__call__`, without ``box``.

        Raises:
            UsageError: The frame, the start box or an option cannot be used.
            BackendError: The backend failed.
        """
        height, width = size = check_image(frame).shape[:2]
        known = self._size in (None, size)
        box = self.box if known else self._start
        nobody_frames = self._nobody_frames if known and box is self._start else 0
        at_angle = box is not None and np.size(box) > _CORNERS
        turn = self.estimator.spec.input.turn
        if at_angle:
            pose = self.estimator(frame, box, **options)
        elif nobody_frames == 0 or turn is None:
            pose = self.estimator.at_any_angle(frame, box, **options)
        else:
            start = check_box(box, height, width)
            quarter_deg = QUARTERS_DEG[(nobody_frames - 1) % len(QUARTERS_DEG)]
            pose = self.estimator(frame, box_at(start, quarter_deg), **options)
            around = usable_box(box_around(pose.keypoints, turn), height, width)
            if around is not None:  # a wide crop of somebody may look like nobody's
                pose = self.estimator(frame, around, **options)
        followed = next_box(pose, height, width, **self._limits, turn=turn)
        self._size = size
        self._nobody_frames = nobody_frames + 1 if followed is None and not at_angle else 0
        self.found = followed is not None
        self.box = self._start if followed is None else followed
        return pose
