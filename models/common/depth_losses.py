"""How far networks with heatmaps and depth maps are from each other. B crops, K keypoints, H, W size of a map."""

from __future__ import annotations

import sys
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from splite_deploy.decoders import SoftArgmaxDepth
from splite_deploy.decoders.torch import SoftArgmaxDepthModule
from splite_deploy.decoders.torch.heatmap import SoftHeatmapModule
from splite_deploy.spec import ModelSpec

sys.path.insert(0, str(Path(__file__).parent))
from softmax_losses import divergence


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
