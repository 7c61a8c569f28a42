"""Several estimators at once, as an application with several cameras runs them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from splite_deploy.bench.loop import EstimatorSubject, Input, garbage_collector_off
from splite_deploy.bench.result import Streams
from splite_deploy.bench.stats import LatencyStats
from splite_deploy.runtime.estimator import PoseEstimator

WARMUP_FRAMES = 10


def run_streams(
    open_estimator: Callable[[], PoseEstimator],
    inputs: Sequence[Input],
    count: int,
    *,
    batch: int = 1,
    seconds: float = 2.0,
) -> Streams:
    """Measures so many streams together, and one alone just before.

    Each has a session and a thread of its own. Threads of one process share Python's lock while they prepare and
    decode, so the speed-up stays below the number of streams even where cores are free.

    Args:
        open_estimator: Opens another one; called ``count`` times.
        inputs: Images with boxes; each stream begins at another.
        count: Streams, 2 or more.
        batch: Crops per frame.
        seconds: How long each of the two runs lasts.

    Raises:
        BackendError: The backend failed.
    """
    with ExitStack() as stack:
        subjects = [
            EstimatorSubject(stack.enter_context(open_estimator()), _rotated(inputs, number), batch)
            for number in range(count)
        ]
        for subject in subjects:
            for index in range(WARMUP_FRAMES):
                subject.run(index)
        with garbage_collector_off():
            (alone_ms,), alone_s = _together(subjects[:1], seconds)
            each_ms, together_s = _together(subjects, seconds)
    durations_ms = np.concatenate(each_ms)
    frames_per_second = len(durations_ms) / together_s
    return Streams(
        count=count,
        frames=len(durations_ms),
        frames_per_second=frames_per_second,
        speed_up=frames_per_second / (len(alone_ms) / alone_s),
        latency=LatencyStats.from_samples(durations_ms),
    )


def _together(subjects: Sequence[EstimatorSubject], seconds: float) -> tuple[list[NDArray[np.float64]], float]:
    """Milliseconds of every frame of each, and the seconds that it took all of them."""
    start = threading.Barrier(len(subjects) + 1)

    def work(subject: EstimatorSubject) -> NDArray[np.float64]:
        ended: list[int] = []
        start.wait()
        began = time.perf_counter_ns()
        end = began + round(1e9 * seconds)
        while not ended or ended[-1] < end:
            subject.run(len(ended))
            ended.append(time.perf_counter_ns())
        return np.diff([began, *ended]) / 1e6

    with ThreadPoolExecutor(len(subjects)) as pool:
        running = [pool.submit(work, subject) for subject in subjects]
        start.wait()
        began = time.perf_counter()
        durations_ms = [one.result() for one in running]
        return durations_ms, time.perf_counter() - began


def _rotated(inputs: Sequence[Input], by: int) -> list[Input]:
    start = by % max(1, len(inputs))
    return [*inputs[start:], *inputs[:start]]
