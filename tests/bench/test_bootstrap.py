"""Ratios of medians with their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from splite_deploy.bench.bootstrap import RESAMPLES, bootstrap_ratios, median_ranks, ratio_of_medians


def test_a_ratio_of_known_medians() -> None:
    rng = np.random.default_rng(3)
    fast, slow = rng.normal(1.0, 0.05, (100, 10)), rng.normal(3.0, 0.15, (100, 10))
    ratio = ratio_of_medians(slow, fast)
    assert ratio.value == pytest.approx(np.median(slow) / np.median(fast))
    assert ratio.low < 3.0 < ratio.high
    # the median of 1000 normal samples scatters by 1.2533 * sigma / sqrt(1000), here 0.2 % of each
    expected = 2 * 1.96 * 3 * np.hypot(0.05, 0.05) * 1.2533 / np.sqrt(1000)
    assert ratio.high - ratio.low == pytest.approx(expected, rel=0.35)
    assert str(ratio) == f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def test_what_disturbs_both_alike_does_not_widen_the_interval() -> None:
    drift = np.linspace(1, 2, 50)[:, None] * np.ones((50, 10))
    ratio = ratio_of_medians(3 * drift, drift)
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((3.0, 3.0, 3.0))
    shuffled = ratio_of_medians(3 * drift[::-1], drift)
    assert shuffled.high - shuffled.low > 0.1


@pytest.mark.parametrize(("blocks", "frames"), [(1, 10), (7, 9), (40, 10), (8, 700)])
@pytest.mark.parametrize("paired", [True, False])
def test_the_bootstrap_gives_what_sorting_every_resample_gives(blocks: int, frames: int, paired: bool) -> None:
    rng = np.random.default_rng(blocks)
    after = rng.gamma(2, 1, (blocks, frames)).round(2)  # some are equal
    before = rng.gamma(2, 1, (blocks, frames) if paired else (blocks + 1, frames))
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(after), size=(RESAMPLES, len(after)))
    others = drawn if paired else rng.integers(len(before), size=(RESAMPLES, len(before)))
    statistics = {median_ranks: np.median, (lambda count: (0,)): np.min}
    found = bootstrap_ratios(after, before, list(statistics), paired=paired)
    for ratio, statistic in zip(found, statistics.values(), strict=True):
        ratios = [
            statistic(after[these]) / statistic(before[those]) for these, those in zip(drawn, others, strict=True)
        ]
        low, high = np.percentile(ratios, [2.5, 97.5])
        assert (ratio.value, ratio.low, ratio.high) == (statistic(after) / statistic(before), low, high)
