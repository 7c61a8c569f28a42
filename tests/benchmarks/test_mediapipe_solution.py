"""The race of trackers beside MediaPipe's solution: with trackers whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mediapipe_solution import (
    BLANKS,
    GREY,
    HEIGHT_PX,
    SETTLE,
    TIMED,
    WIDTH_PX,
    Clip,
    Hand,
    MediaPipe,
    Points,
    clip_of,
    follow,
    record_of,
)

from splite_deploy.errors import MissingDependencyError
from splite_deploy.metrics.labels import LabelledImage
from splite_deploy.runtime.preprocess import Image


class Known:
    """Finds the hand of the clip it is shown, moved by so many pixels, but for some clips."""

    def __init__(self, clips: list[Clip], shift_px: float, lost: set[int]) -> None:
        self.clips, self.shift_px, self.lost = clips, shift_px, lost
        self.frames: list[Image] = []
        self.boxes: list[Points] = []

    def start(self, box: Points) -> None:
        self.boxes.append(box)

    def __call__(self, frame: Image) -> object:
        self.frames.append(frame)
        return next((i for i, clip in enumerate(self.clips) if clip.frame is frame), None)

    def hand(self, found: object) -> Hand | None:
        if not isinstance(found, int) or found in self.lost:
            return None
        clip = self.clips[found]
        return Hand(clip.keypoints + np.array([self.shift_px, 0]), 2.0 * clip.world_mm + 5)


def label(index: int) -> LabelledImage:
    rng = np.random.default_rng(index)
    keypoints = rng.uniform(20, 80, (21, 2))
    box = np.concatenate([keypoints.min(axis=0), keypoints.max(axis=0)])
    return LabelledImage(Path(f"{index}.jpg"), keypoints, box, rng.normal(size=(21, 3)))


@pytest.fixture
def clips() -> list[Clip]:
    return [clip_of(label(i), np.full((100, 100, 3), 40 * i, np.uint8)) for i in range(4)]


def test_a_clip_holds_the_photograph_and_its_label(clips: list[Clip]) -> None:
    clip, found = clips[2], label(2)
    assert clip.frame.shape == (HEIGHT_PX, WIDTH_PX, 3)
    np.testing.assert_allclose(clip.keypoints, 4.8 * found.keypoints + [80, 0])
    np.testing.assert_allclose(clip.box, [*(4.8 * found.box[:2] + [80, 0]), *(4.8 * found.box[2:] + [80, 0])])
    assert (clip.frame[:, 80:560] == 80).all() and (clip.frame[:, :80] == GREY).all()


def test_every_tracker_sees_every_clip_after_grey_frames(clips: list[Clip]) -> None:
    trackers = {name: Known(clips, shift, lost) for name, shift, lost in (("ours", 0, set()), ("other", 3, {1}))}
    told: list[int] = []
    taken = follow(trackers, clips, lambda done, total: told.append(done))
    assert told == [1, 2, 3, 4]
    for tracker in trackers.values():
        length = BLANKS + 1 + SETTLE + TIMED
        assert len(tracker.frames) == length * len(clips)
        for index, clip in enumerate(clips):
            shown = tracker.frames[index * length : (index + 1) * length]
            assert all((frame == GREY).all() for frame in shown[:BLANKS])
            assert all(frame is clip.frame for frame in shown[BLANKS:])
        np.testing.assert_array_equal(tracker.boxes, [clip.box for clip in clips])
    found = record_of(taken, clips, "ours")
    assert found["latency"]["other"]["count"] == TIMED * len(clips)
    assert found["first"]["other"]["count"] == len(clips)
    assert list(found["ratios"]) == ["other"]
    ours, other = found["accuracy"]["ours"], found["accuracy"]["other"]
    assert (ours["lost"], other["lost"], ours["images"], other["images"]) == (0, 1, 3, 3)
    assert ours["mean_error_box_pct"] == 0 and ours["pa_mpjpe_mm"] == pytest.approx(0, abs=1e-6)
    sides = [(clips[i].keypoints.max(axis=0) - clips[i].keypoints.min(axis=0)).max() for i in (0, 2, 3)]
    assert other["mean_error_box_pct"] == pytest.approx(np.mean([300 / side for side in sides]))


def test_without_mediapipe_it_says_what_to_install() -> None:
    try:
        import mediapipe  # noqa: F401
    except ImportError:
        with pytest.raises(MissingDependencyError, match="mediapipe cannot be imported") as caught:
            MediaPipe(0)
        assert "mediapipe==0.10.14" in caught.value.hint
    else:
        pytest.skip("mediapipe is installed")
