"""Runs without a pause: the curve, and what is said of its end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from splite_deploy.bench.result import CurvePoint, Sensors
from splite_deploy.bench.sustained import curve, fallen_clocks, sustain, throttling


class Clocked:
    """Frames that take so many milliseconds, as the clock below tells."""

    stages = ("model_only",)
    headline = "model_only"

    def __init__(self, first_ms: float, later_ms: float, from_s: float) -> None:
        self.now_ns = 0
        self.first_ms, self.later_ms, self.from_s = first_ms, later_ms, from_s

    def __call__(self) -> int:
        return self.now_ns

    def run(self, index: int) -> None:
        self.now_ns += round(1e6 * (self.first_ms if self.now_ns < 1e9 * self.from_s else self.later_ms))

    def time_block(self, frames: range, clock: object, durations_ns: object, *, model_first: bool) -> None:
        raise AssertionError("a sustained run is not divided into blocks")


def sensors(**clocks: tuple[float | None, ...]) -> Sensors:
    count = len(next(iter(clocks.values()))) if clocks else 0
    return Sensors("files", tuple(map(float, range(count))), {}, {}, clocks, {}, None, None, ())


def points(*p50_ms: float) -> list[CurvePoint]:
    return [CurvePoint(second, 100, value, 2 * value) for second, value in enumerate(p50_ms)]


def test_the_curve_counts_frames_by_the_second_of_their_end() -> None:
    found = curve(np.array([400.0, 500.0, 300.0, 2000.0]), np.array([0.4, 0.9, 1.2, 3.2]))
    assert found == (CurvePoint(0, 2, 450.0, 500.0), CurvePoint(1, 1, 300.0, 300.0), CurvePoint(3, 1, 2000.0, 2000.0))


def test_a_steady_run(tmp_path: Path) -> None:
    subject = Clocked(50, 50, 0)
    told: list[tuple[int, int]] = []
    run = sustain(subject, 12, clock=subject, root=tmp_path, progress=lambda done, total: told.append((done, total)))
    assert (run.frames, run.seconds, run.frames_per_second) == (240, 12.0, 20.0)
    assert [point.frames for point in run.curve] == [19, *[20] * 10, 21]  # a frame ends on every full second
    assert run.state == "steady"
    assert run.reason == "p50 50.000 ms in the first 2 s, 50.000 ms in the last"
    assert run.sensors is None  # an empty folder has none
    assert told == [(second, 12) for second in range(1, 13)]


def test_a_run_that_slows_down(tmp_path: Path) -> None:
    subject = Clocked(40, 60, 6)
    run = sustain(subject, 12, clock=subject, root=tmp_path)
    assert run.state == "slowed"
    assert "40.000 ms in the first 2 s, 60.000 ms in the last; no clock could be read" in run.reason


def test_the_last_frame_belongs_to_the_last_second(tmp_path: Path) -> None:
    subject = Clocked(700, 700, 0)
    run = sustain(subject, 2, clock=subject, root=tmp_path)
    assert (run.frames, run.seconds) == (3, pytest.approx(2.1))
    assert [(point.second, point.frames) for point in run.curve] == [(0, 1), (1, 2)]
    assert run.state == "too short"


@pytest.mark.parametrize("last", [1.0, 0.8, 1.09])
def test_little_change_is_steady(last: float) -> None:
    assert throttling(points(*[1.0] * 8, last, last), sensors())[0] == "steady"


def test_throttling_needs_a_clock_that_fell() -> None:
    slow = points(*[1.0] * 5, *[1.3] * 5)
    fell = (1500.0,) * 5 + (1000.0,) * 5
    state, reason = throttling(slow, sensors(cpu=fell, gpu=(900.0,) * 10))
    assert state == "throttled"
    assert reason.endswith("meanwhile the clock fell: cpu 1500 to 1000 MHz")
    assert throttling(slow, sensors(gpu=(900.0,) * 10)) == (
        "slowed",
        "p50 1.000 ms in the first 2 s, 1.300 ms in the last; no clock that was read fell",
    )
    assert (
        throttling(points(*[1.0] * 10), sensors(cpu=fell))[0] == "steady"
    )  # a clock may fall where nothing slows down


def test_ten_seconds_are_needed_to_tell() -> None:
    state, reason = throttling(points(*[1.0] * 4, *[2.0] * 5), None)
    assert state == "too short"
    assert reason.startswith("9 seconds with frames; 10 or more")
    assert throttling(points(1.0), None)[1].startswith("1 second with frames; ")


def test_a_clock_that_was_not_read_at_an_end_has_not_fallen() -> None:
    assert fallen_clocks([0, 1, 2], {"cpu": (None, 5.0, 1.0), "gpu": (2.0, None, 1.0)}) == {"gpu": (2.0, 1.0)}
    assert fallen_clocks([], {}) == {}
