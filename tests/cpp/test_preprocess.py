"""Crops in C++: byte by byte those of the Python runtime, whose OpenCV 4 samples in steps of 1/32 pixel, too."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from splite_deploy.decoders import SoftArgmax
from splite_deploy.runtime.preprocess import Preprocessor, check_box
from splite_deploy.spec import InputSpec, ModelSpec, SkeletonSpec

Answers = Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]]
VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors/turned.json").read_text(encoding="utf-8"))
GREY = (120.0, 110.5, 100.25)


def model(width: int = 64, height: int = 48, **changes: Any) -> ModelSpec:
    color = changes.pop("color", "rgb")
    mean = GREY[:1] if color == "gray" else GREY
    given = {"box_padding": 1.25, "pad_value": 77, **changes}
    image = InputSpec(height, width, color, mean, tuple(one / 2 for one in mean), **given)
    return ModelSpec("test", image, SoftArgmax(4.0, "corner", 1.0, 3), SkeletonSpec(("a", "b"), ()))


CASES = [
    ("enlarged", model(), (40, 30), [5.2, 3.1, 28.7, 25.9]),
    ("as large", model(), (200, 300), [60.3, 40.7, 130.1, 95.2]),
    ("halved once", model(), (400, 500), [31.7, 20.9, 260.4, 198.8]),
    ("halved three times", model(), (1203, 1601), [31.7, 20.9, 1460.4, 1098.8]),
    ("beyond the image", model(), (200, 300), [-90.5, -60.2, 130.1, 95.2]),
    ("whole image", model(), (333, 257), None),
    ("letterbox at the corner", model(letterbox="corner", box_padding=1.0), (300, 401), None),
    ("letterbox in the centre", model(letterbox="centre", box_padding=1.0), (301, 200), None),
    ("grey", model(color="gray"), (200, 300), [60.3, 40.7, 130.1, 95.2]),
    ("blue first", model(color="bgr"), (200, 300), [60.3, 40.7, 130.1, 95.2]),
    ("turned", model(rotate_by=(0, 1)), (200, 300), [60.3, 40.7, 130.1, 95.2, 33.0]),
    ("turned and halved", model(rotate_by=(0, 1)), (900, 1200), [60.3, 40.7, 930.1, 795.2, -161.0]),
    ("turned by a right angle", model(rotate_by=(0, 1)), (200, 300), [60.3, 40.7, 130.1, 95.2, 90.0]),
]


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_crops_are_those_of_python(color: str, answers: Answers) -> None:
    rng = np.random.default_rng(3)
    asks, wanted = [], []
    for _, spec, size, box in CASES:
        image = cv2.resize(rng.integers(0, 256, (size[0] // 3, size[1] // 3, 3), np.uint8), size[::-1])
        asks.append({"do": "crop", "model": spec.to_dict(), "image": image, "box": box, "color": color})
        preprocessor = Preprocessor(spec.input, color)  # type: ignore[arg-type]
        crop, matrix = preprocessor.crop(image, check_box(box, *size))
        wanted.append((crop, matrix, preprocessor.normalise([crop])))
    for (name, *_), found, (crop, matrix, planes) in zip(CASES, answers(asks), wanted, strict=True):
        assert "error" not in found, (name, found)
        np.testing.assert_allclose(found["matrix"], matrix.ravel(), rtol=1e-7, atol=1e-7, err_msg=name)
        levels = np.abs(np.array(found["crop"], int) - crop.ravel())
        exact = int(cv2.__version__.split(".")[0]) == 4
        assert levels.max() <= (0 if exact else 1), (name, levels.max(), (levels > 0).mean())
        if exact:
            np.testing.assert_allclose(found["planes"], planes.ravel(), rtol=0, atol=1e-5, err_msg=name)


def test_the_vectors_of_turned_crops_and_boxes(answers: Answers) -> None:
    asks = []
    for case in VECTORS["crops"]:
        spec = model(case["width"], case["height"], box_padding=case["box_padding"], rotate_by=(0, 1))
        asks.append({"do": "points", "model": spec.to_dict(), "box": case["box"], "points": case["points"]})
    asks += [{"do": "around", "keypoints": case["keypoints"], "turn": case["rotate_by"]} for case in VECTORS["boxes"]]
    found = answers(asks)
    for case, one in zip(VECTORS["crops"], found, strict=False):
        np.testing.assert_allclose(one["points"], np.ravel(case["expected"]), rtol=0, atol=VECTORS["tolerance"])
    for case, one in zip(VECTORS["boxes"], found[len(VECTORS["crops"]) :], strict=True):
        np.testing.assert_allclose(one["box"], case["expected"], rtol=0, atol=1e-4)  # keypoints are float32 here


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ([5, 5, 5, 9], "The box is empty."),
        ([500, 5, 600, 9], "The box lies outside the image."),
        ([0, 0, 3e6, 9], "The box has an impossible size."),
        ([1, 2, 30, 40, 45], "The box has an angle, and crops of this model are not turned."),
    ],
)
def test_boxes_that_cannot_be_used_are_refused(box: list[float], said: str, answers: Answers) -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    (found,) = answers([{"do": "crop", "model": model().to_dict(), "image": image, "box": box, "color": "rgb"}])
    assert found["error"] == said and found["hint"].startswith("Pass")
