"""What the training of a network minimises, by the decoder that its model.toml names. B crops, K keypoints.

* ``softargmax``: an integral head, see ``../common/softmax_losses.py``.
* other decoders of heatmaps: squared error to Gaussians of two cells (Xiao et al. 2018), drawn where the decoder's
  ``alignment`` has the cells: MSRA and DARK with ``centre``, UDP with ``udp``. MSRA rounds them to cells.
* ``simcc``: divergence from a Gaussian over the bins (Li et al. 2022).
"""

from __future__ import annotations

import math
import sys
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
from lite_data import Batch
from torch import Tensor, nn
from torch.nn import functional as F

from splite_deploy.decoders import HeatmapDecoder, SoftArgmax
from splite_deploy.decoders.torch.heatmap import HeatmapModule, SoftHeatmapModule
from splite_deploy.spec import ModelSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from softmax_losses import divergence, softmax_terms, weighted_mean

MAP_SIGMA_CELLS = 2.0
BINS_BETA = 10.0
WEIGHTS: Mapping[str, float] = {
    "position": 0.25,
    "heatmap": 1.0,
    "squared": 4.0,
    "bins": 1.0,
    "taught": 2.0,
    "int8": 2.0,
}
"""Of the terms in the sum."""
Outputs = tuple[Tensor, ...]


class Target(nn.Module):
    """How far the outputs of a network are from labels and from those of another network."""

    @abstractmethod
    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Terms by name, scalars."""

    @abstractmethod
    def distance(self, outputs: Outputs, others: Outputs) -> Tensor:
        """How far outputs are from those of a teacher, or of the float network; a scalar."""


class IntegralTarget(Target):
    """Of heatmaps that a softmax is taken of."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        assert isinstance(spec.decoder, SoftArgmax)
        self.maps = SoftHeatmapModule(spec.decoder, spec.keypoint_count, spec.input)
        self.stride = spec.decoder.stride

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        return softmax_terms(self.maps, self.stride, outputs[0], batch.keypoints, batch.weight)[1]

    def distance(self, outputs: Outputs, others: Outputs) -> Tensor:
        return divergence(self.maps.logits(others[0]), self.maps.logits(outputs[0]))[0]


class GaussianTarget(Target):
    """Of heatmaps that imitate Gaussians; 1 is the error of an empty map.

    Args:
        spec: The model.
        rounded: Whether Gaussians are drawn around the nearest cell and not around the keypoint.
    """

    def __init__(self, spec: ModelSpec, *, rounded: bool) -> None:
        super().__init__()
        assert isinstance(spec.decoder, HeatmapDecoder)
        self.maps, self.rounded = HeatmapModule(spec.decoder, spec.keypoint_count, spec.input), rounded
        xs, ys = self.maps.centres[: self.maps.width, 0], self.maps.centres[:: self.maps.width, 1]
        self.register_buffer("first", torch.stack([xs[0], ys[0]]), persistent=False)
        self.register_buffer("step", torch.stack([xs[1] - xs[0], ys[1] - ys[0]]), persistent=False)
        self.register_buffer("columns", torch.arange(self.maps.width), persistent=False)
        self.register_buffer("rows", torch.arange(self.maps.height), persistent=False)

    def gaussians(self, keypoints: Tensor) -> Tensor:
        """(B, K, H, W) targets for keypoints (B, K, 2) in input pixels."""
        cells = (keypoints - self.first) / self.step
        if self.rounded:
            cells = torch.floor(cells + 0.5)
        gx = torch.exp(-((self.columns - cells[..., :1]) ** 2) / (2 * MAP_SIGMA_CELLS**2))
        gy = torch.exp(-((self.rows - cells[..., 1:]) ** 2) / (2 * MAP_SIGMA_CELLS**2))
        return gy[..., :, None] * gx[..., None, :]

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"squared": weighted_mean(self._squared(outputs[0], self.gaussians(batch.keypoints)), batch.weight)}

    def distance(self, outputs: Outputs, others: Outputs) -> Tensor:
        return self._squared(outputs[0], others[0]).mean()

    def _squared(self, maps: Tensor, target: Tensor) -> Tensor:
        """(B, K) squared error, over that of an empty map."""
        return (maps - target).square().sum((2, 3)) / (math.pi * MAP_SIGMA_CELLS**2)


class BinsTarget(Target):
    """Of SimCC's two vectors; a Gaussian's variance is a sixteenth of the bins, as published for 256 x 192.

    The softmax is taken of ``beta`` times the bins: that of the decoder where it has one, and RTMPose's 10 elsewhere,
    with which the largest bin is about 1, so that it is a score.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.beta: float = getattr(spec.decoder, "beta", None) or BINS_BETA
        shapes = spec.decoder.shapes(spec.keypoint_count, spec.input)
        for axis, pixels in (("x", spec.input.width), ("y", spec.input.height)):
            bins = shapes[f"simcc_{axis}"][1]
            assert isinstance(bins, int)
            centres = torch.arange(bins) * (pixels / bins) + 0.5  # a pixel's centre is half a pixel from its corner
            self.register_buffer(axis, centres, persistent=False)

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        terms = []
        for index, (logits, centres) in enumerate(zip(outputs, (self.x, self.y), strict=True)):
            step = centres[1] - centres[0]
            off = (centres - batch.keypoints[..., index : index + 1]) / step
            target = F.softmax(-off.square() / (2 * len(centres) / 16), dim=2)
            terms.append(F.kl_div(F.log_softmax(self.beta * logits, dim=2), target, reduction="none").sum(2))
        return {"bins": weighted_mean(terms[0] + terms[1], batch.weight)}

    def distance(self, outputs: Outputs, others: Outputs) -> Tensor:
        return sum(
            (divergence(self.beta * b, self.beta * a)[0] for a, b in zip(outputs, others, strict=True)), torch.zeros(())
        )


def target_of(spec: ModelSpec, *, rounded: bool = False) -> Target:
    """The target for the decoder of a model.

    Raises:
        ValueError: Networks with this decoder are not trained here.
    """
    kind = spec.decoder.type
    if kind == "softargmax":
        return IntegralTarget(spec)
    if kind == "simcc":
        return BinsTarget(spec)
    if isinstance(spec.decoder, HeatmapDecoder) and tuple(spec.decoder.layouts) == ("heatmap",):
        return GaussianTarget(spec, rounded=rounded)
    raise ValueError(f"no targets are known here for the decoder '{kind}'")
