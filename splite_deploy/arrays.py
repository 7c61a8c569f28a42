"""Names for the arrays that pass between modules."""

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
