"""Rendered hands for SPLite Hand 2: from any side, in any pose, beside another hand, with a thing in it, in a sleeve.

The hand is that of `../splite_hand/synthetic.py`; here what surrounds it is traced by the same rays, and the nearest
surface of each ray is what the picture shows. Labels are those of one hand, of which at least half is to be seen.

    python models/splite_hand2/hand2_renders.py --sheet OUT.png --draw
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.metrics.turned_boxes import box_around

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from hand_picture import KEYPOINT_NAMES, SyntheticHand, sheet
from hand_scene import composite, draw_background, occlude, photograph
from hand_shading import random_paint, shade, skin_reflectance, smooth_noise
from hand_skeleton import Array, Shape, normalize, sample_shape, sample_skeleton
from hand_surface import (
    FINGER_PART,
    FOREARM_PART,
    SUPERSAMPLING,
    Cones,
    Surface,
    View,
    cover_skeleton,
    covered_region,
    in_camera,
    place_camera,
    trace,
)

TURN = (KEYPOINT_NAMES.index("wrist"), KEYPOINT_NAMES.index("middle_mcp"))
DIGITS_SHARE, FREE_SHARE = 0.3, 0.55
OTHER_HAND_SHARE, THING_SHARE, SLEEVE_SHARE, OCCLUDED_SHARE = 0.3, 0.25, 0.3, 0.1
LEAST_SEEN = 0.5
"""Of the rays that hit the hand alone."""
_NEAREST = 0.4
"""Nothing comes nearer to the camera than this share of the hand's distance."""

Region = tuple[int, int, int, int]
Layer = tuple[Surface, Array]
"""What rays hit, and its (N, 3) linear reflectance."""


def render_scene(rng: np.random.Generator, *, size_px: int = 160) -> SyntheticHand:
    """Draws one labelled hand and what is around it; all of it comes from ``rng``.

    Args:
        rng: The only source of chance; the same state gives the same picture.
        size_px: Side of the square picture, px.
    """
    shape = sample_shape(rng)
    skeleton, sideways = sample_skeleton(rng, shape, DIGITS_SHARE)
    left = bool(rng.random() < 0.5)
    view = place_camera(rng, skeleton.joints, sideways, left, size_px, FREE_SHARE)
    joints = view.to_camera(skeleton.joints)
    hand = in_camera(cover_skeleton(rng, shape, skeleton), view)
    parts: list[tuple[Cones, Shape | None, View]] = [(hand, shape, view)]
    if rng.random() < OTHER_HAND_SHARE:
        parts += _other_hand(rng, joints, view, left)
    if rng.random() < THING_SHARE:
        parts.append((_thing(rng, joints), None, view))
    if rng.random() < SLEEVE_SHARE:
        parts.append((_sleeve(rng, hand), None, view))
    region = _union([covered_region(cones, view, size_px) for cones, _, view in parts])
    layers = [_layer(rng, *part, region) for part in parts]
    surface, albedo, seen = _nearest(layers)
    if seen < LEAST_SEEN:
        surface, albedo = layers[0]
    px_per_mm = float(view.intrinsics[0, 0] / np.median(surface.point[:, 2])) * SUPERSAMPLING
    colour = shade(rng, surface, albedo, px_per_mm)
    picture, cover = composite(rng, draw_background(rng, size_px), surface, colour, region)
    mask = cover > 0.5
    if rng.random() < OCCLUDED_SHARE:
        picture, hidden = occlude(rng, picture)
        mask &= ~hidden
    return SyntheticHand(
        image=photograph(rng, picture),
        keypoints=view.project(joints).astype(np.float32),
        keypoints_3d_mm=joints.astype(np.float32),
        intrinsics=view.intrinsics.astype(np.float64),
        handedness="left" if left else "right",
        mask=mask,
    )


def _other_hand(
    rng: np.random.Generator, joints: Array, view: View, left: bool
) -> list[tuple[Cones, Shape | None, View]]:
    """A hand that touches the one with these (21, 3) joints, mostly of the other side; none where it hits the lens."""
    shape = sample_shape(rng)
    skeleton, sideways = sample_skeleton(rng, shape, DIGITS_SHARE)
    other_left = left if rng.random() < 0.15 else not left
    turned = place_camera(rng, skeleton.joints, sideways, other_left, 64, FREE_SHARE).rotation
    away = normalize(rng.normal(size=3) * (1.0, 1.0, 0.6))
    touched, touching = rng.integers(21, size=2)
    moved = joints[touched] + away * rng.uniform(12.0, 30.0) - turned @ skeleton.joints[touching]
    beside = View(turned, moved, view.intrinsics)
    if beside.to_camera(skeleton.joints)[:, 2].min() < _NEAREST * joints[:, 2].mean():
        return []
    return [(in_camera(cover_skeleton(rng, shape, skeleton), beside), shape, beside)]


def _thing(rng: np.random.Generator, joints: Array) -> Cones:
    """A pen, a stick, a ball or a bottle where the fingers of (21, 3) joints close."""
    tips = joints[[4, 8, 12]].mean(axis=0)
    centre = tips + rng.uniform(0.0, 0.7) * (joints[9] - tips) + rng.normal(0.0, 8.0, 3)
    radius, half = (
        (rng.uniform(3.0, 6.0), rng.uniform(40.0, 90.0)),
        (rng.uniform(10.0, 25.0), rng.uniform(25.0, 90.0)),
        (rng.uniform(15.0, 35.0), 0.5),
    )[rng.integers(3)]
    along = normalize(rng.normal(size=3))
    start, end = centre - half * along, centre + half * along
    nearest = _NEAREST * joints[:, 2].mean()
    start[2], end[2] = max(start[2], nearest), max(end[2], nearest)
    return _cones(start[None], end[None], radius, radius * rng.uniform(0.7, 1.1))


def _sleeve(rng: np.random.Generator, hand: Cones) -> Cones:
    """Cloth around the forearm of a hand, from somewhere behind the wrist on."""
    forearm = hand.part == FOREARM_PART
    start, end = hand.start[forearm], hand.end[forearm]
    length = np.linalg.norm(end - start, axis=1, keepdims=True)
    start = start + (end - start) * np.clip(rng.uniform(10.0, 110.0) / np.maximum(length, 1e-6), 0.0, 0.95)
    wide = rng.uniform(1.1, 1.7)
    return _cones(
        start, end, wide * float(hand.start_radius[forearm].max()), wide * float(hand.end_radius[forearm].max())
    )


def _cones(start: Array, end: Array, start_radius: float, end_radius: float) -> Cones:
    count = len(start)
    return Cones(
        start,
        end,
        np.full(count, start_radius),
        np.full(count, end_radius),
        np.tile([0.0, 0.0, -1.0], (count, 1)),
        np.full(count, FINGER_PART),
        np.full(count, -1),
    )


def _union(regions: list[Region]) -> Region:
    """The box that holds them all."""
    low, high = np.array(regions)[:, :2].min(axis=0), np.array(regions)[:, 2:].max(axis=0)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _layer(rng: np.random.Generator, cones: Cones, shape: Shape | None, view: View, region: Region) -> Layer:
    """What the rays of a region hit of one part: skin of a hand, paint or cloth of anything else."""
    surface = trace(cones, view, region)
    if shape is not None:
        return surface, skin_reflectance(rng, surface, cones, view, shape.scale)
    pattern = smooth_noise(rng, *surface.grid, int(rng.integers(3, 25)), 3).reshape(-1, 3)[surface.pixel]
    paint = np.clip(random_paint(rng), 0.02, 0.95) ** 2.2
    return surface, np.clip(paint * np.exp(rng.uniform(0.05, 0.8) * pattern), 0.005, 0.95)


def _nearest(layers: list[Layer]) -> tuple[Surface, Array, float]:
    """The nearest of all layers on each ray, and the share of the first one's rays that still hit it."""
    first = layers[0][0]
    depth = np.full(first.grid[0] * first.grid[1], np.inf)
    for surface, _ in layers:
        depth[surface.pixel] = np.minimum(depth[surface.pixel], surface.point[:, 2])
    kept = [surface.point[:, 2] <= depth[surface.pixel] for surface, _ in layers]
    joined = {
        field.name: np.concatenate([getattr(s, field.name)[keep] for (s, _), keep in zip(layers, kept, strict=True)])
        for field in fields(Surface)
        if field.name != "grid"
    }
    albedo = np.concatenate([colour[keep] for (_, colour), keep in zip(layers, kept, strict=True)])
    return Surface(grid=first.grid, **joined), albedo, float(kept[0].mean())


def samples(count: int, seed: int = 0) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float64]]]:
    """Yields `count` pairs of an RGB picture (160, 160, 3) uint8 and the hand's box (5,) in px, with its angle.

    Hand i depends on the seed and i only, so that a longer run starts with the same hands.
    """
    for index in range(count):
        hand = render_scene(np.random.default_rng([seed, index]))
        yield hand.image, box_around(hand.keypoints, TURN)


def main() -> None:
    """Writes a sheet of pictures."""
    parser = argparse.ArgumentParser(description="Draw hands with what may surround them, in rows of eight.")
    parser.add_argument("--sheet", type=Path, required=True, metavar="OUT.png")
    parser.add_argument("--seed", type=int, default=0, help="the same number draws the same pictures (default: 0)")
    parser.add_argument("--count", type=int, default=32, help="how many (default: 32)")
    parser.add_argument("--draw", action="store_true", help="draw the bones and joints over the hands")
    options = parser.parse_args()
    if options.count < 1 or options.seed < 0:
        parser.error("--count has to be 1 or more, --seed 0 or more")
    hands = [render_scene(np.random.default_rng([options.seed, index])) for index in range(options.count)]
    if not cv2.imwrite(str(options.sheet), cv2.cvtColor(sheet(hands, options.draw), cv2.COLOR_RGB2BGR)):
        parser.error(f"cannot write {options.sheet}: give a name that ends in .png, in a folder that exists")


if __name__ == "__main__":
    main()
