"""The camera loop on a video of a hand whose keypoints are known: `BoxTracker`, and `run` over it."""

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

from hand_video import AWAY, FRAMES, HEIGHT, WIDTH, Frame, moving_hand, write

from splite_deploy.errors import CameraError, UsageError
from splite_deploy.runtime import Pose, PoseEstimator
from splite_deploy.runtime.io.camera import Camera
from splite_deploy.runtime.preprocess import check_box
from splite_deploy.runtime.tracker import MIN_SIDE_PX, BoxTracker, next_box

START = (250, 60, 450, 290)
"""Roughly around the hand of the first frame."""


@pytest.fixture(scope="module")
def frames(root: Path) -> list[Frame]:
    return list(moving_hand(root))


@pytest.fixture(scope="module")
def clip(frames: list[Frame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(frames, tmp_path_factory.mktemp("video") / "hand.avi")


@pytest.fixture(scope="module")
def hand_bundle(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from splite_deploy.export import ExportOptions, export_bundle

    checkpoint = root / "models" / "splite_hand" / "splite_hand.safetensors"
    path = tmp_path_factory.mktemp("bundle") / "hand.splite"
    return export_bundle(checkpoint, path, options=ExportOptions(crops=2)).path


def error_pct(keypoints: Any, frame: Frame) -> float:
    """Mean error in percent of the longer side of the hand."""
    assert frame.keypoints is not None
    shift_px = np.linalg.norm(np.asarray(keypoints) - frame.keypoints, axis=1)
    return float(100 * shift_px.mean() / np.ptp(frame.keypoints, axis=0).max())


def test_a_hand_is_followed_lost_and_found_again(frames: list[Frame], hand_bundle: Path) -> None:
    with PoseEstimator.open(hand_bundle, threads=1) as estimator:
        track = BoxTracker(estimator, START)
        found, errors = [], {}
        for index, frame in enumerate(frames):
            pose = track(frame.image)
            found.append(track.found)
            if frame.keypoints is not None:
                errors[index] = error_pct(pose.keypoints, frame)
            else:
                assert track.box == START
        # without following, the start box loses the hand as it moves
        still = [error_pct(estimator(frames[i].image, START).keypoints, frames[i]) for i in range(20, 40)]
    assert all(found[: AWAY.start])
    assert not any(found[AWAY.start : AWAY.stop])
    assert all(found[AWAY.stop + 5 :])
    settled = [errors[i] for i in range(3, AWAY.start)] + [errors[i] for i in range(AWAY.stop + 5, FRAMES)]
    assert max(settled) < 5
    assert np.median(still) > 20


def pose_of(points: Any, score: float = 0.9) -> Pose:
    keypoints = np.array(points, np.float32)
    return Pose(keypoints, np.full(len(keypoints), score, np.float32), np.zeros(4, np.float32), None, None)


@pytest.mark.parametrize("margin", [0.0, -0.4])
@pytest.mark.parametrize("points", [[[50, 20], [50, 60]], [[20, 60], [90, 60]]])
def test_keypoints_on_a_line_leave_a_box_to_look_into(points: list[list[float]], margin: float) -> None:
    """Of a box without width every later call failed, also on frames that are right again."""
    pose = pose_of(points)
    box = next_box(pose, 480, 640, margin=margin, min_score=0.3)
    assert box is not None and check_box(box, 480, 640).tolist() == box.tolist()
    assert ((box[:2] + box[2:]) / 2).tolist() == pose.keypoints.mean(axis=0).tolist() and min(box[2:] - box[:2]) == 1
    turned = next_box(pose, 480, 640, margin=margin, min_score=0.3, turn=(0, 1))
    assert turned is not None and check_box(turned, 480, 640).shape == (5,)


def test_the_next_box_is_the_tight_box_with_its_margin() -> None:
    box = next_box(pose_of([[10, 20], [110, 60]]), 480, 640, margin=0.1, min_score=0.3)
    np.testing.assert_allclose(box, [0, 10, 120, 70])


@pytest.mark.parametrize(
    "pose",
    [
        pose_of([[10, 20], [110, 60]], score=0.29),
        pose_of([[10, 20], [110, 60]], score=float("nan")),
        pose_of([[50, 50], [50 + MIN_SIDE_PX / 2, 50]]),
        pose_of([[-200, 20], [110, 60]]),
        pose_of([[600, 20], [700, 60]]),
        pose_of([[10, 400], [110, 600]]),
    ],
    ids=["low score", "no score", "a point", "left", "right", "below"],
)
def test_what_counts_as_lost(pose: Pose) -> None:
    assert next_box(pose, 480, 640, margin=0.1, min_score=0.3) is None


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_run_takes_a_video(
    frames: list[Frame], clip: Path, hand_bundle: Path, tmp_path: Path, splite: Callable[..., Result]
) -> None:
    records_file, picture = tmp_path / "hand.jsonl", tmp_path / "new" / "overlay.mp4"
    box = ",".join(map(str, START))
    done = splite("run", hand_bundle, clip, "--box", box, "--threads", 1, "--json", records_file, "--save", picture)
    assert done.exit_code == 0, done.output
    assert f"keypoints: {records_file}" in done.stderr and f"video: {picture}" in done.stderr
    records = lines(records_file.read_text())
    assert [record["frame"] for record in records] == list(range(FRAMES))
    assert {(r["video"], r["width"], r["height"]) for r in records} == {("hand.avi", WIDTH, HEIGHT)}
    assert records[30]["time_s"] == 1.0
    assert [r["found"] for r in records][AWAY.start - 1 : AWAY.stop] == [True] + [False] * len(AWAY)
    assert error_pct(records[30]["poses"][0]["keypoints"], frames[30]) < 5

    capture = cv2.VideoCapture(str(picture))
    drawn = [capture.read()[1] for _ in range(FRAMES)]
    assert not capture.read()[0]
    # the skeleton is drawn where there is a hand, and nothing where there is none
    assert np.abs(drawn[30].astype(int) - frames[30].image).max() > 100
    assert np.abs(drawn[85].astype(int) - frames[85].image).max() < 20


def test_run_prints_a_line_for_each_frame(clip: Path, tiny_bundle: Path, splite: Callable[..., Result]) -> None:
    done = splite("run", tiny_bundle, clip)
    assert done.exit_code == 0, done.output
    records = lines(done.stdout)
    assert len(records) == FRAMES
    assert set(records[0]) == {"video", "frame", "time_s", "width", "height", "found", "poses"}


def test_wrong_options_leave_nothing(
    clip: Path, tiny_bundle: Path, tmp_path: Path, splite: Callable[..., Result]
) -> None:
    for status, options, message in (
        (2, ("--save", tmp_path / "a.png"), "a.png has no video suffix."),
        (2, ("--box", "0,0,9,9", "--box", "5,5,20,20"), "followed from one box, and --box was given 2 times."),
        (1, ("--box", "900,0,910,10", "--save", tmp_path / "a.avi"), "lies outside the"),
        (1, ("--json", tmp_path / "none" / "a.jsonl"), "No such file or directory"),
    ):
        done = splite("run", tiny_bundle, clip, *options)
        assert (done.exit_code, message in done.stderr) == (status, True), done.output
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("end", [KeyboardInterrupt(), CameraError("0 gave no more frames.", hint="Check the cable.")])
def test_what_a_camera_gave_is_kept_when_it_ends(
    end: BaseException, clip: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the camera's place, ended by Ctrl-C or by a loose cable."""
    from splite_deploy.cli import run_video as video

    class Ending(Camera):
        def __iter__(self) -> Any:
            for index, frame in enumerate(super().__iter__()):
                if index == 5:
                    raise end
                yield frame

    monkeypatch.setattr(video, "open_camera", lambda source: Ending(cv2.VideoCapture(str(clip)), source))
    records_file, picture = tmp_path / "a.jsonl", tmp_path / "a.avi"
    with PoseEstimator.open(tiny_bundle) as estimator:
        if isinstance(end, KeyboardInterrupt):
            video.run_video(estimator, "0", None, {}, records_file, picture)
        else:
            with pytest.raises(CameraError, match="gave no more frames"):
                video.run_video(estimator, "0", None, {}, records_file, picture)
    records = lines(records_file.read_text())
    assert len(records) == 5
    assert records[0]["time_s"] == 0 < records[1]["time_s"]
    assert cv2.VideoCapture(str(picture)).get(cv2.CAP_PROP_FRAME_COUNT) == 5


def test_ctrl_c_in_a_file_leaves_nothing(
    clip: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splite_deploy.cli import run_video as video

    monkeypatch.setattr(BoxTracker, "__call__", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with PoseEstimator.open(tiny_bundle) as estimator, pytest.raises(KeyboardInterrupt):
        video.run_video(estimator, str(clip), None, {}, tmp_path / "a.jsonl", tmp_path / "a.avi")
    assert list(tmp_path.iterdir()) == []


def test_a_start_box_outside_the_frame(clip: Path, tiny_bundle: Path, image: Any) -> None:
    with PoseEstimator.open(tiny_bundle) as estimator, pytest.raises(UsageError, match="lies outside the 160 x 120"):
        BoxTracker(estimator, (900, 0, 910, 10))(image)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_fails_and_a_device_is_not_replaced(
    clip: Path, tiny_bundle: Path, splite: Callable[..., Result]
) -> None:
    done = splite("run", tiny_bundle, clip, "--json", "/dev/full")
    assert (done.exit_code, "Cannot write /dev/full: No space left on device." in done.stderr) == (1, True), done.output
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize(("margin", "min_score"), [(float("nan"), 0.3), (float("inf"), 0.3), (0.05, float("nan"))])
def test_a_margin_or_score_that_is_no_number(margin: float, min_score: float) -> None:
    with pytest.raises(UsageError, match="is no sensible number") as caught:
        BoxTracker(None, margin=margin, min_score=min_score)  # type: ignore[arg-type]
    assert caught.value.hint


def test_keypoints_that_are_far_apart_are_no_person() -> None:
    far = np.array([[-1e7, 0], [1e7, 40]], np.float32)
    pose = Pose(far, np.ones(2, np.float32), np.zeros(4, np.float32), None, None, None)
    assert next_box(pose, 480, 640, margin=0.1, min_score=0.3) is None
