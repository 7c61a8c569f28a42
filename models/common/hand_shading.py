"""The look of a hand: skin, creases, nails and sleeve, and the light that falls on them."""

from __future__ import annotations

import cv2
import numpy as np
from hand_skeleton import Array, normalize
from hand_surface import FOREARM_PART, Cones, Surface, View
from numpy.typing import NDArray

# sRGB of the back of very light to very dark hands; their palms differ much less.
SKIN_TONES = np.array([(245, 214, 192), (222, 176, 142), (172, 122, 90), (108, 70, 50), (66, 43, 33)]) / 255.0
PALM_TONES = np.array([(246, 212, 192), (228, 182, 151), (188, 138, 108), (146, 104, 82), (120, 84, 70)]) / 255.0


def smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int, channels: int = 1) -> Array:
    """(height, width, channels) smooth noise in about -1..1 with `cells` bumps a side."""
    coarse = rng.uniform(-1.0, 1.0, (cells + 2, cells + 2, channels)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)


def random_paint(rng: np.random.Generator) -> Array:
    """(3,) sRGB 0-1 of a thing in a room: any lightness, seldom a pure colour."""
    return rng.uniform(0.05, 0.95) + rng.beta(1.0, 3.0) * rng.uniform(-0.6, 0.6, 3)


def _palm_lines(rng: np.random.Generator) -> NDArray[np.float32]:
    """(260, 200) strength 0-1 of the palm's lines, two pixels a mm, the wrist at column 100 and row 40."""
    canvas = np.zeros((260, 200), dtype=np.uint8)
    lines = (
        ((-38, 58), (-24, 66), (-6, 71), (8, 82)),  # heart
        ((26, 66), (12, 60), (-8, 50), (-26, 40)),  # head
        ((26, 66), (12, 56), (4, 42), (5, 26), (10, 12)),  # life
        ((-24, -3), (0, -1), (24, -3)),  # wrist
    )
    for line in lines:
        points = 2.0 * (np.array(line) + rng.normal(0.0, 2.0, (len(line), 2)) + (50, 20))
        spline = cv2.blur(cv2.resize(points.astype(np.float32), (2, 40)), (1, 13)).round().astype(np.int32)
        cv2.polylines(canvas, [spline[:, None]], False, (int(rng.integers(120, 255)),), 2, cv2.LINE_AA)
    return cv2.GaussianBlur(canvas, (0, 0), 1.4).astype(np.float32) / 255.0


def skin_reflectance(rng: np.random.Generator, surface: Surface, cones: Cones, view: View, scale: float) -> Array:
    """(N, 3) linear reflectance: tone, palm and back, redness, creases, palm lines, nails, sleeve."""
    tone = rng.uniform(0.0, len(SKIN_TONES) - 1.001)
    low, part = int(tone), tone - int(tone)
    jitter = np.exp(rng.normal(0.0, [0.03, 0.03, 0.05]))
    back, palm = ((1.0 - part) * ramp[low] + part * ramp[low + 1] for ramp in (SKIN_TONES, PALM_TONES))
    facing = np.sum(surface.normal * surface.palmar, axis=1)
    inner = np.clip(0.5 + 0.9 * facing, 0.0, 1.0)[:, None]
    colour = (inner * palm + (1.0 - inner) * back) ** 2.2 * jitter
    bone, length = cones.bone[surface.cone], np.linalg.norm(cones.end - cones.start, axis=1)[surface.cone]
    finger = bone >= 0
    to_joint = np.minimum(np.abs(surface.along), np.where(bone == 2, 1e3, np.abs(surface.along - length)))
    root = np.where(bone == 0, np.abs(surface.along - 0.42 * length), 1e3)
    fold = np.exp(-((np.minimum(to_joint, root) / (1.1 * scale)) ** 2)) * finger * np.clip(facing * 2.0, 0.0, 1.0)
    knuckle = np.exp(-((to_joint / (5.0 * scale)) ** 2)) * finger * np.clip(-facing * 1.5, 0.0, 1.0)
    pad = finger * (bone == 2) * np.clip(surface.along / length - 0.2, 0.0, 1.0)
    hand = (surface.point - view.translation) @ view.rotation / scale
    column, row = np.clip(2.0 * (hand[:, :2] + (50.0, 20.0)), 0.0, (199.0, 259.0)).astype(int).T
    lines = (
        _palm_lines(rng)[row, column]
        * np.clip(surface.palm * 2.0 - 1.0, 0.0, 1.0)
        * np.clip(facing * 2.0 - 0.6, 0.0, 1.0)
    )
    cloud = smooth_noise(rng, *surface.grid, 7).reshape(-1)[surface.pixel]
    red = rng.uniform(0.1, 0.5) * pad + rng.uniform(0.0, 0.35) * knuckle + 0.12 * cloud
    dark = rng.uniform(0.1, 0.4) * fold + rng.uniform(0.15, 0.5) * lines + rng.uniform(0.05, 0.25) * knuckle
    colour *= np.exp(red[:, None] * (0.1, -0.45, -0.4)) * (1.0 - dark[:, None] * (0.8, 1.0, 1.0))
    varnish = np.clip(random_paint(rng), 0.0, 1.0) if rng.random() < 0.12 else colour * (1.15, 1.0, 1.0) + 0.06
    colour += 0.85 * _nails(surface, cones, facing) * (varnish - colour)
    if rng.random() < 0.3:
        cloth = (cones.part[surface.cone] == FOREARM_PART) & (surface.along > rng.uniform(15.0, 90.0))
        colour[cloth] = np.clip(random_paint(rng), 0.02, 0.9) ** 2.2 * np.exp(0.25 * cloud[cloth, None])
    reflectance: Array = np.clip(colour, 0.005, 0.95)
    return reflectance


def _nails(surface: Surface, cones: Cones, facing: Array) -> Array:
    """(N, 1) cover 0-1 of the nails: an ellipse on the back of every last bone."""
    radius = cones.end_radius[surface.cone]
    length = np.linalg.norm(cones.end - cones.start, axis=1)[surface.cone]
    ellipse = ((surface.along - 0.85 * length) / (0.95 * radius)) ** 2 + (surface.across / (0.78 * radius)) ** 2
    cover = np.clip(2.5 * (1.0 - ellipse), 0.0, 1.0) * np.clip(-4.0 * facing - 0.6, 0.0, 1.0)
    last: Array = (cover * (cones.bone[surface.cone] == 2))[:, None]
    return last


def _occlusion(surface: Surface, depth: Array, light: Array, px_per_mm: float) -> tuple[Array, Array]:
    """(N,) ambient visibility and (N,) light visibility 0-1, both estimated from the depth map alone."""
    ambient = np.ones(surface.grid, dtype=np.float32)
    for reach_mm in (3.0, 9.0):
        hollow = depth - cv2.GaussianBlur(depth, (0, 0), reach_mm * px_per_mm)
        ambient *= 1.0 - 0.5 * np.clip(hollow / (1.8 * reach_mm), 0.0, 1.0)
    shadow: Array = np.zeros(surface.grid, dtype=np.float32)
    for step in (3.0, 6.0, 10.0, 15.0, 22.0, 30.0):
        x, y = -step * px_per_mm * light[:2]
        shift = np.array([[1.0, 0.0, x], [0.0, 1.0, y]])
        size = (surface.grid[1], surface.grid[0])
        other = cv2.warpAffine(depth, shift, size, borderMode=cv2.BORDER_CONSTANT, borderValue=(float(depth.max()),))
        behind = depth + step * light[2] - other
        shadow = np.maximum(shadow, np.clip((behind - 1.5) / 2.0, 0.0, 1.0) * (behind < 40.0))
    shadow = cv2.GaussianBlur(shadow, (0, 0), 1.2)
    return ambient.reshape(-1)[surface.pixel], 1.0 - shadow.reshape(-1)[surface.pixel]


def shade(rng: np.random.Generator, surface: Surface, albedo: Array, px_per_mm: float) -> Array:
    """(N, 3) sRGB 0-1 under one soft key light and ambient light from above."""
    light = normalize(np.array([rng.normal(0.0, 0.7), rng.normal(-0.5, 0.5), -rng.uniform(0.45, 1.3)]))
    depth = np.full(surface.grid, surface.point[:, 2].max() + 20.0, dtype=np.float32)
    depth.reshape(-1)[surface.pixel] = surface.point[:, 2]
    ambient, visible = _occlusion(surface, depth, light, px_per_mm)
    cosine = surface.normal @ light
    wrap = np.array([0.35, 0.2, 0.15])  # light that scatters under the skin leaks past the terminator, red most
    diffuse = np.clip((cosine[:, None] + wrap) / (1.0 + wrap), 0.0, None)
    share = rng.uniform(0.35, 0.75)
    tint = np.exp(rng.normal(0.0, [0.06, 0.02, 0.08]))
    sky = 0.85 - 0.25 * surface.normal[:, 1] - 0.15 * surface.normal[:, 2]
    hard = 1.0 - rng.uniform(0.4, 1.0) * (1.0 - visible)
    energy = 1.1 * share * tint * diffuse * hard[:, None] + ((1.0 - share) * ambient * sky)[:, None]
    halfway = normalize(light - normalize(surface.point))
    gloss = np.clip(np.sum(surface.normal * halfway, axis=1), 0.0, 1.0) ** rng.uniform(12.0, 40.0)
    colour = albedo * energy * (0.55 + 0.45 * ambient[:, None]) * rng.uniform(0.8, 1.35)
    colour = colour + (rng.uniform(0.0, 0.09) * gloss * visible)[:, None]
    srgb: Array = np.clip(colour, 0.0, 1.0) ** (1.0 / 2.2)
    return srgb
