"""Accuracy of predicted keypoints against labels. Pure numpy; formulas with their sources.

Shapes: N samples, K keypoints. Every error is a Euclidean distance.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def oks(
    predicted: NDArray[np.floating[Any]], truth: NDArray[np.floating[Any]], area: DoubleArray, sigmas: ArrayLike
) -> DoubleArray:
    """Object keypoint similarity (N,) of (N, K, 2) keypoints, all of them labelled (COCO, "Keypoint Evaluation").

    The mean over keypoints of exp(-d^2 / (2 s^2 k^2)), with the distance d, s^2 the area of the object and k twice the
    sigma.

    Args:
        predicted: Pixels.
        truth: Pixels.
        area: (N,) of each object, square pixels.
        sigmas: (K,), such as those of `splite_deploy.spec.presets.oks_sigmas`.
    """
    falloff = 2 * area[:, None] * np.square(2 * np.asarray(sigmas, np.float64))
    similarity: DoubleArray = np.exp(-np.square(keypoint_error(predicted, truth)) / falloff).mean(axis=1)
    return similarity


def average_precision(
    similarity: DoubleArray, scores: DoubleArray, thresholds: Sequence[float] = COCO_THRESHOLDS
) -> float:
    """COCO's average precision where every object has one prediction of its own, made in its labelled box.

    For each threshold predictions count as right from that `oks` on; precision is taken at 101 recalls from 0 to 1, as
    the best at that recall or beyond, and averaged; then the mean over the thresholds.

    Args:
        similarity: (N,) `oks` of each prediction with its object.
        scores: (N,) confidence; the surest come first, equal ones in their order.
        thresholds: Of the similarity.
    """
    order = np.argsort(-scores, kind="stable")
    recalls = np.linspace(0, 1, 101)
    found = []
    for threshold in thresholds:
        right = np.cumsum(similarity[order] >= threshold)
        recall, precision = right / len(order), right / np.arange(1, len(order) + 1)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(recall, recalls, side="left")
        found.append(np.append(best, 0.0)[at].mean())
    return float(np.mean(found))
