"""Plain data (of JSON or TOML) to typed dataclasses and back, with every key and type checked.

Standard library only. The manifest, ``model.toml`` and benchmark results all pass through here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from splite_deploy.errors import FIELDS_DOC, SpecError
from splite_deploy.text import Lines, whole

OPTIONAL: Mapping[str, bool] = {"optional": True}
"""Metadata of a field that is left out where it has its default; see `to_plain`."""
T = TypeVar("T")
Unknown = Literal["refuse", "ignore"]
_LARGEST = 1 << 63
_SHORT = reprlib.Repr()
"""Shows the beginning of a value: what a damaged file holds may be of any length."""
_SHORT.maxlong, _SHORT.maxstring, _SHORT.maxother = 80, 120, 80
_HELD_AS: Mapping[Any, Any] = {tuple: list | tuple}
"""What plain data holds for a type that it has not."""


def structure(
    cls: type[T], data: Mapping[str, Any], where: str, *, unknown: Unknown = "refuse", every: bool = False
) -> T:
    """Builds dataclass ``cls`` from plain data, checking every key and type.

    Args:
        cls: A frozen dataclass of the kinds used in this package. A field's metadata may hold a ``hint`` that is given
            where it is missing.
        data: JSON- or TOML-like data.
        where: Dotted path of ``data`` for messages; empty at the top.
        unknown: Whether a key that the dataclass has not, at any depth, is an error.
        every: Whether all that is wrong is told, to people who wrote it, or the first of it: a file that a program
            wrote is damaged, and one field says so.

    Raises:
        FieldsError: Fields are missing, unknown or wrong; the message names them.
    """
    try:
        return _converter(cls, unknown)(data)  # type: ignore[arg-type, no-any-return]
    except _WrongError as wrong:
        told = wrong.problems if every else wrong.problems[:1]
        raise FieldsError(problem.at(where) for problem in told) from None


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong with one field.

    Attributes:
        message: In one sentence, with ``{}`` for the path where it names it.
        hint: What to do.
        path: Dotted name of the field, for example ``.artifacts[0].file``; empty where several together are wrong.
    """

    message: str
    hint: str
    path: str = ""

    def at(self, where: str) -> Problem:
        """The same seen from further out, where the path begins with another key."""
        return dataclasses.replace(self, path=f"{where}{self.path}")

    @property
    def name(self) -> str:
        """The path as people write it."""
        return self.path.removeprefix(".")

    @property
    def said(self) -> str:
        """The message with the name of the field."""
        return self.message.format(self.name)


class FieldsError(SpecError):
    """Fields are missing, unknown or wrong. Of one it says what and what to do; of several all at once.

    Attributes:
        problems: One for each field.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        first, *others = self.problems
        if not others:
            super().__init__(first.said, hint=first.hint)
            return
        said = (problem.said.removeprefix("The field ").removeprefix("Model spec: ") for problem in self.problems)
        advice: dict[str, list[str]] = {}
        for problem in self.problems:
            advice.setdefault(problem.hint, []).append(problem.name)
        lines = (f"{', '.join(filter(None, names)) or 'Elsewhere'}: {hint}" for hint, names in advice.items())
        super().__init__(
            f"{len(self.problems)} fields are missing or wrong: {'; '.join(text.removesuffix('.') for text in said)}.",
            hint=Lines.of(lines),
        )


@contextmanager
def collecting(problems: list[Problem], where: str = "") -> Iterator[None]:
    """Notes what is wrong with fields instead of raising it.

    Args:
        problems: Grows.
        where: Path of what is read inside, for errors that tell none.
    """
    try:
        yield
    except FieldsError as err:
        problems += err.problems
    except SpecError as err:
        problems.append(_told(err, where))


def _told(err: SpecError, where: str = "") -> Problem:
    return Problem(err.message.replace("{", "{{").replace("}", "}}"), err.hint, where)


class _WrongError(Exception):
    """What is wrong inside a value; every table and list on the way out puts its key before the paths."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__()
        self.problems = problems


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
        problems: list[Problem] = []
        if unknown == "refuse" and (surplus := sorted(set(value) - set(fields))):
            known = f"The fields here are: {', '.join(fields)}."
            problems += [Problem("Unknown field {}.", known, f".{name}") for name in surplus]
        values = {}
        for name, make in converters.items():
            field = fields[name]
            if name in value:
                with _below(problems, f".{name}"):
                    values[name] = make(value[name])
            elif field.default is field.default_factory is dataclasses.MISSING:
                told = len(problems)
                if unknown == "refuse" and dataclasses.is_dataclass(hints[name]):
                    with _below(problems, f".{name}"):
                        make({})  # each field of a table that is missing
                if len(problems) == told:
                    hint = field.metadata.get("hint", f"Add it; {FIELDS_DOC}.")
                    problems.append(Problem("The field {} is missing.", hint, f".{name}"))
        if problems:
            raise _WrongError(problems)
        try:
            return cls(**values)
        except SpecError as err:
            raise _WrongError([_told(err)]) from None

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
        problems: list[Problem] = []
        for index, item in enumerate(value):
            with _below(problems, f"[{index}]"):
                made.append((converters[0] if many else converters[index])(item))
        if problems:
            raise _WrongError(problems)
        return tuple(made)

    return convert


def _mapping(hint: Any, make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _wrong_type(value, hint)
        made: dict[str, Any] = {}
        problems: list[Problem] = []
        for key, item in value.items():
            with _below(problems, f".{key}"):
                made[str(key)] = make(item)
        if problems:
            raise _WrongError(problems)
        return made

    return convert


@contextmanager
def _below(problems: list[Problem], key: str) -> Iterator[None]:
    """Notes what is wrong with the value under a key."""
    try:
        yield
    except _WrongError as wrong:
        problems += [problem.at(key) for problem in wrong.problems]


def _literal(args: tuple[Any, ...]) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if any(type(value) is type(one) and value == one for one in args):  # True is 1 to Python
            return value
        hint = f"Choose one of: {', '.join(str(a) for a in args)}."
        raise _WrongError([Problem(f"{{}} is {_shown(value)}.", hint)])

    return convert


def _number(value: Any) -> float:
    if type(value) in (int, float) and abs(value) < sys.float_info.max:
        return float(value)
    raise _wrong_type(value, float)


def _exact(kind: type) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if type(value) is not kind:
            raise _wrong_type(value, kind)
        if type(value) is int and not -_LARGEST <= value < _LARGEST:
            raise _WrongError([Problem(f"{{}} is {_shown(value)}, which is too large.", "It has 64 bits at most.")])
        return value

    return convert


def _wrong_type(value: Any, hint: Any) -> _WrongError:
    said = f"{{}} is {_shown(value)}, which has the wrong type."
    return _WrongError([Problem(said, f"It must be {_describe(hint)}.")])


def _shown(value: Any) -> str:
    """A value as part of a message that is yet to be formatted."""
    return _SHORT.repr(value).replace("{", "{{").replace("}", "}}")


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
    """JSON-able data: dataclasses become dictionaries and tuples lists, recursively.

    A field whose metadata says ``OPTIONAL`` is left out where it has its default, so that what is written is what was
    written before there was such a field.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not (is_optional(field) and getattr(value, field.name) == _default(field))
        }
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return value


def is_optional(field: dataclasses.Field[Any]) -> bool:
    """Whether a field is left out of plain data where it has its default."""
    return bool(field.metadata.get("optional"))


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


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


def json_text(value: Any, *, indent: int | None = None) -> tuple[str, list[str]]:
    """Plain data as JSON that every reader takes: without NaN and infinity, and without halves of characters.

    Args:
        value: Numbers, texts, lists, dictionaries.
        indent: Spaces for each level; None for one line.

    Returns:
        The text, and where a number was not finite and null stands instead: ``[0].pose.scores[3]``.
    """
    try:
        text = json.dumps(value, indent=indent, allow_nan=False)
    except (TypeError, ValueError):  # a number that is not finite, or a mapping that is no dictionary
        text = ""
    if text and "\\ud" not in text:  # no half of a character either: nothing has to be replaced
        return text, []
    lost: list[str] = []
    return json.dumps(_sound(value, "", lost), indent=indent, allow_nan=False), lost


def _sound(value: Any, where: str, lost: list[str]) -> Any:
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, Mapping):
        return {
            whole(key) if isinstance(key, str) else key: _sound(item, f"{where}.{key}".lstrip("."), lost)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_sound(item, f"{where}[{index}]", lost) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        lost.append(where or "the value")
        return None
    return value
