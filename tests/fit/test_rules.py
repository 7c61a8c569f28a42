"""Who goes on after a rung, and what is shipped: rules on figures."""

from __future__ import annotations

import pytest

from splite_deploy.fit.choice import choose
from splite_deploy.fit.halving import going_on
from splite_deploy.fit.latency_table import LatencyTable
from splite_deploy.fit.search import Point
from splite_deploy.fit.space import Variant

ERRORS = {"big": 1.0, "middle": 2.0, "small": 3.0, "bad": 9.0}
FAST = {"big": 8.0, "middle": 4.0, "small": 2.0, "bad": 5.0}


def test_the_least_errors_that_keep_the_budget_go_on_for_each_device() -> None:
    assert going_on(ERRORS, [], None, 0.5) == ["big", "middle"]
    assert going_on(ERRORS, [FAST], 5.0, 0.3) == ["middle"]
    slow = {name: 2 * time for name, time in FAST.items()}
    assert going_on(ERRORS, [FAST, slow], 5.0, 0.3) == ["middle", "small"]
    assert going_on(ERRORS, [dict.fromkeys(ERRORS)], 5.0, 0.25) == ["big"]  # nothing is known of their latency


def test_without_a_budget_what_no_other_beats_goes_on() -> None:
    assert going_on(ERRORS, [FAST], None, 0.75) == ["big", "middle", "small"]
    assert going_on({"a": 1.0, "b": 2.0}, [{"a": 1.0, "b": 2.0}], None, 0.5) == ["a"]


def point(network: str, error: float, p50_ms: float, *against: str) -> Point:
    measured = {"p50_ms": p50_ms, "p99_ms": 2 * p50_ms, "against": list(against), "stable": True}
    return Point(network, Variant("ort", "fp32"), "pi", error, {}, measured)


def test_the_least_error_within_the_budget_is_shipped() -> None:
    points = [
        point("big", 1.0, 8.0),
        point("middle", 1.02, 4.0),
        point("worse", 1.5, 4.5),
        point("broken", 0.1, 1.0, "moves"),
    ]
    choice = choose("pi", points, 10.0, "px")
    assert choice.ship is points[1] and choice.front == ("middle ort fp32", "big ort fp32")
    assert choice.reason == (
        "Ship middle ort fp32 on pi: the least error of 2 that keep 10 ms, 1.02 px, p50 4 ms, p99 8 ms."
    )
    assert choose("pi", points, 100.0, "px").ship is points[0]
    assert choose("pi", points, None, "px").ship is points[1]


def test_where_nothing_can_be_shipped_it_says_why() -> None:
    slow = choose("pi", [point("big", 1.0, 8.0)], 10.0, "px")
    assert slow.ship is None
    assert slow.reason == "Nothing keeps 10 ms on pi: the p99 of the fastest, big ort fp32, is 16 ms."
    assert choose("pi", [point("big", 1.0, 8.0, "moves")], None, "px").reason.endswith(
        "everything breaks its limits there."
    )
    assert choose("pi", [], None, "px").reason.endswith("nothing could be measured there.")


def test_a_table_predicts_from_the_dense_network() -> None:
    table = LatencyTable({"a": 100.0, "b": 300.0})
    assert table.predict_ms(["a"], ["a", "b"], 0.8) == pytest.approx(0.2)
    assert table.predict_ms(["a", "c"], ["a", "b"], 0.8) is None and table.lacks(["c", "a", "c"]) == ["c"]
