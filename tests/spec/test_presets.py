"""Skeletons with a name: what they hold, and how model.toml names one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splite_deploy.errors import SpecError
from splite_deploy.spec import SkeletonSpec, load_model_toml
from splite_deploy.spec.presets import COCO17, HAND21, SKELETONS, oks_sigmas, presets_of

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


COUNTS = {
    "coco17": 17,
    "coco-wholebody": 133,
    "halpe26": 26,
    "halpe136": 136,
    "hand21": 21,
    "mpii16": 16,
    "aic14": 14,
    "crowdpose14": 14,
    "blazepose33": 33,
    "face68": 68,
}
FACE_PAIRS = {
    *((0, 16), (1, 15), (2, 14), (3, 13), (4, 12), (5, 11), (6, 10), (7, 9)),
    *((17, 26), (18, 25), (19, 24), (20, 23), (21, 22), (31, 35), (32, 34)),
    *((36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),
    *((48, 54), (49, 53), (50, 52), (55, 59), (56, 58), (60, 64), (61, 63), (65, 67)),
}
"""As every 68-point data set lists them, counted from the first."""


@pytest.mark.parametrize("name", SKELETONS)
def test_every_preset_is_whole_and_symmetric(name: str) -> None:
    preset = SKELETONS[name]
    names, count = preset.keypoint_names, len(preset.keypoint_names)
    SkeletonSpec(names, preset.edges, preset.flip_pairs)
    assert count == COUNTS[name] and preset.about
    assert len(set(map(frozenset, preset.edges))) == len(preset.edges)
    assert {point for edge in preset.edges for point in edge} == set(range(count))  # none is drawn alone
    assert len(preset.oks_sigmas) == (0 if name == "blazepose33" else count)
    assert all(0.005 < sigma < 0.2 for sigma in preset.oks_sigmas)
    mirror = {a: b for pair in preset.flip_pairs for a, b in (pair, pair[::-1])}
    assert len(mirror) == 2 * len(preset.flip_pairs)
    for point, other in mirror.items():
        exchanged = [{"left": "right", "right": "left"}.get(word, word) for word in names[point].split("_")]
        assert names[other] == "_".join(exchanged)
    assert not any({"left", "right"} & set(names[point].split("_")) for point in set(range(count)) - set(mirror))
    drawn = set(map(frozenset, preset.edges))
    assert {frozenset(mirror.get(point, point) for point in edge) for edge in drawn} == drawn


@pytest.mark.parametrize(("name", "first"), [("face68", 0), ("coco-wholebody", 23), ("halpe136", 26)])
def test_faces_have_the_order_of_the_68_points(name: str, first: int) -> None:
    face = range(first, first + 68)
    pairs = {(a - first, b - first) for a, b in SKELETONS[name].flip_pairs if a in face}
    assert pairs == FACE_PAIRS
    names = SKELETONS[name].keypoint_names
    assert [names[first + point] for point in (8, 33, 51, 66)] == [
        "chin",
        "nose_base",
        "upper_outer_lip",
        "lower_inner_lip",
    ]


@pytest.mark.parametrize(
    ("name", "flips"),
    [
        ("mpii16", {(0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)}),
        ("aic14", {(0, 3), (1, 4), (2, 5), (6, 9), (7, 10), (8, 11)}),
        ("crowdpose14", {(0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)}),
        ("halpe26", {*((i, i + 1) for i in range(1, 17, 2)), (20, 21), (22, 23), (24, 25)}),
        ("blazepose33", {(1, 4), (2, 5), (3, 6), *((i, i + 1) for i in range(7, 33, 2))}),
        ("hand21", set()),
    ],
)
def test_mirrored_keypoints_are_those_of_the_data_set(name: str, flips: set[tuple[int, int]]) -> None:
    assert set(SKELETONS[name].flip_pairs) == flips


@pytest.mark.parametrize("name", ["coco-wholebody", "halpe136"])
def test_hands_of_a_body_follow_one_another(name: str) -> None:
    preset = SKELETONS[name]
    left = len(preset.keypoint_names) - 42
    assert preset.keypoint_names[left] == "left_hand_root"
    assert preset.keypoint_names[left + 8] == "left_hand_index_tip"
    assert preset.keypoint_names[left + 21 + 4] == "right_hand_thumb_tip"
    assert {(left + i, left + 21 + i) for i in range(21)} <= set(preset.flip_pairs)


def test_sigmas_are_found_by_the_names_of_the_keypoints() -> None:
    whole = SKELETONS["coco-wholebody"]
    assert oks_sigmas(list(COCO17.keypoint_names)) == COCO17.oks_sigmas
    assert oks_sigmas(whole.keypoint_names) == whole.oks_sigmas
    assert whole.oks_sigmas[:17] == COCO17.oks_sigmas and whole.oks_sigmas[91:112] == HAND21.oks_sigmas
    assert oks_sigmas(SKELETONS["blazepose33"].keypoint_names) is None
    assert oks_sigmas(("one", "two")) is None


def test_presets_are_found_by_their_number_of_keypoints() -> None:
    assert presets_of(17) == ("coco17",) and presets_of(14) == ("aic14", "crowdpose14") and presets_of(5) == ()


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
        ('preset = "coco18"', "skeleton.preset is 'coco18', which is not a preset.", "coco17, coco-wholebody, halpe26"),
        ("preset = 17", "skeleton.preset is 17, which is not a preset.", "coco17, coco-wholebody, halpe26"),
        ('preset = "coco17"\nedges = []', "has the preset 'coco17' and edges beside it.", "Leave out the preset"),
    ],
)
def test_refusals(model: Callable[[str], Path], skeleton: str, message: str, hint: Any) -> None:
    with pytest.raises(SpecError) as caught:
        load_model_toml(model(skeleton))
    assert message in caught.value.message and "model.toml" in caught.value.message
    assert hint in caught.value.hint
