"""Makes the moving picture of the README: a rendered hand, and what `splite-deploy run` draws on it.

    python docs/tools/make_clip.py --out docs/pictures/hand.webp

A hand that counts, closes and turns is rendered; no data set is used: models/common draws it. `splite-deploy run`
follows it and draws its skeleton, and the picture shows what that drew, frame for frame. `--bundle` takes another
bundle than an export of SPLite Hand, and `--detector` finds the hand by a network instead of a box. It takes a minute
or two.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "models" / "common"))
from hand_scene import composite
from hand_shading import shade, skin_reflectance
from hand_skeleton import _Pose, _pose_skeleton, axis_rotation, sample_shape
from hand_surface import SUPERSAMPLING, View, cover_skeleton, covered_region, in_camera, trace

Picture = NDArray[np.uint8]
Points = NDArray[np.float64]
WIDTH_PX, HEIGHT_PX, RATE_HZ = 480, 360, 15
FRAMES = 75
DISTANCE_MM, FOCAL_PX = 700.0, 900.0
SEED = 9
"""Of the hand's shape and skin, and of the light: every frame has the same."""

OPEN, BENT = (0.0, 4.0, 6.0, 4.0), (0.0, 78.0, 98.0, 62.0)
THUMB_OPEN, THUMB_BENT = (42.0, 15.0, 0.0, -5.0), (8.0, 48.0, 30.0, 45.0)
POSES: tuple[tuple[tuple[bool, bool, bool, bool, bool], float], ...] = (
    ((True, True, True, True, True), 12.0),
    ((False, True, False, False, False), 0.0),
    ((False, True, True, False, False), 8.0),
    ((False, True, True, True, False), 6.0),
    ((False, True, True, True, True), 4.0),
    ((True, True, True, True, True), 0.0),
    ((False, False, False, False, False), 0.0),
)
"""What the clip shows in turn: which of thumb, index, middle, ring and little finger are open; the spread, degrees."""


def angles(pose: tuple[tuple[bool, bool, bool, bool, bool], float]) -> Points:
    """(5, 4) degrees of thumb and fingers."""
    (thumb, *fingers), spread = pose
    rows = [THUMB_OPEN if thumb else THUMB_BENT, *(OPEN if finger else BENT for finger in fingers)]
    made = np.array(rows)
    made[1:, 0] = spread * np.array([1.0, 0.2, -0.6, -1.2])
    return made


def pose_at(share: float) -> Points:
    """The angles at a share of the clip; the last pose goes over into the first."""
    place = share * len(POSES)
    index, part = int(place) % len(POSES), place % 1.0
    blend = np.clip((part - 0.35) / 0.65, 0.0, 1.0)  # each pose rests for a third of its time
    blend = blend * blend * (3.0 - 2.0 * blend)
    mixed: Points = (1.0 - blend) * angles(POSES[index]) + blend * angles(POSES[(index + 1) % len(POSES)])
    return mixed


def wall() -> NDArray[np.float32]:
    """(HEIGHT, WIDTH, 3) sRGB 0-1: a plain wall with light from the left."""
    across = np.linspace(1.0, 0.0, WIDTH_PX)[None, :, None]
    down = np.linspace(0.0, 1.0, HEIGHT_PX)[:, None, None]
    made = np.array([0.36, 0.43, 0.47]) + 0.16 * across - 0.10 * down
    return np.clip(made, 0.0, 1.0).astype(np.float32)


def frames() -> Iterator[tuple[Picture, Points]]:
    """BGR pictures (HEIGHT, WIDTH, 3), and the keypoints (21, 2) that they show."""
    shape = sample_shape(np.random.default_rng(SEED))
    for index in range(FRAMES):
        share = index / FRAMES
        turn = 2.0 * np.pi * share
        skeleton = _pose_skeleton(shape, _Pose(pose_at(share)[1:], pose_at(share)[0]))
        facing = np.diag([1.0, -1.0, -1.0])
        rotation = (
            axis_rotation(2, 10.0 * np.sin(turn)) @ axis_rotation(0, 6.0 * np.cos(turn))
            @ axis_rotation(1, 28.0 * np.sin(turn)) @ facing
        )  # fmt: skip
        middle = rotation @ np.array([0.0, 70.0, 0.0])
        translation = np.array([55.0 * np.sin(turn), 8.0 * np.sin(2 * turn), DISTANCE_MM - 60 * np.cos(turn)]) - middle
        intrinsics = np.array([[FOCAL_PX, 0.0, WIDTH_PX / 2], [0.0, FOCAL_PX, HEIGHT_PX / 2], [0.0, 0.0, 1.0]])
        view = View(rotation, translation, intrinsics)
        cones = in_camera(cover_skeleton(np.random.default_rng(SEED), shape, skeleton), view)
        x0, y0, x1, y1 = covered_region(cones, view, WIDTH_PX)
        region = (x0, y0, x1, min(y1, HEIGHT_PX))
        surface = trace(cones, view, region)
        px_per_mm = float(FOCAL_PX / np.median(surface.point[:, 2])) * SUPERSAMPLING
        skin = skin_reflectance(np.random.default_rng(SEED), surface, cones, view, shape.scale)
        colour = shade(np.random.default_rng(SEED), surface, skin, px_per_mm)
        drawn, _ = composite(np.random.default_rng(SEED), wall(), surface, colour, region)
        picture = np.round(np.clip(drawn[..., ::-1], 0.0, 1.0) * 255.0).astype(np.uint8)
        yield picture, view.project(view.to_camera(skeleton.joints))


def write_clip(file: Path) -> tuple[float, float, float, float]:
    """Writes the frames as a video; the box around the first hand."""
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), float(RATE_HZ), (WIDTH_PX, HEIGHT_PX))
    box: tuple[float, float, float, float] | None = None
    for frame, keypoints in frames():
        writer.write(frame)
        if box is None:
            (left, top), (right, bottom) = keypoints.min(axis=0), keypoints.max(axis=0)
            box = (float(left), float(top), float(right), float(bottom))
    writer.release()
    assert box is not None
    return box


def splite(*arguments: str | Path) -> None:
    """Runs the tool as a user does."""
    subprocess.run([sys.executable, "-m", "splite_deploy", *map(str, arguments)], cwd=ROOT, check=True)


def make_clip(out: Path, bundle: Path | None, detector: Path | None, quality: int) -> None:
    """Writes the moving picture: render, follow, draw."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if bundle is None:
            bundle = folder / "hand.splite"
            splite("export", ROOT / "models" / "splite_hand" / "splite_hand.safetensors", "-o", bundle)
        box = write_clip(folder / "clip.mp4")
        where = ["--detector", detector, "--smooth"] if detector else ["--box", ",".join(f"{v:.0f}" for v in box)]
        splite(
            "run", bundle, folder / "clip.mp4", *where, "--json", folder / "clip.jsonl", "--save", folder / "drawn.mp4"
        )
        capture = cv2.VideoCapture(str(folder / "drawn.mp4"))
        drawn = []
        while True:
            there, frame = capture.read()
            if not there:
                break
            drawn.append(Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)))
        out.parent.mkdir(parents=True, exist_ok=True)
        drawn[0].save(
            out, save_all=True, append_images=drawn[1:], duration=1000 // RATE_HZ, loop=0, quality=quality, method=6
        )
    print(f"{out}: {len(drawn)} frames, {out.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.webp")
    parser.add_argument("--bundle", type=Path, help="of a hand network (default: an export of SPLite Hand)")
    parser.add_argument("--detector", type=Path, help="a bundle that finds the hand, instead of a box")
    parser.add_argument("--quality", type=int, default=55, help="of the pictures, 0 to 100 (default: 55)")
    options = parser.parse_args()
    make_clip(options.out, options.bundle, options.detector, options.quality)


if __name__ == "__main__":
    main()
