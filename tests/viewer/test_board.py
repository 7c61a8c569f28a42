"""What a board keeps of a loop: the last frame alone, and times from which the page's figures come."""

from __future__ import annotations

import dataclasses
import gc
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy.runtime import PoseEstimator
from splite_deploy.viewer.board import LATEST, MOST_SIDE_PX, Board


@pytest.fixture
def estimator(tiny_bundle: Path) -> Iterator[PoseEstimator]:
    with PoseEstimator.open(tiny_bundle, "replay") as opened:
        yield opened


@pytest.fixture
def board(estimator: PoseEstimator) -> Board:
    return Board("a hand", "clip.mp4", estimator.spec.skeleton, {"": estimator})


def test_before_the_first_frame(board: Board) -> None:
    assert (board.newest, board.last(), board.figures()) == (-1, None, {})
    assert board.state(None) == {
        "run": board.run,
        "model": "a hand",
        "source": "clip.mp4",
        "frame": -1,
        "ended": None,
    }


def test_the_last_frame_alone_is_kept(board: Board, estimator: PoseEstimator) -> None:
    kept = []
    for level in range(5):
        frame = np.full((60, 80, 3), level, np.uint8)
        kept.append(weakref.ref(frame))
        board.show(frame, [estimator(frame)], True, time.perf_counter())
        del frame
    gc.collect()
    assert [one() is not None for one in kept] == [False] * 4 + [True]
    last = board.last()
    assert last is not None and board.newest == last.index == 4 and (last.frame == 4).all()


def test_the_figures_are_those_of_the_last_frames(
    board: Board, estimator: PoseEstimator, image: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame comes every 100 ms; its call begins after 1 ms, its stages take 2, 4 and 8 ms (every tenth time more)."""
    now_ms = 0.0
    steps: Iterator[float] = iter(())

    def clock() -> float:
        nonlocal now_ms
        now_ms += next(steps)
        return now_ms / 1000

    monkeypatch.setattr(time, "perf_counter", clock)
    for index in range(LATEST + 50):
        now_ms = 100.0 * index
        steps = iter((1, 2, 40 if index % 10 == 0 else 4, 8, 5))
        board.show(image, [estimator(image)], True, 100.0 * index / 1000)
    figures = board.figures()
    assert (figures["fps"], figures["frames"]) == (10.0, LATEST)
    assert figures["latency"] == {"mean_ms": 23.6, "p50_ms": 20.0, "p90_ms": pytest.approx(23.6)}
    assert figures["stages"] == [
        {"name": "preprocess", "mean_ms": 2.0, "p50_ms": 2.0, "p90_ms": 2.0},
        {"name": "inference", "mean_ms": 7.6, "p50_ms": 4.0, "p90_ms": pytest.approx(7.6)},
        {"name": "decode", "mean_ms": 8.0, "p50_ms": 8.0, "p90_ms": 8.0},
        {"name": "rest", "mean_ms": 6.0, "p50_ms": 6.0, "p90_ms": 6.0},
    ]
    assert figures["between"] == {"mean_ms": pytest.approx(76.4), "p50_ms": 80.0, "p90_ms": 80.0}


def test_one_frame_has_no_rate(board: Board, estimator: PoseEstimator, image: NDArray[np.uint8]) -> None:
    board.show(image, [estimator(image)], True, time.perf_counter())
    figures = board.figures()
    assert (figures["fps"], figures["frames"]) == (None, 1)
    assert figures["between"] == {"mean_ms": None, "p50_ms": None, "p90_ms": None}


def test_several_estimators_are_told_apart(tiny_bundle: Path, image: NDArray[np.uint8]) -> None:
    with PoseEstimator.open(tiny_bundle, "replay") as hand, PoseEstimator.open(tiny_bundle, "replay") as detector:
        board = Board("a", "b", hand.spec.skeleton, {"": hand, "detector": detector})
        poses = [hand(image)]
        board.show(image, poses, True, time.perf_counter())
        stages = {stage["name"]: stage["mean_ms"] for stage in board.figures()["stages"]}
    of_detector = ["detector: preprocess", "detector: inference", "detector: decode"]
    assert list(stages) == ["preprocess", "inference", "decode", *of_detector, "rest"]
    assert stages["preprocess"] > 0 and [stages[name] for name in of_detector] == [0, 0, 0]


def test_what_a_network_says_of_a_pose_is_shown(
    board: Board, estimator: PoseEstimator, image: NDArray[np.uint8]
) -> None:
    pose = estimator(image)
    bare = dataclasses.replace(pose, keypoints=np.zeros((0, 2), np.float32), scores=np.zeros(0, np.float32))
    board.show(
        image,
        [
            pose,
            dataclasses.replace(pose, presence=0.98765, handedness=0.25, id=7),
            dataclasses.replace(bare, box_score=0.5),
        ],
        True,
        time.perf_counter(),
    )
    state = board.state(board.last())
    score = round(float(pose.scores.mean()), 3)
    assert state["poses"] == [
        {"score": score},
        {"score": score, "id": 7, "presence": 0.988, "handedness": 0.25},
        {"box_score": 0.5},
    ]
    assert (state["frame"], state["width"], state["height"], state["found"]) == (0, 160, 120, True)
    assert 0 <= state["age_s"] < 60


def test_the_picture_has_what_was_found_and_not_what_was_lost(board: Board, estimator: PoseEstimator) -> None:
    grey = np.full((240, 320, 3), 128, np.uint8)
    spread = np.float32([[40, 40], [280, 40], [280, 200], [40, 200], [160, 120]])
    pose, pictures = dataclasses.replace(estimator(grey), keypoints=spread), []
    for found in (True, False):
        board.show(grey, [pose], found, time.perf_counter())
        last = board.last()
        assert last is not None
        picture = cv2.imdecode(np.frombuffer(board.picture(last), np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (480, 640, 3)  # enlarged, as `overlay` does
        pictures.append(np.abs(picture.astype(int) - 128).max(axis=2))
    drawn, plain = pictures
    assert plain.max() < 10
    assert all(drawn[2 * int(y), 2 * int(x)] > 60 for x, y in spread)


def test_a_large_picture_is_made_smaller(board: Board) -> None:
    board.show(np.zeros((900, 2560, 3), np.uint8), [], False, time.perf_counter())
    last = board.last()
    assert last is not None and board.state(last)["width"] == 2560
    picture = cv2.imdecode(np.frombuffer(board.picture(last), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (450, MOST_SIDE_PX, 3)


def test_the_first_reason_to_end_is_told(estimator: PoseEstimator) -> None:
    board = Board("a\x1b[2Jb", "c\u202ed", estimator.spec.skeleton, {})
    board.end("Camera 0 gave no more frames.\n")
    board.end("The video has ended.")
    state = board.state(None)
    assert state["ended"] == "Camera 0 gave no more frames.\\n"
    assert (state["model"], state["source"]) == ("a\\x1b[2Jb", "c\\u202ed")
