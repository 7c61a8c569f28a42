"""Keypoints that tremble less: the one-euro filter over the frames of a camera or a video."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from splite_deploy.arrays import DoubleArray, FloatArray, is_number
from splite_deploy.decoders import Unit
from splite_deploy.errors import UsageError
from splite_deploy.runtime.pose import Origin, Pose, size_px

_LEAST_SIZE = 1e-6
_MOST_S = 1e9
"""After so long nothing is left of the frame before."""


@dataclass(frozen=True)
class OneEuro:
    """How much keypoints are smoothed: little where they move fast, where lag would be seen, much where they rest.

    G. Casiez, N. Roussel, D. Vogel: "1 EUR Filter: A Simple Speed-based Low-pass Filter for Noisy Input in Interactive
    Systems", CHI 2012. With the time T since the last frame, a keypoint x and its smoothed place y:

        a(f) = 1 / (1 + 1 / (2 pi f T))                      weight of the new value in a low-pass filter
        v    = v' + a(speed_cutoff_hz) ((x - x') / T - v')    speed; ' is of the last frame
        f    = min_cutoff_hz + beta |v|
        y    = y' + a(f) (x - y')

    The speed is that of what was found, as in the authors' code; measured from the smoothed place, as in the listing of
    the paper, it and the lag would depend on the rate of the frames. It is that of each keypoint in the plane or in
    space, not of each coordinate, so that directions are not bent, and counts in sizes of the hand or person per second
    (the longest side of what just holds its keypoints): the same values serve every resolution and distance.

    Something that moves at a steady speed lags behind by 1 / (2 pi f) seconds.

    Attributes:
        min_cutoff_hz: Cutoff frequency of what rests. Lower is calmer, and follows slow movements later.
        beta: By how many Hz the cutoff rises with each size per second. Higher lags less, and calms less.
        speed_cutoff_hz: Cutoff frequency of the speed.

    Raises:
        UsageError: A value is out of its range.
    """

    min_cutoff_hz: float = 1.0
    beta: float = 8.0
    speed_cutoff_hz: float = 1.0

    def __post_init__(self) -> None:
        frequencies = self.min_cutoff_hz, self.speed_cutoff_hz
        are_numbers = all(map(is_number, (*frequencies, self.beta)))
        if not (are_numbers and all(0 < one < math.inf for one in frequencies) and 0 <= self.beta < math.inf):
            raise UsageError(
                f"{self} cannot be used.", hint="Frequencies are positive numbers in Hz, and beta is 0 or above."
            )

    def lag_ms(self, speed: float) -> float:
        """By how much something lags behind that moves steadily, in ms.

        Args:
            speed: In sizes per second.

        Raises:
            UsageError: It is no speed.
        """
        if not (is_number(speed) and 0 <= speed < math.inf):
            raise UsageError(f"A speed of {speed} is none.", hint="Pass sizes per second, 0 or above.")
        return 1000 / (2 * math.pi * (self.min_cutoff_hz + self.beta * speed))


def check_smoothing(given: object) -> None:
    """Refuses what says nothing of smoothing, as True.

    Raises:
        UsageError: It is neither a `OneEuro` nor None.
    """
    if not isinstance(given, OneEuro | None):
        raise UsageError(f"The smoothing is {given!r}.", hint="Pass OneEuro(), or None for no smoothing.")


class Smoother:
    """Smooths the keypoints of one hand or person, in the image and in 3D; boxes and scores stay as they are.

    Args:
        how: How much.
    """

    def __init__(self, how: OneEuro) -> None:
        self._how = how
        self._time_s = 0.0
        self._filters: dict[str, _Filter] = {}
        self._measured: tuple[Unit | None, Origin | None] = None, None

    def __call__(self, pose: Pose, time_s: float) -> Pose:
        """The pose of the next frame, smoothed.

        Args:
            pose: As it was found.
            time_s: When the frame was taken, in seconds from any moment. Where it is that of the last frame nothing
                moves; where it is earlier, as after a jump in a video, the filter begins anew. So it does in 3D where
                the unit or the origin is another than before.
        """
        passed_s = time_s - self._time_s
        if passed_s < 0:
            self._filters = {}
        self._time_s = time_s
        flat = self._next("keypoints", pose.keypoints, passed_s, size_px(pose))
        deep, measured = pose.keypoints_3d, (pose.unit, pose.origin)
        if deep is None or measured != self._measured:
            self._filters.pop("keypoints_3d", None)
        self._measured = measured
        if deep is not None:
            deep = self._next("keypoints_3d", deep, passed_s, float(np.ptp(deep, axis=0).max()))
        return replace(pose, keypoints=flat, keypoints_3d=deep)

    def _next(self, name: str, values: FloatArray, passed_s: float, size: float) -> FloatArray:
        known = self._filters.get(name)
        if known is None:
            self._filters[name] = _Filter(values)
            return values
        return known.next(values, passed_s, size, self._how).astype(np.float32)


class _Filter:
    """The state of the filter of K points: their smoothed places and speeds, (K, 2) or (K, 3)."""

    def __init__(self, values: FloatArray) -> None:
        self._found = self._smooth = values.astype(np.float64)
        self._speed = np.zeros_like(self._smooth)

    def next(self, values: FloatArray, passed_s: float, size: float, how: OneEuro) -> DoubleArray:
        if passed_s <= 0:
            return self._smooth
        passed_s = min(passed_s, _MOST_S)
        before, self._found = self._found, values.astype(np.float64)
        weight = _weight(how.speed_cutoff_hz, passed_s)
        # a / T is finite where (x - x') / T is not
        self._speed += 2 * math.pi * how.speed_cutoff_hz * (1 - weight) * (self._found - before) - weight * self._speed
        cutoffs_hz = how.min_cutoff_hz + how.beta * np.linalg.norm(self._speed, axis=1, keepdims=True) / max(
            size, _LEAST_SIZE
        )
        self._smooth = self._smooth + _weight(cutoffs_hz, passed_s) * (self._found - self._smooth)
        return self._smooth


def _weight(cutoff_hz: float | DoubleArray, passed_s: float) -> float | DoubleArray:
    """The weight of a new value in an exponential low-pass filter; see `OneEuro`."""
    return 1 - 1 / (1 + 2 * math.pi * cutoff_hz * passed_s)
