"""What SPLite Hand 2 is trained on, cut to working resolution once and mapped into memory.

A tile is the surroundings of one hand, or a part of a photograph without hands, RGB with a mask of what is in front.
All tiles of a source lie in one file, ``NAME.tiles``, one behind the other; ``NAME.npz`` says where each begins and
what it shows. Nothing is decoded in training, and processes share the pages of the files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.decoders import SoftArgmaxDepth
from splite_deploy.errors import UsageError
from splite_deploy.metrics.labels import tight_box
from splite_deploy.spec import ModelSpec

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from hand2_renders import render_scene
from palm import palm_depth
from training_loop import save_atomically

Image = NDArray[np.uint8]
K = 21
REACH = 1.3
"""How far a tile reaches from the middle of the hand, in longer sides of its box."""
FINER = 1.15
"""Resolution of tiles over that of the network's crops, at most: what a crop zooms in by costs no sharpness."""
CONTRADICTED, DOUBTFUL = 0.06, 0.04
"""Mean spread of the teachers, as a share of the box, above which a hand is dropped; stricter where it is `usable` to
nobody else."""
TRUSTED_SPREAD = 0.03
"""At this spread a keypoint counts half."""
NEAR = 0.03
"""How far a label may lie from what the teachers say together, as a share of the box; a further one is moved there."""
LEAST_OVERLAP = 0.6
"""Of the hand's mask and its plump skeleton, as a share of what either covers."""
NEGATIVE_PX = 160
"""Longest side of a tile without a hand."""
NEGATIVES = "negatives"
RENDERS = "renders"


@dataclass(frozen=True)
class Tile:
    """One hand and its surroundings, or none.

    Attributes:
        image: (H, W, 4) uint8, RGB and 255 where the hand or what it holds is; 0 everywhere without a mask.
        keypoints: (21, 2) pixels of the tile; NaN without a hand.
        depth: (21,) relative to the root keypoint, palms.
        weight: (21,) how much each keypoint counts, 0 to 1.
        right: Chance that it is a right hand as the tile shows it; NaN where nobody knows.
        masked: Whether there is a mask.
    """

    image: Image
    keypoints: NDArray[np.float64]
    depth: NDArray[np.float64]
    weight: NDArray[np.float64]
    right: float
    masked: bool


def write_tiles(folder: Path, name: str, tiles: Iterator[Tile]) -> None:
    """Writes a source; the index comes last, so that what is there is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    begins, shapes, facts, end = [], [], [], 0
    with (folder / f"{name}.tiles").open("wb") as file:
        for tile in tiles:
            file.write(np.ascontiguousarray(tile.image).data)
            begins.append(end)
            shapes.append(tile.image.shape[:2])
            end += tile.image.size
            facts.append((tile.keypoints, tile.depth, tile.weight, tile.right, tile.masked))
    columns = list(zip(*facts, strict=True)) or [(), (), (), (), ()]
    arrays: dict[str, Any] = {
        "begin": np.array(begins, np.int64),
        "shape": np.array(shapes, np.int32).reshape(-1, 2),
        "keypoints": np.array(columns[0], np.float32).reshape(-1, K, 2),
        "depth": np.array(columns[1], np.float32).reshape(-1, K),
        "weight": np.array(columns[2], np.float32).reshape(-1, K),
        "right": np.array(columns[3], np.float32),
        "masked": np.array(columns[4], bool),
    }

    def write(target: Path) -> None:
        with target.open("wb") as stream:
            np.savez(stream, **arrays)

    save_atomically(folder / f"{name}.npz", write)


class Tiles:
    """A source, mapped into memory."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        with np.load(folder / f"{name}.npz") as stored:
            self._facts = {key: stored[key] for key in stored.files}
        self._shape = self._facts["shape"].tolist()
        self._begin = self._facts["begin"].tolist()
        self._bytes = np.memmap(folder / f"{name}.tiles", np.uint8, "r") if self._begin else np.empty(0, np.uint8)

    def __len__(self) -> int:
        return len(self._begin)

    def masked(self) -> NDArray[np.intp]:
        """Numbers of the tiles that have a mask."""
        return np.flatnonzero(self._facts["masked"])

    def __getitem__(self, index: int) -> Tile:
        (height, width), begin = self._shape[index], self._begin[index]
        image = self._bytes[begin : begin + height * width * 4].reshape(height, width, 4)
        keypoints, depth, weight = (
            self._facts[key][index].astype(np.float64) for key in ("keypoints", "depth", "weight")
        )
        right, masked = float(self._facts["right"][index]), bool(self._facts["masked"][index])
        return Tile(np.asarray(image), keypoints, depth, weight, right, masked)


# --- photographs ----------------------------------------------------------------------------------


def photographs(folder: Path, teachers: Path, source: str, spec: ModelSpec) -> Iterator[Tile]:
    """The hands of a source on whose places its teachers agree.

    Args:
        folder: Of the photographs.
        teachers: What ``hand2_teachers.py`` wrote.
        source: Those whose images lie in ``images/SOURCE``; all of them where it is empty.
        spec: The model.
    """
    assert isinstance(spec.decoder, SoftArgmaxDepth)
    with np.load(teachers) as stored:
        said = {key: stored[key] for key in stored.files}
    read, image = "", np.empty(0, np.uint8)
    for i in np.flatnonzero([of_source(str(name), source) for name in said["image"]]):
        if not agreed(said["spread"][i], float(said["presence"][i]), usable=bool(said["usable"][i])):
            continue
        if said["image"][i] != read:
            read = str(said["image"][i])
            image = cv2.cvtColor(cv2.imread(str(folder / read)), cv2.COLOR_BGR2RGB)  # type: ignore[assignment]
        keypoints = settled(said["label"][i].astype(np.float64), said["keypoints"][i].astype(np.float64))
        tile, moved = around(image, keypoints, spec)
        mask = cut_out(tile, moved, spec)
        shown = np.zeros(tile.shape[:2], np.uint8) if mask is None else mask
        depth = palm_depth(said["world_mm"][i].astype(np.float64), spec.decoder)
        weight = 1 / (1 + (said["spread"][i].astype(np.float64) / TRUSTED_SPREAD) ** 2)
        yield Tile(np.dstack([tile, shown]), moved, depth, weight, float(said["right"][i]), mask is not None)


def of_source(image: str, source: str) -> bool:
    """Whether an image belongs to a source; see `photographs`."""
    return not source or Path(image).parent.name == source


def agreed(spread: NDArray[np.floating[Any]], presence: float, *, usable: bool) -> bool:
    """Whether the teachers do not contradict each other about a hand."""
    if usable:
        return float(spread.mean()) <= CONTRADICTED and presence >= 0.5
    return float(spread.mean()) <= DOUBTFUL and presence >= 0.9


def settled(label: NDArray[np.float64], agreed_on: NDArray[np.float64]) -> NDArray[np.float64]:
    """The keypoints (21, 2) of a label, none further than `NEAR` from where the teachers' views agree that it is.

    A median of views alone is calmer, but lies in other places: it has its own idea of where a wrist is.
    """
    side = max(float(np.ptp(agreed_on, axis=0).max()), 1e-6)
    away = label - agreed_on
    distance = np.linalg.norm(away, axis=1, keepdims=True)
    kept: NDArray[np.float64] = agreed_on + away * np.minimum(1, NEAR * side / np.maximum(distance, 1e-9))
    return kept


def around(image: Image, keypoints: NDArray[np.float64], spec: ModelSpec) -> tuple[Image, NDArray[np.float64]]:
    """The surroundings (H, W, 3) of a hand, as fine as crops need it, and the keypoints in it."""
    x0, y0, x1, y1 = tight_box(keypoints).tolist()
    side = max(x1 - x0, y1 - y0, 1.0)
    reach = REACH * side
    low = np.floor(np.maximum([(x0 + x1) / 2 - reach, (y0 + y1) / 2 - reach], 0)).astype(int)
    high = np.ceil(np.minimum([(x0 + x1) / 2 + reach, (y0 + y1) / 2 + reach], image.shape[1::-1])).astype(int)
    part, moved = image[low[1] : high[1], low[0] : high[0]], keypoints - low
    scale = FINER * spec.input.width / (spec.input.box_padding * side)
    if scale < 1:
        size = np.maximum(1, np.round(scale * (high - low))).astype(int)
        part = cv2.resize(part, size.tolist(), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        moved = moved * (size / (high - low))
    return np.ascontiguousarray(part), moved


def cut_out(tile: Image, keypoints: NDArray[np.float64], spec: ModelSpec) -> Image | None:
    """Mask (H, W) uint8 of the hand by GrabCut (Rother et al. 2004), started from its skeleton; None where it fails.

    It fails where it and a plump skeleton overlap by less than `LEAST_OVERLAP`: what is around the hand is skin, too.
    """
    side = float(np.ptp(keypoints, axis=0).max())
    seeds = np.full(tile.shape[:2], cv2.GC_BGD, np.uint8)
    plump = np.zeros(tile.shape[:2], np.uint8)
    points = np.round(keypoints - 0.5).astype(int)
    palm = points[[0, 1, 5, 9, 13, 17]]
    for width, label in ((0.36, cv2.GC_PR_BGD), (0.12, cv2.GC_PR_FGD), (0.03, cv2.GC_FGD)):
        for a, b in spec.skeleton.edges:
            cv2.line(seeds, points[a].tolist(), points[b].tolist(), int(label), max(1, round(width * side)))
    for a, b in spec.skeleton.edges:
        cv2.line(plump, points[a].tolist(), points[b].tolist(), 255, max(1, round(0.14 * side)))
    cv2.fillPoly(plump, [palm], 255)
    if not (seeds == cv2.GC_BGD).any():
        return None
    half = cv2.resize(tile, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    small = cv2.resize(seeds, half.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    if len(np.unique(small)) < 3:
        return None
    cv2.grabCut(half, small, None, np.zeros((1, 65)), np.zeros((1, 65)), 2, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    found = np.isin(small, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8) * 255
    mask = cv2.resize(found, tile.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    both, either = (mask > 127) & (plump > 0), (mask > 127) | (plump > 0)
    return mask if both.sum() >= LEAST_OVERLAP * either.sum() else None  # type: ignore[return-value]


# --- rendered hands -------------------------------------------------------------------------------


def renders(count: int, seed: int, spec: ModelSpec) -> Iterator[Tile]:
    """Rendered hands; hand i depends on the seed and i only."""
    assert isinstance(spec.decoder, SoftArgmaxDepth)
    for index in range(count):
        hand = render_scene(np.random.default_rng([seed, index]))
        depth = palm_depth(hand.keypoints_3d_mm.astype(np.float64), spec.decoder)
        image = np.dstack([hand.image, hand.mask.astype(np.uint8) * 255])
        yield Tile(image, hand.keypoints.astype(np.float64), depth, np.ones(K), float(hand.handedness == "right"), True)


# --- no hands -------------------------------------------------------------------------------------


def negatives(folder: Path, split: str, seed: int, each: int = 2) -> Iterator[Tile]:
    """Parts of photographs without a hand: faces first, what is beside a hand, and anything else.

    Only scenes where people have drawn boxes around all hands give more than faces, and of a split without such boxes
    (``val``) those where the teacher saw a hand: elsewhere there may be hands that nobody has marked.

    Args:
        folder: Of photographs with a ``scenes.json``.
        split: Which of them.
        seed: Of the places.
        each: Parts of one photograph beside its faces.
    """
    scenes = json.loads((folder / "scenes.json").read_text(encoding="utf-8"))["scenes"]
    scenes = [scene for scene in scenes if scene["split"] == split]
    drawn = any(scene["human_boxes"] for scene in scenes)
    faces = _finder_of_faces()
    for number, scene in enumerate(scenes):
        image = cv2.cvtColor(cv2.imread(str(folder / scene["image"])), cv2.COLOR_BGR2RGB)
        rng = np.random.default_rng([seed, number])
        hands = np.array([*hand_boxes(scene)]).reshape(-1, 4)
        squares = [_face(*map(float, face), rng) for face in faces.detectMultiScale(image, 1.2, 5, minSize=(32, 32))]
        if scene["human_boxes"] or (not drawn and len(hands)):
            squares += [_place(image.shape, hands, rng) for _ in range(each)]
        for square in squares:
            if not touches(square, hands):
                yield Tile(_part(image, square), *_NOTHING)  # type: ignore[arg-type]


_NOTHING = (np.full((K, 2), np.nan), np.zeros(K), np.zeros(K), float("nan"), False)


def hand_boxes(scene: dict[str, Any]) -> Iterator[NDArray[np.float64]]:
    """Boxes (4,) of all that may be a hand in a scene, by people or by the teacher, a little enlarged."""
    boxes = [np.array(box, float) for box in scene["human_boxes"] or ()]
    boxes += [tight_box(np.array(hand["keypoints"], float)) for hand in scene["hands"]]
    for box in boxes:
        margin = 0.12 * float((box[2:] - box[:2]).max())
        yield box + np.array([-margin, -margin, margin, margin])


def touches(square: NDArray[np.float64], boxes: NDArray[np.float64]) -> bool:
    """Whether a square (x, y, side) and any of (N, 4) boxes have a twentieth of the smaller of both in common."""
    x, y, side = square.tolist()
    for x0, y0, x1, y1 in boxes.tolist():
        common = max(0.0, min(x + side, x1) - max(x, x0)) * max(0.0, min(y + side, y1) - max(y, y0))
        if common > 0.05 * min(side * side, (x1 - x0) * (y1 - y0)):
            return True
    return False


def _finder_of_faces() -> Any:
    """OpenCV's own, whose ``detectMultiScale`` gives boxes.

    Raises:
        UsageError: This is OpenCV 5, which has none.
    """
    if not hasattr(cv2, "CascadeClassifier"):
        raise UsageError(
            f"OpenCV {cv2.__version__} finds no faces, and pictures without hands show them first.",
            hint="Cut them with OpenCV 4: pip install 'opencv-python-headless<5'.",
        )
    return cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_frontalface_default.xml")  # type: ignore[attr-defined]


def _face(x: float, y: float, width: float, height: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A square around a detected face."""
    side = width * rng.uniform(0.9, 1.7)
    centre = np.array([x + width / 2, y + height / 2]) + rng.normal(0, 0.1, 2) * width
    return np.array([*(centre - side / 2), side])


def _place(shape: Sequence[int], hands: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """A square somewhere, half the time as large as a hand and beside it."""
    height, width = shape[:2]
    if len(hands) and rng.random() < 0.5:
        x0, y0, x1, y1 = hands[int(rng.integers(len(hands)))].tolist()
        side = max(x1 - x0, y1 - y0) * rng.uniform(0.7, 1.3)
        way = rng.normal(size=2)
        centre = np.array([x0 + x1, y0 + y1]) / 2 + way / np.abs(way).max() * rng.uniform(0.9, 1.6) * side
    else:
        side = rng.uniform(0.12, 0.6) * min(height, width)
        centre = rng.uniform(0, 1, 2) * (width, height)
    low = np.clip(centre - side / 2, 0, np.maximum(0, (width - side, height - side)))
    return np.array([*low, min(side, height, width)])


def _part(image: NDArray[Any], square: NDArray[np.float64]) -> Image:
    """The square (x, y, side) of an image, without a mask, at most `NEGATIVE_PX` wide."""
    x, y, side = (int(value) for value in np.round(square))
    part = image[max(0, y) : max(0, y) + side, max(0, x) : max(0, x) + side]
    scale = NEGATIVE_PX / max(part.shape)
    if scale < 1:
        part = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.dstack([part, np.zeros(part.shape[:2], np.uint8)])
