"""Adds artifacts to a bundle that exists: files that were built on the device, from the graphs in the bundle.

The manifest decides: files are laid down under names that nothing has, then the manifest changes in one step, then the
report, then files that the manifest no longer names go. Whenever it is interrupted, the bundle is the old one or the
new one. A lock keeps two processes that add to one bundle from losing each other's work.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from splite_deploy.bundle.links import refuse_link_out
from splite_deploy.bundle.manifest import MANIFEST, Artifact, Manifest, read_manifest
from splite_deploy.bundle.report import REPORT, Layer, Report, read_report
from splite_deploy.bundle.store import Bundle
from splite_deploy.errors import BundleError
from splite_deploy.files import locked, sha256_of, sync, whole_file, writing


@dataclass(frozen=True)
class Addition:
    """An artifact and its file, which lies elsewhere still.

    Attributes:
        artifact: Its ``file`` is the name to take where that is free.
        source: The file.
        layers: What it is made of; see `Report.layers`.
    """

    artifact: Artifact
    source: Path
    layers: tuple[Layer, ...] = ()


def add_artifacts(bundle: Bundle, additions: Sequence[Addition]) -> Bundle:
    """Adds artifacts, all or none; one of the same backend and precision is replaced where it stands.

    What another process has added since the bundle was opened stays.

    Args:
        bundle: An opened bundle.
        additions: What to add. Where the name of a file is taken, the first digits of its hash go into it.

    Returns:
        The bundle with the artifacts, as they were named.

    Raises:
        BundleError: Another export has taken the bundle's place since it was opened, or its manifest or report is a
            link that leads out of it.
        OutputError: It cannot be written; the bundle is as it was.
    """
    refuse_link_out(bundle.path / REPORT)
    with locked(bundle.path):
        before = read_manifest(bundle.path)
        if _origin(before) != _origin(bundle.manifest):
            raise BundleError(
                f"Another bundle took the place of {bundle.path} in the meantime.",
                hint="Nothing was added. Run the command again, on the bundle that is there now.",
            )
        manifest = _add(bundle.path, before, additions)
        for name in _named_by(before) - _named_by(manifest):
            with suppress(OSError):  # it is in nobody's way
                (bundle.path / name).unlink()
    return Bundle(bundle.path, manifest)


def _add(folder: Path, before: Manifest, additions: Sequence[Addition]) -> Manifest:
    """Lays the files down and changes manifest and report, or leaves everything as it was."""
    held = {artifact.label: artifact for artifact in before.artifacts}
    laid: list[Path] = []
    with writing(folder):
        try:
            for addition in additions:
                artifact = _free_name(folder, addition.artifact)
                file = folder / artifact.file
                if not _holds(file, artifact):
                    laid.append(file)
                    with whole_file(file) as partial:
                        shutil.copyfile(addition.source, partial)
                held[artifact.label] = artifact
            manifest = replace(before, artifacts=tuple(held.values()))
            _write(folder, manifest, _with_layers(folder, additions))
        except BaseException:
            named = _named_by(read_manifest(folder))  # interrupted after the manifest changed, it names the new files
            for file in laid:
                if file.name not in named:
                    file.unlink(missing_ok=True)
            raise
    return manifest


def _write(folder: Path, manifest: Manifest, report: Report | None) -> None:
    """Both files whole: once they are on the disk the manifest takes its place, then the report, which only informs."""
    if report is None:
        with whole_file(folder / MANIFEST) as partial:
            partial.write_text(manifest.to_json(), encoding="utf-8")
        return
    with whole_file(folder / REPORT) as informs, whole_file(folder / MANIFEST) as decides:
        informs.write_text(report.to_json(), encoding="utf-8")
        sync(informs)
        decides.write_text(manifest.to_json(), encoding="utf-8")


def _with_layers(folder: Path, additions: Sequence[Addition]) -> Report | None:
    """The report with the layers of what is added; None where there is no report to write them to."""
    try:
        report = read_report(folder)
    except BundleError:
        return None
    layers = {**report.layers, **{addition.artifact.label: addition.layers for addition in additions}}
    return replace(report, layers={label: found for label, found in layers.items() if found})


def _origin(manifest: Manifest) -> object:
    """What artifacts are built of; it stays the same whatever is added."""
    return manifest.model, manifest.source, manifest.graphs, manifest.golden


def _named_by(manifest: Manifest) -> set[str]:
    return {held.file for held in manifest.files}


def _free_name(folder: Path, artifact: Artifact) -> Artifact:
    """The artifact under a name that no other content has."""
    file = folder / artifact.file
    if not os.path.lexists(file) or _holds(file, artifact):
        return artifact
    stem, dot, suffix = artifact.file.rpartition(".")
    return replace(artifact, file=f"{stem}-{artifact.sha256[:8]}{dot}{suffix}")


def _holds(file: Path, artifact: Artifact) -> bool:
    return not file.is_symlink() and file.is_file() and sha256_of(file) == artifact.sha256
