"""Training data of SPLite Hand: real photographs and rendered hands, augmented. Runs on the developer's machine.

Every batch is a function of (seed, step) alone, so that a resumed training sees what an unbroken one would have.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from splite_deploy.decoders import SoftArgmaxDepth
from splite_deploy.metrics.labels import LabelledImage, tight_box
from splite_deploy.runtime.preprocess import Preprocessor, transform_points, warp
from splite_deploy.spec import ModelSpec

sys.path.insert(0, str(Path(__file__).parent))  # synthetic.py lies beside this file, outside any package
sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from augmentation import degrade, mirror, mirrored_order, random_matrix, recolour
from palm import palm_depth
from synthetic import SyntheticHand, random_background, render_hand

cv2.setNumThreads(0)  # OpenCV's thread pool does not survive the fork of a data loader's worker: it hangs there

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """One hand, not yet cropped.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        keypoints: (K, 2) float64 pixels of the image.
        depth: (K,) float64 relative to the root keypoint, in palms.
        mask: (H, W) uint8, 255 where the hand is.
    """

    image: Image
    keypoints: NDArray[np.float64]
    depth: NDArray[np.float64]
    mask: Image


def real_sample(labelled: LabelledImage, spec: ModelSpec) -> Sample:
    """Reads a photograph and cuts out its hand."""
    assert isinstance(spec.decoder, SoftArgmaxDepth) and labelled.world_mm is not None
    image = cv2.cvtColor(cv2.imread(str(labelled.path)), cv2.COLOR_BGR2RGB)
    mask = cut_out(image, labelled.keypoints, spec)  # type: ignore[arg-type]
    depth = palm_depth(labelled.world_mm, spec.decoder)
    return Sample(image, labelled.keypoints, depth, mask)  # type: ignore[arg-type]


def synthetic_sample(hand: SyntheticHand, spec: ModelSpec) -> Sample:
    """A rendered hand as a training sample."""
    assert isinstance(spec.decoder, SoftArgmaxDepth)
    depth = palm_depth(hand.keypoints_3d_mm.astype(np.float64), spec.decoder)
    return Sample(hand.image, hand.keypoints.astype(np.float64), depth, hand.mask.astype(np.uint8) * 255)


def cut_out(image: Image, keypoints: NDArray[np.float64], spec: ModelSpec) -> Image:
    """Mask of the hand by GrabCut (Rother et al. 2004), started from the drawn skeleton.

    Returns:
        (H, W) uint8, 255 on the hand.
    """
    side = float((keypoints.max(axis=0) - keypoints.min(axis=0)).max())
    points = np.round(keypoints - 0.5).astype(int)
    seeds = np.full(image.shape[:2], cv2.GC_BGD, np.uint8)
    for width, label in ((0.36, cv2.GC_PR_BGD), (0.12, cv2.GC_PR_FGD), (0.03, cv2.GC_FGD)):
        thickness = max(1, round(width * side))
        for a, b in spec.skeleton.edges:
            cv2.line(seeds, points[a].tolist(), points[b].tolist(), int(label), thickness)
    if (seeds == cv2.GC_BGD).any():
        cv2.grabCut(image, seeds, None, np.zeros((1, 65)), np.zeros((1, 65)), 2, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    hand = np.isin(seeds, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8) * 255
    return cv2.GaussianBlur(hand, (3, 3), 0)  # type: ignore[return-value]


def load_real(labels: Iterable[LabelledImage], spec: ModelSpec, report: Callable[[int], None]) -> list[Sample]:
    """Reads all photographs; calls ``report`` with the number done."""
    samples = []
    for index, labelled in enumerate(labels):
        samples.append(real_sample(labelled, spec))
        report(index + 1)
    return samples


def render_pool(count: int, seed: int, spec: ModelSpec, cache: Path, report: Callable[[int], None]) -> list[Sample]:
    """Renders ``count`` hands, or reads them from ``cache`` where they were rendered before."""
    if count == 0:
        return []
    file = cache / f"synthetic-{seed}-{count}.npz"
    if file.exists():
        with np.load(file) as stored:
            arrays = [stored[key] for key in ("image", "keypoints", "depth", "mask")]
        return [Sample(*parts) for parts in zip(*arrays, strict=True)]
    samples = []
    for index in range(count):
        samples.append(synthetic_sample(render_hand(np.random.default_rng([seed, index])), spec))
        report(index + 1)
    cache.mkdir(parents=True, exist_ok=True)
    keys = ("image", "keypoints", "depth", "mask")
    np.savez_compressed(file, **{key: np.stack([getattr(s, key) for s in samples]) for key in keys})
    return samples


def augment(
    sample: Sample, spec: ModelSpec, rng: np.random.Generator
) -> tuple[Image, NDArray[np.float64], NDArray[np.float64]]:
    """One random view of a sample.

    Returns:
        Crop (h, w, 3) uint8 RGB, keypoints (K, 2) in its pixels, depth (K,). A mirrored right hand is a left hand: its
        keypoints keep their names, since a single hand has no left/right pairs; ``flip_pairs`` exchanges them in
        models that have.
    """
    height, width = spec.input.height, spec.input.width
    matrix = random_matrix(tight_box(sample.keypoints), spec, rng)
    mirrored = rng.random() < 0.5
    if mirrored:
        matrix = mirror(matrix, width)
    pad = int(rng.integers(256)) if rng.random() < 0.5 else spec.input.pad_value
    crop = warp(sample.image, matrix, height, width, pad)
    keypoints, depth = transform_points(sample.keypoints, matrix), sample.depth
    if mirrored:
        order = mirrored_order(spec)
        keypoints, depth = keypoints[order], depth[order]
    if rng.random() < 0.35:
        mask = warp(np.repeat(sample.mask[..., None], 3, axis=2), matrix, height, width, 0)
        share = mask.astype(np.float32) / 255
        crop = (crop * share + random_background(rng, max(height, width))[:height, :width] * (1 - share)).astype(
            np.uint8
        )
    return degrade(recolour(crop, rng), rng), keypoints, depth


@dataclass
class Batch:
    """Augmented crops.

    Attributes:
        image: (B, 3, h, w) float32, normalised.
        keypoints: (B, K, 2) float32 input pixels.
        depth: (B, K) float32 palms.
    """

    image: torch.Tensor
    keypoints: torch.Tensor
    depth: torch.Tensor


class Batches(Dataset[Batch]):
    """Maps a step of the training to its batch.

    Args:
        real: Photographs; may be empty.
        synthetic: Rendered hands; may be empty.
        spec: The model.
        batch: Crops in a batch.
        real_share: Chance that a crop comes from a photograph where both kinds are given.
        seed: Seed of the training.
    """

    def __init__(
        self,
        real: list[Sample],
        synthetic: list[Sample],
        spec: ModelSpec,
        batch: int,
        real_share: float,
        seed: int,
    ) -> None:
        self.pools = [pool for pool in (real, synthetic) if pool]
        self.chances = [real_share, 1 - real_share] if len(self.pools) == 2 else [1.0]
        self.spec, self.batch, self.seed = spec, batch, seed
        self.preprocessor = Preprocessor(spec.input, "rgb")

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step])
        views = []
        for _ in range(self.batch):
            pool = self.pools[int(rng.choice(len(self.pools), p=self.chances))]
            views.append(augment(pool[int(rng.integers(len(pool)))], self.spec, rng))
        crops, keypoints, depth = zip(*views, strict=True)
        return Batch(
            torch.from_numpy(self.preprocessor.normalise(crops)),
            torch.from_numpy(np.stack(keypoints).astype(np.float32)),
            torch.from_numpy(np.stack(depth).astype(np.float32)),
        )
