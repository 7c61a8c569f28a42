"""Files that a machine sends, written into a folder of this machine and nowhere else, and no more than is allowed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splite_deploy.errors import RemoteError
from splite_deploy.files import write_all, writing
from splite_deploy.remote.connection import Connection
from splite_deploy.remote.push import Sent
from splite_deploy.text import shown

MOST_FILES = 100_000
_MOST_LEVELS = 16
_MOST_NAME_BYTES = 255
_SPARE_BYTES = 64 << 20
_FORBIDDEN = frozenset('\\:*?"<>|' if os.name == "nt" else "\\")
_RESERVED = frozenset({"con", "prn", "aux", "nul"} if os.name == "nt" else ())


class Gathering:
    """What one machine sends for one command.

    Args:
        far: The machine.
        folder: A new, empty folder, which nobody else writes to.
        most_bytes: Of all files together.
        known: What was sent there: of files with such a hash the content is here.
    """

    def __init__(self, far: Connection, folder: Path, most_bytes: int, known: Mapping[str, Sent]) -> None:
        self._far, self._folder, self._known = far, folder, known
        self._left, self._count = most_bytes, 0

    def take(self, header: Mapping[str, Any]) -> None:
        """Takes one file, whose bytes follow.

        Raises:
            RemoteError: Its name leads out of the folder or is none, it is too large, or its content is not what was
                announced.
            OutputError: It cannot be written.
        """
        name, size, sha256 = header.get("file"), header.get("size"), header.get("sha256")
        place = self._place(name)
        if type(size) is not int or size < 0 or not isinstance(sha256, str):
            raise self._far.wrong(f"sends {_short(name)} without a size and a hash")
        self._count += 1
        if self._count > MOST_FILES or size > self._left:
            raise self._refused(f"it sends more than is taken: {_short(name)} of {size:,} bytes is beyond the limit")
        if size > shutil.disk_usage(self._folder).free - _SPARE_BYTES:
            raise self._refused(f"there is no room here for {_short(name)} of {size:,} bytes")
        self._left -= size
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            if header.get("known") is True:
                self._copy(sha256, place)
                return
            self._write(place, size, sha256)

    def _place(self, name: object) -> Path:
        """Where a file of this name goes, which is below our folder by the name alone: there are no links in it."""
        parts = plain_parts(name)
        if not parts:
            raise self._far.wrong(f"sends a file of a name that leads elsewhere or is none, {_short(name)}")
        return self._folder.joinpath(*parts)

    def _write(self, place: Path, size: int, sha256: str) -> None:
        digest = hashlib.sha256()
        with place.open("xb", buffering=0) as stream:  # new: neither a link is followed nor a file replaced

            def take(block: bytes) -> None:
                digest.update(block)
                write_all(stream, block)

            self._far.receive(size, take)
        if digest.hexdigest() != sha256:
            raise self._far.wrong(f"sends {_short(place.name)} with another content than it announced")

    def _copy(self, sha256: str, place: Path) -> None:
        """A file that is here already: what was sent comes back unchanged."""
        known = self._known.get(sha256)
        if known is None:
            raise self._far.wrong(f"refers to a content of {_short(place.name)} that nobody sent")
        content = known.source if isinstance(known.source, bytes) else known.source.read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise self._refused(f"{known.source!s} was changed meanwhile")
        with place.open("xb", buffering=0) as stream:
            write_all(stream, content)

    def _refused(self, what: str) -> RemoteError:
        hint = "Nothing of it was kept; run it on that machine itself to see why."
        return RemoteError(f"{self._far.device.name}: {what}.", hint=hint)


def plain_parts(name: object) -> list[str]:
    """The parts of a relative path whose every part is a name for a file or folder here; none of anything else."""
    parts = name.split("/") if isinstance(name, str) else []
    return parts if len(parts) <= _MOST_LEVELS and all(map(_is_plain, parts)) else []


def _is_plain(part: str) -> bool:
    """Whether this is a name for a file or folder here, which shows as what it is and hides nothing."""
    return (
        shown(part) == part
        and not part.startswith(".")
        and part == part.strip(" .")
        and not _FORBIDDEN & set(part)
        and part.partition(".")[0].casefold() not in _RESERVED
        and 0 < len(os.fsencode(part)) <= _MOST_NAME_BYTES
    )


def _short(name: object) -> str:
    return repr(name)[:100]
