"""When a measurement is steady: windows of frames, until the medians of the last few agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = Mapping[str, NDArray[np.float64]]
"""By stage, one duration per frame in the order of time."""


@dataclass(frozen=True)
class Settled:
    """What came of the windows.

    Attributes:
        samples: Of the windows that agree, one after the other; of all where none do.
        p50: Median of each window, of the stage that stands for the frame.
        stable: Whether the last ones agree.
        dropped: Number of windows before those that agree.
    """

    samples: Samples
    p50: tuple[float, ...]
    stable: bool
    dropped: int


def settle(
    time_window: Callable[[int], Samples], headline: str, *, agreeing: int, most: int, tolerance: float
) -> Settled:
    """Times windows until the last ones agree, or there are too many.

    What was measured before they agree belongs to the warm-up. Where they never do nothing is dropped: to choose among
    unsteady windows would make the figures look better than they are.

    Args:
        time_window: Times the window of this number.
        headline: The stage whose median is compared.
        agreeing: How many in a row have to agree.
        most: Windows at most.
        tolerance: The largest of their medians may exceed the smallest by this share.
    """
    windows: list[Samples] = []
    p50: list[float] = []
    stable = False
    while not stable and len(windows) < most:
        windows.append(time_window(len(windows)))
        p50.append(float(np.median(windows[-1][headline])))
        stable = len(p50) >= agreeing and agree(p50[-agreeing:], tolerance)
    chosen = windows[-agreeing:] if stable else windows
    samples = {stage: np.concatenate([window[stage] for window in chosen]) for stage in chosen[0]}
    return Settled(samples, tuple(p50), stable, len(windows) - len(chosen))


def agree(medians: Sequence[float], tolerance: float) -> bool:
    """Whether the largest exceeds the smallest by no more than this share."""
    return max(medians) <= (1 + tolerance) * min(medians)
