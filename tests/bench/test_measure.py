"""The timed loop, with a clock that only moves when a stage says so."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from splite_deploy.bench.measure import STAGES, Measurement, Options, measure, timer_overhead_us
from splite_deploy.bundle import TensorSpec
from splite_deploy.errors import BackendError, UsageError
from splite_deploy.runtime.decode import Decoded
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.pose import Pose
from splite_deploy.spec import Coordinates, InputSpec, ModelSpec, SkeletonSpec

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
    chosen = Options(
        frames=frames, **{"warmup_frames": 0, "warmup_min_s": 0.0, "block_frames": block_frames, **options}
    )
    return measure(estimator, _inputs(images), chosen, clock=clock), estimator


def test_every_stage_is_timed_apart() -> None:
    result, _ = _measure(frames=2, block_frames=1)
    assert result.samples_ns["preprocess"] == [100, 100]
    assert result.samples_ns["decode"] == [11, 11]
    # Runs 1 and 4 are the estimator's, 2 and 3 the bare network's: the order turns from block to block.
    assert result.samples_ns["inference"] == [1000, 4000]
    assert result.samples_ns["bare_inference"] == [2000, 3000]
    assert result.samples_ns["total"] == [1111, 4111]


@pytest.mark.parametrize("reading_ns", [0, 7])
def test_stages_add_up_to_the_total_frame_by_frame(reading_ns: int) -> None:
    result, _ = _measure(frames=9, block_frames=4, reading_ns=reading_ns)
    parts = zip(*(result.samples_ns[name] for name in ("preprocess", "inference", "decode")), strict=True)
    assert [sum(part) for part in parts] == result.samples_ns["total"]
    assert all(len(result.samples_ns[name]) == 9 for name in STAGES)


def test_reading_the_clock_is_contained_once_in_each_stage() -> None:
    free, _ = _measure(frames=3, block_frames=3)
    dear, _ = _measure(frames=3, block_frames=3, reading_ns=7)
    for name, readings in {"preprocess": 1, "inference": 1, "decode": 1, "bare_inference": 1, "total": 3}.items():
        extra = np.subtract(dear.samples_ns[name], free.samples_ns[name])
        assert extra.tolist() == [7 * readings] * 3
    assert free.timer_overhead_us == 0.0
    assert dear.timer_overhead_us == pytest.approx(0.007)


def test_drift_hits_both_ways_alike() -> None:
    """A network that gets slower at every run has the same mean both ways."""
    result, _ = _measure(frames=40, block_frames=5)
    stages = result.stages()
    assert stages["inference"].mean_ms == pytest.approx(stages["bare_inference"].mean_ms)


def test_both_ways_see_the_same_inputs_in_turn() -> None:
    result, estimator = _measure(frames=4, block_frames=2, images=3)
    grey = [value for _, value in estimator.fake.fed]
    assert grey == [0, 1, 0, 1, 2, 0, 2, 0]
    assert result.stages()["total"].count == 4


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


def test_garbage_collector_is_restored_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(feeds: object) -> None:
        raise BackendError("The device is gone.", hint="Plug it in.")

    clock = FakeClock()
    estimator = TimedEstimator(clock)
    monkeypatch.setattr(estimator.fake, "run", fail)
    with pytest.raises(BackendError):
        measure(estimator, _inputs(1), Options(frames=1, warmup_frames=0, warmup_min_s=0), clock=clock)
    assert gc.isenabled()


def test_progress_is_told_between_blocks() -> None:
    told: list[tuple[int, int]] = []
    clock = FakeClock()
    options = Options(frames=5, warmup_frames=0, warmup_min_s=0, block_frames=2)
    measure(
        TimedEstimator(clock),
        _inputs(2),
        options,
        clock=clock,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(0, 5), (2, 5), (4, 5), (5, 5)]


def test_no_inputs() -> None:
    with pytest.raises(UsageError, match="no images"):
        measure(TimedEstimator(FakeClock()), [], Options())


def test_unusable_image() -> None:
    image: Any = np.zeros((4, 4), np.uint8)
    with pytest.raises(UsageError, match="shape"):
        measure(TimedEstimator(FakeClock()), [(image, None)], Options())


@pytest.mark.parametrize(
    "wrong",
    [{"frames": 0}, {"warmup_frames": -1}, {"warmup_min_s": float("nan")}, {"batch": 0}, {"block_frames": 0}],
)
def test_wrong_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))) as caught:
        Options(**wrong)
    assert caught.value.hint.startswith("Give ")


def test_real_clock_costs_less_than_a_tenth_of_a_millisecond() -> None:
    assert 0 <= timer_overhead_us() < 100
