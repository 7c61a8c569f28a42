"""Pictures of hands with exact labels, and how they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

DIGITS = ("thumb", "index", "middle", "ring", "little")
KEYPOINT_NAMES: tuple[str, ...] = (
    "wrist",
    *(f"thumb_{joint}" for joint in ("cmc", "mcp", "ip", "tip")),
    *(f"{digit}_{joint}" for digit in DIGITS[1:] for joint in ("mcp", "pip", "dip", "tip")),
)
PARENTS = (-1, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19)


@dataclass(frozen=True)
class SyntheticHand:
    """One rendered hand with its labels.

    Pixel coordinates are continuous with their origin at the top-left corner of the top-left pixel, so that
    pixel (i, j) has its centre at (i + .5, j + .5).

    Attributes:
        image: (H, W, 3) uint8 RGB.
        keypoints: (21, 2) float32, px, (x, y) in the order of `KEYPOINT_NAMES`; may lie outside the image.
        keypoints_3d_mm: (21, 3) float32, mm, camera frame (x right, y down, z away from the camera).
        intrinsics: (3, 3) float64 pinhole matrix that projects `keypoints_3d_mm` on `keypoints`.
        handedness: the anatomical side.
        mask: (H, W) bool, pixels that show the hand or its forearm.
    """

    image: NDArray[np.uint8]
    keypoints: NDArray[np.float32]
    keypoints_3d_mm: NDArray[np.float32]
    intrinsics: NDArray[np.float64]
    handedness: Literal["left", "right"]
    mask: NDArray[np.bool_]

    @property
    def box(self) -> NDArray[np.float32]:
        """(4,) float32, px: tight box (x0, y0, x1, y1) of the keypoints."""
        return np.concatenate([self.keypoints.min(axis=0), self.keypoints.max(axis=0)])


def draw_skeleton(hand: SyntheticHand) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB copy of the picture with the bones and joints drawn on it."""
    canvas = np.ascontiguousarray(hand.image)
    # OpenCV puts the pixel's centre at the integer, and takes fixed-point coordinates with `shift` bits.
    points = np.round((hand.keypoints - 0.5) * 16.0).astype(int)
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            cv2.line(canvas, points[parent].tolist(), points[joint].tolist(), (0, 220, 0), 1, cv2.LINE_AA, 4)
    for point in points:
        cv2.circle(canvas, point.tolist(), 24, (230, 0, 0), -1, cv2.LINE_AA, 4)
    return canvas


def sheet(hands: Sequence[SyntheticHand], draw: bool) -> NDArray[np.uint8]:
    """One RGB picture with all hands, of one size, in rows of eight; with their skeletons where ``draw``."""
    tiles = [draw_skeleton(hand) if draw else hand.image for hand in hands]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 8)
    return np.vstack([np.hstack(tiles[row : row + 8]) for row in range(0, len(tiles), 8)])
