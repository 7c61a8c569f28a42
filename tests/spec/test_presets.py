"""Skeletons with a name: what they hold, and how model.toml names one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splite_deploy.errors import SpecError
from splite_deploy.spec import SkeletonSpec, load_model_toml
from splite_deploy.spec.presets import COCO17, HAND21, SKELETONS, SkeletonPreset

MODEL = """
name = "toy"
[input]
height = 64
width = 48
color = "rgb"
mean = [127.5, 127.5, 127.5]
std = [64.0, 64.0, 64.0]
box_padding = 1.25
pad_value = 127
[decoder]
type = "coordinates"
scale = "unit"
[skeleton]
"""


@pytest.fixture
def model(tmp_path: Path) -> Callable[[str], Path]:
    """Writes model.toml with these lines of its skeleton."""

    def write(skeleton: str) -> Path:
        file = tmp_path / "model.toml"
        file.write_text(MODEL + skeleton, encoding="utf-8")
        return file

    return write


@pytest.mark.parametrize("preset", SKELETONS.values(), ids=SKELETONS)
def test_every_preset_is_a_connected_skeleton(preset: SkeletonPreset) -> None:
    count = len(preset.keypoint_names)
    SkeletonSpec(preset.keypoint_names, preset.edges, preset.flip_pairs)
    assert len(set(map(frozenset, preset.edges))) == len(preset.edges)
    joined = {0}
    for _ in range(count):
        joined |= {point for edge in preset.edges if joined & set(edge) for point in edge}
    assert joined == set(range(count))
    assert len(preset.oks_sigmas) in (0, count)
    for left, right in preset.flip_pairs:
        assert preset.keypoint_names[left].replace("left", "right") == preset.keypoint_names[right]


def test_the_keypoints_of_coco() -> None:
    assert len(COCO17.keypoint_names) == len(COCO17.oks_sigmas) == 17
    assert [COCO17.keypoint_names[index] for index in (0, 1, 10, 16)] == [
        "nose",
        "left_eye",
        "right_wrist",
        "right_ankle",
    ]
    assert len(COCO17.edges) == 19  # as COCO's annotations list them
    assert (5, 6) in COCO17.edges and (11, 12) in COCO17.edges and (12, 14) in COCO17.edges
    assert COCO17.flip_pairs[0] == (1, 2) and len(COCO17.flip_pairs) == 8
    assert COCO17.oks_sigmas[0] == 0.026 and COCO17.oks_sigmas[11] == 0.107


def test_a_model_names_a_preset(model: Callable[[str], Path]) -> None:
    spec, _ = load_model_toml(model('preset = "coco17"'))
    assert spec.skeleton == SkeletonSpec(COCO17.keypoint_names, COCO17.edges, COCO17.flip_pairs)
    assert "preset" not in json.dumps(spec.to_dict())  # a runtime in another language needs no table of names


def test_the_hand_network_has_the_preset_of_hands(root: Path) -> None:
    spec, _ = load_model_toml(root / "models" / "splite_hand" / "model.toml")
    assert spec.skeleton == SkeletonSpec(HAND21.keypoint_names, HAND21.edges)


@pytest.mark.parametrize(
    ("skeleton", "message", "hint"),
    [
        ('preset = "coco18"', "skeleton.preset is 'coco18', which is not a preset.", "coco17, hand21"),
        ("preset = 17", "skeleton.preset is 17, which is not a preset.", "coco17, hand21"),
        ('preset = "coco17"\nedges = []', "has the preset 'coco17' and edges beside it.", "Leave out the preset"),
    ],
)
def test_refusals(model: Callable[[str], Path], skeleton: str, message: str, hint: Any) -> None:
    with pytest.raises(SpecError) as caught:
        load_model_toml(model(skeleton))
    assert message in caught.value.message and "model.toml" in caught.value.message
    assert hint in caught.value.hint
