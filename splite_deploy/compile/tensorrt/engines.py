"""Graph to TensorRT engine, on the device that will run it. `child` builds it in a process of its own."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from splite_deploy.bundle import Artifact, Bundle, Graph, TensorSpec
from splite_deploy.bundle.add import Addition, add_artifacts
from splite_deploy.bundle.report import Layer
from splite_deploy.compile.child_process import Child, ChildFailed, kept_log, module_command
from splite_deploy.compile.tensorrt.best_of import choose_build, try_builds
from splite_deploy.compile.tensorrt.calibration import float_graph, write_inputs
from splite_deploy.compile.tensorrt.errors import MEMORY_HINT
from splite_deploy.compile.tensorrt.inspect_engine import check_achieved, read_layers
from splite_deploy.compile.tensorrt.job import ENGINE, INSPECTED, Built, CalibrationInputs, Calibrator, Job, read_error
from splite_deploy.device.cuda_driver import gpu
from splite_deploy.errors import CompileError, UsageError
from splite_deploy.files import place_of, real_path, sha256_of, work_folder, writing
from splite_deploy.runtime.backends.onnx_file import check_onnx
from splite_deploy.runtime.session import open_bytes
from splite_deploy.spec import Precision
from splite_deploy.text import command

TIMEOUT_S = 4 * 3600.0
Progress = Callable[[str, float], None]
"""Called with the step and the share of it that is done, 0 to 1; negative where that is unknown."""


@dataclass(frozen=True)
class EngineOptions:
    """How engines are built.

    Attributes:
        workspace_mib: Memory for kernels beside weights and activations, MiB; None leaves it to TensorRT.
        low_memory: Builds with as little memory as possible, which takes longer and may find slower kernels.
        optimization_level: 0 (fast build) to 5 (fast engine); None leaves it to TensorRT. From 8.6 on.
        batch: (min, opt, max), for a graph with a dynamic batch.
        timing_cache: File that stores timings, ``off``, or None for one in the user's cache folder.
        best_of: Number of engines to build; the fastest within its limits is kept. No build reuses timings.
        dla: DLA core of a Jetson that runs the layers it supports; None runs all on the GPU.
        timeout_s: After this many seconds a build is stopped.
        calibration: Images (a folder, a ``labels.json``, or a folder that holds one) on which TensorRT up to version 10
            chooses the scales of int8 itself, for the float graph; None uses the scales of the int8 graph.
        calibrator: How it chooses them: ``entropy`` (or None), which may clip rare peaks, or ``minmax``, which covers
            the range that the images show.

    Raises:
        UsageError: A value is out of range, or there is a calibrator without images.
    """

    workspace_mib: int | None = None
    low_memory: bool = False
    optimization_level: int | None = None
    batch: tuple[int, int, int] | None = None
    timing_cache: str | None = None
    best_of: int = 1
    dla: int | None = None
    timeout_s: float = TIMEOUT_S
    calibration: Path | None = None
    calibrator: Calibrator | None = None

    def __post_init__(self) -> None:
        if self.batch is not None and not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2]:
            raise UsageError(f"The batch is {self.batch}.", hint="Give MIN,OPT,MAX in rising order, from 1: 1,1,8.")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError(f"A workspace of {self.workspace_mib} MiB is too small.", hint="Give 1 MiB or more.")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise UsageError(f"There is no optimization level {self.optimization_level}.", hint="Give 0 to 5.")
        if self.best_of < 1:
            raise UsageError(f"best_of is {self.best_of}, which is not a number of builds.", hint="Give 1 or more.")
        if self.calibrator is not None and self.calibration is None:
            raise UsageError(
                f"The {self.calibrator} calibrator has no images to calibrate on.",
                hint="Name them with --calibration (a folder or a labels.json), or leave --calibrator out to use the "
                "scales of the int8 graph.",
            )


@dataclass(frozen=True)
class _Engine:
    folder: Path
    artifact: Artifact
    layers: tuple[Layer, ...]


def compile_trt(
    bundle: Bundle,
    precisions: Sequence[Precision],
    options: EngineOptions | None = None,
    progress: Progress = lambda step, share: None,
) -> list[Artifact]:
    """Builds engines of a bundle's graphs and adds them to the bundle, all of them or none.

    The installed TensorRT decides the typing mode: versions 8.5 to 10 get the weakly typed graph and flags, later ones
    and TensorRT-RTX the strongly typed graph. Where images are given, TensorRT calibrates int8 itself, which only the
    weakly typed versions can. The types in which an engine computes are read back and compared with what was requested;
    its layers go to the report. Without a GPU only TensorRT-RTX builds, and nothing can be read back: the types are
    then those of the graph. `splite_deploy.runtime.verify.verify` measures how far the keypoints move.

    Args:
        bundle: With the graphs that ``export -b trt`` makes.
        precisions: Which engines to build.
        options: How.
        progress: See `Progress`.

    Returns:
        The artifacts, in the order of the precisions, as they stand in the bundle.

    Raises:
        UsageError: An option or a precision is not available.
        MissingDependencyError: TensorRT is not installed.
        CalibrationError: There are too few images.
        CompileError: An engine could not be built, or is not what was requested.
        ParityError: No build is within its limits.
        OutputError: The bundle cannot be written to.
    """
    options = options or EngineOptions()
    if not precisions or len(set(precisions)) != len(precisions):
        raise UsageError(f"The precisions are {list(precisions)}.", hint="Name each precision once, and at least one.")
    if options.calibration is not None and "int8" not in precisions:
        raise UsageError(
            f"Calibration is for int8; the precisions are: {', '.join(precisions)}.",
            hint="Add -p int8, or leave --calibrator and --calibration out.",
        )
    graphs = {precision: _graphs(bundle, precision, options) for precision in precisions}
    if options.best_of > 1 and gpu() is None:
        raise UsageError("Comparing builds means running them, which needs a GPU.", hint="Leave --best-of out.")
    with work_folder("engines") as work:
        inputs = None
        if options.calibration is not None:
            place, kind = work, options.calibrator or "entropy"
            inputs = write_inputs(bundle, graphs["int8"][0], options.calibration, kind, place, progress)
        engines = [
            _best(bundle, graphs[name], options, inputs if name == "int8" else None, work, progress)
            for name in precisions
        ]
        made = add_artifacts(bundle, [Addition(e.artifact, e.folder / e.artifact.file, e.layers) for e in engines])
    return [made.find("trt", precision) for precision in precisions]


def _graphs(bundle: Bundle, precision: Precision, options: EngineOptions) -> list[Graph]:
    if precision == "int8" and options.calibration is not None:
        return [float_graph(bundle)]
    found = [graph for graph in bundle.manifest.graphs if graph.precision == precision]
    if not found:
        available = ", ".join(dict.fromkeys(graph.precision for graph in bundle.manifest.graphs)) or "none"
        raise UsageError(
            f"The bundle {bundle.path} holds no graph for {precision} engines.",
            hint=f"Export it with: -b trt -p {precision}; where that failed, this says why: "
            f"{command('inspect', bundle.path)}. It holds graphs for: {available}.",
        )
    return found


def _best(
    bundle: Bundle,
    graphs: Sequence[Graph],
    options: EngineOptions,
    inputs: CalibrationInputs | None,
    work: Path,
    progress: Progress,
) -> _Engine:
    """The engine of one precision."""
    precision = graphs[0].precision
    if options.best_of == 1:
        return _build(bundle, graphs, options, inputs, work / precision, progress)
    engines = []
    for number in range(1, options.best_of + 1):

        def tell(step: str, share: float, number: int = number) -> None:
            progress(f"build {number} of {options.best_of}: {step}", share)

        untimed = replace(options, timing_cache="off")  # with earlier timings it would choose the same kernels
        engines.append(_build(bundle, graphs, untimed, inputs, work / f"{precision}-{number}", tell))
    progress("comparing the builds", -1)
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(open_bytes((one.folder / one.artifact.file).read_bytes(), one.artifact))
            for one in engines
        ]
        trials = try_builds(sessions, bundle, engines[0].artifact)
    best, words = choose_build(trials, engines[0].artifact.file)
    artifact = engines[best].artifact
    return replace(engines[best], artifact=replace(artifact, target={**artifact.target, "best_of": words}))


def _build(
    bundle: Bundle,
    graphs: Sequence[Graph],
    options: EngineOptions,
    inputs: CalibrationInputs | None,
    folder: Path,
    progress: Progress,
) -> _Engine:
    """Builds one engine in a child process, and checks it."""
    folder.mkdir()
    precision = graphs[0].precision
    by_typing = {graph.typing: graph for graph in graphs}
    place = folder / "graphs"
    place.mkdir()
    for graph in graphs:  # what was checked is what TensorRT reads, whoever else writes to the bundle
        try:
            content = bundle.read(graph)
        except MemoryError as err:
            raise CompileError(
                f"There was not enough memory to build the {precision} engine.", hint=MEMORY_HINT
            ) from err
        check_onnx(content, graph.file)
        with writing(place):
            (place / graph.file).write_bytes(content)
    job = Job(
        precision=precision,
        graphs={typing: str((place / graph.file).resolve()) for typing, graph in by_typing.items()},
        batch=options.batch,
        workspace_mib=options.workspace_mib,
        low_memory=options.low_memory,
        optimization_level=options.optimization_level,
        dla=options.dla,
        timing_cache=_absolute(options.timing_cache),
        calibration=inputs,
    )
    job.write(folder)
    file = f"model.{precision}.engine"
    begun = time.perf_counter()
    progress(f"{precision}: starting TensorRT", -1)
    with kept_log("trt") as log:
        _run(folder, log.path, options, file, lambda step, share: progress(f"{precision}: {step}", share))
    build_s = time.perf_counter() - begun
    (folder / ENGINE).rename(folder / file)
    built = Built.read(folder)
    layers: list[Layer] = []
    if built.inspected:
        found = read_layers((folder / INSPECTED).read_text(encoding="utf-8"))
        check_achieved(found, built.requested, precision, built.typing, file, calibrated=inputs is not None)
        layers = [entry.layer for entry in found]
    artifact = _artifact(by_typing[built.typing], folder / file, built, build_s, options)
    return _Engine(folder, artifact, tuple(layers))


def _artifact(graph: Graph, path: Path, built: Built, build_s: float, options: EngineOptions) -> Artifact:
    target = {**built.target, "build_s": f"{build_s:.1f}"}
    for name in ("workspace_mib", "optimization_level", "dla"):
        if (value := getattr(options, name)) is not None:
            target[name] = str(value)
    if options.low_memory:
        target["low_memory"] = "yes"
    return Artifact(
        format="engine",
        backend="trt",
        precision=graph.precision,
        file=path.name,
        sha256=sha256_of(path),
        inputs=_with_batch(graph.inputs, options.batch),
        outputs=_with_batch(graph.outputs, options.batch),
        limits=graph.limits,
        target=target,
    )


def _with_batch(specs: Sequence[TensorSpec], batch: tuple[int, int, int] | None) -> tuple[TensorSpec, ...]:
    """Tensors of the engine: a dynamic batch whose range is one number is fixed."""
    if batch is None or batch[0] != batch[2]:
        return tuple(specs)
    return tuple(replace(spec, shape=(batch[0], *spec.shape[1:])) for spec in specs)


def _absolute(timing_cache: str | None) -> str | None:
    return str(real_path(Path(timing_cache))) if timing_cache not in (None, "off") else timing_cache


def _run(folder: Path, log: Path, options: EngineOptions, file: str, progress: Progress) -> None:
    """Runs the child; raises `SpliteError` however it fails."""
    environment = {"TMPDIR": str(folder), **({"CUDA_MODULE_LOADING": "LAZY"} if options.low_memory else {})}
    command = module_command("splite_deploy.compile.tensorrt.child")
    with Child(command, folder, log=log, environment=environment) as child:

        def tell(line: str) -> None:
            share, _, step = line.partition(" ")
            progress(step, float(share))

        try:
            child.finish(timeout_s=options.timeout_s, progress=tell)
        except ChildFailed as err:
            expected = read_error(folder)
            if expected is not None:
                raise type(expected)(expected.message, hint=_with_log(expected.hint, log, expected)) from err
            raise _ended(file, err, log) from err


def _with_log(hint: str, log: Path, err: Exception) -> str:
    return f"{hint} TensorRT's log is {place_of(log)}." if isinstance(err, CompileError) else hint


def _ended(file: str, err: ChildFailed, log: Path) -> CompileError:
    """The error of a build that ended without leaving one."""
    if err.status == -signal.SIGKILL:
        return CompileError(
            f"The build of {file} was ended by SIGKILL, which the system sends where memory runs out.",
            hint=f"{MEMORY_HINT} TensorRT's log is {place_of(log)}.",
        )
    if err.status < 0:
        message = err.message.replace("The conversion", f"The build of {file}")
        return CompileError(
            f"{message[:-1]}, which is a crash of TensorRT.",
            hint=f"Try another --optimization-level or --low-memory. TensorRT's log is {place_of(log)}.",
        )
    return CompileError(err.message.replace("The conversion", f"The build of {file}"), hint=err.hint)
