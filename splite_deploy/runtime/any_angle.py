"""Finding what may lie at any angle, by a network that sees hands or people upright."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from splite_deploy.errors import UsageError
from splite_deploy.metrics.turned_boxes import Turn, angle_of, box_around, box_at, wrapped
from splite_deploy.runtime.pose import Pose
from splite_deploy.runtime.preprocess import AnyImage, check_box, check_image
from splite_deploy.spec import InputSpec

Box = NDArray[np.float64]
UPRIGHT_DEG = 30.0
"""A look is believed where it finds something within this angle of its crop: such errors are seen in training."""
THERE = 0.5
"""Of a network that says how likely its crop shows a hand or person: a look is not believed below."""
OTHERS_DEG = (90.0, 180.0, -90.0)
"""Where else is looked if not, from the angle of the crop. Of 337 hands in boxes without an angle the dense SPLite Hand
2 loses 3.6 % with these looks, and 4.7 % without."""
QUARTERS_DEG = (0.0, *OTHERS_DEG)
"""All of them."""
SUREST = 2
"""So many of the first looks are followed by another, at the angle that they tell."""
_CORNERS = 4


def usable_box(box: Box, height: int, width: int) -> Box | None:
    """The box, if one can look into it."""
    try:
        return check_box(box, height, width)
    except UsageError:
        return None


def seek(
    look: Callable[[Sequence[Box]], Sequence[Pose | None]],
    first: Sequence[Pose | None],
    boxes: Sequence[Box],
    turn: Turn,
    size: tuple[int, int],
) -> list[Pose | None]:
    """Looks again at several hands or people whose angles are not known, or are wrong.

    Where the first look finds nobody, or does not find one nearly upright in its crop, three more look at the other
    quarters. Then each of the two surest, by presence and mean score, tells where to look once more, and the surer of
    these last looks counts. Where the first look was at an angle, and confirms it or finds nobody, that is all.

    Args:
        look: From boxes to what is found in each of them.
        first: What was found; None of nobody.
        boxes: Where it was found: (4,) xyxy, looked into at angle 0, or (5,) with an angle.
        turn: The keypoints that tell the angle.
        size: Height and width of the image.

    Returns:
        A pose for each of ``first``: that one itself where it tells nothing that could be looked into.
    """
    seen: list[list[Pose]] = [[] if pose is None else [pose] for pose in first]
    believed = [pose is not None and _believed(pose, box, turn) for pose, box in zip(first, boxes, strict=True)]
    turned = [
        (index, box)
        for index, pose in enumerate(first)
        if pose is not None and not believed[index]
        for box in _usable((_turned(boxes[index], angle_deg) for angle_deg in OTHERS_DEG), size)
    ]
    for (index, _), pose in zip(turned, look([box for _, box in turned]), strict=True):
        seen[index] += [] if pose is None else [pose]
    around = [
        (index, box)
        for index, poses in enumerate(seen)
        if not (believed[index] and boxes[index].size > _CORNERS)
        for box in _usable((box_around(pose.keypoints, turn) for pose in _by_sureness(poses)[:SUREST]), size)
    ]
    last: list[list[Pose]] = [[] for _ in first]
    for (index, _), pose in zip(around, look([box for _, box in around]), strict=True):
        last[index] += [] if pose is None else [pose]
    return [_by_sureness(again)[0] if again else pose for again, pose in zip(last, first, strict=True)]


def at_any_angle(estimate: Callable[..., Pose], spec: InputSpec) -> Callable[..., Pose]:
    """An estimator that needs no angle, of one that looks into a box of an angle; see `PoseEstimator.at_any_angle`.

    Args:
        estimate: From an image and a box, with options, to a pose.
        spec: The input; where crops are not turned ``estimate`` itself is given.
    """
    turn = spec.turn
    if turn is None:
        return estimate

    def found(image: AnyImage, box: ArrayLike | None = None, **options: Any) -> Pose:
        height, width = check_image(image).shape[:2]
        checked = check_box(box, height, width)
        first = estimate(image, checked, **options)
        if checked.size > _CORNERS:
            return first

        def look(boxes: Sequence[Box]) -> list[Pose]:
            return [estimate(image, one, **options) for one in boxes]

        (best,) = seek(look, [first], [checked], turn, (height, width))
        assert best is not None
        return best

    return found


def _angle_deg(box: Box) -> float:
    return float(box[_CORNERS]) if box.size > _CORNERS else 0.0


def _believed(pose: Pose, box: Box, turn: Turn) -> bool:
    """Whether somebody is there, nearly upright in the crop; or nobody is, in one of an angle that somebody told."""
    if pose.presence is not None and pose.presence < THERE:
        return box.size > _CORNERS
    angle_deg = angle_of(pose.keypoints, turn)
    return angle_deg is not None and abs(wrapped(angle_deg - _angle_deg(box))) <= UPRIGHT_DEG


def _turned(box: Box, angle_deg: float) -> Box:
    """A box that is turned further, by a quarter or a half."""
    further = box_at(box[:_CORNERS], angle_deg)
    further[_CORNERS] = wrapped(_angle_deg(box) + angle_deg)
    return further


def _usable(boxes: Iterator[Box], size: tuple[int, int]) -> list[Box]:
    return [box for one in boxes if (box := usable_box(one, *size)) is not None]


def _by_sureness(poses: Sequence[Pose]) -> list[Pose]:
    """Those that are there first, then by mean score; of equal scores, as of networks without any, by presence."""

    def unsureness(pose: Pose) -> tuple[bool, float, float]:
        presence = 1.0 if pose.presence is None else pose.presence
        return presence < THERE, -float(pose.scores.mean()), -presence

    return sorted(poses, key=unsureness)
