"""Standard streams that tell what became of a result, whatever they lead to: a full disk, nothing, a closed pipe."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import click

from splite_deploy.errors import OutputError
from splite_deploy.files import writing

CLOSED_PIPE = 141
"""Exit status where nobody reads on: what a shell gives of a process that SIGPIPE ended (128 + 13)."""
_ERRORS = "backslashreplace"
"""What a terminal's encoding does not have is shown as `splite_deploy.text.shown` would."""


class PipeClosedError(click.exceptions.Exit):
    """Whoever read standard output has gone, as ``head`` does: there is nobody to tell, and nothing more to do."""

    def __init__(self) -> None:
        super().__init__(CLOSED_PIPE)


class _Output(io.FileIO):
    """Standard output: what cannot be delivered is an error, once, and nothing is tried again when Python ends."""

    _lost = False

    def write(self, data: Any) -> int:
        if self._lost:
            return len(data)
        try:
            with writing("to standard output"):
                try:
                    return super().write(data)
                except BrokenPipeError:
                    self._lost = True
                    raise PipeClosedError from None
        except OutputError as err:
            self._lost = True
            raise OutputError(
                err.message, hint="Send it elsewhere: > FILE; or keep a result alone: --json FILE > /dev/null."
            ) from err


class _Messages(io.FileIO):
    """Standard error: what cannot be told is lost, and the work goes on."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def prepare_streams() -> None:
    """Makes the process's own streams such that no text and no state of theirs is an exception of Python's.

    A stream that was closed gets its number back first: else the next file that is opened would be taken for it. What a
    terminal's encoding does not have is escaped. Streams that somebody has put in their place are left alone.
    """
    if os.name != "posix":
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors=_ERRORS)
        return
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        _hold(number, flags)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(_Output(1, "wb", closefd=False), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Messages(2, "wb", closefd=False), sys.stderr)


def _hold(number: int, flags: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, flags)
        if opened == number:
            os.set_inheritable(number, True)
        else:
            os.dup2(opened, number)
            os.close(opened)


def _text(raw: io.FileIO, instead_of: Any) -> io.TextIOWrapper:
    encoding = getattr(instead_of, "encoding", None) or "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, _ERRORS, line_buffering=raw.isatty())
