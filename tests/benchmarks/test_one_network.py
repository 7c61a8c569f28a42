"""One network by several converters, whose files are in tests/vectors: the keypoints are the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import one_network

VECTORS = Path(__file__).parents[1] / "vectors"
FORMS = sorted(VECTORS.glob("converted.*.onnx"))
TF2ONNX = os.environ.get("SPLITE_TESTS_TF2ONNX", "")


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    keypoints, opset = one_network.keypoints(VECTORS / "converted.safetensors")
    assert opset == 18
    assert keypoints.std((0, 1)).min() > 15  # they lie all over the pictures
    return keypoints


@pytest.mark.parametrize("file", FORMS, ids=lambda file: file.name.split(".")[1])
def test_a_form_gives_the_same_keypoints(expected: np.ndarray, file: Path) -> None:
    found, opset = one_network.keypoints(file)
    assert opset >= 13
    assert np.linalg.norm(found - expected, axis=-1).max() <= one_network.LIMIT_PX


def test_all_converters_are_there() -> None:
    names = {file.name.split(".")[1] for file in FORMS}
    assert names == {"torch9", "torch11", "torch13", "torch17", "tf9", "tf18", "tf15-nchw"}


def test_the_files_of_torch_are_made_anew(tmp_path: Path) -> None:
    one_network.write_torch(tmp_path)
    from safetensors.numpy import load_file

    kept, made = (load_file(folder / "converted.safetensors") for folder in (VECTORS, tmp_path))
    assert kept.keys() == made.keys()
    assert all(np.array_equal(kept[name], made[name]) for name in kept)
    assert {file.name for file in tmp_path.iterdir()} >= {file.name for file in FORMS if ".torch" in file.name}


@pytest.mark.skipif(not shutil.which(TF2ONNX), reason="SPLITE_TESTS_TF2ONNX names no Python with tf2onnx")
def test_the_files_of_tf2onnx_are_made_anew(tmp_path: Path, expected: np.ndarray) -> None:
    shutil.copy(VECTORS / "converted.safetensors", tmp_path)
    one_network.write_keras(tmp_path, Path(TF2ONNX))
    made = sorted(tmp_path.glob("*.onnx"))
    assert len(made) == 3
    for file in made:
        assert np.linalg.norm(one_network.keypoints(file)[0] - expected, axis=-1).max() <= one_network.LIMIT_PX
