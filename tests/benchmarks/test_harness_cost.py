"""What the harness costs, and how other tools' medians are read."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness_cost import (
    benchmark_model_ms,
    compare,
    comparisons,
    harness_us,
    perf_test_ms,
    plain_loop,
)

from splite_deploy.bundle import Bundle


def test_the_harness_costs_little() -> None:
    model_us, estimator_us = harness_us(repeats=5, frames=20_000)
    assert 0 < model_us < 20
    assert 0 < estimator_us < 20


def test_comparisons_take_turns_and_take_medians() -> None:
    order: list[str] = []
    values = {"a": iter([1.0, 2.0, 4.0]), "b": iter([1.0, 1.0, 2.0])}

    def timed(name: str) -> float:
        order.append(name)
        return next(values[name])

    found = compare("x", lambda: timed("a"), lambda: timed("b"), rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert (found.bench_ms, found.other_ms, found.ratio, found.least, found.most) == (2.0, 1.0, 2.0, 1.0, 2.0)
    assert not found.within
    assert str(found).endswith("OVER 3 %")
    close = compare("y", lambda: 1.02, lambda: 1.0, rounds=1)
    assert close.within and str(close).endswith("ok")


def test_a_plain_loop_uses_every_feed_in_turn() -> None:
    fed: list[int] = []
    assert plain_loop(fed.append, [0, 1, 2], frames=20) >= 0
    assert fed == [0, 1, *[i % 3 for i in range(20)]]


def test_an_artifact_is_compared_alone_and_in_its_bundle(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    cases = list(comparisons(bundle, bundle.manifest.artifacts[0], [], 1, 10, {}))
    assert [name for name, _, _ in cases] == [
        "ort fp32, file alone, against a loop",
        "ort fp32, model only in a bundle, against a loop over its session",
    ]
    for _, bench, other in cases:
        assert bench() > 0
        assert other() > 0


def test_medians_that_other_tools_print() -> None:
    assert perf_test_ms("Min Latency: 0.0006 s\nP50 Latency: 0.000660711 s\nP90 Latency: 0.0007 s\n") == pytest.approx(
        0.660711
    )
    printed = (
        "INFO: count=1 curr=1357602 p5=1357602 median=1357602 p95=1357602\n"
        "INFO: count=50 first=1249964 curr=1240143 min=1238588 max=1252566 avg=1.24027e+06 std=2565 p5=1238753 "
        "median=1.2398e+06 p95=1247415\n"
    )
    assert benchmark_model_ms(printed) == pytest.approx(1239.8)
    with pytest.raises(SystemExit, match="printed no median"):
        perf_test_ms("usage: ...")
