"""What tests of int8 have to know of the CPU that they run on."""

from __future__ import annotations

import pytest

from splite_deploy.device.int8 import read_int8_instructions

SATURATES = read_int8_instructions().saturates
EXACT_INT8 = pytest.mark.skipif(
    SATURATES,
    reason="ONNX Runtime adds int8 products in 16 bits on this CPU, which has neither VNNI nor AMX",
)
"""For tests that compare int8 with weights of 8 bits in ONNX Runtime closely with what it should be."""
