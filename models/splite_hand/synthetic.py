"""Synthetic photographs of articulated human hands, with exact keypoints.

A kinematic skeleton (adult bone lengths, joint limits) is posed at random, covered with round cones that are
blended into one signed distance field, sphere-traced, shaded as skin and composed over a random background.
Only numpy and OpenCV are needed. The modules `hand_*.py` of models/common do the drawing, in the order skeleton,
surface, shading, scene.

    python synthetic.py --sheet OUT.png --draw
    python synthetic.py --example OUT.png      (prints the hand's box: x0,y0,x1,y1 in pixels)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from hand_picture import DIGITS, KEYPOINT_NAMES, PARENTS, SyntheticHand, draw_skeleton, sheet
from hand_scene import composite, draw_background, occlude, photograph
from hand_shading import shade, skin_reflectance
from hand_skeleton import sample_shape, sample_skeleton
from hand_surface import SUPERSAMPLING, cover_skeleton, covered_region, in_camera, place_camera, trace

__all__ = ["DIGITS", "KEYPOINT_NAMES", "PARENTS", "SyntheticHand", "random_background", "render_hand", "samples"]

EXAMPLE_SEED = 115  # an open right hand, upright, its palm to the camera, before a plain wall


def random_background(rng: np.random.Generator, size_px: int) -> NDArray[np.uint8]:
    """A random background: wall, clutter or texture; (size_px, size_px, 3) uint8 RGB."""
    levels: NDArray[np.uint8] = np.round(np.clip(draw_background(rng, size_px), 0.0, 1.0) * 255).astype(np.uint8)
    return levels


def render_hand(
    rng: np.random.Generator, *, size_px: int = 160, background: NDArray[np.uint8] | None = None
) -> SyntheticHand:
    """Draws one hand: its shape, pose, view, skin, light and surroundings all come from `rng`.

    Args:
        rng: the only source of chance; the same state gives the same hand.
        size_px: side of the square picture, px, at least 16.
        background: (H, W, 3) uint8 RGB that replaces the random background; resized if it has another size.

    Returns:
        The picture with its labels.

    Raises:
        ValueError: if the size or the background's shape is out of range.
    """
    if size_px < 16:
        raise ValueError(f"size_px is {size_px}: a hand needs at least 16 pixels")
    if background is not None and (background.ndim != 3 or background.shape[2] != 3):
        raise ValueError(f"background has shape {background.shape}: expected (H, W, 3)")
    shape = sample_shape(rng)
    skeleton, sideways = sample_skeleton(rng, shape)
    left = bool(rng.random() < 0.5)
    view = place_camera(rng, skeleton.joints, sideways, left, size_px)
    cones = in_camera(cover_skeleton(rng, shape, skeleton), view)
    region = covered_region(cones, view, size_px)
    surface = trace(cones, view, region)
    px_per_mm = float(view.intrinsics[0, 0] / np.median(surface.point[:, 2])) * SUPERSAMPLING
    colour = shade(rng, surface, skin_reflectance(rng, surface, cones, view, shape.scale), px_per_mm)
    if background is None:
        picture = draw_background(rng, size_px)
    else:
        picture = cv2.resize(background, (size_px, size_px), interpolation=cv2.INTER_AREA) / 255.0
    picture, cover = composite(rng, picture, surface, colour, region)
    mask = cover > 0.5
    if rng.random() < 0.15:
        picture, hidden = occlude(rng, picture)
        mask &= ~hidden
    joints = view.to_camera(skeleton.joints)
    return SyntheticHand(
        image=photograph(rng, picture),
        keypoints=view.project(joints).astype(np.float32),
        keypoints_3d_mm=joints.astype(np.float32),
        intrinsics=view.intrinsics.astype(np.float64),
        handedness="left" if left else "right",
        mask=mask,
    )


def samples(count: int, seed: int = 0) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Yields `count` pairs of an RGB picture (160, 160, 3) uint8 and the hand's xyxy box (4,) float32, px.

    Hand i depends on the seed and i only, so that a longer run starts with the same hands.
    """
    for index in range(count):
        hand = render_hand(np.random.default_rng([seed, index]))
        yield hand.image, hand.box


def contact_sheet(count: int, seed: int, draw: bool, *, size_px: int = 160) -> NDArray[np.uint8]:
    """One RGB picture with `count` hands in rows of eight."""
    return sheet([render_hand(np.random.default_rng([seed, index]), size_px=size_px) for index in range(count)], draw)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Draw synthetic hands: many small ones, or a single large one.")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--sheet", type=Path, metavar="OUT.png", help="write many hands, in rows of eight, as one picture"
    )
    target.add_argument(
        "--example",
        type=Path,
        metavar="OUT.png",
        help="write one hand and print the box around its keypoints: x0,y0,x1,y1 in pixels",
    )
    parser.add_argument(
        "--seed",
        type=int,
        help="the same number draws the same hands "
        f"(default: 0 for a sheet; {EXAMPLE_SEED}, an open right hand, for the example)",
    )
    parser.add_argument(
        "--size",
        type=int,
        help="width and height of one hand's picture, in pixels (default: 160 in a sheet; 480 for the example)",
    )
    parser.add_argument("--count", type=int, help="how many hands the sheet shows (default: 32)")
    parser.add_argument("--draw", action="store_true", help="draw the bones and joints over the hands")
    return parser


def main() -> None:
    """Writes a sheet of hands, or one hand whose box it prints."""
    parser = _parser()
    options = parser.parse_args()
    if options.example and options.count is not None:
        parser.error("--count belongs to --sheet: an example is always one hand")
    count = 32 if options.count is None else options.count
    seed = options.seed if options.seed is not None else EXAMPLE_SEED if options.example else 0
    size_px = options.size if options.size is not None else 480 if options.example else 160
    if count < 1 or seed < 0 or size_px < 16:
        parser.error("--count has to be 1 or more, --seed 0 or more, --size 16 or more")
    path: Path = options.example or options.sheet
    box = None
    if options.example:
        hand = render_hand(np.random.default_rng([seed, 0]), size_px=size_px)
        picture, box = draw_skeleton(hand) if options.draw else hand.image, hand.box
    else:
        picture = contact_sheet(count, seed, options.draw, size_px=size_px)
    try:
        written = cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    except cv2.error:  # a name whose ending it does not know
        written = False
    if not written:
        parser.error(f"cannot write {path}: give a name that ends in .png, in a folder that exists")
    if box is not None:
        print(",".join(f"{value:.1f}" for value in box))


if __name__ == "__main__":
    main()
