"""Files written whole or not at all, their hashes, and the folder for what can be made again. Standard library only.

Whatever is made before it takes its place has a hidden name beside that place, ``.NAME.splite-PID.part.SUFFIX`` (see
`part_file` and `part_folder`), and is locked with flock(2) as long as its process lives: the system lifts the lock
when the process dies, however it dies. A hidden name without a lock is thus a leftover, which `remove_leftovers`
removes. Work of minutes claims its place when it begins (see `claimed`). Process numbers are for people who read them:
in containers they repeat, and those of other containers mean nothing here. Where a file system has no locks nothing can
be told, and nothing is removed.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import itertools
import os
import re
import shutil
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from os import PathLike, fspath
from pathlib import Path
from stat import S_IMODE, S_IRUSR, S_IWUSR

from splite_deploy.errors import FILES_HINT, OutputError, UsageError
from splite_deploy.interruption import current as interruption


@contextmanager
def writing(path: str | PathLike[str]) -> Iterator[None]:
    """Turns the operating system's refusal to write ``path`` into an `OutputError` with a hint."""
    try:
        yield
    except OSError as err:
        hints = {
            errno.ENOSPC: "Free some space, or name another place.",
            errno.EFBIG: "The file system or the shell's limit (ulimit -f) takes none so large: name another place.",
            errno.EDQUOT: "Your quota is used up: free some space, or name another place.",
            errno.EACCES: "Check the permissions of the folder, or name another place.",
            errno.EPERM: "Check the permissions of the folder, or name another place.",
            errno.EISDIR: "That is a folder: name a file in it.",
            errno.EROFS: "That file system is read-only: name another place.",
            errno.EEXIST: "A part of that path is a file, not a folder: name another place.",
            **dict.fromkeys((errno.EMFILE, errno.ENFILE), FILES_HINT),
            errno.EBUSY: "It is mounted on its own, or in use: mount the folder around it, or name another place.",
            errno.ELOOP: "Links of that name lead in a circle: name another place.",
            errno.ENOTDIR: "A part of that path is a file, not a folder: name another place.",
        }
        hint = hints.get(err.errno or 0, "Check that the folder exists and can be written to.")
        raise OutputError(f"Cannot write {fspath(path)}: {err.strerror or err}.", hint=hint) from err


def check_writable(path: Path, *, appends: bool = False) -> None:
    """Sees that a file can be made or replaced, as far as that can be told without doing it.

    Args:
        path: The file.
        appends: Whether a file that is there is written to where it lies, instead of being replaced.

    Raises:
        OSError: Its folder is missing or closed, the file system is read-only, a folder has that name, links of that
            name lead in a circle, or a file has to be replaced that is mounted on its own.
    """
    _followed(path)
    if not stat.S_ISDIR(path.parent.stat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if is_folder(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    real, is_replaced = real_path(path), is_file(path) and not appends and descriptor_of(path) is None
    if is_replaced and _is_mounted(real):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
    folder = real.parent
    if not (os.access(folder, os.W_OK | os.X_OK) or (not is_replaced and os.access(path, os.W_OK))):
        is_read_only = hasattr(os, "statvfs") and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
        code = errno.EROFS if is_read_only else errno.EACCES
        raise OSError(code, os.strerror(code), str(path))


_MOUNTS = Path("/proc/self/mountinfo")


def _is_mounted(file: Path) -> bool:
    """Whether a file is mounted on its own, as containers are given some: nothing can take its place."""
    name = "".join(f"\\{ord(one):03o}" if one in " \t\n\\" else one for one in str(file))
    try:
        with _MOUNTS.open(encoding="utf-8", errors="surrogateescape") as lines:
            return any(line.split(" ", 5)[4:5] == [name] for line in lines)
    except OSError:  # not Linux
        return False


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Refuses to replace what somebody has there, unless it was asked for.

    Raises:
        OutputError: There is something, and it is not to be replaced.
    """
    if anything_at(path) and not overwrite:
        raise OutputError(f"{path} exists.", hint="Add --overwrite to replace it, or name another file with --output.")


def write_file(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all: where that fails, or is interrupted, what lay there lies there still.

    Raises:
        OutputError: It cannot be written.
    """
    with whole_file(path) as partial, writing(path), partial.open("wb", buffering=0) as stream:
        write_all(stream, data)


def write_beside(path: Path, data: bytes) -> Path:
    """Writes a file whole under this name, or, where something has it, under one like it; what is there stays.

    A file that has this content already is not written again.

    Returns:
        Where it is.

    Raises:
        OutputError: It cannot be written.
    """
    for place in names_like(path):
        if is_file(place) and _has_content(place, data):
            return place
        if anything_at(place):
            continue
        with part_file(place) as partial, writing(place):
            with partial.open("wb", buffering=0) as stream:
                write_all(stream, data)
                os.fsync(stream.fileno())
            with suppress(FileExistsError):  # it came in the meantime
                rename_to_new(partial, place)
                return place
    raise AssertionError


def _has_content(file: Path, data: bytes) -> bool:
    try:
        return file.stat().st_size == len(data) and file.read_bytes() == data
    except OSError:
        return False


def names_like(path: Path) -> Iterator[Path]:
    """A name, and then without an end others that are like it: ``a.png``, ``a-2.png``, ``a-3.png``."""
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def write_all(stream: FileIO, data: bytes) -> None:
    """Writes to an unbuffered file, which may take less than it is given."""
    left = memoryview(data)
    while left:
        left = left[stream.write(left) :]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; it takes the place of ``path`` when the block ends, and goes if that fails.

    A device is written to as it is; a link stays, and what it leads to is replaced. What is replaced keeps its mode,
    and its owner where we may give that. A descriptor that the shell opened, as in ``--json /dev/stdout >>log``, is
    given the whole content where it stands, and the file behind it is not replaced.

    Raises:
        OutputError: It cannot be put in its place.
    """
    if anything_at(path) and not is_file(path):
        yield path
        return
    if descriptor_of(path) is not None:
        with work_folder("splite-output") as folder:
            yield (content := folder / f"content{path.suffix}")
            with writing(path), content.open("rb") as source, appending(path) as stream:
                while block := source.read(1 << 20):
                    write_all(stream, block)
        return
    with writing(path):
        target = _followed(path)
    with part_file(target) as partial:
        keep_access(target, partial, S_IRUSR | S_IWUSR)
        yield partial
        with writing(path):
            keep_access(target, partial)
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())
            with _moving:
                partial.replace(target)


def _followed(path: Path) -> Path:
    """What a link leads to, or the path itself.

    Raises:
        OSError: Links lead in a circle.
    """
    target = real_path(path) if os.path.islink(path) else path  # noqa: PTH114 - see `is_file`
    if target is not path and os.path.islink(target):  # noqa: PTH114
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def keep_access(old: Path, new: Path, more: int = 0) -> None:
    """Gives what is about to replace something the owner, as far as we may, and the mode of that.

    Args:
        old: What is replaced; nothing happens where it does not exist.
        new: What replaces it.
        more: Bits of the mode that it has besides.
    """
    with suppress(OSError, AttributeError):  # of another user, of a file system without modes, Windows
        found, made = old.stat(), new.stat()
        with suppress(OSError):
            if found.st_gid != made.st_gid:
                os.chown(new, -1, found.st_gid)
        with suppress(OSError):
            if found.st_uid != made.st_uid:
                os.chown(new, found.st_uid, -1)
        new.chmod(S_IMODE(found.st_mode) | more)


def descriptor_of(path: Path) -> int | Path | None:
    """What an open descriptor's name means: our own descriptor, or the name of another process's; None of any other.

    ``/dev/stdout`` and ``/dev/fd/1`` lead to ``/proc/self/fd/1``, and that by a link to the file which was opened:
    whoever follows it to the end has lost how it was opened, for example to be appended to.
    """
    for _ in range(_MOST_LINKS):
        folder = real_path(path.parent)
        match = _DESCRIPTORS.fullmatch(folder.as_posix())
        if match is not None and path.name.isdecimal():
            own = match["pid"] in (None, str(os.getpid()))
            return int(path.name) if own else folder / path.name
        try:
            path = folder / os.readlink(path)  # noqa: PTH115
        except (OSError, ValueError):
            return None
    return None


_DESCRIPTORS = re.compile(r"/dev/fd|/proc/(?P<pid>\d+)(/task/\d+)?/fd")
_MOST_LINKS = 40


@contextmanager
def appending(path: Path) -> Iterator[FileIO]:
    """A file to append to, or a descriptor that goes on where it stands; unbuffered.

    Raises:
        OSError: It cannot be opened.
    """
    named = descriptor_of(path)
    if isinstance(named, int):
        with FileIO(os.dup(named), "wb") as stream:
            yield stream
    else:
        with FileIO(path if named is None else named, "ab") as stream:
            yield stream


_HIDDEN = re.compile(r"\..+\.splite-(\d+(-\d+)?\.(?P<kind>part|old)|claim)(\.[^.]*)?", re.DOTALL)
_CLAIM_TRIES = 10
_LONGEST_NAME = 255  # bytes; of Linux' file systems, macOS and Windows
_swept: set[tuple[int, int]] = set()
_unfinished: set[Path] = set()
_MOVES_WITHIN_S = 2.0
_moving = threading.Lock()


def is_hidden(name: str) -> bool:
    """Whether this is a name that `hidden_name` gives."""
    return _HIDDEN.fullmatch(name) is not None


def hidden_name(path: Path, kind: str = "part", number: int = 0) -> Path:
    """The name of what shall become ``path``, was it, or says who writes it.

    Args:
        path: The place.
        kind: "part" for what is not whole yet, "old" for what gave way for a moment, "claim" for who writes, which is
            the same name in all processes.
        number: Tells several apart.
    """
    own = f"{os.getpid()}{f'-{number}' if number else ''}."
    tag, stem = f".splite-{'' if kind == 'claim' else own}{kind}", path.stem
    room = _LONGEST_NAME - len(os.fsencode(f".{tag}{path.suffix}"))
    if len(os.fsencode(stem)) > room and kind != "old":  # an old one tells by its name where it belongs
        digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]
        stem = os.fsencode(stem)[: max(room - 9, 0)].decode(errors="ignore") + f"-{digest}"
    return path.with_name(f".{stem}{tag}{path.suffix}")


@contextmanager
def part_file(path: Path) -> Iterator[Path]:
    """A new, empty file beside ``path``, locked; when the block ends it is removed, if it has that name still.

    Raises:
        OutputError: It cannot be made.
    """
    with writing(path):
        _sweep_once(path.parent)
    with _part(path, _make_file) as partial:
        yield partial


@contextmanager
def part_folder(path: Path) -> Iterator[Path]:
    """A new, empty folder beside ``path``, locked; when the block ends it is removed, if it has that name still.

    Raises:
        OutputError: It cannot be made.
    """
    with writing(path):
        remove_leftovers(path.parent)
    with _part(path, _make_folder) as partial:
        yield partial


@contextmanager
def _part(path: Path, make: Callable[[Path], int | None]) -> Iterator[Path]:
    """What `part_file` and `part_folder` share."""
    with writing(path):
        partial, handle = _make_locked(path, make)
    try:
        yield partial
    finally:
        _remove(partial)
        _unfinished.discard(partial)
        if handle is not None:
            os.close(handle)


TMP_HINT = "Free some space there, or name another folder: TMPDIR=FOLDER splite-deploy ..."
"""What to do about a full disk of the folder for temporary files."""
_FULL_BELOW_BYTES = 1 << 20


def is_full(folder: Path) -> bool:
    """Whether the disk of a folder has less than a megabyte left: enough of a reason for what failed there."""
    return shutil.disk_usage(folder).free < _FULL_BELOW_BYTES


@contextmanager
def work_folder(purpose: str) -> Iterator[Path]:
    """A new folder for intermediate files, where the system keeps such; removed when the block ends.

    Args:
        purpose: For its name.

    Raises:
        OutputError: It cannot be made, or what was done in the block failed and the disk it lies on is full.
    """
    with writing("to the folder for temporary files"):
        place = Path(tempfile.gettempdir()) / purpose
    with part_folder(place) as folder:
        try:
            yield folder
        except Exception as err:  # other packages hide the reason, which is the same for all of them
            if not is_full(folder):
                raise
            message = f"The disk of the folder for temporary files is full: {place.parent}."
            raise OutputError(message, hint=TMP_HINT) from err


@contextmanager
def abandoned_parts() -> Iterator[None]:
    """Removes what this process has not finished, since it ends now; nothing takes its place until the block ends.

    For a thread that ends the process while others are at work. What is about to take its place may do so first.
    """
    held = _moving.acquire(timeout=_MOVES_WITHIN_S)
    try:
        for path in list(_unfinished) if held else ():
            _remove(path)
        yield
    finally:
        if held:
            _moving.release()


interruption.at_end(abandoned_parts)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


@contextmanager
def claimed(path: Path, shown: Path | None = None) -> Iterator[None]:
    """Keeps others that claim the same place from it until the block ends; they are refused at once.

    On file systems without locks nobody can be refused.

    Args:
        path: The place.
        shown: What messages call it.

    Raises:
        OutputError: Another process, which the message names, has claimed it; or nothing can be written there.
    """
    claim, shown = hidden_name(path, "claim"), path if shown is None else shown
    with writing(shown):
        remove_leftovers(path.parent)
        with interruption.undivided():
            handle = _take(claim, shown)
            _unfinished.add(claim)
    try:
        with writing(shown):
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        with suppress(OSError):
            if os.name == "posix" and _is_at(handle, claim):
                claim.unlink()
        os.close(handle)
        _unfinished.discard(claim)
        if os.name != "posix":
            claim.unlink(missing_ok=True)


def _take(claim: Path, shown: Path) -> int:
    """A handle of a claim that is ours.

    Raises:
        OSError: It cannot be made.
        OutputError: It is another's.
    """
    for left in itertools.count(_CLAIM_TRIES, -1):
        handle = os.open(claim, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        if _try_lock(handle) is False:
            who = os.read(handle, 200).decode(errors="replace") or "another process"
            os.close(handle)
            if left <= 0:
                hint = "Wait until it is done, or name another place."
                raise OutputError(f"{shown} is being written by {who}.", hint=hint)
            time.sleep(0.01)  # it may be about to say who it is, or only looks whether this is a leftover
            continue
        if _is_at(handle, claim):
            return handle
        os.close(handle)  # it was another's until now, and is gone
    raise AssertionError


def held(path: Path) -> int:
    """How many blocks of `part_file` or `part_folder` there are of a place now, in all processes.

    On file systems without locks none can be told.
    """
    count = 0
    with suppress(OSError):
        for name in os.listdir(path.parent):  # noqa: PTH208 - names
            if is_hidden(name) and place_of(path.parent / name) == path:
                with suppress(OSError):  # it is gone
                    handle = os.open(path.parent / name, os.O_RDONLY)
                    count += _try_lock(handle) is False
                    os.close(handle)
    return count


def remove_leftovers(folder: Path) -> None:
    """Removes what dead processes left in a folder, and gives a bundle back its name that gave way for a moment.

    What a living process holds stays, and so does what cannot be told or removed.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if _HIDDEN.fullmatch(entry.name)]
    except OSError:
        return
    for name in names:
        _remove_leftover(folder / name)


def _sweep_once(folder: Path) -> None:
    """Removes leftovers when this process writes to the folder for the first time: it may hold thousands of files."""
    with suppress(OSError):
        found = folder.stat()
        if (key := (found.st_dev, found.st_ino)) not in _swept:
            _swept.add(key)
            remove_leftovers(folder)


def _remove_leftover(path: Path) -> None:
    try:
        if not (stat.S_ISREG(mode := path.lstat().st_mode) or stat.S_ISDIR(mode)):
            return
        handle = os.open(path, os.O_RDWR if stat.S_ISREG(mode) else os.O_RDONLY)
    except OSError:  # it is gone, or another user's
        return
    try:
        if not (_try_lock(handle) and _is_at(handle, path)):
            return
        match = _HIDDEN.fullmatch(path.name)
        if match is not None and match["kind"] == "old":
            with suppress(OSError):
                rename_to_new(path, place_of(path))
                return
        _remove(path)
    finally:
        os.close(handle)


def place_of(path: Path) -> Path:
    """The place that a hidden name of ours belongs to; any other name is its own place.

    That of a very long name is not the whole one.
    """
    match = _HIDDEN.fullmatch(path.name)
    if match is None:
        return path
    stem, _, rest = path.name[1:].rpartition(".splite-")
    return path.with_name(stem + rest.partition(f".{match['kind']}")[2])


def _make_file(path: Path) -> int | None:
    """A handle of a new file; none on Windows, where an open file cannot be renamed."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    if os.name == "posix":
        return handle
    os.close(handle)
    return None


def _make_folder(path: Path) -> int | None:
    """A handle of a new folder, which nobody else reads; none on Windows."""
    path.mkdir(0o700)
    try:
        return os.open(path, os.O_RDONLY) if os.name == "posix" else None
    except FileNotFoundError as err:  # somebody took it for a leftover already: the next name
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from err


_numbers = itertools.count()
"""No hidden name is used twice: who removes a leftover by its name, a moment after it went, shall not hit the next."""


def _make_locked(path: Path, make: Callable[[Path], int | None]) -> tuple[Path, int | None]:
    """Something new with a hidden name, locked before anybody can take it for a leftover.

    Raises:
        OSError: It cannot be made.
    """
    for number in _numbers:
        name = hidden_name(path, number=number)
        with interruption.undivided():
            try:
                handle = make(name)
            except FileExistsError:  # of another thread, or of a container with the same process numbers
                continue
            if handle is None or (_try_lock(handle) is not False and _is_at(handle, name)):
                _unfinished.add(name)
                return name, handle
        os.close(handle)  # somebody took it for a leftover before it was locked, and removes it
    raise AssertionError


def _try_lock(handle: int) -> bool | None:
    """Whether a file or folder is locked now by this handle; None where that cannot be had."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows, and file systems without locks
        return None
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file has this name still."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except OSError:
        return False


def exchange(one: Path, other: Path) -> None:
    """Lets two files or folders of one folder trade places, in a single step where the system can (Linux, macOS).

    Elsewhere ``other`` has no content for a moment; if that fails both are as they were. Whoever dies in that moment
    leaves it under the hidden name of an old one, from which `remove_leftovers` brings it back.

    Raises:
        OSError: They cannot be renamed.
    """
    with _moving:
        if _rename_at_once(one, other, _EXCHANGE):
            return
        aside = hidden_name(other, "old")
        other.rename(aside)
        try:
            one.rename(other)
        except BaseException:
            aside.rename(other)
            raise
        aside.rename(one)


def rename_to_new(one: Path, other: Path) -> None:
    """Renames a file or folder, and never replaces what has the new name, not even an empty folder.

    Where the system cannot do it in one step, an empty folder that appears in the same moment may be replaced.

    Raises:
        FileExistsError: The name is taken.
        OSError: It cannot be renamed.
    """
    with _moving:
        if _rename_at_once(one, other, _TO_NEW):
            return
        if os.path.lexists(other):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(other))
        if stat.S_ISDIR(one.lstat().st_mode):
            one.rename(other)
        else:  # rename(2) would replace a file
            os.link(one, other, follow_symlinks=False)
            one.unlink()


_EXCHANGE, _TO_NEW = "exchange", "to new"
_LINUX_FLAGS = {_TO_NEW: 1, _EXCHANGE: 2}  # RENAME_NOREPLACE, RENAME_EXCHANGE of renameat2(2)
_MACOS_FLAGS = {_EXCHANGE: 2, _TO_NEW: 4}  # RENAME_SWAP, RENAME_EXCL of renamex_np(2)


def _rename_at_once(one: Path, other: Path, way: str) -> bool:
    """Whether the system has done it, or has no such call or no such flag on this file system.

    Raises:
        OSError: It can, and refuses.
    """
    source, target = os.fsencode(one), os.fsencode(other)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if os.uname().sysname == "Darwin":
            failed = library.renamex_np(source, target, _MACOS_FLAGS[way])
        else:
            here = -100  # AT_FDCWD
            failed = library.renameat2(here, source, here, target, _LINUX_FLAGS[way])
    except (AttributeError, OSError, TypeError):
        return False
    if not failed:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes that lock the same folder waiting until the block ends; the system lifts it if we die.

    Raises:
        OutputError: There is no such folder, or it cannot be locked.
    """
    import fcntl  # of POSIX: whoever only reads does without

    with writing(folder):
        handle = _lock(folder)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)  # a fork of this process may hold it, too, and live on
        os.close(handle)


def _lock(folder: Path) -> int:
    """A locked handle of the folder that bears this name now: while we waited another may have taken its place."""
    import fcntl

    while True:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if _try_lock(handle) is False:
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


def is_file(path: Path) -> bool:
    """Whether this is a file; a name that the operating system refuses, for example as too long, is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Whether this is a folder; likewise."""
    try:
        return path.is_dir()
    except OSError:
        return False


_WILDCARD = re.compile(r"[*?[]")


def is_pattern(path: Path) -> bool:
    """Whether this is a pattern, such as ``photos/*.jpg``, and not the name of something that is there.

    Shells of Windows hand on a pattern as it is; on other systems one may be quoted.
    """
    return bool(_WILDCARD.search(os.fspath(path))) and not anything_at(path)


def matched(path: Path) -> list[Path]:
    """The files and folders that a pattern matches, by name; of what is no pattern the path itself.

    ``**`` stands for any folders. What is hidden is not matched.
    """
    if not is_pattern(path):
        return [path]
    try:
        return sorted(map(Path, glob.glob(os.fspath(path), recursive=True)))  # noqa: PTH207 - a pattern may be absolute
    except ValueError:  # nothing can have such a name
        return []


def anything_at(path: Path) -> bool:
    """The same of anything that lies there."""
    return os.path.exists(path)  # noqa: PTH110


_PICTURES = "bmp", "gif", "jpeg", "jpg", "png", "ppm", "tif", "tiff", "webp", "npz"
_VIDEOS = "avi", "m4v", "mkv", "mov", "mp4", "webm"
_MEDIA = frozenset(f".{one}" for one in (*_PICTURES, *_VIDEOS))


def check_outputs(
    inputs: Sequence[tuple[str, Path]],
    outputs: Sequence[tuple[str, Path]],
    is_bundle: Callable[[Path], bool] = lambda folder: is_file(folder / "manifest.json"),
) -> None:
    """Refuses to write over what is read, whatever way leads there: links, hard links, other spellings.

    Pictures and videos inside a folder that is read count as read, and so does everything inside a bundle.

    Args:
        inputs: What is read, each with what messages call it; what does not exist is passed over.
        outputs: What will be written. Devices and pipes are passed over.
        is_bundle: Whether a folder is a bundle.

    Raises:
        UsageError: An output is an input, lies in one, or is another output.
    """
    written = [(name, path) for name, path in outputs if _kind(path) in (None, stat.S_IFREG, stat.S_IFDIR)]
    for number, (name, path) in enumerate(written):
        for other, place in written[:number]:
            if _is_same(path, place):
                raise UsageError(f"{other} and {name} are the same file, {path}.", hint=f"Name another with {name}.")
        for what, read in inputs:
            if reason := _conflict(path, read, is_bundle):
                message = f"{name} {path} would overwrite {reason} that {what} names, {read}."
                raise UsageError(message, hint=f"Name another place with {name}.")


def _kind(path: Path) -> int | None:
    """What lies there, as `stat.S_IFMT` tells it; None where nothing does, or where it cannot be told."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError):
        return None


def _is_same(one: Path, other: Path) -> bool:
    """Whether both are one file or folder, or will be."""
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return real_path(one) == real_path(other)


def real_path(path: Path) -> Path:
    """Where links lead, as `Path.resolve` has it; that raises where they lead in a circle, until Python 3.13.

    Returns:
        One of the links where they lead in a circle, and the path itself where nothing can have such a name.
    """
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError):
        return path


def _conflict(output: Path, read: Path, is_bundle: Callable[[Path], bool]) -> str:
    """What an output would overwrite of an input; empty where nothing."""
    kind = _kind(read)
    if kind is None:
        return ""
    if _is_same(output, read):
        return "files of the folder" if kind == stat.S_IFDIR else "the input"
    if kind != stat.S_IFDIR:
        in_bundle = real_path(output) in real_path(read).parents and is_bundle(output)
        return "the bundle around the input" if in_bundle else ""
    inside = real_path(read) in real_path(output).parents
    if inside and is_bundle(read):
        return "something in the bundle"
    if _kind(output) == stat.S_IFREG and ((inside and output.suffix.lower() in _MEDIA) or _is_linked_in(output, read)):
        return "a picture in the folder"
    return ""


def _is_linked_in(file: Path, folder: Path) -> bool:
    """Whether a file of a folder is this one by another name."""
    try:
        found = file.stat()
        if found.st_nlink < 2 or real_path(file).parent == real_path(folder):
            return False
        with os.scandir(folder) as entries:
            return any(entry.inode() == found.st_ino for entry in entries)
    except OSError:
        return False


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
