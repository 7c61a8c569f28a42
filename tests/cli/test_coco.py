"""COCO's files on the command line: boxes in, results out, scored as ``--eval`` scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import Result

pytest.importorskip("torch")

from splite_deploy import PoseEstimator
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.metrics.labels import read_labels
from tests.shared.coco import coco_ap

MODEL = """
name = "body"
arch = "arch.py:build"
samples = "samples.py:samples"
[arch_args]
keypoints = 17
[input]
height = 64
width = 48
color = "rgb"
mean = [120.0, 115.0, 105.0]
std = [58.0, 57.0, 57.0]
box_padding = 1.25
pad_value = 127
[decoder]
type = "softargmax-depth"
stride = 4.0
beta = 1.0
alignment = "corner"
score_window = 3
root_keypoint = 0
unit = "palm"
scale_bones = [[5, 6]]
[skeleton]
preset = "coco17"
"""


@pytest.fixture(scope="session")
def body_bundle(root: Path, made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A bundle of 17 keypoints; what it finds is no body."""

    def fill(folder: Path) -> None:
        import torch

        from tests.tiny.arch import build

        for name in ("arch.py", "samples.py"):
            (folder / name).write_bytes((root / "tests" / "tiny" / name).read_bytes())
        (folder / "model.toml").write_text(MODEL, encoding="utf-8")
        torch.save(build(8, 17).state_dict(), folder / "body.pt")
        export_bundle(folder / "body.pt", folder / "body.splite", options=ExportOptions(crops=4))

    return made_once("body-bundle", fill) / "body.splite"


@pytest.fixture(scope="session")
def people(body_bundle: Path, made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """Pictures with several persons each, labelled where the network finds them, more or less; in COCO's folders."""

    def fill(folder: Path) -> None:
        rng = np.random.default_rng(3)
        (folder / "val2017").mkdir()
        images, annotations = [], []
        with PoseEstimator.open(body_bundle, "ort") as estimator:
            for number in range(1, 9):
                image = cv2.resize(rng.integers(0, 256, (8, 10, 3), np.uint8), (200, 160))
                name = f"{number:012d}.png"
                cv2.imwrite(str(folder / "val2017" / name), image)
                images.append({"id": number, "file_name": name, "width": 200, "height": 160})
                for person in range(3):
                    x, y = rng.uniform(0, 100, 2).round(1)
                    box = [x, y, x + 60, y + 80]
                    noise = rng.choice([0.5, 2, 5, 9])
                    points = estimator(image, box).keypoints - 0.5 + rng.normal(0, noise, (17, 2))
                    seen = rng.random(17) < 0.8
                    triples = np.column_stack([np.where(seen[:, None], points, 0), 2 * seen]).round(2)
                    facts: dict[str, Any] = {"image_id": number, "category_id": 1, "num_keypoints": int(seen.sum())}
                    facts |= {"iscrowd": int(person == 2 and number == 1), "area": 2500.0, "id": len(annotations) + 1}
                    annotations.append({"keypoints": triples.ravel().tolist(), "bbox": [x, y, 60, 80], **facts})
        names = [f"k{index}" for index in range(17)]
        category = {"id": 1, "name": "person", "keypoints": names, "skeleton": []}
        (folder / "annotations").mkdir()
        data = {"images": images, "annotations": annotations, "categories": [category]}
        (folder / "annotations" / "person_keypoints_val2017.json").write_text(json.dumps(data), encoding="utf-8")

    return made_once("coco-people", fill) / "annotations" / "person_keypoints_val2017.json"


def test_results_scored_by_pycocotools_have_the_precision_of_eval(
    splite: Callable[..., Result], body_bundle: Path, people: Path, tmp_path: Path
) -> None:
    done = splite("run", body_bundle, people, "--format", "coco", "--json", tmp_path / "results.json")
    assert done.exit_code == 0, done.output
    expected = coco_ap(json.loads(people.read_text()), json.loads((tmp_path / "results.json").read_text()))
    timed = splite("bench", body_bundle, "--frames", 10, "--eval", people, "--json", "-")
    assert timed.exit_code == 0, timed.output
    accuracy = json.loads(timed.stdout)["accuracy"]
    assert accuracy["images"] == 23  # persons, without the crowd
    assert 0.2 < expected < 0.95
    assert accuracy["oks_ap"] == pytest.approx(expected, abs=1e-3)
    assert accuracy["worst"][0]["image"].startswith("../val2017/")


def test_errors_count_labelled_keypoints_alone(splite: Callable[..., Result], body_bundle: Path, people: Path) -> None:
    accuracy = json.loads(splite("bench", body_bundle, "--frames", 10, "--eval", people, "--json", "-").stdout)[
        "accuracy"
    ]
    shares = []
    with PoseEstimator.open(body_bundle) as estimator:
        for one in read_labels(people):
            image = cv2.imread(str(one.path))
            distance = np.linalg.norm(estimator(image, one.box).keypoints - one.keypoints, axis=1)
            shares.append(distance[one.mask] / (80 if not one.mask.all() else one.side_px))
    assert accuracy["epe_box_pct"] == pytest.approx(100 * float(np.concatenate(shares).mean()), rel=1e-4)


def test_other_images_become_a_data_set_that_labels_others(
    splite: Callable[..., Result], body_bundle: Path, people: Path, tmp_path: Path
) -> None:
    folder = people.parent.parent / "val2017"
    done = splite("run", body_bundle, folder, "--format", "coco", "--json", tmp_path / "made.json")
    assert done.exit_code == 0, done.output
    data = json.loads((tmp_path / "made.json").read_text())
    assert [one["id"] for one in data["images"]] == list(range(1, 9))
    assert data["categories"][0]["keypoints"][0] == "nose" and data["categories"][0]["skeleton"][0] == [1, 2]
    (tmp_path / "images").symlink_to(folder)
    for labels in read_labels(tmp_path / "made.json"):
        assert labels.mask.all() and labels.path.is_file()
    again = splite("bench", body_bundle, "--frames", 10, "--eval", tmp_path / "made.json", "--json", "-")
    assert json.loads(again.stdout)["accuracy"]["epe_px"] < 1e-3


def test_a_detectors_boxes_are_run_and_weigh_the_score(
    splite: Callable[..., Result], body_bundle: Path, people: Path, tmp_path: Path
) -> None:
    boxes = [{"image_id": 1, "category_id": 1, "bbox": [5, 6, 60, 80], "score": 0.5, "file_name": f"{1:012d}.png"}]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    (tmp_path / "images").symlink_to(people.parent.parent / "val2017")
    plain = json.loads(splite("run", body_bundle, tmp_path / "boxes.json").stdout)
    (coco,) = json.loads(splite("run", body_bundle, tmp_path / "boxes.json", "--format", "coco").stdout)
    assert plain[0]["poses"][0]["box"] == [5, 6, 65, 86]
    assert coco["bbox"] == [5, 6, 60, 80]
    assert coco["score"] == pytest.approx(0.5 * np.mean(plain[0]["poses"][0]["scores"]), abs=1e-3)


def test_what_does_not_fit_is_refused(splite: Callable[..., Result], body_bundle: Path, people: Path) -> None:
    both = splite("run", body_bundle, people, "--box", "0,0,9,9")
    assert (both.exit_code, "has boxes of its own" in both.output, "Leave out --box" in both.output) == (2, True, True)
    one_file = splite("run", body_bundle, people, "--save", "a.png")
    assert one_file.exit_code == 2 and "has many images" in one_file.output
    video = splite("run", body_bundle, "a.mp4", "--format", "coco")
    assert video.exit_code == 2 and "COCO's format is for images" in video.output
    alone = splite("bench", body_bundle, "--flip-test")
    assert alone.exit_code == 2 and "Add --eval LABELS" in alone.output


def test_a_box_outside_its_image_is_named(
    splite: Callable[..., Result], body_bundle: Path, people: Path, tmp_path: Path
) -> None:
    data = json.loads(people.read_text())
    data["annotations"][3]["bbox"] = [5000, 0, 60, 80]
    (tmp_path / "labels.json").write_text(json.dumps(data))
    (tmp_path / "images").symlink_to(people.parent.parent / "val2017")
    for command in (("run", body_bundle, tmp_path / "labels.json"), ("bench", body_bundle, "--eval", tmp_path)):
        done = splite(*command)
        assert done.exit_code == 1 and f"{2:012d}.png: The box" in done.output, done.output


def test_calibration_needs_boxes_alone(body_bundle: Path, people: Path, tmp_path: Path) -> None:
    data = json.loads(people.read_text())
    for one in data["annotations"]:
        del one["keypoints"]
    (tmp_path / "boxes.json").write_text(json.dumps(data))
    (tmp_path / "images").symlink_to(people.parent.parent / "val2017")
    source, made = body_bundle.parent, tmp_path / "b.splite"
    options = ExportOptions(precisions=("fp32", "int8"), calibration=tmp_path / "boxes.json", crops=4)
    report = export_bundle(source / "body.pt", made, model=source / "model.toml", options=options).report()
    assert report.calibration is not None and "photos of" in report.calibration.origin
