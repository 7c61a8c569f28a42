"""What FFmpeg and other native code write to the process's standard error, kept from the terminal."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
import threading
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


_BANNER = re.compile(rb"^INFO: Created TensorFlow Lite XNNPACK delegate for CPU\.\r?\n", re.MULTILINE)
"""What LiteRT logs once in a process (its ``minimal_logging``, which has no setting in Python)."""
_banner_seen = False
_echo = False
_one_at_a_time = threading.Lock()  # of two threads that exchange standard error one would put the other's file back


def echo(wanted: bool) -> None:
    """Says whether what `own_output` takes is written to standard error all the same, when its block ends."""
    global _echo
    _echo = wanted


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

    def content(self, most: int = -1) -> bytes:
        """What was written, at most its first so many bytes."""
        if self._file is None:
            return b""
        self._file.seek(0)  # what is appended goes to the end all the same
        return self._file.read(most)

    def lines(self) -> list[str]:
        """The lines that were written, without empty ones."""
        text = self.content(_MOST_BYTES).decode(errors="replace")
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
    taken = b""
    try:
        with native_output() if are_collected() else contextlib.nullcontext(NativeOutput()) as said:
            try:
                yield said
            finally:
                taken = said.content(_MOST_BYTES) if _echo else b""
    finally:
        _write(taken)


@contextmanager
def without_banner() -> Iterator[None]:
    """Keeps from standard error that LiteRT has made its delegate, in any program; all else is written there.

    It is logged once in a process, and once it was, standard error is not touched again.
    """
    global _banner_seen
    if _banner_seen:
        yield
        return
    rest = b""
    with _one_at_a_time:
        try:
            with native_output() as said:
                try:
                    yield
                finally:
                    rest, found = _BANNER.subn(b"", said.content())
                    _banner_seen = bool(found)
        finally:
            _write(rest)


def _write(content: bytes) -> None:
    """Writes to the process's standard error; what cannot be told is lost."""
    if content:
        with contextlib.suppress(OSError):
            os.write(2, content)


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
