"""Accuracy of keypoints on a labelled set, whatever finds them. Labels made by a network are that network's opinion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.bundle.report import Accuracy
from splite_deploy.errors import UsageError
from splite_deploy.metrics.accuracy import box_side, keypoint_error, pa_mpjpe, pck
from splite_deploy.metrics.labels import LabelledImage, prefer_split
from splite_deploy.runtime.io.images import read_image
from splite_deploy.runtime.preprocess import Image

Points = NDArray[np.floating[Any]]
Estimate = Callable[[Image, NDArray[np.float64]], tuple[Points, Points | None]]
"""(RGB image, xyxy box) to keypoints (K, 2) in image pixels and, if it has any, (K, 3) in any unit."""


@dataclass(frozen=True)
class Errors:
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


def measure(labels: Sequence[LabelledImage], estimate: Estimate) -> Errors:
    """Runs ``estimate`` on every labelled image, in the box of its label."""
    return measure_each(labels, {"": estimate})[""]


def measure_each(labels: Sequence[LabelledImage], estimates: Mapping[str, Estimate]) -> dict[str, Errors]:
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
        name: Errors(
            box_share=keypoint_error(np.stack(found[name]), truth) / box_side(truth)[:, None],
            pa_mpjpe_mm=pa_mpjpe(*map(np.stack, zip(*found_3d[name], strict=True))) if found_3d[name] else None,
        )
        for name in estimates
    }
