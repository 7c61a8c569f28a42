"""Synthetic photographs of people, one in each, with exact keypoints of COCO or COCO-WholeBody.

    python rendered_bodies.py --sheet OUT.png --draw
    python rendered_bodies.py --coco FOLDER --count 1000      (images and annotations.json, as COCO has them)

A skeleton is posed at random, covered with round cones and drawn by the renderer of `splite_hand`, with clothes, hair
and a face, before a random background. Faces, feet and hands are simple: 133 keypoints lie where a body has them, but
fingers and features are one or two pixels wide in a picture of the whole person and move little, so that a network
trained on these pictures learns the 17 of COCO, and only about where the others are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

sys.path.insert(0, str(Path(__file__).parent))
from body_shading import reflectance
from body_skeleton import FACE_KEYPOINTS, FOOT_KEYPOINTS, HAND_KEYPOINTS, sample_body
from body_surface import cover_body, place_camera
from hand_scene import composite, draw_background, occlude, photograph
from hand_shading import shade
from hand_surface import SUPERSAMPLING, Cones, Surface, View, covered_region, trace

from splite_deploy.spec.presets import COCO17

SIDE_PX = 256
BEHIND = 26.0  # units: a keypoint so far behind the surface is hidden by something else than its own limb
PARTS = (
    *(("keypoints", 17), ("foot_kpts", FOOT_KEYPOINTS), ("face_kpts", FACE_KEYPOINTS)),
    *(("lefthand_kpts", HAND_KEYPOINTS), ("righthand_kpts", HAND_KEYPOINTS)),
)
"""The fields of COCO-WholeBody's annotations, in the order of its 133 keypoints, and how many are in each."""


@dataclass(frozen=True)
class RenderedBody:
    """One rendered person with labels; pixels are continuous from the top-left corner of the picture.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        keypoints: (133, 2) float32, px, in the order of COCO-WholeBody; may lie outside the image.
        visibility: (133,) int: 2 seen, 1 hidden by the body or by something before it, 0 outside the image.
        mask: (H, W) bool: where the person is seen, or hidden by something before it.
        box: (4,) float32, px: tight box (x0, y0, x1, y1) of the mask.
    """

    image: NDArray[np.uint8]
    keypoints: NDArray[np.float32]
    visibility: NDArray[np.int64]
    mask: NDArray[np.bool_]
    box: NDArray[np.float32]


def render_body(rng: np.random.Generator, *, size_px: int = SIDE_PX) -> RenderedBody:
    """Draws one person: shape, pose, view, clothes, light and surroundings all come from ``rng``.

    Args:
        rng: The only source of chance; the same state gives the same person.
        size_px: Side of the square picture.

    Returns:
        The picture with its labels.
    """
    body = sample_body(rng)
    view = place_camera(rng, body, size_px)
    covered = cover_body(body)
    cones = _seen_by(covered.cones, view)
    region = covered_region(cones, view, size_px)
    surface = trace(cones, view, region)
    px_per_unit = float(view.intrinsics[0, 0] / np.median(surface.point[:, 2])) * SUPERSAMPLING
    colour = shade(rng, surface, reflectance(rng, surface, covered, body, view), px_per_unit)
    picture, cover = composite(rng, draw_background(rng, size_px), surface, colour, region)
    mask = cover > 0.5
    points = view.to_camera(body.keypoints())
    keypoints = view.project(points).astype(np.float32)
    hidden = np.zeros_like(mask)
    if rng.random() < 0.2:
        picture, hidden = occlude(rng, picture)
    rows, columns = np.nonzero(mask)
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
    return RenderedBody(
        photograph(rng, picture), keypoints, _visibility(keypoints, points, surface, region, hidden), mask, box
    )


def _seen_by(cones: Cones, view: View) -> Cones:
    """Cones in the camera frame."""
    start, end = view.to_camera(cones.start), view.to_camera(cones.end)
    front = cones.palmar @ view.rotation.T
    return Cones(start, end, cones.start_radius, cones.end_radius, front, cones.part, cones.bone)


def _visibility(
    keypoints: NDArray[np.float32],
    points: NDArray[Any],
    surface: Surface,
    region: tuple[int, int, int, int],
    hidden: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """What `RenderedBody.visibility` is, from the depth of the surface at each keypoint."""
    depth = np.full(surface.grid, np.inf, dtype=np.float32)
    depth.reshape(-1)[surface.pixel] = surface.point[:, 2]
    x0, y0, x1, y1 = region
    rows = ((keypoints[:, 1] - y0) / (y1 - y0) * surface.grid[0]).astype(int).clip(0, surface.grid[0] - 1)
    columns = ((keypoints[:, 0] - x0) / (x1 - x0) * surface.grid[1]).astype(int).clip(0, surface.grid[1] - 1)
    behind = points[:, 2] - depth[rows, columns] > BEHIND
    inside = ((keypoints >= 0) & (keypoints < hidden.shape[0])).all(axis=1)
    at = keypoints.astype(int).clip(0, hidden.shape[0] - 1)
    behind |= hidden[at[:, 1], at[:, 0]]
    return np.where(inside, np.where(behind, 1, 2), 0)


def bodies(count: int, seed: int = 0, *, size_px: int = SIDE_PX) -> Iterator[RenderedBody]:
    """``count`` people; number i depends on the seed and i alone."""
    for index in range(count):
        yield render_body(np.random.default_rng([seed, index]), size_px=size_px)


def samples(count: int, seed: int = 0) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """``count`` pairs of an RGB picture (256, 256, 3) uint8 and the person's xyxy box (4,) float32, px."""
    for body in bodies(count, seed):
        yield body.image, body.box


def write_coco(
    folder: Path, count: int, seed: int, keypoints: int = 17, report: Callable[[int], None] = lambda done: None
) -> Path:
    """Writes a data set of rendered people as COCO has its own: pictures and ``annotations.json``.

    COCO's coordinates are indices of pixels: half a pixel less than those of `RenderedBody`.

    Args:
        folder: Is made; pictures go to ``folder/images``.
        count: Of pictures.
        seed: Of the renderer.
        keypoints: 17 as COCO, or 133 as COCO-WholeBody.
        report: Called with the number done.

    Returns:
        The annotations file.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index, body in enumerate(bodies(count, seed)):
        name = f"{index:06d}.jpg"
        cv2.imwrite(str(folder / "images" / name), cv2.cvtColor(body.image, cv2.COLOR_RGB2BGR))
        height, width = body.image.shape[:2]
        images.append({"id": index, "file_name": name, "height": height, "width": width})
        annotations.append(_annotation(index, body, keypoints))
        report(index + 1)
    skeleton = [[a + 1, b + 1] for a, b in COCO17.edges]
    category = {"id": 1, "name": "person", "supercategory": "person"}
    category |= {"keypoints": list(COCO17.keypoint_names), "skeleton": skeleton}
    file = folder / "annotations.json"
    content = {"info": {"description": f"Rendered people, seed {seed}"}, "licenses": [], "images": images}
    file.write_text(json.dumps({**content, "annotations": annotations, "categories": [category]}), encoding="utf-8")
    return file


def _annotation(index: int, body: RenderedBody, keypoints: int) -> dict[str, Any]:
    """One entry of ``annotations``."""
    shown = (body.visibility > 0)[:, None]
    triples = np.concatenate([(body.keypoints - 0.5).round(2) * shown, body.visibility[:, None]], axis=1)
    x0, y0, x1, y1 = (float(edge) for edge in body.box)
    found: dict[str, Any] = {"id": index, "image_id": index, "category_id": 1, "iscrowd": 0}
    found |= {"area": int(body.mask.sum()), "bbox": [x0, y0, x1 - x0, y1 - y0], "segmentation": []}
    found["num_keypoints"] = int(shown[:17].sum())
    begin = 0
    for part, size in PARTS if keypoints > 17 else PARTS[:1]:
        found[part] = [round(float(value), 2) for value in triples[begin : begin + size].ravel()]
        begin += size
    return found


def draw_skeleton(body: RenderedBody) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB copy of the picture with the keypoints of COCO drawn on it, the left ones red."""
    canvas = np.ascontiguousarray(body.image)
    points = np.round((body.keypoints - 0.5) * 16.0).astype(int)
    for first, second in COCO17.edges:
        cv2.line(canvas, points[first].tolist(), points[second].tolist(), (0, 220, 0), 1, cv2.LINE_AA, 4)
    for index, (name, point) in enumerate(zip(COCO17.keypoint_names, points, strict=False)):
        colour = (230, 0, 0) if name.startswith("left") else (0, 80, 255)
        cv2.circle(canvas, point.tolist(), 32, colour, -1 if body.visibility[index] == 2 else 1, cv2.LINE_AA, 4)
    return canvas


def contact_sheet(count: int, seed: int, draw: bool) -> NDArray[np.uint8]:
    """One RGB picture of ``count`` people in rows of eight."""
    tiles = [draw_skeleton(body) if draw else body.image for body in bodies(count, seed)]
    tiles += [np.zeros_like(tiles[0])] * (-count % 8)
    return np.vstack([np.hstack(tiles[row : row + 8]) for row in range(0, len(tiles), 8)])


def main() -> None:
    """Writes a sheet of people, or a data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--sheet", type=Path, metavar="OUT.png", help="write people in rows of eight as one picture")
    target.add_argument("--coco", type=Path, metavar="FOLDER", help="write pictures and annotations.json as COCO does")
    parser.add_argument("--count", type=int, help="how many (default: 32 on a sheet, 1000 in a data set)")
    parser.add_argument("--seed", type=int, default=0, help="the same number draws the same people (default: 0)")
    parser.add_argument("--draw", action="store_true", help="draw the keypoints on a sheet")
    parser.add_argument("--keypoints", type=int, choices=(17, 133), default=17, help="of a data set (default: 17)")
    options = parser.parse_args()
    count = options.count if options.count is not None else 32 if options.sheet else 1000
    if count < 1 or options.seed < 0:
        parser.error("--count has to be 1 or more, --seed 0 or more")
    if options.sheet:
        picture = cv2.cvtColor(contact_sheet(count, options.seed, options.draw), cv2.COLOR_RGB2BGR)
        try:
            written = cv2.imwrite(str(options.sheet), picture)
        except cv2.error:  # a name whose ending it does not know
            written = False
        if not written:
            parser.error(f"cannot write {options.sheet}: give a name that ends in .png, in a folder that exists")
        return
    if (options.coco / "annotations.json").exists():
        parser.error(f"{options.coco} holds annotations already: name a new folder, or delete it")
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("rendered people", total=count)
        print(
            write_coco(
                *(options.coco, count, options.seed, options.keypoints),
                lambda done: progress.update(task, completed=done),
            )
        )


if __name__ == "__main__":
    main()
