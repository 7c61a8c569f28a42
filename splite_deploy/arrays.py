"""Names for the arrays that pass between modules, and what counts as a number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
"""What networks give, and what most of them take."""
DoubleArray = NDArray[np.float64]
"""Errors and lengths, which are computed in double precision."""
Feed = NDArray[Any]
"""What a network takes: float32, or whatever else the `TensorSpec` of an input names."""


def is_number(value: object) -> bool:
    """Whether this is a number of Python's or numpy's, be it finite or not; True and False are none."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def is_count(value: object, least: int) -> bool:
    """Whether this is a whole number, not below another one; True and False are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= least
