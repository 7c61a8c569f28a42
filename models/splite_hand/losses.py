"""What the training of SPLite Hand minimises: distances to the labels and, where there is one, to a teacher."""

from __future__ import annotations

import torch
from data import Batch
from torch import Tensor, nn
from torch.nn import functional as F

from splite_deploy.decoders import SoftArgmaxDepth
from splite_deploy.spec import ModelSpec

HEATMAP_SIGMA_CELLS = 1.0
WEIGHTS = {"position": 0.25, "heatmap": 1.0, "depth": 1.0, "soft_heatmap": 2.0, "soft_depth": 2.0}
"""Of the terms in the sum."""


class PoseLoss(nn.Module):
    """Integral 2D position, heatmap shape and depth.

    * position: L1 of the soft-argmax in cells (Sun et al. 2018); L1, since some labels are wrong.
    * heatmap: cross-entropy between the softmax and a Gaussian around the label, which keeps maps single-peaked.
    * depth: L1 of sum(p * Z) relative to the root keypoint, in palms (Iqbal et al. 2018).

    Keypoints outside the crop count for nothing.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        assert isinstance(spec.decoder, SoftArgmaxDepth)
        self.decoder = spec.decoder

    def forward(self, heatmap: Tensor, depth: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Loss terms by name, each a scalar; heatmap and depth are (B, K, H, W)."""
        height, width = heatmap.shape[2:]
        log_p = F.log_softmax(heatmap.flatten(2) * self.decoder.beta, dim=2)
        p = log_p.exp()
        xs = torch.arange(width, device=p.device, dtype=p.dtype) + 0.5
        ys = torch.arange(height, device=p.device, dtype=p.dtype) + 0.5
        target = batch.keypoints / self.decoder.stride  # cells
        grid = p.view(*heatmap.shape)
        found = torch.stack([(grid.sum(2) * xs).sum(2), (grid.sum(3) * ys).sum(2)], dim=2)
        limits = target.new_tensor([width, height])
        inside = ((target > 0) & (target < limits)).all(dim=2).to(p.dtype)
        count = inside.sum().clamp(min=1)

        gx = torch.exp(-((xs - target[..., :1]) ** 2) / (2 * HEATMAP_SIGMA_CELLS**2))
        gy = torch.exp(-((ys - target[..., 1:]) ** 2) / (2 * HEATMAP_SIGMA_CELLS**2))
        gaussian = (gy[..., :, None] * gx[..., None, :]).flatten(2)
        gaussian = gaussian / gaussian.sum(2, keepdim=True).clamp(min=1e-6)

        z = (p * depth.flatten(2)).sum(2)
        root = self.decoder.root_keypoint
        depth_error = ((z - z[:, root : root + 1]) - batch.depth).abs()
        return {
            "position": ((found - target).abs().sum(2) * inside).sum() / count,
            "heatmap": (-(gaussian * log_p).sum(2) * inside).sum() / count,
            "depth": (depth_error * inside).sum() / count,
        }


class Distillation(nn.Module):
    """How far a network is from its teacher (Hinton et al. 2015), cell by cell.

    * soft_heatmap: Kullback-Leibler divergence of the student's softmax from the teacher's, at the temperature of the
      decoder, so that the student learns the shape of the peak and where else the teacher hesitates.
    * soft_depth: sum(p * |Z - Z_student|) with the teacher's softmax p as weights: depth counts where it is read.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        assert isinstance(spec.decoder, SoftArgmaxDepth)
        self.beta = spec.decoder.beta

    def forward(self, student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Loss terms by name, each a scalar; both are heatmap and depth, (B, K, H, W)."""
        log_p, log_q = (F.log_softmax(heatmap.flatten(2) * self.beta, dim=2) for heatmap, _ in (teacher, student))
        p = log_p.exp()
        gap = (teacher[1] - student[1]).flatten(2).abs()
        return {
            "soft_heatmap": (p * (log_p - log_q)).sum(2).mean(),
            "soft_depth": (p * gap).sum(2).mean(),
        }
