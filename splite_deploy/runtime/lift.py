"""2D keypoints and relative depth (2.5D) to 3D keypoints. Pure numpy.

A *palm* is the root mean square length of the scale bones of `splite_deploy.decoders.Depth`. With a single scale bone
it is the length of that bone, and `absolute` is the formula of Iqbal et al. 2018 (arXiv 1804.09534, section 3.2); with
several bones the quadratic equations of the bones are summed, so that no single short or foreshortened bone decides the
distance.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders import Depth
from splite_deploy.errors import BackendError, UsageError

MIN_VISIBLE_SHARE = 0.05
"""Least share of the squared palm length that is taken to lie in the image plane: keeps the scale finite when the
predicted depths alone are longer than the palm."""
_LEAST_PX2 = 1e-6
SHORTEST_BONE_MM, LONGEST_BONE_MM = 0.1, 1e4
"""No palm or bone of a body is shorter or longer; at the end of float32 3D would not be finite."""
_LARGEST_CAMERA = 1e7


def in_palms(keypoints: FloatArray, depth: FloatArray, of: Depth) -> FloatArray | None:
    """Depths in pixels as depths in palms: the pixels of x and y measure the palm, with its depth.

    Args:
        keypoints: (K, 2) image pixels.
        depth: (K,) image pixels, at the scale of x and y.
        of: Scale bones.

    Returns:
        (K,) float32; None where the palm has no extent in the image.
    """
    bones = _differences(of.scale_bones, len(keypoints))
    flat, deep = np.dot(bones, keypoints), np.dot(bones, depth)
    across, along = _squares(flat), _squares(deep)
    if across < _LEAST_PX2:
        return None
    palm_px = math.sqrt((across + along) / len(bones))
    return (depth / palm_px).astype(np.float32)


def weak_perspective(keypoints: FloatArray, depth: FloatArray, of: Depth, palm: float) -> FloatArray | None:
    """Root-relative 3D with one scale for all keypoints, in the unit of ``depth``.

    A palm of length L satisfies sum |d_xy|^2 / s^2 + sum d_z^2 = n L^2 over its n bones, which gives the scale s in
    pixels per unit.

    Args:
        keypoints: (K, 2) image pixels.
        depth: (K,) relative to the root, in units.
        of: Root keypoint and scale bones.
        palm: Palm length L in units: 1 for ``palm``, millimetres for ``mm``.

    Returns:
        (K, 3) float32, x right, y down, z away from the camera, in units; None where the palm has no extent in the
        image, so that nothing tells the scale.
    """
    bones = _differences(of.scale_bones, len(keypoints))
    flat, deep = np.dot(bones, keypoints), np.dot(bones, depth)
    across, along = _squares(flat), _squares(deep)
    if across < _LEAST_PX2:
        return None
    total = len(bones) * palm**2
    scale = math.sqrt(across / max(total - along, MIN_VISIBLE_SHARE * total))
    root = of.root_keypoint
    points = np.empty((len(keypoints), 3), np.float32)
    np.divide(keypoints - keypoints[root], scale, out=points[:, :2])
    np.subtract(depth, depth[root], out=points[:, 2])
    return points


def absolute(
    keypoints: FloatArray, depth: FloatArray, of: Depth, intrinsics: ArrayLike, palm_mm: float
) -> FloatArray | None:
    """3D in camera coordinates, millimetres.

    Args:
        keypoints: (K, 2) image pixels.
        depth: (K,) relative to the root, in millimetres where that is the unit, else in palms.
        of: Root keypoint, unit and scale bones.
        intrinsics: (3, 3) camera matrix for pixel coordinates whose origin is the corner of the first pixel (add 0.5
            to cx and cy of an OpenCV calibration).
        palm_mm: Length of the person's palm in millimetres.

    Returns:
        (K, 3) float32, x right, y down, z away from the camera; None where the palm has no extent in the image, so
        that nothing tells the distance, or where the depths would put a keypoint behind the camera or into it.

    Raises:
        UsageError: The intrinsics or the length are unusable.
    """
    camera = checked_camera(intrinsics, palm_mm)
    rays = np.column_stack([keypoints, np.ones(len(keypoints))]).astype(np.float64) @ np.linalg.inv(camera).T
    z = np.asarray(depth, np.float64) / (palm_mm if of.unit == "mm" else 1.0)
    z = z - z[of.root_keypoint]
    first, second = _ends(of.scale_bones)
    # P_k = (Z + z_k) ray_k: the difference over a bone is Z * step + offset, whose squares sum to n palms squared.
    step = rays[first] - rays[second]
    offset = z[first, None] * rays[first] - z[second, None] * rays[second]
    a, b = np.square(step).sum(), 2 * (step * offset).sum()
    c = np.square(offset).sum() - len(first)
    if a < 1e-12:
        return None
    # A negative discriminant means depths longer than the palm allows; the vertex is then the closest distance.
    root = (-b + np.sqrt(max(b * b - 4 * a * c, 0.0))) / (2 * a)
    points: FloatArray = (palm_mm * (root + z)[:, None] * rays).astype(np.float32)
    return points if points[:, 2].min() > 0 else None


def _squares(bones: FloatArray) -> float:
    """The sum of the squares of differences, which overflow near the end of float32, and would make 3D all zero."""
    total = float(np.vdot(bones, bones))
    if not math.isfinite(total):
        raise BackendError(
            "The lengths of bones are not finite: the network gives keypoints or depths near the end of float32.",
            hint="Look at the network's weights: they are damaged, or its training diverged.",
        )
    return total


@lru_cache
def _ends(bones: tuple[tuple[int, int], ...]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of the first and of the second keypoint of every bone."""
    first, second = np.array(bones, np.intp).T
    return first, second


@lru_cache
def _differences(bones: tuple[tuple[int, int], ...], keypoints: int) -> FloatArray:
    """(B, K), by which K keypoints become the differences of the ends of B bones, exactly, and faster than by index."""
    matrix = np.zeros((len(bones), keypoints), np.float32)
    for bone, (first, second) in zip(matrix, bones, strict=True):
        bone[first], bone[second] = 1, -1
    return matrix


def checked_camera(intrinsics: ArrayLike, palm_mm: float) -> NDArray[np.float64]:
    """The (3, 3) camera matrix, where it and the length of the palm can be used; see `absolute`.

    Raises:
        UsageError: They cannot.
    """
    try:
        camera = np.asarray(intrinsics, np.float64)
    except (TypeError, ValueError):
        camera = np.empty(0)
    usable = (
        camera.shape == (3, 3) and (np.abs(camera) <= _LARGEST_CAMERA).all() and np.array_equal(camera[2], (0, 0, 1))
    )
    if not usable or abs(np.linalg.det(camera)) < 1e-12:
        raise UsageError(
            "The intrinsics are not an invertible (3, 3) camera matrix in pixels.",
            hint="Pass [[fx, 0, cx], [0, fy, cy], [0, 0, 1]].",
        )
    if not SHORTEST_BONE_MM <= palm_mm <= LONGEST_BONE_MM:
        raise UsageError(
            f"The bone length {palm_mm} mm does not lie between {SHORTEST_BONE_MM:g} and {LONGEST_BONE_MM:g} mm.",
            hint="Measure it in millimetres.",
        )
    return camera
