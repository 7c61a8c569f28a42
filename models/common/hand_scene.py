"""What surrounds a hand in a photograph: background, cast shadow, things in front, and the camera's share."""

from __future__ import annotations

import cv2
import numpy as np
from hand_shading import SKIN_TONES, random_paint, smooth_noise
from hand_skeleton import Array
from hand_surface import Surface
from numpy.typing import NDArray


def _wall(rng: np.random.Generator, size_px: int) -> Array:
    """A plain wall: light grey as in most desk photographs or any colour, with a gradient and a vignette."""
    grey = rng.uniform(0.55, 0.92) * np.exp(rng.normal(0.0, 0.025, 3))
    base = grey if rng.random() < 0.75 else random_paint(rng)
    y, x = (np.mgrid[:size_px, :size_px] + 0.5) / size_px - 0.5
    angle = rng.uniform(0.0, 2.0 * np.pi)
    gradient = 1.0 + rng.uniform(0.0, 0.35) * (x * np.cos(angle) + y * np.sin(angle))
    cx, cy = rng.uniform(-0.2, 0.2, 2)
    vignette = 1.0 - rng.uniform(0.0, 0.9) * ((x - cx) ** 2 + (y - cy) ** 2)
    wall: Array = base * (gradient * vignette)[..., None] + 0.02 * smooth_noise(rng, size_px, size_px, 4, 3)
    return wall


def _clutter(rng: np.random.Generator, size_px: int) -> Array:
    """Random ellipses, polygons and lines, some of them skin-coloured, over a wall."""
    picture = np.ascontiguousarray(_wall(rng, size_px), dtype=np.float32)
    for _ in range(rng.integers(4, 18)):
        skin = SKIN_TONES[rng.integers(len(SKIN_TONES))]
        colour = tuple(float(v) for v in (skin if rng.random() < 0.25 else random_paint(rng)))
        points = rng.uniform(-0.1, 1.1, (rng.integers(3, 6), 2)) * size_px
        kind = rng.random()
        if kind < 0.4:
            axes = tuple(int(v) for v in rng.uniform(0.02, 0.3, 2) * size_px)
            centre = (int(points[0, 0]), int(points[0, 1]))
            cv2.ellipse(picture, centre, axes, rng.uniform(0.0, 180.0), 0.0, 360.0, colour, -1, cv2.LINE_AA)
        elif kind < 0.7:
            cv2.fillPoly(picture, [points.astype(np.int32)[:, None]], colour, cv2.LINE_AA)
        else:
            width = int(rng.integers(1, max(2, size_px // 10)))
            cv2.polylines(picture, [points.astype(np.int32)[:, None]], False, colour, width, cv2.LINE_AA)
    return cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 3.0))


def draw_background(rng: np.random.Generator, size_px: int) -> Array:
    """(size, size, 3) sRGB 0-1."""
    kind = rng.random()
    if kind < 0.55:
        return _wall(rng, size_px)
    if kind < 0.78:
        return _clutter(rng, size_px)
    picture = random_paint(rng) + np.zeros((size_px, size_px, 3))
    for cells in (2, 5, 12, 40):
        light, hue = rng.uniform(0.0, (0.2, 0.07))
        picture = (
            picture
            + light * smooth_noise(rng, size_px, size_px, cells)
            + hue * smooth_noise(rng, size_px, size_px, cells, 3)
        )
    return picture


def composite(
    rng: np.random.Generator,
    picture: Array,
    surface: Surface,
    colour: Array,
    region: tuple[int, int, int, int],
) -> tuple[Array, Array]:
    """Lays the shaded hand over the picture; returns the picture and the hand's coverage (H, W) 0-1."""
    x0, y0, x1, y1 = region
    layer = np.zeros((surface.grid[0] * surface.grid[1], 4), dtype=np.float32)
    layer[surface.pixel, :3], layer[surface.pixel, 3] = colour, 1.0
    layer = layer.reshape(*surface.grid, 4)
    small = cv2.resize(layer, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    cover = np.zeros(picture.shape[:2], dtype=np.float32)
    cover[y0:y1, x0:x1] = small[..., 3]
    if rng.random() < 0.35:  # the shadow that the hand throws on what is behind it
        x, y = rng.uniform(-0.12, 0.12, 2) * cover.shape[0]
        thrown = cv2.warpAffine(cover, np.array([[1.0, 0.0, x], [0.0, 1.0, y]]), cover.shape[::-1])
        thrown = cv2.GaussianBlur(thrown, (0, 0), rng.uniform(0.01, 0.05) * cover.shape[0])
        picture = picture * (1.0 - rng.uniform(0.1, 0.45) * thrown[..., None])
    picture = picture * (1.0 - cover[..., None])
    picture[y0:y1, x0:x1] += small[..., :3]
    return picture, cover


def occlude(rng: np.random.Generator, picture: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Covers a part of the picture with a bar, an ellipse or a polygon; returns it and where (H, W)."""
    size = picture.shape[0]
    stencil = np.zeros((size, size), dtype=np.uint8)
    centre = rng.uniform(0.2, 0.8, 2) * size
    kind = rng.random()
    if kind < 0.4:
        along = size * np.array([np.cos(angle := rng.uniform(0.0, np.pi)), np.sin(angle)])
        ends = [tuple(int(v) for v in centre + sign * 1.5 * along) for sign in (-1.0, 1.0)]
        cv2.line(stencil, ends[0], ends[1], (255,), int(size * rng.uniform(0.04, 0.15)))
    elif kind < 0.7:
        axes = tuple(int(v) for v in rng.uniform(0.05, 0.16, 2) * size)
        cv2.ellipse(stencil, (int(centre[0]), int(centre[1])), axes, rng.uniform(0.0, 180.0), 0.0, 360.0, (255,), -1)
    else:
        corners = centre + rng.uniform(-0.2, 0.2, (4, 2)) * size
        cv2.fillConvexPoly(stencil, cv2.convexHull(corners.astype(np.int32)), (255,))
    texture = random_paint(rng) + rng.uniform(0.0, 0.15) * smooth_noise(rng, size, size, 6, 3)
    hidden = stencil > 0
    soft = cv2.GaussianBlur(stencil.astype(np.float32) / 255.0, (0, 0), 0.7)[..., None]
    return picture * (1.0 - soft) + soft * texture, hidden


def photograph(rng: np.random.Generator, picture: Array) -> NDArray[np.uint8]:
    """The camera's share: slight blur, exposure curve and sensor noise."""
    picture = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), rng.uniform(0.35, 1.0))
    picture = np.clip(picture, 0.0, 1.0) ** rng.uniform(0.85, 1.2)
    noise = rng.standard_normal(picture.shape, dtype=np.float32) * rng.uniform(0.0, 0.025)
    levels: NDArray[np.uint8] = (np.clip(picture + noise, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return levels
