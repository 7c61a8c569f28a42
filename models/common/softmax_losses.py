"""Losses of heatmaps that a softmax is taken of. B crops, K keypoints, H, W size of a heatmap."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from splite_deploy.decoders.torch.heatmap import SoftHeatmapModule

SIGMA_CELLS = 1.0
"""Of the Gaussian around a label, in cells."""


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of (B, K) values by their (B, K) weights in 0 to 1, of keypoints that count more or less; 0 without any."""
    return (values * weight).sum() / weight.sum().clamp(min=1)


def softmax_terms(
    maps: SoftHeatmapModule,
    stride: float,
    heatmap: Tensor,
    keypoints: Tensor,
    weight: Tensor,
    doubted_cells: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """How far heatmaps are from labels.

    * position: L1 of the soft-argmax in cells (Sun et al. 2018); L1, since some labels are wrong.
    * heatmap: cross-entropy between the softmax and a Gaussian around the label, which keeps maps single-peaked.

    Args:
        maps: Where the cells lie.
        stride: Input pixels per cell.
        heatmap: (B, K, H, W) logits.
        keypoints: (B, K, 2) input pixels.
        weight: (B, K): 1 for keypoints that count, 0 for others, and anything between.
        doubted_cells: Where labels may be wrong: at this distance along an axis a keypoint draws half as strongly, and
            the further it is the less, so that position is c log(1 + |d| / c) instead of |d|. None doubts nothing.

    Returns:
        The softmax (B, K, H * W), and the terms by name.
    """
    log_p = F.log_softmax(maps.logits(heatmap), dim=2)
    p = log_p.exp()
    off = (maps.expected(p) - keypoints) / stride
    xs, ys = maps.centres[: maps.width, 0], maps.centres[:: maps.width, 1]
    sigma = SIGMA_CELLS * stride
    gx = torch.exp(-((xs - keypoints[..., :1]) ** 2) / (2 * sigma**2))
    gy = torch.exp(-((ys - keypoints[..., 1:]) ** 2) / (2 * sigma**2))
    gaussian = maps.flat(gy[..., :, None] * gx[..., None, :])
    gaussian = gaussian / gaussian.sum(2, keepdim=True).clamp(min=1e-6)
    off = off.abs()
    if doubted_cells is not None:
        off = doubted_cells * torch.log1p(off / doubted_cells)
    terms = {"position": off.sum(2), "heatmap": -(gaussian * log_p).sum(2)}
    return p, {name: weighted_mean(term, weight) for name, term in terms.items()}


def divergence(teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """Kullback-Leibler divergence of a student's softmax from the teacher's, with which it learns where that hesitates.

    Args:
        teacher: (B, K, N) logits.
        student: Those of the student.

    Returns:
        The mean divergence, and the teacher's softmax.
    """
    log_p, log_q = F.log_softmax(teacher, dim=2), F.log_softmax(student, dim=2)
    p = log_p.exp()
    return (p * (log_p - log_q)).sum(2).mean(), p
