"""The JSON Schemas of ``manifest.json`` and ``report.json``, made from their dataclasses and docstrings.

    python -m splite_deploy.bundle.schema

writes them anew. Other programs read bundles by the published files; a test fails when one differs from the
dataclasses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from splite_deploy.bundle.manifest import FORMAT_VERSION, Manifest
from splite_deploy.bundle.report import REPORT_VERSION, Report
from splite_deploy.spec.json_schema import schema_of

_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}


def manifest_schema() -> dict[str, Any]:
    """The schema of a manifest; keys that it does not know are allowed, since later versions may add some."""
    schema = schema_of(Manifest, f"Manifest of a splite-deploy bundle, format version {FORMAT_VERSION}", closed=False)
    schema["properties"]["format_version"]["const"] = FORMAT_VERSION
    says = 'Of all bytes of the file before the last occurrence of the bytes "checksum", quotes included.'
    schema["properties"]["checksum"] = {**_SHA256, "description": f"Hex SHA-256. {says}"}
    schema["required"].append("checksum")
    for name, field in _fields(schema):
        if name in ("sha256", "checkpoint_sha256"):
            field.update(_SHA256)
        elif name == "file":
            field["pattern"] = r"^[^/\\]+$"
        elif name in ("mean", "std"):
            field.update(minItems=1, maxItems=3)
        elif name in ("offset", "stride", "beta", "height", "width", "box_padding") and "type" in field:
            field["minimum" if name == "offset" else "exclusiveMinimum"] = 0
    return schema


def report_schema() -> dict[str, Any]:
    """The schema of a report; keys that it does not know are allowed."""
    schema = schema_of(Report, f"Report of a splite-deploy bundle, version {REPORT_VERSION}", closed=False)
    schema["properties"]["report_version"]["const"] = REPORT_VERSION
    return schema


SCHEMAS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "manifest.schema.json": manifest_schema,
    "report.schema.json": report_schema,
}
"""What makes each published file."""


def _fields(schema: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for table in (schema, *schema["$defs"].values()):
        yield from table["properties"].items()


if __name__ == "__main__":
    for name, make in SCHEMAS.items():
        text = json.dumps(make(), indent=1, ensure_ascii=False) + "\n"
        Path(__file__).with_name(name).write_text(text, encoding="utf-8")
