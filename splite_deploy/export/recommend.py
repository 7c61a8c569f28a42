"""Which artifact of a bundle to ship: all of them measured side by side, and one line that says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from splite_deploy.arrays import Feed
from splite_deploy.bench.evaluation import errors_of_each, estimate_of, people_accuracy
from splite_deploy.bench.flip_test import flip_tested
from splite_deploy.bench.interleaved import Run, interleave
from splite_deploy.bench.loop import MODEL_ONLY, Options, garbage_collector_off
from splite_deploy.bench.recommend import Candidate, by_name_alone
from splite_deploy.bench.recommend import recommend as choose_of
from splite_deploy.bench.windows import Samples, settle
from splite_deploy.bundle.report import Accuracy, Layer, LayerSearch, Recommendation, RecommendationRow
from splite_deploy.decoders import PeopleDecoder
from splite_deploy.device.int8 import Int8Instructions
from splite_deploy.export.artifacts import Measured
from splite_deploy.export.reference import Reference
from splite_deploy.metrics.labels import LabelledImage, SceneBoxes
from splite_deploy.metrics.parity import violations
from splite_deploy.runtime.any_angle import at_any_angle
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.session import Session
from splite_deploy.text import command

FRAMES = 200
SECONDS = 0.9
"""All artifacts together take about so long to time, however slow they are; twice as long where they are unsteady."""
_WINDOWS, _TOLERANCE = Options().windows, Options().tolerance
_PROBES = 5
_DEPTHWISE = "DEPTHWISE_CONV_2D"


@dataclass(frozen=True)
class Timing:
    """How long an inference takes.

    Attributes:
        p50_ms: The median.
        min_ms: The shortest.
        steady: Whether the medians of the last windows agreed.
    """

    p50_ms: float
    min_ms: float
    steady: bool


def recommend(
    measured: Sequence[Measured],
    reference: Reference,
    labels: Sequence[LabelledImage],
    scenes: Mapping[Path, SceneBoxes],
    progress: Callable[[str], None],
    bundle: str,
    notes: Sequence[str] = (),
    *,
    flip_test: bool = False,
    searches: Sequence[LayerSearch] = (),
) -> Recommendation:
    """Times every artifact in one run, in turn, on one thread, and says which to ship.

    Args:
        measured: The artifacts, still open.
        reference: What they were compared with; its inputs are what is timed.
        labels: What to evaluate on; none measures no accuracy.
        scenes: The pictures of the labels, of a network that finds hands or people itself.
        progress: Called with each step as it begins.
        bundle: Name of the bundle, for the command that decides on the device.
        notes: What else is worth knowing before one is shipped, as text.
        searches: Which layers int8 leaves in float, of the artifacts where some are; see `mostly_float`.
        flip_test: Whether the mirrored crop is evaluated, too; see `splite_deploy.bench.flip_test`.

    Raises:
        SpliteError: An artifact cannot be run, or an image not be read.
    """
    spec = reference.spec
    sessions = {one.artifact.label: one.session for one in measured}
    progress("timing all artifacts in turn, one thread")
    timings = time_sessions(sessions, {label: reference.feed(session) for label, session in sessions.items()})
    accuracy: dict[str, Accuracy] = {}
    if labels:
        progress(f"evaluating all artifacts on {len(labels)} labelled images")
        estimators = {label: PoseEstimator(spec, session, "rgb") for label, session in sessions.items()}
        if isinstance(spec.decoder, PeopleDecoder):
            accuracy = {label: people_accuracy(one, labels, scenes) for label, one in estimators.items()}
        else:
            estimates = {
                label: estimate_of(at_any_angle(flip_tested(one) if flip_test else one, spec.input))
                for label, one in estimators.items()
            }
            accuracy = {label: errors.summary() for label, errors in errors_of_each(labels, estimates).items()}
    rows = []
    for one in measured:
        artifact, parity = one.artifact, one.deviation.parity
        timing, fp32 = timings[artifact.label], timings.get(f"{artifact.backend} fp32")
        rows.append(
            RecommendationRow(
                backend=artifact.backend,
                precision=artifact.precision,
                size_bytes=one.size_bytes,
                p50_ms=timing.p50_ms,
                min_ms=timing.min_ms,
                steady=timing.steady,
                speed_up=None if fp32 is None else fp32.min_ms / timing.min_ms,
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
    evaluated += " and their mirror images" if labels and flip_test else ""
    evaluated += ", at the angles that the network finds" if labels and spec.input.turn else ""
    ship, reason = choose(rows, mostly_float(searches))
    return Recommendation(
        tuple(rows),
        f"timed on one thread of this machine's CPU, all in turn; {compared}{evaluated}",
        ship,
        " ".join([reason, *notes, decide_on_device(ship, bundle)]),
    )


def device_notes(
    layers: Mapping[str, Sequence[Layer]], cpu: Int8Instructions, *, trained: bool, reduced: bool
) -> list[str]:
    """Where other CPUs compute something else than this one, or gain something else; none where nothing is known.

    Args:
        layers: What each artifact is made of, by its label.
        cpu: Of this machine.
        trained: Whether the network was trained for int8, with weights of 8 bits.
        reduced: Whether its weights have 7 bits in ONNX Runtime.
    """
    notes = [saturation_note(cpu, trained=trained)] if "ort int8" in layers and not reduced else []
    if "ort fp16" in layers and (cpu.x86 or not cpu.known):
        notes.append(
            "ONNX Runtime computes fp16 in half precision on ARM CPUs with FEAT_FP16, and in float32 on this one: "
            "expect there some four times the deviation, and check it with 'splite-deploy verify'."
        )
    if "tflite int8" in layers and not (cpu.known and not cpu.x86 and cpu.names):
        notes.append(
            "ARM CPUs without dot products (Cortex-A53, A72) save nothing by int8 in LiteRT; those with them (A55, A76 "
            "and later) need half the instructions of fp32."
        )
        notes.append(_depthwise_note(layers["tflite int8"]))
    return [note for note in notes if note]


def _depthwise_note(layers: Sequence[Layer]) -> str:
    """How many of the int8 layers have no kernel with dot products; empty where none."""
    convolutions = [layer for layer in layers if layer.kind.endswith("CONV_2D") and "int8" in layer.types]
    depthwise = sum(layer.kind == _DEPTHWISE for layer in convolutions)
    if not depthwise:
        return ""
    return (
        f"{depthwise} of its {len(convolutions)} convolutions in int8 are depthwise, which gain nothing there either."
    )


def saturation_note(cpu: Int8Instructions, *, trained: bool) -> str:
    """Where an int8 graph with weights of 8 bits may compute something else in ONNX Runtime than here.

    Args:
        cpu: Of this machine.
        trained: Whether the network was trained for int8.
    """
    advice = "check it there with 'splite-deploy verify'" if trained else "export for it with --reduce-range"
    if cpu.saturates:
        return f"This CPU has neither VNNI nor AMX, so that sums of int8 can saturate in ONNX Runtime: {advice}."
    return f"Sums of int8 can saturate in ONNX Runtime on an x86 CPU without VNNI and AMX: {advice}."


def time_sessions(sessions: Mapping[str, Session], feeds: Mapping[str, Feed]) -> dict[str, Timing]:
    """How long one inference of each takes, in blocks of changing order, until the medians of the last windows agree.

    Windows that do not agree are all counted: to choose among them would make the figures look better than they are.

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
    frames = int(np.clip(SECONDS / one_each_s / _WINDOWS, 4, FRAMES))

    def time_window(number: int) -> list[Samples]:
        timed = interleave(runs, frames, warmup_frames=0 if number else frames // 4)
        return [{MODEL_ONLY: samples.ravel()} for samples in timed.values()]

    with garbage_collector_off():  # a window is short beside the collection before it
        settled = settle(
            time_window, [MODEL_ONLY] * len(runs), agreeing=_WINDOWS, most=2 * _WINDOWS, tolerance=_TOLERANCE
        )
    return {
        label: Timing(float(np.median(one.samples[MODEL_ONLY])), float(one.samples[MODEL_ONLY].min()), one.stable)
        for label, one in zip(runs, settled, strict=True)
    }


def mostly_float(searches: Sequence[LayerSearch]) -> dict[str, tuple[str, ...]]:
    """What speaks against artifacts that are int8 by their name alone, by their label, as phrases."""
    return {one.artifact: tuple(by_name_alone(len(one.excluded), one.layers)) for one in searches}


def choose(
    rows: Sequence[RecommendationRow], against: Mapping[str, Sequence[str]] | None = None
) -> tuple[str | None, str]:
    """The artifact to ship, None if every one is over its limits, and why; see `splite_deploy.bench.recommend`.

    Args:
        rows: The artifacts.
        against: What else speaks against them, by label, as phrases; see `mostly_float`.
    """
    candidates = [
        Candidate(
            name=row.label,
            backend=row.backend,
            precision=row.precision,
            shortest_ms=row.shortest_ms,
            p50_ms=row.p50_ms,
            steady=row.steady,
            against=(*(against or {}).get(row.label, ()), *(() if row.within_limits else ("is over its limits",))),
        )
        for row in rows
    ]
    found = choose_of(candidates, again="export again on a machine at rest")
    return found.ship, found.line


def decide_on_device(ship: str | None, bundle: str) -> str:
    """The command that decides on the device, where there is something to ship."""
    where = "This speaks of this machine's CPU alone."
    return where if ship is None else f"{where} Decide on the device: {command('bench', Path(bundle))}."


def _run(session: Session, tensors: Feed) -> Run:
    name = session.inputs[0].name

    def run(index: int) -> object:
        start = index % len(tensors)
        return session.run({name: tensors[start : start + 1]})

    return run
