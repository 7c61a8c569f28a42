"""Compares outputs in pixels and millimetres, and checks the artifacts of a bundle on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splite_deploy.bundle import Artifact, Bundle, Parity
from splite_deploy.errors import ParityError, UsageError
from splite_deploy.metrics.parity import compare, violations
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.session import DEFAULT_GPU, Feed, GpuOptions, Session, open_session
from splite_deploy.spec import Precision

Array = NDArray[np.float32]


def run_each(session: Session, tensors: Feed) -> dict[str, Array]:
    """Runs N inputs, of `Preprocessor.feed`, one at a time; outputs by role, N first."""
    name = session.inputs[0].name
    results = [dict(session.run({name: tensors[i : i + 1]})) for i in range(len(tensors))]
    return {spec.role: np.concatenate([result[spec.name] for result in results]) for spec in session.outputs}


@dataclass(frozen=True)
class Verification:
    """The check of one artifact on this machine.

    Attributes:
        artifact: The artifact.
        parity: How far its outputs on the golden crops lie from the reference.
        violations: The limits it breaks; empty if it passed.
    """

    artifact: Artifact
    parity: Parity
    violations: tuple[str, ...]


def verify(
    bundle: Bundle,
    backend: str | None = None,
    precision: Precision | None = None,
    *,
    threads: int | None = None,
    gpu: GpuOptions = DEFAULT_GPU,
    progress: Callable[[str], None] = lambda message: None,
) -> list[Verification]:
    """Runs the golden crops through the artifacts of a bundle on this machine.

    Args:
        bundle: An opened bundle.
        backend: Only this backend; None stands for all the artifacts there are.
        precision: Only this precision.
        threads: CPU threads.
        gpu: How a backend that runs on a GPU works.
        progress: Told what is being done.

    Returns:
        One result per artifact, whether it passed or not; see `check`.

    Raises:
        UsageError: The bundle has no such artifact.
        MissingDependencyError: A backend is not installed.
        BackendError: An artifact cannot be loaded or run.
    """
    chosen = [
        artifact
        for artifact in bundle.manifest.artifacts
        if backend in (None, artifact.backend) and precision in (None, artifact.precision)
    ]
    if not chosen:
        bundle.find(backend, precision)  # raises with what there is
    golden = bundle.golden()
    spec = bundle.model
    preprocessor = Preprocessor(spec.input, spec.input.color)
    results = []
    for artifact in chosen:
        progress(artifact.label)
        session = open_session(bundle, artifact.backend, artifact.precision, threads=threads, gpu=gpu)
        try:
            outputs = run_each(session, preprocessor.feed(golden.crops, session.inputs[0]))
        finally:
            session.close()
        parity = compare(
            f"{golden.reference} -> {artifact.label}", golden.outputs, outputs, spec, "golden crops of the bundle"
        )
        results.append(Verification(artifact, parity, tuple(violations(parity, artifact.limits, spec))))
    return results


def check(results: list[Verification]) -> None:
    """Raises `ParityError` if an artifact broke its limits."""
    if not results:
        raise UsageError("Nothing was verified.", hint="Name a bundle with artifacts.")
    for result in results:
        if result.violations:
            raise ParityError(
                f"{result.artifact.label} differs on this machine: {'; '.join(result.violations)}.",
                hint="Do not ship it from here: compare the backend's version with 'splite-deploy inspect'.",
            )
