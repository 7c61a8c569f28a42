"""A converter in a process of its own, so that what it prints goes to a file and how it ends is an error."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from splite_deploy import children
from splite_deploy.errors import CompileError, OutputError, how_it_ended
from splite_deploy.files import TMP_HINT, is_full, part_file, place_of, writing

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TELLING = (
    re.compile(r"(\w+\.)*\w*(Error|Exception): "),
    re.compile("ERROR"),
    re.compile(""),
)  # the most telling first
_TAIL = 1 << 16  # bytes of the log in which the reason is looked for


@dataclass
class Log:
    """A log file.

    Attributes:
        path: The file. While it may go it has a hidden name, see `splite_deploy.files`, and messages name its place.
        keep: Whether it stays after the work; an error that passes through the context sets it.
    """

    path: Path
    keep: bool = False


@contextmanager
def kept_log(kind: str) -> Iterator[Log]:
    """A log file that is deleted when the work succeeds and left where it fails; the hint of the error names it.

    Args:
        kind: What is logged, for the name of the file.
    """
    with writing("to the folder for temporary files"):
        place = Path(tempfile.gettempdir()) / f"splite-{kind}-{secrets.token_hex(4)}.log"
    with part_file(place) as path:
        log = Log(path)
        try:
            yield log
        except CompileError:
            log.keep = True
            raise
        finally:
            if log.keep:
                with writing(place):
                    log.path = path.replace(place)


class ChildFailed(CompileError):
    """The process failed, or was killed.

    Attributes:
        status: Its exit status; the negative number of the signal where one ended it.
    """

    def __init__(self, message: str, *, hint: str, status: int) -> None:
        super().__init__(message, hint=hint)
        self.status = status


def module_command(module: str) -> list[str]:
    """The command that runs a module by this Python."""
    return [sys.executable, "-m", module]


class Child:
    """A running process; leaving the context kills it, and with it what it has started.

    Args:
        command: The program and its arguments. It begins when its standard input ends, and reports progress on its
            standard output, line by line.
        folder: The folder it runs in.
        log: Where its standard error goes.
        environment: Variables in addition to those of this process.

    Raises:
        OutputError: The log cannot be written.
    """

    def __init__(self, command: Sequence[str], folder: Path, *, log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        with writing(log):
            stream = log.open("wb")
        with stream:
            self._child = children.Child(
                command,
                cwd=folder,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.__exit__(kind, error, trace)

    def begin(self) -> None:
        """Lets it begin; its progress waits for `finish`."""
        assert self._child.process.stdin is not None
        self._child.process.stdin.close()

    def finish(self, *, timeout_s: float, progress: Callable[[str], None]) -> None:
        """Lets it begin if it has not, and waits for its end.

        Args:
            timeout_s: After this many seconds it is killed.
            progress: Called with each line.

        Raises:
            ChildFailed: It failed or was killed; the hint names the log.
            CompileError: It took too long.
        """
        process = self._child.process
        assert process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._child.stop()

        timer = threading.Timer(timeout_s, stop)
        timer.start()
        try:
            self.begin()
            for line in process.stdout:
                progress(line.rstrip())
            status = process.wait()
        finally:
            timer.cancel()
        if late.is_set():
            raise CompileError(
                f"The conversion took longer than {timeout_s:g} s and was stopped.",
                hint=f"Allow more time, or see in its log how far it came: {place_of(self._log)}.",
            )
        if status < 0:
            raise ChildFailed(
                f"The conversion was ended by {how_it_ended(status)}.",
                hint=f"Its log is {place_of(self._log)}.",
                status=status,
            )
        if status > 0:
            if is_full(self._log.parent):
                message = f"The conversion failed: the disk of {self._log.parent} is full."
                raise OutputError(message, hint=TMP_HINT)
            raise ChildFailed(
                f"The conversion failed: {_reason(self._log)}",
                hint=f"Its log is {place_of(self._log)}.",
                status=status,
            )


def _reason(log: Path) -> str:
    """The last line of the log that reads like a reason."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _TAIL))
        text = _COLOUR.sub("", stream.read().decode(errors="replace"))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for pattern in _TELLING:
        for line in reversed(lines):
            if pattern.match(line):
                return line[:300]
    return "it printed nothing."
