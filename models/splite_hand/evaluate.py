"""Accuracy of a bundle on labelled hands, through the public runtime.

    python models/splite_hand/evaluate.py hand.splite --data HAND_DIGITS [--backend ort]

Labels made by another network are that network's opinion; say so wherever the figures are quoted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.bench.metrics import box_side, keypoint_error, pa_mpjpe, pck
from splite_deploy.errors import SpliteError
from splite_deploy.labels import LabelledImage, read_labels
from splite_deploy.runtime import BACKENDS, PoseEstimator
from splite_deploy.runtime.images import read_image
from splite_deploy.runtime.preprocess import Image
from splite_deploy.spec import PRECISIONS

Estimate = Callable[[Image, NDArray[np.float64]], tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]]
"""(RGB image, xyxy box) to keypoints (K, 2) in image pixels and (K, 3) in any unit."""


@dataclass(frozen=True)
class Accuracy:
    """Figures over a labelled set.

    Attributes:
        images: Number of images.
        mean_error_box_pct: Mean keypoint error in percent of the longer side of the tight box of the labels.
        pck_05: Share of keypoints within 5 % of that side.
        pa_mpjpe_mm: Mean per-keypoint 3D error after a similarity alignment of each hand, millimetres.
    """

    images: int
    mean_error_box_pct: float
    pck_05: float
    pa_mpjpe_mm: float

    def __str__(self) -> str:
        return (
            f"{self.images} images: mean error {self.mean_error_box_pct:.2f} % of box, "
            f"PCK@0.05 {self.pck_05:.4f}, PA-MPJPE {self.pa_mpjpe_mm:.2f} mm"
        )


@dataclass(frozen=True)
class Errors:
    """Errors one by one.

    Attributes:
        box_share: (N, K) keypoint errors as a share of the longer side of the tight box.
        pa_mpjpe_mm: (N,) aligned 3D error of each image.
    """

    box_share: NDArray[np.float64]
    pa_mpjpe_mm: NDArray[np.float64]

    def summary(self) -> Accuracy:
        """The figures over all images."""
        return Accuracy(
            images=len(self.box_share),
            mean_error_box_pct=100 * float(self.box_share.mean()),
            pck_05=pck(self.box_share, 0.05),
            pa_mpjpe_mm=float(self.pa_mpjpe_mm.mean()),
        )


def measure(labels: Sequence[LabelledImage], estimate: Estimate) -> Errors:
    """Runs ``estimate`` on every labelled image, in the box of its label."""
    found, found_3d = [], []
    for labelled in labels:
        image = cv2.cvtColor(read_image(labelled.path), cv2.COLOR_BGR2RGB)
        keypoints, keypoints_3d = estimate(image, labelled.box)  # type: ignore[arg-type]
        found.append(keypoints)
        found_3d.append(keypoints_3d)
    truth = np.stack([labelled.keypoints for labelled in labels])
    world = np.stack([labelled.world_mm for labelled in labels if labelled.world_mm is not None])
    share = keypoint_error(np.stack(found), truth) / box_side(truth)[:, None]
    return Errors(share, pa_mpjpe(np.stack(found_3d), world))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="NAME.splite")
    parser.add_argument("--data", type=Path, required=True, help="labels.json, or its folder")
    parser.add_argument("--split", default="val", help="which samples (default: val)")
    parser.add_argument("--backend", default="auto", choices=["auto", *BACKENDS])
    parser.add_argument("--precision", choices=PRECISIONS)
    parser.add_argument("--worst", type=int, default=5, help="how many of the worst images to list")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    try:
        labels = read_labels(options.data, split=options.split)
        with PoseEstimator.open(options.bundle, options.backend, options.precision, color="rgb") as estimator:

            def estimate(image: Image, box: NDArray[np.float64]) -> tuple[Any, Any]:
                pose = estimator(image, box)
                return pose.keypoints, pose.keypoints_3d

            errors = measure(labels, estimate)
            names = estimator.spec.skeleton.keypoint_names
    except SpliteError as err:
        sys.exit(f"error: {err}")
    accuracy = errors.summary()
    if options.json:
        print(json.dumps(asdict(accuracy)))
        return
    print(accuracy)
    means = 100 * errors.box_share.mean(axis=0)
    print("error by keypoint, % of box: " + ", ".join(f"{n} {m:.1f}" for n, m in zip(names, means, strict=True)))
    order = np.argsort(-errors.box_share.mean(axis=1))[: options.worst]
    worst = [f"{labels[i].path.name} {100 * errors.box_share[i].mean():.1f}" for i in order]
    print("worst images, % of box: " + ", ".join(worst))


if __name__ == "__main__":
    main()
