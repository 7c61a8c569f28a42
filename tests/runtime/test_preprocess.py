"""Crops: where a pixel goes, what lies outside, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from splite_deploy.errors import UsageError
from splite_deploy.runtime.preprocess import (
    Preprocessor,
    check_box,
    check_image,
    crop_matrix,
    invert,
    transform_points,
    warp,
)
from splite_deploy.spec import Color, InputSpec

Image = NDArray[np.uint8]
SPEC = InputSpec(
    height=128,
    width=96,
    color="rgb",
    mean=(123.7, 116.3, 103.5),
    std=(58.4, 57.1, 57.4),
    box_padding=1.25,
    pad_value=127,
)
SQUARE = replace(SPEC, height=64, width=64, box_padding=1.0, pad_value=0)
quick = settings(max_examples=60, deadline=None)


def noise(height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def blob(height: int, width: int, x: float, y: float, sigma: float) -> Image:
    """A Gaussian spot at (x, y) in continuous pixel coordinates."""
    xs, ys = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    spot = 255 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * sigma**2))
    return np.repeat(np.round(spot)[..., None], 3, axis=2).astype(np.uint8)


def centroid(image: Image) -> NDArray[np.float64]:
    """Brightness-weighted mean of the pixel centres, (x, y)."""
    grey = image[..., 0].astype(np.float64)
    ys, xs = np.mgrid[: grey.shape[0], : grey.shape[1]] + 0.5
    return np.array([(grey * xs).sum() / grey.sum(), (grey * ys).sum() / grey.sum()])


def box_of(*values: float) -> NDArray[np.float64]:
    return np.array(values, np.float64)


# --- geometry ---------------------------------------------------------------------------------------------------------

corner, side = st.floats(-300, 900), st.floats(1, 2000)


@given(x=corner, y=corner, w=side, h=side, padding=st.floats(0.8, 2), seed=st.integers(0, 2**32 - 1))
@quick
def test_points_return_from_the_crop(x: float, y: float, w: float, h: float, padding: float, seed: int) -> None:
    matrix = crop_matrix(box_of(x, y, x + w, y + h), replace(SPEC, box_padding=padding))
    points = np.random.default_rng(seed).uniform(-50, 900, (2, 5, 2))
    back = transform_points(transform_points(points, matrix).astype(np.float32), invert(matrix))
    atol = max(0.01, 1e-6 * abs(transform_points(points, matrix)).max() / matrix[0, 0])  # a far point in float32
    np.testing.assert_allclose(back, points, rtol=0, atol=atol)
    inside = np.random.default_rng(seed).uniform((0, 0), (SPEC.width, SPEC.height), (7, 2))
    there = transform_points(transform_points(inside, invert(matrix)), matrix)
    np.testing.assert_allclose(there, inside, rtol=0, atol=0.01)


@given(x=corner, y=corner, w=side, h=side, padding=st.floats(0.8, 2))
@quick
def test_crop_keeps_the_aspect_and_holds_the_padded_box(x: float, y: float, w: float, h: float, padding: float) -> None:
    matrix = crop_matrix(box_of(x, y, x + w, y + h), replace(SPEC, box_padding=padding))
    assert matrix[0, 0] == matrix[1, 1] > 0
    assert matrix[0, 1] == matrix[1, 0] == 0
    corners = transform_points(np.array([[x, y], [x + w, y + h]]), matrix)
    np.testing.assert_allclose(corners.mean(axis=0), (SPEC.width / 2, SPEC.height / 2), atol=1e-6)
    share = (corners[1] - corners[0]) / (SPEC.width, SPEC.height)
    np.testing.assert_allclose(share.max(), 1 / padding, rtol=1e-9)


def test_padding_leaves_an_eighth_of_the_box_on_each_side() -> None:
    matrix = crop_matrix(box_of(100, 200, 180, 280), replace(SPEC, width=100, height=100))
    np.testing.assert_allclose(transform_points(np.array([90.0, 190.0]), matrix), (0, 0), atol=1e-9)
    np.testing.assert_allclose(transform_points(np.array([190.0, 290.0]), matrix), (100, 100), atol=1e-9)


# --- pixels -----------------------------------------------------------------------------------------------------------


def simple_baseline(box: NDArray[np.float64], spec: InputSpec) -> NDArray[np.float64]:
    """get_affine_transform of Simple Baseline and HRNet for a box: acts on pixel indices.

    Three points of the image are given their places: the box's centre, one half a width above, one beside that.
    """
    center, (w, h) = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    w = max(w, h * spec.width / spec.height) * spec.box_padding  # _xywh2cs
    steps = np.array([[0, 0], [0, -0.5], [-0.5, -0.5]])
    src, dst = center + w * steps, np.array([0.5 * spec.width, 0.5 * spec.height]) + spec.width * steps
    return cv2.getAffineTransform(src.astype(np.float32), dst.astype(np.float32))


def udp(box: NDArray[np.float64], spec: InputSpec) -> NDArray[np.float64]:
    """get_udp_warp_matrix of mmpose for a box that is not turned: acts on pixel indices."""
    center, (w, h) = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    scale = np.array([max(w, h * spec.width / spec.height), max(h, w * spec.height / spec.width)]) * spec.box_padding
    size = np.array([spec.width - 1, spec.height - 1])
    return np.concatenate([np.diag(size / scale), (size / 2 - size / scale * center)[:, None]], axis=1)


def on_continuous(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """A matrix that acts on pixel indices as one that acts on continuous pixels: index p lies at p + .5."""
    moved = matrix.copy()
    moved[:, 2] += 0.5 - matrix[:, :2] @ [0.5, 0.5]
    return moved


@pytest.mark.parametrize("box", [(20, 30, 84, 190), (100, 40, 320, 90), (3.5, 7.25, 27.5, 39.25)])
def test_the_crop_beside_published_transforms(box: tuple[float, ...]) -> None:
    ours, scale = crop_matrix(box_of(*box), SPEC), crop_matrix(box_of(*box), SPEC)[0, 0]
    theirs = on_continuous(simple_baseline(box_of(*box), SPEC))
    np.testing.assert_allclose(theirs[:, :2], ours[:, :2], rtol=0, atol=1e-5)
    np.testing.assert_allclose(theirs[:, 2] - ours[:, 2], (1 - scale) / 2, rtol=0, atol=1e-3)

    theirs, size = on_continuous(udp(box_of(*box), SPEC)), np.array([SPEC.width, SPEC.height])
    np.testing.assert_allclose(np.diag(theirs), scale * (size - 1) / size)
    middle = (box_of(*box)[:2] + box_of(*box)[2:]) / 2
    found = transform_points(middle, theirs) - transform_points(middle, ours)
    np.testing.assert_allclose(found, -scale / 2 * (size - 1) / size)


def test_the_corners_of_the_grown_box_become_those_of_the_input() -> None:
    spec = replace(SPEC, box_padding=1.0)
    matrix = crop_matrix(box_of(10, 20, 10 + 48, 20 + 64), spec)
    corners = transform_points(np.array([[10.0, 20], [58, 84]]), matrix)
    np.testing.assert_allclose(corners, [[0, 0], [spec.width, spec.height]])


def test_identity_crop_is_the_image() -> None:
    image = noise(64, 64)
    crop, matrix = Preprocessor(SQUARE, "rgb").crop(image, box_of(0, 0, 64, 64))
    np.testing.assert_array_equal(crop, image)
    np.testing.assert_allclose(matrix, [[1, 0, 0], [0, 1, 0]], atol=1e-12)


def test_whole_pixel_crop_is_a_slice_and_pads_outside() -> None:
    image = noise(100, 100)
    crop, _ = Preprocessor(replace(SQUARE, pad_value=77), "rgb").crop(image, box_of(60, -10, 124, 54))
    np.testing.assert_array_equal(crop[10:, :40], image[:54, 60:])
    assert (crop[:10] == 77).all()
    assert (crop[:, 40:] == 77).all()


@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_shrinking_by_a_power_of_two_averages_blocks(halvings: int) -> None:
    factor = 2**halvings
    image = noise(64 * factor, 64 * factor)
    crop, _ = Preprocessor(SQUARE, "rgb").crop(image, box_of(0, 0, 64 * factor, 64 * factor))
    mean = image.reshape(64, factor, 64, factor, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(crop, mean, rtol=0, atol=0.51 * halvings)  # each halving rounds


@pytest.mark.parametrize("shrink", [2.1, 3.0, 3.9, 5.0, 7.9, 11.0])
def test_shrinking_averages_noise_out(shrink: float) -> None:
    side = round(64 * shrink)
    image = noise(side, side)
    crop, _ = Preprocessor(SQUARE, "rgb").crop(image, box_of(0, 0, side, side))
    skipping = image[:: int(shrink), :: int(shrink)]
    assert crop.std() < 1.3 * skipping.std() / 2 ** int(np.log2(shrink))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (20, 33), (63, 63)])
def test_one_bright_pixel_stays_where_it_is_when_doubled(row: int, column: int) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[row, column] = 255
    matrix = np.array([[2.0, 0, 0], [0, 2.0, 0]])
    doubled = warp(image, matrix, 128, 128, 0)
    bright = np.argwhere(doubled[..., 0] > 120)
    np.testing.assert_array_equal(bright, [[2 * row + i, 2 * column + j] for i in (0, 1) for j in (0, 1)])
    if 0 < row < 63:
        np.testing.assert_allclose(centroid(doubled), (2 * column + 1, 2 * row + 1), atol=1e-2)


@pytest.mark.parametrize("degrees", [0, 30, 90, 200])
@pytest.mark.parametrize("centre", [(400.0, 300.0), (10.0, 590.0)])
def test_a_turned_crop_is_that_of_the_whole_halved_image(degrees: float, centre: tuple[float, float]) -> None:
    """But for where the averaged blocks begin; nothing is left out that the crop sees."""
    image = cv2.GaussianBlur(noise(600, 800), (9, 9), 0)
    turn = cv2.getRotationMatrix2D(centre, degrees, 0.4)
    turn[:, 2] += 32 - np.array(centre)
    halved = cv2.resize(image, (400, 300), interpolation=cv2.INTER_AREA)
    scaled = turn.copy()
    scaled[:, :2] *= 2
    found = warp(image, turn, 64, 64, 127).astype(int)
    assert np.abs(found - warp(halved, scaled, 64, 64, 127)).mean() < 1.5


SCALES = [3.0, 1.7, 1.0, 0.8, 0.51, 0.5, 0.45, 0.34, 0.26, 0.2, 0.11]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("place", ["middle", "near corner", "far corner"])
@pytest.mark.parametrize(("height", "width"), [(600, 800), (601, 799), (607, 803)])
def test_a_blob_appears_where_the_matrix_says(scale: float, place: str, height: int, width: int) -> None:
    # Wide enough to be resolved in the crop, and wholly inside the image.
    sigma = max(1.5, 1.2 / scale)
    margin = 4 * sigma
    x, y = {
        "middle": (width / 2 + 0.37, height / 2 - 0.21),
        "near corner": (margin + 0.13, margin + 0.41),
        "far corner": (width - margin - 0.13, height - margin - 0.41),
    }[place]
    image = blob(height, width, x, y, sigma)
    reach = 32 / scale  # the 64 x 64 crop sees this far around an offset centre
    cx, cy = x + 0.19 * reach, y - 0.23 * reach
    box = box_of(cx - reach, cy - reach, cx + reach, cy + reach)
    crop, matrix = Preprocessor(SQUARE, "rgb").crop(image, box)
    np.testing.assert_allclose(matrix[0, 0], scale, rtol=1e-9)
    expected = transform_points(np.array([x, y]), matrix)
    np.testing.assert_allclose(centroid(crop), expected, rtol=0, atol=0.05)


@pytest.mark.parametrize("factor", [2, 3, 5, 8])
@pytest.mark.parametrize("extra", [0, 1, "last"])
def test_what_is_lost_at_the_far_edge_is_less_than_a_pixel(factor: int, extra: int | str) -> None:
    size = 20 * factor + (factor - 1 if extra == "last" else int(extra))
    image = np.full((size, size, 3), 200, np.uint8)
    crop, matrix = Preprocessor(replace(SQUARE, pad_value=0), "rgb").crop(
        image, box_of(-5, -5, 64 * factor - 5, 64 * factor - 5)
    )
    assert matrix[0, 0] == pytest.approx(1 / factor)
    first, last = transform_points(np.array([[0, 0], [size, size]]), matrix)
    inside = slice(int(np.ceil(first[0] + 1)), int(np.floor(last[0] - 1)))
    assert (crop[inside, inside] == 200).all()
    outside = int(np.ceil(last[0] + 1))
    assert (crop[outside:] == 0).all() and (crop[:, outside:] == 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 3)])
def test_an_image_smaller_than_a_block_does_not_fail(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 200, np.uint8)
    crop, _ = Preprocessor(SQUARE, "rgb").crop(image, box_of(-400, -400, 600, 600))
    assert crop.shape == (64, 64, 3)
    assert crop.dtype == np.uint8


@pytest.mark.parametrize("box", [(0, 0, 64, 64), (-9.5, 3, 200, 180), (10, 10, 20, 20), (-500, -500, 900, 900)])
def test_the_image_and_the_source_are_left_alone(box: tuple[float, ...]) -> None:
    image = noise(150, 170)
    before = image.copy()
    crop, _ = Preprocessor(SQUARE, "bgr").crop(image, box_of(*box))
    crop[:] = 0
    np.testing.assert_array_equal(image, before)


def test_a_view_crops_like_its_copy() -> None:
    image = noise(200, 240)[::-1, 20:]
    matrix = crop_matrix(box_of(10, 10, 170, 170), SQUARE)
    np.testing.assert_array_equal(warp(image, matrix, 64, 64, 0), warp(image.copy(), matrix, 64, 64, 0))


# --- colour and normalisation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["rgb", "bgr"])
@pytest.mark.parametrize("given_as", ["rgb", "bgr"])
def test_channels_are_swapped_where_they_differ(model: Any, given_as: Any) -> None:
    image = noise(64, 64)
    crop, _ = Preprocessor(replace(SQUARE, color=model), given_as).crop(image, box_of(0, 0, 64, 64))
    np.testing.assert_array_equal(crop, image if model == given_as else image[..., ::-1])


def test_normalise_is_the_plain_formula() -> None:
    crops = np.stack([noise(128, 96, seed) for seed in range(3)])
    tensor = Preprocessor(SPEC, "rgb").normalise(crops)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    expected = ((crops.astype(np.float64) - SPEC.mean) / SPEC.std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(tensor, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(Preprocessor(SPEC, "rgb").normalise(list(crops)), tensor)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "The image is a NoneType, not a numpy array."),
        ("hand.jpg", "The image is a str, not a numpy array."),
        (np.zeros((4, 5), np.uint8), "shape (4, 5) and type uint8"),
        (np.zeros((4, 5, 1), np.uint8), "shape (4, 5, 1) and type uint8"),
        (np.zeros((4, 5, 4), np.uint8), "shape (4, 5, 4) and type uint8"),
        (np.zeros((3, 4, 5), np.uint8), "shape (3, 4, 5) and type uint8"),
        (np.zeros((1, 4, 5, 3), np.uint8), "shape (1, 4, 5, 3) and type uint8"),
        (np.zeros((0, 5, 3), np.uint8), "shape (0, 5, 3) and type uint8"),
        (np.zeros((4, 5, 3), np.float32), "shape (4, 5, 3) and type float32"),
        (np.zeros((4, 5, 3), np.int64), "shape (4, 5, 3) and type int64"),
    ],
)
def test_check_image_tells_what_it_got(image: object, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_image(image)
    assert message in caught.value.message
    assert "(H, W, 3) uint8" in caught.value.hint


def test_check_image_returns_the_image() -> None:
    image = noise(4, 5)
    assert check_image(image) is image


@pytest.mark.parametrize(
    ("box", "message", "hint"),
    [
        ((10, 10, 10, 20), "The box (10, 10, 10, 20) is empty", "x1 > x0 and y1 > y0"),
        ((10, 20, 20, 20), "The box (10, 20, 20, 20) is empty", "x1 > x0 and y1 > y0"),
        ((50, 50, 30, 30), "The box (50, 50, 30, 30) is empty", "not width and height"),
        ((100, 0, 120, 20), "(100, 0, 120, 20) lies outside the 100 x 80 image", "pixels of this image"),
        ((0, 80, 20, 99), "(0, 80, 20, 99) lies outside the 100 x 80 image", "pixels of this image"),
        ((-20, 0, 0, 20), "(-20, 0, 0, 20) lies outside the 100 x 80 image", "pixels of this image"),
        ((0, -20, 20, -0.5), "(0, -20, 20, -0.5) lies outside the 100 x 80 image", "pixels of this image"),
        ((0, 0, float("nan"), 9), "is not four finite numbers", "x0, y0, x1, y1"),
        ((0, 0, float("inf"), 9), "is not four finite numbers", "x0, y0, x1, y1"),
        ((0, 0, 9), "The box (0, 0, 9) is not four finite numbers", "x0, y0, x1, y1"),
        ([[0, 0, 9, 9]], "The box [[0, 0, 9, 9]] is not four finite numbers", "x0, y0, x1, y1"),
        ((0, None, 9, 9), "is not four finite numbers", "x0, y0, x1, y1"),
        (7, "The box 7 is not four finite numbers", "x0, y0, x1, y1"),
        ("whole", "The box 'whole' is not four numbers", "x0, y0, x1, y1"),
        (([0, 1], 2, 3, 4), "is not four numbers", "x0, y0, x1, y1"),
        ({"x": 1}, "The box {'x': 1} is not four numbers", "x0, y0, x1, y1"),
    ],
)
def test_check_box_tells_what_is_wrong(box: Any, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_box(box, height=80, width=100)
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (None, [0, 0, 100, 80]),
        ((1, 2, 3.5, 4), [1, 2, 3.5, 4]),
        ([-50, -50, 0.5, 0.5], [-50, -50, 0.5, 0.5]),
        (np.array([99, 79, 500, 500], np.int32), [99, 79, 500, 500]),
    ],
)
def test_check_box_takes_a_box_that_touches_the_image(box: Any, expected: list[float]) -> None:
    checked = check_box(box, height=80, width=100)
    assert checked.dtype == np.float64
    np.testing.assert_array_equal(checked, expected)


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_a_grey_network_gets_one_channel_of_luminance(color: Color) -> None:
    spec = InputSpec(32, 24, "gray", (100.0,), (50.0,), 1.0, 0)
    image = np.random.default_rng(3).integers(0, 256, (32, 24, 3), np.uint8)
    crop, _ = Preprocessor(spec, color).crop(image, np.array([0.0, 0.0, 24.0, 32.0]))
    red, blue = (0, 2) if color == "rgb" else (2, 0)
    luminance = 0.299 * image[..., red] + 0.587 * image[..., 1] + 0.114 * image[..., blue]
    assert crop.shape == (32, 24, 1)
    assert np.abs(crop[..., 0] - luminance).max() <= 0.51
    tensor = Preprocessor(spec, "gray").normalise([crop, crop])
    assert tensor.shape == (2, 1, 32, 24)
    np.testing.assert_allclose(tensor[1, 0], (crop[..., 0] - 100.0) / 50.0, atol=1e-5)


def test_raw_pixels_are_left_as_they_are() -> None:
    spec = InputSpec(4, 4, "rgb", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, 0)
    crop = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    np.testing.assert_array_equal(Preprocessor(spec, "rgb").normalise([crop])[0], crop.transpose(2, 0, 1))


@pytest.mark.parametrize(("letterbox", "left", "top"), [("centre", 0.0, 12.0), ("corner", 0.0, 0.0)])
def test_a_whole_image_keeps_its_aspect(letterbox: Any, left: float, top: float) -> None:
    spec = replace(SPEC, height=48, width=48, box_padding=1.0, letterbox=letterbox)
    matrix = crop_matrix(np.array([0.0, 0.0, 96.0, 48.0]), spec)
    np.testing.assert_allclose(
        transform_points(np.array([[0.0, 0.0], [96.0, 48.0]]), matrix), [[left, top], [48, top + 24]]
    )


def test_a_corner_is_that_of_the_padded_box() -> None:
    spec = replace(SPEC, height=48, width=48, box_padding=1.5, letterbox="corner")
    matrix = crop_matrix(np.array([10.0, 20.0, 42.0, 52.0]), spec)
    np.testing.assert_allclose(transform_points(np.array([[2.0, 12.0], [50.0, 60.0]]), matrix), [[0, 0], [48, 48]])
