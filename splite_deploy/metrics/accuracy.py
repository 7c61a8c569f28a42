"""Accuracy of predicted keypoints against labels. Pure numpy; formulas with their sources.

Shapes: N samples, K keypoints. Every error is a Euclidean distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from splite_deploy.arrays import DoubleArray


def keypoint_error(predicted: NDArray[np.floating[Any]], truth: NDArray[np.floating[Any]]) -> DoubleArray:
    """Distances (N, K) between (N, K, D) keypoints, in their unit."""
    distance: DoubleArray = np.linalg.norm(np.asarray(predicted, np.float64) - truth, axis=-1)
    return distance


def box_side(truth: NDArray[np.floating[Any]]) -> DoubleArray:
    """Longer side (N,) of the tight box of (N, K, 2) keypoints."""
    side: DoubleArray = (truth.max(axis=1) - truth.min(axis=1)).max(axis=1).astype(np.float64)
    return side


def pck(normalised_error: DoubleArray, threshold: float) -> float:
    """Share of keypoints whose error, as a fraction of the box side, is below ``threshold`` (Yang & Ramanan 2013)."""
    return float((normalised_error < threshold).mean())


def procrustes_align(predicted: NDArray[np.floating[Any]], truth: NDArray[np.floating[Any]]) -> DoubleArray:
    """Moves (K, D) points on others by the similarity of least squared error, without reflection (Umeyama 1991).

    Returns:
        (K, D) scale * R @ predicted + t. Points that all coincide are only shifted.
    """
    p, t = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    p0, t0 = p - p.mean(axis=0), t - t.mean(axis=0)
    u, s, vt = np.linalg.svd(p0.T @ t0)
    sign = np.ones(p.shape[1])
    sign[-1] = np.sign(np.linalg.det(u @ vt))
    spread = np.square(p0).sum()
    scale = (s * sign).sum() / spread if spread > 0 else 1.0
    aligned: DoubleArray = scale * p0 @ (u * sign) @ vt + t.mean(axis=0)
    return aligned


def pa_mpjpe(predicted: NDArray[np.floating[Any]], truth: NDArray[np.floating[Any]]) -> DoubleArray:
    """Mean per-keypoint error (N,) after `procrustes_align` of each sample, in the unit of ``truth``."""
    aligned = np.stack([procrustes_align(p, t) for p, t in zip(predicted, truth, strict=True)])
    error: DoubleArray = keypoint_error(aligned, truth).mean(axis=1)
    return error


def pck_auc(normalised_error: DoubleArray, limit: float) -> float:
    """Area under `pck` for thresholds from 0 to ``limit``, over ``limit`` (Zimmermann & Brox 2017): 1 without error.

    Each keypoint counts from its error on, so the area is the mean of max(0, 1 - error / limit); no steps are summed.
    """
    return float(np.clip(1 - normalised_error / limit, 0, 1).mean())


def mpjpe(predicted: NDArray[np.floating[Any]], truth: NDArray[np.floating[Any]], root: int) -> DoubleArray:
    """Mean per-keypoint error (N,) of (N, K, 3) points relative to their ``root`` keypoint (Ionescu et al. 2014).

    In the unit of both; nothing is scaled or turned.
    """
    relative = np.asarray(predicted, np.float64) - predicted[:, root : root + 1]
    error: DoubleArray = keypoint_error(relative, truth - truth[:, root : root + 1]).mean(axis=1)
    return error


def bone_length(points: NDArray[np.floating[Any]], bones: ArrayLike) -> DoubleArray:
    """Root mean square length (N,) of pairs of (N, K, D) points."""
    first, second = np.asarray(bones).T
    squares = np.square(np.asarray(points, np.float64)[:, first] - points[:, second]).sum(axis=-1)
    length: DoubleArray = np.sqrt(squares.mean(axis=1))
    return length


COCO_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10))
MOST_POSES = 20
"""So many predictions of an image count, the surest (COCO, "Keypoint Evaluation"); of boxes more do."""


def oks(
    predicted: NDArray[np.floating[Any]],
    truth: NDArray[np.floating[Any]],
    area: ArrayLike,
    sigmas: ArrayLike,
    labelled: NDArray[np.bool_] | None = None,
) -> DoubleArray:
    """Object keypoint similarity (N,) of (N, K, 2) keypoints (COCO, "Keypoint Evaluation").

    The mean over labelled keypoints of exp(-d^2 / (2 s^2 k^2)), with the distance d, s^2 the area of the object and k
    twice the sigma.

    Args:
        predicted: Pixels.
        truth: Pixels; what broadcasts with ``predicted`` will do.
        area: (N,) of each object, square pixels.
        sigmas: (K,), such as those of `splite_deploy.spec.presets.oks_sigmas`.
        labelled: (N, K) which keypoints are labelled, at least one of each object; None where all are.
    """
    falloff = 2 * np.asarray(area, np.float64)[..., None] * np.square(2 * np.asarray(sigmas, np.float64))
    similarity = np.exp(-np.square(keypoint_error(predicted, truth)) / falloff)
    weights = np.ones_like(similarity) if labelled is None else np.broadcast_to(labelled, similarity.shape)
    mean: DoubleArray = np.average(similarity, axis=-1, weights=weights)
    return mean


def oks_outside(
    predicted: NDArray[np.floating[Any]], box: NDArray[np.float64], area: float, sigmas: ArrayLike
) -> DoubleArray:
    """The similarity (N,) with an object of which no keypoint is labelled: distances are those from its box, doubled.

    Args:
        predicted: (N, K, 2) pixels.
        box: (4,) xyxy of the object, pixels.
        area: Of the object, square pixels.
        sigmas: (K,).
    """
    size = box[2:] - box[:2]
    nearest = np.clip(predicted, box[:2] - size, box[2:] + size)
    return oks(predicted, nearest, area, sigmas)


@dataclass(frozen=True)
class Scene:
    """The predictions and the objects of one image.

    Attributes:
        similarity: (P, G) of each prediction with each object: `oks`, or what boxes have in common.
        scores: (P,) confidence of the predictions.
        ignored: (G,) objects that nobody has to find: a prediction that matches one counts neither way.
        crowd: (G,) those among them that any number of predictions may match.
    """

    similarity: DoubleArray
    scores: DoubleArray
    ignored: NDArray[np.bool_]
    crowd: NDArray[np.bool_]

    @classmethod
    def of_one(cls, similarity: float, score: float) -> Scene:
        """One prediction of one object."""
        no = np.zeros(1, bool)
        return cls(np.array([[similarity]]), np.array([score]), no, no)


def average_precision(
    scenes: Sequence[Scene], thresholds: Sequence[float] = COCO_THRESHOLDS, *, most: int = MOST_POSES
) -> float:
    """COCO's average precision, as pycocotools' COCOeval computes it for objects of all sizes.

    In each image the surest prediction chooses first, the object that it resembles most of those that are left; below
    the threshold it is wrong. Precision is taken at 101 recalls from 0 to 1, as the best at that recall or beyond, and
    averaged; then the mean over the thresholds.

    Args:
        scenes: One for each image; equally sure predictions come in their order.
        thresholds: Of the similarity.
        most: So many predictions of an image count, the surest.
    """
    objects = sum(int((~scene.ignored).sum()) for scene in scenes)
    if not objects:
        return 0.0
    recalls = np.linspace(0, 1, 101)
    found = []
    for threshold in thresholds:
        matches = [_matches(scene, threshold, most) for scene in scenes]
        scores = np.concatenate([scores for scores, _, _ in matches])
        right, counts = (np.concatenate([match[i] for match in matches]) for i in (1, 2))
        order = np.argsort(-scores, kind="stable")
        right, counts = right[order], counts[order]
        true, false = np.cumsum(right & counts), np.cumsum(~right & counts)
        recall, precision = true / objects, true / np.maximum(true + false, 1)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(recall, recalls, side="left")
        found.append(np.append(best, 0.0)[at].mean())
    return float(np.mean(found))


def _matches(scene: Scene, threshold: float, most: int) -> tuple[DoubleArray, NDArray[np.bool_], NDArray[np.bool_]]:
    """Scores of the predictions, the surest first; which matched; which count."""
    order = np.argsort(-scene.scores, kind="stable")[:most]
    free = np.ones(len(scene.ignored), bool)
    right, counts = np.zeros(len(order), bool), np.ones(len(order), bool)
    for place, index in enumerate(order):
        similar = np.where((free | scene.crowd) & (scene.similarity[index] >= threshold), scene.similarity[index], -1.0)
        wanted = np.where(scene.ignored, -1.0, similar)
        candidates = wanted if (wanted >= 0).any() else similar  # an object that counts goes before one that does not
        if (candidates >= 0).any():
            last = len(candidates) - 1 - int(np.argmax(candidates[::-1]))  # the last of equals, as there
            free[last], right[place], counts[place] = False, True, not scene.ignored[last]
    return scene.scores[order], right, counts
