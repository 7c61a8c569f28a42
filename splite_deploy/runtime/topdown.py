"""From a whole picture to the keypoints of everybody in it: a detector, then an estimator, and who is who."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import is_count
from splite_deploy.decoders.people import overlaps
from splite_deploy.errors import UsageError
from splite_deploy.metrics.labels import tight_box
from splite_deploy.metrics.turned_boxes import Turn, angle_of, box_at, wrapped
from splite_deploy.runtime.any_angle import seek, usable_box
from splite_deploy.runtime.backends.base import OneAtATime
from splite_deploy.runtime.closing import Closing
from splite_deploy.runtime.estimator import Estimator
from splite_deploy.runtime.pose import Pose
from splite_deploy.runtime.preprocess import AnyImage, Image, check_image
from splite_deploy.runtime.tracker import check_estimator, check_limits, next_box
from splite_deploy.runtime.tracks import Tracker, distances, moment_s, nearest

Box = NDArray[np.float64]
DETECT_EVERY = 5
SPARE = 4
"""So many more new boxes are looked into than there is room for: detectors take other things for hands, too."""
_SAME_BOX = 0.3
"""Overlap (intersection over union) at which what the detector found is somebody who is followed."""
_SAME_POSE = 0.2
"""Mean distance of keypoints, in sizes, below which two poses are of one hand or person."""
_STEADY, _STEADY_DEG = 0.95, 3.0
"""Overlap above which and angle below which the next crop is where the last one was. Keypoints of composed clips that
rest tremble less by a quarter to a third with it, and those that move by 4 % more."""


@dataclass(frozen=True)
class _Seen:
    """What the estimator found.

    Attributes:
        pose: It.
        box: Where to look for it in the next frame.
        id: Whose crop it was found in; None of a box of the detector.
        before: What was found there in the last frame; None of a box of the detector.
        box_score: The detector's of that box; None where the box is of the last frame.
    """

    pose: Pose
    box: Box
    id: int | None = None
    before: Pose | None = None
    box_score: float | None = None

    @property
    def moved(self) -> float:
        """How far it lies from where it was in the last frame, in sizes; infinite of a box of the detector."""
        return math.inf if self.before is None else float(distances([self.before], [self.pose])[0, 0])


class TopDown(Closing):
    """Finds and follows several hands or people in the frames of a camera or a video, or finds them in a picture.

        with TopDown(PoseEstimator.open("palm.splite"), PoseEstimator.open("hand.splite"), Tracker(4)) as follow:
            for frame in camera:
                for pose in follow(frame):
                    print(pose.id, pose.keypoints)

    In every frame the estimator looks where the keypoints were in the last one. The detector looks at the whole frame
    first where nobody is followed, where somebody was lost a short while ago, and otherwise every ``detect_every``
    frames, unless as many are followed as the tracker may. What it finds beside those who are followed is looked at
    together with them: all crops of a frame are one inference where the bundle has a dynamic batch, else one inference
    each. They are never more than four beyond ``max_people`` of the tracker: of new ones the surest. Looks for an
    angle, see below, are two more inferences, of at most three crops for each new one.

    Somebody is lost where the network says that the crop shows nobody (`Pose.presence`; a single-stage network finds
    nobody there), where a network that does not say has low scores, and where keypoints fall together, far apart or
    outside the frame: see `next_box`. Nothing is delivered of those who are lost. Where two fall on one hand
    or person, the one that came there from further away is lost; a new look at somebody who is followed replaces the
    old one where the network is surer of it.

    Where crops are turned (``rotate_by``), the first crop's angle is that of the detector's keypoints of the same
    names. Where it has none of them, or what is found in the crop contradicts that angle, a new hand or person is
    looked at up to six times, as `PoseEstimator.at_any_angle` does.

    One serves one thread: a call while one of another thread runs is a `BackendError`.

    Attributes:
        detector: As it was given.
        estimator: As it was given.
        tracker: Who is who.

    Args:
        detector: A single-stage network: it finds boxes, and its keypoints serve for the angle alone. It is closed with
            this object, as is the estimator.
        estimator: Finds keypoints in boxes. A single-stage network serves, too, and then gives the best one of each.
            To follow what a single-stage network finds alone, no detector is needed: see `Tracker`.
        tracker: Gives ids, limits their number and smooths; it serves this alone. None is ``Tracker()``.
        detect_every: In frames. Somebody who comes into the picture while others are followed is found that late.
        margin: See `BoxTracker`. At 0 crops are those of training, and of the detector: a network that finds hands a
            little too large in larger crops lets them grow from frame to frame.
        min_score: See `BoxTracker`.
        min_presence: See `BoxTracker`.

    Raises:
        UsageError: The networks cannot take these parts, or a value is out of its range.
    """

    def __init__(
        self,
        detector: Estimator,
        estimator: Estimator,
        tracker: Tracker | None = None,
        *,
        detect_every: int = DETECT_EVERY,
        margin: float = 0.0,
        min_score: float = 0.3,
        min_presence: float = 0.5,
    ) -> None:
        _check_parts(detector, estimator)
        check_limits(margin, min_score, min_presence)
        if not is_count(detect_every, 1):
            raise UsageError(
                f"The detector would look every {detect_every} frames.", hint="Pass a whole number; 1 is every frame."
            )
        _check_tracker(tracker)
        self.detector, self.estimator = detector, estimator
        self.tracker = Tracker() if tracker is None else tracker
        self._detect_every = detect_every
        self._limits = {"margin": margin, "min_score": min_score, "min_presence": min_presence}
        self._turn = estimator.spec.input.turn
        self._turn_of_detector = _turn_of_detector(detector, estimator)
        self._size: tuple[int, int] | None = None
        self._since_detected = 0
        self._boxes: dict[int, Box] = {}
        self._guard = OneAtATime("pipeline")

    def __call__(self, frame: AnyImage, time_s: float | None = None, **options: Any) -> list[Pose]:
        """Everybody in the next frame, by rising `Pose.id`.

        After an error the next call goes on as if this frame had not been.

        Args:
            frame: (H, W, 3) uint8. Where its size is another than before, everybody is sought anew.
            time_s: See `Tracker`.
            options: ``intrinsics`` and ``bone_length_mm`` of `PoseEstimator.__call__`.

        Raises:
            UsageError: The frame, its time or an option cannot be used, or the tracker follows somebody else's people.
            BackendError: A backend failed, or another thread uses this.
        """
        with self._guard:
            image, time_s = check_image(frame), moment_s(time_s)
            self.estimator.check_options(**options)
            return self._next(image, time_s, options)

    def detect(self, image: AnyImage, **options: Any) -> list[Pose]:
        """Everybody in one picture, by falling score of the detector, which is `Pose.box_score`; nobody is followed.

        Args:
            image: See `PoseEstimator.__call__`.
            options: See `__call__`.

        Raises:
            UsageError: The picture or an option cannot be used.
            BackendError: A backend failed, or another thread uses this.
        """
        with self._guard:
            image = check_image(image)
            self.estimator.check_options(**options)
            found = _without_doubles(self._estimate(image, self.detector.detect(image), {}, options))
            poses = [replace(one.pose, box_score=one.box_score) for one in found]
            return poses[: self.tracker.max_people]

    def reset(self) -> None:
        """Forgets everybody, as for another video; ids go on.

        Raises:
            BackendError: Another thread uses this.
        """
        with self._guard:
            self.tracker.reset()

    def close(self) -> None:
        """Closes the detector and the estimator.

        Raises:
            BackendError: Another thread uses this, or one of them.
        """
        with ExitStack() as stack:
            if not self._guard.forked:
                stack.enter_context(self._guard)
            stack.callback(self.detector.close)
            stack.callback(self.estimator.close)

    def _next(self, image: Image, time_s: float, options: dict[str, Any]) -> list[Pose]:
        size, followed = (image.shape[0], image.shape[1]), dict(self.tracker.followed)
        if not followed.keys() <= self._boxes.keys():
            raise UsageError(
                "The tracker follows people that this TopDown has not found.",
                hint="Give each TopDown a Tracker of its own, or call the tracker's reset() first.",
            )
        is_new = size != self._size
        if is_new:
            followed = {}
        is_due = is_new or self._is_due()
        detected = self._beside(self.detector.detect(image), followed) if is_due else []
        found = _without_doubles(self._estimate(image, detected, followed, options))
        if is_new:  # not before: a frame with which something is wrong is as if it had not been
            self.tracker.reset()
            self._size = size
        poses = self.tracker([one.pose for one in found], time_s, ids=[one.id for one in found])
        boxes = {id(one.pose): one.box for one in found}
        self._boxes = {
            number: _steady(self._boxes.get(number), boxes[id(pose)]) for number, pose in self.tracker.followed.items()
        }
        self._since_detected = 0 if is_due else self._since_detected + 1
        return poses

    def _is_due(self) -> bool:
        """Whether the detector looks at the next frame."""
        tracker = self.tracker
        if tracker.full:
            return False
        return not tracker.followed or tracker.misses or self._since_detected + 1 >= self._detect_every

    def _beside(self, detected: Sequence[Pose], followed: dict[int, Pose]) -> list[Pose]:
        """What the detector found beside those who are followed, each of whom may have one of its boxes."""
        if not followed:
            return list(detected)
        boxes = np.stack([tight_box(pose.keypoints) for pose in followed.values()]).astype(np.float32)
        others = np.array([pose.box for pose in detected], np.float32).reshape(-1, 4)
        taken = {index for _, index in nearest(1.0 - overlaps(boxes, others), 1.0 - _SAME_BOX)}
        return [pose for index, pose in enumerate(detected) if index not in taken]

    def _estimate(
        self, image: Image, detected: Sequence[Pose], followed: dict[int, Pose], options: dict[str, Any]
    ) -> list[_Seen]:
        """What the estimator finds where those who are followed were, and in boxes of the detector."""
        height, width = image.shape[:2]
        most = self.tracker.max_people
        room = None if most is None else most - len(followed) + SPARE
        known = [(number, self._boxes[number]) for number in followed]
        looked_at = ((one, box) for one in detected if (box := self._first_box(one, height, width)) is not None)
        first = list(islice(looked_at, room))
        poses = self._look(image, [box for _, box in (*known, *first)], options)
        fresh = poses[len(known) :]
        if self._turn is not None:
            where = [box for _, box in first]
            fresh = seek(lambda more: self._look(image, more, options), fresh, where, self._turn, (height, width))
        seen = []
        for (number, _), pose in zip(known, poses[: len(known)], strict=True):
            if pose is not None and (box := self._box_after(pose, image)) is not None:
                seen.append(_Seen(pose, box, number, followed[number]))
        for (one, _), pose in zip(first, fresh, strict=True):
            if pose is not None and (box := self._box_after(pose, image)) is not None:
                seen.append(_Seen(pose, box, box_score=one.box_score))
        return seen

    def _first_box(self, detected: Pose, height: int, width: int) -> Box | None:
        """Where the estimator looks at somebody new: at the angle that the detector tells; None outside the frame."""
        box = detected.box.astype(np.float64)
        if self._turn_of_detector is not None:
            angle_deg = angle_of(detected.keypoints, self._turn_of_detector)
            box = box if angle_deg is None else box_at(box, angle_deg)
        return usable_box(box, height, width)

    def _look(self, image: Image, boxes: Sequence[Box], options: dict[str, Any]) -> list[Pose | None]:
        """A pose for each box, by one inference where the estimator takes several crops; None of nobody."""
        if self.estimator.finds_people:
            found = (self.estimator.detect(image, box) for box in boxes)
            return [people[0] if people else None for people in found]
        if len(boxes) > 1 and self.estimator.takes_several:
            return [*self.estimator.batch(image, boxes, **options)]
        return [self.estimator(image, box, **options) for box in boxes]

    def _box_after(self, pose: Pose, image: Image) -> Box | None:
        """Where somebody is looked for in the next frame; None of nobody."""
        height, width = image.shape[:2]
        return next_box(pose, height, width, **self._limits, turn=self._turn)


def _without_doubles(seen: list[_Seen]) -> list[_Seen]:
    """Everybody once: of two poses of one hand or person the id of that which has moved less.

    What the detector found anew where somebody is followed is a second look at the same: the surer one is kept.
    """
    same = _same(seen)
    if np.count_nonzero(same) == len(seen):  # each with itself alone
        return seen
    kept: list[_Seen] = []
    shows: list[int] = []  # of whom those who are kept have the pose
    for index, one in sorted(enumerate(seen), key=lambda numbered: numbered[1].moved):
        doubles = np.flatnonzero(same[shows, index])
        if len(doubles) == 0:
            kept.append(one)
            shows.append(index)
            continue
        place = int(doubles[0])
        if one.id is None and kept[place].id is not None and _sure(one.pose) > _sure(kept[place].pose):
            kept[place] = replace(kept[place], pose=one.pose, box=one.box)
            shows[place] = index
    return kept


def _same(seen: Sequence[_Seen]) -> NDArray[np.bool_]:
    """(N, N) who is one hand or person with whom; one of the detector needs less for that than what is followed."""
    if len(seen) <= 1:
        return np.ones((len(seen), len(seen)), np.bool_)
    poses, fresh = [one.pose for one in seen], np.array([one.id is None for one in seen])
    same: NDArray[np.bool_] = distances(poses, poses) < _SAME_POSE
    if fresh.any():
        boxes = np.stack([tight_box(pose.keypoints) for pose in poses]).astype(np.float32)
        same |= (overlaps(boxes, boxes) > _SAME_BOX) & (fresh[:, None] | fresh)
    return same


def _sure(pose: Pose) -> float:
    """How sure the network is that this is somebody."""
    return float(pose.scores.mean()) if pose.presence is None else pose.presence


def _steady(before: Box | None, box: Box) -> Box:
    """A box, or that of the last frame where both are nearly the same: what rests would tremble with its crop."""
    if before is None:
        return box
    (x0, y0, x1, y1, *angle), (left, top, right, bottom, *other) = before.tolist(), box.tolist()
    across, down = max(min(x1, right) - max(x0, left), 0.0), max(min(y1, bottom) - max(y0, top), 0.0)
    both = (x1 - x0) * (y1 - y0) + (right - left) * (bottom - top) - across * down
    turned_deg = abs(wrapped(other[0] - angle[0])) if angle else 0.0
    return before if across * down > _STEADY * both and turned_deg < _STEADY_DEG else box


def _check_parts(detector: Estimator, estimator: Estimator) -> None:
    check_estimator(detector, "detector")
    check_estimator(estimator, "estimator")
    if not detector.finds_people:
        raise UsageError(
            f"The detector '{detector.spec.name}' finds one hand or person in each box, and no boxes.",
            hint="Give a single-stage network as the detector. Without one BoxTracker follows one hand or person.",
        )
    if estimator.spec.keypoint_count == 0:
        raise UsageError(
            f"The estimator '{estimator.spec.name}' finds boxes alone, and no keypoints.",
            hint="Give a network that finds keypoints. To follow boxes alone, give what it detects to a Tracker.",
        )
    if detector.color != estimator.color:
        raise UsageError(
            f"The detector is opened for {detector.color} images, and the estimator for {estimator.color} ones.",
            hint="Open both with the same color.",
        )


def _check_tracker(given: object) -> None:
    if not isinstance(given, Tracker | None):
        raise UsageError(
            f"The tracker is a {type(given).__name__}, not a Tracker.",
            hint="Pass a Tracker, for example Tracker(max_people=4), or None.",
        )


def _turn_of_detector(detector: Estimator, estimator: Estimator) -> Turn | None:
    """Which of the detector's keypoints tell the angle at which the estimator looks; None where none do."""
    turn, names = estimator.spec.input.turn, detector.spec.skeleton.keypoint_names
    wanted = [estimator.spec.skeleton.keypoint_names[index] for index in turn or ()]
    if not wanted or not set(wanted) <= set(names):
        return None
    return names.index(wanted[0]), names.index(wanted[1])
