"""The test vectors of views, as whoever applies a view needs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.spec import ModelSpec, OutputView, View
from splite_deploy.spec.plain import structure
from splite_deploy.spec.view import InputView

DOCUMENT: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "view.json").read_text(encoding="utf-8"))
OUTPUTS: list[dict[str, Any]] = DOCUMENT["outputs"]
INPUTS: list[dict[str, Any]] = DOCUMENT["inputs"]


def model_of(case: dict[str, Any]) -> ModelSpec:
    """The model that a case of outputs is of."""
    image = {"height": case["height"], "width": case["width"], "color": "rgb", "mean": [0, 0, 0], "std": [255] * 3}
    names = [f"k{index}" for index in range(case["keypoints"])]
    return ModelSpec.from_dict(
        {
            "name": "test",
            "input": {**image, "box_padding": 1.0, "pad_value": 0},
            "decoder": case["decoder"],
            "skeleton": {"keypoint_names": names, "edges": []},
        }
    )


def view_of(case: dict[str, Any]) -> View:
    """The view of a case of outputs."""
    return View(outputs={case["role"]: structure(OutputView, case["view"], "view")})


def input_view_of(case: dict[str, Any]) -> InputView:
    """The view of a case of inputs."""
    return structure(InputView, case["view"], "view")


def given(case: dict[str, Any]) -> NDArray[np.float32]:
    """What a network gives, or preprocessing."""
    return np.array(case["given"], np.float32).reshape(case["given_shape"])


def expected(case: dict[str, Any]) -> NDArray[np.float64]:
    """What a decoder reads, or the network takes."""
    return np.array(case["expected"]).reshape(case["expected_shape"])
