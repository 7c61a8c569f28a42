"""The JSON Schema of a benchmark result, made from its dataclasses and their docstrings.

    python -m splite_deploy.bench.schema > splite_deploy/bench/schema.json

The published file is what other programs read results by; a test fails when it differs from the dataclasses.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from splite_deploy.bench.result import SCHEMA_VERSION, BenchResult

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN: Mapping[Any, dict[str, Any]] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
}
_ENTRY = re.compile(r"^ {4}(\w+): (.*)$")


def result_schema() -> dict[str, Any]:
    """The schema of one line of JSON that `BenchResult.to_dict` writes, of the present version."""
    definitions: dict[str, Any] = {}
    body = _object(BenchResult, definitions)
    body["properties"]["schema_version"]["const"] = SCHEMA_VERSION
    title = f"Benchmark result of splite-deploy, schema version {SCHEMA_VERSION}"
    return {"$schema": DIALECT, "title": title, **body, "$defs": dict(sorted(definitions.items()))}


def _object(cls: type, definitions: dict[str, Any]) -> dict[str, Any]:
    """A dataclass: every field is written, so every one is required, and there are no others."""
    hints, described = get_type_hints(cls), _descriptions(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    properties = {name: {**_schema(hints[name], definitions), "description": described[name]} for name in names}
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def _schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """A type of the kinds that results use."""
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if hint.__name__ not in definitions:
            definitions[hint.__name__] = {}  # before its fields, which may name it again
            summary = (inspect.getdoc(hint) or "").split("\n\n")[0].replace("\n", " ")
            definitions[hint.__name__].update({"description": summary, **_object(hint, definitions)})
        return {"$ref": f"#/$defs/{hint.__name__}"}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(option, definitions) for option in args]}
    if origin is Literal:
        return {"enum": list(args)}
    if origin is tuple:
        if args[-1] is Ellipsis:
            return {"type": "array", "items": _schema(args[0], definitions)}
        items = [_schema(item, definitions) for item in args]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema(args[1], definitions)}
    return dict(_PLAIN[hint])


def _descriptions(cls: type) -> dict[str, str]:
    """What the docstring says of each attribute, by its name."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in (inspect.getdoc(cls) or "").partition("Attributes:\n")[2].splitlines():
        if entry := _ENTRY.match(line):
            name = entry.group(1)
            found[name] = [entry.group(2)]
        elif name and line.strip():
            found[name].append(line.strip())
    return {name: " ".join(lines) for name, lines in found.items()}


if __name__ == "__main__":
    print(json.dumps(result_schema(), indent=1, ensure_ascii=False))
