"""What a bundle holds: files for ONNX Runtime and TFLite, and what TensorRT's engines are built of; each compared."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from splite_deploy.bundle import Artifact, Bundle, Graph, Manifest, Typing
from splite_deploy.bundle.report import BudgetSearch, Calibration
from splite_deploy.compile.child_process import kept_log
from splite_deploy.errors import UsageError
from splite_deploy.export.graph.walk import load, run_graph
from splite_deploy.export.options import ExportOptions
from splite_deploy.export.quant.calibration import CalibrationSet, load_calibration
from splite_deploy.export.quant.engine_graphs import rounding_to_nearest
from splite_deploy.export.quant.onnx_files import FP16, INT8, WEAK, engine_file, keep_quantisation, make_onnx_files
from splite_deploy.export.quant.qdq import has_qdq
from splite_deploy.export.quant.search import MAX_FACTOR, Shift
from splite_deploy.export.reference import Reference
from splite_deploy.files import cache_folder, sha256_of
from splite_deploy.metrics.parity import limits_of
from splite_deploy.runtime.backends.ort import OrtSession
from splite_deploy.runtime.session import Session, open_session
from splite_deploy.spec import HostSpec, LimitSpec, ModelSpec, Precision

if TYPE_CHECKING:  # its modules need LiteRT
    from splite_deploy.compile.tflite.compiler import TfliteCompiler

FP32 = "ort fp32"
"""Label of the graph that everything else is made from."""
_TYPINGS: tuple[Typing, ...] = ("weak", "strong")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Made:
    """What `make_artifacts` made.

    Attributes:
        artifacts: In the order in which they were asked for; the fp32 graph is last where it was not.
        graphs: What TensorRT's engines are built of.
        notes: What is worth knowing about them, in words.
        calibration: What was calibrated on; None if nothing was.
        search: The search under an error budget; None without one.
    """

    artifacts: tuple[Artifact, ...]
    graphs: tuple[Graph, ...]
    notes: tuple[str, ...]
    calibration: Calibration | None
    search: BudgetSearch | None


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
    from splite_deploy.compile.tflite.compiler import TfliteCompiler

    with kept_log("tflite") as log, TfliteCompiler(log) as compiler:
        yield compiler


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
        graph: The fp32 graph; that of a network trained for int8 holds its quantisation, and is dropped.
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
    trained = has_qdq(load(file))
    taken = None
    if trained:
        _check_trained(options)
        files = keep_quantisation(file, reference, options)
        file.unlink()
    else:
        taken = _calibration_set(file, spec, host, options, progress) if options.calibrates else None
        if compiler is not None:  # works on its own while the other files are made here
            pixels = None if taken is None else taken.pixels
            compiler.begin(file, spec, options.precisions, calibration=pixels, recipe=options.int8_recipe)
        tensors = reference.tensors if taken is None else taken.tensors(spec.input)
        files = make_onnx_files(file, reference, tensors, options, progress)
    held = {} if trained else {graph.label: graph}
    lower: tuple[tuple[Precision, str], ...] = ("fp16", FP16), ("int8", INT8["ort"])
    for precision, name in lower:
        if options.asks_for("ort", precision):
            digest = sha256_of(folder / name)
            made = replace(graph, precision=precision, file=name, sha256=digest, limits=limits[precision])
            held[made.label] = made
    if compiler is not None:
        for artifact in compiler.finish(folder, progress=progress):
            held[artifact.label] = replace(artifact, limits=limits[artifact.precision])
            if artifact.precision == "int8" and options.int8_recipe == "full-integer":
                files.methods[artifact.label] = "TensorFlow's own"
    if "trt" in options.backends and set(options.precisions) - {"int8"} and not trained:
        shutil.copyfile(file, file.with_name(WEAK))
    graphs = tuple(
        _engine_graph(folder, precision, typing, graph, limits[precision])
        for precision in (options.precisions if "trt" in options.backends else ())
        for typing in _TYPINGS
    )
    calibration = None
    notes = files.notes
    if taken is not None:
        notes = [*taken.warnings, *notes]
        calibration = Calibration(taken.origin, len(taken.pixels), taken.sha256, files.methods)
    asked = [f"{backend} {precision}" for backend in options.backends for precision in options.precisions]
    ordered = [label for label in dict.fromkeys([*asked, graph.label]) if label in held]
    return Made(tuple(held[label] for label in ordered), graphs, tuple(notes), calibration, files.search)


def check_artifacts(
    draft: Bundle, reference: Reference, options: ExportOptions, progress: Progress
) -> dict[str, Shift]:
    """Compares everything but the fp32 graph, opened as a device opens it; by labels of artifacts and graphs.

    What engines are built of runs in ONNX Runtime here: the arithmetic is that of TensorRT but for rounding.

    Raises:
        ParityError: One of them moves keypoints by more than its limits.
        MissingDependencyError: What runs it is not installed.
    """
    found = {}
    for label, held in runnable(draft.manifest).items():
        if label != FP32:
            progress(f"comparing {label}")
            hint = _hint(label.partition(" ")[0], held.precision, options)
            found[label] = reference.compare(label, open_here(draft, held), held.limits, hint)
    return found


def runnable(manifest: Manifest) -> dict[str, Artifact | Graph]:
    """Everything that can be run here, each file once, by its label: artifacts, and graphs that are none."""
    held: dict[str, Artifact | Graph] = {artifact.label: artifact for artifact in manifest.artifacts}
    files = {artifact.file for artifact in manifest.artifacts}
    for graph in manifest.graphs:
        if graph.file not in files:
            files.add(graph.file)
            held[f"trt {graph.precision} graph ({graph.typing})"] = graph
    return held


def open_here(draft: Bundle, held: Artifact | Graph) -> Session:
    """A session of an artifact, or in ONNX Runtime of what an engine is built of."""
    if isinstance(held, Artifact):
        return open_session(draft, held.backend, held.precision)
    stand_in = Artifact(
        "onnx", "ort", held.precision, held.file, held.sha256, held.inputs, held.outputs, held.limits, {}
    )
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / held.file
        onnx.save(rounding_to_nearest(load(draft.path / held.file)), str(file))
        return OrtSession(file, stand_in, None)


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


def _check_trained(options: ExportOptions) -> None:
    """Raises `UsageError` where something else than int8 is asked of a network that was trained for int8."""
    if options.precisions != ("int8",) or "tflite" in options.backends:
        raise UsageError(
            "This network was trained for int8 and brings its own scales: it cannot become "
            + ("a TFLite file, which has its own." if "tflite" in options.backends else "another precision."),
            hint="Export it with -b ort or -b trt, and -p int8 alone; make the rest from the float checkpoint.",
        )
    if options.budget is not None or options.calibration is not None:
        raise UsageError(
            "This network was trained for int8 and brings its own scales: nothing is calibrated or searched.",
            hint="Leave out --calibration and --max-shift-*.",
        )


def _engine_graph(folder: Path, precision: Precision, typing: Typing, fp32: Artifact, limits: LimitSpec) -> Graph:
    name = engine_file(precision, typing, fp32.file)
    return Graph(precision, typing, name, sha256_of(folder / name), fp32.inputs, fp32.outputs, limits)


def _calibration_set(
    graph: Path, spec: ModelSpec, host: HostSpec, options: ExportOptions, progress: Progress
) -> CalibrationSet:
    return load_calibration(
        options.calibration,
        spec,
        host,
        allow_random=options.allow_random_calibration,
        hold_out=options.images is None,
        evaluation=options.evaluation or options.images,
        judge=lambda tensors: run_graph(load(graph), tensors),
        cache=cache_folder(),
        progress=progress,
    )


def _hint(backend: str, precision: Precision, options: ExportOptions) -> str:
    """What to do about an artifact that moves keypoints too far."""
    if precision == "fp32":
        return f"If the shift is acceptable raise [limits] in model.toml; otherwise leave out -b {backend}."
    if precision == "fp16":
        return "Calibrate on more images with --calibration, or leave out -p fp16."
    if backend == "tflite" and options.budget is not None:
        return (
            "The search for the layers that int8 ruins exists for -b ort and -b trt only: leave out -b tflite, allow a "
            "larger shift, calibrate on more images with --calibration, or export -p fp16."
        )
    if options.budget is not None:
        return "Give both --max-shift-px and --max-shift-mm, allow a larger shift, or export -p fp16."
    if backend == "tflite":
        return "Calibrate on more images with --calibration, or export -p fp16."
    return (
        "Give --max-shift-px, which returns the costliest layers to float, calibrate on more images with "
        "--calibration, or export -p fp16."
    )
