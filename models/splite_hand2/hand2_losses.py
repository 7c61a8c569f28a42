"""What the training of SPLite Hand 2 minimises: distances to the labels and, where there is one, to a teacher."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from splite_deploy.decoders import SoftArgmaxDepth
from splite_deploy.decoders.torch import SoftArgmaxDepthModule
from splite_deploy.spec import ModelSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
import depth_losses
from hand2_data import Batch
from softmax_losses import softmax_terms, weighted_mean

Outputs = Mapping[str, Tensor]
"""Of the network: heatmap and depth (B, K, H, W), presence and handedness (B, 1) logits."""
HEADS = ("presence", "handedness")
DOUBTED_CELLS = 4.0
WEIGHTS = {
    "position": 0.25,
    "heatmap": 1.0,
    "depth": 1.0,
    "presence": 0.3,
    "handedness": 0.2,
    "soft_heatmap": 2.0,
    "soft_depth": 2.0,
    "soft_presence": 0.3,
    "soft_handedness": 0.2,
    "int8_heatmap": 2.0,
    "int8_depth": 2.0,
    "int8_position": 1.0,
    "int8_presence": 0.3,
    "int8_handedness": 0.3,
}
"""Of the terms in the sum."""


class LabelLoss(nn.Module):
    """Integral 2D position, heatmap shape, depth, presence and handedness.

    * position, heatmap: see `softmax_losses.softmax_terms`; labels are opinions, so that position trusts those that are
      far from what the network finds less (`DOUBTED_CELLS`).
    * depth: L1 of sum(p * Z) relative to the root keypoint, in palms (Iqbal et al. 2018).
    * presence: cross-entropy; handedness: cross-entropy with the teachers' chance, where there is a hand.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        assert isinstance(spec.decoder, SoftArgmaxDepth)
        self.decode = SoftArgmaxDepthModule(spec.decoder, spec.keypoint_count, spec.input)
        self.stride = spec.decoder.stride

    def forward(self, found: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Loss terms by name, each a scalar."""
        p, terms = softmax_terms(
            self.decode, self.stride, found["heatmap"], batch.keypoints, batch.weight, DOUBTED_CELLS
        )
        depth_error = (self.decode.relative_depth(p, found["depth"]) - batch.depth).abs()
        known = batch.right.isfinite().float() * batch.present
        sided = F.binary_cross_entropy_with_logits(
            found["handedness"][:, 0], batch.right.nan_to_num(0.5), reduction="none"
        )
        return {
            **terms,
            "depth": weighted_mean(depth_error, batch.weight),
            "presence": F.binary_cross_entropy_with_logits(found["presence"][:, 0], batch.present),
            "handedness": weighted_mean(sided, known),
        }


class Distillation(nn.Module):
    """How far a network is from its teacher: `depth_losses.Distillation`, and the teacher's chances of the heads."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.maps = depth_losses.Distillation(spec)

    def forward(self, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Loss terms by name, each a scalar."""
        return {**self.maps(_maps(student), _maps(teacher)), **_heads("soft", student, teacher)}


class Int8Deviation(nn.Module):
    """How far the int8 form of a network is from its float form; see `depth_losses.Int8Deviation`."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.maps = depth_losses.Int8Deviation(spec)

    def forward(self, int8: Outputs, float32: Outputs) -> dict[str, Tensor]:
        """Loss terms by name, each a scalar. Both have gradients."""
        return {**self.maps(_maps(int8), _maps(float32)), **_heads("int8", int8, float32)}


def _maps(found: Outputs) -> tuple[Tensor, Tensor]:
    return found["heatmap"], found["depth"]


def _heads(name: str, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
    return {
        f"{name}_{head}": F.binary_cross_entropy_with_logits(student[head], teacher[head].sigmoid()) for head in HEADS
    }
