"""Images for the tiny network: blurred noise, so that neighbouring pixels resemble each other."""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray


def samples(count: int, seed: int = 0) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """``count`` RGB images of 80 x 100 pixels with a box in each."""
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        image = cv2.GaussianBlur(rng.integers(0, 256, (80, 100, 3), np.uint8), (0, 0), 2)
        yield cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX), np.array([20, 10, 70, 74], np.float32)
