"""The benchmarks of the C++ runtime: what is judged a leak, and the tables."""

from __future__ import annotations

from typing import Any

from cpp_frames import MOST_GROWTH_BYTES, growth_bytes
from cpp_tables import cpp_frames_block, cpp_runtime_block

ENVIRONMENT = {"board": None, "cpu_model": "A CPU", "logical_cores": 2, "versions": {"onnxruntime": "1.23.0"}}
MIB = float(1 << 20)


def test_memory_that_grows_is_told_from_a_warm_up() -> None:
    warm = [30 * MIB, 50 * MIB, *[60 * MIB] * 18]
    assert growth_bytes(warm) == 0
    leaking = [one + index * MIB / 8 for index, one in enumerate(warm)]  # 128 KiB in a twentieth
    assert growth_bytes(leaking) > MOST_GROWTH_BYTES


def test_tables() -> None:
    common = {"network": "hand", "precision": "fp32", "date_utc": "2026-01-01", "environment": ENVIRONMENT}
    timed: dict[str, Any] = {
        **common,
        "photographs": 289,
        "off_px": {"p95": 0.00012, "max": 0.0025},
        "p50_ms": {"cpp": 3.0, "python": 4.0},
        "start_ms": {"cpp": 100.0, "python": 400.0},
        "program_bytes": 434176,
        "load": 1.4,
    }
    lines = cpp_runtime_block({"a": [timed]})
    assert lines[2:4] == ["| image to pose | 3 | 4 | 0.75 |", "| start-up | 100 | 400 | 0.25 |"]
    assert "at most 0.0025 px" in lines[5] and "424 KiB" in lines[5] and "load of 1:" in lines[5]
    run = {"frames": 20000, "resident_bytes": [1.0, 58 * MIB], "growth_bytes": 2048.0, "changed": 0}
    both = {**common, "runs": {"plain": {**run, "frames": 100000}, "sanitized": {**run, "frames": 3}}}
    lines = cpp_frames_block({"a": [both, {**common, "runs": {"sanitized": run}}]})
    assert lines[2:4] == [
        "| as it is | 100,000 | 58.0 | 2 | 0 | - |",
        "| under the sanitizers | 20,000 | 58.0 | 2 | 0 | 0 |",
    ]
