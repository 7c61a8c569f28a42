"""Plain data (of JSON or TOML) to typed dataclasses and back, with every key and type checked.

Standard library only. The manifest, ``model.toml`` and benchmark results all pass through here.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from splite_deploy.errors import FIELDS_DOC, SpecError

T = TypeVar("T")
Unknown = Literal["refuse", "ignore"]


def structure(cls: type[T], data: Mapping[str, Any], where: str, *, unknown: Unknown = "refuse") -> T:
    """Builds dataclass ``cls`` from plain data, checking every key and type.

    Args:
        cls: A frozen dataclass of the kinds used in this package. A field's metadata may hold a ``hint`` that is given
            where it is missing.
        data: JSON- or TOML-like data.
        where: Dotted path of ``data`` for messages; empty at the top.
        unknown: Whether a key that the dataclass has not, at any depth, is an error.

    Raises:
        SpecError: The message names the dotted key.
    """
    hints = _hints(cls)  # type: ignore[arg-type]  # classes are hashable
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    prefix = f"{where}." if where else ""
    if unknown == "refuse" and (surplus := sorted(set(data) - set(fields))):
        raise SpecError(f"Unknown field {prefix}{surplus[0]}.", hint=f"The fields here are: {', '.join(fields)}.")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], prefix + name, unknown)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            hint = field.metadata.get("hint", f"Add it; {FIELDS_DOC}.")
            raise SpecError(f"The field {prefix}{name} is missing.", hint=hint)
    return cls(**values)


@cache  # every annotation is compiled anew, and manifests hold hundreds of layers
def _hints(cls: type) -> Mapping[str, Any]:
    return get_type_hints(cls)


def _convert(hint: Any, value: Any, where: str, unknown: Unknown) -> Any:
    """Checks ``value`` against the type ``hint`` and returns it as that type (lists become tuples)."""
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        if isinstance(value, Mapping):
            return structure(hint, value, where, unknown=unknown)  # type: ignore[arg-type]
    elif origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [option for option in args if option is not type(None)]
        for option in options:
            if len(options) == 1 or isinstance(value, option):
                return _convert(option, value, where, unknown)
    elif origin is Literal:
        if value in args:
            return value
        raise SpecError(f"{where} is {value!r}.", hint=f"Choose one of: {', '.join(str(a) for a in args)}.")
    elif origin is tuple and isinstance(value, list | tuple):
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(inner) == len(value):
            pairs = enumerate(zip(inner, value, strict=True))
            return tuple(_convert(kind, item, f"{where}[{i}]", unknown) for i, (kind, item) in pairs)
    elif origin in (Mapping, dict) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        if isinstance(value, Mapping):
            return {str(key): _convert(args[1], item, f"{where}.{key}", unknown) for key, item in value.items()}
    elif hint is Any:
        return value
    elif hint is float and type(value) in (int, float) and abs(value) < sys.float_info.max:
        return float(value)
    elif hint is not float and type(value) is hint:
        return value
    raise SpecError(f"{where} is {value!r}, which has the wrong type.", hint=f"It must be {_describe(hint)}.")


def _describe(hint: Any) -> str:
    """A type in words a person would use."""
    names = {int: "a whole number", float: "a finite number", str: "a text in quotes", bool: "true or false"}
    if hint in names:
        return names[hint]
    if get_origin(hint) is tuple:
        args = get_args(hint)
        return "a list" if args[-1] is Ellipsis else f"a list of {len(args)} values"
    return "a table"


def to_plain(value: Any) -> Any:
    """JSON-able data: dataclasses become dictionaries and tuples lists, recursively."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return value


def compact_json(data: Mapping[str, Any]) -> str:
    """JSON of a line for each entry of the first two levels, for files that people read as well."""

    def lines(value: Any) -> str:
        if isinstance(value, Mapping) and any(isinstance(item, Mapping | list) for item in value.values()):
            inner = (f"{json.dumps(key)}: {json.dumps(item)}" for key, item in value.items())
            return "{\n  " + ",\n  ".join(inner) + "\n }"
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            return "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        return json.dumps(value)

    return "{\n " + ",\n ".join(f"{json.dumps(key)}: {lines(value)}" for key, value in data.items()) + "\n}\n"
