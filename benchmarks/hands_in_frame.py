"""A frame with several boxes, for benchmarks of what several crops at once take."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

FRAME = 480, 640
SIDE_PX = 120


def frame_and_boxes(crops: int) -> tuple[Any, list[Any]]:
    """A frame, and boxes spread over it."""
    rng = np.random.default_rng(0)
    frame = cv2.GaussianBlur(rng.integers(0, 256, (*FRAME, 3), np.uint8), (9, 9), 0)
    corners = rng.integers(0, (FRAME[1] - SIDE_PX, FRAME[0] - SIDE_PX), (crops, 2))
    return frame, [np.array([x, y, x + SIDE_PX, y + SIDE_PX], float) for x, y in corners]
