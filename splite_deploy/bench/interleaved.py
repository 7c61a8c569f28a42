"""Times several networks in one run, in turn, so that clocks, heat and neighbours hit all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from splite_deploy.bench.bootstrap import Samples
from splite_deploy.bench.loop import garbage_collector_off
from splite_deploy.errors import UsageError

Run = Callable[[int], object]
"""One inference on the input of this number; takes the number modulo its inputs."""
BLOCK_FRAMES = 10


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
        progress: Called with (blocks done, blocks in all) between blocks.

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
                run, times_ms = runs[name], samples[name][block]
                for frame in range(BLOCK_FRAMES):
                    index = block * BLOCK_FRAMES + frame
                    start = time.perf_counter_ns()
                    run(index)
                    times_ms[frame] = (time.perf_counter_ns() - start) / 1e6
            progress(block + 1, blocks)
    return samples
