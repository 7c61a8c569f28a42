"""What a bundle holds beside its graph: float16 and int8 for ONNX Runtime, and TFLite files, each compared."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from splite_deploy.bundle import Artifact, Bundle, sha256_of
from splite_deploy.errors import CompileError, ParityError, UsageError
from splite_deploy.evidence import BudgetSearch, Calibration
from splite_deploy.export.budget import MAX_FACTOR, Shift, measure_shift, within_budget
from splite_deploy.export.calibration import CalibrationSet, cache_folder, load_calibration
from splite_deploy.export.onnx_walk import Array, load, run_graph
from splite_deploy.export.options import ExportOptions
from splite_deploy.export.precision import Fp16Report, Int8Report, to_fp16, to_int8
from splite_deploy.export.ranges import Method, Ranges, calibrate
from splite_deploy.runtime.session import Session, open_session
from splite_deploy.runtime.verify import Outputs, limits_of, run_each, violations
from splite_deploy.spec import HostSpec, LimitSpec, ModelSpec, Precision

if TYPE_CHECKING:  # its modules need LiteRT
    from splite_deploy.compile.tflite import TfliteCompiler

FP32 = "ort fp32"
"""Label of the graph that everything else is made from."""
METHOD: Method = "mse"
_NAMED = 6  # nodes that a note names
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Reference:
    """What every step of the conversion is compared with.

    Attributes:
        name: ``torch``, or ``onnx`` for a given graph.
        spec: The model.
        tensors: (N, 3, h, w) inputs.
        outputs: Outputs of the original network on them, by role.
        crops_from: Where the inputs come from, in words.
    """

    name: str
    spec: ModelSpec
    tensors: Array
    outputs: Outputs
    crops_from: str

    def compare(self, step: str, session: Session, limits: LimitSpec, hint: str) -> Shift:
        """Runs a session on the inputs; closes it.

        Raises:
            ParityError: It lies over the limits.
        """
        try:
            measured = measure_shift(self.outputs, run_each(session, self.tensors), self.spec)
        finally:
            session.close()
        hop = f"{self.name} -> {step}"
        shift = replace(measured, parity=replace(measured.parity, hop=hop, crops_from=self.crops_from))
        broken = violations(shift.parity, limits, self.spec)
        if shift.peak_switches and broken:
            broken.append(f"{shift.peak_switches} heatmap peaks lie elsewhere")
        if broken:
            raise ParityError(
                f"{hop} changed the result on {shift.parity.crops} crops: {'; '.join(broken)}.",
                hint=f"Nothing was written. {hint}",
            )
        return shift


@dataclass(frozen=True)
class Made:
    """What `make_artifacts` made.

    Attributes:
        artifacts: In the order in which they were asked for; the fp32 graph is last where it was not.
        notes: What is worth knowing about them, in words.
        calibration: What was calibrated on; None if nothing was.
        budget: The search under an error budget; None without one.
    """

    artifacts: tuple[Artifact, ...]
    notes: tuple[str, ...]
    calibration: Calibration | None
    budget: BudgetSearch | None


@contextmanager
def tflite_compiler(options: ExportOptions) -> Iterator[TfliteCompiler | None]:
    """A process that loads TensorFlow from now on; None where no TFLite file is asked for.

    Its log is kept where a conversion fails; the error's hint names it.

    Raises:
        MissingDependencyError: TensorFlow or onnx2tf is not installed.
    """
    if "tflite" not in options.backends:
        yield None
        return
    from splite_deploy.compile.tflite import TfliteCompiler

    handle, name = tempfile.mkstemp(prefix="splite-tflite-", suffix=".log")
    os.close(handle)
    failed = False
    try:
        with TfliteCompiler(Path(name)) as compiler:
            yield compiler
    except CompileError:
        failed = True
        raise
    finally:
        if not failed:
            Path(name).unlink(missing_ok=True)


def make_artifacts(
    folder: Path,
    graph: Artifact,
    reference: Reference,
    host: HostSpec,
    options: ExportOptions,
    compiler: TfliteCompiler | None,
    progress: Progress,
) -> Made:
    """Makes everything that was asked for beside the fp32 graph, from one calibration.

    Args:
        folder: The bundle in the making, with the graph.
        graph: The fp32 graph.
        reference: What the error budget is measured against.
        host: Names the renderer.
        options: What was asked for.
        compiler: Makes the TFLite files.
        progress: Told each step as it begins.

    Raises:
        SpliteError: An artifact cannot be made as it was asked for.
    """
    spec, file = reference.spec, folder / graph.file
    limits = {**{p: limits_of(p, spec) for p in options.precisions}, "int8": int8_limits(spec, options)}
    made, notes, methods, search = {graph.label: graph}, [], {}, None
    taken = _calibration_set(file, spec, host, options, progress) if options.calibrates else None

    def add(precision: Precision, name: str) -> None:
        digest = sha256_of(folder / name)
        artifact = replace(graph, precision=precision, file=name, sha256=digest, limits=limits[precision])
        made[artifact.label] = artifact

    if taken is not None and (options.asks_for("ort", "fp16") or options.asks_for("ort", "int8")):
        tensors = taken.tensors(spec.input)
        progress(f"measuring the ranges of activations on {len(tensors)} crops")
        ranges = calibrate(file, tensors, METHOD)
        if options.asks_for("ort", "fp16"):
            progress("float16 graph")
            name = "model.fp16.onnx"
            notes.append(_fp16_note(name, to_fp16(file, folder / name, tensors, ranges=ranges)))
            methods["ort fp16"] = "extremes"
            add("fp16", name)
        if options.asks_for("ort", "int8"):
            progress("int8 graph")
            name = "model.int8.onnx"
            report, search = _int8(file, folder / name, tensors, ranges, reference, options, progress)
            notes.append(_int8_note(name, report))
            methods["ort int8"] = report.method or "the graph's own"
            add("int8", name)
    if compiler is not None:
        pixels = None if taken is None else taken.pixels
        for artifact in compiler.compile(
            file, spec, folder, options.precisions, calibration=pixels, recipe=options.int8_recipe, progress=progress
        ):
            made[artifact.label] = replace(artifact, limits=limits[artifact.precision])
            if artifact.precision == "int8" and options.int8_recipe == "full-integer":
                methods[artifact.label] = "TensorFlow's own"
    calibration = None
    if taken is not None:
        notes = [*taken.warnings, *notes]
        calibration = Calibration(taken.origin, len(taken.pixels), taken.sha256, methods)
    asked = [f"{backend} {precision}" for backend in options.backends for precision in options.precisions]
    ordered = dict.fromkeys([*asked, graph.label])
    return Made(tuple(made[label] for label in ordered), tuple(notes), calibration, search)


def check_artifacts(
    draft: Bundle, reference: Reference, options: ExportOptions, progress: Progress
) -> dict[str, Shift]:
    """Compares every artifact but the graph, opened as a device opens it; by their labels.

    Raises:
        ParityError: One of them moves keypoints by more than its limits.
        MissingDependencyError: What runs it is not installed.
    """
    found = {}
    for artifact in draft.manifest.artifacts:
        if artifact.label != FP32:
            progress(f"comparing {artifact.label}")
            session = open_session(draft, artifact.backend, artifact.precision)
            found[artifact.label] = reference.compare(
                artifact.label, session, artifact.limits, _hint(artifact, options)
            )
    return found


def int8_limits(spec: ModelSpec, options: ExportOptions) -> LimitSpec:
    """How far int8 may move keypoints: the budget where one was given.

    Raises:
        UsageError: Millimetres were given for a model whose depth has none.
    """
    limits = limits_of("int8", spec)
    if options.max_shift_px is not None:
        px = options.max_shift_px
        limits = replace(limits, shift_p95_px=px, shift_max_px=MAX_FACTOR * px)
    if options.max_shift_mm is not None:
        scale = spec.mm_per_unit()
        if scale is None:
            raise UsageError(
                "The model gives no depth in millimetres to hold against the budget.",
                hint="Give --max-shift-px alone, or palm_mm in model.toml.",
            )
        limits = replace(limits, depth_p95=options.max_shift_mm / scale)
    return limits


def _calibration_set(
    graph: Path, spec: ModelSpec, host: HostSpec, options: ExportOptions, progress: Progress
) -> CalibrationSet:
    return load_calibration(
        options.calibration,
        spec,
        host,
        allow_random=options.allow_random_calibration,
        evaluation=options.evaluation or options.images,
        judge=lambda tensors: run_graph(load(graph), tensors),
        cache=cache_folder(),
        progress=progress,
    )


def _int8(
    graph: Path,
    out: Path,
    tensors: Array,
    ranges: Ranges,
    reference: Reference,
    options: ExportOptions,
    progress: Progress,
) -> tuple[Int8Report, BudgetSearch | None]:
    """Writes the int8 graph of ONNX Runtime, within the budget where there is one."""
    budget = options.budget
    if budget is None:
        return to_int8(graph, out, tensors, "ort", ranges=ranges), None
    found = within_budget(
        graph,
        out,
        reference.tensors,
        reference.outputs,
        reference.spec,
        budget,
        "ort",
        ranges=ranges,
        progress=progress,
    )
    plain_p95_px = found.plain.parity.shift_px.p95
    search = BudgetSearch(budget.shift_px, budget.depth_mm, plain_p95_px, found.plain_latency_ms, found.rows)
    return found.int8, search


def _hint(artifact: Artifact, options: ExportOptions) -> str:
    """What to do about an artifact that moves keypoints too far."""
    if artifact.precision == "fp32":
        return f"If the shift is acceptable raise [limits] in model.toml; otherwise leave out -b {artifact.backend}."
    if artifact.precision == "fp16":
        return "Calibrate on more images with --calibration, or leave out -p fp16."
    if artifact.backend == "tflite" and options.budget is not None:
        return (
            "The search for the layers that int8 ruins exists for -b ort only: leave out -b tflite, allow a larger "
            "shift, calibrate on more images with --calibration, or export -p fp16."
        )
    if options.budget is not None:
        return "Give both --max-shift-px and --max-shift-mm, allow a larger shift, or export -p fp16."
    if artifact.backend == "tflite":
        return "Calibrate on more images with --calibration, or export -p fp16."
    return (
        "Give --max-shift-px, which returns the costliest layers to float, calibrate on more images with "
        "--calibration, or export -p fp16."
    )


def _fp16_note(file: str, report: Fp16Report) -> str:
    kept = [f"{one.node} ({one.reason})" for one in report.kept]
    return f"{file}: {sum(report.float16.values())} nodes in float16; kept in float32: {_listed(kept)}"


def _int8_note(file: str, report: Int8Report) -> str:
    islands = [f"{name} ({op})" for name, op in report.float_islands.items()]
    text = f"{file}: {len(report.quantised)} nodes in int8; float by choice: {_listed(report.floating)}"
    return "; ".join([f"{text}; float for want of a kernel: {_listed(islands)}", *report.notes])


def _listed(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more if names else "none"
