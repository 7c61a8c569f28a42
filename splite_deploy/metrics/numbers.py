"""Values of labels, checked: numbers that are numbers, texts that are texts. numpy only."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 1e7
"""No pixel, millimetre or area of an image side lies beyond; float32 still tells a pixel there."""


def numbers(values: Any, what: str) -> NDArray[np.float64]:
    """Nested lists of numbers as an array.

    Args:
        values: Of JSON.
        what: Their name in messages.

    Raises:
        ValueError: A value is null, a text, a truth value, not finite or beyond `LARGEST`, or the lists are ragged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of numpy 1.23, which takes ragged lists
            array = np.asarray(values)
    except (ValueError, TypeError, OverflowError, UserWarning):
        raise ValueError(f"{what} has lists of different lengths") from None
    if array.size == 0 and isinstance(values, list):
        return np.empty(array.shape, np.float64)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{what} holds what is no number: null, a text, or one too large")
    found = array.astype(np.float64)
    if not (np.abs(found) <= LARGEST).all():
        raise ValueError(f"{what} holds a number that is not finite, or beyond {LARGEST:g}")
    return found


def number(value: Any, what: str) -> float:
    """One number; see `numbers`.

    Raises:
        ValueError: It is none.
    """
    if type(value) not in (int, float):
        raise ValueError(f"{what} is {type(value).__name__}, not a number")
    return float(numbers(value, what))


_LONGEST_TEXT = 4096  # no path is longer


def text(value: Any, what: str) -> str:
    """A text that is not empty.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"{what} is {'empty' if value == '' else type(value).__name__}, not a text")
    if len(value) > _LONGEST_TEXT:
        raise ValueError(f"{what} is a text of {len(value):,} letters")
    return value
