"""``model.toml``: the model spec, and what only the developer's machine needs beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splite_deploy.errors import SpecError
from splite_deploy.spec.model import ModelSpec
from splite_deploy.spec.plain import FieldsError, Problem, collecting
from splite_deploy.spec.presets import expand_preset
from splite_deploy.spec.reading import MalformedError, MissingError, ReadError, parse_toml, read_toml
from splite_deploy.spec.view import View, view_of

MODEL_TOML = "model.toml"
"""What the file is called that is looked for beside a checkpoint or another file of a network."""

UNKNOWN = "?"
"""What ``splite-deploy init`` writes for a field that is for the user to fill in."""


@dataclass(frozen=True)
class HostSpec:
    """The part of ``model.toml`` that only the developer's machine needs; it never enters a bundle.

    Attributes:
        folder: Folder of ``model.toml``; ``arch``, ``samples`` and ``calibration`` are relative to it.
        arch: ``file.py:symbol`` of a callable that builds the untrained network; empty where the network brings itself.
        arch_args: Keyword arguments of that callable.
        samples: ``file.py:symbol`` of a callable ``(count, seed)`` that yields (RGB image, xyxy box); empty if none.
        calibration: Files of ranges of activations, made by ``splite-deploy calibrate``, each for other weights.
        view: How the network really takes the image and gives its outputs. Export bakes it into the graphs of a bundle.
    """

    folder: Path
    arch: str
    arch_args: Mapping[str, Any]
    samples: str = ""
    calibration: tuple[str, ...] = ()
    view: View = field(default_factory=View)


def _or(what: str, option: str | None) -> str:
    """The other way out of a hint, where an option gives one."""
    return "" if option is None else f", or {what} with {option}"


def load_model_toml(path: Path, option: str | None = "--model") -> tuple[ModelSpec, HostSpec]:
    """Reads ``model.toml``.

    Args:
        path: The file.
        option: Of the command line, that names another one, for the hint; None where there is none.

    Raises:
        SpecError: The file is missing, is no TOML, or a field is wrong; the message names it.
    """
    try:
        data = read_toml(path)
    except MissingError as err:
        raise SpecError(
            f"No model spec at {path}.", hint=f"Put model.toml beside the checkpoint{_or('name it', option)}."
        ) from err
    except ReadError as err:
        hint = f"Correct that line{_or('name another model.toml', option)}."
        if not isinstance(err, MalformedError):
            hint = f"Make it readable{_or('name a readable model.toml', option)}."
        raise SpecError(err.message, hint=hint) from err
    return _model_of(data, path)


def parse_model_toml(text: str, path: Path) -> tuple[ModelSpec, HostSpec]:
    """The same of a text, whose file ``path`` need not exist."""
    try:
        return _model_of(parse_toml(text, str(path)), path)
    except ReadError as err:
        raise SpecError(err.message, hint="Correct that line.") from err


def _model_of(data: dict[str, Any], path: Path) -> tuple[ModelSpec, HostSpec]:
    if missing := list(unknown_fields(data)):
        is_one = len(missing) == 1
        raise SpecError(
            f'{path} has {len(missing)} field{"" if is_one else "s"} to be filled in, written as "{UNKNOWN}": '
            f"{', '.join(missing)}.",
            hint=f"The comment at {'it' if is_one else 'each'} says what to choose from. Where the network is of a "
            "known family, 'splite-deploy init' fills in with --like what its training tells.",
        )
    problems: list[Problem] = []
    arch, args, samples = data.pop("arch", ""), data.pop("arch_args", {}), data.pop("samples", "")
    named = data.pop("calibration", [])
    files = named if isinstance(named, list) else [named]
    if not all(isinstance(text, str) for text in (arch, samples, *files)) or not isinstance(args, dict):
        said = "arch, arch_args, samples or calibration has the wrong type."
        hint = (
            'Write arch and samples as "file.py:symbol", calibration as the name of a file or a list of names, '
            "and [arch_args] as a table of keyword arguments."
        )
        problems.append(Problem(said, hint))
    if data.pop("heads", None) is not None:
        problems.append(Problem("Unknown field {}.", "Write a table for each, as in [outputs.presence].", ".heads"))
    tables: dict[str, Any] = {name: data.pop(name) for name in ("inputs", "outputs") if name in data}
    spec, view = None, View()
    in_skeleton: list[Problem] = []
    if isinstance(skeleton := data.get("skeleton"), dict):
        with collecting(in_skeleton, ".skeleton"):
            data["skeleton"] = expand_preset(skeleton)
    in_model: list[Problem] = []
    with collecting(in_model):
        spec = ModelSpec.from_dict(data)
    problems += in_skeleton
    problems += [one for one in in_model if not (in_skeleton and one.path.startswith(".skeleton"))]
    with collecting(problems):
        view = view_of(tables)
        if spec is not None:
            view.check(spec.decoder, spec.input.channels)
            spec = spec.with_heads(view.heads)
    if problems or spec is None:
        wrong = FieldsError(problems)
        raise SpecError(f"{path}: {wrong.message}", hint=wrong.hint)
    return spec, HostSpec(path.parent, arch, args, samples, tuple(files), view)


def unknown_fields(table: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Dotted names of the fields of a file that are still to be filled in."""
    for key, value in table.items():
        if value == UNKNOWN:
            yield f"{where}{key}"
        elif isinstance(value, Mapping):
            yield from unknown_fields(value, f"{where}{key}.")


def parse_value(text: str) -> Any:
    """A value as TOML writes it; text that is none stands for itself."""
    try:
        return parse_toml(f"value = {text}", text)["value"]
    except ReadError:
        return text
