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
    time_window: Callable[[int], Sequence[Samples]],
    headlines: Sequence[str],
    *,
    agreeing: int,
    most: int,
    tolerance: float,
) -> list[Settled]:
    """Times windows of one or several subjects until the last ones of all agree, or there are too many.

    What was measured before they agree belongs to the warm-up. Where they never do nothing is dropped: to choose among
    unsteady windows would make the figures look better than they are.

    Args:
        time_window: Times the window of this number, of each subject.
        headlines: Of each subject the stage whose median is compared.
        agreeing: How many in a row have to agree.
        most: Windows at most.
        tolerance: The largest of their medians may exceed the smallest by this share.
    """
    windows: list[list[Samples]] = [[] for _ in headlines]
    p50: list[list[float]] = [[] for _ in headlines]
    stable = [False] * len(headlines)
    while not all(stable) and len(windows[0]) < most:
        for index, window in enumerate(time_window(len(windows[0]))):
            windows[index].append(window)
            p50[index].append(float(np.median(window[headlines[index]])))
            stable[index] = len(p50[index]) >= agreeing and agree(p50[index][-agreeing:], tolerance)
    settled = []
    for held, medians, is_stable in zip(windows, p50, stable, strict=True):
        chosen = held[-agreeing:] if is_stable else held
        samples = {stage: np.concatenate([window[stage] for window in chosen]) for stage in chosen[0]}
        settled.append(Settled(samples, tuple(medians), is_stable, len(held) - len(chosen)))
    return settled


def agree(medians: Sequence[float], tolerance: float) -> bool:
    """Whether the largest exceeds the smallest by no more than this share."""
    return max(medians) <= (1 + tolerance) * min(medians)
