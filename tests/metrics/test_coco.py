"""COCO's JSON: what is read, what is written, and the average precision of pycocotools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splite_deploy.errors import UsageError
from splite_deploy.metrics.coco import dataset, read_coco, result
from splite_deploy.metrics.labels import read_boxes, read_ignored, read_images, read_labels, read_scenes

PERSON = {"id": 1, "name": "person", "keypoints": ["a", "b", "c"], "skeleton": [[1, 2]]}
IMAGES = [{"id": 7, "file_name": "seven.jpg", "width": 90, "height": 80}]
ONE = {
    "id": 1,
    "image_id": 7,
    "category_id": 1,
    "bbox": [10.0, 20.0, 30.0, 40.0],
    "area": 800.0,
    "iscrowd": 0,
    "num_keypoints": 2,
    "keypoints": [10, 20, 2, 0, 0, 0, 40, 60, 1],
}


def write(folder: Path, data: Any, name: str = "person_keypoints_val2017.json", images: str = "") -> Path:
    """A file of labels, and an empty file for each of its images in a folder beside it."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data), encoding="utf-8")
    place = file.parent / images
    place.mkdir(parents=True, exist_ok=True)
    for image in ("seven.jpg", "000000000007.jpg"):
        (place / image).touch()
    return file


def coco(*annotations: Any, **more: Any) -> dict[str, Any]:
    return {"images": IMAGES, "annotations": list(annotations), "categories": [PERSON], **more}


def test_keypoints_lie_in_the_centres_of_pixels(tmp_path: Path) -> None:
    (one,) = read_labels(write(tmp_path, coco(ONE)))
    np.testing.assert_array_equal(one.keypoints[one.mask], [[10.5, 20.5], [40.5, 60.5]])
    np.testing.assert_array_equal(one.mask, [True, False, True])
    np.testing.assert_array_equal(one.box, [10, 20, 40, 60])
    assert (one.area_px2, one.image_id, one.path, one.side_px) == (800.0, 7, tmp_path / "seven.jpg", 40.0)


@pytest.mark.parametrize("images", ["", "images", "../val2017", "../images/val2017", "images/val2017", "../images"])
def test_images_are_found_where_coco_and_others_put_them(tmp_path: Path, images: str) -> None:
    (one,) = read_labels(write(tmp_path / "annotations", coco(ONE), images=images))
    assert one.path.is_file() and one.path.resolve().parent == (tmp_path / "annotations" / images).resolve()


def test_images_that_are_nowhere_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "annotations", coco(ONE), images="../elsewhere")
    with pytest.raises(UsageError, match=r"The image seven\.jpg of .* was not found") as caught:
        read_labels(file)
    assert "into '../val2017' as COCO does" in caught.value.hint


def test_crowds_and_objects_without_keypoints_are_not_scored(tmp_path: Path) -> None:
    blind = {**ONE, "num_keypoints": 0, "keypoints": [0] * 9}
    file = write(tmp_path, coco(ONE, {**ONE, "iscrowd": 1}, blind))
    assert len(read_labels(file)) == len(read_boxes(file)) == 1
    assert [(one.crowd, bool(one.mask.any())) for one in read_ignored(file)] == [(True, True), (False, False)]


def test_a_detectors_results_are_boxes_with_scores(tmp_path: Path) -> None:
    file = write(tmp_path, [{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.25}])
    (box,) = read_boxes(file)
    assert (box.path.name, box.score, box.image_id) == ("000000000007.jpg", 0.25, 7)
    np.testing.assert_array_equal(box.box, [1, 2, 4, 6])
    with pytest.raises(UsageError, match="holds boxes without keypoints") as caught:
        read_labels(file)
    assert "boxes alone serve --calibration" in caught.value.hint


def test_of_many_categories_persons_are_taken(tmp_path: Path) -> None:
    plain = {key: value for key, value in ONE.items() if key != "keypoints"}
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}]
    file = write(tmp_path, coco(plain, {**plain, "category_id": 2, "bbox": [0, 0, 5, 5]}, categories=categories))
    assert [one.box.tolist() for one in read_boxes(file)] == [[10, 20, 40, 60]]


def test_whole_bodies_have_the_keypoints_of_all_their_fields(tmp_path: Path) -> None:
    parts = {"foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}
    more = {name: [part, 0, 1] * count for part, (name, count) in enumerate(parts.items())}
    (one,) = read_labels(write(tmp_path, coco({**ONE, "keypoints": [9, 9, 2] * 17, **more})))
    assert one.keypoints[:, 0].tolist() == [9.5] * 17 + [0.5] * 6 + [1.5] * 68 + [2.5] * 21 + [3.5] * 21


@pytest.mark.parametrize(
    "broken",
    [
        {"image_id": 8},
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, 3, None]},
        {"bbox": [1, 2, 3, float("nan")]},
        {"keypoints": [1, 2]},
        {"keypoints": [1, None, 2] * 3},
        {"image_id": None},
        {"image_id": 7.5},
        {"bbox": [1, 2, 0, 4]},
        {"bbox": [1, 2, 3, -4]},
        {"area": 0},
        {"area": -5},
        {"area": float("nan")},
        {"iscrowd": "0"},
        {"score": float("nan")},
    ],
    ids=repr,
)
def test_a_malformed_annotation_is_counted(tmp_path: Path, broken: dict[str, Any]) -> None:
    file = write(tmp_path, coco(ONE, {**ONE, **broken}))
    with pytest.raises(UsageError, match="annotation 1, id 1, is malformed") as caught:
        read_labels(file)
    assert '"images" and "annotations"' in caught.value.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": [{"id": 7}]}, "image 0 is malformed"),
        ({"images": [*IMAGES, {"id": 7, "file_name": "other.jpg"}]}, "there are two images of the id 7"),
        ({"categories": [{"name": "a"}, {"name": "person"}]}, "its categories are malformed"),
        ({"annotations": [{**ONE, "id": 31, "bbox": None}]}, "annotation 0, id 31, is malformed"),
    ],
)
def test_what_is_malformed_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_labels(write(tmp_path, {**coco(ONE), **change}))


def test_images_without_anybody_are_listed(tmp_path: Path) -> None:
    images = [*IMAGES, {"id": 8, "file_name": "eight.jpg"}]
    found = read_images(write(tmp_path, {**coco(ONE), "images": images}))
    assert {path.name: image_id for path, image_id in found.items()} == {"seven.jpg": 7, "eight.jpg": 8}


def test_a_detector_has_to_find_whom_nobody_has_labelled_keypoints_of(tmp_path: Path) -> None:
    """As pycocotools has it for boxes: crowds alone are left out there."""
    blind = {**ONE, "id": 2, "keypoints": [0] * len(ONE["keypoints"]), "num_keypoints": 0, "bbox": [50, 5, 9, 9]}
    crowd = {**ONE, "id": 3, "iscrowd": 1, "bbox": [0, 0, 90, 40]}
    (scene,) = read_scenes(write(tmp_path, coco(ONE, blind, crowd))).values()
    x, y, width, height = ONE["bbox"]
    np.testing.assert_array_equal(scene.labelled, [[x, y, x + width, y + height], [50, 5, 59, 14]])
    np.testing.assert_array_equal(scene.crowds, [[0, 0, 90, 40]])
    assert scene.ignored.shape == (0, 4)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keypoints, scores = rng.uniform(0, 80, (3, 2)), rng.uniform(0, 1, 3)
    written = result(7, keypoints, scores, np.array([1.0, 2, 30, 40]), 0.5)
    assert written["score"] == pytest.approx(scores.mean() / 2, abs=1e-6)
    assert written["bbox"] == [1, 2, 29, 38]
    write(tmp_path, {})
    for data in ([written], dataset(IMAGES, [written], "person", ["a", "b", "c"], [(0, 1)])):
        (found,) = read_coco(json.loads(json.dumps(data)), tmp_path / "x.json")
        assert found.keypoints is not None
        np.testing.assert_allclose(found.keypoints, keypoints, atol=1e-4)
        np.testing.assert_array_equal(found.box, [1, 2, 30, 40])


def test_a_result_without_keypoints_has_the_score_of_its_box() -> None:
    one = result(7, np.empty((0, 2), np.float32), np.empty(0, np.float32), np.array([1.0, 2, 11, 22]), 0.75)
    assert (one["keypoints"], one["score"], one["bbox"]) == ([], 0.75, [1, 2, 10, 20])
