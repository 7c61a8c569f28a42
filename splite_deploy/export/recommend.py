"""Which artifact of a bundle to ship: all of them measured side by side, and one line that says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import Feed
from splite_deploy.bench.evaluation import Estimate, Points, errors_of_each
from splite_deploy.bench.interleaved import Run, interleave
from splite_deploy.bundle.report import Accuracy, Recommendation, RecommendationRow
from splite_deploy.device.int8 import Int8Instructions
from splite_deploy.export.artifacts import Measured
from splite_deploy.export.options import ExportOptions
from splite_deploy.export.reference import Reference
from splite_deploy.metrics.labels import LabelledImage
from splite_deploy.metrics.parity import violations
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.preprocess import Image
from splite_deploy.runtime.session import Session
from splite_deploy.spec import PRECISIONS

GAIN = 1.05
"""A lower precision has to be so many times as fast: less is noise on most machines, and accuracy is lost for sure."""
FRAMES = 200
SECONDS = 2.0
"""All artifacts together take about so long to time, however slow they are."""
_PROBES = 5


def recommend(
    measured: Sequence[Measured],
    reference: Reference,
    labels: Sequence[LabelledImage],
    progress: Callable[[str], None],
    note: str = "",
) -> Recommendation:
    """Times every artifact in one run, in turn, on one thread, and says which to ship.

    Args:
        measured: The artifacts, still open.
        reference: What they were compared with; its inputs are what is timed.
        labels: What to evaluate on; none measures no accuracy.
        progress: Called with each step as it begins.
        note: What else is worth knowing before one is shipped, as text.

    Raises:
        SpliteError: An artifact cannot be run, or an image not be read.
    """
    spec = reference.spec
    sessions = {one.artifact.label: one.session for one in measured}
    progress("timing all artifacts in turn, one thread")
    p50_ms = time_sessions(sessions, {label: reference.feed(session) for label, session in sessions.items()})
    accuracy: dict[str, Accuracy] = {}
    if labels:
        progress(f"evaluating all artifacts on {len(labels)} labelled images")
        estimates = {label: _estimate(PoseEstimator(spec, session, "rgb")) for label, session in sessions.items()}
        accuracy = {label: errors.summary() for label, errors in errors_of_each(labels, estimates).items()}
    rows = []
    for one in measured:
        artifact, parity = one.artifact, one.deviation.parity
        fp32_ms = p50_ms.get(f"{artifact.backend} fp32")
        rows.append(
            RecommendationRow(
                backend=artifact.backend,
                precision=artifact.precision,
                size_bytes=one.size_bytes,
                p50_ms=p50_ms[artifact.label],
                speed_up=None if fp32_ms is None else fp32_ms / p50_ms[artifact.label],
                deviation_px=parity.deviation_px,
                depth=parity.depth,
                depth_unit=parity.depth_unit,
                peak_switches=one.deviation.peak_switches,
                within_limits=not violations(parity, artifact.limits, spec),
                accuracy=accuracy.get(artifact.label),
            )
        )
    compared = f"compared on {len(reference.tensors)} crops ({reference.crops_from})"
    evaluated = f"; evaluated on {len(labels)} labelled images" if labels else ""
    ship, reason = choose(rows)
    return Recommendation(
        tuple(rows),
        f"timed on one thread of this machine's CPU; {compared}{evaluated}",
        ship,
        f"{reason} {note}".rstrip(),
    )


def saturation_note(options: ExportOptions, trained: bool, cpu: Int8Instructions) -> str:
    """Where the int8 graph of ONNX Runtime may compute something else than here; empty where there is none.

    Args:
        options: What was requested.
        trained: Whether the network was trained for int8, with weights of 8 bits.
        cpu: Of this machine.
    """
    if not options.makes("ort", "int8") or options.reduce_range:
        return ""
    advice = "check it there with 'splite-deploy verify'" if trained else "export for it with --reduce-range"
    if cpu.saturates:
        return f"This CPU has neither VNNI nor AMX, so that sums of int8 can saturate in ONNX Runtime: {advice}."
    return f"Sums of int8 can saturate in ONNX Runtime on an x86 CPU without VNNI and AMX: {advice}."


def time_sessions(sessions: Mapping[str, Session], feeds: Mapping[str, Feed]) -> dict[str, float]:
    """Median milliseconds of one inference of each, timed in blocks of changing order.

    Args:
        sessions: By label.
        feeds: For each of them inputs as it takes them, N first.
    """
    runs: dict[str, Run] = {label: _run(session, feeds[label]) for label, session in sessions.items()}
    began = perf_counter()
    for run in runs.values():
        for index in range(_PROBES):
            run(index)
    one_each_s = (perf_counter() - began) / _PROBES
    frames = int(np.clip(SECONDS / one_each_s, 10, FRAMES))
    samples = interleave(runs, frames, warmup_frames=frames // 10)
    return {label: float(np.median(taken)) for label, taken in samples.items()}


def choose(rows: Sequence[RecommendationRow]) -> tuple[str | None, str]:
    """The artifact to ship, None if every one is over its limits, and why.

    It is the fastest within its limits; a lower precision has to be at least `GAIN` times as fast as the best of the
    precisions above it.
    """
    best: RecommendationRow | None = None
    against = []
    for precision in PRECISIONS:
        held = [row for row in rows if row.precision == precision]
        against += [f"{row.label} is over its limits" for row in held if not row.within_limits]
        fastest = min((row for row in held if row.within_limits), key=lambda row: row.p50_ms, default=None)
        if fastest is None:
            continue
        if best is None or best.p50_ms >= GAIN * fastest.p50_ms:
            best = fastest
        else:
            against.append(
                f"{precision.upper()} does not pay here: {fastest.label} takes {fastest.p50_ms:.3f} ms, and "
                f"{best.label} {best.p50_ms:.3f} ms; it would have to be {GAIN - 1:.0%} faster"
            )
    where = "This speaks of this machine's CPU alone: decide on the device with 'splite-deploy bench'."
    if best is None:
        return None, f"Ship none of them: {'; '.join(against)}. {where}"
    gain = f", {best.speed_up:.2f} times as fast as {best.backend} fp32" if (best.speed_up or 0) >= GAIN else ""
    others = "".join(f" {text[0].upper()}{text[1:]}." for text in against)
    chosen = f"Ship {best.label}: the fastest here within its limits, {best.p50_ms:.3f} ms{gain}."
    return best.label, f"{chosen}{others} {where}"


def _run(session: Session, tensors: Feed) -> Run:
    name = session.inputs[0].name

    def run(index: int) -> object:
        start = index % len(tensors)
        return session.run({name: tensors[start : start + 1]})

    return run


def _estimate(estimator: PoseEstimator) -> Estimate:
    def estimate(image: Image, box: NDArray[np.float64]) -> tuple[Points, Points | None]:
        pose = estimator(image, box)
        return pose.keypoints, pose.keypoints_3d

    return estimate
