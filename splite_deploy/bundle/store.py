"""The bundle, a folder ``NAME.splite/``: the interface between the stages, and all that a runtime needs.

    manifest.json   model spec, source, artifacts with their hashes: what runs
    report.json     what was measured; no runtime reads it
    golden.bin      a few inputs with the reference outputs, to check any artifact on any machine
    model.onnx      the graph; further artifacts beside it

A bundle appears whole or not at all, every file that runs is bound by its SHA-256, the manifest by its own checksum.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from splite_deploy.bundle.golden import Golden, read_golden
from splite_deploy.bundle.manifest import MANIFEST, REEXPORT, Artifact, GoldenFile, Graph, Manifest, read_manifest
from splite_deploy.bundle.report import Report, read_report
from splite_deploy.errors import BundleError, OutputError, UsageError
from splite_deploy.files import exchange, locked, part_folder, sha256_of, sync, writing
from splite_deploy.spec import ModelSpec, Precision
from splite_deploy.text import command


@dataclass(frozen=True)
class Bundle:
    """An opened bundle whose files have been checked.

    Attributes:
        path: Its folder.
        manifest: Its manifest.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, rebuilding: Collection[str] = ()) -> Bundle:
        """Opens a bundle and checks every hash.

        Args:
            path: Its folder.
            rebuilding: Labels of artifacts that are about to be replaced: their files may be missing or damaged.

        Raises:
            BundleError: It is missing, incomplete, damaged, or of another format version.
        """
        bundle = cls(Path(path), read_manifest(Path(path)))
        checked = set()
        for held in bundle.manifest.files:
            replaced = isinstance(held, Artifact) and held.label in rebuilding
            if replaced or (held.file, held.sha256) in checked:
                continue
            file = bundle.path / held.file
            if not os.path.isfile(file):  # noqa: PTH113 - pathlib's raises where a folder may not be read
                raise BundleError(f"The bundle {bundle.path} lacks its file {held.file}.", hint=bundle._anew(held))
            if file.is_symlink() and file.resolve().parent != bundle.path.resolve():
                hint = "Copy the bundle with its files in the place of links: cp -rL."
                raise BundleError(f"{file} is a link that leads out of the bundle.", hint=hint)
            try:
                digest = sha256_of(file)
            except OSError as err:
                raise BundleError(f"{file} cannot be read: {err.strerror or err}.", hint=bundle._anew(held)) from err
            if digest != held.sha256:
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
        wanted = " ".join(filter(None, (backend, precision)))
        held = ", ".join(artifact.label for artifact in self.manifest.artifacts)
        raise UsageError(f"The bundle {self.path} holds no {wanted} artifact.", hint=f"It holds: {held}.")

    def read(self, held: Artifact | Graph | GoldenFile) -> bytes:
        """The bytes of a file, read once and checked: what a backend loads is what the manifest describes.

        Raises:
            BundleError: The file is missing, unreadable, or not what the manifest describes.
        """
        file = self.path / held.file
        try:
            content = file.read_bytes()
        except OSError as err:
            raise BundleError(f"{file} cannot be read: {err.strerror or err}.", hint=self._anew(held)) from err
        if hashlib.sha256(content).hexdigest() != held.sha256:
            raise BundleError(_differs(file), hint=self._anew(held))
        return content

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
        return read_report(self.path)

    def _anew(self, held: Artifact | Graph | GoldenFile) -> str:
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


@contextmanager
def new_bundle(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty folder that becomes the bundle ``path`` when the block ends, and vanishes if it fails.

    Raises:
        OutputError: The place is taken (and ``overwrite`` is false) or cannot be written to.
    """
    with writing(path):
        _check_free(path, overwrite)
        made = [parent for parent in path.parents if not parent.exists()]  # deepest first
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part_folder(path) as folder, writing(path):
            yield folder
            for file in folder.iterdir():
                sync(file)
            sync(folder)
            folder.chmod(0o755)
            _check_free(path, overwrite)  # something may have come to lie there in the meantime
            if path.exists():
                with locked(path):  # nobody is adding to it
                    exchange(folder, path)
            else:
                folder.rename(path)
            sync(path.parent)
    finally:
        for parent in made if not path.exists() else ():
            with suppress(OSError):  # something else may have come to lie there
                parent.rmdir()


def _check_free(path: Path, overwrite: bool) -> None:
    if path.exists() and not (overwrite and (path / MANIFEST).is_file()):
        hint = "Name another place with --output." if overwrite else "Add --overwrite, or name another place."
        what = "exists and is not a bundle" if overwrite else "exists already"
        raise OutputError(f"{path} {what}.", hint=hint)
