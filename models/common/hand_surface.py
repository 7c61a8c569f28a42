"""The surface of a hand: round cones blended into one signed distance field, seen by a camera and sphere-traced."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from hand_skeleton import RADII_MM, Array, Shape, Skeleton, axis_rotation, normalize
from numpy.typing import NDArray

PALM_BLEND_MM = 5.0  # softness of the union inside the palm and of the palm with the forearm
FINGER_BLEND_MM = 1.4  # between fingers and with the palm: small, so that touching fingers stay apart
SUPERSAMPLING = 1.5
PALM_PART, FOREARM_PART, FINGER_PART = 0, 1, 2


@dataclass(frozen=True)
class Cones:
    """P round cones: ends (P, 3), radii (P,), palmar direction (P, 3), part, bone of its digit (-1: none)."""

    start: Array
    end: Array
    start_radius: Array
    end_radius: Array
    palmar: Array
    part: NDArray[np.int64]
    bone: NDArray[np.int64]


def cover_skeleton(rng: np.random.Generator, shape: Shape, skeleton: Skeleton) -> Cones:
    """Round cones of a right hand and its forearm in the hand frame."""
    s, joints = shape.scale, skeleton.joints
    girth = float(shape.radii[1, 0] / RADII_MM[1, 0])
    digits = joints[1:].reshape(5, 4, 3)
    rows: list[tuple[Array, Array, float, float, Array, int, int]] = []
    palmar = np.array([0.0, 0.0, 1.0])

    def add(start: Array, end: Array, radii: tuple[float, float], part: int = PALM_PART) -> None:
        rows.append((start, end, radii[0] * girth, radii[1] * girth, palmar, part, -1))

    for mcp in shape.mcp:
        add(np.array([0.5 * mcp[0], 12.0 * s, 1.0]), mcp + np.array([0.0, -1.0, 1.0]) * s, (10.4, 8.2))
    add(np.array([18.0, 80.0, 4.0]) * s, np.array([-26.0, 74.0, 5.0]) * s, (7.5, 7.5))
    add(np.array([8.0, 45.0, 1.0]) * s, np.array([-14.0, 42.0, 1.0]) * s, (9.5, 9.5))
    add(np.array([-19.0, 18.0, 5.0]) * s, shape.mcp[3] * 0.78 + palmar * 4.0, (12.5, 9.5))
    thumb = digits[0]
    add(np.array([14.0, 16.0, 6.0]) * s, thumb[0] + 0.6 * (thumb[1] - thumb[0]), (13.0, 11.5))
    add(thumb[0], thumb[1], (11.5, 9.0))
    for along, radius in ((0.45, 9.0), (0.75, 6.5)):
        add(thumb[0] + along * (thumb[1] - thumb[0]), shape.mcp[0] * (0.2 + 0.65 * along), (radius, radius))
    proximal = digits[1:, 1] - digits[1:, 0]
    for along, radius in ((0.12, 6.5), (0.36, 5.2)):  # the webs reach a third along the proximal bones
        roots = digits[1:, 0] + along * proximal
        for first, second in itertools.pairwise(roots):
            if np.linalg.norm(first - second) < 30.0 * s:
                add(first, second, (radius, radius))
    forearm = axis_rotation(0, rng.normal(0.0, 16.0)) @ axis_rotation(2, rng.normal(0.0, 9.0))
    for side in (-1.0, 1.0):
        wrist, elbow = np.array([11.0 * side, 4.0, 0.0]) * s, np.array([15.0 * side, -230.0, 0.0]) * s
        add(wrist, forearm @ elbow, (14.5, 23.0), FOREARM_PART)
    for digit in range(5):
        for bone in range(1 if digit == 0 else 0, 3):
            start, end = digits[digit][bone], digits[digit][bone + 1]
            if bone == 2:  # the pad ends some millimetres beyond the tip keypoint
                end = end - 2.0 * s * skeleton.frames[digit, bone, :, 1]
            radii = shape.radii[digit, bone : bone + 2]
            frame = skeleton.frames[digit, bone]
            rows.append((start, end, float(radii[0]), float(radii[1]), frame[:, 2], FINGER_PART, bone))
    start, end, start_radius, end_radius, direction, part, bone_index = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    return Cones(start, end, start_radius, end_radius, direction, part, bone_index)


# --- camera ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """Camera: hand-to-camera rotation (mirrored for a left hand), translation (3,) mm, intrinsics (3, 3)."""

    rotation: Array
    translation: Array
    intrinsics: Array

    def to_camera(self, points: Array) -> Array:
        """Hand-frame points (..., 3) mm in the camera frame."""
        moved: Array = points @ self.rotation.T + self.translation
        return moved

    def project(self, points: Array) -> Array:
        """Pixel positions (..., 2) of camera-frame points."""
        homogeneous = points @ self.intrinsics.T
        pixels: Array = homogeneous[..., :2] / homogeneous[..., 2:]
        return pixels


def _random_orientation(rng: np.random.Generator, sideways: bool, left: bool, free_share: float) -> Array:
    """Hand-to-camera rotation: the palm to the camera and fingers up, but for a share that is seen from any side."""
    if rng.random() < free_share:
        quaternion = normalize(rng.normal(size=4))
        w, axis = quaternion[0], quaternion[1:]
        cross = np.array([[0.0, -axis[2], axis[1]], [axis[2], 0.0, -axis[0]], [-axis[1], axis[0], 0.0]])
        free: Array = np.eye(3) + 2.0 * w * cross + 2.0 * cross @ cross
        return free
    yaw = np.clip(rng.normal(0.0, 20.0), -40.0, 40.0)
    if sideways:  # mostly from the thumb's side
        yaw = rng.uniform(20.0, 100.0) * (-1.0 if left != (rng.random() < 0.2) else 1.0)
    pitch, roll = np.clip(rng.normal(0.0, 18.0, 2), -40.0, 40.0)
    facing = np.diag([1.0, -1.0, -1.0])
    upright: Array = axis_rotation(2, roll) @ axis_rotation(0, pitch) @ axis_rotation(1, yaw) @ facing
    return upright


def place_camera(
    rng: np.random.Generator, joints: Array, sideways: bool, left: bool, size_px: int, free_share: float = 0.25
) -> View:
    """A camera that sees the hand at 45-90 % of the image; the principal point is that of a crop."""
    rotation = _random_orientation(rng, sideways, left, free_share) @ np.diag([-1.0 if left else 1.0, 1.0, 1.0])
    centre = rotation @ joints.mean(axis=0)
    translation = np.array([0.0, 0.0, np.exp(rng.uniform(np.log(300.0), np.log(900.0)))]) - centre
    view = View(rotation, translation, np.eye(3))
    plane = view.project(view.to_camera(joints))
    low, high = plane.min(axis=0), plane.max(axis=0)
    fill = rng.triangular(0.45, 0.8, 0.9)
    focal = fill * size_px / float((high - low).max())
    extent = focal * (high - low)
    room = (size_px - extent) / 2.0 * 0.9 + (0.25 * extent if rng.random() < 0.06 else 0.0)
    principal = size_px / 2.0 + rng.uniform(-room, room) - focal * (low + high) / 2.0
    intrinsics = np.array([[focal, 0.0, principal[0]], [0.0, focal, principal[1]], [0.0, 0.0, 1.0]])
    return View(rotation, translation, intrinsics)


# --- tracing --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Surface:
    """What N rays hit, in the camera frame. `pixel` is the flat index in the (rows, columns) grid of rays.

    `palmar` is the blended palmar direction, `palm` the share of the palm and forearm in the blend, `cone`
    the nearest cone, `along` the position on its axis in mm and `across` the sideways offset from the axis.
    """

    grid: tuple[int, int]
    pixel: NDArray[np.intp]
    point: Array
    normal: Array
    palmar: Array
    palm: Array
    cone: NDArray[np.intp]
    along: Array
    across: Array


def in_camera(cones: Cones, view: View) -> Cones:
    """Cones in the camera frame; a forearm that comes towards the camera is cut before the lens."""
    start, end = view.to_camera(cones.start), view.to_camera(cones.end)
    nearest = 0.55 * start[:, 2]
    keep = np.clip((start[:, 2] - nearest) / np.maximum(start[:, 2] - end[:, 2], 1e-6), 0.0, 1.0)
    keep = np.where(end[:, 2] < nearest, keep, 1.0)
    end = start + keep[:, None] * (end - start)
    end_radius = cones.start_radius + keep * (cones.end_radius - cones.start_radius)
    palmar = cones.palmar @ view.rotation.T
    return Cones(start, end, cones.start_radius, end_radius, palmar, cones.part, cones.bone)


def covered_region(cones: Cones, view: View, size_px: int) -> tuple[int, int, int, int]:
    """Pixel box (x0, y0, x1, y1), inside the image, of everything that the cones may cover."""
    ends = np.concatenate([cones.start, cones.end])
    reach = view.intrinsics[0, 0] * np.concatenate([cones.start_radius, cones.end_radius]) / ends[:, 2] * 1.15 + 3.0
    centre = view.project(ends)
    low, high = (centre - reach[:, None]).min(axis=0), (centre + reach[:, None]).max(axis=0)
    x0, y0 = (int(v) for v in np.clip(np.floor(low), 0, size_px - 2))
    x1, y1 = (int(v) for v in np.clip(np.ceil(high), 2, size_px))
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def _candidates(cones: Cones, view: View, columns: Array, rows: Array) -> NDArray[np.bool_]:
    """(rows, columns, P) bool: which rays pass near which cone, from their outlines in the image."""
    near = np.zeros((len(rows), len(columns), len(cones.part)), dtype=bool)
    focal = view.intrinsics[0, 0]
    margin = np.where(cones.part == FINGER_PART, 2.5, 7.0)
    starts, ends = view.project(cones.start), view.project(cones.end)
    start_reach = 1.06 * focal * (cones.start_radius + margin) / cones.start[:, 2]
    end_reach = 1.06 * focal * (cones.end_radius + margin) / cones.end[:, 2]
    for i, (start, end, r0, r1) in enumerate(zip(starts, ends, start_reach, end_reach, strict=True)):
        low = np.minimum(start - r0, end - r1)
        high = np.maximum(start + r0, end + r1)
        c0, c1 = np.searchsorted(columns, [low[0], high[0]])
        y0, y1 = np.searchsorted(rows, [low[1], high[1]])
        axis = end - start
        dx, dy = columns[c0:c1] - start[0], (rows[y0:y1] - start[1])[:, None]
        along = np.clip((dx * axis[0] + dy * axis[1]) / max(float(axis @ axis), 1e-6), 0.0, 1.0)
        reach = r0 + (r1 - r0) * along
        near[y0:y1, c0:c1, i] = (dx - along * axis[0]) ** 2 + (dy - along * axis[1]) ** 2 < reach * reach
    return near


@dataclass(frozen=True)
class _Pairs:
    """M (ray, cone) pairs, sorted by ray, reduced to the scalars that a distance along the ray needs."""

    coefficients: NDArray[np.float32]  # (8, M)
    ray: NDArray[np.intp]

    @classmethod
    def build(cls, cones: Cones, rays: Array, ray: NDArray[np.intp], cone: NDArray[np.intp]) -> _Pairs:
        axis = cones.end - cones.start
        squared = np.maximum(np.sum(axis * axis, axis=1), 1e-6)
        finger = cones.part == FINGER_PART
        per_cone = np.stack(
            [
                np.sum(cones.start * axis, axis=1) / squared,
                np.sum(cones.start * cones.start, axis=1),
                squared,
                cones.start_radius,
                cones.end_radius - cones.start_radius,
                np.where(finger, -1.0 / FINGER_BLEND_MM, 1.0 / PALM_BLEND_MM),  # the sign tells the two groups apart
            ]
        )
        per_ray = np.stack([rays @ (axis / squared[:, None]).T, rays @ cones.start.T])[:, ray, cone]
        return cls(np.concatenate([per_ray, per_cone[:, cone]]).astype(np.float32), ray)

    def select(self, active: NDArray[np.bool_]) -> _Pairs:
        """The pairs of the active rays, renumbered."""
        keep = active[self.ray]
        number = np.cumsum(active) - 1
        return _Pairs(self.coefficients[:, keep], number[self.ray[keep]])

    def blend(self, distance: Array) -> tuple[Array, Array, Array]:
        """Smooth signed distance (N,) at (N,) mm along every ray; the pairs' weights and axis positions (M,).

        Two nested exponential unions: palm cones melt softly into one body, which joins the fingers sharply.
        """
        slope, toward, offset, square, length2, radius, taper, sharpness = self.coefficients
        t = distance[self.ray]
        raw = t * slope - offset
        along = np.clip(raw, 0.0, 1.0)
        gap2 = t * (t - 2.0 * toward) + square - length2 * along * (2.0 * raw - along)
        gap = np.sqrt(np.maximum(gap2, 0.0)) - radius - taper * along
        falloff = np.exp(-gap * np.abs(sharpness))
        palm = sharpness > 0.0
        first = np.flatnonzero(np.diff(self.ray, prepend=-1))
        palm_sum = np.add.reduceat(np.where(palm, falloff, 0.0), first)
        finger_sum = np.add.reduceat(np.where(palm, 0.0, falloff), first)
        ratio = PALM_BLEND_MM / FINGER_BLEND_MM
        total = np.maximum(finger_sum + palm_sum**ratio, 1e-30)
        palm_factor = np.maximum(palm_sum, 1e-12) ** (ratio - 1.0)
        weight = falloff * np.where(palm, palm_factor[self.ray], 1.0) / total[self.ray]
        return -FINGER_BLEND_MM * np.log(total), weight, raw


def _march(pairs: _Pairs, near: Array, far: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Sphere-traces N rays from `near`; returns the distances (N,) and which of them hit."""
    distance, hit = near.astype(np.float32), np.zeros(len(near), dtype=bool)
    alive = np.arange(len(near))
    for _ in range(16):
        travelled = distance[alive]
        for _ in range(3):
            gap = pairs.blend(travelled)[0]
            # A little further than is safe: grazing rays creep otherwise; what is missed is the thinnest rim.
            travelled = travelled + gap + np.where(gap > 0.1, np.minimum(0.7 * gap + 0.3, 1.7), 0.0)
        distance[alive] = travelled
        hit[alive] = gap < 0.25
        active = (gap > 0.1) & (travelled < far[alive])
        if not active.any():
            break
        alive, pairs = alive[active], pairs.select(active)
    return distance, hit


def trace(cones: Cones, view: View, region: tuple[int, int, int, int]) -> Surface:
    """Finds the first surface point of every ray of the region, at `SUPERSAMPLING` rays a pixel and axis."""
    x0, y0, x1, y1 = region
    grid = (round((y1 - y0) * SUPERSAMPLING), round((x1 - x0) * SUPERSAMPLING))
    rows = y0 + (np.arange(grid[0]) + 0.5) * (y1 - y0) / grid[0]
    columns = x0 + (np.arange(grid[1]) + 0.5) * (x1 - x0) / grid[1]
    flat, cone = np.divmod(np.flatnonzero(_candidates(cones, view, columns, rows)), len(cones.part))
    starts = np.diff(flat, prepend=-1) > 0
    pixel, ray = flat[starts], np.cumsum(starts) - 1
    k = view.intrinsics
    plane = np.stack([(columns[pixel % grid[1]] - k[0, 2]) / k[0, 0], (rows[pixel // grid[1]] - k[1, 2]) / k[1, 1]])
    rays = normalize(np.concatenate([plane, np.ones((1, len(pixel)))]).T)
    pairs = _Pairs.build(cones, rays, ray, cone)
    margin = PALM_BLEND_MM * 2.0
    close = np.minimum(cones.start[:, 2] - cones.start_radius, cones.end[:, 2] - cones.end_radius) - margin
    away = np.maximum(cones.start[:, 2] + cones.start_radius, cones.end[:, 2] + cones.end_radius) + margin
    first = np.flatnonzero(starts)
    near, far = np.minimum.reduceat(close[cone], first), np.maximum.reduceat(away[cone], first) / rays[:, 2]
    distance, hit = _march(pairs, near, far)
    seen = hit[ray]
    return _surface(cones, rays[hit], distance[hit], pairs.select(hit), cone[seen], grid, pixel[hit])


def _surface(
    cones: Cones,
    rays: Array,
    distance: Array,
    pairs: _Pairs,
    cone: NDArray[np.intp],
    grid: tuple[int, int],
    pixel: NDArray[np.intp],
) -> Surface:
    """Normals and skin coordinates at the hits, blended with the weights of the cones near them."""
    _, weight, raw = pairs.blend(distance)
    point = (rays * distance[:, None]).astype(np.float32)
    starts, axis, palmars = (part.astype(np.float32) for part in (cones.start, cones.end - cones.start, cones.palmar))
    offset = point[pairs.ray] - starts[cone] - np.clip(raw, 0.0, 1.0)[:, None] * axis[cone]
    first = np.flatnonzero(np.diff(pairs.ray, prepend=-1))
    normal = normalize(np.add.reduceat(weight[:, None] * normalize(offset), first))
    palmar = normalize(np.add.reduceat(weight[:, None] * palmars[cone], first))
    palm = np.add.reduceat(np.where(cones.part[cone] == FINGER_PART, 0.0, weight), first)
    peak = np.maximum.reduceat(weight, first)
    winners = np.flatnonzero(weight >= peak[pairs.ray])
    best = winners[np.flatnonzero(np.diff(pairs.ray[winners], prepend=-1))]
    length = np.linalg.norm(axis, axis=1)
    side = normalize(np.cross(axis, cones.palmar) + 1e-9)
    nearest = cone[best]
    across = np.sum(offset[best] * side[nearest], axis=1)
    return Surface(grid, pixel, point, normal, palmar, palm, nearest, raw[best] * length[nearest], across)
