"""Pictures for networks that were never trained: ellipses before a gradient, as sharp as photographs."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE_PX = 320


def samples(count: int, seed: int = 0) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """``count`` RGB images of 320 x 320 pixels with a box in each."""
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        top, bottom = rng.integers(0, 256, (2, 3))
        gradient = np.linspace(top, bottom, SIDE_PX)[:, None]
        image = np.repeat(gradient, SIDE_PX, axis=1).astype(np.uint8)
        for _ in range(rng.integers(6, 14)):
            centre, axes = rng.integers(0, SIDE_PX, 2).tolist(), rng.integers(8, 90, 2).tolist()
            colour = rng.integers(0, 256, 3).tolist()
            cv2.ellipse(image, (centre, axes, float(rng.uniform(0, 180))), colour, -1, cv2.LINE_AA)
        grain = rng.normal(0, 4, image.shape)
        low, high = rng.uniform(0, 60, 2), rng.uniform(260, 320, 2)
        yield np.clip(image + grain, 0, 255).astype(np.uint8), np.array([*low, *high], np.float32)
