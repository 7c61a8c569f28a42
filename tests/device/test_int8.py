"""What ONNX Runtime makes of int8 on a CPU."""

from __future__ import annotations

import pytest

from splite_deploy.device.int8 import Int8Instructions, miscounted

AMX = Int8Instructions(True, True, ("amx_int8", "avx512_vnni"))


@pytest.mark.parametrize(
    ("cpu", "version", "wrong"),
    [
        (AMX, "1.20.1", False),
        (AMX, "1.21.0", True),
        (AMX, "1.23.0", True),
        (AMX, "1.24.4 (onnxruntime-gpu)", True),
        (AMX, "1.25.0", False),
        (AMX, "2.0.0", False),
        (AMX, "version unknown", False),
        (AMX, "", False),
        (Int8Instructions(True, True, ("avx512_vnni",)), "1.23.0", False),
        (Int8Instructions(False, False, ()), "1.23.0", False),
    ],
)
def test_versions_that_are_wrong_on_cpus_with_amx(cpu: Int8Instructions, version: str, wrong: bool) -> None:
    assert cpu.miscounts(version) == wrong


def test_widths_that_are_wrong() -> None:
    assert miscounted([0, 4, 16, 17, 21, 24, 31, 32, 33, 48, 49, 56, 63, 64, 81, 96, 24]) == [
        *(17, 21, 24, 31),
        *(49, 56, 63, 81),
    ]
