"""Makes a bundle: its place is claimed when the work begins, and it appears there whole when the work is done.

What lies there already is never lost. A bundle is replaced where that was asked for, in one step, and files in its
folder that are not its own (notes, pictures) move into the new one. Its own are the manifest, the report, and what has
the name and the hash that the manifest says. Anything else that lies there, or appears there while the work runs,
stays, and the finished bundle goes beside it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from splite_deploy.bundle.manifest import MANIFEST, is_plain_name
from splite_deploy.bundle.report import REPORT
from splite_deploy.errors import OutputError
from splite_deploy.files import (
    anything_at,
    claimed,
    exchange,
    is_file,
    is_hidden,
    keep_access,
    locked,
    names_like,
    part_folder,
    remove_leftovers,
    rename_to_new,
    sha256_of,
    sync,
    writing,
)
from splite_deploy.spec.reading import ReadError, read_bytes


@contextmanager
def new_bundle(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty folder that becomes the bundle ``path`` when the block ends, and vanishes if it fails.

    Whoever works for minutes enters it first: until the block ends no other process makes a bundle there. A link stays
    a link, and what it leads to is made or replaced.

    Args:
        path: The bundle's folder; folders that it lies in are made.
        overwrite: Whether it may replace a bundle. Files in that bundle's folder that are not the bundle's move over.

    Raises:
        OutputError: The place is taken (and ``overwrite`` is false) or cannot be written to, or another process writes
            there; or something appeared there in the meantime, then the message says where the bundle is kept.
    """
    with writing(path):
        place = _resolved(path)
        _check_free(path, place, overwrite)
        made = [parent for parent in place.parents if not parent.exists()]  # deepest first
        place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with claimed(place, path), part_folder(place) as folder:
            _check_free(path, place, overwrite)  # it was claimed by another until now
            yield folder
            with writing(path):
                for file in folder.iterdir():
                    sync(file)
                sync(folder)
                folder.chmod(0o755)
                _put(folder, path, place, overwrite)
                sync(place.parent)
    finally:
        for parent in made if not place.exists() else ():
            with suppress(OSError):  # something else may have come to lie there
                parent.rmdir()


def _check_free(path: Path, place: Path, overwrite: bool) -> None:
    """Refuses a place that a new bundle may not take.

    Raises:
        OSError: There cannot be anything of that name, or it cannot be replaced.
        OutputError: Something lies there.
    """
    if not _exists(place):
        return
    if not overwrite:
        raise OutputError(f"{path} exists already.", hint="Add --overwrite, or name another place.")
    if not is_bundle(place):
        raise OutputError(f"{path} exists and is not a bundle.", hint="Name another place with --output.")
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def _resolved(path: Path) -> Path:
    """Where links lead.

    Raises:
        OSError: Nothing can have this name.
    """
    try:
        return Path(os.path.realpath(path))
    except ValueError as err:  # a name with NUL, or with half of a character
        raise OSError(errno.EINVAL, str(err)) from err


def _exists(path: Path) -> bool:
    """Whether something has this name, be it a link that leads nowhere.

    Raises:
        OSError: Nothing can have it.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _put(folder: Path, path: Path, place: Path, overwrite: bool) -> None:
    """Puts a finished bundle where it belongs, or beside it where that has been taken in the meantime."""
    for _ in range(100):  # what lies there may come and go
        with suppress(FileExistsError):
            rename_to_new(folder, place)
            return
        if not (overwrite and is_bundle(place)):
            kept = _keep(folder, place)
            message = f"{path} appeared while the bundle was made, and was left as it is. The bundle is {kept}."
            hint = f"Move away what lies there, then: {shlex.join(['mv', str(kept), str(path)])}"
            raise OutputError(message, hint=hint)
        with suppress(FileNotFoundError):
            _replace(folder, path, place)
            return
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _replace(folder: Path, path: Path, place: Path) -> None:
    """Exchanges a finished bundle with the one that lies there, of which ``folder`` has the rest then.

    Raises:
        OSError: It cannot be done; both are as they were.
        OutputError: A file that is not the old bundle's has a name of the new one.
    """
    with locked(place):  # nobody is adding to it
        remove_leftovers(place)
        own, spoilt = _own_files(place)
        foreign = _foreign(place, own)
        if both := sorted(name for name in foreign if name not in spoilt and _exists(folder / name)):
            kept = _keep(folder, place)
            raise OutputError(
                f"{path} holds {', '.join(both)}, which the bundle there does not name and the new one needs. "
                f"It was left as it is. The new bundle is {kept}.",
                hint="Move those files elsewhere, then the new bundle to its place.",
            )
        for name in foreign:
            _link_all(place / name, _free(folder / name) if _exists(folder / name) else folder / name)
        keep_access(place, folder)
        sync(folder)
        exchange(folder, place)
        for name in set(_foreign(folder, own)) - set(foreign):  # they came in the very last moment
            rename_to_new(folder / name, _free(place / name))


def _own_files(bundle: Path) -> tuple[set[str], set[str]]:
    """Names of a bundle's own files, and names that its manifest or we gave, whose content is not the bundle's.

    What was damaged, and what somebody put in a file's place, cannot be told apart; of a manifest that cannot be read
    it is not known which names it gave.
    """
    try:
        data = json.loads((bundle / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError, MemoryError):
        names = os.listdir(bundle)  # noqa: PTH208 - names
        return {MANIFEST, *_ours(bundle)}, set(names)
    own, spoilt = {MANIFEST, *_ours(bundle)}, {REPORT}
    for name, digest in _named_files(data):
        file = bundle / name
        is_own = os.path.islink(file) or not anything_at(file) or (is_file(file) and _has_hash(file, digest))  # noqa: PTH114
        (own if is_own else spoilt).add(name)
    return own, spoilt - own


def _ours(bundle: Path) -> set[str]:
    """The report, where it is one of ours or is none."""
    file = bundle / REPORT
    return {REPORT} if os.path.islink(file) or _begins(file, _REPORT) else set()  # noqa: PTH114


def _has_hash(file: Path, digest: str) -> bool:
    try:
        return sha256_of(file) == digest
    except OSError:
        return False


def is_bundle(folder: Path) -> bool:
    """Whether this is a bundle, of whatever version, be it damaged: its manifest has our fields, or begins with ours.

    Other programs have a ``manifest.json``, too: extensions of browsers, pages, other exports of networks.
    """
    file = folder / MANIFEST
    try:
        if not _begins(file, _ANYTHING):
            return False
        data = json.loads(read_bytes(file))
    except (ValueError, RecursionError, MemoryError, ReadError):
        return _begins(file, _OURS)
    has = isinstance(data, dict) and type(data.get("format_version")) is int
    return has and isinstance(data.get("model"), dict) and isinstance(data.get("artifacts"), list)


_ANYTHING = re.compile(rb"")
_OURS = re.compile(rb'(\xef\xbb\xbf)?\s*\{\s*"format_version"\s*:\s*\d')
_REPORT = re.compile(rb'\s*(\{\s*"report_version"\s*:\s*\d|$)')


def _begins(file: Path, how: re.Pattern[bytes]) -> bool:
    """Whether a file that is no link begins like this."""
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            return False
        with file.open("rb") as stream:
            return how.match(stream.read(200)) is not None
    except (OSError, ValueError):
        return False


def _named_files(data: Any) -> Iterator[tuple[str, str]]:
    """What stands under ``file``, wherever that is, with what stands under ``sha256`` beside it."""
    waiting = [data]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if isinstance(name := one.get("file"), str) and is_plain_name(name):
                yield name, str(one.get("sha256", ""))
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _foreign(bundle: Path, own: set[str]) -> list[str]:
    """Names in a bundle's folder that are not its own."""
    return [name for name in os.listdir(bundle) if name not in own and not is_hidden(name)]  # noqa: PTH208 - names


def _link_all(source: Path, target: Path) -> None:
    """Gives files a second name, or copies them where that cannot be; whatever happens next, both are whole."""
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, copy_function=_link)
    else:
        _link(source, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _keep(folder: Path, place: Path) -> Path:
    """Gives a finished bundle a name beside its place.

    Raises:
        OSError: It cannot be renamed.
    """
    while True:
        kept = _free(place)
        with suppress(FileExistsError):
            rename_to_new(folder, kept)
            return kept


def _free(path: Path) -> Path:
    """Another name like this one, which nothing has."""
    return next(free for free in names_like(path) if free != path and not _exists(free))
