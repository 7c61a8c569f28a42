"""Accuracy on labelled images: of whatever finds keypoints, and of the very artifact that is timed.

Labels made by a network are that network's opinion.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.bench.flip_test import check_flip_test, flip_tested
from splite_deploy.bench.result import Angles, Evaluation, HandLabels, ImageError
from splite_deploy.bundle.report import Accuracy, BoxAccuracy
from splite_deploy.decoders import Decoder, PeopleDecoder
from splite_deploy.decoders.people import overlaps
from splite_deploy.errors import UsageError, naming
from splite_deploy.metrics.accuracy import (
    Scene,
    average_precision,
    bone_length,
    keypoint_error,
    mpjpe,
    oks,
    oks_outside,
    pa_mpjpe,
    pck,
    pck_auc,
)
from splite_deploy.metrics.coco import result_score
from splite_deploy.metrics.detections import MOST_BOXES, FoundBoxes, box_accuracy, pairs_of
from splite_deploy.metrics.labels import (
    LabelledImage,
    SceneBoxes,
    check_images,
    prefer_split,
    read_boxes,
    read_ignored,
    read_labels,
    read_scenes,
)
from splite_deploy.runtime.any_angle import at_any_angle
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.io.images import read_image
from splite_deploy.runtime.pose import Pose
from splite_deploy.runtime.preprocess import Image
from splite_deploy.spec.presets import COCO17, oks_sigmas

Points = NDArray[np.floating[Any]]
Estimate = Callable[[Image, NDArray[np.float64]], tuple[Points, Points | None]]
"""(RGB image, xyxy box) to keypoints (K, 2) in image pixels and, if it has any, (K, 3) in any unit."""
AUC_LIMIT = 0.2
"""Of the longer side of the tight box."""
LEAST_SCORE = 0.01
"""What a box needs to count in its average precision."""
SHOWN = 4
"""Images that are named as the worst, and around the median."""
AREA_OF_BOX = 0.53
"""Part of its box that a person covers, as mmpose takes it for data sets without outlines; COCO has outlines."""
_WHOLE_BODY = 133
_FOUND = 0.5
_EITHER = 0.5


@dataclass(frozen=True)
class KeypointErrors:
    """Errors one by one.

    Attributes:
        box_share: (N, K) keypoint errors as a share of `LabelledImage.side_px`; NaN where no keypoint is labelled.
        pa_mpjpe_mm: (M,) aligned 3D error of each image where label and estimate have three dimensions; None without.
    """

    box_share: NDArray[np.float64]
    pa_mpjpe_mm: NDArray[np.float64] | None

    @property
    def labelled(self) -> NDArray[np.float64]:
        """The errors of labelled keypoints, in one row."""
        errors: NDArray[np.float64] = self.box_share[np.isfinite(self.box_share)]
        return errors

    def summary(self, boxes: BoxAccuracy | None = None) -> Accuracy:
        """The figures over all images.

        Args:
            boxes: How well they were found, of a network that finds hands or people itself.
        """
        if not len(self.box_share):
            return Accuracy(0, None, None, None, boxes)
        return Accuracy(
            images=len(self.box_share),
            mean_error_box_pct=100 * float(np.nanmean(self.box_share)),
            pck_05=pck(self.labelled, 0.05),
            pa_mpjpe_mm=None if self.pa_mpjpe_mm is None else float(self.pa_mpjpe_mm.mean()),
            boxes=boxes,
        )


def evaluation_labels(path: Path, keypoint_count: int) -> list[LabelledImage]:
    """The labels to evaluate on: the split ``val`` of a labels file, or all of it where there is none.

    Of a detector without keypoints these are boxes: two corners stand for keypoints, and any labels will do.

    A body of 17 keypoints is evaluated on labels of whole bodies, too, which begin with the same: on those of whom one
    of the 17 is labelled.

    Raises:
        UsageError: The file is missing or malformed, or labels other keypoints than the model's.
    """
    if keypoint_count == 0:
        boxed, _ = prefer_split(read_boxes, path, "val")
        check_images((one.path for one in boxed), path)
        return [LabelledImage(one.path, one.box.reshape(2, 2), one.box, None) for one in boxed]
    labels, _ = prefer_split(read_labels, path, "val")
    labels = [_body(labelled, keypoint_count) for labelled in labels]
    counts = {len(labelled.keypoints) for labelled in labels} - {keypoint_count}
    if counts:
        raise UsageError(
            f"The labels of {path} have {min(counts)} keypoints, the model {keypoint_count}.",
            hint="Evaluate on labels of the model's own skeleton.",
        )
    labels = [labelled for labelled in labels if labelled.mask.any()]
    if not labels:
        raise UsageError(
            f"{path} labels none of the {keypoint_count} keypoints of the model.",
            hint="Evaluate on labels of the model's own skeleton.",
        )
    check_images((labelled.path for labelled in labels), path)
    return labels


def ignored_labels(path: Path, keypoint_count: int) -> list[LabelledImage]:
    """Whom nobody has to find: crowds, and those of whom no keypoint of the model is labelled.

    Raises:
        UsageError: See `evaluation_labels`.
    """
    if keypoint_count == 0:
        return []
    labels, _ = prefer_split(read_labels, path, "val")
    bodies = [_body(labelled, keypoint_count) for labelled in labels]
    ignored = [_body(labelled, keypoint_count) for labelled in read_ignored(path)]
    return [*ignored, *(one for one in bodies if not one.mask.any())]


def evaluation_scenes(path: Path) -> dict[Path, SceneBoxes]:
    """All pictures to evaluate a detector on with their boxes: of the split ``val``, or all where there is none.

    Raises:
        UsageError: See `evaluation_labels`.
    """
    try:
        scenes = read_scenes(path, split="val")
    except UsageError:
        scenes = read_scenes(path)
    check_images(scenes, path)
    return scenes


def _body(labelled: LabelledImage, keypoint_count: int) -> LabelledImage:
    if (len(labelled.keypoints), keypoint_count) != (_WHOLE_BODY, len(COCO17.keypoint_names)):
        return labelled
    mask = labelled.mask[:keypoint_count]
    return replace(labelled, keypoints=labelled.keypoints[:keypoint_count], labelled=mask)


def estimate_of(estimator: Callable[[Image, NDArray[np.float64]], Pose]) -> Estimate:
    """What `keypoint_errors` runs, of what gives poses: a `PoseEstimator` for RGB images, or its `at_any_angle`."""

    def estimate(image: Image, box: NDArray[np.float64]) -> tuple[Points, Points | None]:
        pose = estimator(image, box)
        return pose.keypoints, pose.keypoints_3d

    return estimate


def keypoint_errors(labels: Sequence[LabelledImage], estimate: Estimate) -> KeypointErrors:
    """Runs ``estimate`` on every labelled image, in the box of its label."""
    return errors_of_each(labels, {"": estimate})[""]


def errors_of_each(labels: Sequence[LabelledImage], estimates: Mapping[str, Estimate]) -> dict[str, KeypointErrors]:
    """The same for several, which share the reading of the images.

    Raises:
        UsageError: An image cannot be read.
    """
    found: dict[str, list[tuple[Points, Points | None]]] = {name: [] for name in estimates}
    for labelled, image in _images(labels):
        with naming(labelled.path):
            for name, estimate in estimates.items():
                found[name].append(estimate(image, labelled.box))
    return {name: _errors(labels, *zip(*points, strict=True)) for name, points in found.items()}


def _images(labels: Sequence[LabelledImage]) -> Iterator[tuple[LabelledImage, Image]]:
    """Each label with its image, RGB; that of several labels in turn is read once."""
    path, image = None, None
    for labelled in labels:
        if image is None or labelled.path != path:
            path, image = labelled.path, _read_rgb(labelled.path)
        yield labelled, image


def _read_rgb(path: Path) -> Image:
    return cv2.cvtColor(read_image(path), cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def _errors(
    labels: Sequence[LabelledImage], found: Sequence[Points], found_3d: Sequence[Points | None]
) -> KeypointErrors:
    if not labels:
        return KeypointErrors(np.empty((0, 0)), None)
    truth = np.stack([labelled.keypoints for labelled in labels])
    sides = np.array([labelled.side_px for labelled in labels])[:, None]
    mask = np.stack([labelled.mask for labelled in labels])
    pairs = [
        (points, labelled.world_mm)
        for points, labelled in zip(found_3d, labels, strict=True)
        if points is not None and labelled.world_mm is not None
    ]
    return KeypointErrors(
        box_share=np.where(mask, keypoint_error(np.stack(found), truth) / sides, np.nan),
        pa_mpjpe_mm=pa_mpjpe(*map(np.stack, zip(*pairs, strict=True))) if pairs else None,
    )


def evaluate(
    estimator: PoseEstimator,
    labels: Sequence[LabelledImage],
    labels_from: str,
    folder: Path,
    *,
    ignored: Sequence[LabelledImage] = (),
    scenes: Mapping[Path, SceneBoxes] | None = None,
    flip_test: bool = False,
    angles: Angles = "found",
    hands: HandLabels = "as-seen",
) -> Evaluation:
    """Runs an estimator for RGB images on every labelled image, in the box of its label.

    Of a network whose crops are turned a box needs an angle, which nobody has who is given a box alone: as there, the
    network finds it (`PoseEstimator.at_any_angle`). That of the label tells how good the network is where the angle is
    right.

    A network that finds people itself is given whole images. Its errors are those of the people whose box overlaps that
    of a label by half; the average precision counts those who were missed, and those who are not there.

    Args:
        estimator: Takes RGB.
        labels: Of its own skeleton.
        labels_from: Where they come from, for the report.
        folder: What the names of images are relative to.
        ignored: Objects of the same images that nobody has to find, see `ignored_labels`.
        scenes: All pictures of the labels with their boxes, see `evaluation_scenes`; a network that finds people itself
            looks into those without anybody, too.
        flip_test: Whether the mirrored crop is run, too; see `splite_deploy.bench.flip_test`.
        angles: Where the angles come from, of a network whose crops are turned.
        hands: Whose left and right the labels mean: of the picture ``as-seen``, or ``mirrored`` as of MediaPipe.

    Raises:
        UsageError: An image cannot be read, or a flip test was requested of a network that finds people.
        BackendError: The backend failed.
    """
    all_labels, turn = labels, estimator.spec.input.turn
    if flip_test:
        check_flip_test(estimator.spec)
    everybody: dict[Path, list[Pose]] = {}
    boxes: BoxAccuracy | None = None
    if estimator.finds_people:
        everybody, boxes = _detect(estimator, labels, scenes or {})
        pairs = _pairs(labels, everybody)
        labels_from += f", of which {len(pairs)} were found"
        labels, poses = [labelled for labelled, _ in pairs], [pose for _, pose in pairs]
    else:
        estimate: Callable[..., Pose] = flip_tested(estimator) if flip_test else estimator
        if angles != "labels":
            estimate = at_any_angle(estimate, estimator.spec.input)
        poses = []
        for labelled, image in _images(labels):
            with naming(labelled.path):
                poses.append(estimate(image, labelled.placed(turn) if angles == "labels" else labelled.box))
        for labelled, pose in zip(labels, poses, strict=True):
            everybody.setdefault(labelled.path, []).append(pose)
    errors = _errors(labels, [marks_of(pose) for pose in poses], [pose.keypoints_3d for pose in poses])
    summary, nobody = errors.summary(boxes), not poses
    sides = np.array([labelled.side_px for labelled in labels])
    of_image = np.empty(0) if nobody else np.nanmean(errors.box_share, axis=1)
    order = np.argsort(-of_image, kind="stable")
    middle = max(0, (len(order) - SHOWN) // 2)
    sigmas = oks_sigmas(estimator.spec.skeleton.keypoint_names)

    def shown(indices: NDArray[np.int_]) -> tuple[ImageError, ...]:
        return tuple(_image_error(labels[i], poses[i], 100 * float(of_image[i]), folder) for i in indices)

    return Evaluation(
        labels_from=labels_from + (" and their mirror images" if flip_test else ""),
        images=summary.images,
        epe_px=None if nobody else float(np.nanmean(errors.box_share * sides[:, None])),
        epe_box_pct=summary.mean_error_box_pct,
        pck_05=summary.pck_05,
        pck_auc=None if nobody else pck_auc(errors.labelled, AUC_LIMIT),
        mpjpe_mm=_mpjpe_mm([pose.keypoints_3d for pose in poses], labels, estimator.spec.decoder),
        pa_mpjpe_mm=summary.pa_mpjpe_mm,
        oks_ap=_oks_ap(everybody, all_labels, ignored, sigmas) if sigmas else None,
        worst=shown(order[:SHOWN]),
        median=shown(order[middle : middle + SHOWN]),
        angles=None if turn is None else angles,
        boxes=boxes,
        **_handedness(poses, labels, hands),
    )


def _detect(
    estimator: PoseEstimator, labels: Sequence[LabelledImage], scenes: Mapping[Path, SceneBoxes]
) -> tuple[dict[Path, list[Pose]], BoxAccuracy | None]:
    """Who is found in every picture of the labels, and how well boxes are, those of low scores among them.

    Boxes that are given are taken as they are given: what overlaps may share in them, and candidates below the
    threshold never do. Behind them come those that a lower threshold would add.
    """
    spec, decoder = estimator.spec, estimator.spec.decoder
    assert isinstance(decoder, PeopleDecoder)
    most = max(MOST_BOXES, decoder.max_people)
    thresholds = decoder.min_score, min(LEAST_SCORE, decoder.min_score)
    finders = [replace(spec, decoder=replace(decoder, min_score=least, max_people=most)) for least in thresholds]
    sure, anyone = (PoseEstimator(one, estimator.session, "rgb") for one in finders)
    everybody: dict[Path, list[Pose]] = {}
    found: list[FoundBoxes] = []
    for path in dict.fromkeys([*(one.path for one in labels), *scenes]):
        with naming(path):
            tensor, frames = estimator.prepare(_read_rgb(path), [None])
            outputs = estimator.session.run({estimator.session.inputs[0].name: tensor})
            everybody[path] = estimator.finish(estimator.decode(outputs), frames)
            above, poses = (one.finish(one.decode(outputs), frames) for one in (sure, anyone))
            poses = above + poses[len(above) :]
        if (scene := scenes.get(path)) is not None:
            boxes = np.reshape([pose.box for pose in poses], (-1, 4)).astype(np.float32)
            scores = np.array([pose.box_score for pose in poses], np.float32)
            found.append(FoundBoxes(boxes, scores, scene.labelled, scene.ignored, scene.crowds))
    return everybody, box_accuracy(found, decoder.min_score, decoder.max_people)


def people_accuracy(
    estimator: PoseEstimator, labels: Sequence[LabelledImage], scenes: Mapping[Path, SceneBoxes]
) -> Accuracy:
    """The figures of a network that finds hands or people itself, in short; see `evaluate`.

    Args:
        estimator: Takes RGB.
        labels: Of its own skeleton.
        scenes: All pictures of the labels with their boxes, see `evaluation_scenes`.

    Raises:
        UsageError: An image cannot be read.
        BackendError: The backend failed.
    """
    everybody, boxes = _detect(estimator, labels, scenes)
    pairs = _pairs(labels, everybody)
    found = [marks_of(pose) for _, pose in pairs], [pose.keypoints_3d for _, pose in pairs]
    return _errors([labelled for labelled, _ in pairs], *found).summary(boxes)


def marks_of(pose: Pose) -> Points:
    """What errors are measured at: keypoints, or of a detector without any two corners of the box."""
    return pose.keypoints if len(pose.keypoints) else pose.box.reshape(2, 2)


def _handedness(poses: Sequence[Pose], labels: Sequence[LabelledImage], hands: HandLabels) -> dict[str, Any]:
    """The share of hands that are called what their label calls them; nothing where nobody says which they are."""
    right = [
        (pose.handedness >= _EITHER) == (labelled.right == (hands == "as-seen"))
        for pose, labelled in zip(poses, labels, strict=True)
        if pose.handedness is not None and labelled.right is not None
    ]
    if not right:
        return {}
    share = sum(right) / len(right)
    return {"handedness": share, "handedness_hands": len(right), "handedness_labels": hands}


def _pairs(labels: Sequence[LabelledImage], people: Mapping[Path, Sequence[Pose]]) -> list[tuple[LabelledImage, Pose]]:
    """Labels with the people that were found there: the largest overlap of boxes first, each of both once."""
    of_image: dict[Path, list[LabelledImage]] = {}
    for labelled in labels:
        of_image.setdefault(labelled.path, []).append(labelled)
    pairs = []
    for path, here in of_image.items():
        poses = people[path]
        if not poses:
            continue
        boxes = (np.stack([one.box for one in group]).astype(np.float32) for group in (here, poses))
        pairs += [(here[row], poses[column]) for row, column in pairs_of(overlaps(*boxes), _FOUND)]
    return pairs


def _mpjpe_mm(points_3d: Sequence[Points | None], labels: Sequence[LabelledImage], decoder: Decoder) -> float | None:
    """A palm of the model is taken as long as that of the label, since no image tells how large a hand is."""
    pairs = [
        (points, labelled.world_mm)
        for points, labelled in zip(points_3d, labels, strict=True)
        if points is not None and labelled.world_mm is not None
    ]
    how = decoder.depth
    if how is None or not pairs:
        return None
    predicted, world = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    scale = np.ones(len(world)) if how.unit == "mm" else bone_length(world, how.scale_bones)
    return float(mpjpe(scale[:, None, None] * predicted, world, how.root_keypoint).mean())


def _oks_ap(
    found: Mapping[Path, Sequence[Pose]],
    labels: Sequence[LabelledImage],
    ignored: Sequence[LabelledImage],
    sigmas: Sequence[float],
) -> float:
    objects: dict[Path, list[tuple[LabelledImage, bool]]] = {path: [] for path in found}
    for group, is_ignored in ((labels, False), (ignored, True)):
        for one in group:
            if one.path in objects:
                objects[one.path].append((one, is_ignored))
    scenes = []
    for path, poses in found.items():
        predicted = np.stack([pose.keypoints for pose in poses]) if poses else np.empty((0, len(sigmas), 2))
        scene = Scene(
            similarity=_columns([_similarity(predicted, one, sigmas) for one, _ in objects[path]], len(poses)),
            scores=np.array([result_score(pose.scores, pose.box_score) for pose in poses]),
            ignored=np.array([is_ignored for _, is_ignored in objects[path]], bool),
            crowd=np.array([one.crowd for one, _ in objects[path]], bool),
        )
        scenes.append(scene)
    return average_precision(scenes)


def _columns(columns: Sequence[NDArray[np.float64]], rows: int) -> NDArray[np.float64]:
    return np.stack(columns, axis=1) if columns else np.empty((rows, 0))


def _similarity(predicted: Points, one: LabelledImage, sigmas: Sequence[float]) -> NDArray[np.float64]:
    width, height = (one.box[2:] - one.box[:2]).tolist()
    area = AREA_OF_BOX * width * height if one.area_px2 is None else one.area_px2
    if not one.mask.any():
        return oks_outside(predicted, one.box, area, sigmas)
    return oks(predicted, one.keypoints, np.full(len(predicted), area), sigmas, one.mask)


def _image_error(labelled: LabelledImage, pose: Pose, error_box_pct: float, folder: Path) -> ImageError:
    name = Path(os.path.relpath(labelled.path, folder))  # COCO's images lie beside the folder of the labels
    x0, y0, x1, y1 = map(float, labelled.box if pose.angle_deg is None else pose.box)
    return ImageError(name.as_posix(), (x0, y0, x1, y1), error_box_pct, pose.angle_deg)
