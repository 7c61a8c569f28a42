"""Poses as values: equal, in sets, as plain data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from splite_deploy.decoders import HEADS
from splite_deploy.runtime import Pose


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
