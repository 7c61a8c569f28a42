"""The command run on all pictures of labels, by networks that find hands or people themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import Result

pytest.importorskip("onnx")

import box_detector

from splite_deploy.errors import SpecError
from splite_deploy.runtime.network_file import NetworkFile
from tests.shared.coco import coco_ap

TOML = """name = "always"
[input]
height = 32
width = 32
color = "rgb"
mean = [0.0, 0.0, 0.0]
std = [255.0, 255.0, 255.0]
box_padding = 1.0
pad_value = 0
[decoder]
type = "coordinates"
scale = "pixel"
columns = ["x", "y", "score"]
[skeleton]
keypoint_names = ["wrist", "middle", "thumb"]
edges = []
"""


@pytest.fixture
def estimator(tmp_path: Path) -> Path:
    """A network that finds the same hand in every crop."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder = tmp_path / "estimator"
    folder.mkdir()
    (folder / "model.toml").write_text(TOML, encoding="utf-8")
    found = np.array([[[16, 28, 0.9], [16, 6, 0.9], [8, 15, 0.9]]], np.float32)
    nodes = [
        helper.make_node("ReduceMin", ["image"], ["least"], keepdims=0),
        helper.make_node("Mul", ["least", "zero"], ["nothing"]),
        helper.make_node("Add", ["found", "nothing"], ["coordinates"]),
    ]
    graph = helper.make_graph(
        nodes,
        "always",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, 32, 32))],
        [helper.make_tensor_value_info("coordinates", TensorProto.FLOAT, found.shape)],
        [numpy_helper.from_array(found, "found"), numpy_helper.from_array(np.float32(0), "zero")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "net.onnx")
    return folder / "net.onnx"


@pytest.mark.parametrize("with_detector", [True, False], ids=["detector", "single-stage"])
def test_pictures_in_which_nobody_is_labelled_are_run_too(
    splite: Callable[..., Result], estimator: Path, tmp_path: Path, with_detector: bool
) -> None:
    """Else pycocotools sees no false alarm there, and the average precision is too high."""
    detector = box_detector.write(tmp_path / "detector")
    picture = np.full((96, 96, 3), box_detector.WALL, np.uint8)
    picture[20:60, 10:40] = 0
    names = [f"{number}.png" for number in range(1, 5)]
    for name in names:
        cv2.imwrite(str(tmp_path / name), picture)
    one = {"category_id": 1, "bbox": [10, 20, 30, 40], "area": 1200}
    annotations = [{"id": i, "image_id": i, "iscrowd": int(i == 2), **one} for i in (1, 2)]
    images = [{"id": i, "file_name": name} for i, name in enumerate(names, 1)]
    truth = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "hand"}]}
    file, made = tmp_path / "hands.json", tmp_path / "results.json"
    file.write_text(json.dumps(truth), encoding="utf-8")
    more = ("--detector", detector) if with_detector else ()
    done = splite("run", estimator if with_detector else detector, file, *more, "--format", "coco", "--json", made)
    assert done.exit_code == 0, done.output
    results = json.loads(made.read_text())
    assert [one["image_id"] for one in results] == [1, 2, 3, 4]  # in 2 is a crowd alone, in 3 and 4 nobody
    boxes = [{**one, "score": 0.9, "bbox": [10, 20, 30, 40]} for one in results]
    assert coco_ap(truth, boxes[:1], overlap=0.5) == pytest.approx(1)
    boxes[0]["score"] = 0.8
    assert coco_ap(truth, boxes, overlap=0.5) == pytest.approx(1 / 3)

    labels, words = tmp_path / "labels.json", ("run", estimator if with_detector else detector)
    samples = [{"image": names[0], "box": [10, 20, 40, 60]}, {"image": names[1], "empty": True}]
    labels.write_text(json.dumps({"samples": samples}), encoding="utf-8")
    listed = json.loads(splite(*words, labels, *more).stdout)
    assert [(one["image"], len(one["poses"])) for one in listed] == [("1.png", 1), ("2.png", 1)]
    for nothing in ({"samples": []}, {"images": [], "annotations": []}):
        labels.write_text(json.dumps(nothing), encoding="utf-8")
        refused = splite(*words, labels, *more)
        assert refused.exit_code == 1 and "labels.json names no images" in refused.output, refused.output
        assert "Name a folder of images, or labels that name some." in refused.output


def test_the_model_spec_of_a_detector_lies_beside_it(
    splite: Callable[..., Result], estimator: Path, tmp_path: Path
) -> None:
    """--model is that of the file that finds keypoints."""
    detector = box_detector.write(tmp_path / "detector")
    spec = detector.with_name("model.toml")
    spec.write_text("name = ", encoding="utf-8")
    wrong = splite("run", estimator, "a.png", "--detector", detector)
    assert wrong.exit_code == 1 and "Correct that line." in wrong.output and "--model" not in wrong.output
    spec.unlink()
    alone = splite("run", estimator, "a.png", "--detector", detector)
    assert alone.exit_code == 1 and f"No model spec of {detector.name}" in alone.output, alone.output
    assert "This writes one: splite-deploy init" in alone.output and "--model" not in alone.output
    with pytest.raises(SpecError, match="No model spec at") as caught:
        NetworkFile.read(detector, spec, option="--reference-model")
    assert caught.value.hint == "Put model.toml beside the checkpoint, or name it with --reference-model."
