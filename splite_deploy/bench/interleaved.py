"""Times several networks in one run, in turn, so that clocks, heat and neighbours hit all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.bench.loop import garbage_collector_off
from splite_deploy.errors import UsageError

Run = Callable[[int], object]
"""One inference on the input of this number; takes the number modulo its inputs."""
Samples = NDArray[np.float64]
"""(blocks, frames of a block) milliseconds. Blocks of the same number, of all networks, lie side by side in time."""
BLOCK_FRAMES = 10
RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """A ratio with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def interleave(
    runs: Mapping[str, Run],
    frames: int,
    *,
    warmup_frames: int = 100,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Samples]:
    """Times every network in blocks of `BLOCK_FRAMES`; the order changes from block to block, at random.

    Which network ran before decides what the caches hold, so no network may always follow the same other one. Python's
    garbage collector rests meanwhile.

    Args:
        runs: The networks by name.
        frames: Timed inferences of each, rounded up to whole blocks.
        warmup_frames: Untimed inferences of each beforehand.
        progress: Told (blocks done, blocks in all) between blocks.

    Raises:
        UsageError: No inference is to be timed.
    """
    if frames < 1:
        raise UsageError(f"{frames} inferences cannot be timed.", hint="Give 1 or more.")
    blocks = -(-frames // BLOCK_FRAMES)
    samples = {name: np.empty((blocks, BLOCK_FRAMES)) for name in runs}
    order = np.random.default_rng(0)
    for run in runs.values():
        for index in range(warmup_frames):
            run(index)
    with garbage_collector_off():
        for block in range(blocks):
            for name in order.permutation(list(runs)):
                run, taken = runs[name], samples[name][block]
                for frame in range(BLOCK_FRAMES):
                    index = block * BLOCK_FRAMES + frame
                    start = time.perf_counter_ns()
                    run(index)
                    taken[frame] = (time.perf_counter_ns() - start) / 1e6
            progress(block + 1, blocks)
    return samples


def ratio_of_medians(numerator: Samples, denominator: Samples, *, seed: int = 0) -> Ratio:
    """Median over median of networks that were timed in one run: blocks of the same number lay side by side."""
    return bootstrap_ratio(numerator, denominator, np.median, paired=True, seed=seed)


def bootstrap_ratio(
    numerator: Samples,
    denominator: Samples,
    statistic: Callable[[Samples], np.floating[Any]],
    *,
    paired: bool,
    seed: int = 0,
) -> Ratio:
    """A ratio with the interval of a bootstrap over blocks (Efron & Tibshirani 1993, chapters 8 and 13).

    Blocks are drawn, not inferences, since neighbours in time resemble each other.

    Args:
        numerator: (blocks, frames of a block) of the one.
        denominator: (blocks, frames of a block) of the other.
        statistic: What is set in proportion, of any number of blocks.
        paired: Draws the same blocks of both, since they were measured side by side; otherwise those of each by
            themselves.
        seed: Of the drawing.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(numerator), size=(RESAMPLES, len(numerator)))
    others = drawn if paired else rng.integers(len(denominator), size=(RESAMPLES, len(denominator)))
    ratios = [
        statistic(numerator[these]) / statistic(denominator[those]) for these, those in zip(drawn, others, strict=True)
    ]
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Ratio(float(statistic(numerator) / statistic(denominator)), float(low), float(high))
