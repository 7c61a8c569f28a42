"""The timed loop: a `PoseEstimator` end to end, stage by stage, side by side with its model alone.

Two ways to run the same inputs are timed in turn, a block of frames each:

* end to end: the estimator, from image to poses, with a time stamp between its stages;
* model only: ``session.run`` on tensors that were prepared beforehand, which is what other tools time.

Both see the same inputs in the same order, and which of them goes first changes from block to block, so that
clocks, heat and other processes hit both alike. Their difference is what pre- and postprocessing cost an application.
Of a file without a model spec there is the model alone. Several artifacts are timed in one run, in turn.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from splite_deploy.arrays import Feed
from splite_deploy.bench.stats import LatencyStats
from splite_deploy.bench.windows import Samples, settle
from splite_deploy.errors import UsageError
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.pose import Pose
from splite_deploy.runtime.preprocess import Image, check_image
from splite_deploy.runtime.session import Session, StageTimed

Clock = Callable[[], int]
"""Monotonic nanoseconds, such as ``time.perf_counter_ns``."""
Progress = Callable[[int, int], None]
"""Called with (frames measured, frames in all) between blocks, outside of what is timed; the second may grow."""
Input = tuple[Image, ArrayLike | None]
"""An (H, W, 3) uint8 image and an xyxy box in its pixels, or None for the whole image."""

PREPROCESS, INFERENCE, DECODE = "preprocess", "inference", "decode"
END_TO_END, MODEL_ONLY = "end_to_end", "model_only"
STAGES = (PREPROCESS, INFERENCE, DECODE, END_TO_END, MODEL_ONLY)
"""``end_to_end`` is the sum of the three before it, frame by frame; ``model_only`` is timed apart."""
HOST_TO_DEVICE, COMPUTE, DEVICE_TO_HOST = "host_to_device", "compute", "device_to_host"
DEVICE_STAGES = (HOST_TO_DEVICE, COMPUTE, DEVICE_TO_HOST)
"""Parts of ``inference``, where the backend can tell."""

_DEVICE_KEYS = {"h2d": HOST_TO_DEVICE, "compute": COMPUTE, "d2h": DEVICE_TO_HOST}
_READINGS = {PREPROCESS: 1, INFERENCE: 1, DECODE: 1, END_TO_END: 3, MODEL_ONLY: 1}
"""How often the cost of reading the clock lies within a stage."""
_LATEST = 20
"""So many frames of the warm-up tell how long one takes."""
_Durations = dict[str, list[float]]
"""Nanoseconds by stage, one for each frame."""


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        frames: Timed frames, as many end to end as of the model alone; rounded up to whole windows.
        warmup_frames: Fewest untimed frames beforehand.
        warmup_min_s: Shortest warm-up in seconds; whichever of the two takes longer holds. Processors raise
            their clock, and backends choose their kernels, only under load.
        min_s: Shortest time in seconds that ``frames`` take; more are timed where they would take less, since other
            work on the machine comes and goes by the second.
        batch: Crops per frame. Above 1 the box is repeated, and the artifact must have a dynamic batch.
        block_frames: Frames of one kind before the other kind has its turn.
        windows: Windows that ``frames`` are divided into, and whose medians have to agree.
        max_windows: Windows at most, if they do not.
        tolerance: Share by which the largest of those medians may exceed the smallest.
    """

    frames: int = 300
    warmup_frames: int = 50
    warmup_min_s: float = 0.5
    min_s: float = 0.0
    batch: int = 1
    block_frames: int = 10
    windows: int = 3
    max_windows: int = 12
    tolerance: float = 0.03

    def __post_init__(self) -> None:
        lowest = {"frames": 1, "warmup_frames": 0, "warmup_min_s": 0, "min_s": 0, "batch": 1, "block_frames": 1}
        for name, least in {**lowest, "windows": 1, "max_windows": self.windows, "tolerance": 0}.items():
            value = getattr(self, name)
            if not value >= least:
                raise UsageError(f"The benchmark option {name} is {value}.", hint=f"Give {least} or more.")

    def window_frames(self, frame_s: float) -> int:
        """Frames of a window, where one takes so many seconds."""
        frames = self.frames if frame_s <= 0 else max(self.frames, math.ceil(self.min_s / frame_s))
        return -(-frames // self.windows)


@dataclass(frozen=True)
class Measurement:
    """The samples of one run.

    Attributes:
        samples_ns: Per stage, one duration in nanoseconds per frame (of ``batch`` crops), without the cost of
            reading the clock.
        warmup_frames: Frames that ran beforehand, windows included that did not agree yet.
        warmup_s: Seconds of the untimed ones.
        timer_overhead_us: Median duration of one reading of the clock, microseconds. It has been taken off once from
            each stage, and three times from ``end_to_end``.
        window_frames: Frames of each window.
        windows_p50_ms: Median of each window, of ``end_to_end``, or ``model_only`` where that is all.
        stable: Whether the last windows agree.
    """

    samples_ns: Samples
    warmup_frames: int
    warmup_s: float
    timer_overhead_us: float
    window_frames: int
    windows_p50_ms: tuple[float, ...]
    stable: bool

    @property
    def frames(self) -> int:
        """Timed frames of each stage."""
        return len(self.samples_ns[MODEL_ONLY])

    def stages(self) -> dict[str, LatencyStats]:
        """Statistics per stage, in the order of `STAGES`, with those of the device behind."""
        return {name: LatencyStats.from_samples(samples / 1e6) for name, samples in self.samples_ns.items()}


class Subject(Protocol):
    """What is timed."""

    stages: tuple[str, ...]
    """That every frame is timed by."""
    headline: str
    """The one that stands for the frame."""

    def run(self, index: int) -> object:
        """Runs the frame of this number once."""

    def time_block(self, frames: range, clock: Clock, durations_ns: _Durations, *, model_first: bool) -> None:
        """Times each of these frames."""


class EstimatorSubject:
    """An estimator and its model alone, on images.

    Args:
        estimator: An open estimator.
        inputs: Images with boxes, used in turn.
        batch: Crops per frame.

    Raises:
        UsageError: There are no inputs, or one cannot be used.
    """

    stages: tuple[str, ...] = STAGES
    headline = END_TO_END

    def __init__(self, estimator: PoseEstimator, inputs: Sequence[Input], batch: int) -> None:
        if len(inputs) == 0:
            raise UsageError("There are no images to measure with.", hint="Give at least one image with its box.")
        self._estimator = estimator
        self._jobs = [(check_image(image), [box] * batch) for image, box in inputs]
        self._name = estimator.session.inputs[0].name

    def run(self, index: int) -> list[Pose]:
        """One frame as `PoseEstimator.batch` runs it, or `PoseEstimator.detect` where the network finds people."""
        estimator = self._estimator
        image, boxes = self._jobs[index % len(self._jobs)]
        tensor, crops = estimator.prepare(image, boxes)
        return estimator.finish(estimator.decode(estimator.session.run({self._name: tensor})), crops)

    def time_block(self, frames: range, clock: Clock, durations_ns: _Durations, *, model_first: bool) -> None:
        """Times one block both ways."""
        jobs = [self._jobs[index % len(self._jobs)] for index in frames]
        # Only the tensors of one block are held, so that many images in large batches fit into a small device.
        feeds = [{self._name: self._estimator.prepare(image, boxes)[0]} for image, boxes in jobs]
        if model_first:
            _time_model(self._estimator.session, feeds, clock, durations_ns[MODEL_ONLY])
        self._time_estimator(jobs, clock, durations_ns)
        if not model_first:
            _time_model(self._estimator.session, feeds, clock, durations_ns[MODEL_ONLY])

    def _time_estimator(
        self, jobs: Sequence[tuple[Image, list[ArrayLike | None]]], clock: Clock, durations_ns: _Durations
    ) -> None:
        """Times the stages of each frame; the calls are those of `PoseEstimator.batch`."""
        estimator, session, name = self._estimator, self._estimator.session, self._name
        stage_ms = session.stage_ms if isinstance(session, StageTimed) else None
        for image, boxes in jobs:
            began = clock()
            tensor, crops = estimator.prepare(image, boxes)
            prepared = clock()
            outputs = session.run({name: tensor})
            inferred = clock()
            estimator.finish(estimator.decode(outputs), crops)
            ended = clock()
            durations_ns[PREPROCESS].append(prepared - began)
            durations_ns[INFERENCE].append(inferred - prepared)
            durations_ns[DECODE].append(ended - inferred)
            durations_ns[END_TO_END].append(ended - began)
            if stage_ms is not None:
                for key, value_ms in (stage_ms() or {}).items():
                    durations_ns.setdefault(_DEVICE_KEYS[key], []).append(value_ms * 1e6)


class NetworkSubject:
    """A model alone, on tensors.

    Args:
        session: An open session.
        feeds: Inputs by name, used in turn.
    """

    stages: tuple[str, ...] = (MODEL_ONLY,)
    headline = MODEL_ONLY

    def __init__(self, session: Session, feeds: Sequence[Mapping[str, Feed]]) -> None:
        self._session = session
        self._feeds = feeds

    def run(self, index: int) -> object:
        """One inference."""
        return self._session.run(self._feeds[index % len(self._feeds)])

    def time_block(self, frames: range, clock: Clock, durations_ns: _Durations, *, model_first: bool) -> None:
        """Times one block."""
        _time_model(
            self._session, [self._feeds[index % len(self._feeds)] for index in frames], clock, durations_ns[MODEL_ONLY]
        )


def measure(
    subject: Subject,
    options: Options,
    *,
    clock: Clock = time.perf_counter_ns,
    progress: Progress | None = None,
) -> Measurement:
    """Times an estimator end to end beside its model alone, or a model alone, until the figures are steady.

    Python's garbage collector rests meanwhile: its pauses depend on the application's heap, not on the network.

    Args:
        subject: What is timed.
        options: How to measure.
        clock: Monotonic nanoseconds.
        progress: Called with the progress.

    Raises:
        UsageError: An input cannot be used.
        BackendError: The batch is not possible with this artifact, or the backend failed.
    """
    return measure_in_turn([subject], options, clock=clock, progress=progress)[0]


def measure_in_turn(
    subjects: Sequence[Subject],
    options: Options,
    *,
    clock: Clock = time.perf_counter_ns,
    progress: Progress | None = None,
) -> list[Measurement]:
    """Times several subjects in one run, in turn, so that clocks, heat and other work hit all of them alike.

    A window has many turns. In each of them every subject has its share of the window's frames, so that a fast one
    times more of them; the order changes from turn to turn, at random, and a subject's first frame after another one is
    not timed, since the caches hold what that one needed. The run ends once the last windows of all subjects agree.

    Args:
        subjects: What is timed.
        options: How to measure each of them.
        clock: Monotonic nanoseconds.
        progress: Called with the progress, in frames of all subjects.

    Returns:
        What was measured of each. Of one whose last windows agree these alone count, of another one all.

    Raises:
        UsageError: An input cannot be used.
        BackendError: The batch is not possible with an artifact, or a backend failed.
    """
    report = progress or (lambda done, total: None)
    order = np.random.default_rng(0)
    with garbage_collector_off():
        warmed = [_warm_up(subject, options, clock) for subject in subjects]
        overhead_us = timer_overhead_us(clock)
        sizes = [options.window_frames(frame_s) for _, _, frame_s in warmed]
        turns = -(-min(sizes) // options.block_frames)
        planned, blocks = sum(sizes) * options.windows, [0] * len(subjects)

        def time_window(number: int) -> list[Samples]:
            times: list[_Durations] = [{stage: [] for stage in subject.stages} for subject in subjects]
            done = number * sum(sizes)
            for turn in range(turns):
                for index in order.permutation(len(subjects)):
                    subject, size = subjects[index], sizes[index]
                    start, stop = (number * size + -(-size * edge // turns) for edge in (turn, turn + 1))
                    if len(subjects) > 1:
                        subject.run(start)
                    for first in range(start, stop, options.block_frames):
                        frames = range(first, min(first + options.block_frames, stop))
                        subject.time_block(frames, clock, times[index], model_first=blocks[index] % 2 == 1)
                        blocks[index] += 1
                        done += len(frames)
                        report(done, max(planned, (number + 1) * sum(sizes)))
            return [
                {stage: _without_timer(np.array(values), stage, overhead_us) for stage, values in one.items()}
                for one in times
            ]

        report(0, planned)
        settled = settle(
            time_window,
            [subject.headline for subject in subjects],
            agreeing=options.windows,
            most=options.max_windows,
            tolerance=options.tolerance,
        )
    return [
        Measurement(
            samples_ns=one.samples,
            warmup_frames=warmup_frames + one.dropped * size,
            warmup_s=warmup_s,
            timer_overhead_us=overhead_us,
            window_frames=size,
            windows_p50_ms=tuple(p50 / 1e6 for p50 in one.p50),
            stable=one.stable,
        )
        for one, size, (warmup_frames, warmup_s, _) in zip(settled, sizes, warmed, strict=True)
    ]


def timer_overhead_us(clock: Clock = time.perf_counter_ns, readings: int = 1000) -> float:
    """Median time between two readings of the clock with nothing in between, microseconds."""
    return float(np.median(np.diff([clock() for _ in range(readings + 1)]))) / 1e3


@contextmanager
def garbage_collector_off() -> Iterator[None]:
    """Collects once, then lets the garbage collector rest; leaves it as it was. Does nothing where it rests already."""
    if not gc.isenabled():
        yield
        return
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _warm_up(subject: Subject, options: Options, clock: Clock) -> tuple[int, float, float]:
    """Runs untimed frames; returns how many, for how many seconds, and what one takes at the end, seconds."""
    began = clock()
    ended = [began]
    while len(ended) <= options.warmup_frames or ended[-1] - began < 1e9 * options.warmup_min_s:
        subject.run(len(ended) - 1)
        ended.append(clock())
    latest = ended[-1 - _LATEST :] if len(ended) > 1 else [0, 0]
    return len(ended) - 1, (ended[-1] - began) / 1e9, float(np.median(np.diff(latest))) / 1e9


def _without_timer(durations_ns: NDArray[np.float64], stage: str, overhead_us: float) -> NDArray[np.float64]:
    """The durations of a stage without the readings of the clock that lie in them."""
    return np.maximum(durations_ns - 1e3 * overhead_us * _READINGS.get(stage, 0), 0.0)


def _time_model(session: Session, feeds: Sequence[Mapping[str, Feed]], clock: Clock, durations_ns: list[float]) -> None:
    """Times the model alone."""
    for feed in feeds:
        began = clock()
        session.run(feed)
        durations_ns.append(clock() - began)
