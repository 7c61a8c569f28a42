"""Programs that run as children of this process and never outlive it, whatever ends it. Standard library only.

Each has a keeper (`splite_deploy.keeper`), a small process that holds one end of a pipe: when this process closes the
other end, or dies, the keeper kills the program and what it has started. A child is in a session of its own: Ctrl-C in
the terminal reaches this process alone, which ends its children.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from splite_deploy import keeper

_PYTHON = ("python", "pypy")
_STOPPED_WITHIN_S = 10.0


def python_command(*arguments: str) -> list[str]:
    """The command that starts Python as this process was; empty where this is a program that has Python inside."""
    name = Path(sys.executable or "").name.lower()
    if getattr(sys, "frozen", False) or not name.startswith(_PYTHON):
        return []
    return [sys.executable, *arguments]


class Child:
    """A running program; leaving the context kills it, and with it what it has started.

    On Windows, and in a program that has Python inside, there is no keeper: there leaving the context ends it, and
    nothing else does.

    Args:
        command: The program and its arguments.
        options: As of `subprocess.Popen`.

    Raises:
        OSError: It cannot be started. A keeper that cannot start it ends with status 127.
    """

    def __init__(self, command: Sequence[str | os.PathLike[str]], **options: Any) -> None:
        self._lock = threading.Lock()
        self._life: int | None = None
        kept = python_command("-I", "-S", keeper.__file__) if hasattr(os, "fork") else []
        if not kept:
            self.process: subprocess.Popen[Any] = subprocess.Popen(command, **options)
            return
        watched, self._life = os.pipe()
        try:
            self.process = subprocess.Popen(
                [*kept, str(watched), *command], pass_fds=(watched,), start_new_session=True, **options
            )
        except BaseException:
            os.close(self._life)
            raise
        finally:
            os.close(watched)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        streams: tuple[IO[Any] | None, ...] = (self.process.stdin, self.process.stdout, self.process.stderr)
        for stream in filter(None, streams):
            with suppress(OSError):  # what is left to be written to a dead process
                stream.close()

    def stop(self) -> None:
        """Kills it, if it still runs, with what it has started, and waits until it is gone."""
        with self._lock:
            life, self._life = self._life, None
            if life is not None:
                os.close(life)
            elif self.process.poll() is None:
                self.process.kill()
        try:
            self.process.wait(_STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()  # the keeper, which hangs
            self.process.wait()


def run(
    command: Sequence[str | os.PathLike[str]], *, timeout_s: float, given: bytes | None = None, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """Runs a program to its end, as `subprocess.run`.

    Args:
        command: The program and its arguments.
        timeout_s: Seconds after which it is killed.
        given: Its standard input; None for none.
        options: As of `subprocess.Popen`.

    Raises:
        OSError: It cannot be started, see `Child`.
        subprocess.TimeoutExpired: It was killed.
    """
    with Child(command, stdin=subprocess.DEVNULL if given is None else subprocess.PIPE, **options) as child:
        output, errors = child.process.communicate(given, timeout=timeout_s)
    return subprocess.CompletedProcess(command, child.process.returncode, output, errors)
