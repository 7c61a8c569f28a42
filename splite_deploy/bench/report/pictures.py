"""What a network found in the labelled images that a result names: those with the largest error and the median ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from splite_deploy.bench.result import BenchResult, ImageError
from splite_deploy.errors import UsageError
from splite_deploy.files import is_folder
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.io.draw import overlay
from splite_deploy.runtime.io.images import read_image
from splite_deploy.runtime.pose import Pose
from splite_deploy.runtime.preprocess import Image
from splite_deploy.spec import SkeletonSpec

PER_KIND = 2
SIDE_PX = 480
MARGIN = 0.3
"""What is shown around the box, as a share of its longer side."""
JPEG_QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """A labelled image with the keypoints that were found in it.

    Attributes:
        kind: ``worst`` or ``median``.
        error: Which image, and its error.
        jpeg: The picture around the box, at most `SIDE_PX` high and wide.
    """

    kind: str
    error: ImageError
    jpeg: bytes


def draw_pictures(result: BenchResult, target: Path, labels: Path, model: Path | None = None) -> list[Picture]:
    """Runs the measured artifact again on the images that its accuracy names, and draws what it finds.

    Args:
        result: A result with accuracy.
        target: The bundle, or the file without one, that was measured.
        labels: The labels file, or its folder, that it was evaluated on.
        model: The model spec of a file without a bundle; None is the one beside it.

    Raises:
        UsageError: The result has no accuracy, or an image is not there any more.
        BundleError: The bundle is damaged.
        BackendError: The backend cannot run it.
    """
    if result.accuracy is None:
        raise UsageError(f"The result of {result.label} has no accuracy.", hint="Measure it with --eval LABELS.")
    folder = labels if is_folder(labels) else labels.parent
    if result.bundle:
        opened = PoseEstimator.open(target, result.backend, result.precision, result.threads)
    else:
        opened = PoseEstimator.open_file(target, model, result.backend, result.threads)
    with opened as estimator:
        return list(_draw(estimator, result, folder))


def _draw(estimator: PoseEstimator, result: BenchResult, folder: Path) -> Iterator[Picture]:
    assert result.accuracy is not None
    for kind, errors in (("worst", result.accuracy.worst), ("median", result.accuracy.median)):
        for error in errors[:PER_KIND]:
            image = read_image(folder / error.image)
            pose = estimator(image, error.box if error.angle_deg is None else [*error.box, error.angle_deg])
            yield Picture(kind, error, _encoded(close_up(image, pose, error.box, estimator.spec.skeleton)))


def close_up(image: Image, pose: Pose, box: tuple[float, float, float, float], skeleton: SkeletonSpec) -> Image:
    """The surroundings of a box with the skeleton drawn, at most `SIDE_PX` high and wide."""
    height, width = image.shape[:2]
    margin = MARGIN * max(box[2] - box[0], box[3] - box[1])
    x0, y0 = (int(max(0, low - margin)) for low in box[:2])
    x1, y1 = (int(min(size, high + margin) + 1) for size, high in zip((width, height), box[2:], strict=True))
    corner = np.array([x0, y0], np.float32)
    shifted = replace(pose, keypoints=pose.keypoints - corner, box=pose.box - np.tile(corner, 2))
    drawn = overlay(image[y0:y1, x0:x1], [shifted], skeleton)
    factor = SIDE_PX / max(drawn.shape[:2])
    if factor >= 1:
        return drawn
    return cv2.resize(drawn, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _encoded(image: Image) -> bytes:
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes())
