"""What files that are too many or too large to be sent say of themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from splite_deploy.errors import InputError, UsageError
from splite_deploy.files import sha256_of
from splite_deploy.fit.imports import with_imports

_MOST_ENTRIES = 100_000


def digest_of(paths: Iterable[Path], more: str = "") -> str:
    """SHA-256 of files and folders, without their place.

    Of a Python file those beside it count, too, since it may import them, and those that it does import from the
    folders around it (see `with_imports`); of a folder the names, sizes and dates of what is in it, without hidden
    files.

    Args:
        paths: The files and folders.
        more: A text that counts as well.

    Raises:
        UsageError: One cannot be read, or is a folder of more than 100,000 files.
    """
    told = hashlib.sha256(more.encode())
    for path in paths:
        try:
            for line in _lines(path):
                told.update(f"{line}\n".encode())
        except OSError as err:
            raise InputError(
                f"Cannot read {path}: {err.strerror or err}.", hint="Name a file that can be read."
            ) from err
    return told.hexdigest()


def _lines(path: Path) -> Iterator[str]:
    if not path.is_dir():
        code = [*path.parent.glob("*.py"), *with_imports(path, Path())] if path.suffix == ".py" else [path]
        yield from sorted({f"{one.name} {sha256_of(one)}" for one in code})
        return
    for number, one in enumerate(sorted(path.rglob("*"))):
        if number >= _MOST_ENTRIES:
            raise UsageError(
                f"{path} has more than {_MOST_ENTRIES:,} files.", hint="Name a file that lists them instead."
            )
        parts = one.relative_to(path).parts
        if one.is_file() and "__pycache__" not in parts and not any(part.startswith(".") for part in parts):
            found = one.stat()
            yield f"{'/'.join(parts)} {found.st_size} {found.st_mtime_ns}"
