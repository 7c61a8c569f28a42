"""Decoders without heatmaps: vectors, what is asked of their parameters, and published encoders of SimCC."""

from __future__ import annotations

import runpy
from typing import Any

import numpy as np
import pytest
from decode_vectors import FOLDER, POINT_CASES, POINTS
from numpy.typing import NDArray

from splite_deploy.decoders import Coordinates, SimCC, decode
from splite_deploy.errors import SpecError
from splite_deploy.spec import ModelSpec

by_case = pytest.mark.parametrize("case", POINT_CASES, ids=lambda case: str(case["name"]))


def test_vectors_are_what_the_generator_writes() -> None:
    generator = runpy.run_path(str(FOLDER / "make_points.py"))
    assert (FOLDER / "points.json").read_text(encoding="utf-8") == generator["text"]()


def spec_of(case: dict[str, Any]) -> ModelSpec:
    grey = [127.5, 127.5, 127.5]
    image = {**case["input"], "color": "rgb", "mean": grey, "std": grey, "box_padding": 1.25, "pad_value": 127}
    names = [f"k{i}" for i in range(case["keypoints"])]
    skeleton = {"keypoint_names": names, "edges": []}
    data = {"name": "points", "input": image, "decoder": case["decoder"], "skeleton": skeleton, "palm_mm": 88.0}
    return ModelSpec.from_dict(data)


def outputs_of(case: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    return {role: np.array(one["values"], np.float32).reshape(one["shape"]) for role, one in case["outputs"].items()}


def assert_expected(found: dict[str, Any], case: dict[str, Any]) -> None:
    assert ("depth" in found) == (case["expected"]["depth"] is not None)
    for name, values in found.items():
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, case["expected"][name], rtol=0, atol=POINTS["tolerance"][name], err_msg=name)


@by_case
def test_vector(case: dict[str, Any]) -> None:
    spec = spec_of(case)
    assert ModelSpec.from_dict(spec.to_dict()) == spec
    assert_expected(dict(decode(outputs_of(case), spec).by_role()), case)


@by_case
def test_torch_module(case: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")

    from splite_deploy.decoders.torch import make_module

    spec, outputs = spec_of(case), outputs_of(case)
    module = make_module(spec.decoder, spec.keypoint_count, spec.input)
    with torch.no_grad():
        found = module(*(torch.from_numpy(outputs[role]) for role in spec.decoder.roles))
    by_role = dict(zip(spec.decoder.decoded_roles, (values.numpy() for values in found), strict=True))
    assert_expected(by_role, case)


@by_case
def test_graph_that_decodes(case: dict[str, Any]) -> None:
    """The module as ONNX Runtime runs it, one crop at a time."""
    pytest.importorskip("onnx_ir")
    from through import run_through, through

    from splite_deploy.export.graph.fuse import fuse_decode

    spec, outputs = spec_of(case), outputs_of(case)
    fused = fuse_decode(through({role: (1, *array.shape[1:]) for role, array in outputs.items()}), spec)
    rows = [run_through(fused, {role: array[i : i + 1] for role, array in outputs.items()}) for i in range(2)]
    assert_expected({name: np.concatenate([row[name] for row in rows]) for name in rows[0]}, case)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"refine": "dark"}, 'decoder.refine = "dark" needs decoder.blur_kernel'),
        ({"refine": "none", "beta": 1.0}, 'decoder.refine = "none" does not take decoder.beta'),
        ({"refine": "dark", "blur_kernel": 4}, "decoder.blur_kernel must be odd"),
        ({"refine": "softargmax", "beta": 0.0}, "decoder.beta must be positive"),
        ({"refine": "none", "split_ratio": 0.0}, "decoder.split_ratio must be positive"),
    ],
)
def test_simcc_refuses(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        SimCC(**{"split_ratio": 2.0, **fields})
    assert said in caught.value.message


def test_simcc_asks_how_bins_are_read() -> None:
    case = {**POINT_CASES[0], "decoder": {"type": "simcc", "split_ratio": 2.0}}
    with pytest.raises(SpecError) as caught:
        spec_of(case)
    assert "decoder.refine" in caught.value.message and '"none" takes the largest bin' in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"columns": ("y", "x")}, 'decoder.columns must be "x", "y", then'),
        ({"columns": ("x", "y", "score", "z")}, 'decoder.columns must be "x", "y", then'),
        ({"columns": ("x", "y", "score"), "scores": True}, 'decoder.columns has a "score", too'),
        ({"columns": ("x", "y", "z")}, "the depth of coordinates needs decoder.root_keypoint"),
        ({"root_keypoint": 0}, 'takes no decoder.root_keypoint without "z" in decoder.columns'),
        (
            {"columns": ("x", "y", "z"), "root_keypoint": 0, "unit": "mm", "scale_bones": ((1, 1),)},
            "a pair of one keypoint",
        ),
    ],
)
def test_coordinates_refuse(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        Coordinates(**{"scale": "pixel", **fields})
    assert said in caught.value.message
