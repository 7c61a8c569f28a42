"""Fused pre- and postprocessing is timed beside the host's on the same inputs."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import fused
from fused import CASES, SIDES_PX, cases, estimator_costs

from splite_deploy.bundle import Bundle
from splite_deploy.export.graph.fuse import fuse_decode, fuse_input


def test_all_ways_compute_the_same() -> None:
    found = cases({"graph": (fuse_input, fuse_decode)})
    assert len(found) == 1 + len(CASES)
    for runs in found.values():
        host, graph = (run(0) for run in runs.values())
        expected: Any = [host] if isinstance(host, np.ndarray) else list(host.by_role().values())  # type: ignore[attr-defined]
        assert len(graph) == len(expected)  # type: ignore[arg-type]
        for ours, theirs in zip(graph, expected, strict=True):  # type: ignore[call-overload]
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)


def test_another_way_stands_beside(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path, root: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text((root / "splite_deploy" / "export" / "graph" / "fuse.py").read_text(encoding="utf-8"))
    monkeypatch.setattr(sys, "argv", ["fused.py", "--against", str(other), "--frames", "10"])
    runpy.run_path(fused.__file__, run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (1 + len(CASES)) * 4
    assert sum(line.startswith("    other") and "minimum" in line for line in lines) == 1 + len(CASES)


def test_estimators_are_timed_beside_their_sessions(tiny_bundle: Path, monkeypatch: Any, capsys: Any) -> None:
    bundle = Bundle.open(tiny_bundle)
    costs = estimator_costs(bundle, bundle, SIDES_PX[0], 10)
    assert list(costs) == ["ort fp32"] and list(costs["ort fp32"]) == ["host", "fused"]
    for cost in costs["ort fp32"].values():
        for index in (0, 1):
            assert cost.beyond_ms[index] == cost.call_ms[index] - cost.session_ms[index]
            assert 0 < cost.crop_ms[index] < cost.call_ms[index]
    bundles = ["--bundles", str(tiny_bundle), str(tiny_bundle), "--frames", "10"]
    monkeypatch.setattr(sys, "argv", ["fused.py", *bundles])
    runpy.run_path(fused.__file__, run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(SIDES_PX) * 4
    assert sum("of which crop" in line for line in lines) == len(SIDES_PX) * 2
