"""Accuracy of boxes: precision over all scores, recall at the threshold, and what is found where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy.metrics.detections import BoxAccuracy, FoundBoxes, box_accuracy, pairs_of

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


def test_pairs_take_the_largest_overlap_first() -> None:
    shares = np.array([[0.6, 0.9], [0.7, 0.8]], np.float32)
    assert pairs_of(shares, 0.5) == [(0, 1), (1, 0)] and pairs_of(shares, 0.75) == [(0, 1)]
    assert pairs_of(np.zeros((0, 3), np.float32), 0.5) == []
