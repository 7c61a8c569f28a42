"""Accuracy on labelled images: of whatever finds keypoints, and of the very artifact that is timed.

Labels made by a network are that network's opinion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.bench.result import Evaluation, ImageError
from splite_deploy.bundle.report import Accuracy
from splite_deploy.decoders import Decoder, SoftArgmaxDepth
from splite_deploy.errors import UsageError
from splite_deploy.metrics.accuracy import (
    average_precision,
    bone_length,
    box_side,
    keypoint_error,
    mpjpe,
    oks,
    pa_mpjpe,
    pck,
    pck_auc,
)
from splite_deploy.metrics.labels import LabelledImage, prefer_split
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.io.images import read_image
from splite_deploy.runtime.preprocess import Image
from splite_deploy.spec.presets import COCO17

Points = NDArray[np.floating[Any]]
Estimate = Callable[[Image, NDArray[np.float64]], tuple[Points, Points | None]]
"""(RGB image, xyxy box) to keypoints (K, 2) in image pixels and, if it has any, (K, 3) in any unit."""
AUC_LIMIT = 0.2
"""Of the longer side of the tight box."""
SHOWN = 4
"""Images that are named as the worst, and around the median."""
AREA_OF_BOX = 0.53
"""Part of its box that a person covers, as mmpose takes it for data sets without outlines; COCO has outlines."""


@dataclass(frozen=True)
class KeypointErrors:
    """Errors one by one.

    Attributes:
        box_share: (N, K) keypoint errors as a share of the longer side of the tight box.
        pa_mpjpe_mm: (M,) aligned 3D error of each image where label and estimate have three dimensions; None without.
    """

    box_share: NDArray[np.float64]
    pa_mpjpe_mm: NDArray[np.float64] | None

    def summary(self) -> Accuracy:
        """The figures over all images."""
        return Accuracy(
            images=len(self.box_share),
            mean_error_box_pct=100 * float(self.box_share.mean()),
            pck_05=pck(self.box_share, 0.05),
            pa_mpjpe_mm=None if self.pa_mpjpe_mm is None else float(self.pa_mpjpe_mm.mean()),
        )


def evaluation_labels(path: Path, keypoint_count: int) -> list[LabelledImage]:
    """The labels to evaluate on: the split ``val`` of a labels file, or all of it where there is none.

    Raises:
        UsageError: The file is missing or malformed, or labels other keypoints than the model's.
    """
    labels, _ = prefer_split(path, "val")
    counts = {len(labelled.keypoints) for labelled in labels} - {keypoint_count}
    if counts:
        raise UsageError(
            f"The labels of {path} have {min(counts)} keypoints, the model {keypoint_count}.",
            hint="Evaluate on labels of the model's own skeleton.",
        )
    return labels


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
    return {
        name: KeypointErrors(
            box_share=keypoint_error(np.stack(found[name]), truth) / box_side(truth)[:, None],
            pa_mpjpe_mm=pa_mpjpe(*map(np.stack, zip(*found_3d[name], strict=True))) if found_3d[name] else None,
        )
        for name in estimates
    }


def evaluate(estimator: PoseEstimator, labels: Sequence[LabelledImage], labels_from: str, folder: Path) -> Evaluation:
    """Runs an estimator for RGB images on every labelled image, in the box of its label.

    Args:
        estimator: Takes RGB.
        labels: Of its own skeleton.
        labels_from: Where they come from, for the report.
        folder: What the names of images are relative to.

    Raises:
        UsageError: An image cannot be read.
        BackendError: The backend failed.
    """
    found: list[Points] = []
    scores: list[float] = []
    points_3d: list[Points | None] = []

    def estimate(image: Image, box: NDArray[np.float64]) -> tuple[Points, Points | None]:
        pose = estimator(image, box)
        found.append(pose.keypoints)
        scores.append(float(pose.scores.mean()))
        points_3d.append(pose.keypoints_3d)
        return pose.keypoints, pose.keypoints_3d

    errors = keypoint_errors(labels, estimate)
    summary = errors.summary()
    truth = np.stack([labelled.keypoints for labelled in labels])
    of_image = errors.box_share.mean(axis=1)
    order = np.argsort(-of_image, kind="stable")
    middle = max(0, (len(order) - SHOWN) // 2)
    names = estimator.spec.skeleton.keypoint_names

    def shown(indices: NDArray[np.int_]) -> tuple[ImageError, ...]:
        return tuple(_image_error(labels[i], 100 * float(of_image[i]), folder) for i in indices)

    return Evaluation(
        labels_from=labels_from,
        images=summary.images,
        epe_px=float((errors.box_share * box_side(truth)[:, None]).mean()),
        epe_box_pct=summary.mean_error_box_pct,
        pck_05=summary.pck_05,
        pck_auc=pck_auc(errors.box_share, AUC_LIMIT),
        mpjpe_mm=_mpjpe_mm(points_3d, labels, estimator.spec.decoder),
        pa_mpjpe_mm=summary.pa_mpjpe_mm,
        oks_ap=_oks_ap(np.stack(found), labels, np.array(scores)) if tuple(names) == COCO17.keypoint_names else None,
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


def _oks_ap(found: Points, labels: Sequence[LabelledImage], scores: NDArray[np.float64]) -> float:
    truth = np.stack([labelled.keypoints for labelled in labels])
    boxes = np.stack([labelled.box for labelled in labels])
    area = AREA_OF_BOX * (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return average_precision(oks(found, truth, area, COCO17.oks_sigmas), scores)


def _image_error(labelled: LabelledImage, error_box_pct: float, folder: Path) -> ImageError:
    name = labelled.path.relative_to(folder) if labelled.path.is_relative_to(folder) else Path(labelled.path.name)
    x0, y0, x1, y1 = map(float, labelled.box)
    return ImageError(name.as_posix(), (x0, y0, x1, y1), error_box_pct)
