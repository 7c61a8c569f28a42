"""Plain data (of JSON or TOML) to typed dataclasses and back, with every key and type checked.

Standard library only. The manifest, ``model.toml`` and benchmark results all pass through here.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from splite_deploy.errors import FIELDS_DOC, SpecError

T = TypeVar("T")
Unknown = Literal["refuse", "ignore"]
_HELD_AS: Mapping[Any, Any] = {tuple: list | tuple}
"""What plain data holds for a type that it has not."""


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
    try:
        return _converter(cls, unknown)(data)  # type: ignore[arg-type, no-any-return]
    except _WrongError as wrong:
        path = f"{where}{wrong.path}".removeprefix(".")
        raise SpecError(wrong.message.format(path), hint=wrong.hint) from None


class _WrongError(Exception):
    """What is wrong with a value; every table and list on the way out puts its key before the path.

    Attributes:
        message: With ``{}`` for the path.
        hint: What to do.
        path: From where `structure` began, for example ``.artifacts[0].file``.
    """

    def __init__(self, message: str, hint: str, path: str = "") -> None:
        super().__init__(message)
        self.message, self.hint, self.path = message, hint, path


@cache  # an annotation is compiled anew each time, and manifests hold hundreds of values
def _converter(hint: Any, unknown: Unknown) -> Callable[[Any], Any]:
    """What checks a value against the type ``hint`` and returns it as that type; lists become tuples."""
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _table(hint, unknown)
    if origin in (Union, types.UnionType):
        return _union(hint, args, unknown)
    if origin is Literal:
        return _literal(args)
    if origin is tuple:
        return _tuple(hint, args, unknown)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(hint, _converter(args[1], unknown))
    return (lambda value: value) if hint is Any else _number if hint is float else _exact(hint)


def _table(cls: type, unknown: Unknown) -> Callable[[Any], Any]:
    fields, hints = {field.name: field for field in dataclasses.fields(cls)}, get_type_hints(cls)
    converters = {name: _converter(hints[name], unknown) for name in fields}

    def convert(value: Any) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise _wrong_type(value, cls)
        if unknown == "refuse" and (surplus := sorted(set(value) - set(fields))):
            raise _WrongError("Unknown field {}.", f"The fields here are: {', '.join(fields)}.", f".{surplus[0]}")
        values = {}
        for name, make in converters.items():
            if name in value:
                try:
                    values[name] = make(value[name])
                except _WrongError as wrong:
                    wrong.path = f".{name}{wrong.path}"
                    raise
            elif (field := fields[name]).default is field.default_factory is dataclasses.MISSING:
                hint = field.metadata.get("hint", f"Add it; {FIELDS_DOC}.")
                raise _WrongError("The field {} is missing.", hint, f".{name}")
        return cls(**values)

    return convert


def _union(hint: Any, args: tuple[Any, ...], unknown: Unknown) -> Callable[[Any], Any]:
    options = {option: _converter(option, unknown) for option in args if option is not type(None)}

    def convert(value: Any) -> Any:
        if value is None and type(None) in args:
            return None
        for option, make in options.items():
            if len(options) == 1 or isinstance(value, _HELD_AS.get(get_origin(option), option)):
                return make(value)
        raise _wrong_type(value, hint)

    return convert


def _tuple(hint: Any, args: tuple[Any, ...], unknown: Unknown) -> Callable[[Any], Any]:
    many = args[-1] is Ellipsis
    converters = [_converter(item, unknown) for item in args if item is not Ellipsis]

    def convert(value: Any) -> Any:
        if not isinstance(value, list | tuple) or not (many or len(value) == len(converters)):
            raise _wrong_type(value, hint)
        made: list[Any] = []
        try:
            for make, item in zip(converters * len(value) if many else converters, value, strict=True):
                made.append(make(item))
        except _WrongError as wrong:
            wrong.path = f"[{len(made)}]{wrong.path}"
            raise
        return tuple(made)

    return convert


def _mapping(hint: Any, make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _wrong_type(value, hint)
        made: dict[str, Any] = {}
        for key, item in value.items():
            try:
                made[str(key)] = make(item)
            except _WrongError as wrong:
                wrong.path = f".{key}{wrong.path}"
                raise
        return made

    return convert


def _literal(args: tuple[Any, ...]) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if value in args:
            return value
        raise _WrongError(f"{{}} is {_shown(value)}.", f"Choose one of: {', '.join(str(a) for a in args)}.")

    return convert


def _number(value: Any) -> float:
    if type(value) in (int, float) and abs(value) < sys.float_info.max:
        return float(value)
    raise _wrong_type(value, float)


def _exact(kind: type) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if type(value) is kind:
            return value
        raise _wrong_type(value, kind)

    return convert


def _wrong_type(value: Any, hint: Any) -> _WrongError:
    return _WrongError(f"{{}} is {_shown(value)}, which has the wrong type.", f"It must be {_describe(hint)}.")


def _shown(value: Any) -> str:
    """A value as part of a message that is yet to be formatted."""
    return repr(value).replace("{", "{{").replace("}", "}}")


def _describe(hint: Any) -> str:
    """A type in words a person would use."""
    names = {int: "a whole number", float: "a finite number", str: "a text in quotes", bool: "true or false"}
    if hint in names:
        return names[hint]
    if get_origin(hint) is tuple:
        args = get_args(hint)
        if args[-1] is Ellipsis:
            return f"a list, each entry {_describe(args[0])}"
        return f"a list of {len(args)} values"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in get_args(hint) if option is not type(None))
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
