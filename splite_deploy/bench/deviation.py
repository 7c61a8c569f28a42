"""How far an artifact moves keypoints: as the report of its bundle recorded it, checked on this machine."""

from __future__ import annotations

from typing import Literal

from splite_deploy.bench.result import KeypointDeviation
from splite_deploy.bundle import Artifact, Bundle
from splite_deploy.bundle.report import Parity, Percentiles
from splite_deploy.errors import BundleError
from splite_deploy.metrics.parity import compare, violations
from splite_deploy.runtime.backends.base import Backend
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.session import Session
from splite_deploy.runtime.verify import run_each


def deviation_of(
    bundle: Bundle, artifact: Artifact, backend: Backend, session: Session, *, recorded: bool = True
) -> KeypointDeviation | None:
    """Compares an artifact with what the bundle recorded of the original network.

    The golden crops are few, and those of the report many: where it recorded this very artifact with this backend its
    figures are given, unless the artifact breaks a limit on the golden crops here.

    Args:
        bundle: The bundle.
        artifact: One of its artifacts.
        backend: What runs it.
        session: An open session of it.
        recorded: Whether what the report recorded is of what runs it here.

    Returns:
        None of an engine that was built for several crops at once alone.

    Raises:
        BackendError: It cannot be run.
    """
    smallest, _, _ = artifact.target.get("batch", "1").partition(",")
    if smallest != "1":
        return None
    spec, golden = bundle.model, bundle.golden()
    feed = Preprocessor(spec.input, spec.input.color).feed(golden.crops, session.inputs[0])
    origin = "golden crops of the bundle"
    outputs = run_each(session, feed, spec)
    here = compare("", golden.outputs, outputs, spec, origin, reference_name=golden.reference)
    measured = _described(bundle, artifact, here, "measured")
    before = _recorded(bundle, artifact, backend) if recorded and not measured.violations else None
    return measured if before is None else _described(bundle, artifact, before, "recorded")


def _recorded(bundle: Bundle, artifact: Artifact, backend: Backend) -> Parity | None:
    """What the report says of this artifact; None where it says nothing.

    It does not of another backend, nor of an engine, of which it knows the graph that it was built from.
    """
    if artifact.format == "engine" or not backend.made(artifact):
        return None
    try:
        report = bundle.report()
    except BundleError:  # it informs people; the bundle runs without
        return None
    # The graph of ort fp32 is the simplified one where nothing is fused into it, and was compared as that.
    stages = {one.stage: one for one in report.parity}
    return stages.get(artifact.label) or (stages.get("simplified") if artifact.label == "ort fp32" else None)


def _described(
    bundle: Bundle, artifact: Artifact, parity: Parity, origin: Literal["recorded", "measured"]
) -> KeypointDeviation:
    spec = bundle.model
    moved, to_pct = parity.deviation_px, 100 / max(spec.input.height, spec.input.width)
    return KeypointDeviation(
        origin=origin,
        crops=parity.crops,
        crops_from=parity.crops_from,
        deviation_px=moved,
        deviation_pct=Percentiles(moved.p50 * to_pct, moved.p95 * to_pct, moved.max * to_pct),
        depth=parity.depth,
        depth_unit=parity.depth_unit,
        violations=tuple(violations(parity, artifact.limits, spec)),
    )
