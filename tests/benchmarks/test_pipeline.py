"""Composed clips, whose truth has to lie where the hands are, and the judge of pipelines, with known finders."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from composed_clips import (
    AWAY,
    FRAMES,
    HANDS,
    HEIGHT_PX,
    KINDS,
    RATE_HZ,
    WIDTH_PX,
    Clip,
    Frame,
    Kind,
    Points,
    compose,
    cut_of,
    place_of,
    room_of,
)
from pipeline import Score, Solution, matches, race, share_inside, smoothed

from splite_deploy import OneEuro, Pose
from splite_deploy.errors import MissingDependencyError, UsageError
from splite_deploy.metrics.labels import LabelledImage

FINGERS = 5
RED = (20, 20, 240)


def flat_hand(angle_deg: float = 0.0, middle: tuple[float, float] = (200.0, 150.0)) -> Points:
    """21 keypoints of an open hand of 100 pixels, fingers up."""
    points = [[0.0, 50.0]]
    for finger in range(FINGERS):
        lean = math.radians(30 * (finger - 2))
        points += [[(25 + 19 * joint) * math.sin(lean), 50 - (25 + 25 * joint) * math.cos(lean)] for joint in range(4)]
    turn = math.radians(angle_deg)
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return np.array(points) @ matrix.T + middle


def photograph(keypoints: Points) -> Any:
    """(300, 400, 3) BGR: grey, with a skin-coloured hand, and a red dot at the tip of the middle finger."""
    image = np.full((300, 400, 3), 120, np.uint8)
    for finger in range(FINGERS):
        chain = np.round(keypoints[[0, *range(1 + 4 * finger, 5 + 4 * finger)]] * 16).astype(np.int32)
        cv2.polylines(image, [chain], False, (140, 170, 210), 9, cv2.LINE_AA, 4)
    cv2.circle(image, tuple(np.round((keypoints[12] - 0.5) * 16).astype(int).tolist()), 4 * 16, RED, -1, cv2.LINE_AA, 4)
    return image


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of hands-varied, with eight photographs."""
    folder = tmp_path_factory.mktemp("varied")
    samples, scenes = [], []
    for index in range(8):
        points = flat_hand(20 * index - 70, (260.0, 150.0))
        cv2.imwrite(str(folder / f"{index}.png"), photograph(points))
        split = "val" if index else "train"
        samples.append({"image": f"{index}.png", "split": split, "keypoints": points.tolist()})
        scenes.append({"image": f"{index}.png", "split": split, "hands": [{"keypoints": points.tolist()}]})
    (folder / "labels.json").write_text(json.dumps({"samples": samples}), encoding="utf-8")
    (folder / "scenes.json").write_text(json.dumps({"scenes": scenes}), encoding="utf-8")
    return folder


def red(image: Any) -> list[Points]:
    """Where red dots are."""
    hue = image[..., 2].astype(float) - image[..., :2].max(axis=-1)
    _, labels, stats, centres = cv2.connectedComponentsWithStats((hue > 90).astype(np.uint8))
    assert labels.shape == image.shape[:2]
    return [centre + 0.5 for centre, stat in zip(centres[1:], stats[1:], strict=True) if stat[cv2.CC_STAT_AREA] > 3]


@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_lies_where_the_hands_are(data: Path, kind: Kind) -> None:
    first, second = compose(data, kind, 2)
    assert {cut.name for cut in first.cuts} != {cut.name for cut in second.cuts} and "0.png" not in {
        cut.name for clip in (first, second) for cut in clip.cuts
    }, "of the other split"
    checked = 0
    for frame in list(first.frames(60))[::9]:
        assert frame.image.shape == (HEIGHT_PX, WIDTH_PX, 3) and len(frame.hands) == HANDS[kind]
        dots = red(frame.image)
        for points in frame.hands.values():
            inside = (points[12] > 8).all() and (points[12] < (WIDTH_PX - 8, HEIGHT_PX - 8)).all()
            if inside and not (kind == "crossing" and _covered(frame)):
                checked += 1
                assert min(float(np.linalg.norm(dot - points[12])) for dot in dots) < 1.0
    assert checked >= 5


def _covered(frame: Frame) -> bool:
    one, other = frame.hands.values()
    return float(np.linalg.norm(one.mean(axis=0) - other.mean(axis=0))) < 300


def test_the_same_arguments_give_the_same_clip(data: Path) -> None:
    one, other = (next(compose(data, "four", 1)) for _ in range(2))
    for first, second in zip(one.frames(5), other.frames(5), strict=True):
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(list(first.hands.values()), list(second.hands.values()))
    images = [frame.image for frame in next(compose(data, "still", 1)).frames(2)]
    assert 0.5 < (images[0].astype(int) - images[1]).std() < 6, "a camera's noise, and nothing else"


def test_paths_keep_apart_and_one_leaves(data: Path) -> None:
    phase = np.random.default_rng(0).uniform(0, 7, (4, 4))
    for kind in ("one", "two", "four"):
        for index in range(FRAMES):
            places = [place_of(kind, number, index, phase[number]) for number in range(HANDS[kind])]
            for number, one in enumerate(places):
                assert one.size_px / 2 < one.x < WIDTH_PX - one.size_px / 2
                for other in places[:number]:
                    assert math.hypot(one.x - other.x, one.y - other.y) > 0.9 * max(one.size_px, other.size_px)
    clip = next(compose(data, "leaving", 1))
    inside = [share_inside(frame.hands[1]) for frame in clip.frames()]
    assert inside[0] == inside[-1] == 1 and {inside[index] for index in AWAY} == {0.0}
    assert all(share_inside(frame.hands[0]) == 1 for frame in clip.frames(3))


def test_hands_that_cannot_be_cut_and_rooms_that_are_small_are_passed_over() -> None:
    points = flat_hand()
    image, box = photograph(points), np.array([0.0, 0, 1, 1])
    assert cut_of(LabelledImage(Path("a"), points, box, None), image) is not None
    for wrong in (0.5 * points, points + np.array([150, 0]), points - np.array([0, 95])):
        assert cut_of(LabelledImage(Path("a"), wrong, box, None), image) is None
    right = flat_hand(0, (320.0, 150.0))
    room = room_of(photograph(right), [right])
    assert room is not None and room.shape == (HEIGHT_PX, WIDTH_PX, 3) and (room == 120).all()
    assert room_of(image, [points, flat_hand(0, (100.0, 150.0)), flat_hand(0, (330.0, 150.0))]) is None


def test_data_that_is_missing_is_told(data: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_bytes((data / "labels.json").read_bytes())
    for index in range(8):
        (tmp_path / f"{index}.png").write_bytes((data / f"{index}.png").read_bytes())
    with pytest.raises(UsageError, match=r"scenes\.json cannot be read") as caught:
        next(compose(tmp_path, "one", 1))
    assert "--data" in caught.value.hint


# --- the judge ---


def pose(points: Points, number: int) -> Pose:
    box = np.concatenate([points.min(axis=0), points.max(axis=0)]).astype(np.float32)
    return Pose(points.astype(np.float32), np.ones(21, np.float32), box, id=number)


def moving(count: int = 60, speed: float = 2.0) -> list[Frame]:
    """Two hands without a picture, one of which moves to the right."""
    nothing = np.zeros((1, 1, 3), np.uint8)
    still, base = flat_hand(0, (120.0, 300.0)), flat_hand(0, (200.0, 120.0))
    return [
        Frame(nothing, {0: base + np.array([speed * index, 0]), 1: still}, index / RATE_HZ) for index in range(count)
    ]


def judged(frames: Sequence[Frame], poses: Sequence[Sequence[Pose]], kind: Kind = "two") -> dict[str, Any]:
    score = Score()
    score.add(kind, frames, poses)
    return score.summary()


def test_what_is_found_where_it_is() -> None:
    frames = moving()
    shifted = [[pose(one + np.array([5.0, 0]), number) for number, one in frame.hands.items()] for frame in frames]
    found = judged(frames, shifted)
    size = float(np.ptp(flat_hand(), axis=0).max())
    assert (found["shown"], found["found_pct"], found["close_pct"]) == (120, 100, 100)
    assert (found["switches"], found["left"], found["wrong_per_100_frames"]) == (0, 0, 0)
    assert found["error_box_pct"] == pytest.approx(500 / size, rel=1e-4)
    assert found["shake_px"] == pytest.approx(0, abs=1e-4)


def test_what_is_not_found_is_far_or_belongs_to_nobody_is_counted() -> None:
    frames = moving(40)
    poses = []
    for index, frame in enumerate(frames):
        far = pose(frame.hands[1] + np.array([22.0, 0]), 2)  # found, and not well
        poses.append([far] if index % 2 else [far, pose(frame.hands[0] + np.array([0, 200.0]), 9)])
    found = judged(frames, poses)
    assert (found["found_pct"], found["close_pct"], found["wrong_per_100_frames"]) == (50, 0, 50)


def test_ids_that_change_are_counted() -> None:
    frames = moving(40)
    poses = []
    for index, frame in enumerate(frames):
        ids = (0, 1) if index < 10 else (1, 0) if index < 20 else (1, 5)
        poses.append([] if index == 15 else [pose(frame.hands[hand], ids[hand]) for hand in (0, 1)])
    assert judged(frames, poses)["switches"] == 2 + 1


def test_a_hand_that_leaves_is_lost_after_so_many_frames_and_may_have_its_id_again() -> None:
    nothing, middle = np.zeros((1, 1, 3), np.uint8), flat_hand(0, (300.0, 200.0))
    out = middle + np.array([2000.0, 0])
    frames = [Frame(nothing, {0: out if 20 <= index < 40 else middle}, index / RATE_HZ) for index in range(60)]
    poses = [[pose(middle, 3)] if index < 23 or index >= 42 else [] for index in range(60)]
    found = judged(frames, poses, "leaving")
    assert (found["left"], found["lose_frames_most"], found["id_again"], found["switches"]) == (1, 3, 1, 0)
    assert found["shown"] == 40 and found["found_pct"] == pytest.approx(100 * 38 / 40)
    renamed = [[replace(one, id=4) for one in each] if index >= 42 else each for index, each in enumerate(poses)]
    assert judged(frames, renamed, "leaving")["id_again"] == 0 and judged(frames, renamed, "leaving")["switches"] == 0


def test_trembling_and_lag_are_measured() -> None:
    rng, frames = np.random.default_rng(0), moving(200, speed=0.0)
    rough = [[pose(frame.hands[0] + rng.normal(0, 2.0, (21, 2)), 1)] for frame in frames]
    still = judged(frames, rough, "still")
    assert still["still_px"] == pytest.approx(2.0, rel=0.05)
    calm = judged(frames, smoothed(frames, rough, OneEuro(min_cutoff_hz=0.5, beta=0.0)), "still")
    assert calm["still_px"] < 0.5 * still["still_px"]
    walking = moving(60, speed=4.0)
    late = [[pose(walking[max(index - 3, 0)].hands[0], 1)] for index in range(60)]
    assert judged(walking, late)["behind_ms"] == pytest.approx(100, abs=0.5)
    shaken = [[pose(frame.hands[0] + rng.normal(0, 2.0, (21, 2)), 1)] for frame in walking]
    assert judged(walking, shaken)["shake_px"] == pytest.approx(2 * math.sqrt(6) * math.sqrt(math.pi / 2), rel=0.05)


class Known:
    """Finds the hands of the clip that it is shown, moved by some pixels."""

    def __init__(self, shift_px: float) -> None:
        self.shift_px, self.clips, self.frames = shift_px, 0, iter(())

    def start(self, most: int) -> None:
        self.clips += 1

    def see(self, frame: Any) -> object:
        return frame

    def __call__(self, frame: Any, time_s: float) -> object:
        return red(frame)

    def hands(self, found: Any) -> list[Pose]:
        return [pose(flat_hand(0, (dot[0] + self.shift_px, dot[1] + 50.0)), index) for index, dot in enumerate(found)]

    def stages(self) -> dict[str, float]:
        return {"detect": 0.0 if self.clips % 2 else 1.0, "estimate": 0.5}


def test_all_are_shown_all_clips(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = Clip.frames
    monkeypatch.setattr(Clip, "frames", lambda self, count=6: frames(self, count))
    racers, said = {"a": Known(0), "b": Known(8)}, list[str]()
    clips = (clip for kind in ("one", "two") for clip in compose(data, kind, 2))
    record = race(racers, clips, said.append)
    assert record["clips"] == {"one": 2, "two": 2} and said[-1] == "two, clip 2"
    assert [racer.clips for racer in racers.values()] == [4, 4]
    for name in racers:
        assert record["found"][name]["two"]["shown"] == 24
        times = record["latency"][name]["one"]
        assert times["count"] == 12 and times["following"]["count"] == 6 == times["detecting"]["count"]
        assert 0 < times["minimum_ms"] <= times["p50_ms"] <= times["p99_ms"]
        assert times["estimate_stage"]["p50_ms"] == 0.5 and times["detect_stage"]["count"] == 6
    json.dumps(record)


def test_the_nearest_pose_is_that_of_a_hand() -> None:
    frame = moving(1)[0]
    near, nearer = pose(frame.hands[0] + 9.0, 1), pose(frame.hands[0] + 2.0, 2)
    assert {number: one.id for number, one in matches(frame, [near, nearer]).items()} == {0: 2}
    assert matches(frame, []) == {}


def test_without_mediapipe_it_says_what_to_install() -> None:
    try:
        import mediapipe  # noqa: F401
    except ImportError:
        with pytest.raises(MissingDependencyError, match="mediapipe cannot be imported"):
            Solution(0)
    else:
        pytest.skip("mediapipe is installed")
