"""A stranger's network all the way: what each step gave, and what a cell says that lacks one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import any_network
from any_network import Cell, Row, edit
from side_by_side import network_table


def run(root: Path, out: Path) -> tuple[dict[str, Any], str]:
    """The record of one network, and what was printed."""
    command = [sys.executable, str(root / "benchmarks" / "any_network.py"), "blaze", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(out.read_text(encoding="utf-8"))["rows"]
    return row, done.stdout


@pytest.mark.slow
def test_a_network_all_the_way(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be exported is, and what cannot says why: here a converter is named that is not there."""
    monkeypatch.setenv("SPLITE_TFLITE_PYTHON", str(tmp_path / "missing"))
    row, printed = run(root, tmp_path / "out.jsonl")
    assert (row["name"], row["decoder"], row["edits"], row["reason"]) == ("blaze", "coordinates", [], "")
    cells = {(cell["backend"], cell["precision"]): cell for cell in row["cells"]}
    assert len(cells) == 5
    for name in (("ort", "fp32"), ("ort", "int8")):
        cell = cells[name]
        assert cell["reason"] == "" and 0 <= cell["p95_px"] < 1 and 0 < cell["min_ms"] <= cell["p50_ms"]
    assert all("SPLITE_TFLITE_PYTHON names" in cells["tflite", one]["reason"] for one in ("fp32", "int8"))
    assert "| blaze | `coordinates` | 0 | 0.000 px, " in printed
    assert "* blaze, tflite fp32: SPLITE_TFLITE_PYTHON names" in printed
    assert list(row["seconds"]) == ["init", "export", "verify", "run", "bench"] and min(row["seconds"].values()) > 0


def test_lines_are_edited_as_they_are_found(tmp_path: Path) -> None:
    model = tmp_path / "model.toml"
    model.write_text('[outputs.heatmap]\nsource = -1   # the last\nlayout = "NHWC"\n', encoding="utf-8")
    assert edit(model, {r"^source = -1.*$": "source = 0"}) == ("source = 0",)
    assert model.read_text(encoding="utf-8") == '[outputs.heatmap]\nsource = 0\nlayout = "NHWC"\n'
    with pytest.raises(ValueError, match="has no line"):
        edit(model, {"^stride": "stride = 4.0"})


def test_an_empty_cell_or_a_fourth_line_is_wrong() -> None:
    whole = Cell("ort", "fp32", 0.0, 0, None, 10, 0.1, 0.2)
    assert Row("a", (), "argmax", ("x",) * 3, (whole,)).right
    assert Row("a", (), "argmax", (), (Cell("ort", "int8", reason="too far"),)).right
    assert not Row("a", (), "argmax", ("x",) * 4, (whole,)).right
    assert not Row("a", (), "argmax", (), (Cell("ort", "int8"),)).right
    assert not Row("a", ()).right


def test_what_a_network_costs_its_user_is_told() -> None:
    row = Row("a", ("--color", "rgb", "--box-padding", "1.25"), "argmax", ("x",), seconds={"init": 2.04, "export": 30})
    assert row.effort == "a: 2 fields looked up, 1 lines edited; processor's time: init 2.0 s, export 30.0 s"


def test_the_table_names_what_is_missing() -> None:
    cells = [
        {"backend": "ort", "precision": "fp32", "p95_px": 0.0, "size_bytes": 2e6, "min_ms": 1.0, "p50_ms": 1.5}
        | {"floats": 0, "layers": None, "reason": ""},
        {"backend": "ort", "precision": "int8", "p95_px": 0.4, "size_bytes": 1e6, "min_ms": 0.5, "p50_ms": 0.7}
        | {"floats": 3, "layers": 9, "reason": ""},
        {"backend": "tflite", "precision": "int8", "reason": "It moves too far."},
    ]
    lines = network_table([{"name": "a", "decoder": "dark", "edits": ["stride = 8.0"], "cells": cells, "reason": ""}])
    assert "| a | `dark` | 1 | 0.000 px, 2.00 MB, 1.00 / 1.50 ms | " in lines[2]
    assert "0.400 px, 1.00 MB, 0.50 / 0.70 ms, 3 of 9 layers in float | no |" in lines[2]
    assert "* a, tflite int8: It moves too far." in lines
    assert "* a: `stride = 8.0`" in lines


def test_every_network_is_known() -> None:
    assert set(any_network.LITE_NETWORKS) < set(any_network.NETWORKS) and len(any_network.NETWORKS) == 16
