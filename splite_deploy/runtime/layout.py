"""Channels first to channels last and back, by OpenCV: numpy's transposition takes three to ten times as long."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PLANES_FIRST = (0, 3, 1, 2)
"""NHWC to NCHW, as axes of a transposition."""
PIXELS_FIRST = (0, 2, 3, 1)
"""NCHW to NHWC."""


def to_pixels(planes: NDArray[Any], pixels: NDArray[Any]) -> None:
    """Copies (N, C, h, w) into (N, h, w, C) of the same type, both C-contiguous."""
    import cv2

    for source, target in zip(planes, pixels, strict=True):
        cv2.merge(tuple(source), target)


def to_planes(pixels: NDArray[Any]) -> NDArray[Any]:
    """(N, h, w, C), C-contiguous, as a new array (N, C, h, w)."""
    import cv2

    count, height, width, channels = pixels.shape
    planes = np.empty((count, channels, height, width), pixels.dtype)
    for source, target in zip(pixels, planes, strict=True):
        cv2.transpose(source.reshape(-1, channels), target.reshape(channels, -1))
    return planes
