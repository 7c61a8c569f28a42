"""The trade-off from checkpoints to picture, on tiny ones and a labels file of noise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
import tradeoff

from splite_deploy.compact import CompactOptions, compact_checkpoint
from splite_deploy.errors import UsageError
from splite_deploy.export.source.symbol import load_symbol
from splite_deploy.files import sha256_of


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Three images with five keypoints each."""
    rng = np.random.default_rng(0)
    samples = []
    for index in range(3):
        name = f"{index}.png"
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 256, (60, 80, 3), np.uint8))
        keypoints, world = rng.uniform(10, 50, (5, 2)), rng.uniform(-50, 50, (5, 3))
        samples.append({"image": name, "split": "val", "keypoints": keypoints.tolist(), "world_mm": world.tolist()})
    (tmp_path / "labels.json").write_text(json.dumps({"samples": samples}), encoding="utf-8")
    return tmp_path


@pytest.fixture
def checkpoints(tiny_model: Path, tmp_path: Path) -> list[Path]:
    """A dense and a compacted one; the first says how it was trained."""
    from safetensors.torch import save_file

    dense, thin = tmp_path / "dense.safetensors", tmp_path / "thin.safetensors"
    network = load_symbol("arch.py:build", tiny_model.parent)()
    save_file(network.state_dict(), dense, metadata={"recipe": '{"steps": 7}'})
    options = CompactOptions("l1", ratio=0.5, round_to=1)
    compact_checkpoint(dense, thin, options, model=tiny_model, crops=2, latency=False)
    return [dense, thin]


def test_from_checkpoints_to_records(checkpoints: list[Path], tiny_model: Path, labels: Path) -> None:
    said: list[str] = []
    dense, thin = records = tradeoff.tradeoff(checkpoints, tiny_model, labels, 20, said.append)
    assert [record["name"] for record in records] == ["dense", "thin"]
    assert [record["checkpoint_sha256"] for record in records] == [sha256_of(file) for file in checkpoints]
    assert dense["recipe"] == {"steps": 7}
    assert thin["recipe"] is None
    # channels: 3 -> 8 -> 8 -> 5 and 5, 64 x 48 pixels, of which a half and a quarter remain
    first, second, heads = 32 * 24 * 27 * 8, 16 * 12 * 72 * 8, 16 * 12 * 8 * 10
    assert dense["size"]["macs"] == first + second + heads
    assert dense["size"]["parameters"] == 27 * 8 + 8 + 16 + 72 * 8 + 8 + 2 * (8 * 5 + 5)
    assert thin["size"]["macs"] < dense["size"]["macs"] / 1.5
    assert thin["size"]["parameters"] < dense["size"]["parameters"] / 1.5
    for record, file in zip(records, checkpoints, strict=True):
        assert record["kind"] == "trade-off"
        assert record["reference"] == "dense"
        assert record["latency"]["count"] == 20
        assert record["accuracy"]["images"] == 3
        assert record["size"]["checkpoint_bytes"] == file.stat().st_size
        assert record["environment"]["python"]
    assert dense["date_utc"] == thin["date_utc"]
    assert dense["speed_up"]["value"] == 1.0
    assert thin["speed_up"]["low"] <= thin["speed_up"]["value"] <= thin["speed_up"]["high"]
    assert any("thin" in line for line in said)
    assert tradeoff.table(records).row_count == 2
    assert str(labels) not in json.dumps(records)


def test_names_tell_checkpoints_apart(tiny_model: Path, labels: Path) -> None:
    with pytest.raises(UsageError, match="the same name"):
        tradeoff.tradeoff([Path("a/x.safetensors"), Path("b/x.safetensors")], tiny_model, labels, 10, print)


def test_an_expected_error_is_two_lines(root: Path, labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = [
        sys.executable,
        root / "benchmarks" / "tradeoff.py",
        "nowhere.safetensors",
        "--data",
        labels,
        "--out",
        out,
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: Cannot read the checkpoint nowhere.safetensors" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
