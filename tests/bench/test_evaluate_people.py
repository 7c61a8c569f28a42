"""Accuracy of a network that finds people itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy.bench.evaluation import (
    evaluate,
    evaluation_labels,
    evaluation_scenes,
    ignored_labels,
    people_accuracy,
)
from splite_deploy.bench.report.sentences import _accuracy
from splite_deploy.bundle import TensorSpec
from splite_deploy.bundle.report import Accuracy
from splite_deploy.decoders import Anchors, YoloPose
from splite_deploy.decoders import Boxes as BoxDecoder
from splite_deploy.errors import UsageError
from splite_deploy.metrics.labels import read_labels, read_scenes
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.spec import InputSpec, ModelSpec, SkeletonSpec
from splite_deploy.spec.presets import COCO17
from tests.shared.coco import coco_ap

SIZE = 96


class Scripted:
    """A network that finds the people of a list: picture i, of which all pixels are i, shows the people of list i."""

    def __init__(self, people: list[NDArray[np.float64]]) -> None:
        self.people = people
        self.inputs = (TensorSpec("image", (1, 3, SIZE, SIZE), "float32", "NCHW", "image"),)
        self.outputs = (TensorSpec("people", (1, None, 5 + 1 + 51), "float32", "NAC", "people"),)

    def run(self, feeds: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        return {"people": self.people[round(float(feeds["image"][0, 0, 40, 40]))][None].astype(np.float32)}

    def close(self) -> None:
        pass


def estimator(people: list[NDArray[np.float64]]) -> PoseEstimator:
    decoder = YoloPose(
        min_score=0.3, overlap=0.7, max_people=20, form="final", visibility=True, boxes="xyxy", scale="pixel"
    )
    spec = ModelSpec(
        name="scripted",
        input=InputSpec(SIZE, SIZE, "rgb", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, 0, letterbox="centre"),
        decoder=decoder,
        skeleton=SkeletonSpec(COCO17.keypoint_names, COCO17.edges, COCO17.flip_pairs),
    )
    return PoseEstimator(spec, Scripted(people), "rgb")


def row(points: NDArray[np.float64], score: float) -> NDArray[np.float64]:
    """A person as the network gives it: box, score, class, keypoints with visibility."""
    triples = np.column_stack([points, np.full(17, 0.8)])
    return np.concatenate([points.min(axis=0), points.max(axis=0), [score, 0], triples.ravel()])


def write(folder: Path, pictures: list[list[NDArray[np.float64]]]) -> Path:
    images, annotations = [], []
    for number, people in enumerate(pictures):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((SIZE, SIZE, 3), number, np.uint8))
        images.append({"id": number, "file_name": f"{number}.png"})
        for points in people:
            low, high = points.min(axis=0), points.max(axis=0)
            flat = np.column_stack([points - 0.5, np.full(17, 2)]).ravel().tolist()
            facts = {"image_id": number, "category_id": 1, "iscrowd": 0, "num_keypoints": 17, "keypoints": flat}
            area = float(np.prod(high - low))
            annotations.append(
                {"id": len(annotations) + 1, "bbox": [*low.tolist(), *(high - low).tolist()], "area": area, **facts}
            )
    file = folder / "people.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1}]}))
    return file


def test_the_missed_and_the_imagined_cost_precision_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    pictures = [[rng.uniform(0, 40, (17, 2)), 50 + rng.uniform(0, 40, (17, 2))] for _ in range(3)]
    found, results = [], []
    for number, people in enumerate(pictures):
        rows = [row(points + np.array([0.5, 0]), 0.9 - 0.1 * place) for place, points in enumerate(people)]
        if number == 1:
            rows = [rows[1]]  # one is missed
        if number == 2:
            rows.append(row(rng.uniform(0, 95, (17, 2)), 0.95))  # nobody is there
        found.append(np.stack(rows))
        for one in rows:
            triples = (one[6:].reshape(17, 3) - [0.5, 0.5, 0]).ravel().tolist()
            results.append({"image_id": number, "category_id": 1, "keypoints": triples, "score": float(one[4] * 0.8)})
    file = write(tmp_path, pictures)
    accuracy = evaluate(estimator(found), read_labels(file), "six people", tmp_path)
    assert accuracy.labels_from == "six people, of which 5 were found"
    assert (accuracy.images, accuracy.epe_px) == (5, pytest.approx(0.5, abs=1e-4))
    assert accuracy.oks_ap == pytest.approx(coco_ap(json.loads(file.read_text()), results), abs=1e-6)
    assert accuracy.oks_ap is not None and 0.3 < accuracy.oks_ap < 0.95


def test_people_where_nobody_is_cost_precision(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    points = rng.uniform(0, 40, (17, 2))
    file = write(tmp_path, [[points], []])
    opened = estimator([row(points, 0.5)[None], row(points + 30, 0.9)[None]])
    labels = read_labels(file)
    alone = evaluate(opened, labels, "one", tmp_path)
    both = evaluate(opened, labels, "one", tmp_path, scenes=read_scenes(file))
    assert (alone.oks_ap, both.oks_ap) == (1.0, pytest.approx(0.5))


def test_boxes_are_evaluated_on_all_pictures_and_scores(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    points = [rng.uniform(0, 40, (17, 2)) for _ in range(3)]
    file = write(tmp_path, [[points[0]], [points[1]], []])
    shown = [row(points[0], 0.9)[None], row(points[1], 0.2)[None], np.stack([row(points[2], s) for s in (0.8, 0.1)])]
    accuracy = evaluate(estimator(shown), read_labels(file), "two", tmp_path, scenes=read_scenes(file))
    boxes = accuracy.boxes
    assert boxes is not None and (boxes.boxes, boxes.recall_30, boxes.recall_50, boxes.min_score) == (2, 0.5, 0.5, 0.3)
    assert (boxes.empty_images, boxes.false_alarms) == (1, 1)
    assert boxes.ap_30 == boxes.ap_50 == pytest.approx(51 / 101 + 50 / 101 * 2 / 3)
    said = _accuracy(accuracy)
    assert (
        "2 boxes: AP@0.3 0.8350, AP@0.5 0.8350" in said and "recall at 0.3: 0.5000 (overlap 0.3), 0.5000 (0.5)" in said
    )
    assert "1.000 false alarms in each of 1 pictures that show nothing" in said


class Boxes(Scripted):
    """The same of a network that gives boxes alone."""

    def __init__(self, people: list[NDArray[np.float64]]) -> None:
        super().__init__(people)
        shapes = {"boxes": (1, None, 4), "scores": (1, None, 1)}
        self.outputs = tuple(TensorSpec(role, shape, "float32", "NAC", role) for role, shape in shapes.items())

    def run(self, feeds: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        rows = super().run(feeds)["people"]
        return {"boxes": rows[..., :4], "scores": rows[..., 4:5]}


def test_a_detector_without_keypoints_is_evaluated_by_its_boxes(tmp_path: Path) -> None:
    pictures = [np.full((60, 80, 3), number, np.uint8) for number in range(3)]
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture)
    samples = [
        {"image": "0.png", "box": [10, 10, 50, 50]},
        {"image": "1.png", "keypoints": [[20.0, 20.0], [60.0, 40.0], [30.0, 35.0]]},
        {"image": "2.png", "empty": True},
    ]
    file = tmp_path / "labels.json"
    file.write_text(json.dumps({"samples": samples}))
    labels = evaluation_labels(file, 0)
    assert len(labels) == 2 and ignored_labels(file, 0) == []
    in_input = [[12.0, 24.0, 60.0, 72.0, 0.9], [24.0, 36.0, 72.0, 60.0, 0.8]]  # 80 x 60 lies at (0, 12), times 1.2
    shown = [np.array([one]) for one in in_input] + [np.array([[9.0, 20, 40, 60, 0.2]])]
    decoder = BoxDecoder(0.3, 0.7, 20, "xyxy", "pixel", "probabilities", "greedy")
    image = InputSpec(SIZE, SIZE, "rgb", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, 0, letterbox="centre")
    spec = ModelSpec("boxes", image, decoder, SkeletonSpec((), ()))
    opened = PoseEstimator(spec, Boxes(shown), "rgb")
    accuracy = evaluate(opened, labels, "two", tmp_path, scenes=evaluation_scenes(file))
    assert accuracy.images == 2 and accuracy.boxes is not None and accuracy.oks_ap is None
    assert (accuracy.boxes.ap_50, accuracy.boxes.recall_50, accuracy.boxes.false_alarms) == (1, 1, 0)
    assert accuracy.epe_px == pytest.approx(0.0, abs=1e-4) and accuracy.pck_05 == 1


def test_weighted_boxes_are_evaluated_as_they_are_given(tmp_path: Path) -> None:
    """Candidates below the threshold, thirty of them to the right, are no part of the mean that is given."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "labels.json").write_text(json.dumps({"samples": [{"image": "a.png", "box": [10, 10, 30, 30]}]}))
    boxes, logits = np.zeros((1, 1024, 4), np.float32), np.full((1, 1024, 1), -20, np.float32)
    for number, (x, score) in enumerate([(20, 0.9), *[(29, 0.2)] * 30, (52, 0.2)]):
        boxes[0, number] = x - (number + 0.5) * 2, 20 - 1, 20, 20  # of the anchor in column `number` of the first row
        logits[0, number] = np.log(score / (1 - score))
    image = InputSpec(64, 64, "rgb", (0.0,) * 3, (1.0,) * 3, 1.0, 0, letterbox="centre")
    for nms, right in (("weighted", 1.0), ("greedy", 1.0)):
        decoder = Anchors(0.5, 0.3, 10, (2,), (1.0,), 0.0, 0.5, True, 64.0, 100.0, nms)  # type: ignore[arg-type]
        opened = PoseEstimator(ModelSpec("anchors", image, decoder, SkeletonSpec((), ())), Given(boxes, logits), "rgb")
        (given,) = opened.detect(np.zeros((64, 64, 3), np.uint8))
        np.testing.assert_allclose(given.box, [10, 10, 30, 30], atol=1e-3)
        found = evaluate(opened, evaluation_labels(tmp_path, 0), "a", tmp_path, scenes=evaluation_scenes(tmp_path))
        assert found.boxes is not None and found.boxes.ap_50 == found.boxes.recall_50 == right, nms
        assert found.epe_px == pytest.approx(0, abs=1e-3)


class Given(Scripted):
    """The same of anchors, on every picture."""

    def __init__(self, boxes: NDArray[np.float32], logits: NDArray[np.float32]) -> None:
        super().__init__([])
        self.given = {"boxes": boxes, "logits": logits}
        self.inputs = (TensorSpec("image", (1, 3, 64, 64), "float32", "NCHW", "image"),)
        self.outputs = tuple(TensorSpec(role, one.shape, "float32", "NAC", role) for role, one in self.given.items())

    def run(self, feeds: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        return self.given


def test_a_network_that_finds_nobody_has_a_precision_of_nothing(tmp_path: Path) -> None:
    points = np.random.default_rng(1).uniform(0, 40, (17, 2))
    file = write(tmp_path, [[points]])
    nobody = [row(points + 50, 0.9)[None]], np.zeros((1, 0, 57))
    for people in nobody:
        found = evaluate(estimator([*people]), read_labels(file), "one", tmp_path, scenes=read_scenes(file))
        assert found.boxes is not None and found.labels_from == "one, of which 0 were found"
        assert (found.boxes.ap_30, found.boxes.ap_50, found.boxes.recall_30, found.oks_ap) == (0, 0, 0, 0)
        assert (found.images, found.epe_px, found.epe_box_pct, found.pck_05, found.pck_auc) == (0, *[None] * 4)
        assert (found.mpjpe_mm, found.worst, found.median) == (None, (), ())
        said = _accuracy(found)
        assert "mean error" not in said and "1 boxes: AP@0.3 0.0000" in said and "Lower min_score" in said
        short = people_accuracy(estimator([*people]), read_labels(file), read_scenes(file))
        assert short == Accuracy(0, None, None, None, found.boxes)
        assert str(short) == "0 images: AP@0.3 0.0000, AP@0.5 0.0000"


def test_a_flip_test_is_for_networks_that_look_into_a_box(tmp_path: Path) -> None:
    points = np.random.default_rng(1).uniform(0, 40, (17, 2))
    file = write(tmp_path, [[points]])
    with pytest.raises(UsageError, match="flip test is for networks that look into a box"):
        evaluate(estimator([row(points, 0.9)[None]]), read_labels(file), "one", tmp_path, flip_test=True)
