"""The flip test: mirrored crops are read back in their places."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray

from splite_deploy import PoseEstimator
from splite_deploy.bench.flip_test import flip_tested, mean_of_mirrored, mirrored
from splite_deploy.bundle import Bundle, TensorSpec
from splite_deploy.decoders import Decoded

NHWC = TensorSpec("image", (1, 4, 6, 3), "uint8", "NHWC", "image")
NCHW = TensorSpec("image", (1, 3, 4, 6), "float32", "NCHW", "image")


def test_the_mirror_exchanges_left_and_right_of_either_layout() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)
    expected = np.stack([cv2.flip(one, 1) for one in pixels])
    np.testing.assert_array_equal(mirrored(pixels, NHWC), expected)
    planes = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    np.testing.assert_array_equal(mirrored(planes, NCHW), expected.transpose(0, 3, 1, 2))


def test_what_a_perfect_network_finds_in_the_mirror_image_changes_nothing(tiny_bundle: Path) -> None:
    spec = Bundle.open(tiny_bundle).model  # 1 and 2, 3 and 4 trade places
    rng = np.random.default_rng(1)
    keypoints, scores = rng.uniform(0, 48, (2, 5, 2)).astype(np.float32), rng.random((2, 5)).astype(np.float32)
    depth = rng.normal(size=(2, 5)).astype(np.float32)
    places = [0, 2, 1, 4, 3]
    seen = keypoints[:, places] * np.float32([-1, 1]) + np.float32([48, 0])
    found = mean_of_mirrored(
        Decoded(keypoints, scores, depth), Decoded(seen, scores[:, places], depth[:, places]), spec
    )
    np.testing.assert_allclose(found.keypoints, keypoints, atol=1e-5)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    assert found.depth is not None
    np.testing.assert_allclose(found.depth, depth, atol=1e-6)


def test_it_does_not_matter_which_of_both_is_the_mirror_image(tiny_bundle: Path, image: NDArray[np.uint8]) -> None:
    box, width = (20.0, 10.0, 70.0, 74.0), image.shape[1]
    turned = cv2.flip(image, 1)
    with PoseEstimator.open(tiny_bundle) as estimator:
        estimate = flip_tested(estimator)
        pose = estimate(image, box)
        other = estimate(turned, (width - box[2], box[1], width - box[0], box[3]))
        assert np.abs(pose.keypoints - estimator(image, box).keypoints).max() > 0.1
    back = other.keypoints[[0, 2, 1, 4, 3]] * np.float32([-1, 1]) + np.float32([width, 0])
    np.testing.assert_allclose(back, pose.keypoints, atol=0.05)  # the crop is resampled


def test_the_record_says_so(splite: Callable[..., Result], tiny_bundle: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    cv2.imwrite(str(tmp_path / "a.png"), cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (96, 96)))
    sample = {"image": "a.png", "keypoints": rng.uniform(10, 80, (5, 2)).tolist(), "box": [0, 0, 96, 96]}
    (tmp_path / "labels.json").write_text(json.dumps({"samples": [sample]}))
    plain, flipped = (
        json.loads(splite("bench", tiny_bundle, "--frames", 10, "--eval", tmp_path, "--json", "-", *more).stdout)
        for more in ((), ("--flip-test",))
    )
    name = tmp_path.name
    assert plain["accuracy"]["labels_from"] == f"1 labels of {name}"
    assert flipped["accuracy"]["labels_from"] == f"1 labels of {name} and their mirror images"
    assert plain["accuracy"]["epe_px"] != pytest.approx(flipped["accuracy"]["epe_px"], rel=1e-3)
