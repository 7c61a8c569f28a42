"""Adds artifacts to a bundle that exists: what was built on the device comes to lie beside what it was built of.

The manifest is what decides: files are laid down under names that nothing has, then the manifest changes in one step,
then files that it no longer names go. Whenever it is interrupted, the bundle is the old one or the new one.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from splite_deploy.bundle import MANIFEST, Artifact, Bundle
from splite_deploy.bundle.report import Layer
from splite_deploy.files import sha256_of, whole_file, writing


@dataclass(frozen=True)
class Addition:
    """An artifact and its file, which lies elsewhere still.

    Attributes:
        artifact: Its ``file`` is the name to take where that is free.
        source: The file.
        layers: What it is made of; see `Manifest.layers`.
    """

    artifact: Artifact
    source: Path
    layers: tuple[Layer, ...] = ()


def add_artifacts(bundle: Bundle, additions: Sequence[Addition]) -> Bundle:
    """Adds artifacts, all or none; one of the same backend and precision is replaced where it stands.

    Args:
        bundle: An opened bundle.
        additions: What to add. Where the name of a file is taken, the first digits of its hash go into it.

    Returns:
        The bundle with the artifacts, as they were named.

    Raises:
        OutputError: It cannot be written; the bundle is as it was.
    """
    before = bundle.manifest
    held = {artifact.label: artifact for artifact in before.artifacts}
    layers: Mapping[str, tuple[Layer, ...]] = dict(before.layers)
    laid: list[Path] = []
    kept = {graph.file for graph in before.graphs}
    with writing(bundle.path):
        try:
            for addition in additions:
                artifact = _named(bundle.path, addition.artifact)
                file = bundle.path / artifact.file
                if not _holds(file, artifact):
                    laid.append(file)
                    with whole_file(file) as partial:
                        shutil.copyfile(addition.source, partial)
                held[artifact.label] = artifact
                layers = {**layers, artifact.label: addition.layers}
            manifest = replace(
                before, artifacts=tuple(held.values()), layers={name: found for name, found in layers.items() if found}
            )
            with whole_file(bundle.path / MANIFEST) as partial:
                partial.write_text(manifest.to_json(), encoding="utf-8")
        except BaseException:
            for file in laid:
                file.unlink(missing_ok=True)
            raise
    kept |= {artifact.file for artifact in manifest.artifacts}
    for name in {artifact.file for artifact in before.artifacts} - kept:
        with suppress(OSError):  # it is in nobody's way
            (bundle.path / name).unlink()
    return Bundle(bundle.path, manifest)


def _named(folder: Path, artifact: Artifact) -> Artifact:
    """The artifact under a name that no other content has."""
    file = folder / artifact.file
    if not file.exists() or _holds(file, artifact):
        return artifact
    stem, dot, suffix = artifact.file.rpartition(".")
    return replace(artifact, file=f"{stem}-{artifact.sha256[:8]}{dot}{suffix}")


def _holds(file: Path, artifact: Artifact) -> bool:
    return file.is_file() and sha256_of(file) == artifact.sha256
