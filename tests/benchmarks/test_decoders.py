"""Ways to decode, on maps whose peaks are known."""

from __future__ import annotations

import numpy as np
from decoders import decoders, marginals
from numpy.typing import NDArray

from splite_deploy.decoders import SoftArgmax

PEAKS = np.array([[12.5, 20.5], [12.8, 20.4], [30.2, 7.7], [5.5, 26.1]])
STRIDE = 4.0


def gaussians(peaks: NDArray[np.float64], sigma: float = 2.0) -> NDArray[np.float32]:
    """(1, K, 32, 40) unit-peak Gaussians; the first cell is centred at 0.5."""
    ys, xs = np.mgrid[0:32, 0:40] + 0.5
    squares = (xs - peaks[:, 0, None, None]) ** 2 + (ys - peaks[:, 1, None, None]) ** 2
    return np.exp(-squares / (2 * sigma**2))[None].astype(np.float32)


def test_the_largest_entry_of_each_axis() -> None:
    np.testing.assert_array_equal(marginals(gaussians(PEAKS), STRIDE)[0], (np.floor(PEAKS) + 0.5) * STRIDE)


def test_all_of_them_read_the_same_logits() -> None:
    spec = SoftArgmax(stride=STRIDE, beta=1.0, alignment="corner", score_window=5)
    logits = (60 * gaussians(PEAKS)).astype(np.float32)
    for name, way in decoders(spec).items():
        found = way.decode(way.maps(logits, spec.beta))[0] / STRIDE
        assert np.abs(found - PEAKS).max() < (1.01 if "cells read" in name else 0.51), name
