"""Which artifacts of a bundle a command runs, and by which backends, where it runs all of them or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import TypeVar

from splite_deploy.bundle import Artifact, Bundle
from splite_deploy.errors import SpliteError, UsageError
from splite_deploy.runtime.backends import all_backends, find_backend
from splite_deploy.runtime.backends.base import Backend
from splite_deploy.runtime.session import pick_artifact
from splite_deploy.spec import Precision

Absent = Callable[[Artifact, SpliteError], None]
"""Called with an artifact that no backend runs here, and why."""


def pick_artifacts(
    bundle: Bundle,
    backend: str | Sequence[str] | None = None,
    precision: Precision | Sequence[Precision] | None = None,
    *,
    recordings: bool = False,
    absent: Absent | None = None,
) -> list[tuple[Backend, Artifact]]:
    """The artifacts to run, each with its backend.

    Args:
        bundle: The bundle.
        backend: Only this backend or these, with the artifacts that `pick_artifact` chooses for each; none or None runs
            every artifact by the backend that it was made for.
        precision: Only this precision or these. Each backend that is named runs each of them.
        recordings: Whether a backend that runs no network may be named.
        absent: What to do with an artifact whose backend was not named and is not installed, or is not known; None
            raises that.

    Raises:
        UsageError: The bundle has no such artifact.
        MissingDependencyError: A backend is not installed.
        BackendError: A backend is a plug-in that could not be loaded.
    """
    chosen = {
        (reader.name, artifact.label): (reader, artifact)
        for name, one_precision in product(_several(backend), _several(precision))
        for reader, artifact in _chosen(bundle, name, one_precision, recordings, absent)
    }
    return list(chosen.values())


_Name = TypeVar("_Name", bound=str)


def _several(names: _Name | Sequence[_Name] | None) -> Sequence[_Name | None]:
    """Names as a sequence; a None alone stands for all."""
    if names is None or isinstance(names, str):
        return [names]
    return list(dict.fromkeys(names)) or [None]


def _chosen(
    bundle: Bundle, backend: str | None, precision: Precision | None, recordings: bool, absent: Absent | None
) -> list[tuple[Backend, Artifact]]:
    artifacts = [one for one in bundle.manifest.artifacts if precision in (None, one.precision)]
    if backend is None:
        if not artifacts:
            bundle.find(None, precision)  # raises with what there is
        return [(reader, one) for one in artifacts if (reader := _reader_or_none(bundle, one, absent)) is not None]
    requested = find_backend(backend)
    if not requested.computes:
        if recordings:
            return [pick_artifact(bundle, requested.name, precision)]
        bundle.find(requested.name, precision)  # raises: a recording says nothing of this machine
    made = [one for one in artifacts if requested.made(one)]
    precisions = dict.fromkeys(one.precision for one in made or artifacts if requested.reads(one.format))
    return [pick_artifact(bundle, requested.name, one) for one in precisions or [precision]]


def _reader_or_none(bundle: Bundle, artifact: Artifact, absent: Absent | None) -> Backend | None:
    try:
        return _reader(bundle, artifact)
    except SpliteError as err:
        if absent is None:
            raise
        absent(artifact, err)
        return None


def _reader(bundle: Bundle, artifact: Artifact) -> Backend:
    """What an artifact was made for; where this version lacks that, the first backend that reads its format.

    Raises:
        UsageError: There is none.
        MissingDependencyError: It is not installed.
    """
    backends = all_backends().values()
    if any(artifact.backend in (one.name, *one.aliases) for one in backends):
        return pick_artifact(bundle, artifact.backend, artifact.precision)[0]
    readers = [one for one in backends if one.computes and one.reads(artifact.format)]
    if not readers:
        raise UsageError(
            f"{artifact.file} was made for the backend '{artifact.backend}', which this version of splite-deploy "
            "lacks, and no other reads it.",
            hint="Upgrade splite-deploy, or run the other artifacts alone: name their backends with -b.",
        )
    chosen = next((one for one in readers if one.installed), readers[0])
    chosen.require()
    return chosen
