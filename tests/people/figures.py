"""Figures that a small network learns to find in two minutes: a body with a head, two hands and two feet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

NAMES = ("head", "left_hand", "right_hand", "left_foot", "right_foot")
COLOURS = ((235, 60, 60), (60, 200, 70), (60, 120, 240), (230, 200, 50), (190, 70, 210))
RESTING = np.array([[0.0, -0.42], [0.40, -0.12], [-0.40, -0.12], [0.22, 0.42], [-0.22, 0.42]])


@dataclass(frozen=True)
class Picture:
    """A rendered picture.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        keypoints: (P, 5, 2) of every figure, pixels.
        boxes: (P, 4) xyxy, pixels.
    """

    image: NDArray[np.uint8]
    keypoints: NDArray[np.float64]
    boxes: NDArray[np.float64]


def picture(seed: int, height: int = 96, width: int = 96, most: int = 4) -> Picture:
    """One picture with none to ``most`` figures that do not overlap much; the same for the same seed."""
    rng = np.random.default_rng([seed, height, width])
    small = rng.integers(40, 215, (3, 3, 3)).astype(np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(0, 5)):
        start, end = (rng.integers(0, (width, height)).tolist() for _ in range(2))
        cv2.line(image, start, end, rng.integers(0, 255, 3).tolist(), int(rng.integers(1, 4)), cv2.LINE_AA)
    found: list[NDArray[np.float64]] = []
    unit = min(height, width) / 96
    for _ in range(rng.integers(0, most + 1)):
        for _ in range(20):
            size = unit * rng.uniform(22, 46)
            centre = rng.uniform(0.55 * size, (width - 0.55 * size, height - 0.55 * size))
            sides = [(size + np.ptp(other, axis=0).max()) / 2 for other in found]
            gaps = [np.abs(centre - other.mean(axis=0)).max() for other in found]
            if all(gap > side - 2 * unit for gap, side in zip(gaps, sides, strict=True)):
                break
        else:
            break
        points = centre + size * (RESTING + rng.uniform(-0.08, 0.08, RESTING.shape))
        found.append(points)
        _draw(image, points, size)  # type: ignore[arg-type]
    noisy = np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)
    keypoints = np.array(found).reshape(-1, 5, 2)
    margin = 0.06 * np.ptp(keypoints, axis=1).max(axis=1, initial=0)[:, None]
    boxes = np.concatenate([keypoints.min(axis=1) - margin, keypoints.max(axis=1) + margin], axis=1)
    return Picture(noisy, keypoints, boxes)


def _draw(image: NDArray[np.uint8], points: NDArray[np.float64], size: float) -> None:
    """Draws a figure; OpenCV's pixel centres are at integers."""
    fixed = np.round((points - 0.5) * 16).astype(int)
    middle = np.round((points.mean(axis=0) - 0.5) * 16).astype(int).tolist()
    for point, colour in zip(fixed.tolist(), COLOURS, strict=True):
        cv2.line(image, middle, point, (250, 250, 250), max(1, round(size / 14)), cv2.LINE_AA, 4)
        cv2.circle(image, point, round(16 * size / 11), colour, -1, cv2.LINE_AA, 4)


def samples(count: int, seed: int = 0) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Pictures for comparisons, with the whole of each as its box."""
    for index in range(count):
        image = picture(100_000 * (seed + 1) + index, 120, 160).image
        yield image, np.array([0, 0, 160, 120], np.float32)
