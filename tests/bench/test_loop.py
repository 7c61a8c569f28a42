"""The timed loop, with a clock that only moves when a stage says so."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from splite_deploy.bench.loop import (
    STAGES,
    EstimatorSubject,
    Measurement,
    NetworkSubject,
    Options,
    garbage_collector_off,
    measure,
    measure_in_turn,
    timer_overhead_us,
)
from splite_deploy.bundle import TensorSpec
from splite_deploy.decoders import Coordinates, Decoded
from splite_deploy.errors import BackendError, UsageError
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.pose import Pose
from splite_deploy.spec import InputSpec, ModelSpec, SkeletonSpec

SPEC = ModelSpec(
    name="fake",
    input=InputSpec(8, 8, "rgb", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), 1.0, 0),
    decoder=Coordinates(scale="unit"),
    skeleton=SkeletonSpec(("a", "b"), ((0, 1),)),
)


class FakeClock:
    """Nanoseconds that pass only when told; reading it takes ``reading_ns``."""

    def __init__(self, reading_ns: int = 0) -> None:
        self.now_ns = 0
        self.reading_ns = reading_ns

    def __call__(self) -> int:
        self.now_ns += self.reading_ns
        return self.now_ns


class FakeSession:
    """A network that takes 1000 ns more at each run and remembers what it was fed."""

    inputs = (TensorSpec("image", (None, 3, 8, 8), "float32", "NCHW", "image"),)
    outputs = (TensorSpec("points", (None, 2, 2), "float32", "NC", "coordinates"),)

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.fed: list[tuple[int, int]] = []
        self.collecting: list[bool] = []

    def run(self, feeds: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        tensor = feeds["image"]
        self.fed.append((len(tensor), round(float(tensor[0, 0, 4, 4]) * 255)))
        self.collecting.append(gc.isenabled())
        self.clock.now_ns += 1000 * len(self.fed)
        return {"points": np.full((len(tensor), 2, 2), 0.5, np.float32)}

    def close(self) -> None:
        pass


class TimedEstimator(PoseEstimator):
    """Each of its stages takes a known time."""

    def __init__(self, clock: FakeClock) -> None:
        self.fake = FakeSession(clock)
        super().__init__(SPEC, self.fake, "rgb")
        self.clock = clock

    def prepare(self, image: Any, boxes: Sequence[ArrayLike | None]) -> Any:
        self.clock.now_ns += 100
        return super().prepare(image, boxes)

    def decode(self, outputs: dict[str, NDArray[np.float32]]) -> Decoded:
        self.clock.now_ns += 10
        return super().decode(outputs)

    def finish(self, decoded: Decoded, frames: Any, *rest: Any) -> list[Pose]:
        self.clock.now_ns += 1
        return super().finish(decoded, frames, *rest)


def _inputs(count: int) -> list[tuple[NDArray[np.uint8], None]]:
    """Images that tell themselves apart: image i is grey of value i."""
    return [(np.full((8, 8, 3), i, np.uint8), None) for i in range(count)]


def _measure(
    frames: int, block_frames: int, images: int = 3, reading_ns: int = 0, **options: Any
) -> tuple[Measurement, TimedEstimator]:
    clock = FakeClock(reading_ns)
    estimator = TimedEstimator(clock)
    plain = {"warmup_frames": 0, "warmup_min_s": 0.0, "block_frames": block_frames, "windows": 1}
    chosen = Options(frames=frames, **{**plain, **options})
    subject = EstimatorSubject(estimator, _inputs(images), chosen.batch)
    return measure(subject, chosen, clock=clock), estimator


def test_every_stage_is_timed_apart() -> None:
    result, _ = _measure(frames=2, block_frames=1)
    assert result.samples_ns["preprocess"].tolist() == [100, 100]
    assert result.samples_ns["decode"].tolist() == [11, 11]
    # Runs 1 and 4 are the estimator's, 2 and 3 the model's alone: the order turns from block to block.
    assert result.samples_ns["inference"].tolist() == [1000, 4000]
    assert result.samples_ns["model_only"].tolist() == [2000, 3000]
    assert result.samples_ns["end_to_end"].tolist() == [1111, 4111]


@pytest.mark.parametrize("reading_ns", [0, 7])
def test_stages_add_up_to_the_total_frame_by_frame(reading_ns: int) -> None:
    result, _ = _measure(frames=9, block_frames=4, reading_ns=reading_ns)
    parts = sum(result.samples_ns[name] for name in ("preprocess", "inference", "decode"))
    np.testing.assert_array_equal(parts, result.samples_ns["end_to_end"])
    assert all(len(result.samples_ns[name]) == 9 for name in STAGES)


def test_reading_the_clock_is_taken_off_and_stated() -> None:
    free, _ = _measure(frames=3, block_frames=3)
    dear, _ = _measure(frames=3, block_frames=3, reading_ns=7)
    for name in STAGES:
        np.testing.assert_array_equal(dear.samples_ns[name], free.samples_ns[name])
    assert free.timer_overhead_us == 0.0
    assert dear.timer_overhead_us == pytest.approx(0.007)


def test_drift_hits_both_ways_alike() -> None:
    """A network that gets slower at every run has the same mean both ways."""
    result, _ = _measure(frames=40, block_frames=5)
    stages = result.stages()
    assert stages["inference"].mean_ms == pytest.approx(stages["model_only"].mean_ms)


def test_both_ways_see_the_same_inputs_in_turn() -> None:
    result, estimator = _measure(frames=4, block_frames=2, images=3)
    grey = [value for _, value in estimator.fake.fed]
    assert grey == [0, 1, 0, 1, 2, 0, 2, 0]
    assert result.stages()["end_to_end"].count == 4


def test_warm_up_lasts_for_enough_frames() -> None:
    result, estimator = _measure(frames=1, block_frames=1, warmup_frames=5)
    assert result.warmup_frames == 5
    assert len(estimator.fake.fed) == 5 + 2
    assert [value for _, value in estimator.fake.fed[:5]] == [0, 1, 2, 0, 1]


def test_warm_up_lasts_for_enough_time() -> None:
    # 1 + ... + 9 runs take 45 us, and the other stages 111 ns each: nine frames are the first to last 42 us.
    result, _ = _measure(frames=1, block_frames=1, warmup_frames=2, warmup_min_s=42e-6)
    assert result.warmup_frames == 9
    assert result.warmup_s == pytest.approx(45e-6 + 9 * 111e-9)


def test_more_frames_are_timed_where_they_are_over_too_soon() -> None:
    class Steady(FakeSession):
        def run(self, feeds: Any) -> dict[str, Any]:
            self.clock.now_ns += 5000 - 1000 * (len(self.fed) + 1)
            return super().run(feeds)

    def frames(min_s: float) -> int:
        clock = FakeClock()
        feeds = [{"image": np.zeros((1, 3, 8, 8), np.float32)}]
        options = Options(frames=6, warmup_frames=3, warmup_min_s=0, min_s=min_s)
        return measure(NetworkSubject(Steady(clock), feeds), options, clock=clock).frames

    assert [frames(min_s) for min_s in (0, 29e-6, 300e-6)] == [6, 6, 60]  # of 5 us


def test_batch_repeats_the_box() -> None:
    _, estimator = _measure(frames=2, block_frames=2, batch=4)
    assert {size for size, _ in estimator.fake.fed} == {4}


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collector_rests_and_is_left_as_it_was(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        _, estimator = _measure(frames=2, block_frames=1)
        assert not any(estimator.fake.collecting)
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_within_a_measurement_nothing_is_collected_again(monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[bool] = []
    monkeypatch.setattr(gc, "collect", lambda: collected.append(True))
    with garbage_collector_off():
        with garbage_collector_off():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled() and collected == [True]


def test_garbage_collector_is_restored_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(feeds: object) -> None:
        raise BackendError("The device is gone.", hint="Plug it in.")

    clock = FakeClock()
    estimator = TimedEstimator(clock)
    monkeypatch.setattr(estimator.fake, "run", fail)
    subject = EstimatorSubject(estimator, _inputs(1), batch=1)
    with pytest.raises(BackendError):
        measure(subject, Options(frames=1, warmup_frames=0, warmup_min_s=0), clock=clock)
    assert gc.isenabled()


def test_progress_is_told_between_blocks() -> None:
    told: list[tuple[int, int]] = []
    clock = FakeClock()
    options = Options(frames=5, warmup_frames=0, warmup_min_s=0, block_frames=2, windows=1)
    subject = EstimatorSubject(TimedEstimator(clock), _inputs(2), batch=1)
    measure(subject, options, clock=clock, progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 5), (2, 5), (4, 5), (5, 5)]


def test_no_inputs() -> None:
    with pytest.raises(UsageError, match="no images"):
        EstimatorSubject(TimedEstimator(FakeClock()), [], batch=1)


def test_unusable_image() -> None:
    image: Any = np.zeros((4, 4), np.uint8)
    with pytest.raises(UsageError, match="shape"):
        EstimatorSubject(TimedEstimator(FakeClock()), [(image, None)], batch=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames": 0},
        {"warmup_frames": -1},
        {"warmup_min_s": float("nan")},
        {"batch": 0},
        {"block_frames": 0},
        {"windows": 0},
        {"max_windows": 2},
        {"tolerance": -0.1},
    ],
)
def test_wrong_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))) as caught:
        Options(**wrong)
    assert caught.value.hint.startswith("Give ")


def test_real_clock_costs_less_than_a_tenth_of_a_millisecond() -> None:
    assert 0 <= timer_overhead_us() < 100


class SteadyingSession(FakeSession):
    """A network whose runs take 9 us at first and 5 us from the seventh on."""

    def run(self, feeds: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        self.clock.now_ns += (9000 if len(self.fed) < 6 else 5000) - 1000 * (len(self.fed) + 1)
        return super().run(feeds)


def test_windows_are_added_until_three_agree_and_the_earlier_ones_are_warm_up() -> None:
    clock = FakeClock()
    session = SteadyingSession(clock)
    feeds = [{"image": np.zeros((1, 3, 8, 8), np.float32)}]
    told: list[tuple[int, int]] = []
    options = Options(frames=6, warmup_frames=1, warmup_min_s=0)
    result = measure(
        NetworkSubject(session, feeds), options, clock=clock, progress=lambda done, total: told.append((done, total))
    )
    # Windows of two: 9, 9 | 9, 9 | 9, 5 (p50 7) | 5, 5 | 5, 5 | 5, 5
    assert result.windows_p50_ms == (0.009, 0.009, 0.007, 0.005, 0.005, 0.005)
    assert (result.stable, result.frames, result.warmup_frames) == (True, 6, 1 + 6)
    assert list(result.samples_ns) == ["model_only"]
    assert result.samples_ns["model_only"].tolist() == [5000] * 6
    assert told[0] == (0, 6) and told[-1] == (12, 12)


def test_what_never_agrees_is_unstable_and_all_of_it_is_kept() -> None:
    result, estimator = _measure(frames=6, block_frames=2, windows=3, max_windows=4)
    assert not result.stable
    assert len(result.windows_p50_ms) == 4
    assert (result.frames, result.warmup_frames) == (8, 0)
    assert len(estimator.fake.fed) == 2 * 8


def test_the_order_turns_where_a_window_is_one_block() -> None:
    _, estimator = _measure(frames=4, block_frames=10, windows=2, max_windows=2, images=4)
    # Estimator 0, 1 then the model 0, 1; next window the model 2, 3 then estimator 2, 3.
    assert [value for _, value in estimator.fake.fed] == [0, 1, 0, 1, 2, 3, 2, 3]
    result, _ = _measure(frames=4, block_frames=10, windows=2, max_windows=2, images=4)
    assert result.samples_ns["model_only"].tolist() == [3000, 4000, 5000, 6000]


def test_a_backend_that_knows_its_stages_tells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    estimator = TimedEstimator(clock)
    stages = {"h2d": 0.25, "compute": 1.5, "d2h": 0.125}
    monkeypatch.setattr(estimator.fake, "stage_ms", lambda: stages, raising=False)
    options = Options(frames=2, warmup_frames=0, warmup_min_s=0, windows=1)
    told = measure(EstimatorSubject(estimator, _inputs(1), batch=1), options, clock=clock).stages()
    assert list(told) == [*STAGES, "host_to_device", "compute", "device_to_host"]
    assert (told["host_to_device"].p50_ms, told["compute"].p50_ms, told["device_to_host"].p50_ms) == (0.25, 1.5, 0.125)

    monkeypatch.setattr(estimator.fake, "stage_ms", lambda: None)
    untold = measure(EstimatorSubject(estimator, _inputs(1), batch=1), options, clock=clock).stages()
    assert tuple(untold) == STAGES


def _networks(costs_ns: Sequence[int], clock: FakeClock, calls: list[tuple[int, int]]) -> list[NetworkSubject]:
    """Networks of known cost that note who ran on which input."""

    class Noting(FakeSession):
        def __init__(self, number: int) -> None:
            super().__init__(clock)
            self.number = number

        def run(self, feeds: Any) -> dict[str, Any]:
            calls.append((self.number, int(feeds["image"][0, 0, 0, 0])))
            clock.now_ns += costs_ns[self.number]
            return {}

    feeds = [{"image": np.full((1, 3, 8, 8), index, np.float32)} for index in range(500)]
    return [NetworkSubject(Noting(number), feeds) for number in range(len(costs_ns))]


def test_several_are_timed_in_turn_each_for_its_share_of_the_time() -> None:
    clock, calls = FakeClock(), list[tuple[int, int]]()
    options = Options(frames=60, warmup_frames=3, warmup_min_s=0, min_s=239e-6)
    slow, fast = measure_in_turn(_networks((4000, 1000), clock, calls), options, clock=clock)
    assert (slow.frames, fast.frames, slow.stable, fast.stable) == (60, 240, True, True)
    assert slow.samples_ns["model_only"].tolist() == [4000] * 60
    assert fast.samples_ns["model_only"].tolist() == [1000] * 240
    timed = calls[6:]  # after the warm-up of both
    # Each turn of each begins with a frame that is not timed, on the input that follows.
    runs: dict[int, list[int]] = {0: [], 1: []}
    order = []
    index = 0
    while index < len(timed):
        number, first = timed[index]
        share = 10 if number == 0 else 40
        assert timed[index + 1 : index + 1 + share] == [(number, first + frame) for frame in range(share)]
        runs[number] += range(first, first + share)
        order.append(number)
        index += 1 + share
    assert runs == {0: list(range(60)), 1: list(range(240))}
    pairs = list(zip(order[::2], order[1::2], strict=True))
    assert all(set(pair) == {0, 1} for pair in pairs) and len(set(pairs)) == 2


def test_all_go_on_until_the_last_one_is_steady() -> None:
    clock, calls = FakeClock(), list[tuple[int, int]]()
    subjects = _networks((1000, 1000), clock, calls)
    options = Options(frames=30, warmup_frames=0, warmup_min_s=0, block_frames=10, max_windows=5)
    told: list[tuple[int, int]] = []

    class Restless(NetworkSubject):
        def time_block(self, frames: range, clock: Any, durations_ns: dict[str, list[float]], **rest: bool) -> None:
            durations_ns["model_only"] += [1000.0 * (1 + frames.start)] * len(frames)

    restless = Restless(FakeSession(clock), [{"image": np.zeros((1, 3, 8, 8), np.float32)}])
    calm, never = measure_in_turn(
        [subjects[0], restless], options, clock=clock, progress=lambda done, total: told.append((done, total))
    )
    assert (calm.stable, never.stable) == (True, False)
    assert (len(calm.windows_p50_ms), len(never.windows_p50_ms)) == (5, 5)
    assert (calm.frames, never.frames) == (30, 50)  # the last three windows, and all of them
    assert (calm.warmup_frames, never.warmup_frames) == (20, 0)
    assert told[0] == (0, 60) and told[-1] == (100, 100)
