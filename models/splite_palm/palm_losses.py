"""What the training of SPLite Palm minimises. B views, H, W cells; boxes and keypoints in cells."""

from __future__ import annotations

import torch
from palm_data import Batch
from torch import Tensor
from torch.nn import functional as F

WEIGHTS = {"heatmap": 1.0, "overlap": 2.0, "sides": 0.5, "keypoints": 1.0}
"""Of the terms in the sum."""
LEAST = 0.01
"""Cells, of a distance to a side where areas are computed."""


def focal(logits: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
    """The penalty-reduced focal loss of CornerNet and CenterNet (Law & Deng 2018), over the number of hands.

    Args:
        logits: (B, 1, H, W).
        truth: (B, 1, H, W) 1 at a middle, less around it.
        counted: (B, 1, H, W) 0 for cells that count for nothing.
    """
    p, peaks = logits.sigmoid(), truth == 1
    sure, unsure = F.logsigmoid(logits), F.logsigmoid(-logits)
    found = (1 - p) ** 2 * sure * peaks
    imagined = (1 - truth) ** 4 * p**2 * unsure * ~peaks
    return -((found + imagined) * counted).sum() / peaks.sum().clamp(min=1)


def generalised_iou(first: Tensor, second: Tensor) -> Tensor:
    """GIoU (Rezatofighi et al. 2019) of boxes around one point, (B, 4, H, W) distances to the sides: (B, 1, H, W)."""
    first = first.clamp(min=LEAST)
    areas = [(one[:, :1] + one[:, 2:3]) * (one[:, 1:2] + one[:, 3:]) for one in (first, second)]
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    shared = (low[:, :1] + low[:, 2:3]) * (low[:, 1:2] + low[:, 3:])
    around = (high[:, :1] + high[:, 2:3]) * (high[:, 1:2] + high[:, 3:])
    union = areas[0] + areas[1] - shared
    return shared / union - (around - union) / around


def loss_terms(outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """Loss terms by name, each a scalar.

    * heatmap: see `focal`.
    * overlap: 1 - GIoU of the boxes in the cells around each middle.
    * sides, keypoints: L1 of distances and vectors, as a share of the box's longer side.
    """
    weight, boxes = batch.weight, batch.boxes
    total = weight.sum().clamp(min=1)
    side = torch.maximum(boxes[:, :1] + boxes[:, 2:3], boxes[:, 1:2] + boxes[:, 3:]).clamp(min=1)
    # Outside of the cells that count targets are 0, and a weight of 0 times what is not finite is not 0
    truth = torch.where(weight > 0, boxes, torch.ones_like(boxes))

    def l1(found: Tensor, wanted: Tensor) -> Tensor:
        return ((found - wanted).abs().mean(dim=1, keepdim=True) / side * weight).sum() / total

    return {
        "heatmap": focal(outputs["heatmap"], batch.heatmap, batch.counted),
        "overlap": ((1 - generalised_iou(outputs["boxes"], truth)) * weight).sum() / total,
        "sides": l1(outputs["boxes"], boxes),
        "keypoints": l1(outputs["keypoints"], batch.keypoints),
    }
