"""Boxes that are turned: of networks that see hands or people upright, by ``rotate_by`` of the model spec.

A turned box is (5,): x0, y0, x1, y1 in pixels of the image, and an angle in degrees. The rectangle is turned about its
own centre, clockwise as one sees it (from x, to the right, to y, down); at angle 0 it is the box (4,) of four numbers.
The angle of a hand or a person is that of the line from the first keypoint of ``rotate_by`` to the second, from up: 0
points up, 90 right, 180 down, -90 left. In the crop of a box with that angle the line points up.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Turn = tuple[int, int]
"""Indices of two keypoints; the line from the first to the second points up in a crop."""
Points = NDArray[np.floating[Any]]
_LEAST_PX = 1e-3


def wrapped(angle_deg: float) -> float:
    """The same angle, over -180 and up to 180 degrees."""
    return 180.0 - (180.0 - angle_deg) % 360.0


def angle_of(keypoints: Points, turn: Turn) -> float | None:
    """The angle in degrees, over -180 and up to 180, of a hand or person.

    Args:
        keypoints: (K, 2) pixels; NaN where one is not known.
        turn: Which of them tell it.

    Returns:
        None where one of the two is not known, or they fall together.
    """
    dx, dy = (keypoints[turn[1]].astype(np.float64) - keypoints[turn[0]]).tolist()
    if not math.hypot(dx, dy) > _LEAST_PX:
        return None
    return wrapped(math.degrees(math.atan2(dx, -dy)))


def rotation(angle_deg: float) -> NDArray[np.float64]:
    """(2, 2), which turns columns (x, y) clockwise by an angle; those of multiples of 90 degrees are exact."""
    quarters, rest = divmod(angle_deg, 90.0)
    if rest == 0.0:
        cos, sin = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(quarters) % 4]
    else:
        cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    return np.array([[cos, -sin], [sin, cos]])


def turned_box(keypoints: Points, angle_deg: float, margin: float = 0.0) -> NDArray[np.float64]:
    """The box (5,) of an angle that just holds keypoints.

    Args:
        keypoints: (M, 2) pixels, at least one.
        angle_deg: In degrees.
        margin: By how much it grows on each side, as a share of its longer side.
    """
    turn = rotation(angle_deg)
    upright = keypoints.astype(np.float64) @ turn  # of rows: turned back
    low, high = upright.min(axis=0), upright.max(axis=0)
    centre, half = turn @ ((low + high) / 2), (high - low) / 2
    half = half + margin * 2 * half.max()
    return np.array([*(centre - half), *(centre + half), wrapped(angle_deg)])


def box_around(keypoints: Points, turn: Turn, otherwise_deg: float = 0.0, margin: float = 0.0) -> NDArray[np.float64]:
    """The box (5,) that just holds keypoints, of the angle that they tell.

    Args:
        keypoints: (K, 2) pixels, at least one known; NaN where one is not.
        turn: Which of them tell the angle.
        otherwise_deg: The angle where they do not.
        margin: See `turned_box`.
    """
    angle_deg = angle_of(keypoints, turn)
    known = keypoints[np.isfinite(keypoints).all(axis=1)]
    return turned_box(known, otherwise_deg if angle_deg is None else angle_deg, margin)


def box_at(box: NDArray[np.floating[Any]], angle_deg: float) -> NDArray[np.float64]:
    """The box (5,) of an angle about the middle of one (4,) that is not turned, around the same hand or person.

    The tight box of what is turned is not known. Of a box of width w and height h this has the width hypot(w cos a,
    h sin a) and the height hypot(w sin a, h cos a): exact at multiples of 90 degrees, and a square at 45.

    Args:
        box: (4,) xyxy.
        angle_deg: a, in degrees.
    """
    low, high = box[:2].astype(np.float64), box[2:4].astype(np.float64)
    share = np.abs(rotation(angle_deg))  # of width and height in either
    half = np.sqrt(share**2 @ ((high - low) / 2) ** 2)
    return np.array([*((low + high) / 2 - half), *((low + high) / 2 + half), wrapped(angle_deg)])


def corners_of(box: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """(4, 2) corners of a box (4,) or (5,), in pixels of the image: clockwise, from the one at its top left."""
    x0, y0, x1, y1, *angle = box.astype(np.float64).tolist()
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    if not angle:
        return corners
    centre = np.array([x0 + x1, y0 + y1]) / 2
    turned: NDArray[np.float64] = (corners - centre) @ rotation(angle[0]).T + centre
    return turned


def bounds_of(box: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The box (4,) that just holds a box (4,) or (5,), in pixels of the image."""
    corners = corners_of(box)
    bounds: NDArray[np.float64] = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    return bounds
