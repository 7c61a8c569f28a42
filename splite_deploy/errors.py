"""The errors a caller can expect. Each says what happened (``message``) and what to do next (``hint``).

The library raises them and never prints; ``cli`` turns them into two lines and exit status 1 in one place.
Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from os import PathLike, fspath
from pathlib import Path


class SpliteError(Exception):
    """Root of all expected errors.

    Attributes:
        message: What happened, in one sentence.
        hint: What to do about it, in one sentence; empty only where nothing can be done.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(SpliteError):
    """A value given by the caller cannot be used: an empty box, a file that is no image, a wrong option."""


class SpecError(SpliteError):
    """``model.toml`` or the model part of a manifest is wrong."""


class CheckpointError(SpliteError):
    """A checkpoint cannot be read, or does not fit its architecture."""


class BundleError(SpliteError):
    """A bundle is incomplete, damaged, or of a format this version does not know."""


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


class OutputError(SpliteError):
    """A result could not be written."""


class MissingDependencyError(SpliteError, ImportError):
    """A package that this step needs is not installed."""


@contextmanager
def writing(path: str | PathLike[str]) -> Iterator[None]:
    """Turns the operating system's refusal to write ``path`` into an `OutputError` with a hint."""
    try:
        yield
    except OSError as err:
        hints = {
            errno.ENOSPC: "Free some space, or name another place.",
            errno.EDQUOT: "Your quota is used up: free some space, or name another place.",
            errno.EACCES: "Check the permissions of the folder, or name another place.",
            errno.EPERM: "Check the permissions of the folder, or name another place.",
            errno.EROFS: "That file system is read-only: name another place.",
            errno.EEXIST: "A part of that path is a file, not a folder: name another place.",
            errno.ENOTDIR: "A part of that path is a file, not a folder: name another place.",
        }
        hint = hints.get(err.errno or 0, "Check that the folder exists and can be written to.")
        raise OutputError(f"Cannot write {fspath(path)}: {err.strerror or err}.", hint=hint) from err


def write_file(path: Path, data: bytes) -> None:
    """Writes a file whole; where the disk fills up on the way, no part of it is left.

    Raises:
        OutputError: It cannot be written.
    """
    with writing(path), path.open("wb", buffering=0) as stream:
        try:
            write_all(stream, data)
        except OSError:
            if path.is_file():  # and no device
                path.unlink()
            raise


def write_all(stream: FileIO, data: bytes) -> None:
    """Writes to an unbuffered file, which may take less than it is given."""
    left = memoryview(data)
    while left:
        left = left[stream.write(left) :]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; it takes the place of ``path`` when the block ends, and goes if that fails.

    A device, for example ``/dev/stdout``, is written to as it is.

    Raises:
        OutputError: It cannot be put in its place.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    partial = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield partial
        with writing(path):
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())
            partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
