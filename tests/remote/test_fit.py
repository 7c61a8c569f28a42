"""What a search asks of a machine: to verify and time a bundle, and to time layers beside each other."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnx")

import json

from ssh_server import Devices

from splite_deploy.errors import RemoteError
from splite_deploy.fit.latency_table import table_graph, times_of
from splite_deploy.fit.measuring import Place
from splite_deploy.fit.space import Variant
from splite_deploy.remote.devices import devices_of

LAYERS = [
    json.dumps({"attributes": {}, "bias": False, "input": [1, 8, 16, 16], "op": "Conv", "weight": [outputs, 8, 3, 3]})
    for outputs in (4, 16)
]


@pytest.mark.slow
def test_a_board_is_measured_as_this_machine_is(devices: Devices, bundle: Path, tmp_path: Path) -> None:
    devices("board")
    (device,) = devices_of(["board"])
    place = Place("board", "", device, threads=1, frames=10)
    found = place.measure(bundle, Variant("ort", "fp32"), tmp_path / "measured")
    assert 0 < found["model_ms"] < found["p50_ms"] <= found["p99_ms"] and found["against"] == []
    table_graph(LAYERS, tmp_path / "layers.onnx")
    times = times_of(LAYERS, place.layers(tmp_path / "layers.onnx", tmp_path / "layers"))
    assert set(times) == set(LAYERS) and all(time > 0 for time in times.values())
    with pytest.raises(RemoteError, match=r"board: .*ncnn"):
        place.measure(bundle, Variant("ncnn", "fp32"), tmp_path / "ncnn")
