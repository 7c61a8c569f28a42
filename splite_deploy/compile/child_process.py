"""A converter in a process of its own, so that what it prints goes to a file and how it ends is an error."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from splite_deploy.errors import CompileError, how_it_ended
from splite_deploy.files import writing

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
        path: The file.
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
    handle, name = tempfile.mkstemp(prefix=f"splite-{kind}-", suffix=".log")
    os.close(handle)
    log = Log(Path(name))
    try:
        yield log
    except CompileError:
        log.keep = True
        raise
    finally:
        if not log.keep:
            log.path.unlink(missing_ok=True)


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
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                start_new_session=True,  # so that its own children end with it
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def begin(self) -> None:
        """Lets it begin; its progress waits for `finish`."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def finish(self, *, timeout_s: float, progress: Callable[[str], None]) -> None:
        """Lets it begin if it has not, and waits for its end.

        Args:
            timeout_s: After this many seconds it is killed.
            progress: Called with each line.

        Raises:
            ChildFailed: It failed or was killed; the hint names the log.
            CompileError: It took too long.
        """
        process = self._process
        assert process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._kill()

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
                hint=f"Allow more time, or see in its log how far it came: {self._log}.",
            )
        if status < 0:
            raise ChildFailed(
                f"The conversion was ended by {how_it_ended(status)}.",
                hint=f"Its log is {self._log}.",
                status=status,
            )
        if status > 0:
            raise ChildFailed(
                f"The conversion failed: {_reason(self._log)}",
                hint=f"Its log is {self._log}.",
                status=status,
            )

    def _kill(self) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


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
