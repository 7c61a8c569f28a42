"""Accuracy metrics: values by hand, and what they must not see."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from splite_deploy.metrics.accuracy import (
    Scene,
    average_precision,
    bone_length,
    box_side,
    keypoint_error,
    mpjpe,
    oks,
    oks_outside,
    pa_mpjpe,
    pck,
    pck_auc,
    procrustes_align,
)
from splite_deploy.spec.presets import COCO17
from tests.shared.coco import coco_ap

Points = NDArray[np.float64]
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=60, deadline=None)


def rotation(rng: np.random.Generator, dimensions: int) -> Points:
    q, r = np.linalg.qr(rng.normal(size=(dimensions, dimensions)))
    q = q * np.sign(np.diag(r))
    q[:, 0] *= np.linalg.det(q)
    return np.asarray(q, np.float64)


def test_keypoint_error_by_hand() -> None:
    truth = np.zeros((1, 3, 2))
    predicted = np.array([[[3, 4], [0, 0], [-1, 0]]], np.float32)
    error = keypoint_error(predicted, truth)
    assert error.dtype == np.float64
    np.testing.assert_array_equal(error, [[5, 0, 1]])
    np.testing.assert_array_equal(keypoint_error(np.array([[[1.0, 2, 2]]]), np.zeros((1, 1, 3))), [[3]])


def test_box_side_is_the_longer_side_of_each_sample() -> None:
    wide = [[10, 10], [50, 20], [30, 15]]
    tall = [[0, 0], [5, -7], [1, 9]]
    np.testing.assert_array_equal(box_side(np.array([wide, tall], np.float32)), [40, 16])


@pytest.mark.parametrize(("threshold", "expected"), [(0.05, 0.0), (0.1, 0.25), (0.2, 0.5), (0.25, 0.75), (0.9, 1.0)])
def test_pck_counts_errors_strictly_below_the_threshold(threshold: float, expected: float) -> None:
    assert pck(np.array([[0.05, 0.1], [0.2, 0.3]]), threshold) == expected


@given(seed=seeds, scale=st.floats(0.01, 100), right=st.floats(-1000, 1000))
@quick
def test_normalised_error_ignores_scale_and_shift_of_the_image(seed: int, scale: float, right: float) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 100, (4, 21, 2))
    predicted = truth + rng.normal(0, 5, truth.shape)
    plain = keypoint_error(predicted, truth) / box_side(truth)[:, None]
    predicted, truth = predicted * scale + right, truth * scale + right
    np.testing.assert_allclose(keypoint_error(predicted, truth) / box_side(truth)[:, None], plain, rtol=1e-6)


@pytest.mark.parametrize("dimensions", [2, 3])
@given(seed=seeds, scale=st.floats(0.01, 100))
@quick
def test_pa_mpjpe_ignores_similarities(dimensions: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 50, (3, 21, dimensions))
    predicted = truth + rng.normal(0, 5, truth.shape)
    moved = scale * predicted @ rotation(rng, dimensions).T + rng.normal(0, 500, dimensions)
    np.testing.assert_allclose(pa_mpjpe(moved, truth), pa_mpjpe(predicted, truth), rtol=1e-6)
    similar = scale * truth @ rotation(rng, dimensions).T + rng.normal(0, 500, dimensions)
    np.testing.assert_allclose(pa_mpjpe(similar, truth), 0, atol=1e-6)


@given(seed=seeds, step=st.floats(1e-3, 0.1))
@quick
def test_procrustes_is_the_best_similarity(seed: int, step: float) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = rng.normal(0, 1, (2, 8, 3))
    aligned = procrustes_align(predicted, truth)
    least = np.square(aligned - truth).sum()
    centre = aligned.mean(axis=0)
    np.testing.assert_allclose(centre, truth.mean(axis=0), atol=1e-9)
    # Any small further turn, growth or shift makes it worse.
    axis = rng.normal(0, step, 3)
    turn, _ = np.linalg.qr(np.eye(3) + np.cross(np.eye(3), axis))
    turn = turn * np.sign(np.diag(turn))
    for other in (
        (aligned - centre) @ turn + centre,
        (aligned - centre) * (1 + step) + centre,
        (aligned - centre) * (1 - step) + centre,
        aligned + axis,
    ):
        assert np.square(other - truth).sum() >= least - 1e-9


def test_a_reflection_is_not_undone() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 50, (1, 21, 3))
    mirrored = truth * (-1, 1, 1)
    assert pa_mpjpe(mirrored, truth)[0] > 10
    assert pa_mpjpe(mirrored, mirrored)[0] == pytest.approx(0, abs=1e-9)


def test_a_mirrored_triangle_by_hand() -> None:
    # Plane figures: a mirror image cannot be turned onto an uneven triangle, but its best fit keeps the centroid.
    truth = np.array([[0.0, 0], [4, 0], [0, 2]])
    aligned = procrustes_align(truth * (-1.0, 1.0), truth)
    side = np.linalg.norm(aligned[1] - aligned[0]) / 4
    area = np.linalg.det([aligned[1] - aligned[0], aligned[2] - aligned[0]]) / 2
    assert area == pytest.approx(-4 * side**2)  # still mirrored
    np.testing.assert_allclose(aligned.mean(axis=0), [4 / 3, 2 / 3])


def test_pa_mpjpe_by_hand() -> None:
    # Four corners of a square and the same square stretched: a rectangle 4 x 2 is fitted to a square of side 2.
    # Best scale sum(p.t) / sum(p.p) = (2*1 + 1*1) / (2*2 + 1*1) = 0.6, so corners land at (1.2, 0.6) instead of (1, 1).
    truth = np.array([[[1.0, 1], [-1, 1], [-1, -1], [1, -1]]])
    expected = np.hypot(0.2, 0.4)
    np.testing.assert_allclose(pa_mpjpe(truth * (2.0, 1.0), truth), [expected])


def test_each_sample_is_aligned_by_itself() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(0, 50, (2, 21, 3))
    predicted = np.stack([truth[0] * 3, truth[1] @ rotation(rng, 3) + 7])
    np.testing.assert_allclose(pa_mpjpe(predicted, truth), 0, atol=1e-9)


def test_coinciding_predictions_are_only_shifted() -> None:
    truth = np.array([[0.0, 0, 0], [2, 0, 0], [1, 3, 0]])
    aligned = procrustes_align(np.full((3, 3), 7.0), truth)
    np.testing.assert_allclose(aligned, np.tile(truth.mean(axis=0), (3, 1)))
    assert pa_mpjpe(np.full((1, 3, 3), 7.0), truth[None])[0] == pytest.approx(
        np.linalg.norm(truth - truth.mean(axis=0), axis=1).mean()
    )


@pytest.mark.parametrize(
    ("predicted", "truth"),
    [
        (np.eye(3), np.full((3, 3), 5.0)),
        (np.outer(np.arange(4.0), [1, 2, 2]), np.outer(np.arange(4.0), [0, 0, 3])),
        (np.pad(np.eye(3)[:, :2], ((0, 0), (0, 1))), np.pad(np.eye(3)[:, 1:], ((0, 0), (0, 1)))),
    ],
    ids=["coinciding truth", "lines", "planes"],
)
def test_degenerate_points_align_without_error(predicted: Points, truth: Points) -> None:
    aligned = procrustes_align(predicted, truth)
    assert np.isfinite(aligned).all()
    if np.ptp(truth) == 0 or np.linalg.matrix_rank(truth) == 1:
        np.testing.assert_allclose(aligned, truth, atol=1e-9)


def test_samples_must_match() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        pa_mpjpe(np.zeros((1, 3, 3)), np.zeros((2, 3, 3)))


def test_auc_by_hand() -> None:
    # Errors of 0, half the limit, the limit and twice the limit count for the whole, half, none and none of the area.
    assert pck_auc(np.array([[0.0, 0.1], [0.2, 0.4]]), 0.2) == pytest.approx((1 + 0.5) / 4)


@given(seed=seeds)
@quick
def test_auc_is_the_area_under_pck(seed: int) -> None:
    errors = np.random.default_rng(seed).uniform(0, 0.4, (3, 21))
    steps, limit = 2000, 0.2
    area = sum(pck(errors, limit * (step + 0.5) / steps) for step in range(steps)) / steps
    assert pck_auc(errors, limit) == pytest.approx(area, abs=1e-3)


def test_mpjpe_is_relative_to_the_root_and_nothing_else() -> None:
    truth = np.array([[[0.0, 0, 0], [10, 0, 0], [0, 20, 0]]])
    moved = truth + np.array([100, -50, 7])
    np.testing.assert_allclose(mpjpe(moved, truth, 0), [0])
    np.testing.assert_allclose(mpjpe(2 * moved, truth, 0), [(0 + 10 + 20) / 3])
    np.testing.assert_allclose(mpjpe(2 * moved, truth, 1), [(10 + 0 + math.hypot(10, 20)) / 3])


@given(seed=seeds, root=st.integers(0, 20))
@quick
def test_mpjpe_by_plain_loops(seed: int, root: int) -> None:
    predicted, truth = np.random.default_rng(seed).normal(0, 50, (2, 3, 21, 3))
    expected = []
    for p, t in zip(predicted.tolist(), truth.tolist(), strict=True):
        total = 0.0
        for k in range(21):
            total += math.sqrt(sum((p[k][i] - p[root][i] - t[k][i] + t[root][i]) ** 2 for i in range(3)))
        expected.append(total / 21)
    np.testing.assert_allclose(mpjpe(predicted, truth, root), expected)


def test_bone_length_is_a_root_mean_square() -> None:
    points = np.array([[[0.0, 0, 0], [3, 4, 0], [0, 0, 12]]])
    np.testing.assert_allclose(bone_length(points, [(0, 1), (0, 2)]), [math.sqrt((25 + 144) / 2)])


def test_oks_by_plain_loops() -> None:
    rng = np.random.default_rng(3)
    truth = rng.uniform(0, 200, (4, 17, 2))
    predicted, area = truth + rng.normal(0, 6, truth.shape), rng.uniform(1000, 9000, 4)
    expected = []
    for p, t, a in zip(predicted.tolist(), truth.tolist(), area.tolist(), strict=True):
        total = 0.0
        for (px, py), (tx, ty), sigma in zip(p, t, COCO17.oks_sigmas, strict=True):
            total += math.exp(-((px - tx) ** 2 + (py - ty) ** 2) / (2 * a * (2 * sigma) ** 2))
        expected.append(total / 17)
    np.testing.assert_allclose(oks(predicted, truth, area, COCO17.oks_sigmas), expected)
    np.testing.assert_allclose(oks(truth, truth, area, COCO17.oks_sigmas), 1)


def test_average_precision_is_that_of_the_coco_api() -> None:
    """The expected values are those of pycocotools 2.0.11's COCOeval on the same twelve persons, one in each image."""
    rng = np.random.default_rng(7)
    truth = np.round(rng.uniform(0, 100, (12, 17, 2)), 2)
    noise = rng.choice([0.5, 2, 4, 6, 9, 14], 12)
    predicted = np.round(truth + rng.normal(0, 1, truth.shape) * noise[:, None, None], 2)
    area, scores = np.round(rng.uniform(1500, 6000, 12), 1), np.round(rng.uniform(0, 1, 12), 3)
    similarity = oks(predicted, truth, area, COCO17.oks_sigmas)
    assert similarity[[0, 9]] == pytest.approx([0.986122743511207, 0.1687437632181037])
    assert average_precision(singles(similarity, scores)) == pytest.approx(0.29047619, abs=1e-8)
    assert average_precision(singles(similarity, scores), [0.5]) == pytest.approx(0.49351721, abs=1e-8)
    assert average_precision(singles(similarity, scores), [0.75]) == pytest.approx(0.26815182, abs=1e-8)


def singles(similarity: ArrayLike, scores: ArrayLike) -> list[Scene]:
    """Images with one person and one prediction each."""
    pairs = zip(np.asarray(similarity, float).tolist(), np.asarray(scores, float).tolist(), strict=True)
    return [Scene.of_one(one, score) for one, score in pairs]


def test_average_precision_by_hand() -> None:
    right = np.array([0.9, 0.1])
    assert average_precision(singles(right, [1.0, 0.5]), [0.5]) == pytest.approx(51 / 101)  # recalls 0 to 0.5 at 1
    assert average_precision(singles(right, [0.5, 1.0]), [0.5]) == pytest.approx(51 / 101 / 2)  # the wrong one first
    assert average_precision(singles([1, 1, 1], [0, 0, 0])) == 1
    assert average_precision(singles([0, 0, 0], [1, 1, 1])) == 0
    assert average_precision([]) == 0


@pytest.mark.parametrize("seed", range(8))
def test_average_precision_of_crowded_images_is_that_of_pycocotools(seed: int) -> None:
    """Persons near each other, keypoints without labels, crowds, and persons that nobody labelled."""
    rng = np.random.default_rng(seed)
    annotations, results, scenes = [], [], []
    for image in range(5):
        centre, boxes = rng.uniform(80, 120, 2), []
        people = rng.integers(2, 6)
        for number in range(people):
            points = np.round(centre + rng.normal(0, 30, (17, 2)) + rng.normal(0, 12, 2), 1)
            shown = rng.random(17) < 0.8
            crowd, blind = number == 0 and image % 2 == 0, number == 1 and image == 3
            shown &= not blind
            low, high = points.min(axis=0), points.max(axis=0)
            bbox = [*low.tolist(), *(high - low).tolist()]
            flat = np.column_stack([points, 2 * shown]).ravel().tolist()
            area = float(np.round(np.prod(high - low) * 0.6, 1))
            facts = {"image_id": image, "category_id": 1, "iscrowd": int(crowd), "num_keypoints": int(shown.sum())}
            annotations.append({"id": len(annotations) + 1, "keypoints": flat, "bbox": bbox, "area": area, **facts})
            boxes.append((points, shown, np.concatenate([low, high]), area, crowd))
        found = [points + rng.normal(0, 1, points.shape) * rng.choice([1, 4, 9, 15]) for points, *_ in boxes]
        found += [rng.uniform(50, 150, (17, 2))]
        scores = np.round(rng.random(len(found)), 2)
        for points, score in zip(found, scores, strict=True):
            flat = np.column_stack([points, np.ones(17)]).ravel().tolist()
            results.append({"image_id": image, "category_id": 1, "keypoints": flat, "score": float(score)})
        stacked, columns = np.stack(found), []
        for points, shown, box, area, _ in boxes:
            if shown.any():
                columns.append(oks(stacked, points, np.full(len(found), area), COCO17.oks_sigmas, shown))
            else:
                columns.append(oks_outside(stacked, box, area, COCO17.oks_sigmas))
        crowds = np.array([crowd for *_, crowd in boxes])
        ignored = crowds | ~np.array([shown.any() for _, shown, *_ in boxes])
        order = np.argsort(ignored, kind="stable")
        similarity = np.stack(columns, axis=1)[:, order]
        scenes.append(Scene(similarity, scores, ignored[order], crowds[order]))
    truth = {"images": [{"id": i} for i in range(5)], "annotations": annotations, "categories": [{"id": 1}]}
    expected = coco_ap(truth, results)
    assert 0.05 < expected < 0.9
    assert average_precision(scenes) == pytest.approx(expected, abs=1e-9)
