"""The rendered people: labels that agree with the picture, human proportions, and data sets as COCO has them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

LITE = Path(__file__).parents[2] / "models" / "lite_pose"
if str(LITE) not in sys.path:
    sys.path.insert(0, str(LITE))

import body_skeleton
import rendered_bodies
from body_surface import place_camera

from splite_deploy.spec.presets import COCO17

PEOPLE = 24


@pytest.fixture(scope="module")
def people() -> list[Any]:
    return list(rendered_bodies.bodies(PEOPLE, 5))


def test_a_person_depends_on_seed_and_number_alone(people: list[Any]) -> None:
    again = list(rendered_bodies.bodies(2, 5))[1]
    np.testing.assert_array_equal(again.image, people[1].image)
    np.testing.assert_array_equal(again.keypoints, people[1].keypoints)
    assert not np.array_equal(people[0].image, people[1].image)


def test_visible_keypoints_lie_on_the_person(people: list[Any]) -> None:
    on, seen = 0, 0
    for person in people:
        grown = cv2.dilate(person.mask.astype(np.uint8), np.ones((7, 7), np.uint8))
        points = person.keypoints[person.visibility > 0].astype(int)
        on, seen = on + int(grown[points[:, 1], points[:, 0]].sum()), seen + len(points)
    assert seen > 0.8 * PEOPLE * 133
    assert on > 0.995 * seen


def test_the_box_holds_the_person(people: list[Any]) -> None:
    for person in people:
        x0, y0, x1, y1 = person.box.astype(int)
        assert person.mask[y0:y1, x0:x1].sum() == person.mask.sum()
        assert person.mask[y0].any() and person.mask[y1 - 1].any() and person.mask[:, x0].any()


def test_faces_are_seen_from_the_front_alone() -> None:
    """Who turns the back to the camera has a hidden nose, and the left shoulder on the left of the picture."""
    rng = np.random.default_rng(3)
    seen = {True: [0, 0], False: [0, 0]}
    for index in range(60):
        body = body_skeleton.sample_body(np.random.default_rng([7, index]))
        view = place_camera(rng, body, 256)
        towards = -float((view.rotation @ body.trunk[:, 2])[2])
        if abs(towards) < 0.6:
            continue
        shoulders = view.project(view.to_camera(body.shoulders))
        upright = view.rotation @ body.trunk[:, 1]
        if upright[1] < -0.7:
            seen[towards > 0][int(shoulders[0, 0] > shoulders[1, 0])] += 1
    assert seen[True][1] > 15 and seen[False][0] > 3
    assert seen[True][0] == seen[False][1] == 0


def test_proportions_are_human() -> None:
    bodies = [body_skeleton.sample_body(np.random.default_rng([1, index])) for index in range(40)]
    points = np.stack([body.keypoints()[:17] for body in bodies]) * body_skeleton.UNIT_MM
    name = COCO17.keypoint_names.index
    for first, second, low, high in (
        ("left_hip", "left_knee", 300, 520),
        ("left_knee", "left_ankle", 300, 520),
        ("left_shoulder", "left_elbow", 220, 400),
        ("left_elbow", "left_wrist", 170, 320),
        ("left_shoulder", "right_shoulder", 220, 480),
        ("left_ear", "right_ear", 110, 180),
    ):
        lengths = np.linalg.norm(points[:, name(first)] - points[:, name(second)], axis=1)
        assert low < lengths.min() and lengths.max() < high, (first, second)
    left, right = points[:, 1::2], points[:, 2::2]
    np.testing.assert_allclose(
        np.linalg.norm(left[:, 2] - left[:, 3], axis=1), np.linalg.norm(right[:, 2] - right[:, 3], axis=1)
    )


def test_poses_and_places_vary(people: list[Any]) -> None:
    centred = [person.keypoints[:17] - person.keypoints[:17].mean(axis=0) for person in people]
    spread = np.std([points / np.abs(points).max() for points in centred], axis=0)
    assert spread[5:].min() > 0.08
    hidden = np.mean([(person.visibility[:17] == 1).mean() for person in people])
    assert 0.05 < hidden < 0.6
    assert any((person.visibility[:17] == 0).any() for person in people)


def test_133_keypoints_are_in_the_order_of_coco_wholebody() -> None:
    body = body_skeleton.sample_body(np.random.default_rng(0))
    points = body.keypoints()
    assert points.shape == (133, 3)
    head = (points[23:91] - body.head.centre) @ body.head.rotation / body.head.cm
    assert head[:17, 0].argmin() == 0 and head[:17, 0].argmax() == 16 and head[:17, 1].argmin() == 8  # jaw, chin
    assert (head[17:22, 0] < 0).all() and (head[22:27, 0] > 0).all()  # the person's right brow first
    assert head[36:42, 0].max() < 0 < head[42:48, 0].min()
    np.testing.assert_allclose(points[91], body.wrists[0])
    np.testing.assert_allclose(points[112], body.wrists[1])
    np.testing.assert_allclose(points[17:23].reshape(2, 3, 3), body.feet)


@pytest.mark.parametrize("keypoints", [17, 133])
def test_a_data_set_is_written_as_coco_does(keypoints: int, tmp_path: Path, people: list[Any]) -> None:
    done: list[int] = []
    file = rendered_bodies.write_coco(tmp_path / "set", 3, 5, keypoints, done.append)
    data = json.loads(file.read_text())
    assert done == [1, 2, 3]
    assert [image["file_name"] for image in data["images"]] == ["000000.jpg", "000001.jpg", "000002.jpg"]
    assert data["categories"][0]["keypoints"] == list(COCO17.keypoint_names)
    for image, annotation, person in zip(data["images"], data["annotations"], people, strict=False):
        picture = cv2.imread(str(file.parent / "images" / image["file_name"]))
        assert picture.shape[:2] == (image["height"], image["width"])
        assert np.abs(picture[..., ::-1].astype(int) - person.image).mean() < 6
        fields = [field for field, _ in rendered_bodies.PARTS][: 5 if keypoints > 17 else 1]
        triples = np.array([value for field in fields for value in annotation[field]]).reshape(-1, 3)
        assert len(triples) == keypoints
        shown = triples[:, 2] > 0
        np.testing.assert_array_equal(triples[:, 2], person.visibility[:keypoints])
        np.testing.assert_allclose(triples[shown, :2] + 0.5, person.keypoints[:keypoints][shown], atol=0.006)
        assert not triples[~shown, :2].any()
        x, y, width, height = annotation["bbox"]
        np.testing.assert_allclose([x, y, x + width, y + height], person.box)
        assert annotation["area"] == person.mask.sum()


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(LITE / "rendered_bodies.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_writes_a_sheet_and_a_data_set(tmp_path: Path) -> None:
    assert _run("--sheet", tmp_path / "sheet.png", "--count", 3, "--draw").returncode == 0
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (256, 8 * 256, 3)
    assert _run("--coco", tmp_path / "set", "--count", 2).returncode == 0
    assert len(list((tmp_path / "set" / "images").iterdir())) == 2
    again = _run("--coco", tmp_path / "set", "--count", 2)
    assert again.returncode == 2 and "holds annotations already: name a new folder" in again.stderr


def test_samples_are_pictures_and_boxes() -> None:
    pairs = list(rendered_bodies.samples(2, 9))
    for image, box in pairs:
        assert image.shape == (256, 256, 3) and image.dtype == np.uint8
        assert (box[:2] >= 0).all() and (box[2:] <= 256).all() and (box[2:] > box[:2] + 8).all()
