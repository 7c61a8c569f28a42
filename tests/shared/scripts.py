"""Python files of the repository that belong to no package, as modules."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType


def load_script(file: Path) -> ModuleType:
    """The file as a module of a name of its own: its folder's and its own, since several are called ``train.py``."""
    name = f"{file.parent.name}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def run_main(main: Callable[[], None], *arguments: object) -> subprocess.CompletedProcess[str]:
    """What a script's ``main`` prints and ends with, in this process, where torch is imported already."""
    printed, errors, status = io.StringIO(), io.StringIO(), 0
    typed = [main.__module__, *map(str, arguments)]
    before, sys.argv = sys.argv, typed
    try:
        with redirect_stdout(printed), redirect_stderr(errors):
            try:
                main()
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else int(end.code is not None)
                if isinstance(end.code, str):
                    print(end.code, file=sys.stderr)
    finally:
        sys.argv = before
    return subprocess.CompletedProcess(typed, status, printed.getvalue(), errors.getvalue())
