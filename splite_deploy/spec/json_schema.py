"""The JSON Schema of a dataclass, made from its fields and its docstring. Standard library only."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from splite_deploy.decoders import DECODERS, Decoder
from splite_deploy.spec.plain import is_optional, to_plain

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN: Mapping[Any, dict[str, Any]] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
}
_ENTRY = re.compile(r"^ {4}(\w+): (.*)$")


def schema_of(cls: type, title: str, *, closed: bool) -> dict[str, Any]:
    """The schema of what `splite_deploy.spec.plain.to_plain` makes of a dataclass.

    Args:
        cls: The dataclass; its docstring and those of its parts say what each field means.
        title: Of the schema.
        closed: True describes what one version writes: every field that is not left out where it has its default, and
            no others. False describes what a reader accepts: fields with a default may be missing, and those of a later
            version be there.
    """
    maker = _Maker(closed)
    body = maker.table(cls)
    return {"$schema": DIALECT, "title": title, **body, "$defs": dict(sorted(maker.definitions.items()))}


class _Maker:
    def __init__(self, closed: bool) -> None:
        self.closed = closed
        self.definitions: dict[str, Any] = {}

    def table(self, cls: type, properties: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A dataclass; ``properties`` come before its fields and are required."""
        hints, described = get_type_hints(cls), _descriptions(cls)
        properties, fields = dict(properties or {}), dataclasses.fields(cls)
        always = [field.name for field in fields if not is_optional(field) and (self.closed or not _has_default(field))]
        required = [*properties, *always]
        for field in fields:
            properties[field.name] = {**self.value(hints[field.name]), "description": described[field.name]}
            if not self.closed and field.default is not dataclasses.MISSING:
                properties[field.name]["default"] = to_plain(field.default)
        made = {"type": "object", "properties": properties, "required": required}
        return {**made, "additionalProperties": False} if self.closed else made

    def value(self, hint: Any) -> dict[str, Any]:
        """A type of the kinds that this package uses."""
        origin, args = get_origin(hint), get_args(hint)
        if hint is Decoder:
            return {"anyOf": [self.reference(cls, {"type": {"const": kind}}) for kind, cls in DECODERS.items()]}
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return self.reference(hint)
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.value(option) for option in args]}
        if origin is Literal:
            return {"enum": list(args)}
        if origin is tuple:
            if args[-1] is Ellipsis:
                return {"type": "array", "items": self.value(args[0])}
            items = [self.value(item) for item in args]
            return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
        if origin is not None and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.value(args[1])}
        return dict(_PLAIN[hint])

    def reference(self, cls: type, properties: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A reference to a dataclass among the definitions."""
        name = cls.__name__
        if name not in self.definitions:
            self.definitions[name] = {}  # before its fields, which may name it again
            summary = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")
            self.definitions[name].update({"description": summary, **self.table(cls, properties)})
        return {"$ref": f"#/$defs/{name}"}


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _descriptions(cls: type) -> dict[str, str]:
    """What the docstrings of a class and of those it derives from say of each attribute, by its name."""
    found: dict[str, list[str]] = {}
    for base in reversed(cls.__mro__):
        name = ""
        for line in inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2].splitlines():
            if entry := _ENTRY.match(line):
                name = entry.group(1)
                found[name] = [entry.group(2)]
            elif name and line.strip():
                found[name].append(line.strip())
    return {name: " ".join(lines) for name, lines in found.items()}
