"""The matrix of topologies: what a command made, and what it said where it did not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")


def run(root: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, root / "benchmarks" / "topologies.py", *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_cells_that_work_and_a_reason(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITE_TFLITE_PYTHON", str(tmp_path / "missing"))
    out = tmp_path / "out.jsonl"
    done = run(root, "blaze", "--backends", "ort", "tflite", "--label", "test", "--out", out)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text(encoding="utf-8"))
    assert (record["kind"], record["label"]) == ("topologies", "test")
    cells = {(cell["backend"], cell["precision"]): cell for cell in record["cells"]}
    assert len(cells) == 6
    assert cells["ort", "fp32"]["p95_px"] < 0.01
    assert cells["ort", "fp32"]["reason"] == ""
    assert "SPLITE_TFLITE_PYTHON" in cells["tflite", "fp32"]["reason"]
    assert "| BlazeBlock landmarks | 0.000 px |" in done.stdout
    assert "blaze tflite fp32: " in done.stdout


def test_an_unknown_topology(root: Path) -> None:
    done = run(root, "alexnet")
    assert done.returncode != 0
    assert "no network is called alexnet" in done.stderr
    assert "Traceback" not in done.stderr
