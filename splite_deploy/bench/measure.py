"""The timed loop: the stages of a `PoseEstimator`, side by side with its bare network.

Two ways to run the same inputs are timed in turn, a block of frames each:

* the estimator, from image to poses, with a time stamp between its stages;
* the bare network, ``session.run`` on tensors that were prepared beforehand, which is what other tools time.

Both see the same inputs in the same order, and which of them goes first changes from block to block, so that
clocks, heat and other processes hit both alike. Their difference is what pre- and postprocessing cost an application.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from splite_deploy.bench.stats import LatencyStats
from splite_deploy.errors import UsageError
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.preprocess import Image, check_image
from splite_deploy.runtime.session import Session

Clock = Callable[[], int]
"""Monotonic nanoseconds, such as ``time.perf_counter_ns``."""
Progress = Callable[[int, int], None]
"""Told (frames measured, frames in all) between blocks, outside of what is timed."""
Input = tuple[Image, ArrayLike | None]
"""An (H, W, 3) uint8 image and an xyxy box in its pixels, or None for the whole image."""

PREPROCESS, INFERENCE, DECODE, TOTAL, BARE = "preprocess", "inference", "decode", "total", "bare_inference"
STAGES = (PREPROCESS, INFERENCE, DECODE, TOTAL, BARE)
"""``total`` is the sum of the three before it, frame by frame; ``bare_inference`` is timed apart."""
HOST_TO_DEVICE, COMPUTE, DEVICE_TO_HOST = "host_to_device", "compute", "device_to_host"
DEVICE_STAGES = (HOST_TO_DEVICE, COMPUTE, DEVICE_TO_HOST)
"""Parts of ``inference``, where the backend can tell."""

_Job = tuple[Image, list[ArrayLike | None]]


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        frames: Timed frames, as many for the estimator as for the bare network.
        warmup_frames: Fewest untimed frames beforehand.
        warmup_min_s: Shortest warm-up in seconds; whichever of the two takes longer holds. Processors raise
            their clock, and backends choose their kernels, only under load.
        batch: Crops per frame. Above 1 the box is repeated, and the artifact must have a dynamic batch.
        block_frames: Frames of one kind before the other kind has its turn.
    """

    frames: int = 300
    warmup_frames: int = 50
    warmup_min_s: float = 0.5
    batch: int = 1
    block_frames: int = 10

    def __post_init__(self) -> None:
        lowest = {"frames": 1, "warmup_frames": 0, "warmup_min_s": 0, "batch": 1, "block_frames": 1}
        for name, least in lowest.items():
            value = getattr(self, name)
            if not value >= least:
                raise UsageError(f"The benchmark option {name} is {value}.", hint=f"Give {least} or more.")


@dataclass(frozen=True)
class Measurement:
    """The samples of one run.

    Attributes:
        samples_ns: Per stage of `STAGES`, one duration in nanoseconds per frame (of ``batch`` crops).
        warmup_frames: Untimed frames that were run beforehand.
        warmup_s: Seconds that they took.
        timer_overhead_us: Median duration of one reading of the clock, microseconds. It is contained once in
            each stage and three times in ``total``; nothing is subtracted.
    """

    samples_ns: Mapping[str, Sequence[int]]
    warmup_frames: int
    warmup_s: float
    timer_overhead_us: float

    def stages(self) -> dict[str, LatencyStats]:
        """Statistics per stage, in the order of `STAGES`."""
        return {name: LatencyStats.from_samples(np.array(self.samples_ns[name]) / 1e6) for name in STAGES}


def measure(
    estimator: PoseEstimator,
    inputs: Sequence[Input],
    options: Options,
    *,
    clock: Clock = time.perf_counter_ns,
    progress: Progress | None = None,
) -> Measurement:
    """Times an estimator and its bare network on real inputs, which are used in turn.

    Python's garbage collector rests meanwhile: its pauses depend on the application's heap, not on the network.

    Args:
        estimator: An open estimator.
        inputs: Images with boxes.
        options: How to measure.
        clock: Monotonic nanoseconds.
        progress: Told how far it is.

    Raises:
        UsageError: There are no inputs, or one cannot be used.
        BackendError: The batch is not possible with this artifact, or the backend failed.
    """
    if len(inputs) == 0:
        raise UsageError("There are no images to measure with.", hint="Give at least one image with its box.")
    report = progress or (lambda done, total: None)
    jobs: list[_Job] = [(check_image(image), [box] * options.batch) for image, box in inputs]
    samples: dict[str, list[int]] = {name: [] for name in STAGES}
    report(0, options.frames)
    with _garbage_collector_off():
        warmup_frames, warmup_s = _warm_up(estimator, jobs, options, clock)
        overhead_us = timer_overhead_us(clock)
        for number, start in enumerate(range(0, options.frames, options.block_frames)):
            stop = min(start + options.block_frames, options.frames)
            block = [jobs[index % len(jobs)] for index in range(start, stop)]
            _time_block(estimator, block, clock, samples, bare_first=number % 2 == 1)
            report(stop, options.frames)
    return Measurement(samples, warmup_frames, warmup_s, overhead_us)


def timer_overhead_us(clock: Clock = time.perf_counter_ns, readings: int = 1000) -> float:
    """Median time between two readings of the clock with nothing in between, microseconds."""
    return float(np.median(np.diff([clock() for _ in range(readings + 1)]))) / 1e3


@contextmanager
def _garbage_collector_off() -> Iterator[None]:
    """Collects once, then lets the garbage collector rest; leaves it as it was."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _warm_up(estimator: PoseEstimator, jobs: Sequence[_Job], options: Options, clock: Clock) -> tuple[int, float]:
    """Runs untimed frames; returns how many and for how many seconds."""
    frames, elapsed_s, began = 0, 0.0, clock()
    while frames < options.warmup_frames or elapsed_s < options.warmup_min_s:
        image, boxes = jobs[frames % len(jobs)]
        tensor, crops = estimator.prepare(image, boxes)
        estimator.finish(estimator.decode(estimator.session.run({_input_name(estimator): tensor})), crops)
        frames += 1
        elapsed_s = (clock() - began) / 1e9
    return frames, elapsed_s


def _time_block(
    estimator: PoseEstimator,
    block: Sequence[_Job],
    clock: Clock,
    samples: dict[str, list[int]],
    *,
    bare_first: bool,
) -> None:
    """Times one block both ways."""
    name = _input_name(estimator)
    # Only the tensors of one block are held, so that many images in large batches fit into a small device.
    tensors = [estimator.prepare(image, boxes)[0] for image, boxes in block]
    if bare_first:
        _time_bare(estimator.session, name, tensors, clock, samples[BARE])
    _time_estimator(estimator, name, block, clock, samples)
    if not bare_first:
        _time_bare(estimator.session, name, tensors, clock, samples[BARE])


def _time_estimator(
    estimator: PoseEstimator, name: str, block: Sequence[_Job], clock: Clock, samples: dict[str, list[int]]
) -> None:
    """Times the stages of each frame; the calls are those of `PoseEstimator.batch`."""
    session = estimator.session
    for image, boxes in block:
        began = clock()
        tensor, crops = estimator.prepare(image, boxes)
        prepared = clock()
        outputs = session.run({name: tensor})
        inferred = clock()
        estimator.finish(estimator.decode(outputs), crops)
        ended = clock()
        samples[PREPROCESS].append(prepared - began)
        samples[INFERENCE].append(inferred - prepared)
        samples[DECODE].append(ended - inferred)
        samples[TOTAL].append(ended - began)


def _time_bare(
    session: Session, name: str, tensors: Sequence[NDArray[np.float32]], clock: Clock, samples: list[int]
) -> None:
    """Times the network alone."""
    for tensor in tensors:
        began = clock()
        session.run({name: tensor})
        samples.append(clock() - began)


def _input_name(estimator: PoseEstimator) -> str:
    return estimator.session.inputs[0].name
