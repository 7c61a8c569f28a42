"""Rendered pictures of rooms with hands in them: any number, small and large, left and right, under one light.

The hands are those of `../splite_hand/synthetic.py`. They serve where pictures are needed that belong to nobody: to
compare conversions without a data set, and for the demo of the package. The training has photographs alone.

    python models/splite_palm/palm_renders.py --example OUT.jpg
    python models/splite_palm/palm_renders.py --sheet OUT.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from hand_scene import composite, draw_background, photograph
from hand_shading import random_paint, shade, skin_reflectance, smooth_noise
from hand_skeleton import Array, sample_shape, sample_skeleton
from hand_surface import SUPERSAMPLING, View, cover_skeleton, covered_region, in_camera, place_camera, trace

MOST_HANDS = 3
LEAST_SHARE, MOST_SHARE = 0.25, 0.75
"""Side of the square that a hand fills, of the picture's shorter side."""
SAMPLE_WIDTH_PX, SAMPLE_HEIGHT_PX = 320, 240
EXAMPLE_SEED, EXAMPLE_WIDTH_PX, EXAMPLE_HEIGHT_PX, EXAMPLE_QUALITY = 9, 960, 640, 85


@dataclass(frozen=True)
class Place:
    """Where a hand is to be.

    Attributes:
        x_px: Left side of the square that it fills.
        y_px: Upper side of it.
        side_px: Its side.
        left: Whether it is a left hand.
        free: Share of hands that are seen from any side; the others show their palm, fingers up.
    """

    x_px: float
    y_px: float
    side_px: int
    left: bool
    free: float


@dataclass(frozen=True)
class RenderedScene:
    """A picture with its labels.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        keypoints: (P, 21, 2) float32 px, of the hands from the farthest to the nearest; may lie outside.
    """

    image: NDArray[np.uint8]
    keypoints: NDArray[np.float32]

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(P, 4) px: tight boxes x0, y0, x1, y1 of the keypoints."""
        return np.concatenate([self.keypoints.min(axis=1), self.keypoints.max(axis=1)], axis=1)


def render_hands(rng: np.random.Generator, places: Sequence[Place], background: Array, height_px: int) -> RenderedScene:
    """Draws the hands of one person, each after the other over the background.

    Args:
        rng: The only source of chance.
        places: Of the hands.
        background: (S, S, 3) sRGB 0-1, S the picture's width.
        height_px: Of the picture, which is the upper part of the square; at most S.
    """
    person, light, width_px = (*rng.integers(1 << 31, size=2), len(background))
    picture, keypoints = background, []
    for place in places:
        shape = sample_shape(np.random.default_rng(person))
        skeleton, sideways = sample_skeleton(rng, shape)
        view = place_camera(rng, skeleton.joints, sideways, place.left, place.side_px, place.free)
        view = _moved(view, place.x_px, place.y_px)
        cones = in_camera(cover_skeleton(rng, shape, skeleton), view)
        region = covered_region(cones, view, width_px)
        surface = trace(cones, view, region)
        px_per_mm = float(view.intrinsics[0, 0] / np.median(surface.point[:, 2])) * SUPERSAMPLING
        albedo = skin_reflectance(np.random.default_rng(person), surface, cones, view, shape.scale)
        colour = shade(np.random.default_rng(light), surface, albedo, px_per_mm)
        picture, _ = composite(rng, picture, surface, colour, region)
        keypoints.append(view.project(view.to_camera(skeleton.joints)))
    image = photograph(rng, picture[:height_px])
    return RenderedScene(image, np.array(keypoints, np.float32).reshape(-1, 21, 2))


def _moved(view: View, x_px: float, y_px: float) -> View:
    """The same hand elsewhere in the picture."""
    intrinsics = view.intrinsics.copy()
    intrinsics[:2, 2] += x_px, y_px
    return View(view.rotation, view.translation, intrinsics)


def render_scene(rng: np.random.Generator, width_px: int, height_px: int) -> RenderedScene:
    """A picture with up to `MOST_HANDS` hands, or none; hands may hide each other."""
    places = []
    for _ in range(rng.choice(MOST_HANDS + 1, p=(0.1, 0.5, 0.3, 0.1))):
        side = int(height_px * np.exp(rng.uniform(np.log(LEAST_SHARE), np.log(MOST_SHARE))))
        x, y = rng.uniform(0.0, 1.0, 2) * (width_px - side, height_px - side)
        places.append(Place(x, y, side, left=bool(rng.random() < 0.5), free=0.5))
    places.sort(key=lambda place: place.side_px)
    return render_hands(rng, places, draw_background(rng, width_px), height_px)


def samples(count: int, seed: int = 0) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Yields `count` pairs of an RGB picture (240, 320, 3) uint8 and the box (4,) float32 px of all of it.

    Picture i depends on the seed and i only, so that a longer run starts with the same pictures.
    """
    for index in range(count):
        scene = render_scene(np.random.default_rng([seed, index]), SAMPLE_WIDTH_PX, SAMPLE_HEIGHT_PX)
        yield scene.image, np.array([0.0, 0.0, SAMPLE_WIDTH_PX, SAMPLE_HEIGHT_PX], np.float32)


def _desk(rng: np.random.Generator, width_px: int, height_px: int) -> Array:
    """(S, S, 3) sRGB 0-1 of a room behind a desk, out of focus: wall, window, things, wood."""
    light = np.exp(rng.normal(0.0, 0.02, 3))
    y, x = (np.mgrid[:width_px, :width_px] + 0.5) / width_px
    wall = np.array([0.78, 0.76, 0.72]) * light * (1.12 - 0.35 * x - 0.2 * y)[..., None]
    room = np.ascontiguousarray(wall, dtype=np.float32)
    unit, edge = width_px / 960, int(0.76 * height_px)
    for left, right in ((0.05, 0.15), (0.16, 0.26)):  # the panes of a window
        corners = [(int(left * width_px), int(0.06 * height_px)), (int(right * width_px), int(0.5 * height_px))]
        cv2.rectangle(room, *corners, (0.97, 0.98, 1.0), -1)
    at, shelf = 0.5, int(0.34 * height_px)
    cv2.rectangle(room, (int(0.48 * width_px), shelf), (width_px, shelf + int(14 * unit)), (0.5, 0.4, 0.3), -1)
    while at < 0.96:  # books on a shelf
        wide, tall = rng.uniform(0.012, 0.035), rng.uniform(0.14, 0.26)
        colour = tuple(float(v) for v in 0.75 * random_paint(rng))
        corners = [(int(at * width_px), shelf - int(tall * height_px)), (int((at + wide) * width_px), shelf)]
        cv2.rectangle(room, *corners, colour, -1)
        at += wide + (rng.uniform(0.0, 0.06) if rng.random() < 0.2 else 0.002)
    for _ in range(60):  # a plant
        angle, length = rng.normal(0.0, 0.5), rng.uniform(0.1, 0.3) * height_px
        root = np.array([0.37 * width_px, edge - 0.08 * height_px])
        tip = root + length * np.array([np.sin(angle), -np.cos(angle)])
        green = (0.2 * rng.uniform(0.6, 1.3), 0.42 * rng.uniform(0.6, 1.3), 0.2)
        cv2.line(room, root.astype(int).tolist(), tip.astype(int).tolist(), green, int(9 * unit), cv2.LINE_AA)
    pot = [(int(0.345 * width_px), edge - int(0.09 * height_px)), (int(0.395 * width_px), edge)]
    cv2.rectangle(room, *pot, (0.72, 0.4, 0.28), -1)
    grain = smooth_noise(rng, width_px, width_px, 40)
    grain = cv2.resize(grain[:, : width_px // 8], (width_px, width_px)) * 0.05
    wood = np.array([0.55, 0.4, 0.27]) * (1.0 + grain + 0.35 * (0.6 - x))[..., None]
    room[edge:] = wood[edge:]
    return cv2.GaussianBlur(room, (0, 0), 7 * unit).clip(0.0, 1.0)  # type: ignore[return-value]


def example(width_px: int = EXAMPLE_WIDTH_PX, height_px: int = EXAMPLE_HEIGHT_PX) -> RenderedScene:
    """The picture of the demo: both hands of somebody at a desk, their palms to the camera."""
    rng, side = np.random.default_rng(EXAMPLE_SEED), int(0.72 * height_px)
    top = 0.1 * height_px
    places = [
        Place(0.06 * width_px, top, side, left=False, free=0.0),
        Place(0.94 * width_px - side, top, side, left=True, free=0.0),
    ]
    return render_hands(rng, places, _desk(rng, width_px, height_px), height_px)


def main() -> None:
    """Writes a sheet of pictures, or the demo's."""
    parser = argparse.ArgumentParser(description="Draw rooms with hands: many small pictures, or that of the demo.")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--sheet", type=Path, metavar="OUT.png", help="write many pictures, in rows of six, as one")
    target.add_argument("--example", type=Path, metavar="OUT.jpg", help="write the picture of the demo")
    parser.add_argument("--count", type=int, default=24, help="how many pictures the sheet shows (default: 24)")
    options = parser.parse_args()
    path: Path = options.example or options.sheet
    if options.example:
        picture = example().image
    else:
        tiles = [image for image, _ in samples(options.count)]
        tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 6)
        picture = np.vstack([np.hstack(tiles[row : row + 6]) for row in range(0, len(tiles), 6)])
    flags = [cv2.IMWRITE_JPEG_QUALITY, EXAMPLE_QUALITY] if options.example else []
    if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), flags):
        parser.error(f"cannot write {path}: give a name that ends in .png or .jpg, in a folder that exists")


if __name__ == "__main__":
    main()
