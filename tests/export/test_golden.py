"""The golden image: whatever an export is given, it is what the network takes of it, large enough to shrink."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy.bundle import Bundle
from splite_deploy.export.golden import LONGEST_PX, MARGIN_PX, SHRINK, prepare_image
from splite_deploy.runtime.crops import Example
from splite_deploy.runtime.preprocess import Preprocessor, check_box, invert, transform_points
from splite_deploy.spec import InputSpec

TALL = InputSpec(64, 48, "rgb", (127.5,) * 3, (64.0,) * 3, 1.25, 127)
LARGE = InputSpec(256, 256, "bgr", (127.5,) * 3, (64.0,) * 3, 1.1, 0)
HUGE = InputSpec(800, 400, "rgb", (127.5,) * 3, (64.0,) * 3, 1.0, 0)


def smooth(height: int, width: int) -> NDArray[np.uint8]:
    """Colours that change slowly, so that resizing keeps them."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    return np.stack([255 * x, 255 * y, 127 + 120 * np.sin(6 * x) * np.cos(5 * y)], -1).astype(np.uint8)


@pytest.mark.parametrize("spec", [TALL, LARGE, HUGE], ids=["tall", "large", "huge"])
@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((2000, 3000), (900.3, 500.0, 1800.0, 1700.7)),
        ((480, 640), (200.0, 100.0, 260.5, 180.25)),
        ((480, 640), (-100.0, -50.0, 300.0, 500.0)),
        ((480, 640), None),
        ((40, 30), (5.0, 5.0, 20.0, 30.0)),
        ((6000, 20), (1.0, 2000.0, 19.0, 4000.0)),
        ((3, 3), (0.0, 0.0, 3.0, 3.0)),
    ],
)
def test_an_image_is_cut_down_to_what_the_network_sees(
    spec: InputSpec, size: tuple[int, int], box: tuple[float, ...] | None
) -> None:
    image = smooth(*size)
    asked = None if box is None else np.array(box)
    made = prepare_image(Example(image, "rgb", asked), spec)
    crop, matrix = Preprocessor(spec, "rgb").crop(made.pixels, made.box)
    np.testing.assert_array_equal(crop, made.crop)
    np.testing.assert_array_equal(matrix, made.matrix)
    assert check_box(made.box, *made.pixels.shape[:2]) is not None
    longest = max(spec.height, spec.width)
    assert max(made.pixels.shape) <= max(LONGEST_PX, longest + 2 * MARGIN_PX)
    expected = max(1.0, min(SHRINK, (LONGEST_PX - 2 * MARGIN_PX) / longest))
    if min(size) > 40:  # of a few pixels no part is that exact
        assert 1 / made.matrix[0, 0] == pytest.approx(expected, rel=0.02)
        before, _ = Preprocessor(spec, "rgb").crop(image, check_box(asked, *size))
        difference = np.abs(before.astype(int) - made.crop)
        assert np.median(difference) <= 3 and difference.mean() < 4  # the edge of the image is a step


def test_what_the_image_loses_lies_outside_the_padded_box() -> None:
    image = smooth(2000, 3000)
    made = prepare_image(Example(image, "bgr", np.array([1000.0, 700.0, 1400.0, 1200.0])), TALL)
    corners = transform_points(np.array([[0, 0], [TALL.width, TALL.height]], float), invert(made.matrix))
    height, width = made.pixels.shape[:2]
    assert (corners[0] >= MARGIN_PX - 1).all() and (corners[1] <= np.array([width, height]) - MARGIN_PX + 1).all()
    assert width < TALL.width * SHRINK + 2 * MARGIN_PX + 3
    assert made.color == "bgr"
    np.testing.assert_array_equal(made.crop, Preprocessor(TALL, "rgb").crop(made.pixels[..., ::-1].copy(), made.box)[0])


def test_the_bundle_holds_what_the_reference_made_of_it(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    golden, spec = bundle.golden(), bundle.model
    assert golden.image.opencv == cv2.__version__ and golden.image.color == "rgb"
    crop, matrix = Preprocessor(spec.input, "rgb").crop(golden.image.pixels, golden.image.box)
    np.testing.assert_array_equal(crop, golden.image.crop)
    assert matrix[0, 0] < 0.5, "it is halved on the way"
    assert golden.image.keypoints.shape == (5, 2) and golden.image.scores.shape == (5,)
    inside = transform_points(golden.image.keypoints.astype(float), matrix)
    assert (inside >= 0).all() and (inside <= [spec.input.width, spec.input.height]).all()
