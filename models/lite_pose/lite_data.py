"""Training data of body networks: people in pictures as COCO labels them, augmented. Runs on the developer's machine.

Every batch is a function of (seed, step) alone, so that a resumed training sees what an unbroken one would have.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from splite_deploy.metrics.labels import tight_box
from splite_deploy.runtime.io.images import read_image
from splite_deploy.runtime.preprocess import Image, Preprocessor, transform_points, warp
from splite_deploy.spec import ModelSpec
from splite_deploy.spec.presets import COCO17

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from augmentation import degrade, mirror, mirrored_order, random_matrix, recolour

cv2.setNumThreads(0)  # OpenCV's thread pool does not survive the fork of a data loader's worker: it hangs there

UPPER = 11
"""Of COCO's keypoints so many belong to the head and the arms, and those after them, up to the 17th, to the legs."""
LEAST_IN_HALF = 4


@dataclass(frozen=True)
class Person:
    """One labelled person.

    Attributes:
        path: The image file.
        box: (4,) xyxy pixels.
        keypoints: (K, 2) pixels of the image.
        labelled: (K,) which of them are known.
        area_px2: Of the person, for `splite_deploy.metrics.accuracy.oks`.
    """

    path: Path
    box: NDArray[np.float64]
    keypoints: NDArray[np.float64]
    labelled: NDArray[np.bool_]
    area_px2: float

    @property
    def image(self) -> Image:
        """(H, W, 3) uint8 RGB."""
        return cv2.cvtColor(read_image(self.path), cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def half_box(person: Person, rng: np.random.Generator) -> NDArray[np.float64]:
    """The box of the person, or of the half of the body that is labelled, one of the two at random (HRNet)."""
    halves = [np.arange(UPPER), np.arange(UPPER, 17)]
    half = halves[int(rng.integers(2))]
    chosen = half[person.labelled[half]]
    return tight_box(person.keypoints[chosen]) if len(chosen) >= LEAST_IN_HALF else person.box


def augment(
    person: Person, spec: ModelSpec, rng: np.random.Generator, half_body: float
) -> tuple[Image, NDArray[np.float64], NDArray[np.bool_]]:
    """One random view of a person.

    Args:
        person: The person.
        spec: The model.
        rng: Source of chance.
        half_body: How often a half of the body is cut out.

    Returns:
        Crop (h, w, 3) uint8 RGB, keypoints (K, 2) in its pixels, and which of them are labelled and inside of it (K,).
    """
    height, width = spec.input.height, spec.input.width
    box = half_box(person, rng) if rng.random() < half_body else person.box
    matrix = random_matrix(box, spec, rng)
    order = np.arange(spec.keypoint_count)
    if rng.random() < 0.5:
        matrix, order = mirror(matrix, width), mirrored_order(spec)
    pad = int(rng.integers(256)) if rng.random() < 0.5 else spec.input.pad_value
    crop = warp(person.image, matrix, height, width, pad)
    keypoints = transform_points(person.keypoints, matrix)[order]
    inside = ((keypoints > 0) & (keypoints < (width, height))).all(axis=1)
    return degrade(recolour(crop, rng), rng), keypoints, person.labelled[order] & inside


@dataclass
class Batch:
    """Augmented crops.

    Attributes:
        image: (B, 3, h, w) float32, normalised.
        keypoints: (B, K, 2) float32 input pixels.
        weight: (B, K) float32: 1 for keypoints that count.
    """

    image: torch.Tensor
    keypoints: torch.Tensor
    weight: torch.Tensor


class Batches(Dataset[Batch]):
    """Maps a step of the training to its batch.

    Args:
        people: At least one.
        spec: The model.
        batch: Crops in a batch.
        seed: Seed of the training.
        half_body: See `augment`; never where the skeleton does not begin with the keypoints of COCO.
    """

    def __init__(self, people: list[Person], spec: ModelSpec, batch: int, seed: int, half_body: float) -> None:
        self.people, self.spec, self.batch, self.seed = people, spec, batch, seed
        self.half_body = half_body if spec.skeleton.keypoint_names[:17] == COCO17.keypoint_names else 0.0
        self.preprocessor = Preprocessor(spec.input, "rgb")

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step])
        chosen = [self.people[int(i)] for i in rng.integers(len(self.people), size=self.batch)]
        crops, keypoints, weight = zip(*(augment(one, self.spec, rng, self.half_body) for one in chosen), strict=True)
        return Batch(
            torch.from_numpy(self.preprocessor.normalise(crops)),
            torch.from_numpy(np.stack(keypoints).astype(np.float32)),
            torch.from_numpy(np.stack(weight).astype(np.float32)),
        )
