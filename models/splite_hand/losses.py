"""What the training of SPLite Hand minimises: distances to the labels and, where there is one, to a teacher."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from data import Batch
from torch import Tensor, nn

from splite_deploy.decoders import SoftArgmaxDepth
from splite_deploy.decoders.torch import SoftArgmaxDepthModule
from splite_deploy.spec import ModelSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from depth_losses import Distillation, Int8Deviation
from softmax_losses import softmax_terms, weighted_mean

__all__ = ["WEIGHTS", "Distillation", "Int8Deviation", "PoseLoss"]

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
