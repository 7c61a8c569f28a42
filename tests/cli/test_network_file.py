"""Commands on files without a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray

pytest.importorskip("ai_edge_litert")

from foreign_tflite import foreign, with_model

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
    assert "No model spec at" in without.stderr and "--model" in without.stderr


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
