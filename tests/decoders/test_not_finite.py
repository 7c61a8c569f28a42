"""Outputs near the end of float32: decoded to finite numbers, or refused; never NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from decode_vectors import CASES, PEOPLE_CASES, outputs_of, spec_of
from numpy.typing import NDArray

from splite_deploy.decoders import Decoding
from splite_deploy.errors import BackendError

_LARGEST = float(np.finfo(np.float32).max)
FILLS = {
    "both ends": lambda shape: np.where(np.arange(np.prod(shape)).reshape(shape) % 2, _LARGEST, -_LARGEST),
    "largest": lambda shape: np.full(shape, _LARGEST),
    "lowest": lambda shape: np.full(shape, -_LARGEST),
    "one large": lambda shape: np.where(np.arange(np.prod(shape)).reshape(shape) == 3, _LARGEST, 0.0),
    "nothing": lambda shape: np.zeros(shape),
    "tiny": lambda shape: np.full(shape, 1e-45),
}


def each_kind() -> dict[str, dict[str, Any]]:
    """One case of every decoder with each of its variants of parameters."""
    return {str(sorted((k, str(v)) for k, v in case["decoder"].items())): case for case in CASES}


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("case", each_kind().values(), ids=lambda case: case["name"])
def test_extreme_outputs(case: dict[str, Any], fill: str) -> None:
    spec = spec_of(case)
    outputs: dict[str, NDArray[np.float32]] = {
        role: FILLS[fill](values.shape).astype(np.float32) for role, values in outputs_of(case).items()
    }
    try:
        decoded = Decoding(spec)(outputs)
    except BackendError as err:
        refused = err
    else:
        assert all(np.isfinite(values).all() for values in decoded.by_role().values())
        return
    assert refused.message.startswith("The decoded ") and "not finite (NaN or infinity)" in refused.message
    assert "-p fp32" in refused.hint and "[limits]" not in refused.hint


def test_there_are_cases() -> None:
    assert len(each_kind()) > 15 and PEOPLE_CASES
