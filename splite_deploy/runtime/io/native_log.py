"""OpenCV's own log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps OpenCV's own warnings from the terminal; what went wrong is said by the error."""
    put = getattr(cv2, "setLogLevel", None) or getattr(getattr(cv2.utils, "logging", None), "setLogLevel", None)  # in 5
    if put is None:
        yield
        return
    level = put(0)
    try:
        yield
    finally:
        put(level)
