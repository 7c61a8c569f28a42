"""The decoders' test vectors, as whoever decodes needs them."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.spec import ModelSpec

FOLDER = Path(__file__).parents[1] / "vectors"
DOCUMENT: dict[str, Any] = json.loads((FOLDER / "decode.json").read_text(encoding="utf-8"))
VOLUMES: dict[str, Any] = json.loads((FOLDER / "volume.json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = [*DOCUMENT["cases"], *VOLUMES["cases"]]
GENERATOR: dict[str, Any] = runpy.run_path(str(FOLDER / "make_decode.py"))
POINTS: dict[str, Any] = json.loads((FOLDER / "points.json").read_text(encoding="utf-8"))
POINT_CASES: list[dict[str, Any]] = POINTS["cases"]
VOLUME_GENERATOR: dict[str, Any] = runpy.run_path(str(FOLDER / "make_volume.py"))
PEOPLE: dict[str, Any] = json.loads((FOLDER / "people.json").read_text(encoding="utf-8"))
PEOPLE_CASES: list[dict[str, Any]] = PEOPLE["cases"]
PEOPLE_GENERATOR: dict[str, Any] = runpy.run_path(str(FOLDER / "make_people.py"))


def case_named(name: str) -> dict[str, Any]:
    """The case of this name."""
    return next(case for case in CASES if case["name"] == name)


def spec_of(case: dict[str, Any]) -> ModelSpec:
    """The model that a case is of."""
    grey = [127.5, 127.5, 127.5]
    image = {**case["input"], "color": "rgb", "mean": grey, "std": grey, "box_padding": 1.25, "pad_value": 127}
    names = [f"k{i}" for i in range(case["shape"][1])]
    return ModelSpec.from_dict(
        {
            "name": "test",
            "input": image,
            "decoder": case["decoder"],
            "skeleton": {"keypoint_names": names, "edges": []},
            "palm_mm": 88.0,
        }
    )


def outputs_of(case: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    """What the network gives, by role."""
    shape = case["shape"]
    if "volume" in case:
        n, k, bins, height, width = shape
        volume = np.array(VOLUME_GENERATOR["cells"](case), np.float32)
        return {"volume": volume.reshape(n, k * bins, height, width)}
    arrays = {}
    for role in spec_of(case).decoder.roles:
        each = GENERATOR["MAPS"].get(role, 1)
        maps = GENERATOR["maps"]
        values = maps(case[role], shape, each) if len(shape) == 4 else np.reshape(case[role]["values"], shape)
        arrays[role] = np.array(values, np.float32)
    return arrays


def people_spec(case: dict[str, Any]) -> ModelSpec:
    """The model that a case of several people is of."""
    grey = [127.5, 127.5, 127.5]
    image = {**case["input"], "color": "rgb", "mean": grey, "std": grey, "box_padding": 1.0, "pad_value": 114}
    names = [f"k{i}" for i in range(case["keypoints"])]
    return ModelSpec.from_dict(
        {
            "name": "people",
            "input": {**image, "letterbox": "centre"},
            "decoder": case["decoder"],
            "skeleton": {"keypoint_names": names, "edges": []},
        }
    )


def people_outputs(case: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    """What the network of a case of several people gives, by role."""
    outputs = case["outputs"].items()
    return {role: np.array(one["values"], np.float32).reshape(one["shape"]) for role, one in outputs}


def assert_expected(found: dict[str, Any], case: dict[str, Any]) -> None:
    """Compares arrays by their decoded role with what a case expects."""
    assert ("depth" in found) == (case["expected"]["depth"] is not None)
    assert set(found) >= {"keypoints", "scores"}
    for name, values in found.items():
        assert np.asarray(values).dtype == np.float32
        tolerance = (VOLUMES if "volume" in case else DOCUMENT)["tolerance"][name]
        np.testing.assert_allclose(values, case["expected"][name], rtol=0, atol=tolerance, err_msg=name)
