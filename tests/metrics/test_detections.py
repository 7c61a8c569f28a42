"""Accuracy of boxes: precision over all scores, recall at the threshold, and what is found where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy.bundle.report import BoxAccuracy
from splite_deploy.metrics.detections import FoundBoxes, box_accuracy, pairs_of
from tests.shared.coco import coco_ap

NONE = np.empty((0, 4))


def boxes(*places: tuple[float, float], side: float = 10.0) -> NDArray[np.float64]:
    """Squares with their upper left corner at (x, y)."""
    return np.array([[x, y, x + side, y + side] for x, y in places], np.float64).reshape(-1, 4)


def found(
    places: NDArray[np.float64], scores: list[float], labelled: NDArray[np.float64], ignored: NDArray[np.float64] = NONE
) -> FoundBoxes:
    return FoundBoxes(places.astype(np.float32), np.array(scores, np.float32), labelled, ignored)


def accuracy(*scenes: FoundBoxes, min_score: float = 0.5) -> BoxAccuracy:
    measured = box_accuracy(scenes, min_score)
    assert measured is not None
    return measured


def test_all_boxes_found_where_they_are() -> None:
    here = boxes((0, 0), (50, 50))
    said = accuracy(found(here, [0.9, 0.8], here), found(NONE, [], NONE))
    assert (said.boxes, said.ap_30, said.ap_50, said.recall_30, said.recall_50) == (2, 1, 1, 1, 1)
    assert (said.empty_images, said.false_alarms, said.min_score) == (1, 0, 0.5)


def test_a_box_may_be_right_at_one_overlap_and_wrong_at_the_other() -> None:
    said = accuracy(found(boxes((4, 0)), [0.9], boxes((0, 0))))  # 6 of 14
    assert (said.ap_30, said.ap_50, said.recall_30, said.recall_50) == (1, 0, 1, 0)
    assert (said.empty_images, said.false_alarms) == (0, None)


def test_scores_below_the_threshold_count_in_the_precision_alone() -> None:
    here = boxes((0, 0), (50, 50))
    said = accuracy(found(here, [0.9, 0.2], here), found(boxes((0, 0), (30, 0), (60, 0)), [0.7, 0.6, 0.1], NONE))
    assert (said.ap_50, said.recall_50, said.false_alarms) == (pytest.approx(51 / 101 + 50 / 101 * 2 / 4), 0.5, 2)
    assert accuracy(found(here, [0.9, 0.2], here), min_score=0.1).recall_50 == 1


def test_what_nobody_has_to_find_counts_neither_way() -> None:
    here, other = boxes((0, 0)), boxes((50, 50))
    said = accuracy(found(np.concatenate([here, other]), [0.8, 0.9], here, other))
    assert (said.boxes, said.ap_50, said.recall_50, said.empty_images) == (1, 1, 1, 0)
    assert accuracy(found(np.concatenate([here, other]), [0.8, 0.9], here)).ap_50 == pytest.approx(0.5)


def test_a_hand_that_is_found_twice_is_once_a_false_alarm() -> None:
    said = accuracy(found(boxes((0, 0), (1, 0)), [0.9, 0.8], boxes((0, 0), (50, 50))))
    assert said.recall_50 == 0.5 and said.ap_50 == pytest.approx(51 / 101)


def test_without_labelled_boxes_there_is_nothing_to_say() -> None:
    assert box_accuracy([found(boxes((0, 0)), [0.9], NONE)], 0.5) is None


def test_a_crowd_takes_whatever_lies_inside_it() -> None:
    here, crowd = boxes((300, 300)), boxes((0, 0), side=200.0)
    shown = np.concatenate([boxes((0, 0), (50, 50)), here])  # a twentieth of the crowd's width each
    sure = found(shown, [0.9, 0.85, 0.8], here)
    in_crowd = FoundBoxes(sure.boxes, sure.scores, here, NONE, crowd)
    assert (accuracy(in_crowd).ap_50, in_crowd.empty) == (1, False)
    assert accuracy(found(shown, [0.9, 0.85, 0.8], here, crowd)).ap_50 == pytest.approx(1 / 3)  # to ignore, no crowd
    outside = FoundBoxes(boxes((195, 0)).astype(np.float32), np.array([0.9], np.float32), here, NONE, crowd)
    both = [in_crowd, outside]  # a half of it lies inside
    assert (accuracy(*both).ap_50, accuracy(*both).ap_30) == (pytest.approx(51 / 101), pytest.approx(51 / 101))


def test_many_boxes_of_a_picture_count() -> None:
    here = boxes(*((x, y) for x in range(0, 90, 15) for y in range(0, 90, 15)))
    said = accuracy(found(here, np.linspace(0.9, 0.6, len(here)).tolist(), here))
    assert (said.boxes, said.ap_30, said.ap_50, said.recall_50) == (36, 1, 1, 1)


def test_boxes_beyond_what_the_model_gives_count_in_the_precision_alone() -> None:
    here = boxes((0, 0), (50, 50))
    scenes = [found(here, [0.9, 0.8], here), found(here, [0.7, 0.6], NONE)]
    said = box_accuracy(scenes, 0.5, 1)
    assert said is not None and (said.recall_50, said.false_alarms, said.ap_50) == (0.5, 1, 1)


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_of_boxes_is_that_of_pycocotools(seed: int) -> None:
    """Pictures with many boxes, more than a hundred in one, with crowds, and without anything."""
    rng = np.random.default_rng(seed)
    scenes, annotations, results = [], [], []

    def somewhere(count: int, least: float, most: float) -> NDArray[np.float64]:
        corners = np.round(rng.uniform(0, 200, (count, 2)), 2)
        return np.hstack([corners, corners + np.round(rng.uniform(least, most, corners.shape), 2)])

    for image in range(8):
        labelled = somewhere([0, 3, 5, 12, 30, 130, 2, 1][image], 10, 60)
        crowds = somewhere([1, 0, 2, 1, 0, 1, 0, 0][image], 60, 150)
        near = np.repeat(labelled, rng.integers(0, 3, len(labelled)), axis=0)
        shown = np.concatenate([near + rng.normal(0, 4, near.shape), somewhere(4, 10, 60)])
        shown = shown[(shown[:, 2:] > shown[:, :2]).all(axis=1)].astype(np.float32)
        scores = np.sort(np.round(rng.uniform(0, 1, len(shown)), 2).astype(np.float32))[::-1]
        scenes.append(FoundBoxes(shown, scores, labelled, NONE, crowds))
        for x0, y0, x1, y1, crowd in [*((*box, 0) for box in labelled), *((*box, 1) for box in crowds)]:
            facts = {"image_id": image, "category_id": 1, "iscrowd": crowd, "area": (x1 - x0) * (y1 - y0)}
            annotations.append({"id": len(annotations) + 1, "bbox": [x0, y0, x1 - x0, y1 - y0], **facts})
        for (x0, y0, x1, y1), score in zip(shown.astype(float).tolist(), scores.tolist(), strict=True):
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0]}
            results.append({"image_id": image, "category_id": 1, "score": score, **box})
    truth = {"images": [{"id": i} for i in range(8)], "annotations": annotations, "categories": [{"id": 1}]}
    said = accuracy(*scenes)
    assert 0.1 < said.ap_50 < said.ap_30 < 0.95
    assert said.ap_30 == pytest.approx(coco_ap(truth, results, overlap=0.3), abs=1e-9)
    assert said.ap_50 == pytest.approx(coco_ap(truth, results, overlap=0.5), abs=1e-9)


def test_pairs_take_the_largest_overlap_first() -> None:
    shares = np.array([[0.6, 0.9], [0.7, 0.8]], np.float32)
    assert pairs_of(shares, 0.5) == [(0, 1), (1, 0)] and pairs_of(shares, 0.75) == [(0, 1)]
    assert pairs_of(np.zeros((0, 3), np.float32), 0.5) == []
