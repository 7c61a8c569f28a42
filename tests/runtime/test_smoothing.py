"""The one-euro filter: against the formula in plain loops, its lag, and what it does with strange times."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy import OneEuro, Pose, TopDown, Tracker
from splite_deploy.errors import UsageError
from splite_deploy.runtime.smoothing import Smoother

RATE_HZ = 30.0
SHAPE = np.array([[0.0, 0.0], [100.0, 20.0], [40.0, 60.0]])
"""Its longest side measures 100 pixels."""


def pose(points: NDArray[np.float64], points_3d: NDArray[np.float64] | None = None) -> Pose:
    return Pose(
        points.astype(np.float32),
        np.ones(len(points), np.float32),
        np.array([0, 0, 9, 9], np.float32),
        None if points_3d is None else points_3d.astype(np.float32),
    )


def by_hand(values: list[list[float]], times_s: list[float], how: OneEuro, sizes: list[float]) -> list[list[float]]:
    """One keypoint of any number of coordinates, by the paper's pseudo code; its speed is a vector's."""

    def alpha(cutoff: float, passed: float) -> float:
        tau = 1 / (2 * math.pi * cutoff)
        return 1 / (1 + tau / passed)

    smooth, speed, out = values[0], [0.0] * len(values[0]), [values[0]]
    for index in range(1, len(values)):
        passed = times_s[index] - times_s[index - 1]
        slow = alpha(how.speed_cutoff_hz, passed)
        rates = [(x - y) / passed for x, y in zip(values[index], values[index - 1], strict=True)]
        speed = [slow * rate + (1 - slow) * old for rate, old in zip(rates, speed, strict=True)]
        fast = alpha(how.min_cutoff_hz + how.beta * math.hypot(*speed) / sizes[index], passed)
        smooth = [fast * x + (1 - fast) * y for x, y in zip(values[index], smooth, strict=True)]
        out.append(smooth)
    return out


def test_it_is_the_formula_for_every_keypoint_at_uneven_times() -> None:
    rng = np.random.default_rng(1)
    how = OneEuro(min_cutoff_hz=0.8, beta=3.0, speed_cutoff_hz=1.3)
    times_s = np.cumsum(rng.uniform(0.01, 0.2, 25)).tolist()
    flat = SHAPE + np.cumsum(rng.normal(0, 6, (25, 3, 2)), axis=0)
    deep = rng.normal(0, 1, (25, 3, 3))
    smoother = Smoother(how)
    found = [smoother(pose(one, other), at) for one, other, at in zip(flat, deep, times_s, strict=True)]
    for name, values in (("keypoints", flat), ("keypoints_3d", deep)):
        values = values.astype(np.float32).astype(float)
        sizes = [float(np.ptp(one, axis=0).max()) for one in values]
        for keypoint in range(3):
            expected = by_hand(values[:, keypoint].tolist(), times_s, how, sizes)
            given = [getattr(one, name)[keypoint] for one in found]
            np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-4)
    assert found[3].box.tolist() == [0, 0, 9, 9] and found[3].keypoints.dtype == np.float32


@pytest.mark.parametrize("speed", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("factor", [1.0, 7.0])
def test_the_lag_is_what_is_stated_at_any_resolution(speed: float, factor: float) -> None:
    how, rate_hz = OneEuro(), 1000.0
    smoother = Smoother(how)
    for index in range(6000):
        moved = factor * (SHAPE + np.array([100 * speed * index / rate_hz, 0]))
        last = smoother(pose(moved), index / rate_hz)
    behind_ms = 1000 * (moved[0, 0] - last.keypoints[0, 0]) / (factor * 100 * speed)
    assert behind_ms == pytest.approx(how.lag_ms(speed), rel=0.02)


def test_it_calms_what_rests_and_follows_what_moves() -> None:
    rng, how = np.random.default_rng(2), OneEuro()
    still = SHAPE + rng.normal(0, 0.5, (300, 3, 2))
    smoother = Smoother(how)
    calm = np.stack([smoother(pose(one), index / RATE_HZ).keypoints for index, one in enumerate(still)])
    assert calm[30:].std(axis=0).mean() < 0.55 * still[30:].std(axis=0).mean()
    moving = SHAPE + np.arange(60)[:, None, None] * [10.0, 0.0]  # three sizes a second
    smoother = Smoother(how)
    behind = [
        float(one[0, 0] - smoother(pose(one), index / RATE_HZ).keypoints[0, 0]) for index, one in enumerate(moving)
    ]
    assert max(behind[30:]) < 3  # a third of a frame


def test_times_that_stand_still_or_go_back() -> None:
    smoother = Smoother(OneEuro())
    first = smoother(pose(SHAPE), 5.0)
    np.testing.assert_array_equal(first.keypoints, SHAPE)
    np.testing.assert_array_equal(smoother(pose(SHAPE + 50), 5.0).keypoints, SHAPE)
    assert 0 < smoother(pose(SHAPE + 50), 5.1).keypoints[0, 0] < 50
    np.testing.assert_array_equal(smoother(pose(SHAPE + 90), 1.0).keypoints, SHAPE + 90)
    nearly = smoother(pose(SHAPE), 1e9).keypoints
    np.testing.assert_allclose(nearly, SHAPE, atol=1e-4)


def test_depth_that_comes_and_goes_begins_anew() -> None:
    smoother, deep = Smoother(OneEuro()), np.eye(3)
    smoother(pose(SHAPE, deep), 0.0)
    assert smoother(pose(SHAPE), 0.1).keypoints_3d is None
    np.testing.assert_array_equal(smoother(pose(SHAPE, 5 * deep), 0.2).keypoints_3d, 5 * deep)
    flat = np.zeros((3, 3))
    assert np.isfinite(smoother(pose(np.zeros((3, 2)), flat), 0.3).keypoints).all()  # of no size


def test_depth_of_another_unit_or_origin_begins_anew() -> None:
    smoother, deep = Smoother(OneEuro(0.1, 0.0)), np.eye(3)
    kinds: list[Any] = [("palm", "root"), ("mm", "root"), ("mm", "camera"), ("palm", "root")]
    for index, (unit, origin) in enumerate(kinds):
        one = replace(pose(SHAPE + index, 90.0**index * deep), unit=unit, origin=origin)
        found = smoother(one, index / RATE_HZ)
        np.testing.assert_array_equal(found.keypoints_3d, one.keypoints_3d)
        assert (found.unit, found.origin) == (unit, origin)
        assert index == 0 or (found.keypoints < one.keypoints).all(), "what is seen in the image goes on"


@pytest.mark.parametrize("passed_s", [5e-324, 1e-320, 1e-310, 1e-30, 1e30, 1.7e308])
@pytest.mark.parametrize("how", [OneEuro(), OneEuro(0.01, 50.0, 1e-3)])
def test_any_time_may_pass_between_two_frames(passed_s: float, how: OneEuro) -> None:
    smoother = Smoother(how)
    first, then = pose(SHAPE, np.eye(3)), pose(SHAPE + 50, 2 * np.eye(3))
    smoother(first, 0.0)
    found = smoother(then, passed_s)
    expected = first if passed_s < 1 else then
    np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=1e-3)
    np.testing.assert_allclose(found.keypoints_3d, expected.keypoints_3d, atol=1e-3)
    assert np.isfinite(smoother(first, 1.1 * passed_s if passed_s < 1 else passed_s).keypoints).all()
    Smoother(how)(first, -1.7e308)
    jumped = Smoother(how)
    jumped(first, -1.7e308)
    np.testing.assert_allclose(jumped(then, 1.7e308).keypoints, then.keypoints, atol=1e-3)


def test_who_was_lost_is_smoothed_anew() -> None:
    tracker = Tracker(smoothing=OneEuro(min_cutoff_hz=0.1, beta=0.0))
    tracker([pose(SHAPE)], 0.0)
    (dragged,) = tracker([pose(SHAPE + 20)], 0.033)
    assert dragged.keypoints[0, 0] < 2
    tracker([], 0.066)
    (again,) = tracker([pose(SHAPE + 20)], 0.1)
    assert again.id == 1
    np.testing.assert_array_equal(again.keypoints, SHAPE + 20)


def test_networks_without_keypoints_are_left_alone() -> None:
    empty = pose(np.zeros((0, 2)))
    smoother = Smoother(OneEuro())
    assert [smoother(empty, at).keypoints.shape for at in (0.0, 0.1)] == [(0, 2), (0, 2)]


@pytest.mark.parametrize("speed", [-0.125, float("nan"), float("inf"), "1"])
def test_a_lag_of_what_is_no_speed_is_refused(speed: Any) -> None:
    with pytest.raises(UsageError, match=f"^A speed of {speed} is none") as caught:
        OneEuro().lag_ms(speed)
    assert "sizes per second" in caught.value.hint


@pytest.mark.parametrize(
    "wrong", [{"min_cutoff_hz": 0.0}, {"beta": -1.0}, {"beta": "8"}, {"speed_cutoff_hz": float("inf")}]
)
def test_values_that_are_none_are_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="cannot be used") as caught:
        OneEuro(**wrong)
    assert "Hz" in caught.value.hint


def test_the_page_on_following_tells_the_defaults(root: Path) -> None:
    page = (root / "docs" / "following.md").read_text(encoding="utf-8")
    defaults = {
        name: parameter.default
        for kind in (TopDown, Tracker)
        for name, parameter in inspect.signature(kind).parameters.items()
    }
    told = re.findall(r"`(\w+)`[^`(]*\((\d+(?:\.\d+)?)\)", page)
    assert {name for name, _ in told} == {"detect_every", "reach", "remember", "min_presence", "min_score"}
    for name, value in told:
        assert float(value) == defaults[name], name


def test_the_page_on_following_tells_the_lag(root: Path) -> None:
    page = (root / "docs" / "following.md").read_text(encoding="utf-8")
    head, _, lags = page.partition("<!-- lag -->")[2].partition("<!-- end of lag -->")[0].strip().splitlines()
    speeds = [float(cell) for cell in head.split("|")[2:-1]]
    assert [int(cell) for cell in lags.split("|")[2:-1]] == [round(OneEuro().lag_ms(speed)) for speed in speeds]
