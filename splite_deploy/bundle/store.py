"""The bundle, a folder ``NAME.splite/``: the interface between the stages, and all that a runtime needs.

    manifest.json   model spec, source, artifacts with their hashes: what runs
    report.json     what was measured; no runtime reads it
    golden.bin      a few inputs with the reference outputs, to check any artifact on any machine
    model.onnx      the graph; further artifacts beside it

A bundle appears whole or not at all, every file that runs is bound by its SHA-256, the manifest by its own checksum.
Who opens a bundle while another takes its place has the old one or the new one, to the end: its files stay open.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import weakref
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from splite_deploy.bundle.golden import Golden, read_golden
from splite_deploy.bundle.links import refuse_link_out
from splite_deploy.bundle.manifest import MANIFEST, REEXPORT, Artifact, GoldenFile, Graph, Manifest, Part, read_manifest
from splite_deploy.bundle.report import REPORT, Report, read_report
from splite_deploy.errors import BundleError, UsageError, reading_hint
from splite_deploy.spec import ModelSpec, Precision
from splite_deploy.spec.reading import MOST_BYTES, ReadError, read_bytes
from splite_deploy.text import command

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """An opened bundle whose files have been checked.

    Attributes:
        path: Its folder.
        manifest: Its manifest.
    """

    path: Path
    manifest: Manifest
    _files: _OpenFiles | None = field(default=None, compare=False, repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, rebuilding: Collection[str] = ()) -> Bundle:
        """Opens a bundle and checks every hash.

        Args:
            path: Its folder.
            rebuilding: Labels of artifacts that are about to be replaced: their files may be missing or damaged.

        Raises:
            BundleError: It is missing, incomplete, damaged, or of another format version.
        """
        folder = Path(path)
        for left in reversed(range(_TRIES)):
            before = _manifest_bytes(folder)
            try:
                bundle = cls._open(folder, rebuilding)
            except BundleError:
                if not left or _manifest_bytes(folder) == before:
                    raise
            else:
                if not left or _manifest_bytes(folder) == before:
                    return bundle
        raise AssertionError

    @classmethod
    def _open(cls, folder: Path, rebuilding: Collection[str]) -> Bundle:
        files, checked = _OpenFiles(folder), set()
        bundle = cls(folder, read_manifest(folder), files)
        refuse_link_out(folder / REPORT)
        with suppress(OSError):
            files.open(REPORT)
        for held in bundle.manifest.files:
            replaced = isinstance(held, Artifact) and held.label in rebuilding
            if replaced or (held.file, held.sha256) in checked:
                continue
            file = folder / held.file
            refuse_link_out(file)
            if not os.path.isfile(file):  # noqa: PTH113 - pathlib's raises where a folder may not be read
                raise BundleError(f"The bundle {folder} lacks its file {held.file}.", hint=bundle._anew(held))
            digest = hashlib.sha256()
            try:
                files.open(held.file)
                for block in files.blocks(held.file):
                    digest.update(block)
            except OSError as err:
                hint = reading_hint(err, bundle._anew(held))
                raise BundleError(f"{file} cannot be read: {err.strerror or err}.", hint=hint) from err
            if digest.hexdigest() != held.sha256:
                raise BundleError(_differs(file), hint=bundle._anew(held))
            checked.add((held.file, held.sha256))
        return bundle

    @property
    def model(self) -> ModelSpec:
        """The model spec."""
        return self.manifest.model

    def find(self, backend: str | None = None, precision: Precision | None = None) -> Artifact:
        """The first artifact of this backend and precision; None stands for any.

        Raises:
            UsageError: The bundle holds none; the hint lists what it holds.
        """
        for artifact in self.manifest.artifacts:
            if backend in (None, artifact.backend) and precision in (None, artifact.precision):
                return artifact
        wanted = " ".join(filter(None, ("no", backend, precision, "artifact")))
        held = ", ".join(artifact.label for artifact in self.manifest.artifacts)
        graphs = ", ".join(dict.fromkeys(f"trt {one.precision}" for one in self.manifest.graphs))
        hint = f"It holds: {held}." if held else f"It holds none. {REEXPORT}"
        if graphs and not held:
            hint = f"It holds graphs of engines alone ({graphs}); build one here: {command('compile', self.path)}."
        raise UsageError(f"The bundle {self.path} holds {wanted}.", hint=hint)

    def read(self, held: Artifact | Part | Graph | GoldenFile) -> bytes:
        """The bytes of a file, read once and checked: what a backend loads is what the manifest describes.

        Raises:
            BundleError: The file is missing, unreadable, or not what the manifest describes.
        """
        file = self.path / held.file
        files = self._files or _OpenFiles(self.path)
        try:
            content = b"".join(files.blocks(held.file))
        except OSError as err:
            hint = reading_hint(err, self._anew(held))
            raise BundleError(f"{file} cannot be read: {err.strerror or err}.", hint=hint) from err
        if hashlib.sha256(content).hexdigest() != held.sha256:
            raise BundleError(_differs(file), hint=self._anew(held))
        return content

    def size_of(self, artifact: Artifact) -> int:
        """Bytes of an artifact's files."""
        return sum((self.path / held.file).stat().st_size for held in artifact.files)

    def golden(self) -> Golden:
        """Reads the reference inputs and outputs.

        Raises:
            BundleError: The file is damaged.
        """
        return read_golden(self.read(self.manifest.golden), self.manifest.golden, self.model)

    def report(self) -> Report:
        """Reads what was measured.

        Raises:
            BundleError: There is no report, or it is damaged: the bundle runs all the same.
        """
        held = self._files.content(REPORT, MOST_BYTES) if self._files else None
        return read_report(self.path, held)

    def _anew(self, held: Artifact | Part | Graph | GoldenFile) -> str:
        """How to come by a file again."""
        if isinstance(held, Artifact) and held.format == "engine":
            return f"Build it here: {compile_command(self.path, held)}."
        return REEXPORT


def _differs(file: Path) -> str:
    return f"{file} is not the file that the manifest describes (its SHA-256 differs)."


def compile_command(bundle: Path, engine: Artifact, batch: str | None = None) -> str:
    """What to type to build a TensorRT engine anew.

    Args:
        bundle: The bundle's folder.
        engine: The engine.
        batch: ``min,opt,max``; None takes that of the engine.
    """
    batch = batch or engine.target.get("batch", "1,1,1")
    words: list[str] = ["-b", "trt", "-p", engine.precision]
    if "calibrator" in engine.target:  # the images themselves are known by their origin alone
        words += ["--calibrator", engine.target["calibrator"], "--calibration", "IMAGES"]
    return command("compile", bundle, *words, *(["--batch", batch] if batch != "1,1,1" else []))


_TRIES = 100  # of opening; an exchange happens between two of them at most once


class _OpenFiles:
    """Files of a folder that stay readable as they are when other files take their names, or the folder's.

    Files are not held open where that would keep others from replacing them (Windows). Copies share the open files; in
    another process, to which an object of this class is sent pickled, they are opened anew by their names.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._streams: dict[str, FileIO] = {}
        weakref.finalize(self, _close, self._streams)  # nobody closes a bundle

    def __copy__(self) -> _OpenFiles:
        return self

    def __deepcopy__(self, copied: dict[int, object]) -> _OpenFiles:
        return self

    def __reduce__(self) -> tuple[type[_OpenFiles], tuple[Path]]:
        return _OpenFiles, (self._folder,)

    def open(self, name: str) -> None:
        """Opens a file.

        Raises:
            OSError: It cannot be opened, or is none.
        """
        if os.name != "posix" or name in self._streams:
            return
        handle = os.open(self._folder / name, os.O_RDONLY | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(errno.EINVAL, "it is not a file")
        self._streams[name] = FileIO(handle, "rb")

    def blocks(self, name: str) -> Iterator[bytes]:
        """The content of a file, opened before or not.

        Raises:
            OSError: It cannot be read.
        """
        if name not in self._streams:
            with (self._folder / name).open("rb") as stream:
                while block := stream.read(_BLOCK_BYTES):
                    yield block
            return
        handle, place = self._streams[name].fileno(), 0
        while block := os.pread(handle, _BLOCK_BYTES, place):
            place += len(block)
            yield block

    def content(self, name: str, most_bytes: int) -> bytes | None:
        """The content of a file that was opened; None of another, and of one that is larger."""
        stream = self._streams.get(name)
        if stream is None or os.fstat(stream.fileno()).st_size > most_bytes:
            return None
        return b"".join(self.blocks(name))


def _close(streams: dict[str, FileIO]) -> None:
    for stream in streams.values():
        with suppress(OSError):
            stream.close()


def _manifest_bytes(folder: Path) -> bytes | None:
    """None where there is none that can be read."""
    try:
        refuse_link_out(folder / MANIFEST)
        return read_bytes(folder / MANIFEST)
    except (ReadError, BundleError):
        return None
