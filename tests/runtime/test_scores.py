"""Scores of files without a bundle: what is none is refused where the file is run, verified or measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import Result

from splite_deploy.decoders import Decoding, YoloPose
from splite_deploy.errors import BackendError
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.crops import random_pictures
from splite_deploy.spec import load_model_toml

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

Splite = Callable[..., Result]
INPUT = """
name = "net"
[input]
height = 8
width = 8
color = "rgb"
mean = [0, 0, 0]
std = [255, 255, 255]
box_padding = 1.0
pad_value = 0
{more}
[skeleton]
keypoint_names = ["a", "b"]
edges = []
"""
POINTS = '[decoder]\ntype = "coordinates"\nscale = "unit"\n'
PEOPLE = (
    'letterbox = "centre"\n[decoder]\ntype = "yolo-pose"\nform = "decoded"\nboxes = "xywh"\nscale = "pixel"\n'
    "objectness = false\nvisibility = true\nmin_score = 0.25\noverlap = 0.7\nmax_people = 20\n"
)


def write(folder: Path, values: Any, more: str) -> Path:
    """A network that gives these values, with its model.toml beside it; its image adds next to nothing."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    values = np.asarray(values, np.float32)[None]
    held = {"values": values, "little": np.float32(1e-6).reshape(1)}
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "little"], ["small"]),
        helper.make_node("Add", ["values", "small"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", kind, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("out", kind, values.shape)],
        [onnx.numpy_helper.from_array(value, name) for name, value in held.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(made, str(folder / "net.onnx"))
    (folder / "model.toml").write_text(INPUT.format(more=more), encoding="utf-8")
    (folder / "pictures").mkdir(exist_ok=True)
    for index, picture in enumerate(random_pictures(2, 20)):
        cv2.imwrite(str(folder / "pictures" / f"{index}.png"), picture)
    return folder / "net.onnx"


def points(third: float) -> Any:
    return [[0.2, 0.3, 0.5], [0.6, 0.7, third]]


def candidates(score: float) -> Any:
    rows = [[4, 4, 4, 4, score, *[3, 3, 0.5] * 2], [1, 1, 1, 1, 0.1, *[1, 1, 0.5] * 2]]
    return np.array(rows).T


CASES = [
    pytest.param(points(2.5), POINTS, "Column 3 of 'coordinates' is read as the score", "columns", id="a third column"),
    pytest.param(points(-0.5), POINTS, "Column 3 of 'coordinates' is read as the score", "columns", id="a depth"),
    pytest.param(candidates(3.0), PEOPLE, "The scores of the candidates", "sigmoid of the scores inside", id="people"),
]


@pytest.mark.parametrize(("values", "more", "message", "hint"), CASES)
def test_what_is_no_score_is_refused_wherever_a_file_goes(
    splite: Splite, tmp_path: Path, values: Any, more: str, message: str, hint: str
) -> None:
    file = write(tmp_path, values, more)
    commands = {
        "on the first image, not in 0 to 1": [
            ("run", str(file), str(tmp_path / "pictures" / "0.png"), "--save", str(tmp_path / "drawn.png")),
            ("bench", str(file), "--model", str(tmp_path / "model.toml"), "--frames", "10", "--warmup", "1"),
        ],
        "on the crops of the comparison, not in 0 to 1": [
            ("verify", str(file), "--images", str(tmp_path / "pictures")),
        ],
    }
    for where, each in commands.items():
        for command in each:
            result = splite(*command)
            assert result.exit_code == 1, result.output
            assert message in result.output and where in result.output
            assert hint in result.output


def test_scores_are_looked_at_in_the_first_result_alone(tmp_path: Path) -> None:
    with PoseEstimator.open_file(write(tmp_path, points(0.5), POINTS)) as estimator:
        image = np.zeros((8, 8, 3), np.uint8)
        assert estimator(image).scores.tolist() == [0.5, 0.5]
        beyond = {"coordinates": np.asarray([points(2.5)], np.float32)}
        assert estimator.decode(beyond).scores.max() == 1


def test_nobody_among_no_candidates_is_told(tmp_path: Path) -> None:
    spec, _ = load_model_toml(write(tmp_path, candidates(0.5), PEOPLE).with_name("model.toml"))
    assert isinstance(spec.decoder, YoloPose)
    none = {"people": np.zeros((1, 11, 0), np.float32)}
    assert len(Decoding(spec)(none).keypoints) == 0
    with pytest.raises(BackendError, match="it gave no candidates") as caught:
        Decoding(spec).best(none)
    assert "PoseEstimator.detect" in caught.value.hint
