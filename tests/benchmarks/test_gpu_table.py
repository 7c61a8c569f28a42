"""The table of the GPU, as far as it goes without one: what is timed here runs on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_runners import Runner, batches_of, feeds_of
from gpu_table import REFERENCE, left_out, machine, records_of, runners_of, table
from rich.console import Console

from splite_deploy.bench.interleaved import interleave
from splite_deploy.bundle import Bundle
from splite_deploy.compile.tensorrt.engines import EngineOptions
from splite_deploy.device.cuda_driver import gpu
from splite_deploy.errors import UsageError
from splite_deploy.spec import PRECISIONS


def script(root: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, root / "benchmarks" / "gpu_table.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def without_a_gpu() -> None:
    if gpu() is not None:
        pytest.skip("there is a GPU here")


def test_batches_are_crops_in_turn(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    crops = bundle.golden().crops
    batches = batches_of(bundle, 3)
    assert len(batches) == len(crops) and {batch.shape for batch in batches} == {(3, *crops.shape[1:])}
    assert (batches[-1][1] == crops[0]).all() and (batches[1][0] == crops[1]).all()


def test_a_network_without_preprocessing_is_fed_with_planes(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    image = bundle.find("ort", "fp32").inputs[0]
    feeds = feeds_of(bundle, image, 3)
    spec = bundle.model.input
    assert {(feed.shape, feed.dtype.name) for feed in feeds} == {((3, 3, spec.height, spec.width), "float32")}
    planes = (batches_of(bundle, 3)[0].transpose(0, 3, 1, 2) - np.reshape(spec.mean, (3, 1, 1))) / np.reshape(
        spec.std, (3, 1, 1)
    )
    np.testing.assert_allclose(feeds[0], planes, rtol=1e-5, atol=1e-6)


def test_records_and_their_table(root: Path, tmp_path: Path) -> None:
    def sleeper(seconds: float) -> Any:
        return lambda index: time.sleep(seconds)

    facts = {"shift_p95_px": 0.0123, "target": {"optimization_level": "0"}}
    runners = [
        Runner("dense", "torch eager", "fp32", sleeper(0.004), lambda: [3.0, 3.5], {}),
        Runner("compacted", "TensorRT-RTX 1.7.1", "fp16", sleeper(0.001), None, facts),
    ]
    assert runners[0].label == REFERENCE
    samples = interleave({runner.label: runner.run for runner in runners}, 20, warmup_frames=1)
    common = {"date_utc": "2026-11-21", "missing": {"onnxruntime CUDA": "No provider."}, "gpu": {"name": "a GPU"}}
    records = records_of(runners, samples, 4, common)
    slow, fast = records
    assert slow["speed_up"]["value"] == 1 and 2 < fast["speed_up"]["value"] < 5
    assert slow["compute"]["p50_ms"] == 3.25 and fast["compute"] is None
    assert fast["crops_per_s"] == pytest.approx(4000 / fast["latency"]["p50_ms"])

    file = tmp_path / "table.jsonl"
    older = {**slow, "date_utc": "2025-01-01", "network": "an older run"}
    file.write_text("".join(json.dumps(record) + "\n" for record in (older, *records)), encoding="utf-8")
    done = script(root, "--show", file)
    assert done.returncode == 0, done.stderr
    for text in (
        "TensorRT-RTX 1.7.1",
        "torch eager",
        "0.0123",
        "onnxruntime CUDA (No provider.)",
        "a GPU: crops",
        "level 0",
    ):
        assert text in done.stdout
    assert "an older run" not in done.stdout
    file.write_text("".join(json.dumps({**record, "fused": False}) + "\n" for record in records), encoding="utf-8")
    assert "a GPU: tensors to heatmaps" in script(root, "--show", file).stdout

    console = Console(record=True, width=130)
    console.print(table(records[1:]))
    assert "dense" not in console.export_text()


def test_what_cannot_run_is_left_out_with_its_reason(tiny_bundle: Path, tmp_path: Path) -> None:
    without_a_gpu()
    missing = {"torch": "It was told before."}
    with ExitStack() as stack:
        given = {"dense": Bundle.open(tiny_bundle)}
        assert runners_of(given, 1, EngineOptions(), tmp_path, stack, missing, lambda step: None) == []
    assert list(missing) == ["torch", *(f"TensorRT {p}, dense" for p in PRECISIONS), "onnxruntime CUDA"]
    assert missing["torch"] == "It was told before." and "no graph for fp16 engines" in missing["TensorRT fp16, dense"]
    assert left_out({"a": "b", "c": "d"}) == "a (b); c (d)"


def test_without_a_gpu_nothing_is_measured(root: Path, tmp_path: Path) -> None:
    without_a_gpu()
    with pytest.raises(UsageError, match="offers no GPU"):
        machine()
    out = tmp_path / "table.jsonl"
    done = script(root, "--bundles", tmp_path, "--out", out)
    assert done.returncode == 1 and not out.exists()
    assert "error: The NVIDIA driver offers no GPU here." in done.stderr and "Traceback" not in done.stderr


def test_the_script_of_the_gpu_stops_without_one(root: Path, tmp_path: Path) -> None:
    without_a_gpu()
    command = ["sh", str(root / "tests" / "gpu" / "run.sh"), str(tmp_path / "out"), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    )
    assert done.returncode == 1 and "offers no GPU here" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []
