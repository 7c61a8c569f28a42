"""The files of a bundle in the making: each is opened once, from its bytes, and there compared, profiled and timed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splite_deploy.bundle import Artifact, Graph, TensorSpec, Typing
from splite_deploy.bundle.report import Layer, Parity
from splite_deploy.compile.child_process import kept_log
from splite_deploy.decoders import Decoder
from splite_deploy.decoders.people import joined
from splite_deploy.errors import CompileError, ExportError, MissingDependencyError, SpliteError, UsageError
from splite_deploy.export.calibrate import Calibrated
from splite_deploy.export.failures import Failures
from splite_deploy.export.first_difference import from_graph_to_tflite
from splite_deploy.export.graph.fuse import decode_beside, in_network, tensor_specs
from splite_deploy.export.graph.walk import serialised
from splite_deploy.export.options import ExportOptions
from splite_deploy.export.reference import Explain, Reference, unexplained
from splite_deploy.export.variants import FP32, Variants, deployed
from splite_deploy.files import place_of, write_file
from splite_deploy.metrics.parity import MAX_FACTOR, Deviation, Outputs, compare, limits_of
from splite_deploy.runtime.backends import find_backend
from splite_deploy.runtime.backends.base import ModelFile
from splite_deploy.runtime.backends.ort import OrtOptions
from splite_deploy.runtime.session import Session, open_bytes, open_traced
from splite_deploy.runtime.verify import run_each
from splite_deploy.spec import LimitSpec, ModelSpec, Precision

if TYPE_CHECKING:  # its modules need LiteRT
    from splite_deploy.compile.tflite.compiler import TfliteCompiler

FP32_LABEL = "ort fp32"
"""The artifact that everything else is made from."""
FUSED_PX = 0.02
"""How far fused pre- and postprocessing may move keypoints from those of the host's, input pixels."""
TRACED_CROPS = 16
"""So many runs tell what every layer takes; reading the trace of all would take longer than the runs."""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class GraphFile:
    """An ONNX file of the bundle.

    Attributes:
        name: Its name.
        model: Its graph.
        content: Its bytes.
        inputs: Its input tensors.
        outputs: Its output tensors.
    """

    name: str
    model: ir.Model
    content: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, name: str, model: ir.Model, decoder: Decoder) -> GraphFile:
        """The file of a graph; nothing is written.

        Raises:
            ExportError: The graph is invalid.
        """
        return cls(name, model, serialised(model, name), *tensor_specs(model, decoder))

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 of the content."""
        return hashlib.sha256(self.content).hexdigest()

    def artifact(self, precision: Precision, limits: LimitSpec, backend: str = "ort") -> Artifact:
        """The file as an artifact of ONNX Runtime or of another backend that runs the same graphs."""
        return Artifact("onnx", backend, precision, self.name, self.sha256, self.inputs, self.outputs, limits, {})

    def engine_graph(self, precision: Precision, typing: Typing, limits: LimitSpec) -> Graph:
        """The file as what a TensorRT engine is built from."""
        return Graph(precision, typing, self.name, self.sha256, self.inputs, self.outputs, limits)


class GraphFiles(Mapping[str, GraphFile]):
    """The ONNX files of a bundle by their name; to take one that could not be made raises the reason.

    Args:
        made: Those that could be made.
        failed: Why the others could not.
    """

    def __init__(self, made: Mapping[str, GraphFile], failed: Mapping[str, SpliteError]) -> None:
        self._made, self._failed = made, failed

    def __getitem__(self, name: str) -> GraphFile:
        if name in self._failed:
            raise self._failed[name]
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


class TracedRun:
    """An artifact on one thread, run on the reference's crops while its backend looks at the layers.

    Attributes:
        session: Stays open until ``stack`` is closed.
        outputs: By role, N first.
        layers: What it is made of as it runs; none where its backend cannot tell.

    Args:
        content: Its file.
        artifact: What it is run as.
        reference: Whose crops it is run on.
        stack: Closes the session.
    """

    def __init__(self, content: bytes, artifact: Artifact, reference: Reference, stack: ExitStack) -> None:
        backend = find_backend(artifact.backend)
        self.layers: tuple[Layer, ...] = ()
        if backend.open_traced is None:
            self.session: Session = stack.enter_context(open_bytes(content, artifact, threads=1))
            self.outputs: Outputs = reference.run(self.session)
            return
        file = ModelFile(content, artifact.file, artifact.format, artifact)
        traced = stack.enter_context(open_traced(backend, file, threads=1))
        self.session, feed = traced, reference.feed(traced)
        parts = [run_each(traced, feed[:TRACED_CROPS], reference.spec)]
        self.layers = traced.layers()  # ends the trace
        parts += [run_each(traced, feed[TRACED_CROPS:], reference.spec)] if len(feed) > TRACED_CROPS else []
        self.outputs = joined(parts, reference.spec.decoder)


@dataclass(frozen=True)
class Measured:
    """An artifact that was compared and profiled, and is still open.

    Attributes:
        artifact: What the manifest says of it.
        session: On one CPU thread.
        deviation: How far its keypoints lie from the reference.
        layers: What it is made of as it runs.
        size_bytes: Of its file.
    """

    artifact: Artifact
    session: Session
    deviation: Deviation
    layers: tuple[Layer, ...]
    size_bytes: int


@contextmanager
def tflite_compiler(options: ExportOptions, failures: Failures) -> Iterator[TfliteCompiler | None]:
    """A process that loads the converter from now on; None where no TFLite file is requested.

    Its log is kept where a conversion fails; the failure's hint names it.

    Where other backends are requested beside it, what its environment lacks is their artifacts' failure alone.

    Raises:
        MissingDependencyError: There is no environment that converts.
        CompileError: The one that is named cannot.
    """
    if not options.makes("tflite"):
        yield None
        return
    from splite_deploy.compile.tflite.compiler import TfliteCompiler

    with kept_log("tflite") as log, ExitStack() as stack:
        try:
            compiler = stack.enter_context(TfliteCompiler(log.path))
        except (MissingDependencyError, CompileError) as err:
            made = [name for name in options.backends if find_backend(name).export == "tflite"]
            if len(made) == len(options.backends):
                raise
            failures.keep(err, *(f"{name} {precision}" for name in made for precision in options.precisions))
            compiler = None
        yield compiler
        log.keep = any(str(place_of(log.path)) in one.hint for one in failures.found)


def export_limits(precision: Precision, spec: ModelSpec, options: ExportOptions) -> LimitSpec:
    """How far a precision may move keypoints: for int8 the error budget where one was given.

    Raises:
        UsageError: Millimetres were given for a model whose depth has none.
    """
    limits = limits_of(precision, spec)
    if precision == "int8" and options.max_shift_px is not None:
        px = options.max_shift_px
        limits = replace(limits, shift_p95_px=px, shift_max_px=MAX_FACTOR * px)
    if precision == "int8" and options.max_shift_mm is not None:
        scale = spec.mm_per_unit()
        if scale is None:
            raise UsageError(
                "The model has no depth in millimetres, which this budget is for.",
                hint="Give --max-shift-px alone, or palm_mm in model.toml.",
            )
        limits = replace(limits, depth_p95=options.max_shift_mm / scale)
    return limits


def write_graphs(folder: Path, made: Variants, spec: ModelSpec, options: ExportOptions) -> GraphFiles:
    """Writes every graph as it is deployed.

    Raises:
        OutputError: A file cannot be written.
    """
    files = {}
    for name, graph in made.graphs.items():
        with made.making(name):
            model, note = deployed(name, graph, spec, options)
            files[name] = GraphFile.of(name, model, spec.decoder)
            made.notes += [note] if note else []
            (folder / name).write_bytes(files[name].content)  # a new bundle's folder vanishes where that fails
    return GraphFiles(files, made.failed)


def measure_graph(
    file: GraphFile,
    artifact: Artifact,
    plain: ir.Model,
    simplified: TracedRun,
    reference: Reference,
    options: ExportOptions,
    hint: str,
    stack: ExitStack,
    explain: Explain = unexplained,
) -> Measured:
    """Compares and profiles an artifact of ONNX Runtime, or of another backend that runs the same graphs.

    Args:
        file: As it is deployed.
        artifact: What it is run as.
        plain: Its graph without fused pre- and postprocessing.
        simplified: The fp32 graph without them, which has run already.
        reference: What is compared with.
        options: The requested options.
        hint: What to do where it moves keypoints too far.
        stack: Closes the session.
        explain: Says of ``plain`` where it goes wrong.

    Raises:
        ParityError: It lies beyond its limits.
        ExportError: Fused pre- or postprocessing computes something else than the host's.
    """
    limits = artifact.limits
    if not options.fuses:
        has_run = artifact.label == FP32_LABEL
        run = simplified if has_run else TracedRun(file.content, artifact, reference, stack)
        stage = "simplified" if has_run else artifact.label
        deviation = reference.compare(stage, run.outputs, limits, hint, explain)
    else:
        outputs = simplified.outputs if file.name == FP32 else _run_once(plain, reference)
        before = reference.compare(artifact.label, outputs, limits, hint, explain)
        run = TracedRun(file.content, artifact, reference, stack)
        _check_fused(artifact.label, outputs, run.outputs, reference.spec)
        after = reference.compare(artifact.label, run.outputs, limits, hint)
        deviation = Deviation(after.parity, before.peak_switches)  # of the heatmaps that it may no longer show
    reference.check_session(artifact.label, run.session, limits)
    return Measured(artifact, run.session, deviation, run.layers, len(file.content))


def _check_fused(label: str, by_host: Outputs, fused: Outputs, spec: ModelSpec) -> None:
    """Compares what a file computes with fused pre- and postprocessing with what the host does with its network.

    Raises:
        ExportError: They differ by more than `FUSED_PX`.
    """
    by_host_px = compare(label, by_host, fused, spec, "").deviation_px.max
    if not by_host_px <= FUSED_PX:
        raise ExportError(
            f"With fused pre- and postprocessing {label} moves keypoints by {by_host_px:.3g} px; {FUSED_PX:g} px are "
            "allowed.",
            hint="Leave out --fuse-input and --fuse-decode, and report this with the model.",
        )


def compare_graph(
    stage: str,
    model: ir.Model,
    reference: Reference,
    limits: LimitSpec,
    hint: str,
    explain: Explain = unexplained,
) -> Parity:
    """Compares a graph that is no artifact, in ONNX Runtime and without optimising it.

    What engines are built from runs here too: the arithmetic is that of TensorRT but for rounding, while optimised
    graphs add int8 products in 16 bits on some CPUs.

    Raises:
        ParityError: It lies beyond its limits.
    """
    with _opened(model, reference.spec, as_written=True) as session:
        parity = reference.compare(stage, reference.run(session), limits, hint, explain).parity
        reference.check_session(stage, session, limits)
    return parity


def begin_tflite(
    compiler: TfliteCompiler,
    fp32: GraphFile,
    spec: ModelSpec,
    calibration: NDArray[np.uint8] | None,
    options: ExportOptions,
) -> None:
    """Starts the conversion of the simplified fp32 graph to TFLite files; see `TfliteCompiler.begin`."""
    graph, beside = fp32.content, dict[str, str]()
    if options.fuse_decode:
        graph = serialised(decode_beside(fp32.model, spec), fp32.name)
        beside = {role: in_network(role) for role in spec.decoder.roles} | {head: head for head in spec.heads}
    recipe = options.int8_recipe
    compiler.begin(graph, spec, options.precisions, calibration=calibration, recipe=recipe, beside=beside)


def measure_tflite(
    file: Path,
    artifact: Artifact,
    original: ir.Model,
    compiler: TfliteCompiler,
    reference: Reference,
    options: ExportOptions,
    hint: str,
    stack: ExitStack,
) -> Measured:
    """Compares a TFLite file and lists its layers; puts pre- and postprocessing into it where that is requested.

    Args:
        file: The network alone.
        artifact: What it is run as.
        original: The graph that it was made from.
        compiler: What made it.
        reference: What is compared with.
        options: The requested options.
        hint: What to do where it moves keypoints too far.
        stack: Closes the session.

    Raises:
        ParityError: It lies beyond its limits, or mixes several crops at once.
        BackendError: It does not run several at once, where that is requested.
        ExportError: Fused pre- or postprocessing computes something else than the host's.
        MissingDependencyError: LiteRT is not installed.
        OutputError: The file cannot be written.
    """
    content = alone = file.read_bytes()
    explain = from_graph_to_tflite(original, content, artifact.precision)
    switches, before = 0, None
    if options.fuses:
        with open_bytes(content, artifact, threads=1) as session:
            before = reference.run(session)
        switches = reference.compare(artifact.label, before, artifact.limits, hint, explain).peak_switches
        content, artifact = compiler.fused(content, artifact, normalises=options.fuse_input)
    if options.dynamic_batch:
        content, artifact = open_batch(content, artifact)
    run = TracedRun(content, artifact, reference, stack)
    if before is not None:
        _check_fused(artifact.label, before, run.outputs, reference.spec)
    deviation = reference.compare(artifact.label, run.outputs, artifact.limits, hint, explain)
    if before is not None:
        deviation = Deviation(deviation.parity, switches)  # of the heatmaps that it may no longer show
    reference.check_session(artifact.label, run.session, artifact.limits)
    if content is not alone:
        write_file(file, content)
    return Measured(artifact, run.session, deviation, run.layers, len(content))


def measure_ncnn(
    fp32: GraphFile,
    folder: Path,
    backend: str,
    precision: Precision,
    limits: LimitSpec,
    reference: Reference,
    options: ExportOptions,
    hint: str,
    stack: ExitStack,
) -> Measured:
    """Makes a network for ncnn of the fp32 graph, compares it and lists its layers.

    Args:
        fp32: The graph.
        folder: Where its file goes.
        backend: What it is made for.
        precision: Which one.
        limits: How far it may move keypoints.
        reference: What is compared with.
        options: The requested options.
        hint: What to do where it moves keypoints too far.
        stack: Closes the session.

    Raises:
        CompileError: ncnn has no such operators, takes no such inputs, or has no such precision.
        ParityError: It lies beyond its limits.
        MissingDependencyError: ncnn or pnnx is not installed.
        OutputError: The file cannot be written.
    """
    from splite_deploy.compile.ncnn import to_ncnn

    label = f"{backend} {precision}"
    if precision == "int8":
        raise CompileError(
            f"{label} cannot be made: ncnn quantises with programs of its own, which no package brings.",
            hint="Leave out -b ncnn or -p int8, or export ncnn's fp32 and fp16 into a bundle of their own.",
        )
    if options.fuses:
        raise CompileError(
            f"{label} cannot be made with fused pre- or postprocessing: ncnn takes float32, and lacks operators.",
            hint="Leave out --fuse-input and --fuse-decode, or export ncnn's networks into a bundle of their own.",
        )
    content = to_ncnn(fp32.content, fp32.inputs, fp32.outputs, half=precision == "fp16", label=label)
    name, digest = f"model.{precision}.ncnn.zip", hashlib.sha256(content).hexdigest()
    artifact = Artifact("ncnn", backend, precision, name, digest, fp32.inputs, fp32.outputs, limits, {})
    run = TracedRun(content, artifact, reference, stack)
    deviation = reference.compare(label, run.outputs, limits, hint)
    reference.check_session(label, run.session, limits)
    write_file(folder / name, content)
    return Measured(artifact, run.session, deviation, run.layers, len(content))


def open_batch(content: bytes, artifact: Artifact) -> tuple[bytes, Artifact]:
    """A TFLite file that takes any number of crops at once, and what is to be said of it."""
    from splite_deploy.compile.tflite.batch import with_open_batch

    def opened(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(one, shape=(None, *one.shape[1:])) for one in tensors)

    made = with_open_batch(content)
    ends = {"inputs": opened(artifact.inputs), "outputs": opened(artifact.outputs)}
    return made, replace(artifact, sha256=hashlib.sha256(made).hexdigest(), **ends)  # type: ignore[arg-type]


def deviation_hint(backend: str, precision: Precision, likely: str = "") -> str:
    """What to do about an artifact that moves keypoints too far.

    Args:
        backend: Its backend.
        precision: Its precision.
        likely: What int8 most likely lacks; see `likely_cause`.
    """
    if precision == "fp32":
        return f"If the deviation is acceptable raise [limits] in model.toml; otherwise leave out -b {backend}."
    if precision == "fp16":
        return (
            "Numbers of 11 bits lose so much in this network: leave out -p fp16, or raise [limits] in model.toml if "
            "the deviation is acceptable."
        )
    first = f"{likely} Or" if likely else "Calibrate on more images with --calibration,"
    return f"{first} allow a larger shift with --max-shift-px (--max-shift-mm for the depth), or export -p fp16."


def likely_cause(calibration: Calibrated | None) -> str:
    """What int8 most likely lacks, as a sentence; empty where it was calibrated on photographs, or not at all."""
    if calibration is None or calibration.kind not in ("rendered images", "random noise"):
        return ""
    what = "random noise" if calibration.kind == "random noise" else "rendered pictures"
    return f"It was calibrated on {what}: name photographs of what the network will see with --calibration."


def _run_once(model: ir.Model, reference: Reference) -> Outputs:
    """Outputs of a graph that is not kept, by role, N first."""
    with _opened(model, reference.spec) as session:
        return reference.run(session)


def _opened(model: ir.Model, spec: ModelSpec, *, as_written: bool = False) -> Session:
    name = "graph.onnx"
    artifact = Artifact("onnx", "ort", "fp32", name, "", *tensor_specs(model, spec.decoder), spec.limits, {})
    return open_bytes(serialised(model, name), artifact, threads=1, options=OrtOptions(reference=as_written))
