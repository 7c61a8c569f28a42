"""Random crops of tiles, as SPLite Hand 2 sees hands in use: nearly upright, in boxes that are nearly right.

Every batch is a function of (seed, step) alone, so that a resumed training sees what an unbroken one would have.
Workers use numpy and OpenCV alone; each picture is resampled once.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from splite_deploy.metrics.turned_boxes import angle_of, turned_box
from splite_deploy.runtime.preprocess import crop_matrix, transform_points
from splite_deploy.spec import ModelSpec

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from augmentation import before, mirror
from hand2_tiles import NEGATIVES, Tile, Tiles

cv2.setNumThreads(0)  # OpenCV's thread pool does not survive the fork of a data loader's worker: it hangs there

Image = NDArray[np.uint8]
Matrix = NDArray[np.float64]
ANGLE_DEG = 14.0
"""Standard deviation of the angle's error, of most crops."""
UNTURNED, ANYHOW = 0.15, 0.2
"""Shares of crops with the angle 0, as in a first look without a detector's keypoints, and with any angle."""
ZOOM, SHIFT, WIDE, WIDER = 0.12, 0.05, 0.08, 2.5
"""Standard deviations of the box's scale (of its logarithm) and place (of its side); a share has them so much wider."""
REPLACED = 0.35
"""Share of crops with a mask that are put before another background."""
NOISE_SIDE, NOISE_SIGMA = 512, 32.0


@dataclass(frozen=True)
class Crop:
    """What the network is to see, and what it is to say.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        keypoints: (21, 2) pixels of the crop; 0 without a hand.
        depth: (21,) palms, relative to the root keypoint.
        weight: (21,) how much each keypoint counts, 0 to 1; 0 outside the crop and without a hand.
        present: Whether there is a hand.
        right: Chance that it is a right one; NaN where nobody knows.
    """

    image: Image
    keypoints: NDArray[np.float64]
    depth: NDArray[np.float64]
    weight: NDArray[np.float64]
    present: bool
    right: float


@dataclass
class Batch:
    """B crops; see `Crop`.

    Attributes:
        image: (B, h, w, 3) uint8.
        keypoints: (B, 21, 2) float32.
        depth: (B, 21) float32.
        weight: (B, 21) float32.
        present: (B,) float32, 0 or 1.
        right: (B,) float32.
    """

    image: torch.Tensor
    keypoints: torch.Tensor
    depth: torch.Tensor
    weight: torch.Tensor
    present: torch.Tensor
    right: torch.Tensor


# --- where to look --------------------------------------------------------------------------------


def looked_at(keypoints: NDArray[np.float64], spec: ModelSpec, rng: np.random.Generator) -> Matrix:
    """The map (2, 3) from a tile to a crop whose box and angle are about those of a hand."""
    turn = spec.input.turn
    assert turn is not None
    chance = rng.random()
    if chance < UNTURNED:
        angle_deg = rng.normal(0, 5)
    elif chance < UNTURNED + ANYHOW:
        angle_deg = rng.uniform(-180, 180)
    else:
        angle_deg = (angle_of(keypoints, turn) or 0.0) + rng.normal(0, ANGLE_DEG)
    matrix = crop_matrix(turned_box(keypoints, angle_deg), spec.input)
    wide = WIDER if rng.random() < WIDE else 1.0
    zoom = float(np.exp(np.clip(rng.normal(0, ZOOM * wide), -0.5, 0.5)))
    size = np.array([spec.input.width, spec.input.height])
    matrix *= zoom
    matrix[:, 2] += (1 - zoom) * size / 2 + rng.normal(0, SHIFT * wide, 2) * size
    return matrix


def anywhere(tile: Image, spec: ModelSpec, rng: np.random.Generator) -> Matrix:
    """The map (2, 3) from a tile to a crop of most of it, turned anyhow."""
    size, shown = np.array([spec.input.width, spec.input.height]), np.array(tile.shape[1::-1])
    angle = rng.normal(0, 0.4) if rng.random() < 0.7 else rng.uniform(-np.pi, np.pi)
    scale = size.max() / shown.min() * np.exp(rng.uniform(-0.05, 0.6))
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = shown / 2 + rng.uniform(-0.15, 0.15, 2) * shown
    return np.column_stack([linear, size / 2 - linear @ centre])


def cut(tile: Image, matrix: Matrix, spec: ModelSpec, border: int, *, reflect: bool = False) -> Image:
    """Resamples a tile (H, W, 4) to (h, w, 4), as `splite_deploy.runtime.preprocess.warp` where nothing shrinks."""
    shifted = matrix.copy()
    shifted[:, 2] += (matrix[:, :2].sum(axis=1) - 1) / 2  # OpenCV's origin is the centre of the first pixel
    return cv2.warpAffine(  # type: ignore[return-value]
        tile,
        shifted,
        (spec.input.width, spec.input.height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101 if reflect else cv2.BORDER_CONSTANT,
        borderValue=(border, border, border, 0),
    )


# --- how it looks ---------------------------------------------------------------------------------


class Look:
    """Random light, colour, sharpness, noise, compression and things in front of a crop.

    Noise is cut from one large field, since drawing it anew takes longer than all the rest.
    """

    def __init__(self, seed: int = 0) -> None:
        noise = np.random.default_rng(seed).normal(128, NOISE_SIGMA, (NOISE_SIDE, NOISE_SIDE, 3))
        self._noise = np.clip(noise, 0, 255).astype(np.uint8)

    def __call__(self, crop: Image, rng: np.random.Generator) -> Image:
        """The crop (h, w, 3) in another light, by another camera."""
        chances = rng.random(6)
        crop = _recoloured(crop, rng)
        if chances[0] < 0.25:
            crop = _cut_outs(crop, rng)
        if chances[1] < 0.3:
            crop = _blurred(crop, rng)
        if chances[2] < 0.45:
            crop = self._noisy(crop, rng)
        if chances[3] < 0.2:
            crop = _compressed(crop, rng)
        return crop

    def _noisy(self, crop: Image, rng: np.random.Generator) -> Image:
        height, width = crop.shape[:2]
        y, x = rng.integers(0, NOISE_SIDE - np.array([height, width]), endpoint=True)
        strength = rng.uniform(1, 16) / NOISE_SIGMA
        noise = self._noise[y : y + height, x : x + width]
        return cv2.addWeighted(crop, 1.0, noise, strength, -128 * strength)  # type: ignore[return-value]


def _recoloured(crop: Image, rng: np.random.Generator) -> Image:
    """Saturation and hue by one matrix of colours, exposure, contrast, gamma and white balance by one table."""
    chances = rng.random(2)
    if chances[0] < 0.5:
        saturation = 0.0 if chances[1] < 0.12 else rng.uniform(0.5, 1.5)
        grey = np.full((3, 3), 1 / 3)
        mixed = saturation * (np.eye(3) + rng.normal(0, 0.06, (3, 3))) + (1 - saturation) * grey
        mixed /= mixed.sum(axis=1, keepdims=True)
        crop = cv2.transform(crop, mixed)  # type: ignore[assignment]
    gamma, contrast, light, *gains = rng.normal(0, (0.25, 0.2, 0.1, 0.08, 0.08, 0.08))
    ramp = (_RAMP ** np.exp(gamma) - 0.5) * np.exp(contrast) + 0.5 + light
    table = np.clip(ramp[:, None] * np.exp(gains) * 255, 0, 255).astype(np.uint8)
    return cv2.LUT(crop, table[None])  # type: ignore[return-value]


_RAMP = np.linspace(0, 1, 256)


def _cut_outs(crop: Image, rng: np.random.Generator) -> Image:
    """Bars and rectangles of one colour in front."""
    height, width = crop.shape[:2]
    crop = crop.copy()
    for _ in range(int(rng.integers(1, 4))):
        colour = rng.integers(0, 256, 3).tolist()
        if rng.random() < 0.4:
            ends = rng.uniform(-0.2, 1.2, (2, 2)) * (width, height)
            (x0, y0), (x1, y1) = ends.astype(int).tolist()
            cv2.line(crop, (x0, y0), (x1, y1), colour, int(rng.integers(2, 14)), cv2.LINE_AA)
            continue
        h, w = (rng.uniform(0.06, 0.26, 2) * (height, width)).astype(int)
        y, x = int(rng.integers(height - h)), int(rng.integers(width - w))
        crop[y : y + h, x : x + w] = colour
    return crop


def _blurred(crop: Image, rng: np.random.Generator) -> Image:
    """Out of focus, of low resolution, or moved while the shutter was open."""
    kind = rng.random()
    if kind < 0.3:
        return cv2.GaussianBlur(crop, (0, 0), rng.uniform(0.5, 2.0))  # type: ignore[return-value]
    if kind < 0.65:
        size = (rng.uniform(0.25, 0.7) * np.array(crop.shape[1::-1])).astype(int).tolist()
        small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
        return cv2.resize(small, crop.shape[1::-1], interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]
    length, angle = int(rng.integers(3, 11)), rng.uniform(0, np.pi)
    kernel = np.zeros((length, length), np.float32)
    middle, reach = (length - 1) / 2, (length - 1) / 2 * np.array([np.cos(angle), np.sin(angle)])
    (x0, y0), (x1, y1) = np.round([middle - reach, middle + reach]).astype(int).tolist()
    cv2.line(kernel, (x0, y0), (x1, y1), 1.0)
    return cv2.filter2D(crop, -1, kernel / kernel.sum())  # type: ignore[return-value]


def _compressed(crop: Image, rng: np.random.Generator) -> Image:
    """Artefacts of JPEG."""
    _, stream = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 85))])
    return cv2.imdecode(stream, cv2.IMREAD_COLOR)  # type: ignore[return-value]


# --- batches --------------------------------------------------------------------------------------


class Crops:
    """Random crops of the tiles of some sources.

    Args:
        sources: Tiles by name; those called `hand2_tiles.NEGATIVES` show no hands, and are backgrounds, too.
        shares: Which share of the crops each source gives.
        spec: The model.
    """

    def __init__(self, sources: Mapping[str, Tiles], shares: Mapping[str, float], spec: ModelSpec) -> None:
        self.sources = [sources[name] for name in shares if len(sources[name])]
        given = np.array([shares[tiles.name] for tiles in self.sources])
        self._ends = np.cumsum(given / given.sum())
        self._negatives = sources.get(NEGATIVES)
        self.spec, self._look = spec, Look()

    def draw(self, rng: np.random.Generator) -> Crop:
        """One crop; all that is random about it comes from ``rng``."""
        tiles = self.sources[min(int(np.searchsorted(self._ends, rng.random())), len(self.sources) - 1)]
        tile = tiles[int(rng.integers(len(tiles)))]
        return self.without_hand(tile, rng) if tiles.name == NEGATIVES else self.of_hand(tile, rng)

    def without_hand(self, tile: Tile, rng: np.random.Generator) -> Crop:
        """A crop that shows no hand."""
        image = cut(tile.image, anywhere(tile.image, self.spec, rng), self.spec, 127, reflect=bool(rng.random() < 0.5))
        nothing = np.zeros(len(tile.keypoints))
        pixels = self._look(np.ascontiguousarray(image[..., :3]), rng)
        return Crop(pixels, np.zeros_like(tile.keypoints), nothing, nothing, False, float("nan"))

    def of_hand(self, tile: Tile, rng: np.random.Generator) -> Crop:
        """A crop around the hand of a tile."""
        width, height = self.spec.input.width, self.spec.input.height
        matrix, right = looked_at(tile.keypoints, self.spec, rng), tile.right
        border, mirrored, replaced = rng.random(3)
        if mirrored < 0.5:  # a mirrored right hand is a left one whose keypoints keep their names
            matrix, right = mirror(matrix, width), 1 - right
        image = cut(tile.image, matrix, self.spec, 127 if border < 0.6 else int(rng.integers(256)))
        if tile.masked and replaced < REPLACED and self._negatives:
            other = self._negatives[int(rng.integers(len(self._negatives)))].image
            pixels = before(image, cut(other, anywhere(other, self.spec, rng), self.spec, 127, reflect=True))
        else:
            pixels = np.ascontiguousarray(image[..., :3])
        keypoints = transform_points(tile.keypoints, matrix)
        inside = ((keypoints > 0) & (keypoints < (width, height))).all(axis=1)
        return Crop(self._look(pixels, rng), keypoints, tile.depth, tile.weight * inside, True, right)


class Batches(Dataset[Batch]):
    """Maps a step of the training to its batch.

    Args:
        crops: Where crops come from.
        batch: Crops in a batch.
        seed: Seed of the training.
    """

    def __init__(self, crops: Crops, batch: int, seed: int) -> None:
        self.crops, self.batch, self.seed = crops, batch, seed

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step])
        return stacked([self.crops.draw(rng) for _ in range(self.batch)])


def stacked(crops: Sequence[Crop]) -> Batch:
    """Crops as a batch."""

    def numbers(name: str) -> torch.Tensor:
        return torch.from_numpy(np.array([getattr(crop, name) for crop in crops], np.float32))

    return Batch(
        torch.from_numpy(np.stack([crop.image for crop in crops])),
        *(numbers(name) for name in ("keypoints", "depth", "weight", "present", "right")),
    )
