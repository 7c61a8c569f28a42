"""`splite_deploy.decoders.simcc` in torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from splite_deploy.decoders.base import InputSize
from splite_deploy.decoders.simcc import FLAT, LEAST, MOST, SimCC, bin_numbers
from splite_deploy.decoders.taylor import blurring


class SimCCModule(nn.Module):
    """Keypoints (N, K, 2) in input pixels and scores (N, K) from the bins of both axes, (N, K, B) each.

    Args:
        decoder: Its parameters.
        keypoints: Their number K.
        size: Of the network's input.
    """

    def __init__(self, decoder: SimCC, keypoints: int, size: InputSize) -> None:
        super().__init__()
        self._split_ratio = decoder.split_ratio
        self.x = AxisModule(decoder, round(size.width * decoder.split_ratio))
        self.y = AxisModule(decoder, round(size.height * decoder.split_ratio))

    def forward(self, simcc_x: Tensor, simcc_y: Tensor) -> tuple[Tensor, ...]:
        """Keypoints and scores."""
        places = torch.stack([self.x(simcc_x), self.y(simcc_y)], dim=-1)
        least = torch.minimum(simcc_x.amax(dim=2), simcc_y.amax(dim=2))
        return places / self._split_ratio + 0.5, least.clamp(0, 1)


class AxisModule(nn.Module):
    """Places (N, K) in bins of the bins (N, K, B) of one axis.

    Args:
        decoder: Its parameters.
        bins: Their number B.
    """

    _numbers: Tensor
    _smooth: Tensor

    def __init__(self, decoder: SimCC, bins: int) -> None:
        super().__init__()
        self._bins, self._beta, self._kernel = bins, decoder.beta, decoder.blur_kernel
        self.register_buffer("_numbers", torch.tensor(bin_numbers(bins)), persistent=False)
        if self._kernel is not None:
            self.register_buffer("_smooth", torch.tensor(blurring(bins, self._kernel, "zero").T), persistent=False)

    def forward(self, bins: Tensor) -> Tensor:
        """The places."""
        if self._beta is not None:
            return torch.softmax(bins * self._beta, dim=2) @ self._numbers
        largest = bins.argmax(dim=2).to(bins.dtype)
        return largest if self._kernel is None else largest + self._newton_step(bins, largest)

    def _newton_step(self, bins: Tensor, largest: Tensor) -> Tensor:
        smooth = bins @ self._smooth
        highest = smooth.amax(dim=2, keepdim=True)
        scale = bins.amax(dim=2, keepdim=True) / highest.clamp(min=torch.finfo(torch.float32).tiny)
        logs = (smooth * torch.where(highest > 0, scale, torch.zeros_like(scale))).clamp(LEAST, MOST).log()
        # Differences everywhere, of which one counts: shifting and masking are operators that every runtime has
        first, last = logs[..., :1], logs[..., -1:]
        padded = torch.cat([first, first, logs, last, last], dim=2)
        before2, before, here, after, after2 = (padded[..., shift : shift + self._bins] for shift in range(5))
        there = ((self._numbers - largest.unsqueeze(2)).abs() < 0.5).to(bins.dtype)
        slope = (0.5 * (after - before) * there).sum(dim=2)
        curvature = (0.25 * (after2 - 2 * here + before2) * there).sum(dim=2)
        step = -slope / curvature.clamp(max=-FLAT)
        return torch.where(curvature < -FLAT, step, torch.zeros_like(step)).clamp(-1, 1)
