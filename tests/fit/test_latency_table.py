"""Layers timed beside each other in one graph, as each machine of a search times them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("onnx")

from splite_deploy.bench import Extras, run_file
from splite_deploy.export.graph.torch_to_onnx import simplified_graph
from splite_deploy.export.source.load import load_model
from splite_deploy.fit.latency_table import LatencyTable, shapes_of, table_graph, times_of


def test_each_shape_of_a_network_is_timed(tiny_checkpoint: Path, tiny_model: Path, tmp_path: Path) -> None:
    network = load_model(tiny_checkpoint, tiny_model, None)
    shapes = shapes_of(simplified_graph(network.network, network.spec))
    assert [json.loads(one)["weight"] for one in shapes] == [[8, 3, 3, 3], [8, 8, 3, 3], [5, 8, 1, 1], [5, 8, 1, 1]]
    assert shapes[2] == shapes[3]
    wanted = LatencyTable({}).lacks(shapes)
    gemm = {"op": "Gemm", "input": [1, 32], "weight": [32, 7], "bias": True, "attributes": {}}
    wanted.append(json.dumps(gemm, sort_keys=True))
    table_graph(wanted, tmp_path / "layers.onnx")
    result = run_file(
        tmp_path / "layers.onnx", frames=10, warmup=0, warmup_min_s=0, threads=1, extras=Extras(cold_start=False)
    )
    times = times_of(wanted, result)
    assert set(times) == set(wanted) and all(time > 0 for time in times.values())
    assert LatencyTable(times).sum_ms(shapes) == pytest.approx(sum(times[one] for one in shapes) / 1e3)
