"""What FFmpeg and other native code write to the process's standard error, kept from the terminal."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from splite_deploy.runtime.io.notes import are_collected

_MOST_BYTES = 1 << 16
_FFMPEG = re.compile(r"\[([\w,]+) @ 0x[0-9a-f]+\] (.*)")
_HARMLESS = re.compile(
    "unable to decode APP fields"  # thumbnails and the like in the pictures of a webcam
    "|co located POCs unavailable|mmco: unref short failure"  # a film that begins within a group of pictures
    "|[Dd]eprecated pixel format|timescale not set"
)


class NativeOutput:
    """What was written, at most its first 64 KiB: a damaged video makes a line for each block of pixels.

    Args:
        file: Where it goes, open for appending; None where there is no place for it.
    """

    def __init__(self, file: BinaryIO | None = None) -> None:
        self._file = file

    def trim(self) -> None:
        """Keeps the beginning alone."""
        if self._file is not None and os.fstat(self._file.fileno()).st_size > _MOST_BYTES:
            os.ftruncate(self._file.fileno(), _MOST_BYTES)

    def lines(self) -> list[str]:
        """All that was written."""
        if self._file is None:
            return []
        self._file.seek(0)  # what is appended goes to the end all the same
        text = self._file.read(_MOST_BYTES).decode(errors="replace")
        return [line.strip() for line in text.splitlines() if line.strip()]

    def complaints(self) -> list[str]:
        """What FFmpeg says is wrong with a video, without what is harmless."""
        found = [f"{match[1]}: {match[2].strip()}" for match in map(_FFMPEG.match, self.lines()) if match]
        return [line for line in found if not _HARMLESS.search(line)]


@contextmanager
def native_output() -> Iterator[NativeOutput]:
    """Takes what native code writes to standard error until the block ends; what Python writes is shown as before."""
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, ValueError, AttributeError):  # closed: there is nothing to keep it from
        yield NativeOutput()
        return
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, kept)
        try:
            file = stack.enter_context(_place())
        except OSError:  # no room: the output is lost, the work is not
            yield NativeOutput()
            return
        if _is_native(sys.stderr):
            raw = getattr(getattr(sys.stderr, "buffer", None), "raw", None)
            kind = type(raw) if isinstance(raw, io.FileIO) else io.FileIO  # the command line's bears a full disk
            shown = io.TextIOWrapper(
                io.BufferedWriter(kind(os.dup(kept), "wb")),
                encoding=sys.stderr.encoding,
                errors=sys.stderr.errors,
                line_buffering=True,
                write_through=True,
            )
            stack.enter_context(contextlib.closing(shown))
            stack.enter_context(contextlib.redirect_stderr(shown))
        os.dup2(file.fileno(), 2)
        stack.callback(os.dup2, kept, 2)
        yield NativeOutput(file)


@contextmanager
def own_output() -> Iterator[NativeOutput]:
    """The same in a process of the command line; another program's standard error is not touched."""
    with native_output() if are_collected() else contextlib.nullcontext(NativeOutput()) as said:
        yield said


def _place() -> BinaryIO:
    """A file without a name, open for appending: in memory where it can be, since each picture needs one."""
    if sys.platform == "linux" and hasattr(os, "memfd_create"):
        import fcntl

        with contextlib.suppress(OSError):
            handle = os.memfd_create("native-output")
            fcntl.fcntl(handle, fcntl.F_SETFL, os.O_APPEND)
            return os.fdopen(handle, "a+b", buffering=0)
    return tempfile.TemporaryFile("a+b", buffering=0)


def _is_native(stream: object) -> bool:
    """Whether Python's standard error is the process's."""
    try:
        return stream.fileno() == 2  # type: ignore[attr-defined,no-any-return]
    except (OSError, ValueError, AttributeError):
        return False
