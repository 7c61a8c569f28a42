"""Crops that are turned: the way there and back, what follows a hand, and what is written of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy.bench.evaluation import evaluate
from splite_deploy.bundle import Artifact, TensorSpec
from splite_deploy.errors import SpecError, UsageError
from splite_deploy.metrics.labels import LabelledImage, read_boxes, read_labels
from splite_deploy.metrics.turned_boxes import angle_of, box_around, corners_of, turned_box, wrapped
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.any_angle import at_any_angle, seek
from splite_deploy.runtime.backends.base import BaseSession
from splite_deploy.runtime.crops import seen_part
from splite_deploy.runtime.io.draw import overlay
from splite_deploy.runtime.pose import Pose
from splite_deploy.runtime.preprocess import Preprocessor, check_box, crop_matrix, invert, transform_points, warp
from splite_deploy.runtime.tracker import BoxTracker, next_box
from splite_deploy.spec import InputSpec, LimitSpec, ModelSpec

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors/turned.json").read_text(encoding="utf-8"))
DATA: dict[str, Any] = {
    "name": "turned",
    "input": {
        "height": 128,
        "width": 96,
        "color": "rgb",
        "mean": [0.0, 0.0, 0.0],
        "std": [255.0, 255.0, 255.0],
        "box_padding": 1.25,
        "pad_value": 0,
        "rotate_by": ["wrist", "middle"],
    },
    "decoder": {"type": "coordinates", "scale": "pixel"},
    "skeleton": {"keypoint_names": ["wrist", "middle", "thumb"], "edges": [[0, 1]]},
}
SPEC = ModelSpec.from_dict(DATA)
STRAIGHT = ModelSpec.from_dict({**DATA, "input": {**DATA["input"], "rotate_by": None}})
TURN = (0, 1)
COLOURS = np.array([[230, 0, 0], [0, 230, 0], [0, 0, 230]], np.uint8)
UPRIGHT = np.array([[0.0, 30.0], [0.0, -30.0], [-18.0, 4.0]])
"""Wrist, middle knuckle and thumb about the middle of a hand that points up, pixels."""


def hand(angle_deg: float, middle: Sequence[float] = (150.0, 130.0)) -> NDArray[np.float64]:
    """The keypoints of a hand that is turned clockwise."""
    turn = np.radians(angle_deg)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return UPRIGHT @ matrix.T + np.array(middle)


def picture(keypoints: NDArray[np.float64]) -> NDArray[np.uint8]:
    """An RGB picture with a disk of its own colour at every keypoint."""
    image = np.zeros((260, 300, 3), np.uint8)
    for (x, y), colour in zip(keypoints, COLOURS, strict=True):
        place = round((x - 0.5) * 16), round((y - 0.5) * 16)
        cv2.circle(image, place, 6 * 16, colour.tolist(), -1, cv2.LINE_AA, 4)
    return image


class Finder(BaseSession):
    """Gives the middle of each colour in the crop: a network that is never wrong."""

    def __init__(self, columns: int = 2) -> None:
        image = TensorSpec("image", (None, 3, 128, 96), "float32", "NCHW", "image")
        points = TensorSpec("coordinates", (None, 3, columns), "float32", "NKC", "coordinates")
        super().__init__(Artifact("onnx", "ort", "fp32", "f.onnx", "0" * 64, (image,), (points,), LimitSpec(), {}))
        self.crops: list[NDArray[np.float32]] = []

    def _infer(self, feeds: Any) -> dict[str, NDArray[np.float32]]:
        image = feeds["image"]
        self.crops += list(image)
        rows, columns = np.indices(image.shape[2:]) + 0.5
        weights = np.maximum(image - 0.2, 0)
        total = weights.sum(axis=(2, 3)) + 1e-9
        x, y = ((weights * place).sum(axis=(2, 3)) / total for place in (columns, rows))
        return {"coordinates": np.stack([x, y], axis=-1).astype(np.float32)}

    def _release(self) -> None:
        self.crops = []


@pytest.fixture
def finder() -> PoseEstimator:
    return PoseEstimator(SPEC, Finder(), "rgb")


@pytest.mark.parametrize("case", VECTORS["crops"], ids=lambda case: f"{case['box'][4]:g}")
def test_the_vectors_of_crops(case: dict[str, Any]) -> None:
    spec = dataclasses.replace(SPEC.input, width=case["width"], height=case["height"], box_padding=case["box_padding"])
    matrix = crop_matrix(np.array(case["box"]), spec)
    found = transform_points(np.array(case["points"]), matrix)
    np.testing.assert_allclose(found, case["expected"], rtol=0, atol=VECTORS["tolerance"])
    back = transform_points(np.array(case["expected"]), invert(matrix))
    np.testing.assert_allclose(back, case["points"], rtol=0, atol=VECTORS["tolerance"])


@pytest.mark.parametrize("case", VECTORS["boxes"], ids=lambda case: f"{case['expected'][4]:g}")
def test_the_vectors_of_boxes(case: dict[str, Any]) -> None:
    found = box_around(np.array(case["keypoints"]), tuple(case["rotate_by"]))
    np.testing.assert_allclose(found, case["expected"], rtol=0, atol=VECTORS["tolerance"])


@pytest.mark.parametrize("angle_deg", np.linspace(-180, 180, 25))
def test_keypoints_return_to_where_they_were(angle_deg: float) -> None:
    box = np.array([40.3, 20.7, 191.2, 140.9, angle_deg])
    matrix = crop_matrix(box, SPEC.input)
    points = np.random.default_rng(3).uniform(-100, 500, (50, 2))
    in_crop = transform_points(points, matrix).astype(np.float32)
    back = transform_points(in_crop, invert(matrix)).astype(np.float32)
    assert np.abs(back - points).max() < 1e-3


@pytest.mark.parametrize("angle_deg", [0.0, 30.0, 90.0, 135.0, 180.0, -60.0, -171.0])
def test_a_turned_crop_shows_the_hand_upright_and_finds_it(finder: PoseEstimator, angle_deg: float) -> None:
    keypoints = hand(angle_deg)
    box = box_around(keypoints, TURN)
    assert box[4] == pytest.approx(angle_deg, abs=1e-9)
    pose = finder(picture(keypoints), box)
    session = finder.session
    assert isinstance(session, Finder)
    (wrist, middle, thumb) = session._infer({"image": session.crops[-1][None]})["coordinates"][0]
    assert abs(wrist[0] - middle[0]) < 0.2 and wrist[1] - middle[1] > 60  # up, at any angle
    assert thumb[0] < wrist[0] - 10  # turned, not mirrored
    np.testing.assert_allclose(pose.keypoints, keypoints, rtol=0, atol=0.25)
    assert pose.angle_deg == pytest.approx(angle_deg) and pose.box.tolist() == pytest.approx(box[:4].tolist(), abs=1e-4)
    assert pose.to_dict()["angle_deg"] == round(angle_deg, 3)


class Deep(Finder):
    """Gives depths, too: those of a hand that is bent towards the camera, on the scale of the crop."""

    def _infer(self, feeds: Any) -> dict[str, NDArray[np.float32]]:
        found = super()._infer(feeds)["coordinates"]
        palm_px = np.linalg.norm(found[:, 1] - found[:, 0], axis=-1)
        z = palm_px[:, None, None] * np.array([0.0, -0.5, 0.25], np.float32)[None, :, None]
        return {"coordinates": np.concatenate([found, z], axis=-1).astype(np.float32)}


@pytest.mark.parametrize("angle_deg", [0.0, 75.0, -140.0])
def test_three_dimensions_have_the_axes_of_the_image(angle_deg: float) -> None:
    depth = {"columns": ["x", "y", "z"], "root_keypoint": 0, "unit": "pixel", "scale_bones": [[0, 1]]}
    spec = ModelSpec.from_dict({**DATA, "decoder": {**DATA["decoder"], **depth}})
    session = Deep(columns=3)
    keypoints = hand(angle_deg)
    pose = PoseEstimator(spec, session, "rgb")(picture(keypoints), box_around(keypoints, TURN))
    assert pose.keypoints_3d is not None
    palm_px = 60 * np.sqrt(1 + 0.5**2)
    expected = np.column_stack([(keypoints - keypoints[0]) / palm_px, 60 * np.array([0, -0.5, 0.25]) / palm_px])
    np.testing.assert_allclose(pose.keypoints_3d, expected, rtol=0, atol=0.01)


def test_angle_0_and_no_rotate_by_are_the_same_to_the_bit() -> None:
    image = np.random.default_rng(0).integers(0, 256, (260, 300, 3), np.uint8)
    for corners in ([40.3, 20.7, 191.2, 140.9], [-20.0, 3.0, 280.5, 300.0], [1.0, 2.0, 3.0, 4.5]):
        straight, matrix = Preprocessor(STRAIGHT.input, "rgb").crop(image, np.array(corners))
        turned, same = Preprocessor(SPEC.input, "rgb").crop(image, np.array([*corners, 0.0]))
        np.testing.assert_array_equal(straight, turned)
        np.testing.assert_array_equal(matrix, same)


def test_a_box_without_an_angle_is_at_0(finder: PoseEstimator) -> None:
    pose = finder(picture(hand(0)), (110, 90, 190, 170))
    assert pose.angle_deg == 0.0
    assert PoseEstimator(STRAIGHT, Finder(), "rgb")(picture(hand(0)), (110, 90, 190, 170)).angle_deg is None


def test_what_is_no_turned_box_is_refused() -> None:
    with pytest.raises(UsageError, match=r"angle of 30 degrees, and crops of this model are not turned\.") as caught:
        PoseEstimator(STRAIGHT, Finder(), "rgb")(picture(hand(0)), (110, 90, 190, 170, 30))
    assert "rotate_by of [input]" in caught.value.hint
    with pytest.raises(UsageError, match="is not four finite numbers"):
        check_box((0, 0, 5, 5, float("nan")), 10, 10)
    with pytest.raises(UsageError, match="The angle of the box"):
        check_box((0, 0, 5, 5, 1e9), 10, 10)
    with pytest.raises(UsageError, match="lies outside the 100 x 50 image"):
        check_box((101, 0, 103, 40, 0), 50, 100)
    assert check_box((101, 0, 103, 40, 90), 50, 100).shape == (5,)  # turned, its end lies inside


@pytest.mark.parametrize(("angle_deg", "looks"), [(0.0, 2), (-25.0, 2), (50.0, 6), (-100.0, 6), (175.0, 6)])
def test_an_angle_that_nobody_knows_is_found(finder: PoseEstimator, angle_deg: float, looks: int) -> None:
    keypoints = hand(angle_deg)
    pose = finder.at_any_angle(picture(keypoints), (90, 70, 210, 190))
    assert pose.angle_deg == pytest.approx(angle_deg, abs=1.5)
    np.testing.assert_allclose(pose.keypoints, keypoints, rtol=0, atol=0.25)
    assert isinstance(finder.session, Finder) and len(finder.session.crops) == looks


def test_a_box_that_has_an_angle_is_looked_into_once(finder: PoseEstimator) -> None:
    image, box = picture(hand(140)), (90, 70, 210, 190, 80)
    assert finder.at_any_angle(image, box) == finder(image, box) and finder(image, box).angle_deg == 80


def test_there_is_one_look_where_crops_are_not_turned() -> None:
    estimator = PoseEstimator(STRAIGHT, Finder(), "rgb")
    assert at_any_angle(estimator, STRAIGHT.input) is estimator
    image, box = picture(hand(20)), (90, 70, 210, 190)
    assert estimator.at_any_angle(image, box) == estimator(image, box)


def test_a_first_look_that_finds_nothing_is_the_result(finder: PoseEstimator) -> None:
    pose = finder.at_any_angle(np.zeros((260, 300, 3), np.uint8), (90, 70, 210, 190))
    assert pose.angle_deg == 0.0


def test_a_network_that_errs_on_turned_hands_finds_one_upside_down() -> None:
    truth, image = 170.0, np.zeros((260, 300, 3), np.uint8)

    def estimate(image: Any, box: Any, **options: Any) -> Pose:
        """Right where the crop is nearly upright; else it turns the hand by half a turn, and is less sure of it."""
        off = abs(wrapped(truth - (box[4] if len(box) > 4 else 0.0)))
        points = hand(truth if off < 60 else truth + 120).astype(np.float32)
        scores = np.full(3, 1 - off / 200, np.float32)
        return Pose(points, scores, np.asarray(box[:4], np.float32), angle_deg=float(box[4]) if len(box) > 4 else 0.0)

    box = (90, 70, 210, 190)
    once = estimate(image, box_around(estimate(image, box).keypoints, TURN))
    assert abs(wrapped(once.angle_deg - truth)) > 90, "the angle that a first look alone tells is wrong"
    found = at_any_angle(estimate, SPEC.input)(image, box)
    assert found.angle_deg == pytest.approx(truth, abs=0.1)
    np.testing.assert_allclose(found.keypoints, hand(truth), atol=1e-3)


def test_of_several_each_is_looked_at_as_often_as_it_needs() -> None:
    asked: list[list[float]] = []

    def look(boxes: Sequence[NDArray[np.float64]]) -> list[Pose | None]:
        asked.append([float(box[4]) for box in boxes])
        return [Pose(hand(40).astype(np.float32), np.ones(3, np.float32), box[:4].astype(np.float32)) for box in boxes]

    boxes = [np.array([90.0, 70, 210, 190])] * 3
    first = [
        Pose(hand(angle).astype(np.float32), np.ones(3, np.float32), boxes[0].astype(np.float32)) for angle in (5, 80)
    ]
    upright, turned, nobody = seek(look, [*first, None], boxes, TURN, (260, 300))
    assert asked[0] == [90, 180, -90] and asked[1] == pytest.approx([5, 80, 40], abs=1e-3) and len(asked) == 2
    assert upright is not None and turned is not None and nobody is None
    there = [0.1, 0.9, 0.2]

    def by_presence(boxes: Sequence[NDArray[np.float64]]) -> list[Pose | None]:
        """Of a network without scores, whose last look at the sideways hand alone shows one."""
        return [
            dataclasses.replace(first[1], presence=presence, box=box[:4].astype(np.float32))
            for box, presence in zip(boxes, there, strict=False)
        ]

    (found,) = seek(by_presence, [dataclasses.replace(first[1], presence=0.05)], boxes[:1], TURN, (260, 300))
    assert found is not None and found.presence == 0.9, "presence decides where scores do not"
    absent = [dataclasses.replace(first[0], presence=0.4), dataclasses.replace(first[0], presence=0.6)]
    asked.clear()
    seek(look, absent, boxes[:2], TURN, (260, 300))
    assert len(asked[0]) == 3, "a hand that is said not to be there is sought"
    assert seek(lambda boxes: [None for _ in boxes], first, boxes[:2], TURN, (260, 300)) == first


def test_a_hand_is_followed_all_the_way_round(finder: PoseEstimator) -> None:
    track = BoxTracker(finder, (100, 80, 200, 180))
    boxes = []
    for angle_deg in range(0, 725, 12):  # twice round, over 180 and 360
        keypoints = hand(angle_deg, (150 + angle_deg / 30, 130))
        pose = track(picture(keypoints))
        assert track.found
        np.testing.assert_allclose(pose.keypoints, keypoints, rtol=0, atol=0.35)
        boxes.append(np.asarray(track.box))
    angles = np.array([box[4] for box in boxes])
    assert angles.min() > -180 and angles.max() <= 180
    steps = np.array([wrapped(float(step)) for step in np.diff(angles)])
    np.testing.assert_allclose(steps, 12, rtol=0, atol=1.5)
    middles = np.array([(box[:2] + box[2:4]) / 2 for box in boxes])
    assert np.linalg.norm(np.diff(middles, axis=0), axis=1).max() < 4  # no jump at 180


class OfTightBoxes(PoseEstimator):
    """Says that nobody is there unless the keypoints fill its box; counts and tells its looks."""

    def __call__(self, image: Any, box: Any = None, **options: Any) -> Pose:
        pose = super().__call__(image, box, **options)
        filled = float(np.ptp(pose.keypoints, axis=0).max()) / float((pose.box[2:] - pose.box[:2]).max())
        self.angles.append(pose.angle_deg)
        return dataclasses.replace(pose, presence=0.9 if filled > 0.6 else 0.1)

    def looks(self) -> list[float | None]:
        """The angles of the looks since the last call."""
        found, self.angles = self.angles, []
        return found

    angles: list[float | None]


def test_nobody_costs_two_looks_a_frame_until_somebody_is_there() -> None:
    estimator = OfTightBoxes(SPEC, Finder(), "rgb")
    estimator.angles = []
    keypoints, nobody = hand(150), np.zeros((260, 300, 3), np.uint8)
    for empty_frames in (1, 2, 5):
        track, quarters = BoxTracker(estimator), []
        track(nobody)
        assert len(estimator.looks()) >= 4 and not track.found
        for _ in range(empty_frames):
            track(nobody)
            first, *others = estimator.looks()
            quarters.append(first)
            assert len(others) <= 1 and not track.found and track.box is None
        assert quarters == [0, 90, 180, -90, 0][:empty_frames]
        pose = track(picture(keypoints))
        assert track.found and len(estimator.looks()) == 2, "presence is that of the tight box"
        np.testing.assert_allclose(pose.keypoints, keypoints, rtol=0, atol=0.35)
        track(picture(keypoints))
        assert len(estimator.looks()) == 1


def test_who_is_lost_and_a_box_that_somebody_sets_are_looked_for_at_all_angles() -> None:
    estimator = OfTightBoxes(SPEC, Finder(), "rgb")
    estimator.angles = []
    nobody, track = np.zeros((260, 300, 3), np.uint8), BoxTracker(estimator, (60, 40, 240, 220))
    track(picture(hand(0)))
    track(nobody)
    estimator.looks()
    assert not track.found
    track(nobody)
    assert len(estimator.looks()) >= 4
    track(nobody)
    assert len(estimator.looks()) <= 2
    track.box = (90.0, 70, 210, 190)
    track(nobody)
    assert len(estimator.looks()) >= 4
    track(nobody)
    estimator.looks()
    track(np.zeros((200, 300, 3), np.uint8))
    assert len(estimator.looks()) >= 4, "a frame of another size begins anew"


def test_the_angle_stays_where_keypoints_do_not_tell_it(finder: PoseEstimator) -> None:
    pose = finder(picture(hand(40)), box_around(hand(40), TURN))
    fallen = np.array([[150, 130], [150, 130], [120, 110]], np.float32)
    found = next_box(dataclasses.replace(pose, keypoints=fallen), 260, 300, margin=0.05, min_score=0.3, turn=TURN)
    assert found is not None and found[4] == pytest.approx(40)
    assert angle_of(fallen, TURN) is None


def test_labels_tell_the_angle(tmp_path: Path) -> None:
    names = ["a.png", "b.png", "c.png"]
    samples: list[dict[str, Any]] = [
        {"image": names[0], "keypoints": hand(70).tolist()},
        {
            "image": names[1],
            "keypoints": [[*point, seen] for point, seen in zip(hand(70).tolist(), (1, 0, 1), strict=True)],
        },
        {"image": names[2], "box": [10, 20, 60, 90]},
    ]
    (tmp_path / "labels.json").write_text(json.dumps({"samples": samples}), encoding="utf-8")
    told, half, bare = read_boxes(tmp_path)
    np.testing.assert_allclose(told.placed(TURN), turned_box(hand(70), 70.0), atol=1e-9)
    np.testing.assert_array_equal(told.placed(None), told.box)
    assert half.placed(TURN).tolist() == [*half.box.tolist(), 0.0]
    assert bare.placed(TURN).tolist() == [10, 20, 60, 90, 0]
    first, second = read_labels(tmp_path)
    np.testing.assert_allclose(first.placed(TURN), told.placed(TURN))
    assert second.placed(TURN)[4] == 0


def test_an_evaluation_says_whose_angles_it_has(finder: PoseEstimator, tmp_path: Path) -> None:
    keypoints, file = hand(100), tmp_path / "a.png"
    cv2.imwrite(str(file), cv2.cvtColor(picture(keypoints), cv2.COLOR_RGB2BGR))
    labels = [LabelledImage(file, keypoints, np.array([90.0, 70, 210, 190]), None)]
    session = finder.session
    assert isinstance(session, Finder)
    own = evaluate(finder, labels, "x", tmp_path)
    assert (own.angles, len(session.crops)) == ("found", 6)
    given = evaluate(finder, labels, "x", tmp_path, angles="labels")
    assert (given.angles, len(session.crops)) == ("labels", 7)
    assert given.worst[0].angle_deg == pytest.approx(100) and own.epe_px < 0.3 and given.epe_px < 0.3
    straight = evaluate(PoseEstimator(STRAIGHT, Finder(), "rgb"), labels, "x", tmp_path, angles="labels")
    assert straight.angles is None and straight.worst[0].box == (90, 70, 210, 190)


def test_the_part_of_a_turned_crop_that_is_seen() -> None:
    box = np.array([120.0, 100.0, 180.0, 160.0, 33.0])
    inside = seen_part(crop_matrix(box, SPEC.input), 260, 300, SPEC.input)
    assert inside == (slice(0, 128), slice(0, 96))
    white, edge = np.full((260, 300, 3), 255, np.uint8), np.array([0.0, 0.0, 60.0, 80.0, 33.0])
    matrix = crop_matrix(edge, SPEC.input)
    rows, columns = seen_part(matrix, 260, 300, SPEC.input)
    seen = warp(white, matrix, 128, 96, 0)[rows, columns]
    assert (seen > 200).all() and 10 < seen.shape[0] < 128


def test_the_overlay_has_the_turned_box(finder: PoseEstimator) -> None:
    keypoints = hand(45)
    image = picture(keypoints)
    pose = finder(image, turned_box(keypoints, 45.0, 0.3))
    drawn = overlay(image, [pose], SPEC.skeleton)
    factor = len(drawn) // len(image)
    corners = corners_of(np.append(pose.box, pose.angle_deg or 0.0))
    for first, second in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        x, y = ((first + second) / 2 * factor).astype(int)
        assert drawn[y - 2 : y + 3, x - 2 : x + 3].max() > 200
    plain = overlay(image, [dataclasses.replace(pose, angle_deg=None)], SPEC.skeleton)
    assert (plain != drawn).any()


def test_rotate_by_is_read_by_name_and_written_by_index() -> None:
    assert SPEC.input.rotate_by == SPEC.input.turn == (0, 1)
    assert ModelSpec.from_dict(json.loads(json.dumps(SPEC.to_dict()))) == SPEC
    assert "rotate_by" not in STRAIGHT.to_dict()["input"] and STRAIGHT.input.turn is None
    with pytest.raises(SpecError, match="has names: wrist, middle"):
        _ = InputSpec(128, 96, "rgb", (0.0,) * 3, (255.0,) * 3, 1.25, 0, rotate_by=("wrist", "middle")).turn


@pytest.mark.parametrize(
    ("given", "said", "hint"),
    [
        (["wrist", "middel"], "input.rotate_by names 'middel', which is no keypoint", "wrist, middle, thumb"),
        ([0, 3], "input.rotate_by names 3, which is no keypoint", "wrist, middle, thumb"),
        (["wrist", "wrist"], "input.rotate_by names one keypoint twice", "Correct"),
        (["wrist"], "input.rotate_by is ['wrist'], which has the wrong type", "list of 2 values"),
    ],
)
def test_a_wrong_rotate_by_is_told(given: list[Any], said: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        ModelSpec.from_dict({**DATA, "input": {**DATA["input"], "rotate_by": given}})
    assert said in caught.value.message and hint in caught.value.hint
    with pytest.raises(SpecError, match=r"input\.rotate_by is for networks that are given boxes"):
        ModelSpec.from_dict({**DATA, "input": {**DATA["input"], "letterbox": "centre"}})
