"""Ids of what a network finds that finds people itself, and who is nearest to whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from splite_deploy import OneEuro, Pose, Tracker
from splite_deploy.errors import BackendError, UsageError
from splite_deploy.runtime.backends import base
from splite_deploy.runtime.tracks import distances, nearest

BODY = np.array([[0.0, -20.0], [-8.0, 0.0], [8.0, 0.0], [0.0, 20.0]])
"""40 pixels high."""


def body(x: float, y: float = 50.0, score: float = 0.9) -> Pose:
    keypoints = (BODY + np.array([x, y])).astype(np.float32)
    box = np.concatenate([keypoints.min(axis=0), keypoints.max(axis=0)])
    return Pose(keypoints, np.ones(4, np.float32), box, box_score=score)


def bare(x0: float, y0: float, x1: float, y1: float) -> Pose:
    """Of a network that finds boxes alone."""
    points, box = np.zeros((0, 2), np.float32), np.array([x0, y0, x1, y1], np.float32)
    return Pose(points, np.zeros(0, np.float32), box, box_score=0.8)


def ids(poses: list[Pose]) -> dict[Any, int]:
    """Ids by where poses are."""
    return {round(float((pose.box[0] + pose.box[2]) / 2)): pose.id for pose in poses if pose.id is not None}


def test_people_keep_their_ids_in_whatever_order_they_come() -> None:
    tracker = Tracker()
    assert ids(tracker([body(50), body(150), body(250)])) == {50: 1, 150: 2, 250: 3}
    assert ids(tracker([body(255), body(145), body(60)])) == {60: 1, 145: 2, 255: 3}
    assert [pose.id for pose in tracker([body(145), body(60)])] == [1, 2]
    assert ids(tracker([body(20), body(60), body(260)])) == {60: 1, 20: 4, 260: 3}


def test_a_row_that_moves_by_half_its_spacing_keeps_its_ids() -> None:
    tracker = Tracker()
    row = np.arange(6) * 45.0
    for step in range(30):
        found = tracker([body(x + 10 * step) for x in row[::-1]])
        assert ids(found) == {round(x + 10 * step): index for index, x in enumerate(row[::-1], 1)}


def test_the_surest_pair_is_never_given_up_for_the_sum() -> None:
    apart = np.array([[0.1, 0.3], [0.2, 0.9]])  # the others have the smaller sum
    assert list(nearest(apart, 1.0)) == [(0, 0), (1, 1)]
    assert list(nearest(apart, 0.25)) == [(0, 0)]
    assert list(nearest(np.array([[np.nan]]), 1.0)) == []
    rng = np.random.default_rng(0)
    for _ in range(20):
        apart, left = rng.integers(0, 9, (5, 4)) / 8, []
        for flat in np.argsort(apart, axis=None, kind="stable").tolist():  # all pairs, one after another
            row, column = divmod(flat, 4)
            if apart[row, column] <= 0.75 and all(row != one and column != other for one, other in left):
                left.append((row, column))
        assert list(nearest(apart, 0.75)) == left
    assert list(nearest(np.zeros((0, 3)), 1.0)) == list(nearest(np.zeros((3, 0)), 1.0)) == []


def test_distances_are_in_sizes() -> None:
    found = distances([body(50), body(90)], [body(50), body(70), body(130)])
    np.testing.assert_allclose(found, [[0, 0.5, 2], [1, 0.5, 1]], atol=1e-6)
    np.testing.assert_allclose(distances([bare(0, 0, 30, 40)], [bare(30, 40, 60, 80)]), [[50 / 40]])
    crowd = [body(3 * x) for x in range(300)]
    whole = distances(crowd, crowd)
    assert whole.shape == (300, 300)
    np.testing.assert_array_equal(whole[7:8], distances(crowd[7:8], crowd), "in blocks as at once")
    point = Pose(np.full((4, 2), 7, np.float32), np.ones(4, np.float32), np.zeros(4, np.float32))
    assert distances([point], [point])[0, 0] == 0 and np.isfinite(distances([point], [body(0)])).all()


def shrunk(x: float) -> Pose:
    """Keypoints that have fallen together, of a network that finds no boxes."""
    pose = body(x)
    middle = pose.keypoints.mean(axis=0)
    return replace(pose, keypoints=middle + (pose.keypoints - middle) / 8, box_score=None)


def test_whose_keypoints_fell_together_in_between_is_known_again() -> None:
    tracker = Tracker()
    assert [ids(tracker([one])) for one in (body(40), shrunk(50), body(70))] == [{40: 1}, {50: 1}, {70: 1}]
    for _ in range(25):  # and whoever is small for long is small
        tracker([shrunk(70)])
    assert ids(tracker([body(90)])) == {90: 2}


def test_a_large_one_does_not_have_the_id_of_a_small_one_that_left() -> None:
    tracker = Tracker()
    tracker([body(50)])
    large = replace(body(170), keypoints=4 * BODY.astype(np.float32) + np.float32([170, 50]))
    assert ids(tracker([large])) == {170: 2}


def test_boxes_without_keypoints_have_ids_too() -> None:
    tracker = Tracker()
    tracker([bare(0, 0, 30, 40), bare(100, 0, 130, 40)])
    again = tracker([bare(105, 2, 136, 44), bare(4, 0, 33, 42)])
    assert [(pose.id, float(pose.box[0])) for pose in again] == [(1, 4), (2, 105)]


def test_a_network_of_few_keypoints_has_the_size_of_its_box() -> None:
    def one(x: float) -> Pose:
        point, box = np.array([[x, 40]], np.float32), np.array([x - 30, 0, x + 30, 80], np.float32)
        return Pose(point, np.ones(1, np.float32), box, box_score=0.8)

    tracker = Tracker()
    for x in (50, 90, 150):
        assert [pose.id for pose in tracker([one(x)])] == [1]
    assert [pose.id for pose in tracker([one(231)])] == [2]


def test_somebody_is_remembered_for_a_while_and_near() -> None:
    tracker = Tracker(remember=3)
    tracker([body(50)])
    assert tracker.misses is False
    for _ in range(3):
        assert tracker([]) == [] and tracker.misses and not tracker.followed
    assert ids(tracker([body(80)])) == {80: 1}
    for _ in range(4):
        tracker([])
    assert not tracker.misses
    assert ids(tracker([body(80)])) == {80: 2}
    assert ids(tracker([body(125)])) == {125: 3}, "further than its size"
    assert ids(Tracker(reach=0.5)([body(50)])) == {50: 1}


def test_at_most_so_many_are_followed_and_the_old_ones_first() -> None:
    tracker = Tracker(2)
    assert ids(tracker([body(250, score=0.9), body(150, score=0.8), body(50, score=0.7)])) == {250: 1, 150: 2}
    assert tracker.full
    assert ids(tracker([body(50, score=0.99), body(150), body(250)])) == {250: 1, 150: 2}
    assert ids(tracker([body(50), body(250)])) == {250: 1, 50: 3}
    assert ids(tracker([body(50), body(150), body(250)])) == {250: 1, 50: 3}, "who came back finds no place"
    assert ids(tracker([body(150), body(250)])) == {250: 1, 150: 2}


def test_known_ids_are_taken_as_they_are() -> None:
    tracker = Tracker()
    tracker([body(50), body(90)])
    assert ids(tracker([body(90), body(50)], ids=[1, 2])) == {90: 1, 50: 2}
    assert {number: round(float(pose.keypoints[0, 0])) for number, pose in tracker.followed.items()} == {1: 90, 2: 50}
    assert ids(tracker([body(90), body(50)], ids=[1, None])) == {90: 1, 50: 2}


@pytest.mark.parametrize("ids", [[7, None], [1, 1], [1], [1, 2, None]])
def test_ids_that_are_not_those_of_the_poses_are_refused(ids: Any) -> None:
    tracker = Tracker()
    tracker([body(50), body(150)])
    with pytest.raises(UsageError, match=r"^The ids \[.*\] are not those of 2 poses: known are \[1, 2\]") as caught:
        tracker([body(50), body(150)], ids=ids)
    assert "`followed`" in caught.value.hint
    assert [pose.id for pose in tracker([body(150), body(50)])] == [1, 2], "it goes on as before"


def test_poses_of_another_network_are_refused() -> None:
    tracker = Tracker()
    tracker([body(50)])
    with pytest.raises(UsageError, match=r"^Poses of 0 and 4 keypoints are of several networks") as caught:
        tracker([bare(0, 0, 30, 40)])
    assert "reset()" in caught.value.hint
    with pytest.raises(UsageError, match="of several networks"):
        tracker([body(50), bare(0, 0, 30, 40)])
    tracker.reset()
    assert [pose.id for pose in tracker([bare(0, 0, 30, 40)])] == [2]


def test_boxes_are_not_smoothed_without_a_word() -> None:
    tracker = Tracker(smoothing=OneEuro())
    assert tracker([]) == []
    with pytest.raises(UsageError, match=r"^Boxes without keypoints cannot be smoothed") as caught:
        tracker([bare(0, 0, 30, 40)])
    assert "without smoothing" in caught.value.hint


def test_one_tracker_serves_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Tracker()
    tracker([body(50)])

    class Meanwhile(list[Pose]):
        """Poses during which somebody else comes; who is followed may be read."""

        def __len__(self) -> int:
            assert list(tracker.followed) == [1]
            for call in (lambda: tracker([body(50)]), tracker.reset):
                with pytest.raises(BackendError, match=r"^The tracker is in use, in another thread") as caught:
                    call()
                assert caught.value.hint == "One tracker serves one thread: make one for each."
            return super().__len__()

    assert [pose.id for pose in tracker(Meanwhile([body(52)]))] == [1]
    monkeypatch.setattr(base, "_forks", base._forks + 1)
    assert [pose.id for pose in tracker([body(54)])] == [1], "no engine stands behind it: a fork may go on"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_people": 0}, "At most 0 people would be followed"),
        ({"reach": 0.0}, "A reach of 0.0 or a memory of 30 frames"),
        ({"reach": float("nan")}, "A reach of nan"),
        ({"remember": -1}, "A reach of 1.0 or a memory of -1 frames"),
        ({"remember": 2.5}, "A reach of 1.0 or a memory of 2.5 frames"),
        ({"reach": "1"}, "A reach of 1 or"),
        ({"max_people": float("nan")}, "At most nan people would be followed"),
        ({"max_people": 2.5}, "At most 2.5 people would be followed"),
        ({"max_people": True}, "At most True people would be followed"),
        ({"smoothing": True}, "The smoothing is True"),
        ({"smoothing": OneEuro}, "The smoothing is <class"),
    ],
)
def test_values_that_are_none_are_refused(options: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        Tracker(**options)
    assert caught.value.hint
