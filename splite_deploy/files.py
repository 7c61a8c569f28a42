"""Files written whole or not at all, their hashes, and the folder for what can be made again. Standard library only."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from os import PathLike, fspath
from pathlib import Path

from splite_deploy.errors import OutputError


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
    """Writes a file whole or not at all: where that fails, or is interrupted, what lay there lies there still.

    Raises:
        OutputError: It cannot be written.
    """
    with whole_file(path) as partial, writing(path), partial.open("wb", buffering=0) as stream:
        write_all(stream, data)


def write_all(stream: FileIO, data: bytes) -> None:
    """Writes to an unbuffered file, which may take less than it is given."""
    left = memoryview(data)
    while left:
        left = left[stream.write(left) :]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; it takes the place of ``path`` when the block ends, and goes if that fails.

    A device, for example ``/dev/stdout``, is written to as it is; a link stays, and what it leads to is replaced.

    Raises:
        OutputError: It cannot be put in its place.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    target = path.resolve() if path.is_symlink() else path
    partial = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        yield partial
        with writing(path):
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())
            partial.replace(target)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def exchange(one: Path, other: Path) -> None:
    """Lets two files or folders of one file system trade places, in a single step where the system can (Linux).

    Elsewhere ``other`` has no content for a moment; if that fails both are as they were.

    Raises:
        OSError: They cannot be renamed.
    """
    if _exchange_at_once(one, other):
        return
    aside = one.with_name(one.name + ".old")
    other.rename(aside)
    try:
        one.rename(other)
    except BaseException:
        aside.rename(other)
        raise
    aside.rename(one)


def _exchange_at_once(one: Path, other: Path) -> bool:
    """Whether the system has done it; see renameat2(2)."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchanging = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchanging) == 0)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes that lock the same folder waiting until the block ends; the system lifts it if we die.

    Raises:
        OutputError: There is no such folder, or it cannot be locked.
    """
    with writing(folder):
        handle = _lock(folder)
    try:
        yield
    finally:
        os.close(handle)


def _lock(folder: Path) -> int:
    """A locked handle of the folder that bears this name now: while we waited another may have taken its place."""
    import fcntl  # of POSIX: whoever only reads does without

    while True:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def cache_folder() -> Path | None:
    """Where this user's rendered images and TensorRT's timings are kept; None where the user has no home."""
    with suppress(RuntimeError):
        if named := os.environ.get("SPLITE_CACHE"):
            return Path(named).expanduser()
        shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (shared if shared.is_absolute() else Path.home() / ".cache") / "splite-deploy"
    return None


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Flushes a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
