"""Accuracy metrics: values by hand, and what they must not see."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from splite_deploy.bench.metrics import box_side, keypoint_error, pa_mpjpe, pck, procrustes_align

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
