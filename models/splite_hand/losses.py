"""What the training of SPLite Hand minimises: distances to the labels and, where there is one, to a teacher."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from data import Batch
from torch import Tensor, nn
from torch.nn import functional as F

from splite_deploy.decoders import SoftArgmaxDepth
from splite_deploy.decoders.torch import SoftArgmaxDepthModule
from splite_deploy.decoders.torch.heatmap import SoftHeatmapModule
from splite_deploy.spec import ModelSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from softmax_losses import divergence, softmax_terms, weighted_mean

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

    * position, heatmap: see `softmax_losses.softmax_terms`.
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
        inside = ((batch.keypoints > 0) & (batch.keypoints < self.limits)).all(dim=2).to(heatmap.dtype)
        p, terms = softmax_terms(self.decode, self.stride, heatmap, batch.keypoints, inside)
        depth_error = (self.decode.relative_depth(p, depth) - batch.depth).abs()
        return {**terms, "depth": weighted_mean(depth_error, inside)}


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
        soft_heatmap, p = divergence(self.maps.logits(teacher[0]), self.maps.logits(student[0]))
        gap = self.maps.flat(teacher[1] - student[1]).abs()
        return {"soft_heatmap": soft_heatmap, "soft_depth": (p * gap).sum(2).mean()}


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
