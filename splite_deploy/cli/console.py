"""What the command line shows: errors, tables, JSON, progress. rich is imported late: ``--help`` needs none of it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from splite_deploy.errors import SpliteError
from splite_deploy.files import write_file

if TYPE_CHECKING:
    from rich.console import RenderableType


_Item = TypeVar("_Item")

STDOUT = Path("-")
"""What names standard output where a file is expected."""


def fail(err: SpliteError) -> NoReturn:
    """Prints what happened and what to do, and ends with status 1."""
    put_error(err.message, err.hint)
    sys.exit(1)


def put_error(message: str, hint: str) -> None:
    """Prints what happened and, where something can be done, what to do."""
    click.echo(click.style("error: ", fg="red", bold=True) + message, err=True)
    if hint:
        click.echo(click.style("hint:  ", fg="yellow", bold=True) + hint, err=True)


def put_notes(notes: Mapping[str, Sequence[Path]]) -> None:
    """Prints what a user should know of files that were read, though nothing failed."""
    for text, files in notes.items():
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        names = ", ".join(file.name for file in files[:3])
        click.echo(f"{click.style('note:', fg='blue', bold=True)}  {text}: {names}{more}", err=True)


def show(*renderables: RenderableType) -> None:
    """Prints tables; in a terminal they follow its width, elsewhere they are wide enough for all columns."""
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=110)
    for renderable in renderables:
        console.print(renderable, highlight=False)


def put_json(file: Path | None, value: object) -> None:
    """Writes plain data (numbers, texts, lists, dictionaries) as JSON; see `put_text`."""
    if file is not None:
        put_text(file, f"{json.dumps(value, indent=1)}\n")


def put_text(file: Path | None, text: str) -> None:
    """Writes a text to a file, whole or not at all, or to standard output.

    Args:
        file: The file; `STDOUT` for standard output, None for nowhere.
        text: With its last line break.

    Raises:
        OutputError: The file cannot be written.
    """
    if file == STDOUT:
        click.echo(text, nl=False)
    elif file is not None:
        write_file(file, text.encode())


@contextmanager
def working(title: str) -> Iterator[Callable[[str], None]]:
    """Shows each step of a longer work while it runs, with its time when it is done."""
    from rich.console import Console

    console = Console(stderr=True)
    step: list[Any] = ["", time.perf_counter()]

    def done() -> None:
        if step[0]:
            console.print(f"  [green]✓[/] {step[0]} [dim]{time.perf_counter() - step[1]:.1f} s[/]", highlight=False)

    with console.status(title) as status:

        def report(message: str) -> None:
            done()
            step[:] = [message, time.perf_counter()]
            status.update(f"{title}: {message} ...")

        yield report
        done()


def progress_bar(items: list[_Item], what: str) -> Iterator[_Item]:
    """A progress bar on standard error; none for a single item."""
    if len(items) == 1:
        yield items[0]
        return
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(items, what, console=console, transient=True, disable=not console.is_terminal)
