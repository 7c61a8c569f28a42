"""No number of a model spec goes beyond what a network can have."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from splite_deploy.decoders import DECODERS
from splite_deploy.errors import SpecError
from splite_deploy.spec import InputSpec, LimitSpec, ModelSpec, load_model_toml
from splite_deploy.spec.bounds import BOUNDS


def fields_of(cls: type) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}


def test_every_bound_is_that_of_a_field() -> None:
    known = {f"input.{name}" for name in fields_of(InputSpec)} | {f"limits.{name}" for name in fields_of(LimitSpec)}
    known |= fields_of(ModelSpec) | {f"decoder.{name}" for cls in DECODERS.values() for name in fields_of(cls)}
    assert not set(BOUNDS) - known


def set_number(data: dict[str, Any], name: str, value: float) -> None:
    *tables, last = name.split(".")
    for table in tables:
        data = data.setdefault(table, {})
    data[last] = [value] * len(data[last]) if isinstance(data.get(last), list | tuple) else value


@pytest.mark.parametrize("name", [name for name in BOUNDS if not name.startswith("decoder.")])
def test_numbers_beyond_their_bounds_are_refused_with_both(name: str, tiny_model: Path) -> None:
    spec, _ = load_model_toml(tiny_model)
    least, most = BOUNDS[name]
    for value in (most * 1.01 + 1, most * 1e9):
        data = spec.to_dict()
        set_number(data, name, int(value) if name in ("input.height", "input.width") else value)
        with pytest.raises(SpecError) as caught:
            ModelSpec.from_dict(data)
        assert f"{name} is " in caught.value.message
        assert f"must lie between {least:g} and {most:g}" in caught.value.message
        assert caught.value.hint.startswith("Correct the value")


@pytest.mark.parametrize(
    ("field", "value"),
    [("stride", 1e5), ("beta", 1e300), ("beta", 1e-300), ("score_window", 1_000_000_001)],
)
def test_parameters_of_a_decoder(field: str, value: float, tiny_model: Path) -> None:
    data = load_model_toml(tiny_model)[0].to_dict()
    decoder = {"type": "softargmax", "stride": 4.0, "alignment": "corner", "beta": 1.0, "score_window": 5}
    data["decoder"] = {**decoder, field: value}
    least, most = BOUNDS[f"decoder.{field}"]
    with pytest.raises(SpecError) as caught:
        ModelSpec.from_dict(data)
    assert f"decoder.{field} is {value:.6g}, and must lie between {least:g} and {most:g}" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "n" * 201}, "name has more than 200 characters"),
        ({"skeleton": {"keypoint_names": ["k" * 201], "edges": []}}, "a name of more than 200 characters"),
        ({"skeleton": {"keypoint_names": [str(i) for i in range(4097)], "edges": []}}, "has 4097 names, and 4096 at"),
    ],
)
def test_names_that_are_too_long_or_too_many(change: dict[str, Any], said: str, tiny_model: Path) -> None:
    with pytest.raises(SpecError) as caught:
        ModelSpec.from_dict({**load_model_toml(tiny_model)[0].to_dict(), **change})
    assert said in caught.value.message
