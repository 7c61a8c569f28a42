"""Training data of SPLite Palm: pictures with any number of hands, augmented. Runs on the developer's machine.

Every batch is a function of (seed, step) alone, so that a resumed training sees what an unbroken one would have.

The target is one box everywhere, the tight one of a hand's 21 keypoints: it is what the hand network is then given. Of
hands that people have drawn a box around, and whose keypoints nobody knows (fists, hands seen edge-on), the middle is
learnt alone. What the teacher saw with little confidence, and no person has drawn, is neither a hand nor none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from splite_deploy.decoders import CenterNet
from splite_deploy.errors import UsageError
from splite_deploy.metrics.labels import read_labels, tight_box
from splite_deploy.runtime.preprocess import Preprocessor, crop_matrix, transform_points, warp
from splite_deploy.spec import ModelSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
sys.path.insert(0, str(Path(__file__).parents[1] / "splite_hand2"))
from augmentation import before, degrade, mirror, recolour
from hand2_tiles import RENDERS, Tile, Tiles

cv2.setNumThreads(0)  # OpenCV's thread pool does not survive the fork of a data loader's worker: it hangs there

Image = NDArray[np.uint8]
Points = NDArray[np.float64]
WRIST, MIDDLE_MCP = 0, 9
"""The keypoints of `hand21` that the network gives."""
SAME_HAND = 0.3
"""Overlap from which a box that a person drew and a hand that the teacher saw are the same."""
HELD_OUT = 20
"""One in so many training pictures is never trained on: the threshold is chosen on these."""
SHARES = {
    "subhih_hands": 0.25,
    "asl_letters": 0.15,
    "lebanese_univ_gestures": 0.17,
    "hands_dguzk": 0.13,
    "custom_gesture_hand": 0.22,
    "hand-digits": 0.08,
}
"""Of a batch, by where pictures come from."""
FACES = "subhih_hands"
"""Its pictures show faces beside the hands, and all hands of a picture are known."""
LEAST_WHOLE = 0.6
"""A picture is not made smaller than this share of the view."""
CLOSE, WHOLE, MOSAIC, PASTED = 0.35, 0.15, 0.15, 0.2
"""Shares of the views: around one hand, of the whole picture, of four pictures, with hands pasted into it; the others
show no hand."""
MOST_PASTED, LEAST_PASTED_SIDE, MOST_PASTED_SIDE = 3, 0.08, 0.7
"""Hands that are pasted into a view, and how long each is, of the view's shorter side."""
RENDERED = 0.25
"""Share of the pasted hands that are rendered, where there are some of these."""
INSIDE = 0.6
"""A hand counts where so much of its box lies in the view; of less, down to `CUT`, nobody knows."""
CUT = 0.15


@dataclass(frozen=True)
class Hand:
    """One hand in a picture.

    Attributes:
        box: (4,) xyxy, pixels: tight around the keypoints, or drawn by a person.
        keypoints: (21, 2) pixels; None where nobody knows them.
        known: Whether it is a hand for certain; nobody has to find the others.
    """

    box: Points
    keypoints: Points | None
    known: bool = True


@dataclass(frozen=True)
class Scene:
    """A picture with its hands.

    Attributes:
        jpeg: The file's bytes.
        source: Where it comes from: a key of `SHARES`.
        hands: All that are known of.
        closed: Whether people have drawn boxes around all hands, so that there is none elsewhere.
    """

    jpeg: bytes
    source: str
    hands: tuple[Hand, ...]
    closed: bool

    @property
    def image(self) -> Image:
        """(H, W, 3) uint8 RGB."""
        pixels = cv2.imdecode(np.frombuffer(self.jpeg, np.uint8), cv2.IMREAD_COLOR)
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def overlap(first: Points, second: Points) -> float:
    """Intersection over union of two boxes."""
    shared = np.prod(np.maximum(np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]), 0))
    areas = [np.prod(box[2:] - box[:2]) for box in (first, second)]
    return float(shared / (sum(areas) - shared))


def hands_of(scene: dict[str, object]) -> tuple[Hand, ...]:
    """The hands of an entry of ``scenes.json``: those of teacher and people joined."""
    found: list[Hand] = []
    drawn = [np.array(box, float) for box in scene["human_boxes"] or ()]  # type: ignore[attr-defined]
    free = list(drawn)
    for seen in scene["hands"]:  # type: ignore[attr-defined]
        keypoints = np.array(seen["keypoints"], float)
        box = tight_box(keypoints)
        same = [i for i, other in enumerate(free) if overlap(box, other) >= SAME_HAND]
        if seen["usable"]:
            found.append(Hand(box, keypoints))
            free = [other for i, other in enumerate(free) if i not in same]
        elif not same:
            found.append(Hand(box, None, known=False))
    return (*found, *(Hand(box, None) for box in free))


def load_scenes(folder: Path, split: str = "train") -> list[Scene]:
    """The pictures of hands-varied.

    Args:
        folder: That of ``scenes.json``.
        split: Which of them.
    """
    found = []
    for scene in json.loads((folder / "scenes.json").read_text(encoding="utf-8"))["scenes"]:
        if scene["split"] == split:
            jpeg = (folder / scene["image"]).read_bytes()
            source = Path(scene["image"]).parent.name
            found.append(Scene(jpeg, source, hands_of(scene), scene["human_boxes"] is not None))
    return found


def load_digits(folder: Path) -> list[Scene]:
    """The training photographs of hand-digits, of one hand each."""
    labels = read_labels(folder, split="train")
    return [
        Scene(one.path.read_bytes(), "hand-digits", (Hand(tight_box(one.keypoints), one.keypoints),), True)
        for one in labels
    ]


def divided(scenes: Sequence[Scene]) -> tuple[list[Scene], list[Scene]]:
    """Those to train on, and those to choose the threshold on."""
    kept = [scene for index, scene in enumerate(scenes) if index % HELD_OUT]
    return kept, [scene for index, scene in enumerate(scenes) if index % HELD_OUT == 0]


# --- views ---


@dataclass(frozen=True)
class Placed:
    """A hand as it lies in a view.

    Attributes:
        box: (4,) xyxy, pixels of the view.
        keypoints: (2, 2) wrist and middle knuckle; None where nobody knows them, nor the box but roughly.
        known: Whether it counts.
    """

    box: Points
    keypoints: Points | None
    known: bool


View = tuple[Image, list[Placed]]


def placed(hand: Hand, matrix: Points) -> tuple[Points, Points | None]:
    """Box and the two keypoints of a hand under a map (2, 3).

    Of a box without keypoints an ellipse is turned, not its corners: its box grows less, as that of a hand does.
    """
    if hand.keypoints is not None:
        moved = transform_points(hand.keypoints, matrix)
        return tight_box(moved), moved[[WRIST, MIDDLE_MCP]]
    centre = transform_points(hand.box.reshape(2, 2).mean(axis=0)[None], matrix)[0]
    half = (hand.box[2:] - hand.box[:2]) / 2
    reach = np.sqrt(np.square(matrix[:, :2] * half).sum(axis=1))
    return np.concatenate([centre - reach, centre + reach]), None


def seen_in(scene: Scene, matrix: Points, frame: Points) -> list[Placed]:
    """The hands of a scene that a view shows inside of a frame, xyxy."""
    found = []
    for hand in scene.hands:
        box, keypoints = placed(hand, matrix)
        inside = np.concatenate([np.maximum(box[:2], frame[:2]), np.minimum(box[2:], frame[2:])])
        share = float(np.prod(np.maximum(inside[2:] - inside[:2], 0)) / max(np.prod(box[2:] - box[:2]), 1e-9))
        middle = (box[:2] + box[2:]) / 2
        centred = bool(((middle > frame[:2]) & (middle < frame[2:])).all())
        if share > CUT:
            known = hand.known and centred and share >= INSIDE
            found.append(Placed(box, keypoints, known))
    return found


def turned(degrees: float, scale: float, start: Points, end: Points) -> Points:
    """The map (2, 3) that turns and scales, and brings one point (2,) to another."""
    angle = np.deg2rad(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.concatenate([turn, (end - turn @ start)[:, None]], axis=1)


def some_degrees(rng: np.random.Generator) -> float:
    """Any angle, or a small one: hands come from all sides, and pictures are mostly upright."""
    return float(rng.uniform(-180, 180) if rng.random() < 0.4 else rng.normal(0, 15))


class CutOuts:
    """Hands that are cut out of their pictures: tiles with a mask, as training SPLite Hand 2 begins with making them.

    Args:
        folder: Of the tiles.

    Raises:
        UsageError: It has none with a mask.
    """

    def __init__(self, folder: Path) -> None:
        tiles = [Tiles(folder, path.stem) for path in sorted(folder.glob("*.npz"))]
        self._hands = [(one, masked) for one in tiles if len(masked := one.masked())]
        if not self._hands:
            raise UsageError(
                f"{folder} has no tiles with the mask of a hand.",
                hint="Make them by 'python models/splite_hand2/train.py tiles'; they lie in its OUT/tiles.",
            )
        rendered = np.array([tiles.name.startswith(RENDERS) for tiles, _ in self._hands])
        shares = np.where(rendered, RENDERED / max(rendered.sum(), 1), (1 - RENDERED) / max((~rendered).sum(), 1))
        self._chances = shares / shares.sum()

    def draw(self, rng: np.random.Generator) -> Tile:
        """One of them."""
        tiles, masked = self._hands[int(rng.choice(len(self._hands), p=self._chances))]
        return tiles[int(rng.choice(masked))]


class Views:
    """Random views of scenes.

    Args:
        scenes: All pictures.
        spec: The model.
        cut_outs: Hands to paste into them; without any these views are as the others.
    """

    def __init__(self, scenes: Sequence[Scene], spec: ModelSpec, cut_outs: CutOuts | None = None) -> None:
        by_source: dict[str, list[Scene]] = {}
        for scene in scenes:
            by_source.setdefault(scene.source, []).append(scene)
        self.sources = list(by_source.values())
        shares = np.array([SHARES[source] for source in by_source])
        self.chances = shares / shares.sum()
        self.closed = [scene for scene in scenes if scene.closed and scene.source != "hand-digits"]
        self.faces = [scene for scene in self.closed if scene.source == FACES] or self.closed
        self.cut_outs = cut_outs
        self.spec, self.size = spec, np.array([spec.input.width, spec.input.height], float)

    def __call__(self, rng: np.random.Generator) -> View:
        """One view, with its colours changed."""
        kind = rng.random() if self.cut_outs else rng.uniform(PASTED, 1)
        if kind < PASTED:
            image, hands = self._pasted(rng)
            return degrade(image, rng), hands
        kind -= PASTED
        if kind < CLOSE:
            view = self._close(self._any(rng), rng)
        elif kind < CLOSE + WHOLE:
            view = self._whole(self._any(rng), rng)
        elif kind < CLOSE + WHOLE + MOSAIC or not self.closed:
            view = self._mosaic(rng)
        else:
            view = self._empty(rng)
        image, hands = view
        return degrade(recolour(image, rng), rng), hands

    def _any(self, rng: np.random.Generator) -> Scene:
        pool = self.sources[int(rng.choice(len(self.sources), p=self.chances))]
        return pool[int(rng.integers(len(pool)))]

    def _close(self, scene: Scene, rng: np.random.Generator) -> View:
        """A hand of any size anywhere in the view, with what is around it."""
        known = [hand for hand in scene.hands if hand.known]
        if not known:
            return self._whole(scene, rng)
        hand = known[int(rng.integers(len(known)))]
        side = float((hand.box[2:] - hand.box[:2]).max())
        image = scene.image
        least = min(max(0.1, LEAST_WHOLE * side / max(image.shape[:2])), 0.8)
        share = np.exp(rng.uniform(np.log(least), np.log(0.9)))
        margin = 0.5 * share * self.size.min()
        spot = rng.uniform(np.minimum(margin, self.size / 2 - 1), np.maximum(self.size - margin, self.size / 2 + 1))
        centre = hand.box.reshape(2, 2).mean(axis=0)
        matrix = turned(some_degrees(rng), share * self.size.min() / side, centre, spot)
        return self._cut(scene, matrix, rng, image)

    def _whole(self, scene: Scene, rng: np.random.Generator) -> View:
        """The whole picture, as the runtime places it, a little moved."""
        image = scene.image
        height, width = image.shape[:2]
        matrix = crop_matrix(np.array([0.0, 0.0, width, height]), self.spec.input)
        zoom, degrees = np.exp(rng.normal(0, 0.15)), some_degrees(rng)
        around = turned(degrees, zoom, self.size / 2, self.size / 2 + rng.normal(0, 0.05, 2) * self.size)
        whole = around @ np.concatenate([matrix, [[0.0, 0.0, 1.0]]])
        return self._cut(scene, whole, rng, image)

    def _cut(self, scene: Scene, matrix: Points, rng: np.random.Generator, image: Image) -> View:
        width, height = (int(side) for side in self.size)
        if rng.random() < 0.5:
            matrix = mirror(matrix, width)
        pad = self.spec.input.pad_value if rng.random() < 0.5 else int(rng.integers(256))
        view = warp(image, matrix, height, width, pad)
        return view, seen_in(scene, matrix, np.array([0, 0, width, height], float))

    def _mosaic(self, rng: np.random.Generator) -> View:
        """Four pictures around a point, each filling its part (as of YOLOv4; Bochkovskiy et al. 2020)."""
        width, height = (int(side) for side in self.size)
        x, y = (int(side * rng.uniform(0.3, 0.7)) for side in (width, height))
        canvas, hands = np.empty((height, width, 3), np.uint8), []
        for x0, y0, x1, y1 in ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)):
            scene = self._any(rng)
            image = scene.image
            part = np.array([x0, y0, x1, y1], float)
            size, own = part[2:] - part[:2], np.array(image.shape[1::-1], float)
            scale = float((size / own).max() * np.exp(rng.uniform(-0.1, 0.4)))
            room = own * scale - size
            start = own / 2 + rng.uniform(-0.5, 0.5, 2) * np.maximum(room, 0) / scale
            matrix = turned(float(rng.normal(0, 8)), scale, start, (part[:2] + part[2:]) / 2)
            if rng.random() < 0.5:  # about the part's own middle
                matrix = np.array([[-1.0, 0.0], [0.0, 1.0]]) @ matrix
                matrix[0, 2] += x0 + x1
            inner = matrix.copy()
            inner[:, 2] -= part[:2]
            canvas[y0:y1, x0:x1] = warp(image, inner, y1 - y0, x1 - x0, int(rng.integers(256)))
            hands += seen_in(scene, matrix, part)
        return canvas, hands

    def _pasted(self, rng: np.random.Generator) -> View:
        """Hands of other people and rendered ones, each in a light of its own, in a view that mostly shows none."""
        assert self.cut_outs is not None
        image, hands = self._empty(rng) if rng.random() < 0.7 and self.closed else self._whole(self._any(rng), rng)
        image = recolour(image, rng)
        width, height = (int(side) for side in self.size)
        for _ in range(int(rng.integers(1, MOST_PASTED, endpoint=True))):
            tile = self.cut_outs.draw(rng)
            low, high = tile.keypoints.min(axis=0), tile.keypoints.max(axis=0)
            side = self.size.min() * np.exp(rng.uniform(np.log(LEAST_PASTED_SIDE), np.log(MOST_PASTED_SIDE)))
            spot = rng.uniform(side / 2, self.size - side / 2)
            matrix = turned(some_degrees(rng), side / float((high - low).max()), (low + high) / 2, spot)
            if rng.random() < 0.5:
                matrix = mirror(matrix, width)
            keypoints = transform_points(tile.keypoints, matrix)
            box = tight_box(keypoints)
            if any(overlap(box, other.box) > 0 for other in hands):
                continue
            hand = warp(tile.image, matrix, height, width, 0)
            hand[..., :3] = recolour(np.ascontiguousarray(hand[..., :3]), rng)
            image = before(hand, image)
            hands = [*hands, Placed(box, keypoints[[WRIST, MIDDLE_MCP]], known=True)]
        return image, hands

    def _empty(self, rng: np.random.Generator) -> View:
        """A part of a picture without hands: faces, clothes, rooms."""
        for _ in range(8):
            pool = self.faces if rng.random() < 0.6 else self.closed
            scene = pool[int(rng.integers(len(pool)))]
            image = scene.image
            own = np.array(image.shape[1::-1], float)
            side = float(own.min() * rng.uniform(0.25, 0.9))
            spot = rng.uniform(side / 2 * 0.9, np.maximum(own - side / 2 * 0.9, side / 2 * 0.9 + 1))
            matrix = turned(some_degrees(rng), self.size.min() / side, spot, self.size / 2)
            frame = np.array([0, 0, *self.size], float)
            if not any(_touches(placed(hand, matrix)[0], frame) for hand in scene.hands):
                return self._cut(scene, matrix, rng, image)
        return self._whole(self._any(rng), rng)


def _touches(box: Points, frame: Points) -> bool:
    """Whether a hand's box, grown by an eighth to each side, reaches into a frame."""
    grown = (box[2:] - box[:2]) / 8
    return bool(((box[2:] + grown > frame[:2]) & (box[:2] - grown < frame[2:])).all())


# --- targets ---

SPREAD = 0.12
"""Standard deviation of the peak that is drawn for a hand, as a share of its box's sides."""
LEAST_SPREAD = 0.55
"""The same in cells, at least."""
NEAR = 0.3
"""Boxes and keypoints are learnt where that peak is so high."""


@dataclass
class Batch:
    """Views with their targets.

    Attributes:
        image: (B, 3, h, w) float32, normalised.
        heatmap: (B, 1, H, W) float32, 0 to 1; 1 in the cell of each hand's middle.
        counted: (B, 1, H, W) 0 where nobody knows whether there is a hand.
        boxes: (B, 4, H, W) distances from a cell's centre to the sides, cells.
        keypoints: (B, 2 K, H, W) vectors from there to the keypoints, cells.
        weight: (B, 1, H, W) how much the two count there; their sum for a hand is 1.
    """

    image: torch.Tensor
    heatmap: torch.Tensor
    counted: torch.Tensor
    boxes: torch.Tensor
    keypoints: torch.Tensor
    weight: torch.Tensor


Targets = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def targets(hands: Sequence[Placed], spec: ModelSpec) -> Targets:
    """Heatmap, counted, boxes, keypoints and weight of one view; see `Batch`."""
    decoder = spec.decoder
    assert isinstance(decoder, CenterNet)
    stride = decoder.stride
    rows, columns = round(spec.input.height / stride), round(spec.input.width / stride)
    heatmap, counted, weight = (np.full((1, rows, columns), value, np.float32) for value in (0.0, 1.0, 0.0))
    boxes = np.zeros((4, rows, columns), np.float32)
    keypoints = np.zeros((2 * spec.keypoint_count, rows, columns), np.float32)
    taken = np.zeros((rows, columns))
    x, y = np.arange(columns) + 0.5, (np.arange(rows) + 0.5)[:, None]
    for hand in hands:
        box = hand.box / stride
        if not hand.known:
            inside = (x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])
            counted[0][inside] = 0
            continue
        middle = (box[:2] + box[2:]) / 2
        column, row = (int(np.clip(place, 0, most - 1)) for place, most in zip(middle, (columns, rows), strict=True))
        sx, sy = np.maximum(SPREAD * (box[2:] - box[:2]), LEAST_SPREAD)
        peak = np.exp(-((x - column - 0.5) ** 2) / (2 * sx**2) - (y - row - 0.5) ** 2 / (2 * sy**2))
        heatmap[0] = np.maximum(heatmap[0], peak)
        own = (peak >= NEAR) & (peak > taken)
        taken[own] = peak[own]
        weight[0][own] = 0
        if hand.keypoints is None:
            continue
        weight[0][own] = peak[own] / peak[own].sum()
        grid = np.broadcast_arrays(x, y)
        for channel, values in enumerate((x - box[0], y - box[1], box[2] - x, box[3] - y)):
            boxes[channel][own] = np.broadcast_to(values, own.shape)[own]
        for channel, value in enumerate(hand.keypoints.ravel() / stride):
            keypoints[channel][own] = (value - grid[channel % 2])[own]
    counted[heatmap == 1] = 1
    return heatmap, counted, boxes, keypoints, weight


class Batches(Dataset[Batch]):
    """Maps a step of the training to its batch.

    Args:
        scenes: Pictures to train on.
        spec: The model.
        batch: Views in a batch.
        seed: Seed of the training.
        cut_outs: See `Views`.
    """

    def __init__(
        self, scenes: Sequence[Scene], spec: ModelSpec, batch: int, seed: int, cut_outs: CutOuts | None = None
    ) -> None:
        self.views, self.spec, self.batch, self.seed = Views(scenes, spec, cut_outs), spec, batch, seed
        self.preprocessor = Preprocessor(spec.input, "rgb")

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step])
        images, hands = zip(*(self.views(rng) for _ in range(self.batch)), strict=True)
        drawn = [np.stack(part) for part in zip(*(targets(one, self.spec) for one in hands), strict=True)]
        return Batch(torch.from_numpy(self.preprocessor.normalise(images)), *map(torch.from_numpy, drawn))


def without_hands(scenes: Sequence[Scene], count: int, seed: int, report: Callable[[int], None]) -> Iterator[Image]:
    """Parts of pictures that no known hand reaches into, the largest of a few random ones each.

    Args:
        scenes: Pictures, in whose order the parts are taken.
        count: How many, at most one of each.
        seed: Of the places.
        report: Called with the number done.
    """
    done = 0
    for number, scene in enumerate(scenes):
        if done == count:
            return
        rng, image = np.random.default_rng([seed, number]), scene.image
        height, width = image.shape[:2]
        best: tuple[int, int, int, int] | None = None
        for _ in range(300):
            side = int(rng.uniform(0.4, 0.9) * min(height, width))
            x, y = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
            frame = np.array([x, y, x + side, y + side], float)
            if any(_touches(hand.box, frame) for hand in scene.hands):
                continue
            if best is None or side > best[2] - best[0]:
                best = x, y, x + side, y + side
        if best is not None:
            done += 1
            report(done)
            yield image[best[1] : best[3], best[0] : best[2]].copy()
