"""2.5D to 3D, on hands that are known in 3D."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from splite_deploy.decoders import Depth, Unit
from splite_deploy.errors import BackendError, UsageError
from splite_deploy.runtime.lift import absolute, in_palms, weak_perspective

Points = NDArray[np.float64]
ONE = Depth(root_keypoint=9, unit="palm", scale_bones=((0, 9),))
FOUR = replace(ONE, scale_bones=((0, 5), (0, 9), (0, 13), (0, 17)))
BONES = pytest.mark.parametrize("how", [ONE, FOUR], ids=["one bone", "four bones"])
UNITS = pytest.mark.parametrize("unit", ["palm", "mm"])
CAMERA = np.array([[615.0, 0, 322.3], [0, 612.0, 239.1], [0, 0, 1]])
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=60, deadline=None)


def rotation(rng: np.random.Generator) -> Points:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    q[:, 0] *= np.linalg.det(q)
    return np.asarray(q, np.float64)


def hand(rng: np.random.Generator, *, near: float = 250, far: float = 900) -> Points:
    """(21, 3) millimetres: a wrist, four palm bones and fingers that curl, turned and put before the camera."""
    points = np.zeros((21, 3))
    for finger in range(5):
        angle = np.radians(-55 + 25 * finger)
        direction = np.array([np.sin(angle), -np.cos(angle), 0])
        points[1 + 4 * finger] = direction * rng.uniform(75, 100) * (0.45 if finger == 0 else 1)
        for joint in range(1, 4):
            direction = direction + rng.normal(0, 0.4, 3)
            direction /= np.linalg.norm(direction)
            points[1 + 4 * finger + joint] = points[4 * finger + joint] + direction * rng.uniform(20, 40)
    return points @ rotation(rng).T + (rng.uniform(-80, 80), rng.uniform(-60, 60), rng.uniform(near, far))


def camera(rng: np.random.Generator) -> Points:
    fx, fy = rng.uniform(300, 1200, 2)
    return np.array([[fx, 0, rng.uniform(200, 500)], [0, fy, rng.uniform(150, 400)], [0, 0, 1]])


def palm_of(points: Points, how: Depth) -> float:
    lengths = [math.dist(points[a], points[b]) for a, b in how.scale_bones]
    return math.sqrt(sum(length**2 for length in lengths) / len(lengths))


def observe(points: Points, matrix: Points, how: Depth) -> tuple[Any, Any, float]:
    """What a perfect network sees: float32 pixels, relative depth in the how's unit, and the palm length."""
    projected = points @ matrix.T
    pixels = projected[:, :2] / projected[:, 2:]
    palm = palm_of(points, how)
    depth = (points[:, 2] - points[how.root_keypoint, 2]) / (palm if how.unit == "palm" else 1.0)
    return pixels.astype(np.float32), depth.astype(np.float32), palm


def visible(points: Points, how: Depth) -> bool:
    """Whether the palm is not seen end on, where no formula could tell the distance."""
    across = sum(math.dist(points[a, :2], points[b, :2]) ** 2 for a, b in how.scale_bones)
    return across > 0.15 * len(how.scale_bones) * palm_of(points, how) ** 2


def seen_hand(seed: int, how: Depth) -> tuple[Points, np.random.Generator]:
    rng = np.random.default_rng(seed)
    points = hand(rng)
    while not visible(points, how):
        points = hand(rng)
    return points, rng


# --- absolute ---------------------------------------------------------------------------------------------------------


@BONES
@UNITS
@given(seed=seeds)
@quick
def test_absolute_recovers_the_hand(how: Depth, unit: Unit, seed: int) -> None:
    how = replace(how, unit=unit)
    points, rng = seen_hand(seed, how)
    matrix = camera(rng)
    pixels, depth, palm = observe(points, matrix, how)
    found = absolute(pixels, depth, how, matrix, palm)
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, points, rtol=0, atol=0.1)


def iqbal(
    pixels: Points, depth: Points, root: int, bone: tuple[int, int], matrix: Points, length: float
) -> Points | None:
    """Iqbal et al. 2018, section 3.2, written out; ``depth`` relative to the root and in bone lengths."""
    xs = (pixels[:, 0] - matrix[0, 2]) / matrix[0, 0]
    ys = (pixels[:, 1] - matrix[1, 2]) / matrix[1, 1]
    zs = depth - depth[root]
    n, m = bone
    xn, yn, zn, xm, ym, zm = xs[n], ys[n], zs[n], xs[m], ys[m], zs[m]
    a = (xn - xm) ** 2 + (yn - ym) ** 2
    b = 2 * (zn * (xn**2 + yn**2 - xn * xm - yn * ym) + zm * (xm**2 + ym**2 - xn * xm - yn * ym))
    c = (xn * zn - xm * zm) ** 2 + (yn * zn - ym * zm) ** 2 + (zn - zm) ** 2 - 1
    if b**2 < 4 * a * c:
        return None
    distance = (-b + math.sqrt(b**2 - 4 * a * c)) / (2 * a)
    points: Points = length * (distance + zs)[:, None] * np.column_stack([xs, ys, np.ones(len(xs))])
    return points


@pytest.mark.parametrize("bone", [(0, 9), (9, 0), (0, 17), (5, 17)])
@given(seed=seeds)
@quick
def test_absolute_is_the_formula_of_iqbal_for_one_bone(bone: tuple[int, int], seed: int) -> None:
    how = replace(ONE, scale_bones=(bone,))
    points, rng = seen_hand(seed, how)
    pixels, depth, palm = observe(points, CAMERA, how)
    depth = depth + rng.normal(0, 0.05, 21).astype(np.float32)  # a network is not perfect
    pixels = pixels + rng.normal(0, 1, (21, 2)).astype(np.float32)
    expected = iqbal(pixels.astype(float), depth.astype(float), 9, bone, CAMERA, palm)
    # Noise on a short bone may leave no sensible distance, or keypoints behind the camera.
    assume(expected is not None and expected[:, 2].min() > 0)
    found = absolute(pixels, depth, how, CAMERA, palm)
    assert found is not None and expected is not None
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-2)


@UNITS
def test_absolute_ignores_an_offset_of_all_depths(unit: Unit) -> None:
    how = replace(FOUR, unit=unit)
    points, _ = seen_hand(1, how)
    pixels, depth, palm = observe(points, CAMERA, how)
    found = absolute(pixels, depth + np.float32(3), how, CAMERA, palm)
    np.testing.assert_allclose(found, points, rtol=0, atol=0.1)  # type: ignore[arg-type]


def test_a_hand_twice_as_large_is_twice_as_far() -> None:
    points, _ = seen_hand(2, FOUR)
    pixels, depth, palm = observe(points, CAMERA, FOUR)
    found = absolute(pixels, depth, FOUR, CAMERA, 2 * palm)
    np.testing.assert_allclose(found, 2 * points, rtol=0, atol=0.2)  # type: ignore[arg-type]


def test_absolute_projects_onto_the_keypoints() -> None:
    points, rng = seen_hand(3, FOUR)
    pixels, depth, palm = observe(points, CAMERA, FOUR)
    depth = depth + rng.normal(0, 0.1, 21).astype(np.float32)
    found = absolute(pixels, depth, FOUR, CAMERA, palm)
    assert found is not None
    projected = found @ CAMERA.T
    np.testing.assert_allclose(projected[:, :2] / projected[:, 2:], pixels, rtol=0, atol=1e-2)


def test_a_palm_without_extent_in_the_image_has_no_distance() -> None:
    pixels = np.full((21, 2), 300, np.float32)
    assert absolute(pixels, np.linspace(-1, 1, 21, dtype=np.float32), FOUR, CAMERA, 90) is None


def two_points(pixels: list[list[float]], depth: list[float]) -> tuple[Any, Any, Depth]:
    how = replace(ONE, root_keypoint=0, scale_bones=((0, 1),))
    return np.array(pixels, np.float32), np.array(depth, np.float32), how


def test_depths_longer_than_the_palm_give_the_closest_distance() -> None:
    # Rays (-0.3, 0) and (-0.1, 0), bone depth 1.5 palms: |0.2 Z - 0.15|^2 + 2.25 = 1 has no root; closest at Z = 0.75.
    pixels, depth, how = two_points([[-0.3, 0], [-0.1, 0]], [0, 1.5])
    found = absolute(pixels, depth, how, np.eye(3), 100)
    assert found is not None
    np.testing.assert_allclose(found[:, 2], [75, 225], rtol=1e-5)


def test_a_root_behind_the_camera_is_no_result() -> None:
    # Rays (0.1, 0) and (0.3, 0): |0.2 Z + 0.45|^2 + 2.25 is least at Z = -2.25.
    pixels, depth, how = two_points([[0.1, 0], [0.3, 0]], [0, 1.5])
    assert absolute(pixels, depth, how, np.eye(3), 100) is None


@pytest.mark.parametrize(("depth", "before"), [(-3.9, True), (-4.0, False), (-4.1, False)])
def test_a_keypoint_behind_the_camera_is_no_result(depth: float, before: bool) -> None:
    # Rays (0, 0) and (0.25, 0), both at depth 0: the palm of 1 is at Z = 4, and the third keypoint 4 before it.
    pixels, depths, how = two_points([[0, 0], [0.25, 0], [0.1, 0]], [0, 0, depth])
    found = absolute(pixels, depths, how, np.eye(3), 100)
    assert (found is not None) == before
    if found is not None:
        np.testing.assert_allclose(found[:, 2], [400, 400, 10], rtol=1e-4)


@given(seed=seeds, spread=st.floats(0, 5))
@quick
def test_absolute_is_finite_and_before_the_camera_or_none(seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(0, 640, (21, 2)).astype(np.float32)
    depth = rng.normal(0, spread, 21).astype(np.float32)
    found = absolute(pixels, depth, FOUR, CAMERA, 90)
    if found is not None:
        assert np.isfinite(found).all()
        assert (found[:, 2] > 0).all()


@pytest.mark.parametrize(
    ("intrinsics", "palm", "message", "hint"),
    [
        (np.eye(2), 90, "intrinsics are not an invertible (3, 3) camera matrix", "[0, 0, 1]"),
        (np.eye(3)[:2], 90, "intrinsics are not an invertible (3, 3) camera matrix", "[0, 0, 1]"),
        (np.zeros((3, 3)), 90, "intrinsics are not an invertible (3, 3) camera matrix", "[0, 0, 1]"),
        (np.full((3, 3), np.nan), 90, "intrinsics are not an invertible (3, 3) camera matrix", "[0, 0, 1]"),
        ([500, 500, 320, 240], 90, "intrinsics are not an invertible (3, 3) camera matrix", "[0, 0, 1]"),
        (None, 90, "intrinsics are not an invertible (3, 3) camera matrix", "[0, 0, 1]"),
        (CAMERA, 0, "bone length 0 mm does not lie between 0.1 and 10000 mm", "millimetres"),
        (CAMERA, -90.0, "bone length -90.0 mm does not lie between 0.1 and 10000 mm", "millimetres"),
        (CAMERA, math.nan, "bone length nan mm does not lie between 0.1 and 10000 mm", "millimetres"),
        (CAMERA, math.inf, "bone length inf mm does not lie between 0.1 and 10000 mm", "millimetres"),
    ],
)
def test_absolute_refuses_unusable_numbers(intrinsics: Any, palm: float, message: str, hint: str) -> None:
    points, _ = seen_hand(4, FOUR)
    pixels, depth, _ = observe(points, CAMERA, FOUR)
    with pytest.raises(UsageError) as caught:
        absolute(pixels, depth, FOUR, intrinsics, palm)
    assert message in caught.value.message
    assert hint in caught.value.hint


# --- weak perspective -------------------------------------------------------------------------------------------------


@BONES
@UNITS
@given(seed=seeds, scale=st.floats(0.05, 20))
@quick
def test_weak_perspective_is_exact_for_orthographic_projection(how: Depth, unit: Unit, seed: int, scale: float) -> None:
    how = replace(how, unit=unit)
    points, _ = seen_hand(seed, how)
    palm = palm_of(points, how)
    if unit == "palm":
        points, palm = points / palm, 1.0
    relative = points - points[how.root_keypoint]
    pixels = (relative[:, :2] * (scale if unit == "mm" else 100 * scale) + (320, 240)).astype(np.float32)
    found = weak_perspective(pixels, relative[:, 2].astype(np.float32) + np.float32(0.25), how, palm)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[how.root_keypoint], 0)
    np.testing.assert_allclose(found, relative, rtol=1e-3, atol=2e-3 * palm)


def test_weak_perspective_is_near_the_truth_for_a_far_hand() -> None:
    rng = np.random.default_rng(5)
    points = hand(rng, near=3000, far=3001)
    pixels, depth, palm = observe(points, CAMERA * (5.0, 5.0, 1.0), FOUR)
    found = weak_perspective(pixels, depth, FOUR, 1.0) * palm
    assert np.linalg.norm(found - (points - points[9]), axis=1).max() < 10


def test_weak_perspective_is_none_without_a_visible_palm() -> None:
    depth = np.linspace(-1, 1, 21, dtype=np.float32)
    assert weak_perspective(np.full((21, 2), 300, np.float32), depth, FOUR, 1.0) is None


def test_weak_perspective_stays_finite_where_depths_are_longer_than_the_palm() -> None:
    pixels = np.random.default_rng(0).uniform(0, 300, (21, 2)).astype(np.float32)
    depth = np.linspace(-100, 100, 21, dtype=np.float32)
    found = weak_perspective(pixels, depth, FOUR, 1.0)
    assert found is not None
    assert np.abs(found).max() < 1000
    np.testing.assert_allclose(found[:, 2], depth - depth[9], rtol=1e-6)


def test_weak_perspective_bounds_the_scale_where_depths_are_longer_than_the_palm() -> None:
    pixels, depth, how = two_points([[100, 100], [110, 100]], [0, 3])
    found = weak_perspective(pixels, depth, how, 1.0)
    np.testing.assert_allclose(found, [[0, 0, 0], [np.sqrt(0.05), 0, 3]], rtol=1e-5)


def test_depth_in_pixels_measures_the_palm_by_itself() -> None:
    """A hand that is seen at 3 px a millimetre: x, y and z have one scale, whatever that is."""
    points_mm = np.random.default_rng(0).normal(0, 40, (4, 3))
    of = Depth(0, "pixel", ((0, 1), (0, 2)))
    palm_mm = np.sqrt(np.mean([np.square(points_mm[a] - points_mm[b]).sum() for a, b in of.scale_bones]))
    pixels = (3 * points_mm).astype(np.float32)
    depth = in_palms(pixels[:, :2] + 100, pixels[:, 2] - pixels[0, 2], of)
    assert depth is not None
    found = weak_perspective(pixels[:, :2] + 100, depth, of, 1.0)
    np.testing.assert_allclose(found, (points_mm - points_mm[0]) / palm_mm, atol=1e-4)
    assert in_palms(np.ones((4, 2), np.float32), depth, of) is None  # nothing tells the scale


@pytest.mark.parametrize("lift", [in_palms, lambda points, depth, how: weak_perspective(points, depth, how, 1.0)])
def test_bones_near_the_end_of_float32_are_an_error_and_no_zeros(lift: Any) -> None:
    how, depth = Depth(0, "palm", ((0, 1), (0, 2))), np.zeros(3, np.float32)
    points = np.array([[10, 10], [60, 40], [30, 80]], np.float32)
    for keypoints, deep in ((points * np.float32(1e30), depth), (points, np.array([0, 3e38, -3e38], np.float32))):
        with pytest.raises(BackendError, match="The lengths of bones are not finite") as caught:
            lift(keypoints, deep, how)
        assert "weights" in caught.value.hint
