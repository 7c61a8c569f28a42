"""Accuracy on labels: which samples count, and what is None where there is no third dimension."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy.bench.evaluation import errors_of_each, evaluation_labels, ignored_labels, keypoint_errors
from splite_deploy.errors import UsageError
from splite_deploy.metrics.labels import read_labels

TRUTH = np.array([[10.0, 10.0], [50.0, 10.0], [10.0, 50.0]])
WORLD = np.array([[0.0, 0.0, 0.0], [40.0, 0.0, 5.0], [0.0, 40.0, 0.0]])


def write(folder: Path, *extra: dict[str, Any]) -> Path:
    """One sample for each set of extra fields."""
    samples = []
    for index, fields in enumerate(extra):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((60, 60, 3), (255, 0, 0), np.uint8))  # blue
        samples.append({"image": f"{index}.png", "keypoints": TRUTH.tolist(), **fields})
    (folder / "labels.json").write_text(json.dumps({"samples": samples}), encoding="utf-8")
    return folder / "labels.json"


def off_by_four(image: NDArray[np.uint8], box: NDArray[np.float64]) -> tuple[Any, Any]:
    assert image[0, 0].tolist() == [0, 0, 255]  # RGB
    np.testing.assert_array_equal(box, [10, 10, 50, 50])
    return np.add(TRUTH, [4.0, 0.0]), 2 * WORLD + 1


def test_without_a_third_dimension_there_are_no_millimetres(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path, {}, {}))
    accuracy = keypoint_errors(labels, off_by_four).summary()
    assert (accuracy.images, accuracy.pck_05, accuracy.pa_mpjpe_mm) == (2, 0.0, None)
    assert accuracy.mean_error_box_pct == pytest.approx(10.0)
    assert str(accuracy) == "2 images: mean error 10.00 % of box, PCK@0.05 0.0000"


def test_samples_with_a_third_dimension_count_alone(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path, {}, {"world_mm": WORLD.tolist()}))
    errors = errors_of_each(labels, {"a": off_by_four, "b": lambda image, box: (TRUTH, None)})
    assert errors["a"].pa_mpjpe_mm is not None and errors["a"].pa_mpjpe_mm.shape == (1,)
    assert errors["a"].summary().pa_mpjpe_mm == pytest.approx(0.0, abs=1e-9)  # the similarity is taken off
    assert "PA-MPJPE 0.00 mm" in str(errors["a"].summary())
    assert errors["b"].pa_mpjpe_mm is None and errors["b"].box_share.max() == 0


def test_an_estimate_without_a_third_dimension_is_left_out_of_it(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path, {"world_mm": (3 * WORLD).tolist()}, {"world_mm": WORLD.tolist()}))
    estimates = iter([None, WORLD])  # as for a palm without extent in the image
    found = keypoint_errors(labels, lambda image, box: (TRUTH, next(estimates))).pa_mpjpe_mm
    assert found is not None and found.shape == (1,)
    assert found[0] == pytest.approx(0, abs=1e-9)


def test_the_split_val_is_taken_where_there_is_one(tmp_path: Path) -> None:
    file = write(tmp_path, {"split": "train"}, {"split": "val"})
    assert [label.path.name for label in evaluation_labels(file, 3)] == ["1.png"]
    assert len(evaluation_labels(write(tmp_path, {}, {}), 3)) == 2
    with pytest.raises(UsageError, match="have 3 keypoints, the model 21") as caught:
        evaluation_labels(file, 21)
    assert "skeleton" in caught.value.hint


def test_bodies_of_whole_body_labels_are_those_with_a_labelled_keypoint(tmp_path: Path) -> None:
    """Whoever has a labelled face alone is nobody that a body network has to find."""
    points = np.random.default_rng(0).uniform(5, 60, (133, 2))
    body, face = np.zeros(133), np.zeros(133)
    body[:5], face[30:40] = 1, 1
    samples = [
        {"image": f"{number}.png", "keypoints": np.column_stack([points, seen]).tolist(), "box": [0, 0, 64, 64]}
        for number, seen in enumerate((body, face))
    ]
    for name in ("0.png", "1.png"):
        (tmp_path / name).touch()
    file = tmp_path / "labels.json"
    file.write_text(json.dumps({"samples": samples}), encoding="utf-8")
    assert [one.path.name for one in evaluation_labels(file, 17)] == ["0.png"]
    assert [one.path.name for one in ignored_labels(file, 17)] == ["1.png"]
    assert len(evaluation_labels(file, 133)) == 2
    file.write_text(json.dumps({"samples": samples[1:]}), encoding="utf-8")
    with pytest.raises(UsageError, match="labels none of the 17 keypoints"):
        evaluation_labels(file, 17)
