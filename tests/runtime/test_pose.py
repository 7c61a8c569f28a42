"""Poses as values: equal, in sets, as plain data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splite_deploy import PoseEstimator, overlay
from splite_deploy.decoders import HEADS
from splite_deploy.errors import UsageError
from splite_deploy.runtime import Pose
from splite_deploy.spec import SkeletonSpec


def pose(**changed: Any) -> Pose:
    values = {
        "keypoints": np.array([[1.0, 2.0], [3.0, 0.0]], np.float32),
        "scores": np.array([0.25, 1.0], np.float32),
        "box": np.array([0, 0, 10, 20], np.float32),
        "keypoints_3d": np.array([[0, 0, 0], [0.5, 0.25, 1.0]], np.float32),
        "unit": "palm",
        "origin": "root",
        "box_score": None,
    }
    return Pose(**{**values, **changed})


SKELETON = SkeletonSpec(("wrist", "tip"), ((0, 1),))


def test_a_pose_draws_itself_on_its_image() -> None:
    image = np.full((100, 120, 3), 90, np.uint8)
    own = pose(skeleton=SKELETON)
    drawn = own.plot(image)
    assert drawn.shape == (400, 480, 3) and (image == 90).all()
    np.testing.assert_array_equal(drawn, overlay(image, [own], SKELETON))
    np.testing.assert_array_equal(pose().plot(image, SKELETON), drawn)
    dots = pose().plot(image)  # of a pose that nobody made the keypoints alone
    assert (dots != drawn).any() and (dots != overlay(image, [])).any()


def test_a_skeleton_of_something_else_is_refused() -> None:
    image = np.zeros((100, 120, 3), np.uint8)
    with pytest.raises(UsageError, match=r"^The skeleton has 3 keypoints, and the pose 2\.") as caught:
        pose().plot(image, SkeletonSpec(("a", "b", "c"), ()))
    assert caught.value.hint == "Leave the skeleton out: a pose of an estimator brings its own."


def test_an_estimator_gives_the_skeleton_of_its_model(tiny_bundle: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    with PoseEstimator.open(tiny_bundle) as estimator:
        found = estimator(image)
    assert found.skeleton == estimator.spec.skeleton and found.skeleton.edges
    np.testing.assert_array_equal(found.plot(image), overlay(image, [found], estimator.spec.skeleton))


def test_what_coco_calls_a_result() -> None:
    assert pose().to_coco(7) == {
        "image_id": 7,
        "category_id": 1,
        "keypoints": [0.5, 1.5, 0.25, 2.5, -0.5, 1.0],
        "score": 0.625,
        "bbox": [0, 0, 10, 20],
    }
    assert json.dumps(pose().to_coco(np.int64(7))) == json.dumps(pose().to_coco(7))
    with pytest.raises(TypeError, match="'str' object cannot be interpreted as an integer"):
        pose().to_coco("7")  # type: ignore[arg-type]
    assert pose(box_score=0.5).to_coco(7, box_score=0.9)["score"] == pytest.approx(0.3125)
    assert pose().to_coco(7, box_score=0.2)["score"] == pytest.approx(0.125)
    assert pose(angle_deg=90.0).to_coco(7)["bbox"] == pytest.approx([-5, 5, 20, 10], abs=1e-3)


def test_poses_of_the_same_values_are_equal_and_one_in_a_set() -> None:
    assert (pose() == pose()) is True
    assert (pose() != pose()) is False
    assert hash(pose()) == hash(pose())
    assert len({pose(), pose(), replace(pose())}) == 1
    flat = Pose(pose().keypoints, pose().scores, pose().box)
    assert (flat.keypoints_3d, flat.unit, flat.origin) == (None, None, None)
    assert flat == replace(flat) and flat != pose() and hash(flat) == hash(replace(flat))


@pytest.mark.parametrize(
    "changed",
    [
        {"keypoints": np.array([[1.0, 2.0], [3.0, 0.5]], np.float32)},
        {"keypoints": np.array([[1.0, 2.0]], np.float32)},
        {"scores": np.array([0.25, 0.5], np.float32)},
        {"box": np.array([0, 0, 10, 21], np.float32)},
        {"keypoints_3d": None, "unit": None, "origin": None},
        {"unit": "mm"},
        {"unit": "mm", "origin": "camera"},
        {"scores": None},
        {"skeleton": SKELETON},
    ],
)
def test_another_value_is_another_pose(changed: dict[str, Any]) -> None:
    assert (pose() == pose(**changed)) is False
    assert (pose(**changed) == pose()) is False
    assert len({pose(), pose(**changed)}) == 2


def test_a_pose_is_no_other_thing() -> None:
    assert (pose() == "pose") is False
    assert pose() != pose().to_dict()


def test_equal_values_of_another_sign_or_type_have_one_hash() -> None:
    minus = pose(keypoints=np.array([[1.0, 2.0], [3.0, -0.0]], np.float32))
    double = pose(keypoints=pose().keypoints.astype(np.float64))
    assert minus == pose() == double
    assert hash(minus) == hash(pose()) == hash(double)


def test_plain_data_says_the_unit_and_the_origin() -> None:
    assert pose().to_dict() == {
        "box": [0, 0, 10, 20],
        "keypoints": [[1, 2], [3, 0]],
        "scores": [0.25, 1],
        "keypoints_3d": [[0, 0, 0], [0.5, 0.25, 1]],
        "unit": "palm",
        "origin": "root",
        "box_score": None,
    }


def test_every_head_is_a_field_and_is_written_where_it_is_there() -> None:
    plain = Pose(np.zeros((1, 2), np.float32), np.ones(1, np.float32), np.zeros(4, np.float32))
    for head in HEADS:
        assert getattr(plain, head) is None and head not in plain.to_dict()
        told = replace(plain, **{head: 0.123456})
        assert told.to_dict()[head] == 0.1235 and told != plain
    assert "angle_deg" not in plain.to_dict() and replace(plain, angle_deg=-12.34567).to_dict()["angle_deg"] == -12.346


def test_an_id_is_written_where_somebody_is_followed() -> None:
    assert pose().id is None and "id" not in pose().to_dict()
    assert pose(id=3).to_dict()["id"] == 3 and pose(id=3) != pose(id=4)
