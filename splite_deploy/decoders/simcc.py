"""Bins along x and along y, each axis by itself: SimCC (Li et al. 2022, arXiv 2107.03332), RTMPose (2303.07399).

N crops, K keypoints, B bins of an axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.base import LEAST_STRIDE, Decoded, Decoder, InputSize, Sizes
from splite_deploy.decoders.taylor import blurring, check_kernel
from splite_deploy.errors import require

ROLES = ("simcc_x", "simcc_y")
LEAST, MOST = 1e-3, 50.0
"""Between these smoothed bins are limited before their logarithm, as mmpose does."""
FLAT = 1e-6
"""Curvature of a logarithm, per bin squared, that is none within the precision of float32."""
Refine = Literal["none", "dark", "softargmax"]
_NEEDS: Mapping[Refine, tuple[str, ...]] = {"none": (), "dark": ("blur_kernel",), "softargmax": ("beta",)}
_HINT = 'Say how the place within the bins is found: refine = "none" takes the largest bin, as RTMPose is published; '
_HINT += '"dark" goes on to the top of a parabola; "softargmax" takes the expectation, for networks trained with it.'


@dataclass(frozen=True)
class SimCC(Decoder):
    """The largest bin of each axis; bin i is the pixel of number i / split_ratio, and centred where that pixel is.

    The score is the smaller one of both largest values, clipped to [0, 1], as mmpose's ``get_simcc_maximum`` has it.

    Attributes:
        split_ratio: Bins for each pixel of the input.
        refine: ``none``: the largest bin. ``dark``: a Newton step from it to the top of the smoothed bins' logarithm,
            as mmpose's ``refine_simcc_dark`` does (``use_dark``). ``softargmax``: the expectation under softmax.
        blur_kernel: Odd number of bins of the Gaussian that smooths them; for ``dark``.
        beta: Inverse temperature of the softmax; for ``softargmax``.
    """

    type: ClassVar[str] = "simcc"
    layouts: ClassVar[Mapping[str, str]] = {"simcc_x": "NKW", "simcc_y": "NKH"}
    split_ratio: float
    refine: Refine = field(metadata={"hint": _HINT})
    blur_kernel: int | None = None
    beta: float | None = None

    def __post_init__(self) -> None:
        require(0 < self.split_ratio < math.inf, "decoder.split_ratio must be positive")
        most = 1 / LEAST_STRIDE
        require(self.split_ratio <= most, f"decoder.split_ratio is {self.split_ratio:g}, and at most {most:g}")
        for name in ("blur_kernel", "beta"):
            needed, given = name in _NEEDS[self.refine], getattr(self, name) is not None
            says = "needs" if needed else "does not take"
            require(needed == given, f'decoder.refine = "{self.refine}" {says} decoder.{name}')
        if self.blur_kernel is not None:
            check_kernel(self.blur_kernel)
        require(self.beta is None or 0 < self.beta < math.inf, "decoder.beta must be positive")

    def shapes(self, keypoints: int, size: InputSize) -> Mapping[str, Sizes]:
        """One row of bins for each keypoint and axis."""
        return {
            "simcc_x": (keypoints, round(size.width * self.split_ratio)),
            "simcc_y": (keypoints, round(size.height * self.split_ratio)),
        }

    def check(self, keypoints: int, size: InputSize) -> None:
        """Refuses a ratio that makes no whole number of bins."""
        for name, pixels in (("height", size.height), ("width", size.width)):
            off = abs(round(pixels * self.split_ratio) - pixels * self.split_ratio)
            require(
                off < 0.01, f"decoder.split_ratio {self.split_ratio:g} makes no whole bins of input.{name} {pixels}"
            )

    def rounding_px(self, size: InputSize) -> float:
        """The diagonal of a bin in each direction, where nothing goes on from the largest one."""
        return math.sqrt(2) / self.split_ratio if self.refine == "none" else 0.0

    def peaks(self, outputs: Mapping[str, FloatArray]) -> NDArray[np.intp]:
        """(N, K, 2) the largest bin along y and along x."""
        x, y = (outputs[role].argmax(axis=2) for role in ROLES)
        return np.stack([y, x], -1)

    def decode(self, outputs: Mapping[str, FloatArray], size: InputSize) -> Decoded:
        """Keypoints and scores from ``simcc_x`` and ``simcc_y``, (N, K, B) each."""
        places = [self._place(outputs[role]) for role in ROLES]
        keypoints = np.stack(places, -1) / np.float32(self.split_ratio) + np.float32(0.5)
        least = np.minimum(*(outputs[role].max(axis=2) for role in ROLES))
        return Decoded(keypoints.astype(np.float32), least.clip(0.0, 1.0).astype(np.float32), None)

    def _place(self, bins: FloatArray) -> FloatArray:
        """(N, K) in bins, the first of which has the number 0."""
        if self.beta is not None:
            logits = bins * np.float32(self.beta)
            weights = np.exp(logits - logits.max(axis=2, keepdims=True))
            expected: FloatArray = weights @ bin_numbers(bins.shape[2]) / weights.sum(axis=2)
            return expected
        largest = bins.argmax(axis=2)
        place: FloatArray = largest.astype(np.float32)
        return place if self.blur_kernel is None else place + newton_steps(bins, largest, self.blur_kernel)


def newton_steps(bins: FloatArray, largest: NDArray[np.intp], kernel: int) -> FloatArray:
    """(N, K): how far beside the largest bin the top of the smoothed bins' logarithm lies, at most one bin.

    Args:
        bins: (N, K, B).
        largest: (N, K) where the step begins.
        kernel: Taps of the Gaussian.
    """
    smooth = bins @ blurring(bins.shape[2], kernel, "zero").T
    highest = smooth.max(axis=2, keepdims=True)
    scale = np.divide(bins.max(axis=2, keepdims=True), highest, out=np.zeros_like(highest), where=highest > 0)
    logs = np.log((smooth * scale).clip(LEAST, MOST))
    # Beyond the border the outermost bin stands for its neighbours
    near = (largest[..., None] + np.arange(-2, 3)).clip(0, bins.shape[2] - 1)
    before2, before, here, after, after2 = np.moveaxis(np.take_along_axis(logs, near, axis=2), 2, 0)
    slope, curvature = 0.5 * (after - before), 0.25 * (after2 - 2 * here + before2)
    step = np.divide(-slope, curvature, out=np.zeros_like(slope), where=curvature < -FLAT)
    limited: FloatArray = step.clip(-1.0, 1.0)
    return limited


@lru_cache(maxsize=8)
def bin_numbers(count: int) -> FloatArray:
    """(count,) 0, 1, 2, ..."""
    return np.arange(count, dtype=np.float32)
