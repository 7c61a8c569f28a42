"""Compares outputs in pixels and millimetres, and checks the artifacts of a bundle on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.bundle import Artifact, Bundle, Parity, Percentiles
from splite_deploy.decoders.decode import decode
from splite_deploy.errors import ParityError, UsageError
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.session import DEFAULT_GPU, Feed, GpuOptions, Session, open_session
from splite_deploy.spec import LimitSpec, ModelSpec, Precision, SoftArgmaxDepth

Array = NDArray[np.float32]
Outputs = Mapping[str, Array]


def run_each(session: Session, tensors: Feed) -> dict[str, Array]:
    """Runs N inputs, of `Preprocessor.feed`, one at a time; outputs by role, N first."""
    name = session.inputs[0].name
    results = [dict(session.run({name: tensors[i : i + 1]})) for i in range(len(tensors))]
    return {spec.role: np.concatenate([result[spec.name] for result in results]) for spec in session.outputs}


def compare(hop: str, reference: Outputs, candidate: Outputs, spec: ModelSpec, crops_from: str) -> Parity:
    """How far ``candidate`` lies from ``reference``.

    Args:
        hop: What is compared, for the report.
        reference: Outputs by role, N first.
        candidate: The same, or what a graph that decodes gives; decoded values are compared then.
        spec: The model; its decoder turns both into keypoints.
        crops_from: Where the inputs came from, for the report.
    """
    before, after = decode(reference, spec), decode(candidate, spec)
    if "keypoints" in candidate:
        reference, candidate = before.by_role(), after.by_role()
    shift = np.linalg.norm((after.keypoints - before.keypoints).astype(np.float64), axis=-1)
    depth, unit = None, ""
    if before.depth is not None and after.depth is not None:
        scale = spec.mm_per_unit()
        unit = "mm" if scale is not None else "palm"
        depth = _percentiles(np.abs(after.depth - before.depth) * (scale or 1.0))
    return Parity(
        hop=hop,
        crops=len(shift),
        crops_from=crops_from,
        tensor_max_abs={role: float(np.abs(candidate[role] - reference[role]).max()) for role in reference},
        shift_px=_percentiles(shift),
        depth=depth,
        depth_unit=unit,
    )


def violations(parity: Parity, limits: LimitSpec, spec: ModelSpec) -> list[str]:
    """The limits that a comparison breaks, each as a phrase; empty if none."""
    found = []
    if not parity.shift_px.p95 <= limits.shift_p95_px:
        found.append(f"keypoint shift p95 {parity.shift_px.p95:.4g} px (limit {limits.shift_p95_px:g})")
    if not parity.shift_px.max <= limits.shift_max_px:
        found.append(f"keypoint shift max {parity.shift_px.max:.4g} px (limit {limits.shift_max_px:g})")
    if parity.depth is not None:
        limit = limits.depth_p95 * (spec.mm_per_unit() or 1.0)
        if not parity.depth.p95 <= limit:
            found.append(f"depth shift p95 {parity.depth.p95:.4g} {parity.depth_unit} (limit {limit:.4g})")
    return found


def limits_of(precision: Precision, spec: ModelSpec) -> LimitSpec:
    """How far keypoints may move: the spec's limits in fp32, below them at least a part of the box's longer side.

    int8: 0.5 % (p95) and 3 % (max) of the side as it lies in the crop, 5 % of a palm in depth. fp16: a tenth of that.
    """
    if precision == "fp32":
        return spec.limits
    part = 1.0 if precision == "int8" else 0.1
    side = max(spec.input.height, spec.input.width) / spec.input.box_padding
    palm = 1.0
    if isinstance(spec.decoder, SoftArgmaxDepth) and spec.decoder.unit == "mm" and spec.palm_mm is not None:
        palm = spec.palm_mm
    return LimitSpec(
        shift_p95_px=max(spec.limits.shift_p95_px, 0.005 * side * part),
        shift_max_px=max(spec.limits.shift_max_px, 0.03 * side * part),
        depth_p95=max(spec.limits.depth_p95, 0.05 * palm * part),
    )


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
    # What the golden outputs were computed with: torch, or a given graph in ONNX Runtime
    origin = next((hop.hop.partition(" -> ")[0] for hop in bundle.manifest.parity), "torch")
    for artifact in chosen:
        progress(artifact.label)
        session = open_session(bundle, artifact.backend, artifact.precision, threads=threads, gpu=gpu)
        try:
            outputs = run_each(session, preprocessor.feed(golden.crops, session.inputs[0]))
        finally:
            session.close()
        parity = compare(f"{origin} -> {artifact.label}", golden.outputs, outputs, spec, "golden crops of the bundle")
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


def _percentiles(values: NDArray[np.floating[Any]]) -> Percentiles:
    return Percentiles(*(float(v) for v in (*np.percentile(values, [50, 95]), values.max())))
