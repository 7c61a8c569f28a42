r"""Clips of one to four hands whose keypoints are known in every frame, composed of labelled photographs.

    python benchmarks/composed_clips.py --data HANDS_VARIED --kind leaving --out leaving.mp4

Hands are cut from photographs by a soft outline around their keypoints and a piece of the forearm, and move, turn and
come closer along smooth paths before what other photographs show beside hands: rooms, people, faces. Every frame has a
camera's noise. Truth is the photograph's label, moved with it: of the hands-varied set the opinion of another network.
The same arguments give the same clips. The photographs stay where they are; clips are made anew where they are needed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import SpliteError, UsageError
from splite_deploy.metrics.labels import LabelledImage, read_labels
from splite_deploy.metrics.turned_boxes import rotation
from splite_deploy.runtime.io.images import read_image
from splite_deploy.runtime.io.video import write_video
from splite_deploy.runtime.preprocess import Image

Points = NDArray[np.float64]
Kind = Literal["still", "one", "two", "four", "leaving", "crossing"]
KINDS: tuple[Kind, ...] = get_args(Kind)
HANDS: Mapping[Kind, int] = {"still": 1, "one": 1, "two": 2, "four": 4, "leaving": 2, "crossing": 2}
WIDTH_PX, HEIGHT_PX, RATE_HZ, FRAMES = 640, 480, 30.0, 120
LEAVES, AWAY, RETURNS = range(30, 50), range(50, 75), range(75, 95)
"""Frames in which the second hand of ``leaving`` goes out of the picture, is away, and comes back."""
_WRIST, _MIDDLE = 0, 9
_NOISE = 2.5
_LEAST_SIDE_PX, _LEAST_ROOM_PX = 90, 110
_BORDER = 0.12
"""How far the outline lies from the keypoints, and how far it has to lie from the photograph's edge, in sizes."""


@dataclass(frozen=True)
class Cut:
    """A hand that was cut out.

    Attributes:
        name: Of the photograph.
        image: (h, w, 3) uint8 BGR.
        cover: (h, w) float32, 1 where the hand is and 0 where it is not.
        keypoints: (21, 2) pixels of ``image``.
        size_px: The longer side of what just holds the keypoints.
    """

    name: str
    image: Image
    cover: NDArray[np.float32]
    keypoints: Points
    size_px: float


@dataclass(frozen=True)
class Place:
    """Where a hand is in a frame.

    Attributes:
        x: Of its middle, pixels.
        y: Of its middle, pixels.
        size_px: The longer side of what just holds its keypoints at angle 0.
        angle_deg: By how much it is turned, clockwise, against the photograph.
    """

    x: float
    y: float
    size_px: float
    angle_deg: float


@dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
        image: (`HEIGHT_PX`, `WIDTH_PX`, 3) uint8 BGR.
        hands: (21, 2) pixels of every hand, by its number, whether or not it lies in the picture.
        time_s: From the first frame, in seconds.
    """

    image: Image
    hands: dict[int, Points]
    time_s: float


@dataclass(frozen=True)
class Clip:
    """A clip.

    Attributes:
        kind: Of its paths.
        number: Among those of its kind.
        cuts: Its hands.
        background: (`HEIGHT_PX`, `WIDTH_PX`, 3) uint8 BGR.
    """

    kind: Kind
    number: int
    cuts: Sequence[Cut]
    background: Image

    def frames(self, count: int = FRAMES) -> Iterator[Frame]:
        """The frames, in order."""
        rng = np.random.default_rng([KINDS.index(self.kind), self.number])
        phases = rng.uniform(0, 2 * math.pi, (len(self.cuts), 4))
        noise = rng.normal(0, _NOISE, (HEIGHT_PX + 61, WIDTH_PX + 61, 3)).round().astype(np.int16)
        for index in range(count):
            canvas, hands = self.background.copy(), {}
            for number, (cut, phase) in enumerate(zip(self.cuts, phases, strict=True)):
                place = place_of(self.kind, number, index, phase)
                hands[number] = paste(canvas, cut, place)
            top, left = rng.integers(0, 61, 2)
            noisy = canvas + noise[top : top + HEIGHT_PX, left : left + WIDTH_PX]
            yield Frame(noisy.clip(0, 255).astype(np.uint8), hands, index / RATE_HZ)


def place_of(kind: Kind, number: int, index: int, phase: NDArray[np.float64]) -> Place:
    """Where a hand is in a frame: around the middle of its part of the picture, on a path that closes in four seconds.

    Args:
        kind: Of the clip.
        number: Of the hand.
        index: Of the frame.
        phase: (4,) where its movements along x and y, its turn and its distance begin, radians.
    """
    columns, rows = {1: (1, 1), 2: (2, 1), 4: (2, 2)}[HANDS[kind]]
    column, row = number % columns, number // columns
    across, down = WIDTH_PX / columns, HEIGHT_PX / rows
    size_px = 0.42 * min(across, down) if columns > 1 else 0.36 * HEIGHT_PX
    turned = 2 * math.pi * index / (4 * RATE_HZ)
    swing = (
        [0.0] * 4
        if kind == "still"
        else [math.sin(one * turned + p) for one, p in zip((1, 1, 1, 2), phase, strict=True)]
    )
    free_x, free_y = max(across - 1.5 * size_px, 0) / 2, max(down - 1.6 * size_px, 0) / 2
    x, y = across * (column + 0.5) + free_x * swing[0], down * (row + 0.5) + free_y * swing[1]
    angle_deg, size_px = 30 * swing[2], size_px * (1 + 0.15 * swing[3])
    if kind == "leaving" and number == 1:
        x += (WIDTH_PX + size_px - x) * _gone(index)
    if kind == "crossing":
        x = WIDTH_PX / 2 + (2 * number - 1) * 0.3 * WIDTH_PX * math.cos(turned)
    return Place(x, y, size_px, angle_deg)


def _gone(index: int) -> float:
    """How far a hand is on its way out: 0 where it is inside, 1 where it is away, smooth between."""
    if index in AWAY:
        return 1.0
    if index in LEAVES or index in RETURNS:
        way = LEAVES if index in LEAVES else RETURNS
        share = (index - way.start) / len(way)
        share = share if index in LEAVES else 1 - share
        return (1 - math.cos(math.pi * share)) / 2
    return 0.0


def paste(canvas: Image, cut: Cut, place: Place) -> Points:
    """Draws a hand into a picture (H, W, 3), and gives its keypoints there."""
    linear = place.size_px / cut.size_px * rotation(place.angle_deg)
    middle = (cut.keypoints.min(axis=0) + cut.keypoints.max(axis=0)) / 2
    offset = np.array([place.x, place.y]) - linear @ middle
    keypoints: Points = cut.keypoints @ linear.T + offset
    height, width = cut.cover.shape
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) @ linear.T + offset
    limits = np.array([canvas.shape[1], canvas.shape[0]])
    low = np.floor(corners.min(axis=0)).clip(0, limits).astype(int)
    high = np.ceil(corners.max(axis=0)).clip(0, limits).astype(int)
    if (high <= low).any():
        return keypoints
    # OpenCV's origin is the centre of the first pixel
    matrix = np.column_stack([linear, offset - low + linear @ (0.5, 0.5) - 0.5])
    size = tuple((high - low).tolist())
    cover = cv2.warpAffine(cut.cover, matrix, size)[..., None]
    image = cv2.warpAffine(cut.image, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    part = canvas[low[1] : high[1], low[0] : high[0]]
    part[:] = (part + cover * (image.astype(np.float32) - part)).round()
    return keypoints


def cut_of(label: LabelledImage, image: Image) -> Cut | None:
    """The hand of a label; None where it is small, or does not lie in the photograph with all its outline."""
    points = label.keypoints
    low, high = points.min(axis=0), points.max(axis=0)
    size_px = float((high - low).max())
    height, width = image.shape[:2]
    edge = _BORDER * size_px
    if size_px < _LEAST_SIDE_PX or (low < edge).any() or (high > np.array([width, height]) - edge).any():
        return None
    along = points[_WRIST] - points[_MIDDLE]
    along = along / max(float(np.linalg.norm(along)), 1e-6)
    aside = 0.12 * size_px * np.array([-along[1], along[0]])
    forearm = [points[_WRIST] + aside, points[_WRIST] - aside]
    forearm += [one + 0.3 * size_px * along for one in forearm[::-1]]
    mask = np.zeros((height, width), np.uint8)
    for outline in (points, np.array(forearm)):
        hull = cv2.convexHull((outline - 0.5).round().astype(np.int32))
        cv2.fillConvexPoly(mask, hull, 255)
    radius = max(1, round(edge))
    mask = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)))
    soft = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), 0.03 * size_px)
    rows, columns = np.nonzero(soft > 0.004)
    part = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    corner = np.array([columns.min(), rows.min()])
    return Cut(label.path.name, image[part].copy(), soft[part].copy(), points - corner, size_px)


def room_of(image: Image, hands: Sequence[Points]) -> Image | None:
    """The largest part of a photograph beside, above or below all its hands; None where that is small.

    Args:
        image: (H, W, 3) uint8.
        hands: (21, 2) pixels of every hand that is known to be there.
    """
    height, width = image.shape[:2]
    points = np.concatenate(hands)
    spare = 0.3 * max(float(np.ptp(one, axis=0).max()) for one in hands)
    (left, top), (right, bottom) = (points.min(axis=0) - spare), (points.max(axis=0) + spare)
    parts = [
        image[:, : max(int(left), 0)],
        image[:, min(int(right) + 1, width) :],
        image[: max(int(top), 0)],
        image[min(int(bottom) + 1, height) :],
    ]
    largest = max(parts, key=lambda part: min(part.shape[0] / HEIGHT_PX, part.shape[1] / WIDTH_PX))
    if min(largest.shape[:2]) < _LEAST_ROOM_PX:
        return None
    factor = max(HEIGHT_PX / largest.shape[0], WIDTH_PX / largest.shape[1])
    size = math.ceil(largest.shape[1] * factor), math.ceil(largest.shape[0] * factor)
    enlarged = cv2.resize(largest, size, interpolation=cv2.INTER_CUBIC)
    x, y = (size[0] - WIDTH_PX) // 2, (size[1] - HEIGHT_PX) // 2
    return enlarged[y : y + HEIGHT_PX, x : x + WIDTH_PX].copy()  # type: ignore[no-any-return]


def compose(data: Path, kind: Kind, count: int, split: str = "val") -> Iterator[Clip]:
    """Clips of the photographs of a split: other hands and another room in each, as long as there are enough.

    Args:
        data: Folder of hands-varied, with ``labels.json`` and ``scenes.json``.
        kind: Of their paths.
        count: How many.
        split: Of the labels.

    Raises:
        UsageError: The folder does not hold them.
    """
    labels, scenes = read_labels(data, split=split), _scenes(data, split)
    rng = np.random.default_rng([KINDS.index(kind), 1])
    hands, rooms = list(rng.permutation(len(labels))), list(rng.permutation(len(scenes)))
    for number in range(count):
        cuts: list[Cut] = []
        while len(cuts) < HANDS[kind]:
            label = labels[_turn_over(hands)]
            cut = cut_of(label, read_image(label.path))
            cuts += [] if cut is None else [cut]
        room = None
        while room is None:
            path, known = scenes[_turn_over(rooms)]
            room = room_of(read_image(path), known)
        yield Clip(kind, number, cuts, room)


def _turn_over(order: list[int]) -> int:
    """The next of an order that begins anew at its end."""
    first = int(order.pop(0))
    order.append(first)
    return first


def _scenes(data: Path, split: str) -> list[tuple[Path, list[Points]]]:
    """Photographs with all hands that were seen in them, those with at least one."""
    file = data / "scenes.json"
    try:
        scenes = json.loads(file.read_text(encoding="utf-8"))["scenes"]
    except (OSError, ValueError, KeyError) as err:
        raise UsageError(f"{file} cannot be read: {err}.", hint="Name the folder of hands-varied with --data.") from err
    found = [
        (data / one["image"], [np.array(hand["keypoints"]) for hand in one["hands"]], one["split"]) for one in scenes
    ]
    return [(path, hands) for path, hands, its_split in found if its_split == split and hands]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of hands-varied (labels.json, scenes.json)")
    parser.add_argument("--kind", choices=KINDS, required=True, help="of the paths")
    parser.add_argument("--number", type=int, default=0, help="which clip of this kind (default: 0)")
    parser.add_argument("--out", type=Path, required=True, help="video to write (.mp4, .avi)")
    options = parser.parse_args()
    try:
        *_, clip = compose(options.data, options.kind, options.number + 1)
        with write_video(options.out, RATE_HZ) as put:
            for frame in clip.frames():
                put(frame.image)
    except SpliteError as err:
        sys.exit(f"error: {err}")


if __name__ == "__main__":
    main()
