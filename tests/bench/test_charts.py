"""Geometry of the charts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from splite_deploy.bench.report.charts import Axis, pareto_front, polylines, ridge, stacked


def test_a_linear_axis() -> None:
    axis = Axis(2.0, 12.0)
    assert [axis.percent(value) for value in (2, 7, 12, 0, 99)] == [0, 50, 100, 0, 100]
    assert axis.ticks() == [(0.0, "2"), (20.0, "4"), (40.0, "6"), (60.0, "8"), (80.0, "10"), (100.0, "12")]


def test_a_logarithmic_axis() -> None:
    axis = Axis.around([0.1, 10.0], margin=0.0)
    assert axis.logarithmic
    assert [axis.percent(value) for value in (0.1, 1, 10)] == [0, 50, 100]
    assert [text for _, text in axis.ticks()] == ["0.1", "0.2", "0.5", "1", "2", "5", "10"]


@pytest.mark.parametrize("low", [1e-4, 0.37, 1.0, 48.0, 6e5])
@pytest.mark.parametrize("ratio", [1.0, 1.001, 1.7, 5.9, 6.1, 90.0, 1e5])
def test_every_axis_holds_its_values_and_has_a_few_round_ticks(low: float, ratio: float) -> None:
    axis = Axis.around([low, low * ratio])
    assert axis.low < low <= low * ratio < axis.high
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 8
    assert len({text for _, text in ticks}) == len(ticks)
    assert all(0 <= percent <= 100 for percent, _ in ticks)


def test_an_axis_from_zero() -> None:
    assert Axis.around([3.0, 90.0], zero=True).percent(0) == 0
    assert Axis.around([0.0], zero=True) == Axis(0.0, 1.0)


def test_a_ridge_is_high_where_the_times_are() -> None:
    axis = Axis(0.0, 10.0)
    points = [tuple(map(float, point.split(","))) for point in ridge([2.0] * 90 + [8.0] * 10, axis).split()]
    xs, ys = np.array(points).T
    assert (points[0], points[-1]) == ((0.0, 100.0), (100.0, 100.0))
    assert ys.min() == 0
    assert xs[ys.argmin()] == pytest.approx(20, abs=1)
    assert ys[np.abs(xs - 80) < 2].min() == pytest.approx(100 - 100 / 9, abs=1)
    assert (ys[(xs > 30) & (xs < 70)] == 100).all()


def test_a_line_is_broken_where_a_value_is_missing() -> None:
    axis = Axis(0.0, 10.0)
    assert polylines([0, 5, 7, 10], [0.0, 10.0, None, 5.0], axis, axis) == ["0.0,100.0 50.0,0.0", "100.0,50.0"]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6), st.booleans())
@example([1e-320], False)
@example([1e-320], True)
@example([1e308, -1e308], False)
@example([1.0, 1.0 + 2e-16], False)
def test_an_axis_holds_whatever_a_record_may_hold(values: list[float], zero: bool) -> None:
    axis = Axis.around(values, zero=zero)
    assert all(0 <= axis.percent(value) <= 100 for value in values)
    assert all(0 <= place <= 100 for place, _ in axis.ticks())


def test_the_pareto_front() -> None:
    points = [(2.0, 1.0), (1.0, 3.0), (1.5, 3.5), (3.0, 0.5), (2.5, 1.0)]
    assert pareto_front(points) == [1, 0, 3]


def test_labels_that_would_hide_each_other_are_stacked() -> None:
    assert stacked([(50, 50), (52, 51), (10, 50), (58, 49), (61, 50), (52, 90)]) == [0, 1, 0, 2, 0, 0]
