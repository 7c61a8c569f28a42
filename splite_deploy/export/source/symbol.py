"""Python files that ``model.toml`` names: what builds a network, and what renders pictures. Imports no torch itself."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from splite_deploy.errors import SpecError
from splite_deploy.files import is_file, real_path

_siblings: set[str] = set()
"""Modules that were imported while a model's file was."""


def load_symbol(reference: str, folder: Path) -> Callable[..., Any]:
    """Imports ``file.py:symbol``, relative to ``folder``.

    Raises:
        SpecError: The file or the symbol is not there, or the file does not run.
    """
    name, _, symbol = reference.partition(":")
    file = real_path(folder / name)
    if not symbol or file.suffix != ".py" or not is_file(file):
        raise SpecError(
            f"'{reference}' in model.toml names no Python file" + ("." if is_file(file) else f" ({file} is missing)."),
            hint='Write "file.py:symbol"; the file is sought beside model.toml.',
        )
    module_name = f"_splite_{file.parent.name}_{file.stem}"
    module_spec = importlib.util.spec_from_file_location(module_name, file)
    assert module_spec is not None and module_spec.loader is not None  # since it is a .py file
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module  # dataclasses look their module up there
    sys.path.insert(0, str(file.parent))
    _forget_siblings(file.parent)
    before = set(sys.modules)
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as err:  # the user's file can raise anything
        del sys.modules[module_name]
        raise SpecError(
            f"{file} cannot be imported: {type(err).__name__}: {err}", hint="Run it with python to see where."
        ) from err
    finally:
        sys.path.remove(str(file.parent))
        _siblings.update(set(sys.modules) - before)
    if not callable(getattr(module, symbol, None)):
        held = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module_name
        ]
        raise SpecError(f"{file} defines no '{symbol}'.", hint=f"It defines: {', '.join(held) or 'nothing callable'}.")
    found: Callable[..., Any] = getattr(module, symbol)
    return found


def _forget_siblings(folder: Path) -> None:
    """Forgets the modules that models of other folders imported from beside them: names like ``blocks`` are common.

    They stay known until then, since torch looks a network's functions up by the name of their module.
    """
    for name in _siblings & set(sys.modules):
        origin = getattr(sys.modules[name], "__file__", None)
        if origin is not None and Path(origin).parent != folder and (folder / Path(origin).name).exists():
            del sys.modules[name]
