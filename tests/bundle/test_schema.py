"""The published schemas: they are what the dataclasses say, and what is written keeps to them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from splite_deploy.bundle import MANIFEST, REPORT
from splite_deploy.bundle.schema import SCHEMAS, manifest_schema, report_schema

Edit = Callable[[dict[str, Any]], Any]


def content(bundle: Path, name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((bundle / name).read_text(encoding="utf-8"))
    return data


def errors(schema: dict[str, Any], data: dict[str, Any]) -> list[str]:
    return [
        f"{error.json_path}: {error.message}" for error in jsonschema.Draft202012Validator(schema).iter_errors(data)
    ]


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_published_schemas_are_those_of_the_dataclasses(root: Path, name: str) -> None:
    published = json.loads((root / "splite_deploy/bundle" / name).read_text(encoding="utf-8"))
    assert published == SCHEMAS[name](), "Run python -m splite_deploy.bundle.schema"
    jsonschema.Draft202012Validator.check_schema(published)


@pytest.mark.parametrize("fixture", ["tiny_bundle", "tiny_dynamic_bundle", "tiny_tflite_bundle"])
def test_what_is_written_keeps_to_them(request: pytest.FixtureRequest, fixture: str) -> None:
    bundle: Path = request.getfixturevalue(fixture)
    assert errors(manifest_schema(), content(bundle, MANIFEST)) == []
    assert errors(report_schema(), content(bundle, REPORT)) == []


def test_keys_of_a_later_version_are_allowed(tiny_bundle: Path) -> None:
    data = content(tiny_bundle, MANIFEST)
    model, artifact = data["model"], data["artifacts"][0]
    for table in (data, model, model["decoder"], artifact, artifact["outputs"][0], data["golden"]["image"]):
        table["later"] = {"a": [1]}
    assert errors(manifest_schema(), data) == []


@pytest.mark.parametrize(
    ("edit", "where"),
    [
        (lambda data: data.update(format_version=3), "$.format_version: 2 was expected"),
        (lambda data: data.pop("checksum"), "$: 'checksum' is a required property"),
        (lambda data: data["artifacts"][0].pop("sha256"), "$.artifacts[0]: 'sha256' is a required property"),
        (lambda data: data["artifacts"][0].update(sha256="AB"), "$.artifacts[0].sha256: 'AB' does not match"),
        (lambda data: data["artifacts"][0].update(file="../x"), "$.artifacts[0].file: '../x' does not match"),
        (lambda data: data["artifacts"][0].update(precision="fp8"), "$.artifacts[0].precision: 'fp8' is not one of"),
        (lambda data: data["model"]["decoder"].update(type="magic"), "$.model.decoder: "),
        (lambda data: data["model"]["decoder"].pop("alignment"), "$.model.decoder: "),
        (lambda data: data["model"]["input"].update(mean=[]), "$.model.input.mean: [] should be non-empty"),
        (
            lambda data: data["golden"]["tensors"]["crops"].update(offset=-1),
            "$.golden.tensors.crops.offset: -1 is less",
        ),
    ],
)
def test_what_is_no_manifest_is_refused(tiny_bundle: Path, edit: Edit, where: str) -> None:
    data = copy.deepcopy(content(tiny_bundle, MANIFEST))
    edit(data)
    (error,) = errors(manifest_schema(), data)
    assert error.startswith(where)
