"""Ratios of latencies with the intervals of a bootstrap over blocks of neighbouring frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]
"""(blocks, frames of a block) milliseconds. Blocks of the same number, of all networks, lie side by side in time."""
Ranks = Callable[[int], tuple[int, ...]]
"""A statistic by its ranks: which of so many sorted samples it is the mean of, counted from 0."""
RESAMPLES = 2000
_MOST_AT_ONCE = 100_000
"""So many resampled frames at once: few enough for the cache of a core."""


@dataclass(frozen=True)
class Ratio:
    """A ratio with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio_of_medians(numerator: Samples, denominator: Samples, *, seed: int = 0) -> Ratio:
    """Median over median of networks that were timed in one run: blocks of the same number lay side by side."""
    return bootstrap_ratios(numerator, denominator, [median_ranks], paired=True, seed=seed)[0]


def median_ranks(count: int) -> tuple[int, ...]:
    """The median: the mean of the two samples in the middle, which are one where ``count`` is odd."""
    return (count - 1) // 2, count // 2


def bootstrap_ratios(
    numerator: Samples, denominator: Samples, statistics: Sequence[Ranks], *, paired: bool, seed: int = 0
) -> list[Ratio]:
    """Ratios with the intervals of one bootstrap over blocks (Efron & Tibshirani 1993, chapters 8 and 13).

    Blocks are drawn, not inferences, since neighbours in time resemble each other.

    Args:
        numerator: (blocks, frames of a block) of the one.
        denominator: (blocks, frames of a block) of the other.
        statistics: What is set in proportion, a ratio for each.
        paired: Draws the same blocks of both, since they were measured side by side; otherwise those of each by
            themselves.
        seed: Of the drawing.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(numerator), size=(RESAMPLES, len(numerator)))
    others = drawn if paired else rng.integers(len(denominator), size=(RESAMPLES, len(denominator)))
    resampled = _resampled(numerator, drawn, statistics) / _resampled(denominator, others, statistics)
    low, high = np.percentile(resampled, [2.5, 97.5], axis=1)
    values = [value_of(numerator, statistic) / value_of(denominator, statistic) for statistic in statistics]
    return [
        Ratio(value, float(of_low), float(of_high)) for value, of_low, of_high in zip(values, low, high, strict=True)
    ]


def value_of(samples: NDArray[np.float64], statistic: Ranks) -> float:
    """A statistic of samples of any shape."""
    return float(np.sort(samples, axis=None)[list(statistic(samples.size))].mean())


def _resampled(samples: Samples, drawn: NDArray[np.int64], statistics: Sequence[Ranks]) -> NDArray[np.float64]:
    """Statistics (S, R) of the blocks that each of R rows of ``drawn`` names.

    All samples are sorted once. In the sorted order of a row each of them stands as often as its block was drawn, so
    the sums of these numbers say where a rank falls; no row is sorted itself.
    """
    blocks, frames = samples.shape
    order = np.argsort(samples, axis=None, kind="stable")
    ordered, block_of = samples.ravel()[order], order // frames
    ranks = [statistic(drawn.shape[1] * frames) for statistic in statistics]
    found = np.empty((len(statistics), len(drawn)))
    rows_at_once = max(1, _MOST_AT_ONCE // samples.size)
    for start in range(0, len(drawn), rows_at_once):
        rows = drawn[start : start + rows_at_once]
        first = np.arange(len(rows)) * blocks
        times_drawn = np.bincount((rows + first[:, None]).ravel(), minlength=len(rows) * blocks).reshape(-1, blocks)
        # Of all rows one after the other, so that one search serves them.
        up_to = np.cumsum(times_drawn.astype(np.int32)[:, block_of], axis=None, dtype=np.int32)
        before = np.arange(len(rows), dtype=np.int32) * (drawn.shape[1] * frames)
        for statistic, its_ranks in zip(found, ranks, strict=True):
            at = [np.searchsorted(up_to, before + rank, side="right") % samples.size for rank in its_ranks]
            statistic[start : start + len(rows)] = sum(ordered[i] for i in at) / len(at)
    return found
