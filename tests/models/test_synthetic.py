"""The synthetic hands: labels that agree with the camera, human proportions, pictures that show a hand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scripts import load_script

MODULE_PATH = Path(__file__).resolve().parents[2] / "models/splite_hand/synthetic.py"
HANDS = 36


synthetic = load_script(MODULE_PATH)


@pytest.fixture(scope="module")
def hands() -> list[Any]:
    return [synthetic.render_hand(np.random.default_rng([5, i])) for i in range(HANDS)]


def _joint(name: str) -> int:
    index: int = synthetic.KEYPOINT_NAMES.index(name)
    return index


def _bend_deg(joints: NDArray[Any], digit: str, at: tuple[str, str, str]) -> float:
    """Angle between two successive bones of a digit."""
    a, b, c = (joints[0] if name == "wrist" else joints[_joint(f"{digit}_{name}")] for name in at)
    first, second = b - a, c - b
    cosine = first @ second / (np.linalg.norm(first) * np.linalg.norm(second))
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def test_names_follow_the_usual_order() -> None:
    names = synthetic.KEYPOINT_NAMES
    assert len(names) == len(set(names)) == 21
    assert names[0] == "wrist"
    assert names[4] == "thumb_tip"
    assert names[5:9] == ("index_mcp", "index_pip", "index_dip", "index_tip")
    assert names[20] == "little_tip"


def test_types_and_shapes(hands: list[Any]) -> None:
    for hand in hands:
        assert hand.image.shape == (160, 160, 3) and hand.image.dtype == np.uint8
        assert hand.keypoints.shape == (21, 2) and hand.keypoints.dtype == np.float32
        assert hand.keypoints_3d_mm.shape == (21, 3) and hand.keypoints_3d_mm.dtype == np.float32
        assert hand.intrinsics.shape == (3, 3) and hand.intrinsics.dtype == np.float64
        assert hand.mask.shape == (160, 160) and hand.mask.dtype == np.bool_
        assert hand.handedness in ("left", "right")


@pytest.mark.parametrize("size_px", [64, 131, 160])
def test_keypoints_are_the_projection_of_the_joints(size_px: int) -> None:
    for seed in range(4):
        hand = synthetic.render_hand(np.random.default_rng(seed), size_px=size_px)
        assert hand.image.shape == (size_px, size_px, 3)
        projected = hand.keypoints_3d_mm.astype(np.float64) @ hand.intrinsics.T
        np.testing.assert_allclose(projected[:, :2] / projected[:, 2:], hand.keypoints, atol=1e-2)
        assert hand.keypoints_3d_mm[:, 2].min() > 50.0


def test_box_is_tight(hands: list[Any]) -> None:
    hand = hands[0]
    np.testing.assert_array_equal(hand.box[:2], hand.keypoints.min(axis=0))
    np.testing.assert_array_equal(hand.box[2:], hand.keypoints.max(axis=0))
    assert hand.box.dtype == np.float32


def test_hands_fill_the_picture_and_stay_in_it(hands: list[Any]) -> None:
    fill = np.array([(hand.box[2:] - hand.box[:2]).max() / 160.0 for hand in hands])
    assert fill.min() >= 0.44 and fill.max() <= 0.91
    inside = [np.all((hand.keypoints >= 0.0) & (hand.keypoints <= 160.0)) for hand in hands]
    assert np.mean(inside) >= 0.8


def test_a_seed_gives_the_same_hand_and_another_seed_another() -> None:
    first, again, other = (synthetic.render_hand(np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.keypoints, again.keypoints)
    assert np.abs(first.keypoints - other.keypoints).max() > 5.0
    assert np.mean(first.image != other.image) > 0.5


def test_bones_have_human_lengths(hands: list[Any]) -> None:
    for hand in hands:
        joints = hand.keypoints_3d_mm
        assert 75.0 < np.linalg.norm(joints[_joint("middle_mcp")] - joints[0]) < 120.0
        for digit in synthetic.DIGITS[1:]:
            chain = joints[[_joint(f"{digit}_{joint}") for joint in ("mcp", "pip", "dip", "tip")]]
            proximal, middle, distal = np.linalg.norm(np.diff(chain, axis=0), axis=1)
            assert 22.0 < proximal < 58.0
            assert 13.0 < distal <= 1.25 * middle < 1.1 * proximal
        palm_width = np.linalg.norm(joints[_joint("index_mcp")] - joints[_joint("little_mcp")])
        assert 42.0 < palm_width < 82.0


def test_joints_stay_inside_their_limits(hands: list[Any]) -> None:
    for hand in hands:
        for digit in synthetic.DIGITS[1:]:
            pip = _bend_deg(hand.keypoints_3d_mm, digit, ("mcp", "pip", "dip"))
            dip = _bend_deg(hand.keypoints_3d_mm, digit, ("pip", "dip", "tip"))
            assert pip <= 105.1 and dip <= 80.1
            assert _bend_deg(hand.keypoints_3d_mm, digit, ("wrist", "mcp", "pip")) <= 115.0
        assert _bend_deg(hand.keypoints_3d_mm, "thumb", ("mcp", "ip", "tip")) <= 80.1


def test_poses_span_open_to_closed(hands: list[Any]) -> None:
    bends = [_bend_deg(hand.keypoints_3d_mm, "ring", ("mcp", "pip", "dip")) for hand in hands]
    assert min(bends) < 20.0 and max(bends) > 85.0


def test_fingers_bend_towards_the_palm_of_the_named_side() -> None:
    """The triple product of two metacarpals with a flexed finger changes sign with the side."""
    signs: dict[str, list[float]] = {"left": [], "right": []}
    for seed in range(24):
        hand = synthetic.render_hand(np.random.default_rng([9, seed]), size_px=48)
        joints = hand.keypoints_3d_mm.astype(np.float64)
        index, little = joints[_joint("index_mcp")] - joints[0], joints[_joint("little_mcp")] - joints[0]
        curl = joints[_joint("middle_tip")] - joints[_joint("middle_mcp")]
        flexed = _bend_deg(joints, "middle", ("mcp", "pip", "dip")) > 25.0
        if flexed:
            signs[hand.handedness].append(float(np.sign(np.cross(index, little) @ curl)))
    assert len(signs["left"]) >= 3 and len(signs["right"]) >= 3
    assert set(signs["left"]) == {-sign for sign in signs["right"]}
    assert len(set(signs["right"])) == 1


def test_mask_covers_the_keypoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "occlude", lambda rng, picture: (picture, np.zeros(picture.shape[:2], bool)))
    covered = []
    for seed in range(24):
        hand = synthetic.render_hand(np.random.default_rng([11, seed]))
        pixels = np.floor(hand.keypoints).astype(int)
        inside = np.all((pixels >= 0) & (pixels < 160), axis=1)
        covered.extend(hand.mask[pixels[inside, 1], pixels[inside, 0]])
    assert np.mean(covered) >= 0.97


def test_mask_has_no_cracks(hands: list[Any]) -> None:
    """Closing the mask fills the notches between fingers, a few per mille; missed rays multiply that."""
    kernel = np.ones((3, 3), np.uint8)
    closed = [cv2.morphologyEx(hand.mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel).sum() for hand in hands]
    assert np.mean([(c - hand.mask.sum()) / c for c, hand in zip(closed, hands, strict=True)]) <= 0.012


def test_given_background_shows_around_the_hand() -> None:
    ramp = np.broadcast_to(np.linspace(30, 220, 160).astype(np.uint8)[None, :, None], (160, 160, 3)).copy()
    around, within = [], []
    for seed in range(12):
        hand = synthetic.render_hand(np.random.default_rng([13, seed]), background=ramp)
        far = cv2.dilate(hand.mask.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
        expected = ramp[..., 0].astype(float)
        around.append(np.corrcoef(hand.image[far].mean(axis=1), expected[far])[0, 1])
        within.append(np.corrcoef(hand.image[hand.mask].mean(axis=1), expected[hand.mask])[0, 1])
    assert np.median(around) > 0.95
    assert np.median(np.abs(within)) < 0.7


def test_background_of_another_size_is_resized() -> None:
    hand = synthetic.render_hand(np.random.default_rng(1), size_px=64, background=np.zeros((20, 90, 3), np.uint8))
    assert hand.image.shape == (64, 64, 3)


@pytest.mark.parametrize("options", [{"size_px": 4}, {"background": np.zeros((8, 8), np.uint8)}])
def test_impossible_requests_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"size_px|background"):
        synthetic.render_hand(np.random.default_rng(0), **options)


def test_samples_are_reproducible_pairs() -> None:
    pairs = list(synthetic.samples(3, seed=2))
    longer = list(synthetic.samples(4, seed=2))
    assert len(pairs) == 3
    for (image, box), (same_image, same_box) in zip(pairs, longer[:3], strict=True):
        assert image.shape == (160, 160, 3) and image.dtype == np.uint8
        assert box.shape == (4,) and box.dtype == np.float32
        assert box[0] < box[2] and box[1] < box[3]
        np.testing.assert_array_equal(image, same_image)
        np.testing.assert_array_equal(box, same_box)
    assert np.any(pairs[0][0] != next(iter(synthetic.samples(1, seed=3)))[0])


def test_the_script_writes_a_sheet(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    command = [sys.executable, str(MODULE_PATH), "--sheet", str(sheet), "--count", "3", "--draw"]
    subprocess.run(command, check=True, timeout=60)
    assert cv2.imread(str(sheet)).shape == (160, 8 * 160, 3)


def _example(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(MODULE_PATH), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_script_writes_an_example_and_prints_nothing_but_its_box(tmp_path: Path) -> None:
    done = _example("--example", str(tmp_path / "hand.png"))
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d+\.\d,\d+\.\d,\d+\.\d,\d+\.\d\n", done.stdout)
    picture = cv2.imread(str(tmp_path / "hand.png"))
    hand = synthetic.render_hand(np.random.default_rng([synthetic.EXAMPLE_SEED, 0]), size_px=480)
    np.testing.assert_array_equal(picture[..., ::-1], hand.image)
    np.testing.assert_allclose([float(v) for v in done.stdout.split(",")], hand.box, atol=0.051)


def test_the_example_is_an_open_upright_hand_inside_the_picture() -> None:
    hand = synthetic.render_hand(np.random.default_rng([synthetic.EXAMPLE_SEED, 0]), size_px=480)
    assert hand.box.min() > 24.0 and hand.box.max() < 456.0
    for digit in synthetic.DIGITS[1:]:
        assert _bend_deg(hand.keypoints_3d_mm, digit, ("mcp", "pip", "dip")) < 25.0
        heights = hand.keypoints[[0, *(_joint(f"{digit}_{joint}") for joint in ("mcp", "pip", "dip", "tip"))], 1]
        assert np.all(np.diff(heights) < 0.0)
    pixels = np.floor(hand.keypoints).astype(int)
    assert np.all(hand.mask[pixels[:, 1], pixels[:, 0]])  # nothing lies in front of it


def test_example_takes_seed_and_size(tmp_path: Path) -> None:
    done = _example("--example", str(tmp_path / "hand.png"), "--seed", "2", "--size", "160")
    ((image, box),) = synthetic.samples(1, seed=2)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "hand.png"))[..., ::-1], image)
    np.testing.assert_allclose([float(v) for v in done.stdout.split(",")], box, atol=0.051)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--example", "no/such/folder/hand.png"], "cannot write"),
        (["--example", "hand.unknown"], "cannot write"),
        (["--example", "hand.png", "--count", "2"], "--count belongs to --sheet"),
        (["--sheet", "sheet.png", "--count", "0"], "--count has to be 1 or more"),
        ([], "--sheet --example"),
    ],
)
def test_the_script_refuses_what_it_cannot_do(arguments: list[str], reason: str) -> None:
    done = _example(*arguments)
    assert done.returncode == 2 and done.stdout == "" and reason in done.stderr


@pytest.mark.parametrize("bones", [((0, 9),), ((0, 5), (0, 9), (0, 13), (0, 17))])
def test_2d_and_depth_give_the_3d_back(hands: list[Any], bones: tuple[tuple[int, int], ...]) -> None:
    """The renderer's 2D keypoints, relative depth, camera and palm length are enough for its absolute 3D."""
    from splite_deploy.decoders import Depth
    from splite_deploy.runtime.lift import absolute

    how = Depth(root_keypoint=9, unit="palm", scale_bones=bones)
    compared = 0
    for hand in hands:
        points = hand.keypoints_3d_mm.astype(np.float64)
        projected = points @ hand.intrinsics.T
        keypoints = projected[:, :2] / projected[:, 2:]  # as exact as the camera; the labels are float32
        steps = np.array([points[a] - points[b] for a, b in bones])
        palm_mm = float(np.sqrt(np.square(steps).sum(axis=1).mean()))
        if np.abs(steps[:, 2]).max() > 0.8 * palm_mm:
            continue  # seen along the palm the distance is ill-conditioned: two answers lie close together
        depth = (points[:, 2] - points[9, 2]) / palm_mm
        found = absolute(keypoints, depth, how, hand.intrinsics, palm_mm)
        assert found is not None
        assert np.abs(found - points).max() < 0.1
        compared += 1
    assert compared > HANDS // 2
