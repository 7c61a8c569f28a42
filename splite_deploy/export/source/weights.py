"""What tells weights from others, in whichever file they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def weights_key(tensors: Iterable[NDArray[Any]]) -> str:
    """Hex SHA-256 of the float values of a network, whatever their names, their order and the file that holds them."""
    floats = (np.ascontiguousarray(tensor) for tensor in tensors if np.issubdtype(tensor.dtype, np.floating))
    each = sorted(hashlib.sha256(f"{one.dtype.str}{one.shape}".encode() + one.tobytes()).digest() for one in floats)
    return hashlib.sha256(b"".join(each)).hexdigest()
