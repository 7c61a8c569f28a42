"""Python files that another one imports from the folders around it, found without running any of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from splite_deploy.files import is_file

_OWN = __name__.partition(".")[0]
"""This package: its version stands for its files."""


def with_imports(script: Path, working: Path) -> list[Path]:
    """A Python file and all that it imports, and what those import, as far as they are found by their names.

    Looked for are modules and packages in the folder of the file that imports, in its packages, in the working folder,
    and in the folders beside the first: scripts put them on the path themselves. Names that are not there are those of
    installed packages. An import by a name that is put together as the program runs is not seen.

    Args:
        script: The file.
        working: The folder that the program runs in.

    Returns:
        Their resolved paths, in an order of their own.
    """
    found: dict[Path, None] = {}
    todo = [script.resolve()]
    while todo:
        file = todo.pop()
        if file in found:
            continue
        found[file] = None
        roots = _roots(file.parent, working.resolve())
        for name, level in _imported(file):
            todo += _files_of(name, [_above(file.parent, level)] if level else roots)
    return sorted(found)


def module_file(name: str, working: Path) -> Path | None:
    """The file of a module in the working folder; None where it is elsewhere, such as of an installed package."""
    place = working.joinpath(*name.split("."))
    return next(filter(is_file, (place / "__init__.py", place.with_name(f"{place.name}.py"))), None)


def _roots(folder: Path, working: Path) -> list[Path]:
    top = folder
    while is_file(top / "__init__.py"):
        top = top.parent
    around = working if top == working else top.parent
    try:
        beside = sorted(place for place in around.iterdir() if place.is_dir() and not place.name.startswith("."))
    except OSError:
        beside = []
    return list(dict.fromkeys([folder, top, working, *beside]))


def _above(folder: Path, level: int) -> Path:
    for _ in range(level - 1):
        folder = folder.parent
    return folder


def _imported(file: Path) -> Iterator[tuple[str, int]]:
    """Names of modules, or of what is taken from one, which may be a module, and how many dots stand before."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return  # the program that imports it says what is wrong
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((one.name, 0) for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield from ((".".join(filter(None, (module, one.name))), node.level) for one in node.names)


def _files_of(name: str, roots: list[Path]) -> list[Path]:
    """What an import of ``a.b.c`` runs: the packages on the way and the module, as far as they are under a root."""
    parts = name.split(".")
    if parts[0] == _OWN:
        return []
    found = []
    for root in roots:
        place = root
        for part in parts:
            package, module = place / part / "__init__.py", place / f"{part}.py"
            if is_file(module):
                found.append(module)
                break
            if not (place / part).is_dir():
                break
            found += [package] if is_file(package) else []
            place = place / part
    return [one.resolve() for one in found]
