"""The formulas of other tools on maps whose peaks are known."""

from __future__ import annotations

import numpy as np
import pytest
from decoders import argmax, argmax_corner, dark, decoders, marginals, quarter

from splite_deploy.decoders import SoftArgmax

PEAKS = np.array([[12.5, 20.5], [12.8, 20.4], [30.2, 7.7], [5.5, 26.1]])


def gaussians(peaks: np.ndarray, sigma: float = 2.0) -> np.ndarray:
    """(1, K, 32, 40) unit-peak Gaussians; the first cell is centred at 0.5."""
    ys, xs = np.mgrid[0:32, 0:40] + 0.5
    squares = (xs - peaks[:, 0, None, None]) ** 2 + (ys - peaks[:, 1, None, None]) ** 2
    return np.exp(-squares / (2 * sigma**2))[None].astype(np.float32)


@pytest.mark.parametrize("decode", [argmax, marginals])
def test_the_largest_cell(decode: object) -> None:
    found = decode(gaussians(PEAKS))  # type: ignore[operator]
    np.testing.assert_array_equal(found, np.floor(PEAKS) + 0.5)


def test_the_corner_is_half_a_cell_away() -> None:
    maps = gaussians(PEAKS)
    np.testing.assert_array_equal(argmax(maps) - argmax_corner(maps), np.full((4, 2), 0.5))


def test_a_quarter_of_a_cell_towards_the_larger_neighbour() -> None:
    np.testing.assert_allclose(quarter(gaussians(PEAKS[1:3])), [[12.75, 20.25], [30.25, 7.75]])


def test_a_newton_step_finds_the_peak_of_a_gaussian() -> None:
    np.testing.assert_allclose(dark(gaussians(PEAKS)), PEAKS, atol=0.02)


def test_at_the_border_nothing_breaks() -> None:
    corners = np.array([[0.5, 0.5], [39.5, 31.5], [0.5, 31.5]])
    for decode in (quarter, dark):
        found = decode(gaussians(corners))
        assert np.isfinite(found).all()
        assert np.abs(found - corners).max() <= 1


def test_all_of_them_read_the_same_logits() -> None:
    spec = SoftArgmax(stride=4, beta=1.0, alignment="corner", score_window=5)
    logits = (60 * gaussians(PEAKS)).astype(np.float32)
    for name, decode in decoders(spec).items():
        assert np.abs(decode(logits) - PEAKS).max() < (1.01 if "corner" in name else 0.51), name
