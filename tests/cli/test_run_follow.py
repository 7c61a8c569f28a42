"""The command run on whole frames: a detector, several hands with ids, calm keypoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import Result

pytest.importorskip("torch")
pytest.importorskip("onnx")

import box_detector
import hand_video
import marked_hands as world
from hand_video import AWAY, FRAMES, HEIGHT, WIDTH, Frame, moving_hand

from splite_deploy import PoseEstimator
from splite_deploy.cli.run_follow import follower
from splite_deploy.cli.run_video import FOLLOWING
from splite_deploy.errors import UsageError

LATER = 45
"""By so many frames the hand on the right is behind that on the left."""
Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def frames(root: Path) -> list[tuple[Frame, Frame]]:
    """A hand in the left half and one in the right half."""
    made = list(moving_hand(root))
    return [(made[index], made[(index + LATER) % FRAMES]) for index in range(0, FRAMES, 3)]


@pytest.fixture(scope="module")
def clip(frames: list[tuple[Frame, Frame]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "hands.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (2 * WIDTH, HEIGHT))
    for left, right in frames:
        writer.write(np.hstack([left.image, right.image]))
    writer.release()
    return path


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return box_detector.write(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def bundle(root: Path, made_once: Callable[..., Path]) -> Path:
    from splite_deploy.export import ExportOptions, export_bundle

    def fill(folder: Path) -> None:
        checkpoint = root / "models" / "splite_hand" / "splite_hand.safetensors"
        export_bundle(checkpoint, folder / "hand.splite", options=ExportOptions(crops=2, dynamic_batch=True))

    return made_once("hand-batch", fill) / "hand.splite"


def records(done: Result) -> list[dict[str, Any]]:
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def error_pct(pose: dict[str, Any], shown: Frame, left_px: int) -> float:
    """Mean error in percent of the longer side of a hand that begins so far to the right."""
    assert shown.keypoints is not None
    truth = shown.keypoints + np.array([left_px, 0])
    return float(100 * np.linalg.norm(pose["keypoints"] - truth, axis=1).mean() / np.ptp(truth, axis=0).max())


def side(pose: dict[str, Any]) -> int:
    """0 of a pose in the left half, 1 of one in the right half."""
    return int(np.mean(pose["keypoints"], axis=0)[0] > WIDTH)


def test_two_hands_are_followed_through_a_video(
    frames: list[tuple[Frame, Frame]],
    clip: Path,
    bundle: Path,
    detector: Path,
    tmp_path: Path,
    splite: Callable[..., Result],
) -> None:
    shown = tmp_path / "overlay.avi"
    done = splite("run", bundle, clip, "--detector", detector, "--max-hands", 4, "--threads", 1, "--save", shown)
    lines, whose = records(done), [set[int](), set[int]()]
    assert len(lines) == len(frames)
    missing, errors = 0, []
    for line, pair in zip(lines, frames, strict=True):
        found = {side(pose): pose for pose in line["poses"]}
        assert len(found) == len(line["poses"]) and line["found"] == bool(found)
        for half, one in enumerate(pair):
            if one.keypoints is None:
                assert half not in found
            elif half in found:
                errors.append(error_pct(found[half], one, half * WIDTH))
                whose[half].add(found[half]["id"])
            else:
                missing += 1
    assert missing <= 4 and np.median(errors) < 2 and np.mean(np.array(errors) < 8) > 0.97
    assert whose[0].isdisjoint(whose[1]) and len(whose[0]) <= 2 and len(whose[1]) <= 2
    capture = cv2.VideoCapture(str(shown))
    drawn = [capture.read()[1] for _ in frames]
    plain = [np.hstack([left.image, right.image]).astype(int) for left, right in frames]
    for half in (0, 1):  # skeletons in either half, and nothing where a hand is away
        columns = np.s_[:, half * WIDTH : (half + 1) * WIDTH]
        changed = [np.abs(one[columns] - two[columns]).max() for one, two in zip(drawn, plain, strict=True)]
        away = [pair[half].keypoints is None for pair in frames]
        assert min(c for c, gone in zip(changed, away, strict=True) if not gone) > 60 or missing
        assert max(c for c, gone in zip(changed, away, strict=True) if gone) < 30


def test_options_of_following(
    clip: Path, bundle: Path, detector: Path, splite: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, detect = [], PoseEstimator.detect

    def counted(self: PoseEstimator, *arguments: Any) -> Any:
        looks.append(self.spec.name)
        return detect(self, *arguments)

    monkeypatch.setattr(PoseEstimator, "detect", counted)
    alone = records(splite("run", bundle, clip, "--detector", detector, "--max-hands", 1))
    assert all(len(line["poses"]) <= 1 for line in alone)
    few = len(looks)
    often = records(splite("run", bundle, clip, "--detector", detector, "--detect-every", 1))
    assert len(looks) - few == len(often) > few
    calm = records(splite("run", bundle, clip, "--detector", detector, "--detect-every", 1, "--smooth"))
    assert [len(line["poses"]) for line in calm] == [len(line["poses"]) for line in often]
    moved = [
        np.abs(np.subtract(one["keypoints"], other["keypoints"])).max()
        for first, second in zip(calm, often, strict=True)
        for one, other in zip(first["poses"], second["poses"], strict=True)
    ]
    assert 0.5 < np.median(moved) < 10 and moved[0] == 0


def test_who_is_followed_from_a_box_has_an_id_too(clip: Path, bundle: Path, splite: Callable[..., Result]) -> None:
    rough, calm = (
        records(splite("run", bundle, clip, "--box", "250,60,450,290", *more)) for more in ((), ("--smooth",))
    )
    assert [line["found"] for line in rough] == [line["found"] for line in calm]
    before = False
    for line, smooth in zip(rough, calm, strict=True):
        assert ("id" in line["poses"][0]) == line["found"]
        assert (smooth["poses"] == line["poses"]) == (not line["found"] or not before)
        before = line["found"]


def test_a_network_that_finds_boxes_gives_ids(clip: Path, detector: Path, splite: Callable[..., Result]) -> None:
    lines = records(splite("run", detector, clip))
    sides = [{side(pose): pose["id"] for pose in line["poses"]} for line in lines]
    assert {one.get(0) for one in sides} == {1, None} and {one.get(1) for one in sides} == {2, None}
    assert all(len(line["poses"]) == 1 for line in records(splite("run", detector, clip, "--max-hands", 1)))
    assert len(records(splite("run", detector, clip, "--smooth"))) == len(lines)


@pytest.mark.parametrize("finds_people", [True, False])
def test_frames_of_another_size_forget_everybody(finds_people: bool) -> None:
    network = PoseEstimator(world.estimator_spec(turned=False), world.Estimator(), "rgb")
    if finds_people:
        network = PoseEstimator(world.detector_spec(), world.Detector(), "rgb")
    follow = follower(network, None if finds_people else (120, 80, 200, 160), {}, FOLLOWING)
    ids = []
    for height in (240, 240, 300, 300, 240):
        poses, found = follow(world.picture([world.hand(160, 120)], height), 0.1 * len(ids))
        assert found
        ids.append([pose.id for pose in poses])
    assert ids == [[1], [1], [2], [2], [3]]


def test_boxes_alone_are_not_calmed_without_a_word() -> None:
    network = PoseEstimator(world.detector_spec(()), world.Detector(()), "rgb")
    with pytest.raises(UsageError, match="finds boxes alone, and --smooth was given") as caught:
        replace(FOLLOWING, smooth=True).network(network, None, None, None, ())
    assert "Leave out --smooth" in caught.value.hint


def test_pictures_need_no_box(
    frames: list[tuple[Frame, Frame]], bundle: Path, detector: Path, tmp_path: Path, splite: Callable[..., Result]
) -> None:
    pair = next(pair for pair in frames if all(one.keypoints is not None for one in pair))
    folder = tmp_path / "in"
    folder.mkdir()
    cv2.imwrite(str(folder / "two.png"), np.hstack([one.image for one in pair]))
    cv2.imwrite(str(folder / "wall.png"), np.full((HEIGHT, WIDTH, 3), 150, np.uint8))
    done = splite("run", bundle, folder, "--detector", detector, "--save", tmp_path / "out")
    assert done.exit_code == 0, done.output
    two, wall = json.loads(done.stdout)
    assert wall["poses"] == [] and {side(pose) for pose in two["poses"]} == {0, 1}
    assert all(pose["box_score"] == 0.9 and "id" not in pose for pose in two["poses"])
    for pose in two["poses"]:
        assert error_pct(pose, pair[side(pose)], side(pose) * WIDTH) < 8
    assert (tmp_path / "out" / "two.png").exists()
    one = splite("run", bundle, folder / "two.png", "--detector", detector, "--max-hands", 1)
    assert len(json.loads(one.stdout)["poses"]) == 1
    labels = {"samples": [{"image": "two.png", "box": [0, 0, 5, 5]}, {"image": "two.png", "box": [9, 9, 20, 20]}]}
    (folder / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    coco = splite("run", bundle, folder / "labels.json", "--detector", detector, "--format", "coco")
    assert coco.exit_code == 0, coco.output
    found = json.loads(coco.stdout)
    assert len(found["images"]) == 1 and len(found["annotations"]) == 2
    assert all(0.5 < one["score"] < 0.9 for one in found["annotations"]), "times that of the keypoints"


@pytest.mark.parametrize(
    ("status", "words", "said", "hint"),
    [
        (2, ("{clip}", "--detector", "{detector}", "--box", "0,0,9,9"), "--box was given", "Leave out --box."),
        (2, ("{clip}", "--detect-every", "3"), "--detect-every is for a detector", "Name one with --detector"),
        (
            2,
            ("x.png", "--detector", "{detector}", "--detect-every", "3"),
            "is for a video or a camera",
            "--detect-every",
        ),
        (2, ("x.png", "--smooth"), "--smooth is for a video or a camera", "Leave out --smooth."),
        (2, ("{clip}", "--max-hands", "0"), "0 is not in the range", ""),
        (1, ("{clip}", "--max-hands", "2"), "finds one hand or person in each box, and --max", "--detector"),
        (1, ("{clip}", "--detector", "{bundle}"), "The detector 'splite-hand' finds one hand", "single-stage network"),
        (1, ("{clip}", "--detector", "{clip}.none"), "hands.avi.none", ""),
        (1, ("{clip}", "--detector", "{clip}.none.onnx"), "There is no file", "Name a bundle"),
    ],
)
def test_what_does_not_go_together_is_told(
    status: int,
    words: tuple[str, ...],
    said: str,
    hint: str,
    clip: Path,
    bundle: Path,
    detector: Path,
    splite: Callable[..., Result],
) -> None:
    places = {"clip": clip, "bundle": bundle, "detector": detector}
    done = splite("run", bundle, *(word.format(**places) for word in words))
    assert done.exit_code == status and said in done.stderr and hint in done.stderr, done.output


def test_a_result_never_replaces_the_detector(
    clip: Path, bundle: Path, detector: Path, splite: Callable[..., Result]
) -> None:
    before = detector.read_bytes()
    done = splite("run", bundle, clip, "--detector", detector, "--json", detector)
    assert done.exit_code != 0 and "--detector" in done.stderr, done.output
    assert detector.read_bytes() == before
    beside = detector.parent / "model.toml"
    done = splite("run", bundle, clip, "--detector", detector, "--json", beside)
    assert done.exit_code != 0 and beside.read_text(encoding="utf-8").startswith("name"), done.output


def test_the_halves_are_what_they_are_said_to_be(detector: Path) -> None:
    """The detector of these tests itself."""
    image = np.full((120, 240, 3), box_detector.WALL, np.uint8)
    image[30:60, 20:80], image[50:90, 150:200] = 0, 255
    with PoseEstimator.open_file(detector) as network:
        boxes = sorted(pose.box.tolist() for pose in network.detect(image))
        np.testing.assert_allclose(boxes, [[20, 30, 80, 60], [150, 50, 200, 90]], atol=2)
        assert network.detect(np.full((90, 90, 3), box_detector.WALL, np.uint8)) == []
    assert AWAY.start < FRAMES and hand_video.WIDTH == WIDTH
