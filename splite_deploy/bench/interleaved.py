"""Times several networks in one run, in turn, so that clocks, heat and neighbours hit all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import UsageError

Run = Callable[[int], object]
"""One inference on the input of this number; takes the number modulo its inputs."""
Samples = NDArray[np.float64]
"""(blocks, frames of a block) milliseconds. Blocks of the same number, of all networks, lie side by side in time."""
BLOCK_FRAMES = 10
RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians with its 95 % bootstrap interval."""

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
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for block in range(blocks):
            for name in order.permutation(list(runs)):
                run, taken = runs[name], samples[name][block]
                for frame in range(BLOCK_FRAMES):
                    index = block * BLOCK_FRAMES + frame
                    start = time.perf_counter_ns()
                    run(index)
                    taken[frame] = (time.perf_counter_ns() - start) / 1e6
            progress(block + 1, blocks)
    finally:
        if enabled:
            gc.enable()
    return samples


def ratio_of_medians(numerator: Samples, denominator: Samples, *, seed: int = 0) -> Ratio:
    """Median over median, with the interval of a bootstrap over blocks (Efron & Tibshirani 1993, chapters 8 and 13).

    Blocks are drawn, not inferences, since neighbours in time resemble each other; and the same blocks of both, since
    they were measured side by side.
    """
    drawn = np.random.default_rng(seed).integers(len(numerator), size=(RESAMPLES, len(numerator)))
    ratios = [np.median(numerator[blocks]) / np.median(denominator[blocks]) for blocks in drawn]
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Ratio(float(np.median(numerator) / np.median(denominator)), float(low), float(high))
