"""Statistics of latencies."""

from __future__ import annotations

import numpy as np
import pytest

from splite_deploy.bench.stats import LatencyStats
from splite_deploy.errors import UsageError


def test_known_samples() -> None:
    stats = LatencyStats.from_samples([4.0, 1.0, 3.0, 2.0, 5.0])
    assert stats.count == 5
    assert (stats.min_ms, stats.p50_ms, stats.max_ms, stats.mean_ms) == (1.0, 3.0, 5.0, 3.0)
    assert stats.std_ms == pytest.approx(np.sqrt(2.0))


def test_percentiles_are_interpolated_linearly() -> None:
    stats = LatencyStats.from_samples(np.arange(101.0))
    assert (stats.p50_ms, stats.p90_ms, stats.p99_ms) == (50.0, 90.0, 99.0)
    pair = LatencyStats.from_samples([0.0, 10.0])
    assert (pair.p50_ms, pair.p90_ms) == (5.0, 9.0)
    assert pair.p99_ms == pytest.approx(9.9)


def test_one_sample() -> None:
    assert LatencyStats.from_samples([7.0]) == LatencyStats(1, 7.0, 0.0, 7.0, 7.0, 7.0, 7.0, 7.0)


def test_figures_are_plain_numbers() -> None:
    stats = LatencyStats.from_samples(np.array([1.0, 2.0]))
    assert type(stats.count) is int
    assert type(stats.p99_ms) is float


@pytest.mark.parametrize("samples", [[], [1.0, float("nan")], [float("inf")]])
def test_unusable_samples(samples: list[float]) -> None:
    with pytest.raises(UsageError) as caught:
        LatencyStats.from_samples(samples)
    assert caught.value.hint
