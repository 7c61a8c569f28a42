"""An update as one file: what is needed to make a bundle, of the one that is installed or of nothing.

    splite-deploy update 1
    header BYTES SHA256
    signature HEX | none
    the header: JSON, which says of which pieces each file of the new bundle is made
    a zlib stream: the bytes that the old bundle has not, in the order in which the header needs them

The signature is one of the header, and all else is bound by hashes in it. Files have names in the header alone, which
have to be names and never paths; there are no links, no modes, and nothing is unpacked that the header does not
announce. `docs/updates.md` describes the format.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO, ClassVar

from splite_deploy.bundle import MANIFEST, REPORT, Bundle
from splite_deploy.bundle.manifest import is_plain_name
from splite_deploy.errors import SpecError, UpdateError, reading_hint
from splite_deploy.files import is_file, write_file, writing
from splite_deploy.spec.plain import structure, to_plain
from splite_deploy.spec.reading import MIB, ReadError, check_file, parse_json, read_bytes
from splite_deploy.text import command
from splite_deploy.updates.pieces import found_again
from splite_deploy.updates.signature import is_signed_by, sign
from splite_deploy.version import __version__

UPDATE_VERSION = 1
_LINES = re.compile(
    rb"splite-deploy update (?P<version>\d{1,9})\n"
    rb"header (?P<bytes>\d{1,9}) (?P<sha256>[0-9a-f]{64})\n"
    rb"signature (?P<signature>[0-9a-f]{128}|none)\n"
)
_LONGEST_LINES = 300
_MOST_HEADER_BYTES = 16 * MIB
_MOST_FILES = 1000
_MOST_BYTES = 1 << 32
"""Of all files of a bundle together."""
_BLOCK_BYTES = 1 << 20
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class UpdatedFile:
    """One file of the new bundle.

    Attributes:
        name: Its name.
        sha256: Its hash.
        pieces: What it is made of: a file of the old bundle, the first byte there, and how many; with an empty name the
            next bytes of the stream.
    """

    name: str
    sha256: str
    pieces: tuple[tuple[str, int, int], ...]

    @property
    def bytes(self) -> int:
        """Its size."""
        return sum(size for _, _, size in self.pieces)


@dataclass(frozen=True)
class UpdateHeader:
    """What an update says of itself.

    Attributes:
        update_version: Of this structure: 1.
        made: When, in UTC: ``2026-01-31T12:00:00Z``. An older update does not take the place of a newer one.
        tool_version: Version of splite-deploy that made it.
        base: Hashes of files of the old bundle, by their names, of which pieces are copied; empty where none are.
        files: Those of the new bundle.
    """

    update_version: int
    made: str
    tool_version: str
    base: Mapping[str, str]
    files: tuple[UpdatedFile, ...]

    @property
    def bytes(self) -> int:
        """Of all files of the new bundle."""
        return sum(file.bytes for file in self.files)


def make_update(
    file: Path, new: Bundle, old: Bundle | None = None, *, private_key: Path | None = None, made: datetime | None = None
) -> UpdateHeader:
    """Writes an update.

    Args:
        file: Where to; what is there is replaced.
        new: The bundle that it makes.
        old: The bundle that is installed where it shall be installed; None puts the whole new one in.
        private_key: A PEM file of an Ed25519 key to sign with.
        made: Now, where None.

    Raises:
        BundleError: A bundle was changed since it was opened.
        MissingDependencyError: It shall be signed, and cryptography is not installed.
        UpdateError: The key is none, or the bundle is larger than an update may be.
        OutputError: It cannot be written.
    """
    sources = {} if old is None else {held.file: old.read(held) for held in old.manifest.files}
    packed, stream, entries = zlib.compressobj(9), [], []
    for name, content in _contents(new):
        pieces = found_again(content, {} if name in (MANIFEST, REPORT) else sources)
        stream += [packed.compress(content[begin : begin + size]) for source, begin, size in pieces if not source]
        pieces = [(source, begin if source else 0, size) for source, begin, size in pieces]
        entries.append(UpdatedFile(name, hashlib.sha256(content).hexdigest(), tuple(pieces)))
    stream.append(packed.flush())
    used = {source for entry in entries for source, _, _ in entry.pieces if source}
    header = UpdateHeader(
        UPDATE_VERSION,
        (made or datetime.now(timezone.utc)).astimezone(timezone.utc).strftime(_TIME),
        __version__,
        {name: hashlib.sha256(sources[name]).hexdigest() for name in sorted(used)},
        tuple(entries),
    )
    text = json.dumps(to_plain(header), separators=(",", ":")).encode()
    _check_header(header, file, len(text))
    signature = "none" if private_key is None else sign(text, private_key).hex()
    lines = f"splite-deploy update {UPDATE_VERSION}\nheader {len(text)} {hashlib.sha256(text).hexdigest()}\n"
    write_file(file, b"".join([f"{lines}signature {signature}\n".encode(), text, *stream]))
    return header


def _contents(bundle: Bundle) -> Iterator[tuple[str, bytes]]:
    """The files of a bundle that are its own, with their names."""
    for name in (MANIFEST, REPORT):
        if is_file(bundle.path / name):
            yield name, read_bytes(bundle.path / name)
    for held in {held.file: held for held in bundle.manifest.files}.values():
        yield held.file, bundle.read(held)


@dataclass(frozen=True)
class UpdateFile:
    """An update that was opened, whose header is checked, and its signature where one is required.

    Attributes:
        path: The file.
        header: What it says of itself.
        signed: Whether it has a signature, of whomever.
    """

    path: Path
    header: UpdateHeader
    signed: bool
    _stream_at: int = field(repr=False)

    @classmethod
    def open(cls, path: Path, public_key: str = "") -> UpdateFile:
        """Opens an update.

        Args:
            path: The file.
            public_key: In hex; where it is given nothing is read of the header before its signature was found right.

        Raises:
            UpdateError: It is none, is damaged, is not signed by that key, or holds what no update may.
            ReadError: It cannot be read.
            MissingDependencyError: cryptography is not installed, and needed.
        """
        check_file(path)
        try:
            with path.open("rb") as stream:
                lines = _LINES.match(stream.read(_LONGEST_LINES))
                if lines is None:
                    raise UpdateError(
                        f"{path} is no update.",
                        hint=f"Make one, {command('delta', 'OLD', 'NEW', '-o', 'UPDATE')}, or name a bundle's folder.",
                    )
                version, size = int(lines["version"]), int(lines["bytes"])
                if version != UPDATE_VERSION:
                    raise UpdateError(
                        f"{path} has version {version}; this version of splite-deploy reads {UPDATE_VERSION}.",
                        hint="Upgrade splite-deploy on this machine.",
                    )
                if size > _MOST_HEADER_BYTES:
                    raise _oversized(path, f"a header of {size} bytes", _MOST_HEADER_BYTES)
                stream.seek(lines.end())
                text = stream.read(size)
        except OSError as err:
            raise UpdateError(f"{path} cannot be read: {err.strerror or err}.", hint=reading_hint(err, _AGAIN)) from err
        if hashlib.sha256(text).hexdigest() != lines["sha256"].decode():
            raise UpdateError(f"{path} is damaged: its header is not what was written.", hint=_AGAIN)
        unsigned = lines["signature"] == b"none"
        if public_key and unsigned:
            raise UpdateError(f"{path} is not signed, and only signed updates are installed here.", hint=SIGN_HINT)
        if public_key and not is_signed_by(public_key, text, bytes.fromhex(lines["signature"].decode())):
            raise UpdateError(
                f"The signature of {path} is not that of the required key, {public_key[:16]}...: another key signed "
                "it, or it was changed since.",
                hint="Install none of it. Have it made and signed again by who holds the key.",
            )
        try:
            header = structure(UpdateHeader, parse_json(text, str(path)), "", unknown="ignore")
        except (SpecError, ReadError) as err:
            raise UpdateError(f"{path} is malformed: {err.message}", hint=_AGAIN) from err
        _check_header(header, path, size)
        return cls(path, header, not unsigned, lines.end() + size)

    @property
    def made(self) -> str:
        """When, in UTC."""
        return self.header.made

    @property
    def is_whole(self) -> bool:
        """Whether it needs nothing of the installed bundle."""
        return not self.header.base

    @property
    def manifest_sha256(self) -> str:
        """Hash of the manifest that it makes."""
        return next(file.sha256 for file in self.header.files if file.name == MANIFEST)

    def write_to(self, folder: Path, current: Bundle | None) -> None:
        """Makes the files of the new bundle.

        Args:
            folder: An empty one.
            current: The bundle that is installed; None where there is none.

        Raises:
            UpdateError: It is not for this bundle, is damaged, or there is no room for it.
            BundleError: The installed bundle is damaged.
            OutputError: They cannot be written.
        """
        base = self._base(current)
        needed, free = self.header.bytes, shutil.disk_usage(folder).free
        if needed > free:
            raise UpdateError(
                f"{self.path} makes files of {needed / 1e6:.1f} MB, and the disk of {folder.parent} has "
                f"{free / 1e6:.1f} MB left.",
                hint="Free some space there.",
            )
        with self.path.open("rb") as stream:
            stream.seek(self._stream_at)
            new = _Unpacked(stream, self.path)
            for entry in self.header.files:
                digest, target = hashlib.sha256(), folder / entry.name
                with writing(target), target.open("xb") as written:
                    for name, offset, size in entry.pieces:
                        for block in (base[name][offset : offset + size],) if name else new.take(size):
                            digest.update(block)
                            written.write(block)
                if digest.hexdigest() != entry.sha256:
                    raise UpdateError(f"{self.path} is damaged: its {entry.name} comes out different.", hint=_AGAIN)
            new.end()

    def _base(self, current: Bundle | None) -> dict[str, bytes]:
        """The files of the installed bundle that pieces are copied from.

        Raises:
            UpdateError: They are not those that the update was made for.
        """
        held = {} if current is None else {one.file: one for one in current.manifest.files}
        for name, digest in self.header.base.items():
            if name not in held or held[name].sha256 != digest:
                what = "nothing is installed" if current is None else f"the {name} that is installed is another"
                raise UpdateError(
                    f"{self.path} is for another bundle: {what}.",
                    hint=f"Make it for what is installed here, {command('delta', 'OLD', 'NEW', '-o', 'UPDATE')}, or of "
                    f"the whole new bundle, {command('delta', 'NEW', '-o', 'UPDATE')}.",
                )
        base = {} if current is None else {name: current.read(held[name]) for name in self.header.base}
        for entry in self.header.files:
            for name, offset, size in entry.pieces:
                if name and offset + size > len(base[name]):
                    raise UpdateError(f"{self.path} is malformed: it copies what lies behind {name}.", hint=_AGAIN)
        return base


SIGN_HINT = f"Have it signed: {command('delta', '--sign', 'KEY.pem', 'OLD', 'NEW', '-o', 'UPDATE')}."
_AGAIN = f"Copy it again, or make it anew: {command('delta', 'OLD', 'NEW', '-o', 'UPDATE')}."


class _Unpacked:
    """What a zlib stream holds, no more than is taken.

    Args:
        stream: At its begin.
        path: Of the file, for messages.
    """

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path = stream, path
        self._inflate = zlib.decompressobj()

    def take(self, size: int) -> Iterator[bytes]:
        """The next so many bytes, in blocks.

        Raises:
            UpdateError: There are fewer, or the stream is damaged.
        """
        while size:
            block = self._next(min(size, _BLOCK_BYTES))
            if not block:
                raise self._damaged()
            size -= len(block)
            yield block

    def end(self) -> None:
        """Sees that nothing is left.

        Raises:
            UpdateError: Something is.
        """
        if self._next(1) or not self._inflate.eof or self._inflate.unused_data or self._stream.read(1):
            raise self._damaged()

    def _next(self, most: int) -> bytes:
        try:
            while not self._inflate.eof:
                packed = self._inflate.unconsumed_tail or self._stream.read(_BLOCK_BYTES)
                block = self._inflate.decompress(packed, most)
                if block or not packed:
                    return block
        except zlib.error as err:
            raise self._damaged() from err
        except OSError as err:
            message = f"{self._path} cannot be read: {err.strerror or err}."
            raise UpdateError(message, hint=reading_hint(err, _AGAIN)) from err
        return b""

    def _damaged(self) -> UpdateError:
        return UpdateError(f"{self._path} is damaged: it is cut, or its bytes are not what was written.", hint=_AGAIN)


def _check_header(header: UpdateHeader, path: Path, size: int) -> None:
    """Refuses what no update may hold, before anything is made of it.

    Raises:
        UpdateError: A file's name is none or is a path, a time or hash is none, or it is too large.
    """
    names = [file.name for file in header.files]
    if size > _MOST_HEADER_BYTES or len(names) > _MOST_FILES:
        raise _oversized(path, f"{len(names)} files", _MOST_FILES)
    for name in (*names, *header.base):
        if not is_plain_name(name):
            raise UpdateError(f"{path} names {name!r}, which is no name of a file in a bundle.", hint=_AGAIN)
    said = ""
    if header.update_version != UPDATE_VERSION:
        said = f"its header has version {header.update_version}"
    elif MANIFEST not in names:
        said = f"it has no {MANIFEST}"
    elif len({name.casefold() for name in names}) < len(names):
        said = "it has a file twice"
    elif not is_time(header.made):
        said = f"its time is {header.made!r}"
    elif not all(map(_SHA256.fullmatch, (*header.base.values(), *(file.sha256 for file in header.files)))):
        said = "a hash is none"
    else:
        for file in header.files:
            if any(offset < 0 or size < 0 or (name and name not in header.base) for name, offset, size in file.pieces):
                said = f"a piece of {file.name} is nowhere"
    if said:
        raise UpdateError(f"{path} is malformed: {said}.", hint=_AGAIN)
    if header.bytes > _MOST_BYTES:
        raise _oversized(path, f"files of {header.bytes} bytes", _MOST_BYTES)


def is_time(text: str) -> bool:
    """Whether this is a time as updates have it, each in one spelling alone: they are compared as texts."""
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=timezone.utc).strftime(_TIME) == text
    except ValueError:
        return False


def _oversized(path: Path, what: str, most: int) -> UpdateError:
    return UpdateError(f"{path} announces {what}; no update has more than {most}.", hint=_AGAIN)


@dataclass(frozen=True)
class BundleFolder:
    """A bundle's folder as an update: it tells no time, and nobody signed it.

    Attributes:
        bundle: Opened.
    """

    bundle: Bundle
    made: str = ""
    is_whole: ClassVar[bool] = True

    @property
    def manifest_sha256(self) -> str:
        """Hash of its manifest."""
        return hashlib.sha256(read_bytes(self.bundle.path / MANIFEST)).hexdigest()

    def write_to(self, folder: Path, current: Bundle | None) -> None:
        """Copies the files that are the bundle's own, as they were checked.

        Raises:
            BundleError: The bundle was changed in the meantime.
            OutputError: They cannot be written.
        """
        for name, content in _contents(self.bundle):
            write_file(folder / name, content)
