"""What a user should know of pictures that were read, though nothing failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

Notes = dict[str, list[Path]]
"""Files by what there is to know of them, each once."""

_OPEN: ContextVar[Notes | None] = ContextVar("notes", default=None)


def note(text: str, file: Path) -> None:
    """Adds a note on a file; it is lost where nobody collects them."""
    notes = _OPEN.get()
    if notes is not None:
        files = notes.setdefault(text, [])
        if file not in files[-1:]:
            files.append(file)


def taken(text: str) -> list[Path]:
    """The files of a note that the caller tells of by itself: they are noted no longer."""
    return (_OPEN.get() or {}).pop(text, [])


def are_collected() -> bool:
    """Whether somebody collects them: the command line, whose process is ours."""
    return _OPEN.get() is not None


@contextmanager
def collecting_notes() -> Iterator[Notes]:
    """Collects the notes until the block ends."""
    notes: Notes = {}
    token = _OPEN.set(notes)
    try:
        yield notes
    finally:
        _OPEN.reset(token)
