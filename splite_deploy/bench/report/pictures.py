"""What an artifact finds in pictures, beside what it should find there.

With labels these are the labelled images that a result names: those with the largest error and the median ones. Without
them they are golden crops of the bundle, beside what the original network found in them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.bench.evaluation import evaluation_labels
from splite_deploy.bench.result import BenchResult, ImageError
from splite_deploy.bundle import Bundle
from splite_deploy.decoders import Decoded, decode
from splite_deploy.errors import UsageError
from splite_deploy.files import is_folder
from splite_deploy.metrics.labels import LabelledImage
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.io.draw import overlay
from splite_deploy.runtime.io.images import read_image
from splite_deploy.runtime.pose import Pose
from splite_deploy.runtime.preprocess import Image, Preprocessor
from splite_deploy.runtime.session import OptionSet
from splite_deploy.runtime.verify import run_each
from splite_deploy.spec import InputSpec, SkeletonSpec

PER_KIND = 2
SIDE_PX = 480
MARGIN = 0.3
"""What is shown around the box, as a share of its longer side."""
JPEG_QUALITY = 80
OURS_BGR, REFERENCE_BGR = (233, 180, 86), (0, 159, 230)
"""Sky blue and orange, which colour-blind people tell apart (Okabe and Ito, Color universal design). Ours are filled
dots and the reference rings besides."""

Kind = Literal["worst", "median"]
Reference = Literal["labels", "original network"]
_Corner = tuple[float, float]


@dataclass(frozen=True)
class Picture:
    """An image with what an artifact found in it.

    Attributes:
        kind: ``worst`` or ``median``, by its difference from the reference.
        name: Which image it is.
        difference: How far it lies from the reference, as text with a unit.
        reference: What it is compared with.
        ours: JPEG with the skeleton that was found, about `SIDE_PX` high or wide.
        both: The same with the reference beside it.
    """

    kind: Kind
    name: str
    difference: str
    reference: Reference
    ours: bytes
    both: bytes


@dataclass(frozen=True)
class Marks:
    """One hand or person to draw.

    Attributes:
        points: (K, 2) keypoints, pixels of the image.
        shown: (K,) which of them are known.
        box: (4,) xyxy, drawn where there are no keypoints.
    """

    points: NDArray[np.float64]
    shown: NDArray[np.bool_]
    box: NDArray[np.float64]

    @property
    def places(self) -> NDArray[np.float64]:
        """What differences are measured at: the keypoints, or two corners of the box."""
        return self.points[self.shown] if len(self.points) else self.box.reshape(2, 2)


def draw_pictures(
    result: BenchResult, target: Path, labels: Path, model: Path | None = None, options: OptionSet = ()
) -> list[Picture]:
    """Runs the measured artifact again on the images that its accuracy names, and draws what it finds.

    Args:
        result: A result with accuracy.
        target: The bundle, or the file without one, that was measured.
        labels: The labels file, or its folder, that it was evaluated on.
        model: The model spec of a file without a bundle; None is the one beside it.
        options: How the backends worked.

    Raises:
        UsageError: The result has no accuracy, or labels or an image are not there any more.
        BundleError: The bundle is damaged.
        BackendError: The backend cannot run it.
    """
    if result.accuracy is None:
        raise UsageError(f"The result of {result.label} has no accuracy.", hint="Measure it with --eval LABELS.")
    if result.bundle:
        opened = PoseEstimator.open(target, result.backend, result.precision, result.threads, options=options)
    else:
        opened = PoseEstimator.open_file(target, model, result.backend, result.threads, options=options)
    with opened as estimator:
        return list(_labelled(estimator, result, labels))


def draw_golden(result: BenchResult, target: Path, options: OptionSet = ()) -> list[Picture]:
    """Runs the measured artifact again on the golden crops of its bundle, and draws what both networks find.

    Args:
        result: A result with a deviation, that is of an artifact that takes one crop.
        target: Its bundle.
        options: How the backends worked.

    Returns:
        The crop with the median difference and the one with the largest; empty where the original network finds nobody
        on any of them.

    Raises:
        BundleError: The bundle is damaged.
        BackendError: The backend cannot run it.
    """
    bundle = Bundle.open(target)
    spec, golden = bundle.model, bundle.golden()
    opened = PoseEstimator.open(target, result.backend, result.precision, result.threads, options=options)
    with opened as estimator:
        session = estimator.session
        feed = Preprocessor(spec.input, spec.input.color).feed(golden.crops, session.inputs[0])
        found = decode(run_each(session, feed, spec), spec)
    crops = range(len(golden.crops))
    pairs = [(_marks(found, crop), _marks(golden.decoded, crop)) for crop in crops]
    away = {crop: _apart_px(*pairs[crop]) for crop in crops if pairs[crop][1]}
    order = sorted(away, key=lambda crop: (len(pairs[crop][0]) != len(pairs[crop][1]), away[crop]))
    if not order:
        return []
    chosen: list[tuple[Kind, int]] = [("median", order[(len(order) - 1) // 2]), ("worst", order[-1])]
    pictures = []
    for kind, crop in chosen[: len(order)]:
        ours, reference = pairs[crop]
        said = f"at most {away[crop]:.3f} px apart" if away[crop] >= 0.0005 else "less than 0.001 px apart"
        if len(ours) != len(reference):
            said = f"finds {len(ours)} of {len(reference)}, {said}"
        image = _picture(golden.crops[crop], spec.input)
        poses = [_pose(one, spec.keypoint_count) for one in ours]
        pictures.append(
            Picture(
                kind,
                f"golden crop {crop + 1}",
                said,
                "original network",
                _encoded(_fitted(overlay(image, poses, spec.skeleton))),
                _encoded(beside(image, ours, reference, spec.skeleton)),
            )
        )
    return pictures


def close_up(image: Image, pose: Pose, box: tuple[float, float, float, float], skeleton: SkeletonSpec) -> Image:
    """The surroundings of a box with the skeleton drawn, about `SIDE_PX` high or wide."""
    shown, (x0, y0) = _surroundings(image, box)
    corner = np.array([x0, y0], np.float32)
    shifted = replace(pose, keypoints=pose.keypoints - corner, box=pose.box - np.tile(corner, 2))
    return _fitted(overlay(shown, [shifted], skeleton))


def beside(image: Image, ours: Sequence[Marks], reference: Sequence[Marks], skeleton: SkeletonSpec) -> Image:
    """An image with both drawn on it, about `SIDE_PX` high or wide: ours as filled dots, the reference as rings."""
    factor = SIDE_PX / max(image.shape[:2])
    way = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    canvas = cv2.resize(image, None, fx=factor, fy=factor, interpolation=way)
    for one in reference:
        _draw(canvas, one, factor, skeleton, REFERENCE_BGR, radius=9, filled=False)  # type: ignore[arg-type]
    for one in ours:
        _draw(canvas, one, factor, skeleton, OURS_BGR, radius=5, filled=True)  # type: ignore[arg-type]
    return canvas  # type: ignore[return-value]


def _draw(
    canvas: Image,
    one: Marks,
    factor: float,
    skeleton: SkeletonSpec,
    colour: tuple[int, int, int],
    *,
    radius: int,
    filled: bool,
) -> None:
    """Each line has a dark edge, so that it shows on a bright picture, too."""
    shift = 4
    # OpenCV's pixel centres are at integers; it takes fixed-point coordinates with `shift` fractional bits
    fixed = np.round((one.points * factor - 0.5) * (1 << shift)).clip(-(1 << 30), 1 << 30).astype(int)
    points = fixed.tolist()
    for edge, more in (((0, 0, 0), 2), (colour, 0)):
        width = (2 if filled else 4) + more
        if not len(points):
            corners = np.round(one.box * factor).clip(-(1 << 14), 1 << 14).astype(int).tolist()
            cv2.rectangle(canvas, corners[:2], corners[2:], edge, width, cv2.LINE_AA)
        for a, b in skeleton.edges:
            if one.shown[a] and one.shown[b]:
                cv2.line(canvas, points[a], points[b], edge, width, cv2.LINE_AA, shift)
    for place, known in zip(points, one.shown, strict=True):
        if known:
            cv2.circle(canvas, place, radius << shift, (0, 0, 0), -1 if filled else 5, cv2.LINE_AA, shift)
            inner = radius - 1 if filled else radius
            cv2.circle(canvas, place, inner << shift, colour, -1 if filled else 3, cv2.LINE_AA, shift)


def _labelled(estimator: PoseEstimator, result: BenchResult, labels: Path) -> Iterator[Picture]:
    assert result.accuracy is not None
    folder = labels if is_folder(labels) else labels.parent
    spec = estimator.spec
    known = evaluation_labels(labels, spec.keypoint_count)
    kinds: tuple[tuple[Kind, tuple[ImageError, ...]], ...] = (
        ("worst", result.accuracy.worst),
        ("median", result.accuracy.median),
    )
    for kind, errors in kinds:
        for error in errors[:PER_KIND]:
            image = read_image(folder / error.image)
            pose = estimator(image, error.box if error.angle_deg is None else [*error.box, error.angle_deg])
            shown, corner = _surroundings(image, error.box)
            ours = Marks(
                pose.keypoints.astype(np.float64), np.ones(len(pose.keypoints), bool), pose.box[:4].astype(float)
            )
            reference = [_of_label(one, spec.keypoint_count) for one in _label_of(known, folder, error)]
            both = beside(shown, [_moved(ours, corner)], [_moved(one, corner) for one in reference], spec.skeleton)
            yield Picture(
                kind,
                error.image,
                f"{error.error_box_pct:.2f} % of the box",
                "labels",
                _encoded(close_up(image, pose, error.box, spec.skeleton)),
                _encoded(both),
            )


def _label_of(known: Sequence[LabelledImage], folder: Path, error: ImageError) -> list[LabelledImage]:
    """The label that an error is of: of its image, with the box nearest to it; none if it is gone."""
    there = [one for one in known if Path(os.path.relpath(one.path, folder)).as_posix() == error.image]
    nearest = min(there, key=lambda one: float(np.abs(one.box - np.array(error.box)).sum()), default=None)
    return [] if nearest is None else [nearest]


def _of_label(one: LabelledImage, keypoints: int) -> Marks:
    if keypoints == 0:
        return Marks(np.empty((0, 2)), np.empty(0, bool), one.box)
    return Marks(one.keypoints.astype(np.float64), one.mask, one.box)


def _moved(one: Marks, corner: _Corner) -> Marks:
    return replace(one, points=one.points - corner, box=one.box - np.tile(corner, 2))


def _surroundings(image: Image, box: tuple[float, float, float, float]) -> tuple[Image, _Corner]:
    """A part of an image around a box, and its upper left corner in pixels of the image."""
    height, width = image.shape[:2]
    margin = MARGIN * max(box[2] - box[0], box[3] - box[1])
    x0, y0 = (int(max(0, low - margin)) for low in box[:2])
    x1, y1 = (int(min(size, high + margin) + 1) for size, high in zip((width, height), box[2:], strict=True))
    return image[y0:y1, x0:x1], (float(x0), float(y0))


def _marks(decoded: Decoded, crop: int) -> list[Marks]:
    """Who is in a crop: one, or of a network that finds people as many as it finds."""
    people = decoded.people
    rows = [crop] if people is None else np.flatnonzero(people.crops == crop).tolist()
    boxes: FloatArray = np.zeros((len(decoded.keypoints), 4), np.float32) if people is None else people.boxes
    return [
        Marks(
            decoded.keypoints[row].astype(np.float64),
            np.ones(decoded.keypoints.shape[1], bool),
            boxes[row].astype(np.float64),
        )
        for row in rows
    ]


def _apart_px(ours: Sequence[Marks], reference: Sequence[Marks]) -> float:
    """How far the furthest keypoint of the reference lies from ours, pixels; of several people from the nearest's."""
    if not ours:
        return 0.0
    return max(
        min(float(np.linalg.norm(one.places - other.places, axis=1).max()) for other in ours) for one in reference
    )


def _pose(one: Marks, keypoints: int) -> Pose:
    box_score = None if keypoints else 1.0  # a box is drawn where there is nothing else
    return Pose(
        one.points.astype(np.float32), np.ones(keypoints, np.float32), one.box.astype(np.float32), box_score=box_score
    )


def _picture(crop: NDArray[np.uint8], spec: InputSpec) -> Image:
    """A golden crop as OpenCV has pictures, BGR."""
    if spec.channels == 1:
        return np.repeat(crop, 3, 2)
    return crop if spec.picture_color == "bgr" else np.ascontiguousarray(crop[:, :, ::-1])


def _fitted(drawn: Image) -> Image:
    factor = SIDE_PX / max(drawn.shape[:2])
    if factor >= 1:
        return drawn
    return cv2.resize(drawn, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _encoded(image: Image) -> bytes:
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes())
