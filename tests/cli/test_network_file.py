"""Commands on files without a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray

pytest.importorskip("ai_edge_litert")

from foreign_tflite import foreign, with_model

from splite_deploy import children

QUICK = ("--threads", 1, "--frames", 12, "--warmup", 1)
Splite = Callable[..., Result]


@pytest.fixture
def photograph(tmp_path: Path, image: NDArray[np.uint8]) -> Path:
    file = tmp_path / "photograph.png"
    cv2.imwrite(str(file), image)
    return file


def test_run_finds_keypoints_with_a_file(tmp_path: Path, photograph: Path, splite: Splite) -> None:
    file = with_model(tmp_path / "net", "float32")
    picture = tmp_path / "drawn.png"
    done = splite("run", file, photograph, "--box", "20,10,120,100", "--threads", 1, "--save", picture)
    assert done.exit_code == 0, done.stderr
    (pose,) = json.loads(done.stdout)["poses"]
    assert np.shape(pose["keypoints"]) == (5, 2)
    assert picture.is_file()


def test_run_takes_a_model_spec_from_elsewhere(tmp_path: Path, photograph: Path, splite: Splite) -> None:
    toml = with_model(tmp_path / "net", "float32").with_name("model.toml")
    done = splite("run", foreign("float32"), photograph, "--model", toml, "-b", "litert")
    assert done.exit_code == 0, done.stderr
    without = splite("run", foreign("float32"), photograph)
    assert without.exit_code == 1
    assert "No model spec of foreign.float32.tflite: there is no " in without.stderr and "--model" in without.stderr


def test_a_file_of_a_bundle_is_run_by_its_bundle(photograph: Path, tiny_bundle: Path, splite: Splite) -> None:
    done = splite("run", tiny_bundle / "model.onnx", photograph)
    assert done.exit_code == 1
    assert f"The file belongs to a bundle: name that, {tiny_bundle}." in " ".join(done.stderr.split())


def test_options_of_the_other_kind_are_refused(
    tmp_path: Path, photograph: Path, tiny_bundle: Path, tiny_model: Path, splite: Splite
) -> None:
    file = with_model(tmp_path / "net", "float32")
    done = splite("run", file, photograph, "-p", "fp16")
    assert done.exit_code == 1
    assert "--precision is for bundles; float32.tflite is a file without a bundle" in done.stderr
    done = splite("run", tiny_bundle, photograph, "--model", tiny_model)
    assert done.exit_code == 1
    assert "--model is for a file without a bundle" in done.stderr
    done = splite("run", file, photograph, "-b", "ort")
    assert done.exit_code == 1
    assert "The backend 'ort' does not run float32.tflite." in done.stderr


def test_bench_times_a_file_end_to_end_by_its_model_toml(tmp_path: Path, photograph: Path, splite: Splite) -> None:
    file = with_model(tmp_path / "net", "float32")
    done = splite("bench", file, *QUICK, "--json", "-")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert {"preprocess", "inference", "decode", "end_to_end", "model_only"} <= set(result["stages"])
    assert (result["model"], result["bundle"], result["inputs_from"]) == ("foreign", "", "random pictures")
    assert [layer["kind"] for layer in result["layers"]].count("CONV_2D") == 3
    done = splite("bench", file, *QUICK, "--images", photograph.parent, "--json", "-")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["inputs_from"] == f"1 images of {photograph.parent.name}"
    assert (result["image_width_px"], result["image_height_px"]) == (160, 120)
    done = splite("bench", file, *QUICK)
    assert done.exit_code == 0, done.stderr
    assert "end to end" in done.stdout and "float32.tflite" in done.stdout


def test_bench_takes_a_batch_where_the_file_does(tmp_path: Path, splite: Splite) -> None:
    for name, status in (("open", 0), ("float32", 1)):
        done = splite("bench", with_model(tmp_path / name, name), *QUICK, "--batch", 3, "--json", "-")
        assert done.exit_code == status, done.stderr
    assert "the network takes float32 1x3x64x48" in done.stderr


def test_bench_starts_a_file_of_open_sizes_at_the_size_of_the_model(
    tmp_path: Path, splite: Splite, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, jobs = with_model(tmp_path / "net", "open"), []
    run = children.run

    def noted(command: list[str], **options: Any) -> Any:
        if any("cold_start_child" in part for part in command):
            jobs.append(command[-1])
        return run(command, **options)

    monkeypatch.setattr(children, "run", noted)
    done = splite("bench", file, *QUICK, "--batch", 2, "--json", "-")
    assert done.exit_code == 0, done.stderr
    assert json.loads(jobs[-1])["sizes"] == [[2, 64, 48, 3]]
    tensors = tmp_path / "in.npz"
    np.savez(tensors, input_1=np.zeros((1, 32, 48, 3), np.float32))
    done = splite("bench", file, *QUICK, "--inputs", tensors, "--json", "-")
    assert done.exit_code == 0, done.stderr
    assert json.loads(jobs[-1])["sizes"] == [[1, 32, 48, 3]]


def test_bench_times_the_network_alone_without_a_model_toml(tmp_path: Path, splite: Splite) -> None:
    done = splite("bench", foreign("uint8"), *QUICK, "--json", "-")
    assert done.exit_code == 0, done.stderr
    assert set(json.loads(done.stdout)["stages"]) == {"model_only"}
    tensors, file = tmp_path / "in.npz", with_model(tmp_path / "net", "float32")
    np.savez(tensors, input_1=np.zeros((1, 64, 48, 3), np.float32))
    done = splite("bench", file, *QUICK, "--inputs", tensors, "--json", "-")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["inputs_from"] == "tensors of in.npz"
    done = splite("bench", file, "--inputs", tensors, "--images", tmp_path)
    assert done.exit_code == 1
    assert "--inputs are tensors of the network alone, and --images is for a measurement end to end." in done.stderr
    done = splite("bench", foreign("float32"), "--images", tmp_path)
    assert done.exit_code == 1
    assert "No model spec of foreign.float32.tflite: there is no " in done.stderr
    done = splite("bench", foreign("float32"), "--streams", 2)
    assert done.exit_code == 1
    assert "--model" in done.stderr
