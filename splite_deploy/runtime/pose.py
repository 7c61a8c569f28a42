"""What the runtime returns."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

import numpy as np

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders import HEADS, Unit

if TYPE_CHECKING:
    from splite_deploy.runtime.preprocess import AnyImage, Image
    from splite_deploy.spec import SkeletonSpec

Origin = Literal["root", "camera"]
"""Where ``keypoints_3d`` have their origin: the root keypoint of the decoder, or the centre of the camera."""


@dataclass(frozen=True, eq=False)
class Pose:
    """Keypoints of one hand or body. Poses are equal where all their values are.

    Attributes:
        keypoints: (K, 2) float32, (x, y) in pixels of the source image, origin at the corner of its first pixel.
        scores: (K,) float32 in [0, 1]; the rule is the decoder's. For soft-argmax it says how concentrated the
            heatmap is and is no calibrated probability.
        box: (4,) float32 xyxy in pixels of the source image: the requested box, or, of a network that finds people
            itself, the box that it found.
        keypoints_3d: (K, 3) float32, x right, y down, z away from the camera, or None. Absolute, in camera
            coordinates, where intrinsics and a bone length were given, else relative to the root keypoint; ``origin``
            says which.
        unit: Unit of ``keypoints_3d``: ``palm`` or ``mm``; None without 3D.
        origin: What ``keypoints_3d`` are relative to: ``root`` (then the root keypoint is at 0) or ``camera`` (then
            ``unit`` is ``mm`` and every z is positive); None without 3D.
        box_score: Score of the person in [0, 1] where the network found the box; None where it was requested.
        presence: How likely the crop shows a hand or a person, 0 to 1; None where the network does not say.
        handedness: How likely it is a right hand, 0 to 1, seen as it is: in an image that is not mirrored. Below 0.5 it
            is a left one; None where the network does not say.
        angle_deg: By how much ``box`` was turned about its centre, in degrees, clockwise; None of a network whose crops
            are not turned. ``keypoints`` and ``keypoints_3d`` are turned back: their axes are those of the image.
        id: Number of the hand or person, the same from frame to frame, from 1; None where nobody is followed. See
            `splite_deploy.runtime.tracks.Tracker`.
        skeleton: Names of the keypoints and how they are joined, as the model says; None where no estimator made the
            pose.
    """

    keypoints: FloatArray
    scores: FloatArray
    box: FloatArray
    keypoints_3d: FloatArray | None = None
    unit: Unit | None = None
    origin: Origin | None = None
    box_score: float | None = None
    presence: float | None = None
    handedness: float | None = None
    angle_deg: float | None = None
    id: int | None = None
    skeleton: SkeletonSpec | None = field(default=None, repr=False)

    def __eq__(self, other: object) -> bool:
        """Whether all values are equal."""
        if not isinstance(other, Pose):
            return NotImplemented
        return all(_same(getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)

    def __hash__(self) -> int:
        """Of the values: do not change the arrays of a pose that is in a set or a key."""
        return hash(tuple(_hashable(getattr(self, name)) for name in self.__dataclass_fields__))

    def to_dict(self) -> dict[str, Any]:
        """Plain data with numbers rounded to a thousandth, as ``splite-deploy run --json`` writes it.

        ``presence`` and ``handedness`` are there where the network gives them, ``angle_deg`` where crops are turned,
        ``id`` where somebody is followed.
        """
        heads = {name: getattr(self, name) for name in HEADS}
        return {
            "box": _rounded(self.box),
            "keypoints": _rounded(self.keypoints),
            "scores": _rounded(self.scores),
            "keypoints_3d": None if self.keypoints_3d is None else _rounded(self.keypoints_3d, 4),
            "unit": self.unit,
            "origin": self.origin,
            "box_score": None if self.box_score is None else round(self.box_score, 4),
            **{name: round(value, 4) for name, value in heads.items() if value is not None},
            **({} if self.angle_deg is None else {"angle_deg": round(self.angle_deg, 3)}),
            **({} if self.id is None else {"id": self.id}),
        }

    def to_coco(self, image_id: SupportsIndex, *, box_score: float | None = None) -> dict[str, Any]:
        """One entry of COCO's results, which pycocotools reads by ``loadRes``; see `splite_deploy.metrics.coco.result`.

        Args:
            image_id: COCO's number of the image, a whole number of any type, also numpy's, which JSON would not take.
            box_score: How sure a detector was of the box, in [0, 1], where the pose does not know it.
        """
        from splite_deploy.metrics.coco import result
        from splite_deploy.metrics.turned_boxes import bounds_of

        sure = box_score if self.box_score is None else self.box_score
        box = self.box if self.angle_deg is None else bounds_of(np.append(self.box, self.angle_deg))
        return result(operator.index(image_id), self.keypoints, self.scores, box, sure)

    def plot(self, image: AnyImage, skeleton: SkeletonSpec | None = None) -> Image:
        """The pose drawn on a copy of its image; `splite_deploy.overlay` draws several.

        Args:
            image: (H, W, 3) uint8 BGR, of any size: a small one is enlarged by a whole factor.
            skeleton: How keypoints are joined; None takes that of the pose.

        Returns:
            (H, W, 3) uint8 BGR, which ``cv2.imwrite`` and ``cv2.imshow`` take.

        Raises:
            UsageError: The image is none, or the skeleton is one of another number of keypoints.
        """
        from splite_deploy.runtime.io.draw import overlay

        return overlay(image, [self], skeleton)


def size_px(pose: Pose) -> float:
    """The longer side of what just holds the keypoints, or of the box that the network found where that is larger."""
    sides = [np.ptp(pose.keypoints.astype(np.float64), axis=0).max(initial=0.0)] if len(pose.keypoints) else []
    if pose.box_score is not None or not sides:
        sides.append((pose.box[2:] - pose.box[:2]).max())
    return float(max(sides))


def _same(first: object, second: object) -> bool:
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return bool(np.array_equal(first, second))
    return type(first) is type(second) and first == second


def _hashable(value: object) -> object:
    """Equal values give equal results: arrays of another type too, and -0.0 as 0.0."""
    return (np.asarray(value, np.float64) + 0.0).tobytes() if isinstance(value, np.ndarray) else value


def _rounded(values: FloatArray, digits: int = 3) -> Any:
    return np.round(values.astype(np.float64), digits).tolist()
