"""The errors a caller can expect. Each says what happened (``message``) and what to do next (``hint``).

The library raises them and never prints; ``cli`` turns them into two lines and exit status 1 in one place.
Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

FIELDS_DOC = "see models/README.md for every field with an example"
"""Ends the hint of an error in ``model.toml``."""


class SpliteError(Exception):
    """Root of all expected errors.

    Attributes:
        message: What happened, in one sentence; one of several lines is a `splite_deploy.text.Lines`.
        hint: What to do about it, in one sentence or such lines; empty only where nothing can be done.
        exit_status: Of a command that it ends: 1, or 2 for wrong usage.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(SpliteError):
    """A value given by the caller cannot be used: an empty box, a wrong option."""


class OptionError(UsageError):
    """An option is wrong as it was typed, whatever the files hold: misspelt, malformed, or contradicted by another."""

    exit_status = 2


class InputError(UsageError):
    """A file that was given holds something else than it should, or is damaged or cut: a picture, labels.

    The command was typed well.
    """


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Puts the name of a file, or of a line of one, before the message of a `UsageError` about what it holds."""
    try:
        yield
    except UsageError as err:
        raise type(err)(f"{path}: {err.message}", hint=err.hint) from err


FILES_HINT = "Close other files, or allow more of them: ulimit -n 4096."
"""What to do where too many files are open."""
_READ_HINTS = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "Check the permissions of the file and of its folders."),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), FILES_HINT),
    errno.EIO: "The disk cannot read it: look into the system's log, and copy the file again from elsewhere.",
    errno.ESTALE: "The network folder has gone: mount it again.",
}


def reading_hint(err: BaseException, otherwise: str) -> str:
    """What to do about a file that the operating system would not read, or ``otherwise`` where it says nothing of use.

    Args:
        err: An `OSError`, or what was raised from one.
        otherwise: What to do about the content of the file.
    """
    reason = err if isinstance(err, OSError) else err.__cause__
    return _READ_HINTS.get(reason.errno or 0, otherwise) if isinstance(reason, OSError) else otherwise


class SpecError(SpliteError):
    """``model.toml`` or the model part of a manifest is wrong."""


def require(condition: bool, message: str) -> None:
    """Raises `SpecError` with ``message``, a clause about a field's value, where ``condition`` does not hold."""
    if not condition:
        raise SpecError(f"Model spec: {message}.", hint=f"Correct the value; {FIELDS_DOC}.")


class CheckpointError(SpliteError):
    """A checkpoint cannot be read, or does not fit its architecture."""


class BundleError(SpliteError):
    """A bundle is incomplete, damaged, or of a format this version does not know."""


class UpdateError(SpliteError):
    """An update is damaged, or is not for what is installed; or a store of bundles is none."""


class ExportError(SpliteError):
    """A graph could not be made from the network."""


class CalibrationError(SpliteError):
    """Calibration data would make a wrong INT8 network."""


class CompileError(SpliteError):
    """A graph could not be turned into what a target runs."""


class ParityError(SpliteError):
    """A conversion moved the keypoints by more than its limit."""


class BackendError(SpliteError):
    """An inference backend refused the artefact or failed while running it."""


class CameraError(SpliteError):
    """A camera or a video cannot be opened, or gave no more frames."""


class GateError(SpliteError):
    """A benchmark result is beyond a limit that was set on it."""


class RemoteError(SpliteError):
    """A machine cannot be reached by ssh, cannot do what is wanted, or answers what it should not."""


class OutputError(SpliteError):
    """A result could not be written."""


class MissingDependencyError(SpliteError, ImportError):
    """A package that this step needs is not installed."""


def first_line(err: BaseException, *, named: bool = False) -> str:
    """The reason of another package's exception, in one line.

    Args:
        err: The exception; where it was raised from another one, that is the reason.
        named: Whether the type of the exception comes first.
    """
    while err.__cause__ is not None:  # torch wraps the reason in general advice
        err = err.__cause__
    lines = [line.strip()[:300] for line in str(err).splitlines() if line.strip()]
    return ": ".join([type(err).__name__, *lines[:1]]) if named or not lines else lines[0]


def how_it_ended(status: int) -> str:
    """How a process ended that should not have, in words.

    Args:
        status: Its exit status; the negative number of the signal where one ended it, as `subprocess` has it.
    """
    if status >= 0:
        return f"its process ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"{name}, which the system sends where memory runs out" if name == "SIGKILL" else name


def told_failure(lines: Sequence[str]) -> tuple[str, str]:
    """What a command of ours wrote to standard error of its failure.

    Args:
        lines: That it wrote.

    Returns:
        Its message, else the last line, and its hint; each empty where there is none.
    """
    told = {kind: line.removeprefix(kind) for line in lines for kind in ("error: ", "hint:  ") if line.startswith(kind)}
    return told.get("error: ") or (lines[-1] if lines else ""), told.get("hint:  ", "")
