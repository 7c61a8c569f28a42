"""The look of a body: skin, hair, a face, and clothes."""

from __future__ import annotations

import numpy as np
from body_skeleton import EYES_CM, FACE_CM, MOUTH_CM, Body
from body_surface import Covered, Region
from hand_shading import SKIN_TONES, random_paint, smooth_noise
from hand_skeleton import Array
from hand_surface import Surface, View

HAIR = np.array([(30, 22, 18), (70, 48, 32), (110, 74, 45), (190, 150, 95), (150, 60, 35), (165, 165, 168)]) / 255.0


def _between(rng: np.random.Generator, ramp: Array) -> Array:
    """A colour on a ramp of sRGB colours, as linear reflectance."""
    at = rng.uniform(0.0, len(ramp) - 1.001)
    low, part = int(at), at - int(at)
    mixed: Array = ((1.0 - part) * ramp[low] + part * ramp[low + 1]) ** 2.2
    return mixed


def _cloth(rng: np.random.Generator, body_points: Array, cloud: Array) -> Array:
    """(N, 3) linear reflectance of one piece of clothing: plain, striped or checked, with folds."""
    base, other = (np.clip(random_paint(rng), 0.03, 0.92) ** 2.2 for _ in range(2))
    kind = rng.random()
    mix = np.zeros(len(body_points))
    if kind < 0.3:
        axes = [rng.integers(0, 2)] if kind < 0.2 else [0, 1]
        for axis in axes:
            period, duty = rng.uniform(7.0, 26.0), rng.uniform(0.2, 0.6)
            mix = np.maximum(mix, (np.mod(body_points[:, axis] / period, 1.0) < duty).astype(float))
    elif kind < 0.4:
        mix = np.clip(0.5 + 2.0 * cloud, 0.0, 1.0)
    colour = base + mix[:, None] * (other - base)
    folds: Array = colour * np.exp(rng.uniform(0.05, 0.3) * cloud[:, None])
    return folds


def reflectance(rng: np.random.Generator, surface: Surface, covered: Covered, body: Body, view: View) -> Array:
    """(N, 3) linear reflectance of what the rays hit."""
    points = (surface.point - view.translation) @ view.rotation  # in the body frame
    region, length = covered.region[surface.cone], np.linalg.norm(covered.cones.end - covered.cones.start, axis=1)
    share = np.clip(surface.along / length[surface.cone], 0.0, 1.0)
    first, last = covered.reach[surface.cone].T
    along = first + share * (last - first)
    cloud = smooth_noise(rng, *surface.grid, 9).reshape(-1)[surface.pixel]
    fine = smooth_noise(rng, *surface.grid, 24).reshape(-1)[surface.pixel]
    skin = _between(rng, SKIN_TONES) * np.exp(rng.normal(0.0, [0.03, 0.03, 0.05]))
    colour = skin * np.exp(0.08 * cloud[:, None])
    shirt, trousers = (_cloth(rng, points @ body.trunk if top else points, cloud + 0.5 * fine) for top in (True, False))
    sleeve, leg = rng.choice([-1.0, 0.55, 1.0, 2.0, 2.0]), rng.choice([0.5, 1.0, 2.0, 2.0, 2.0])
    top = np.isin(region, (Region.TRUNK,)) | ((region == Region.UPPER_ARM) & (along < min(sleeve, 1.0) + 0.02))
    top |= (region == Region.FOREARM) & (along < sleeve - 1.0 - 0.08)
    hem = rng.uniform(-4.0, 20.0) * body.proportions.stature / 344.0
    waist = (points @ body.trunk[:, 1]) > hem
    belly = region == Region.PELVIS
    below = (region == Region.THIGH) & (along < min(leg, 1.0) + 0.02)
    below |= (region == Region.SHANK) & (along < leg - 1.0 - 0.05)
    colour[top | (belly & waist)] = shirt[top | (belly & waist)]
    lower = (belly & ~waist) | below
    colour[lower] = trousers[lower]
    if rng.random() < 0.93:
        colour[region == Region.FOOT] = np.clip(random_paint(rng), 0.03, 0.9) ** 2.2
    face = region == Region.HEAD
    colour[face] = _face(rng, (points[face] - body.head.centre) @ body.head.rotation / body.head.cm, colour[face])
    clipped: Array = np.clip(colour, 0.005, 0.95)
    return clipped


def _spot(points: Array, centre: Array, across: float, up: float) -> Array:
    """(N, 1) cover 0-1 of an ellipse on the front of the head, sizes in cm."""
    off = ((points[:, 0] - centre[0]) / across) ** 2 + ((points[:, 1] - centre[1]) / up) ** 2
    cover: Array = (np.clip(2.0 * (1.0 - off) + 0.3, 0.0, 1.0) * (points[:, 2] > 4.0))[:, None]
    return cover


def _face(rng: np.random.Generator, points: Array, skin: Array) -> Array:
    """(N, 3) reflectance of a head: hair, brows, eyes, mouth and perhaps a beard; points in cm of the head's frame."""
    colour, hair = skin.copy(), _between(rng, HAIR)
    x, y, z = points.T
    beard = rng.random() < 0.2
    if beard:
        shadow = (y < -2.6 - 0.2 * np.abs(x)) & (z > 0.0)
        colour[shadow] = 0.35 * colour[shadow] + 0.65 * hair
    lips = np.array([0.45, 0.12, 0.11]) * rng.uniform(0.5, 1.2)
    colour += 0.75 * _spot(points, MOUTH_CM, 2.6, rng.uniform(0.5, 1.1)) * (lips - colour)
    for brow in (FACE_CM[17:22].mean(axis=0), FACE_CM[22:27].mean(axis=0)):
        colour += 0.8 * _spot(points, brow, 2.4, 0.6) * (hair - colour)
    white, iris = np.array([0.75, 0.73, 0.7]), _between(rng, HAIR[:4]) * 0.6
    for eye in EYES_CM:
        colour += _spot(points, eye, 1.7, 0.85) * (white - colour)
        colour += _spot(points, eye, 0.85, 0.85) * (iris - colour)
    if rng.random() < 0.12:  # glasses
        for eye in EYES_CM:
            rim = np.clip(_spot(points, eye, 2.9, 2.3) - _spot(points, eye, 2.2, 1.6), 0.0, 1.0)
            colour += rim * (0.02 - colour)
    line = rng.uniform(4.2, 7.5) if rng.random() < 0.93 else 30.0  # bald above that
    locks = rng.uniform(-9.0, 0.5)
    covered = (y > line + 0.05 * x**2 - 0.35 * np.clip(5.0 - z, 0.0, 6.0)) | (
        (z < 1.5) & (y > locks) & (np.abs(x) < 9.0)
    )
    if line > 20.0:
        covered &= y < 2.5
    if rng.random() < 0.1:  # a hat or a cap
        covered, hair = covered | (y > 5.0), np.clip(random_paint(rng), 0.03, 0.9) ** 2.2
    ears = (np.abs(x) > 5.8) & (np.abs(y) < 2.5) & (np.abs(z) < 1.8) & (locks > -3.0)
    shown = covered & ~ears
    colour[shown] = hair
    return colour
