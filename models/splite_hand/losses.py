"""What the training of SPLite Hand minimises: distances to the labels and, where there is one, to a teacher."""

from __future__ import annotations

import torch
from data import Batch
from torch import Tensor, nn
from torch.nn import functional as F

from splite_deploy.decoders import SoftArgmaxDepth
from splite_deploy.decoders.torch import SoftArgmaxDepthModule
from splite_deploy.decoders.torch.heatmap import SoftHeatmapModule
from splite_deploy.spec import ModelSpec

HEATMAP_SIGMA_CELLS = 1.0
WEIGHTS = {
    "position": 0.25,
    "heatmap": 1.0,
    "depth": 1.0,
    "soft_heatmap": 2.0,
    "soft_depth": 2.0,
    "int8_heatmap": 2.0,
    "int8_depth": 2.0,
    "int8_position": 1.0,
}
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
        self.decode = SoftArgmaxDepthModule(spec.decoder, spec.keypoint_count, spec.input)
        self.stride = spec.decoder.stride
        self.register_buffer("limits", torch.tensor([spec.input.width, spec.input.height]), persistent=False)

    def forward(self, heatmap: Tensor, depth: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Loss terms by name, each a scalar; heatmap and depth are (B, K, H, W)."""
        log_p = F.log_softmax(self.decode.logits(heatmap), dim=2)
        p = log_p.exp()
        off = (self.decode.expected(p) - batch.keypoints) / self.stride  # cells
        inside = ((batch.keypoints > 0) & (batch.keypoints < self.limits)).all(dim=2).to(p.dtype)
        count = inside.sum().clamp(min=1)

        xs, ys = self.decode.centres[: self.decode.width, 0], self.decode.centres[:: self.decode.width, 1]
        sigma = HEATMAP_SIGMA_CELLS * self.stride
        gx = torch.exp(-((xs - batch.keypoints[..., :1]) ** 2) / (2 * sigma**2))
        gy = torch.exp(-((ys - batch.keypoints[..., 1:]) ** 2) / (2 * sigma**2))
        gaussian = self.decode.flat(gy[..., :, None] * gx[..., None, :])
        gaussian = gaussian / gaussian.sum(2, keepdim=True).clamp(min=1e-6)

        depth_error = (self.decode.relative_depth(p, depth) - batch.depth).abs()
        return {
            "position": (off.abs().sum(2) * inside).sum() / count,
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
        self.maps = SoftHeatmapModule(spec.decoder, spec.keypoint_count, spec.input)

    def forward(self, student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Loss terms by name, each a scalar; both are heatmap and depth, (B, K, H, W)."""
        log_p, log_q = (F.log_softmax(self.maps.logits(heatmap), dim=2) for heatmap, _ in (teacher, student))
        p = log_p.exp()
        gap = self.maps.flat(teacher[1] - student[1]).abs()
        return {
            "soft_heatmap": (p * (log_p - log_q)).sum(2).mean(),
            "soft_depth": (p * gap).sum(2).mean(),
        }


class Int8Deviation(nn.Module):
    """How far the int8 form of a network is from its float form: what an export will measure.

    * int8_heatmap, int8_depth: see `Distillation`.
    * int8_position: d + d^2 of the distance d between the soft-argmax of both, in pixels: limits are set to the 95th
      percentile and to the largest, so that those that move far count for more.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        assert isinstance(spec.decoder, SoftArgmaxDepth)
        self.decode = SoftArgmaxDepthModule(spec.decoder, spec.keypoint_count, spec.input)
        self.distillation = Distillation(spec)

    def forward(self, int8: tuple[Tensor, Tensor], float32: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Loss terms by name, each a scalar; both are heatmap and depth, (B, K, H, W). Both have gradients."""
        terms = self.distillation(int8, float32)
        moved, stayed = (
            self.decode.expected(F.softmax(self.decode.logits(heatmap), dim=2)) for heatmap, _ in (int8, float32)
        )
        squared = (moved - stayed).square().sum(2)
        return {
            "int8_heatmap": terms["soft_heatmap"],
            "int8_depth": terms["soft_depth"],
            "int8_position": ((squared + 1e-6).sqrt() + squared).mean(),
        }
