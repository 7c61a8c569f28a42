"""Accuracy of predicted keypoints against labels. Pure numpy; formulas with their sources.

Shapes: N samples, K keypoints. Every error is a Euclidean distance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def keypoint_error(predicted: NDArray[np.floating[Any]], truth: NDArray[np.floating[Any]]) -> Array:
    """Distances (N, K) between (N, K, D) keypoints, in their unit."""
    distance: Array = np.linalg.norm(np.asarray(predicted, np.float64) - truth, axis=-1)
    return distance


def box_side(truth: NDArray[np.floating[Any]]) -> Array:
    """Longer side (N,) of the tight box of (N, K, 2) keypoints."""
    side: Array = (truth.max(axis=1) - truth.min(axis=1)).max(axis=1).astype(np.float64)
    return side


def pck(normalised_error: Array, threshold: float) -> float:
    """Share of keypoints whose error, as a fraction of the box side, is below ``threshold`` (Yang & Ramanan 2013)."""
    return float((normalised_error < threshold).mean())


def procrustes_align(predicted: NDArray[np.floating[Any]], truth: NDArray[np.floating[Any]]) -> Array:
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
    aligned: Array = scale * p0 @ (u * sign) @ vt + t.mean(axis=0)
    return aligned


def pa_mpjpe(predicted: NDArray[np.floating[Any]], truth: NDArray[np.floating[Any]]) -> Array:
    """Mean per-keypoint error (N,) after `procrustes_align` of each sample, in the unit of ``truth``."""
    aligned = np.stack([procrustes_align(p, t) for p, t in zip(predicted, truth, strict=True)])
    error: Array = keypoint_error(aligned, truth).mean(axis=1)
    return error
