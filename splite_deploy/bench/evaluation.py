"""Accuracy on labelled images: of whatever finds keypoints, and of the very artifact that is timed.

Labels made by a network are that network's opinion.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.bench.flip_test import flip_tested
from splite_deploy.bench.result import Evaluation, ImageError
from splite_deploy.bundle.report import Accuracy
from splite_deploy.decoders import Decoder, SoftArgmaxDepth
from splite_deploy.errors import UsageError
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
from splite_deploy.metrics.labels import LabelledImage, prefer_split, read_labels
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.io.images import read_image
from splite_deploy.runtime.preprocess import Image
from splite_deploy.spec.presets import COCO17, oks_sigmas

Points = NDArray[np.floating[Any]]
Estimate = Callable[[Image, NDArray[np.float64]], tuple[Points, Points | None]]
"""(RGB image, xyxy box) to keypoints (K, 2) in image pixels and, if it has any, (K, 3) in any unit."""
AUC_LIMIT = 0.2
"""Of the longer side of the tight box."""
SHOWN = 4
"""Images that are named as the worst, and around the median."""
AREA_OF_BOX = 0.53
"""Part of its box that a person covers, as mmpose takes it for data sets without outlines; COCO has outlines."""
_WHOLE_BODY = 133


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

    def summary(self) -> Accuracy:
        """The figures over all images."""
        return Accuracy(
            images=len(self.box_share),
            mean_error_box_pct=100 * float(np.nanmean(self.box_share)),
            pck_05=pck(self.labelled, 0.05),
            pa_mpjpe_mm=None if self.pa_mpjpe_mm is None else float(self.pa_mpjpe_mm.mean()),
        )


def evaluation_labels(path: Path, keypoint_count: int) -> list[LabelledImage]:
    """The labels to evaluate on: the split ``val`` of a labels file, or all of it where there is none.

    A body of 17 keypoints is evaluated on labels of whole bodies, too, which begin with the same.

    Raises:
        UsageError: The file is missing or malformed, or labels other keypoints than the model's.
    """
    labels, _ = prefer_split(read_labels, path, "val")
    labels = [_body(labelled, keypoint_count) for labelled in labels]
    counts = {len(labelled.keypoints) for labelled in labels} - {keypoint_count}
    if counts:
        raise UsageError(
            f"The labels of {path} have {min(counts)} keypoints, the model {keypoint_count}.",
            hint="Evaluate on labels of the model's own skeleton.",
        )
    return labels


def _body(labelled: LabelledImage, keypoint_count: int) -> LabelledImage:
    if (len(labelled.keypoints), keypoint_count) != (_WHOLE_BODY, len(COCO17.keypoint_names)):
        return labelled
    mask = labelled.mask[:keypoint_count]
    return replace(labelled, keypoints=labelled.keypoints[:keypoint_count], labelled=mask)


def keypoint_errors(labels: Sequence[LabelledImage], estimate: Estimate) -> KeypointErrors:
    """Runs ``estimate`` on every labelled image, in the box of its label."""
    return errors_of_each(labels, {"": estimate})[""]


def errors_of_each(labels: Sequence[LabelledImage], estimates: Mapping[str, Estimate]) -> dict[str, KeypointErrors]:
    """The same for several, which share the reading of the images.

    Raises:
        UsageError: An image cannot be read.
    """
    found: dict[str, list[Points]] = {name: [] for name in estimates}
    found_3d: dict[str, list[tuple[Points, Points]]] = {name: [] for name in estimates}
    for labelled in labels:
        image: Image = cv2.cvtColor(read_image(labelled.path), cv2.COLOR_BGR2RGB)  # type: ignore[assignment]
        for name, estimate in estimates.items():
            keypoints, keypoints_3d = estimate(image, labelled.box)
            found[name].append(keypoints)
            if keypoints_3d is not None and labelled.world_mm is not None:
                found_3d[name].append((keypoints_3d, labelled.world_mm))
    truth = np.stack([labelled.keypoints for labelled in labels])
    sides = np.array([labelled.side_px for labelled in labels])[:, None]
    mask = np.stack([labelled.mask for labelled in labels])
    return {
        name: KeypointErrors(
            box_share=np.where(mask, keypoint_error(np.stack(found[name]), truth) / sides, np.nan),
            pa_mpjpe_mm=pa_mpjpe(*map(np.stack, zip(*found_3d[name], strict=True))) if found_3d[name] else None,
        )
        for name in estimates
    }


def evaluate(
    estimator: PoseEstimator,
    labels: Sequence[LabelledImage],
    labels_from: str,
    folder: Path,
    *,
    ignored: Sequence[LabelledImage] = (),
    flip_test: bool = False,
) -> Evaluation:
    """Runs an estimator for RGB images on every labelled image, in the box of its label.

    Args:
        estimator: Takes RGB.
        labels: Of its own skeleton.
        labels_from: Where they come from, for the report.
        folder: What the names of images are relative to.
        ignored: Objects of the same images that nobody has to find, see `splite_deploy.metrics.labels.read_ignored`.
        flip_test: Whether the mirrored crop is run, too; see `splite_deploy.bench.flip_test`.

    Raises:
        UsageError: An image cannot be read.
        BackendError: The backend failed.
    """
    found: list[Points] = []
    scores: list[float] = []
    points_3d: list[Points | None] = []
    estimate_pose = flip_tested(estimator) if flip_test else estimator

    def estimate(image: Image, box: NDArray[np.float64]) -> tuple[Points, Points | None]:
        pose = estimate_pose(image, box)
        found.append(pose.keypoints)
        scores.append(float(pose.scores.mean()))
        points_3d.append(pose.keypoints_3d)
        return pose.keypoints, pose.keypoints_3d

    errors = keypoint_errors(labels, estimate)
    summary = errors.summary()
    sides = np.array([labelled.side_px for labelled in labels])
    of_image = np.nanmean(errors.box_share, axis=1)
    order = np.argsort(-of_image, kind="stable")
    middle = max(0, (len(order) - SHOWN) // 2)
    sigmas = oks_sigmas(estimator.spec.skeleton.keypoint_names)

    def shown(indices: NDArray[np.int_]) -> tuple[ImageError, ...]:
        return tuple(_image_error(labels[i], 100 * float(of_image[i]), folder) for i in indices)

    return Evaluation(
        labels_from=labels_from + (" and their mirror images" if flip_test else ""),
        images=summary.images,
        epe_px=float(np.nanmean(errors.box_share * sides[:, None])),
        epe_box_pct=summary.mean_error_box_pct,
        pck_05=summary.pck_05,
        pck_auc=pck_auc(errors.labelled, AUC_LIMIT),
        mpjpe_mm=_mpjpe_mm(points_3d, labels, estimator.spec.decoder),
        pa_mpjpe_mm=summary.pa_mpjpe_mm,
        oks_ap=_oks_ap(found, scores, labels, ignored, sigmas) if sigmas else None,
        worst=shown(order[:SHOWN]),
        median=shown(order[middle : middle + SHOWN]),
    )


def _mpjpe_mm(points_3d: Sequence[Points | None], labels: Sequence[LabelledImage], decoder: Decoder) -> float | None:
    """A palm of the model is taken as long as that of the label, since no image tells how large a hand is."""
    pairs = [
        (points, labelled.world_mm)
        for points, labelled in zip(points_3d, labels, strict=True)
        if points is not None and labelled.world_mm is not None
    ]
    if not isinstance(decoder, SoftArgmaxDepth) or not pairs:
        return None
    predicted, world = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    scale = bone_length(world, decoder.scale_bones) if decoder.unit == "palm" else np.ones(len(world))
    return float(mpjpe(scale[:, None, None] * predicted, world, decoder.root_keypoint).mean())


def _oks_ap(
    found: Sequence[Points],
    scores: Sequence[float],
    labels: Sequence[LabelledImage],
    ignored: Sequence[LabelledImage],
    sigmas: Sequence[float],
) -> float:
    of_image: dict[Path, list[int]] = {}
    for index, labelled in enumerate(labels):
        of_image.setdefault(labelled.path, []).append(index)
    beside: dict[Path, list[LabelledImage]] = {}
    for one in ignored:
        beside.setdefault(one.path, []).append(one)
    scenes = []
    for path, indices in of_image.items():
        predicted = np.stack([found[index] for index in indices])
        objects = [*(labels[index] for index in indices), *beside.get(path, ())]
        columns = [_similarity(predicted, one, sigmas) for one in objects]
        no = [False] * len(indices)
        scene = Scene(
            similarity=np.stack(columns, axis=1),
            scores=np.array([scores[index] for index in indices]),
            ignored=np.array([*no, *(True for _ in beside.get(path, ()))]),
            crowd=np.array([*no, *(one.crowd for one in beside.get(path, ()))]),
        )
        scenes.append(scene)
    return average_precision(scenes)


def _similarity(predicted: Points, one: LabelledImage, sigmas: Sequence[float]) -> NDArray[np.float64]:
    width, height = (one.box[2:] - one.box[:2]).tolist()
    area = AREA_OF_BOX * width * height if one.area_px2 is None else one.area_px2
    if not one.mask.any():
        return oks_outside(predicted, one.box, area, sigmas)
    return oks(predicted, one.keypoints, np.full(len(predicted), area), sigmas, one.mask)


def _image_error(labelled: LabelledImage, error_box_pct: float, folder: Path) -> ImageError:
    name = Path(os.path.relpath(labelled.path, folder))  # COCO's images lie beside the folder of the labels
    x0, y0, x1, y1 = map(float, labelled.box)
    return ImageError(name.as_posix(), (x0, y0, x1, y1), error_box_pct)
