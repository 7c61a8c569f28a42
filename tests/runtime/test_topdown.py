"""Several hands from whole pictures: found, followed, lost and found again, each with its id."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import marked_hands as world
import numpy as np
import pytest
from marked_hands import Detector, Estimator, hand, picture

from splite_deploy import BoxTracker, OneEuro, Pose, PoseEstimator, TopDown, Tracker
from splite_deploy.decoders.people import overlaps
from splite_deploy.errors import BackendError, UsageError
from splite_deploy.metrics.labels import tight_box
from splite_deploy.metrics.turned_boxes import box_at, corners_of
from splite_deploy.runtime import topdown
from splite_deploy.runtime.io.draw import overlay
from splite_deploy.runtime.topdown import SPARE, _Seen, _without_doubles
from splite_deploy.runtime.tracks import distances

Points = Any


def made(
    tracker: Tracker | None = None,
    *,
    names: Sequence[str] = ("wrist", "middle"),
    turned: bool = True,
    presence: bool = True,
    batch: int | None = None,
    **options: Any,
) -> tuple[TopDown, Detector, Estimator]:
    detector, estimator = Detector(names), Estimator(presence=presence, batch=batch)
    spec = world.estimator_spec(turned=turned, presence=presence)
    opened = PoseEstimator(world.detector_spec(names), detector, "rgb"), PoseEstimator(spec, estimator, "rgb")
    return TopDown(*opened, tracker, **options), detector, estimator


def whose(poses: Sequence[Pose], hands: Sequence[Points]) -> list[int | None]:
    """The id at each hand; None where nothing was found. Every pose has to lie on a hand."""
    ids: list[int | None] = [None] * len(hands)
    for pose in poses:
        away = [float(np.linalg.norm(pose.keypoints - one, axis=1).max()) for one in hands]
        assert min(away) < 1.0
        ids[int(np.argmin(away))] = pose.id
    return ids


# --- found and followed ---


@pytest.mark.parametrize("batch", [None, 1])
def test_hands_keep_their_ids_as_they_move(batch: int | None) -> None:
    follow, detector, estimator = made(batch=batch)
    for step in range(40):
        hands = [hand(40 + 5 * step, 60, 9 * step), hand(280 - 5 * step, 170, -9 * step)]  # past each other
        assert whose(follow(picture(hands)), hands) == [1, 2]
    assert detector.looks == 1 + 39 // 5
    assert estimator.batches == ([2] * 40 if batch is None else [1] * 80)


def test_as_many_as_may_be_are_followed_without_the_detector() -> None:
    follow, detector, _ = made(Tracker(2))
    hands = [hand(60, 60), hand(160, 120), hand(260, 180)]
    for _ in range(20):
        assert whose(follow(picture(hands)), hands) == [1, 2, None]
    assert detector.looks == 1


def test_a_hand_that_comes_later_is_found_by_the_next_look() -> None:
    follow, detector, _ = made(detect_every=4)
    first, later = hand(80, 100), hand(240, 100)
    for _ in range(3):
        assert whose(follow(picture([first])), [first]) == [1]
    seen = [whose(follow(picture([first, later])), [first, later]) for _ in range(4)]
    assert seen.index([1, 2]) <= 3 and seen[-1] == [1, 2]
    assert detector.looks == 2


@pytest.mark.parametrize("presence", [True, False])
def test_a_hand_that_leaves_is_lost_at_once_and_has_its_id_again(presence: bool) -> None:
    follow, detector, _ = made(presence=presence)
    stays, goes = hand(80, 100), hand(240, 100)
    assert whose(follow(picture([stays, goes])), [stays, goes]) == [1, 2]
    looks = detector.looks
    for _ in range(4):
        assert whose(follow(picture([stays])), [stays]) == [1]
    assert detector.looks == looks + 3  # in every frame after the one that lost it
    back = hand(250, 110)
    assert whose(follow(picture([stays, back])), [stays, back]) == [1, 2]
    for _ in range(31):
        follow(picture([stays]))
    assert whose(follow(picture([stays, goes])), [stays, goes])[0] == 1
    later = [whose(follow(picture([stays, goes])), [stays, goes]) for _ in range(5)]
    assert later[-1] == [1, 3], "an id that was forgotten is not given again"


def test_a_hand_that_comes_back_elsewhere_is_another_one() -> None:
    follow, _, _ = made()
    follow(picture([hand(60, 60)]))
    assert follow(picture([])) == []
    there = hand(250, 180)
    assert whose(follow(picture([there])), [there]) == [2]


def test_nobody_is_sought_in_every_frame() -> None:
    follow, detector, estimator = made()
    for _ in range(7):
        assert follow(picture([])) == []
    assert (detector.looks, estimator.batches) == (7, [])


def test_what_is_no_hand_is_not_delivered() -> None:
    follow, detector, estimator = made(Tracker(1))
    detector.more = [[10, 10, 40, 40, 0.99], [-900, 10, -800, 40, 0.98], [50, 50, 50, 50, 0.97]]
    alone = hand(240, 100)
    assert whose(follow(picture([alone])), [alone]) == [1], "though the detector is surer of what is none"
    assert estimator.batches == [2, 3, 2], "nothing outside the picture or without a size; more looks without an angle"


def test_two_crops_of_one_hand_become_one() -> None:
    follow, detector, _ = made(detect_every=1)
    alone = hand(160, 120)
    scale = 192 / world.WIDTH
    (x0, y0), (x1, y1) = alone.min(axis=0) * scale, alone.max(axis=0) * scale
    top = (192 - world.HEIGHT * scale) / 2
    detector.more = [[x0 - 12, y0 + top - 12, x0 + 12, y0 + top + 12, 0.8], [x0, y0 + top, x1, y1 + top, 0.7]]
    for _ in range(5):
        assert whose(follow(picture([alone])), [alone]) == [1]


def plainly_without_doubles(seen: list[_Seen]) -> list[_Seen]:
    """The same, one pair after another."""

    def is_same(one: _Seen, other: _Seen) -> bool:
        boxes = [tight_box(it.pose.keypoints).astype(np.float32)[None] for it in (one, other)]
        near = distances([other.pose], [one.pose])[0, 0] < 0.2
        return bool(near or ((one.id is None or other.id is None) and overlaps(*boxes)[0, 0] > 0.3))

    kept: list[_Seen] = []
    for one in sorted(seen, key=lambda one: one.moved):
        same = next((index for index, other in enumerate(kept) if is_same(one, other)), None)
        if same is None:
            kept.append(one)
        elif one.id is None and kept[same].id is not None and one.pose.scores.mean() > kept[same].pose.scores.mean():
            kept[same] = replace(kept[same], pose=one.pose, box=one.box)
    return kept


def test_doubles_are_found_as_by_looking_at_each_pair() -> None:
    rng = np.random.default_rng(3)
    replaced = 0
    for _ in range(60):
        seen = []
        for number in range(int(rng.integers(1, 14))):
            keypoints = (hand(0, 0) + rng.uniform(0, 60, 2) + rng.normal(0, 2, (3, 2))).astype(np.float32)
            pose = Pose(keypoints, rng.uniform(0, 1, 3).astype(np.float32), tight_box(keypoints).astype(np.float32))
            before = replace(pose, keypoints=keypoints + rng.normal(0, 5, 2).astype(np.float32))
            follows = rng.random() < 0.5
            seen.append(_Seen(pose, np.zeros(4), number if follows else None, before if follows else None))
        expected = plainly_without_doubles(seen)
        found = _without_doubles(seen)
        assert {one.id: id(one.pose) for one in found if one.id is not None} == {
            one.id: id(one.pose) for one in expected if one.id is not None
        }
        assert [id(one.pose) for one in found if one.id is None] == [id(one.pose) for one in expected if one.id is None]
        replaced += sum(one.before is not None and not any(one is other for other in seen) for one in found)
    assert replaced > 5


def test_a_crowd_takes_no_look_at_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(topdown, "distances", lambda *poses: calls.append(0) or distances(*poses))
    seen = [
        _Seen(Pose(hand(60.0 * x, 0).astype(np.float32), np.ones(3, np.float32), np.zeros(4, np.float32)), np.zeros(4))
        for x in range(60)
    ]
    assert _without_doubles(seen) == seen and len(calls) == 1


@pytest.mark.parametrize("turned", [True, False])
def test_the_most_people_bound_the_crops(turned: bool) -> None:
    follow, detector, estimator = made(Tracker(2), turned=turned)
    detector.more = [[10 + 20 * x, 150, 28 + 20 * x, 170, 0.6] for x in range(8)]
    hands = [hand(60, 60), hand(260, 60)]
    for _ in range(3):
        assert whose(follow(picture(hands)), hands) == [1, 2]
    assert estimator.batches[0] == 2 + SPARE and estimator.batches[-2:] == [2, 2]
    most = 2 + SPARE
    assert len(follow.detect(picture(hands))) == 2
    assert max(estimator.batches) <= 3 * most if turned else max(estimator.batches) == most, (
        "three more without an angle"
    )
    whose(follow(picture(hands[:1])), hands)
    del estimator.batches[:]
    follow(picture(hands[:1]))
    assert estimator.batches[0] == 1 + 1 + SPARE, "who is followed, and a place that is free"
    anybody, detector, estimator = made(turned=turned)
    detector.more = [[10 + 20 * x, 150, 28 + 20 * x, 170, 0.6] for x in range(8)]
    anybody(picture(hands))
    assert estimator.batches[0] == 10, "as many as the detector gives"


def test_a_track_that_jumps_onto_another_hand_ends_and_the_other_one_goes_on() -> None:
    follow, _, _ = made()
    left, right = hand(120, 120), hand(180, 120)
    assert whose(follow(picture([left, right])), [left, right]) == [1, 2]
    moved = hand(138, 120)
    assert whose(follow(picture([moved])), [moved]) == [1], "both crops show it; the other one moved further"


def test_a_second_look_sets_right_what_has_gone_astray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Followed crops give keypoints that lie aside, and the detector's boxes are narrow as those of palms."""
    see_all, see_hands = Estimator._infer, Detector._see

    def astray(self: Estimator, feeds: Any) -> Any:
        found = see_all(self, feeds)
        if len(self.batches) > 1:  # all but the first frame begin with what is followed
            found["coordinates"][0] += 6.0
            found["presence"][0] = 0.7
        return found

    def narrow(self: Detector, crop: Any) -> Any:
        found = see_hands(self, crop)
        left, right = found["people"][..., 0].copy(), found["people"][..., 2].copy()
        found["people"][..., 0], found["people"][..., 2] = 0.6 * left + 0.4 * right, 0.4 * left + 0.6 * right
        return found

    monkeypatch.setattr(Estimator, "_infer", astray)
    monkeypatch.setattr(Detector, "_see", narrow)
    follow, _, _ = made(detect_every=2)
    shown = hand(160, 120)
    off_px = []
    for _ in range(7):
        (pose,) = follow(picture([shown]))
        assert pose.id == 1
        off_px.append(float(np.linalg.norm(pose.keypoints - shown, axis=1).max()))
    assert max(off_px[::2]) < 1 < 3 < min(off_px[1::2])


def test_the_crop_of_what_rests_rests() -> None:
    follow, _, _ = made()
    rng = np.random.default_rng(0)
    boxes = [follow(picture([hand(160, 120, 20) + rng.normal(0, 0.05, (3, 2))]))[0].box for _ in range(12)]
    assert all((box == boxes[2]).all() for box in boxes[2:])
    turned = [follow(picture([hand(160, 120, 20 + 0.5 * step)]))[0].angle_deg or 0.0 for step in range(25)]
    assert 2 <= len(set(turned)) <= 8 and abs(turned[-1] - 32) < 5, "it follows what turns slowly, in steps"


# --- angles ---


@pytest.mark.parametrize("angle_deg", [0.0, 70.0, 180.0, -120.0])
def test_the_first_crop_has_the_angle_that_the_detector_tells(angle_deg: float) -> None:
    follow, _, estimator = made()
    shown = hand(160, 120, angle_deg)
    (pose,) = follow(picture([shown]))
    assert pose.angle_deg == pytest.approx(angle_deg, abs=1.5) and estimator.batches == [1]
    np.testing.assert_allclose(pose.keypoints, shown, rtol=0, atol=0.5)
    assert follow(picture([shown]))[0].angle_deg == pytest.approx(angle_deg, abs=1.5)


def test_an_angle_that_the_crop_contradicts_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    follow, detector, estimator = made()
    see = detector._see

    def swapped(crop: Any) -> dict[str, Any]:
        people = see(crop)["people"]
        people[:, -4:] = people[:, [-2, -1, -4, -3]]  # wrist and knuckle: half a turn
        return {"people": people}

    monkeypatch.setattr(detector, "_see", swapped)
    shown = [hand(90, 120, 20), hand(230, 120, 150)]
    poses = follow(picture(shown))
    assert estimator.batches == [2, 6, 4] and whose(poses, shown) == [1, 2]
    assert [pose.angle_deg for pose in poses] == pytest.approx([20, 150], abs=1.5)
    follow(picture(shown))
    assert estimator.batches[3:] == [2]


@pytest.mark.parametrize("batch", [None, 1])
def test_a_detector_that_tells_no_angle_takes_more_looks(batch: int | None) -> None:
    follow, _, estimator = made(names=("middle", "somewhere"), batch=batch)
    hands = [hand(80, 120, 90), hand(240, 120, -45)]
    angles = [pose.angle_deg for pose in follow(picture(hands))]
    assert angles == pytest.approx([90, -45], abs=1.5)
    assert estimator.batches == ([2, 6, 4] if batch is None else [1] * 12)
    follow(picture(hands))
    assert sum(estimator.batches) == 14, "one look, while they are followed"


def test_a_detector_of_boxes_alone_takes_more_looks() -> None:
    follow, _, estimator = made(names=())
    shown = hand(160, 120, 90)
    (pose,) = follow(picture([shown]))
    assert pose.angle_deg == pytest.approx(90, abs=1.5) and estimator.batches == [1, 3, 2]
    boxes = Tracker()
    with PoseEstimator(world.detector_spec(()), Detector(()), "rgb") as network:
        for step in range(8):
            frame = picture([hand(60 + 8 * step, 60), hand(260 - 8 * step, 150)])
            assert [pose.id for pose in boxes(network.detect(frame))] == [1, 2]


def test_crops_that_are_not_turned_take_one_look() -> None:
    follow, _, estimator = made(turned=False)
    (pose,) = follow(picture([hand(160, 120, 90)]))
    assert pose.angle_deg is None and estimator.batches == [1]


def test_a_box_at_an_angle_holds_the_same() -> None:
    box = np.array([10.0, 20.0, 50.0, 100.0])
    for angle_deg in (0, 90, 180, -90):
        corners = corners_of(box_at(box, angle_deg))
        np.testing.assert_allclose([*corners.min(axis=0), *corners.max(axis=0)], box, atol=1e-9)
    x0, y0, x1, y1, angle = box_at(box, 45.0)
    assert angle == 45 and x1 - x0 == pytest.approx(y1 - y0) == pytest.approx(np.hypot(40, 80) / np.sqrt(2))


# --- pictures ---


def test_a_picture_has_its_hands_by_the_score_of_the_detector() -> None:
    finder, detector, _ = made(Tracker(2))
    hands = [hand(260, 180, 30), hand(60, 60), hand(160, 120, 100)]
    detector.more = [[10, 100, 40, 130, 0.95]]
    poses = finder.detect(picture(hands))
    assert [float(np.abs(pose.keypoints - hands[index]).max()) < 1 for pose, index in zip(poses, (1, 2), strict=True)]
    assert [pose.box_score for pose in poses] == pytest.approx([0.9 - 0.001 * 0.6 * x for x in (60, 140)], abs=0.005)
    assert [pose.id for pose in poses] == [None, None]
    assert finder.detect(picture([])) == []
    assert whose(finder(picture(hands)), hands) == [None, 1, 2], "pictures in between change nothing"


def test_boxes_and_ids_are_drawn() -> None:
    follow, _, _ = made()
    image = picture([hand(160, 120, 30)])
    (pose,) = follow(image)
    skeleton = follow.estimator.spec.skeleton
    drawn, bare = overlay(image, [pose], skeleton), overlay(image, [replace(pose, id=None)], skeleton)
    other = overlay(image, [replace(pose, id=27)], skeleton)
    corners = 2 * corners_of(np.append(pose.box, pose.angle_deg or 0.0))
    rows, columns = np.nonzero((drawn != bare).any(axis=2))
    x, y = corners[corners[:, 1].argmin()]
    assert len(rows) > 50 and abs(columns.mean() - x) < 10 and 0 < y - rows.mean() < 30
    assert (other != drawn).any()
    far = overlay(image, [replace(pose, box=pose.box - 1e6, keypoints=pose.keypoints - 1e6)], skeleton)
    assert far.shape == drawn.shape
    straight = replace(pose, angle_deg=None)
    outlined, plain = (overlay(image, [one], skeleton) for one in (straight, replace(straight, id=None)))
    left, top = (2 * pose.box[:2]).astype(int)
    edge = np.s_[top + 10 : top + 30, left - 2 : left + 3]
    assert (outlined[edge].max(axis=(1, 2)) > 200).all() and not (plain[edge] == outlined[edge]).all()


# --- BoxTracker, where networks tell more ---


def test_presence_ends_what_a_box_tracker_follows() -> None:
    track = BoxTracker(PoseEstimator(world.estimator_spec(), Estimator(), "rgb"), (120, 80, 200, 160))
    for step in range(10):
        track(picture([hand(160 + 4 * step, 120, 10 * step)]))
        assert track.found
    pose = track(picture([]))
    assert pose.presence == pytest.approx(0.1) and pose.scores.tolist() == [1, 1, 1]
    assert not track.found and track.box == (120, 80, 200, 160)
    never = BoxTracker(track.estimator, (120, 80, 200, 160), min_presence=0.95)
    never(picture([hand(160, 120)]))
    assert not never.found


def test_the_first_frame_of_a_box_tracker_is_looked_at_more_than_once() -> None:
    session = Estimator()
    track = BoxTracker(PoseEstimator(world.estimator_spec(), session, "rgb"), (120, 80, 200, 160))
    shown = picture([hand(160, 120, 140)])
    assert track(shown).angle_deg == pytest.approx(140, abs=1.5) and session.batches == [1] * 6
    assert track(shown).angle_deg == pytest.approx(140, abs=1.5) and session.batches == [1] * 7
    given = BoxTracker(track.estimator, (120, 80, 200, 160, 90))
    assert given(shown).angle_deg == 90 and len(session.batches) == 8, "an angle that is given is taken"


# --- frames that are strange ---


def test_frames_of_another_size_begin_anew() -> None:
    follow, detector, _ = made()
    follow(picture([hand(300, 200)]))
    smaller = hand(60, 50)
    assert whose(follow(picture([smaller], 100, 120)), [smaller]) == [2]
    assert detector.looks == 2


@pytest.mark.parametrize("wrong", ["time", "option", "estimator", "detector"])
def test_an_error_on_a_frame_of_another_size_forgets_nobody(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    follow, _, _ = made()
    shown = [hand(100, 100), hand(200, 100)]
    assert whose(follow(picture(shown)), shown) == [1, 2]
    smaller = picture([hand(100, 100)], 200, 300)
    with monkeypatch.context() as patch:
        kind = {"estimator": Estimator, "detector": Detector}.get(wrong)
        if kind is not None:
            patch.setattr(
                kind, "_infer", lambda self, _: {one.name: np.full((1, 3, 9), np.nan) for one in self.outputs}
            )
        time_s, options = (
            (float("nan") if wrong == "time" else 0.0),
            {"bone_length_mm": 90.0} if wrong == "option" else {},
        )
        with pytest.raises((BackendError, UsageError)):
            follow(smaller, time_s, **options)
    assert whose(follow(picture(shown)), shown) == [1, 2]
    assert [pose.id for pose in follow(smaller)] == [3]


@pytest.mark.parametrize("shown", [[], [hand(100, 100)]])
def test_options_are_looked_at_whoever_is_there(shown: list[Points]) -> None:
    follow, _, _ = made()
    wrong: list[dict[str, Any]] = [{"bone_length_mm": 90.0}, {"intrinsics": np.eye(3)}]
    for call in (follow, follow.detect):
        for options in wrong:
            with pytest.raises(UsageError, match=r"^This model gives no depth\.") as caught:
                call(picture(shown), **options)
            assert caught.value.hint == "Leave out intrinsics and bone length."
        with pytest.raises(TypeError, match="bone_length"):
            call(picture(shown), bone_length=9)


def test_a_box_tracker_begins_anew_where_frames_change_their_size() -> None:
    session = Estimator()
    start = (120.0, 80.0, 200.0, 160.0)
    track = BoxTracker(PoseEstimator(world.estimator_spec(turned=False), session, "rgb"), start)
    for step in range(8):
        pose = track(picture([hand(160 + 8 * step, 120)]))
    assert pose.box[0] > 180
    with pytest.raises(UsageError):
        track(np.zeros((300, 400), np.uint8))
    assert track(picture([hand(160 + 64, 120)])).box[0] > 180, "what was no frame changes nothing"
    assert track(picture([hand(160, 120)], 300, 400)).box.tolist() == list(start) and track.found
    assert track(picture([hand(164, 120)], 300, 400)).box[0] > 125


def test_what_is_no_frame_is_refused_and_changes_nothing() -> None:
    follow, detector, _ = made()
    shown = [hand(100, 100)]
    follow(picture(shown))
    for wrong in (None, np.zeros((0, 10, 3), np.uint8), np.zeros((10, 10), np.uint8)):
        with pytest.raises(UsageError, match=r"^The image ") as caught:
            follow(wrong)
        assert caught.value.hint
    for time_s in (float("nan"), float("inf")):
        with pytest.raises(UsageError, match=r"^The time of a frame is (nan|inf)\.") as caught:
            follow(picture(shown), time_s)
        assert "Pass seconds" in caught.value.hint
    assert whose(follow(picture(shown)), shown) == [1] and detector.looks == 1


def test_a_backend_that_fails_loses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    follow, _, _ = made()
    shown = [hand(100, 100)]
    follow(picture(shown))
    with monkeypatch.context() as patch:
        patch.setattr(Estimator, "_see", lambda *_: {"coordinates": np.full((3, 2), np.nan, np.float32)})
        with pytest.raises(BackendError):
            follow(picture(shown))
    assert whose(follow(picture(shown)), shown) == [1]


def test_forgetting_begins_anew_with_new_ids() -> None:
    follow, detector, _ = made(Tracker(1))
    shown = [hand(100, 100)]
    follow(picture(shown))
    follow.reset()
    assert whose(follow(picture(shown)), shown) == [2] and detector.looks == 2


# --- the parts ---


def test_a_single_stage_network_estimates_in_the_boxes_of_another() -> None:
    detector, people = Detector(), Detector(("wrist", "middle", "thumb"))
    spec = world.detector_spec(("wrist", "middle", "thumb"), padding=1.4)
    follow = TopDown(PoseEstimator(world.detector_spec(), detector, "rgb"), PoseEstimator(spec, people, "rgb"))
    for step in range(12):
        hands = [hand(60 + 3 * step, 60), hand(260 - 3 * step, 180)]
        assert whose(follow(picture(hands)), hands) == [1, 2]
    alone = [hand(60 + 36, 60)]
    assert whose(follow(picture(alone)), alone) == [1], "where it finds nobody in the box, somebody is lost"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"detect_every": float("nan")}, "The detector would look every nan frames."),
        ({"detect_every": 2.5}, "The detector would look every 2.5 frames."),
        ({"detect_every": True}, "The detector would look every True frames."),
        ({"min_score": 2.0}, "the least score 2.0"),
        ({"min_presence": -0.1}, "the least presence -0.1"),
        ({"margin": "0.1"}, "The margin 0.1"),
        ({"tracker": 4}, "The tracker is a int, not a Tracker."),
        ({"tracker": Tracker}, "The tracker is a type, not a Tracker."),
        ({"detector": "palm.splite"}, "The detector is a str, not a PoseEstimator."),
        ({"estimator": Estimator()}, "The estimator is a Estimator, not a PoseEstimator."),
    ],
)
def test_values_that_are_none_are_refused(options: dict[str, Any], said: str) -> None:
    follow, _, _ = made()
    with pytest.raises(UsageError) as caught:
        TopDown(**{"detector": follow.detector, "estimator": follow.estimator, **options})
    assert said in caught.value.message and caught.value.hint


def test_a_box_tracker_follows_keypoints_alone() -> None:
    with pytest.raises(UsageError, match=r"^The model 'marked-detector' finds boxes alone") as caught:
        BoxTracker(PoseEstimator(world.detector_spec(()), Detector(()), "rgb"))
    assert caught.value.hint == "Give what its detect() finds to a Tracker."
    with pytest.raises(UsageError, match=r"^The estimator is a str, not a PoseEstimator\.") as caught:
        BoxTracker("hand.splite")  # type: ignore[arg-type]
    assert "PoseEstimator.open" in caught.value.hint


def test_a_tracker_serves_one_pipeline() -> None:
    tracker, shown = Tracker(), [hand(100, 100)]
    first, second = made(tracker)[0], made(tracker)[0]
    assert whose(first(picture(shown)), shown) == [1]
    for _ in range(2):
        with pytest.raises(UsageError, match="The tracker follows people that this TopDown has not found") as caught:
            second(picture(shown))
        assert "a Tracker of its own" in caught.value.hint
    assert whose(first(picture(shown)), shown) == [1], "who was first goes on"
    tracker.reset()
    assert whose(second(picture(shown)), shown) == [2]
    with pytest.raises(UsageError, match="has not found"):
        first(picture(shown))


@pytest.mark.parametrize("case", ["detector", "no keypoints", "colours", "every"])
def test_networks_that_cannot_take_their_part_are_refused(case: str) -> None:
    def opened(color: Any = "rgb") -> PoseEstimator:
        return PoseEstimator(world.estimator_spec(), Estimator(), color)

    detector = PoseEstimator(world.detector_spec(), Detector(), "rgb")
    if case == "detector":
        with pytest.raises(UsageError, match="The detector 'marked' finds one hand or person in each box") as caught:
            TopDown(opened(), opened())
        assert "single-stage network" in caught.value.hint
    elif case == "colours":
        with pytest.raises(UsageError, match="opened for rgb images, and the estimator for bgr") as caught:
            TopDown(detector, opened("bgr"))
        assert caught.value.hint == "Open both with the same color."
    elif case == "no keypoints":
        with pytest.raises(UsageError, match="The estimator 'marked-detector' finds boxes alone") as caught:
            TopDown(detector, PoseEstimator(world.detector_spec(()), Detector(()), "rgb"))
        assert "Tracker" in caught.value.hint
    else:
        with pytest.raises(UsageError, match="The detector would look every 0 frames") as caught:
            TopDown(detector, opened(), detect_every=0)
        assert caught.value.hint


def test_one_pipeline_serves_one_thread_and_closes_both_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    follow, detector, estimator = made()
    began, may_end = threading.Event(), threading.Event()
    see = Estimator._see

    def slow(self: Estimator, crop: Any) -> Any:
        began.set()
        assert may_end.wait(30)
        return see(self, crop)

    monkeypatch.setattr(Estimator, "_see", slow)
    frame, found = picture([hand(100, 100)]), []
    worker = threading.Thread(target=lambda: found.extend(follow(frame)))
    worker.start()
    assert began.wait(30)
    calls: list[Callable[[], object]] = [
        lambda: follow(frame),
        lambda: follow.detect(frame),
        follow.reset,
        follow.close,
    ]
    for call in calls:
        with pytest.raises(BackendError, match=r"^The pipeline is in use, in another thread"):
            call()
    may_end.set()
    worker.join()
    assert len(found) == 1
    with follow:
        pass
    for session in (detector, estimator):
        with pytest.raises(BackendError, match="closed"):
            session.run({"image": np.zeros((1, 3, 96, 96), np.float32)})


def test_smoothing_calms_what_is_delivered_and_not_what_is_followed() -> None:
    calm, _, _ = made(Tracker(smoothing=OneEuro(min_cutoff_hz=0.5, beta=0.0)))
    plain, _, _ = made()
    rng = np.random.default_rng(0)
    shown = [picture([hand(160, 120) + rng.normal(0, 1.5, (3, 2))]) for _ in range(40)]
    smooth, rough = ([one(frame, index / 30)[0] for index, frame in enumerate(shown)] for one in (calm, plain))
    tremble = [np.stack([pose.keypoints for pose in poses[10:]]).std(axis=0).mean() for poses in (smooth, rough)]
    assert tremble[0] < 0.35 * tremble[1]
    for one, other in zip(smooth, rough, strict=True):
        np.testing.assert_array_equal(one.box, other.box)
