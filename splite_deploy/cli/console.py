"""What the command line shows: errors, tables, JSON, progress. rich is imported late: ``--help`` needs none of it."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

import click

from splite_deploy.errors import OptionError, SpliteError
from splite_deploy.files import write_file
from splite_deploy.runtime.io import native_output
from splite_deploy.spec.plain import json_text
from splite_deploy.text import Lines, Part, shown, without_secrets

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text


_Item = TypeVar("_Item")

STDOUT = Path("-")
"""What names standard output where a file is expected."""


_quiet = _verbose = False


def set_volume(*, quiet: bool = False, verbose: bool = False) -> None:
    """Says how much is shown until this is called again.

    Args:
        quiet: Errors, warnings, and what goes to standard output because an option says so: no tables, no progress.
        verbose: Besides all else the parts of a step, what native code writes, and where an error comes from.

    Raises:
        OptionError: Both are wanted.
    """
    global _quiet, _verbose
    if quiet and verbose:
        raise OptionError("--quiet and --verbose contradict each other.", hint="Leave one of them out.")
    _quiet, _verbose = quiet, verbose
    native_output.echo(verbose)


def fail(err: SpliteError) -> NoReturn:
    """Prints what happened and what to do, and ends with its exit status."""
    if _verbose:
        trace = without_secrets("".join(traceback.format_exception(err)))
        sys.stderr.write(shown(trace, lines=True))
    put_error(err.message, err.hint)
    sys.exit(err.exit_status)


def put_error(message: str, hint: str) -> None:
    """Prints what happened and, where something can be done, what to do.

    Args:
        message: One line, or `Lines`; those after the first are indented, so that none looks like a hint.
        hint: The same, or empty.
    """
    for kind, colour, text in (("error: ", "red", message), ("hint:  ", "yellow", hint)):
        if text:
            _put(kind, colour, text)


def _put(kind: str, colour: str, text: str) -> None:
    told = shown(without_secrets(text), lines=isinstance(text, Lines)).replace("\n", f"\n{' ' * len(kind)}")
    sys.stderr.write(f"{click.style(kind, fg=colour, bold=True) if _coloured() else kind}{told}\n")
    sys.stderr.flush()


def _coloured() -> bool:
    """Whether standard error shows colours, and they are wanted; see no-color.org."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and os.name == "posix" and sys.stderr.isatty()


def say(text: str) -> None:
    """Prints what a result is, in one line."""
    if _quiet:
        return
    sys.stdout.write(f"{shown(text)}\n")
    sys.stdout.flush()


def remark(text: str) -> None:
    """Prints what is worth knowing beside the result, in one line, on standard error."""
    if not _quiet:
        _message(text)


def detail(text: str) -> None:
    """Prints a part of a longer work where the user wants to see them and no bar shows them, on standard error."""
    if _verbose and not sys.stderr.isatty():
        _message(f"  {text}")


def warn(text: str) -> None:
    """Prints what may make a result another than the user thinks, likewise, and where all else is quiet, too."""
    _message(f"warning: {text}")


def _message(text: str) -> None:
    sys.stderr.write(f"{shown(text)}\n")
    sys.stderr.flush()


def put_notes(notes: Mapping[str, Sequence[Path]]) -> None:
    """Prints what a user should know of files that were read, though nothing failed."""
    for text, files in () if _quiet else notes.items():
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        names = ", ".join(file.name for file in files[:3])
        _put("note:  ", "blue", f"{text}: {names}{more}")


def show(*renderables: RenderableType) -> None:
    """Prints tables; in a terminal they follow its width, elsewhere they are wide enough for all columns."""
    if _quiet:
        return
    from splite_deploy.plain_table import plain

    console = _console(width=None if sys.stdout.isatty() else 110)
    for renderable in renderables:
        console.print(plain(renderable))


def message_console() -> Console:
    """Where messages are shown: standard error."""
    return _console(stderr=True, quiet=_quiet)


def bar_console() -> Console:
    """Where bars are shown: standard error of a terminal, else nowhere.

    Before release 14.3 rich ends a bar with a blank line where there is no terminal, even one that is disabled.
    """
    console = message_console()
    return console if console.is_terminal else _console(quiet=True, force_terminal=False)


def _console(**options: Any) -> Console:
    """A console that follows no markup and guesses nothing."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, **options)


def tick(stream: TextIO) -> Text:
    """What says that something is right, as the stream can write it."""
    from rich.text import Text

    return Text("✓" if (stream.encoding or "").lower().startswith("utf") else "ok", "green")


def put_json(file: Path | None, value: object, *, line: bool = False) -> None:
    """Writes plain data (numbers, texts, lists, dictionaries) as JSON; see `put_text`.

    A number that is not finite is null there, and a warning names it.

    Args:
        file: See `put_text`.
        value: The data.
        line: Whether it is one line.
    """
    if file is not None:
        text, lost = json_text(value, indent=None if line else 1)
        put_text(file, f"{text}\n")
        if lost:
            more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
            warn(f"null in the JSON, since it is not finite: {', '.join(lost[:3])}{more}")


def put_text(file: Path | None, text: str) -> None:
    """Writes a text in UTF-8 to a file, whole or not at all, or to standard output.

    Args:
        file: The file; `STDOUT` for standard output, None for nowhere.
        text: With its last line break.

    Raises:
        OutputError: The file cannot be written.
    """
    if file == STDOUT:
        sys.stdout.flush()
        binary = getattr(sys.stdout, "buffer", None)  # a notebook's has none
        if binary is None:
            sys.stdout.write(text)
        else:
            binary.write(text.encode())
        sys.stdout.flush()
    elif file is not None:
        write_file(file, text.encode())


@contextmanager
def working(title: str) -> Iterator[Callable[[str], None]]:
    """Shows each step of a longer work while it runs, with its time when it is done.

    A message that is a `Part` says how far the step is: it is shown behind it, in its line, and leaves none.
    """
    from rich.text import Text

    console = message_console()
    step: list[Any] = ["", time.perf_counter()]

    def done() -> None:
        if step[0]:
            took = Text(f"{time.perf_counter() - step[1]:.1f} s", "dim")
            console.print(Text("  ") + tick(sys.stderr), Text(step[0]), took)

    with console.status(title) as status:

        def report(message: str) -> None:
            if isinstance(message, Part):
                if _verbose:
                    console.print(Text(f"    {shown(message)}", "dim"))
                status.update(Text(f"{title}: {step[0]}: {shown(message)} ..."))
                return
            done()
            step[:] = [shown(message), time.perf_counter()]
            status.update(Text(f"{title}: {step[0]} ..."))

        yield report
        done()


def progress_bar(items: list[_Item], what: str) -> Iterator[_Item]:
    """A progress bar on standard error; none for a single item."""
    if len(items) == 1:
        yield items[0]
        return
    from rich.progress import track

    console = bar_console()
    yield from track(items, what, console=console, transient=True, disable=not console.is_terminal)
