"""Decoders and hashes in C++: the vectors that every implementation has to meet, and what the Python runtime gives."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from decode_vectors import (
    CASES,
    DOCUMENT,
    PEOPLE,
    PEOPLE_CASES,
    POINT_CASES,
    POINTS,
    VOLUMES,
    outputs_of,
    people_outputs,
    people_spec,
    spec_of,
)
from numpy.typing import NDArray

from splite_deploy.decoders import Decoded, PeopleDecoder, decode, decoded_by_role
from splite_deploy.spec import ModelSpec

Answers = Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]]
Outputs = Mapping[str, NDArray[np.float32]]


def point_spec(case: dict[str, Any]) -> ModelSpec:
    names = [f"k{i}" for i in range(case["keypoints"])]
    grey = [127.5, 127.5, 127.5]
    image = {**case["input"], "color": "rgb", "mean": grey, "std": grey, "box_padding": 1.25, "pad_value": 127}
    skeleton = {"keypoint_names": names, "edges": []}
    data = {"name": "points", "input": image, "decoder": case["decoder"], "skeleton": skeleton, "palm_mm": 88.0}
    return ModelSpec.from_dict(data)


def asked(spec: ModelSpec, outputs: Outputs, **more: Any) -> dict[str, Any]:
    return {"do": "decode", "model": spec.to_dict(), "outputs": dict(outputs), **more}


def assert_same(found: dict[str, Any], decoded: Decoded, tolerance: Mapping[str, float]) -> None:
    """Compares an answer with what the Python runtime gives."""
    assert "error" not in found, found
    wanted: dict[str, Any] = {"keypoints": decoded.keypoints, "scores": decoded.scores}
    if decoded.depth is not None:
        wanted["depth"] = decoded.depth
    if decoded.people is not None:
        people = decoded.people
        wanted |= {"crops": people.crops, "boxes": people.boxes, "people_scores": people.scores}
    assert set(found) == {*wanted, "count", *(decoded.heads or {})}
    for name, values in {**wanted, **(decoded.heads or {})}.items():
        atol = tolerance.get(name, tolerance["keypoints"])
        np.testing.assert_allclose(found[name], np.ravel(values), rtol=0, atol=atol, err_msg=name)


def test_every_vector_of_maps_volumes_and_points(answers: Answers) -> None:
    cases = [*CASES, *POINT_CASES]
    made = [(spec_of(case), outputs_of(case)) for case in CASES]
    made += [(point_spec(case), people_outputs(case)) for case in POINT_CASES]
    for case, found in zip(cases, answers([asked(*one) for one in made]), strict=True):
        assert "error" not in found, (case["name"], found)
        tolerance = (POINTS if "outputs" in case else VOLUMES if "volume" in case else DOCUMENT)["tolerance"]
        assert ("depth" in found) == (case["expected"]["depth"] is not None)
        for name in ("keypoints", "scores", *(["depth"] if "depth" in found else [])):
            wanted = np.ravel(case["expected"][name])
            np.testing.assert_allclose(found[name], wanted, rtol=0, atol=tolerance[name], err_msg=case["name"])


def test_every_vector_of_people(answers: Answers) -> None:
    tolerance = {"keypoints": PEOPLE["tolerance"], "scores": PEOPLE["tolerance"]}
    asks, wanted = [], []
    for case in PEOPLE_CASES:
        spec, outputs = people_spec(case), people_outputs(case)
        assert isinstance(spec.decoder, PeopleDecoder)
        candidates = {"candidates": np.array(case["expected"]["candidates"], np.float32)}
        for given in (outputs, candidates):
            asks += [asked(spec, given), asked(spec, given, best=True)]
        found = decode(outputs, spec)
        assert found.people is not None and len(found.people.crops) == sum(map(len, case["expected"]["people"]))
        best = spec.decoder.best(outputs, spec.input)
        wanted += [found, best, found, best]
    for found, decoded in zip(answers(asks), wanted, strict=True):
        assert_same(found, decoded, tolerance)


def test_random_outputs_decode_as_in_python(answers: Answers) -> None:
    rng = np.random.default_rng(5)
    asks, wanted = [], []
    for case in [*CASES, *POINT_CASES]:
        spec = point_spec(case) if "outputs" in case else spec_of(case)
        shapes = {
            role: one.shape for role, one in (people_outputs(case) if "outputs" in case else outputs_of(case)).items()
        }
        outputs = {role: rng.normal(0.2, 0.6, (2, *shape[1:])).astype(np.float32) for role, shape in shapes.items()}
        asks += [asked(spec, outputs), asked(spec, decoded_by_role(outputs, spec))]
        wanted += [decode(outputs, spec)] * 2
    for one, found, decoded in zip(asks, answers(asks), wanted, strict=True):
        kind = one["model"]["decoder"]["type"]
        assert_same(
            found,
            decoded,
            {"keypoints": 0.01 if kind in ("dark", "udp", "simcc") else 0.002, "scores": 1e-4, "depth": 0.002},
        )


def test_heads_are_read_and_clipped(answers: Answers) -> None:
    spec = spec_of(CASES[0]).with_heads(["presence", "handedness"])
    outputs = {**outputs_of(CASES[0]), "presence": np.array([[0.25]]), "handedness": np.array([[1.5]])}
    (found,) = answers([asked(spec, outputs)])
    assert found["presence"] == [0.25] and found["handedness"] == [1.0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda maps: {}, "There is no output 'heatmap', which the model reads."),
        (lambda maps: {"heatmap": maps["heatmap"][..., :-1]}, "The output 'heatmap' has shape (1, 1, 6, 5)"),
        (lambda maps: {"heatmap": maps["heatmap"] * np.nan}, "The network's output 'heatmap' is not finite"),
    ],
)
def test_what_is_no_output_is_refused(change: Callable[[Outputs], Outputs], said: str, answers: Answers) -> None:
    (found,) = answers([asked(spec_of(CASES[0]), change(outputs_of(CASES[0])))])
    assert found["error"].startswith(said) and found["hint"]


def test_hashes(answers: Answers) -> None:
    texts = ["", "abc", *("x" * size for size in (55, 56, 63, 64, 65, 119, 120, 1000))]
    found = answers([{"do": "hash", "text": text} for text in texts])
    assert [one["sha256"] for one in found] == [hashlib.sha256(text.encode()).hexdigest() for text in texts]
