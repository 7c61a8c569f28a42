"""Graph to engine, in a process of its own.

The only module that imports TensorRT to build with it; for a calibrator it also loads a backend for GPU memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from splite_deploy.compile.tensorrt.calibrator import batch_profile, calibrated, check_calibrator, keep_interface_float
from splite_deploy.compile.tensorrt.errors import build_error, load_error, parser_error
from splite_deploy.compile.tensorrt.job import ENGINE, INSPECTED, Built, Job, RequestedType
from splite_deploy.compile.tensorrt.progress import progress_monitor
from splite_deploy.compile.tensorrt.target import facts_of
from splite_deploy.compile.tensorrt.timing_cache import keep_timings, timing_file, use_timings
from splite_deploy.compile.tensorrt.typing_mode import TypingMode, typing_mode_of
from splite_deploy.device.cuda_driver import Gpu, gpu
from splite_deploy.errors import CompileError, UsageError
from splite_deploy.runtime.backends.trt.module import load_tensorrt
from splite_deploy.text import command

LOW_MEMORY_WORKSPACE_MIB = 128
_WEIGHTED = ("CONVOLUTION", "DECONVOLUTION", "FULLY_CONNECTED")
_LOGGED = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO")

Tell = Callable[[str, float], None]
"""Called with the step and the share of the build that is done, 0 to 1; negative where TensorRT does not say."""


def build(job: Job, folder: Path, tell: Tell) -> Built:
    """Builds one engine and writes it to the folder, with the inspector's description of it where there is a GPU.

    Args:
        job: What to build.
        folder: Where the files go.
        tell: Progress.

    Raises:
        CompileError: There is no GPU to build on, or TensorRT refused.
        UsageError: This graph, device or version does not support an option.
        SpliteError: TensorRT is not installed, or broken.
    """
    device = gpu()  # before TensorRT is loaded, which may crash without one
    tensorrt = load_tensorrt()
    if device is None and tensorrt.flavour != "rtx":
        raise CompileError(
            f"{tensorrt.label} builds engines on the GPU that will run them, and the CUDA driver offers none here.",
            hint="Compile on the device; in a container, start it with 'docker run --runtime nvidia'.",
        )
    trt, mode = tensorrt.module, typing_mode_of(tensorrt.module, tensorrt.flavour)
    if job.calibration is not None:
        check_calibrator(job.calibration.calibrator, mode, tensorrt.label)
    if mode.typing not in job.graphs:
        raise CompileError(
            f"{tensorrt.label} needs the {mode.typing}ly typed {job.precision} graph, which the bundle does not hold.",
            hint="The bundle's report.json says whether its export failed, and why. If not, export it again: "
            f"{command('export', 'CHECKPOINT', '-b', 'trt', '-p', job.precision, '-o', 'NAME.splite')}.",
        )
    if job.timing_cache not in (None, "off") and not mode.timing_cache:
        raise UsageError(f"{tensorrt.label} has no use for --timing-cache: it times no kernels.", hint="Leave it out.")
    graph = Path(job.graphs[mode.typing])
    facts = facts_of(tensorrt, device)
    logger = _logger(trt)
    builder = _made(trt.Builder, logger)
    _check_device(builder, job, device, tensorrt.label)
    network = builder.create_network(_bits(trt.NetworkDefinitionCreationFlag, mode.network_flags))
    tell("reading the graph", -1)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph.read_bytes()):
        raise parser_error(graph.name, parser, logger.errors)
    requested = _requested(network, job, mode)
    if job.precision != "fp32" and not requested:
        raise CompileError(
            f"{job.precision} was requested, but no layer with weights of {graph.name} computes in it.",
            hint="Export returned its layers to float, so that keypoints keep their limits; the bundle's report.json "
            "lists them: compile another precision, or export with a larger --max-shift-px.",
        )
    config = builder.create_builder_config()
    flags = _configure(trt, builder, config, job, mode, tensorrt.label)
    batch = _set_batch(builder, network, config, job)
    if job.calibration is not None:
        keep_interface_float(trt, network, requested)
    timings = timing_file(job.timing_cache, facts) if mode.timing_cache else None
    if timings is not None:
        use_timings(config, timings, named=job.timing_cache is not None)
    if mode.progress:
        config.progress_monitor = progress_monitor(trt, tell)
    else:
        tell("building the engine", -1)
    logger.errors.clear()
    plan, calibration = _plan(trt, builder, network, config, job, folder)
    if plan is None:
        raise build_error(graph.name, logger.errors, logger.skipped)
    engine = bytes(plan)
    (folder / ENGINE).write_bytes(engine)
    if timings is not None:
        keep_timings(config, timings)
    if device is not None:
        tell("reading the engine back", 1)
        (folder / INSPECTED).write_text(_inspect(trt, logger, engine, job.batch), encoding="utf-8")
    target = {**facts, "typing": mode.typing, "flags": ", ".join(flags) or "none", "batch": batch, **calibration}
    return Built(mode.typing, requested, device is not None, target)


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Writes TensorRT's messages to the log of this process, and remembers the errors and failed kernels."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.skipped: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity.name in _LOGGED:
                print(f"TensorRT {severity.name}: {message}", file=sys.stderr, flush=True)
            if severity.name in _LOGGED[:2]:
                self.errors.append(message)
            elif "due to exception" in message:
                self.skipped.append(message)

    return Logger()


def _made(factory: Callable[[Any], Any], logger: Any) -> Any:
    """The object that a factory of TensorRT makes; where it makes none, pybind11 raises TypeError."""
    try:
        return factory(logger)
    except TypeError as err:
        reason = "; ".join(logger.errors) or str(err)
        raise CompileError(
            f"TensorRT does not start: {reason[:300]}",
            hint="Its version has to match the driver: see 'splite-deploy doctor'.",
        ) from err


def _bits(flags: Any, names: tuple[str, ...]) -> int:
    return sum(1 << int(getattr(flags, name)) for name in names)  # numbers differ between versions


def _check_device(builder: Any, job: Job, device: Gpu | None, label: str) -> None:
    """Raises `UsageError` where the device does not support the job."""
    fast = {"fp16": "platform_has_fast_fp16", "int8": "platform_has_fast_int8"}.get(job.precision)
    if fast is not None and device is not None and not getattr(builder, fast, True):
        raise UsageError(
            f"{device.name} ({device.sm}) has no fast {job.precision}.", hint="Compile fp32, or fp16 instead of int8."
        )
    if job.dla is not None and not job.dla < getattr(builder, "num_DLA_cores", 0):
        raise UsageError(
            f"{label} offers no DLA core {job.dla} here.", hint="Leave --dla out; Xavier and Orin NX or AGX have DLA."
        )
    if job.dla is not None and job.precision == "fp32":
        raise UsageError("A DLA computes in fp16 or int8.", hint="Name another precision, or leave --dla out.")


def _requested(network: Any, job: Job, mode: TypingMode) -> dict[str, RequestedType]:
    """Layers with weights that are to compute in float16 or int8, as the network says; see `Built.requested`."""
    precision = job.precision
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    weighted = [layer for layer in layers if layer.type.name in _WEIGHTED]
    if job.calibration is not None:
        return {layer.name: "int8" for layer in weighted}
    if precision == "int8":
        dequantised = {layer.get_output(0).name for layer in layers if layer.type.name == "DEQUANTIZE"}
        return {layer.name: "int8" for layer in weighted if layer.get_input(0).name in dequantised}
    if precision == "fp16":
        strong = mode.typing == "strong"
        return {layer.name: "float16" for layer in weighted if not strong or layer.get_input(0).dtype.name == "HALF"}
    return {}


def _configure(trt: Any, builder: Any, config: Any, job: Job, mode: TypingMode, label: str) -> tuple[str, ...]:
    """Sets all options; returns the names of the builder flags that are set."""
    flags = mode.builder_flags(job.precision, job.dla is not None, job.calibration is not None)
    for name in flags:
        config.set_flag(getattr(trt.BuilderFlag, name))
    if job.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # it has the 10 bits of mantissa of float16
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the inspector; the engine is no slower
    workspace_mib = job.workspace_mib or (LOW_MEMORY_WORKSPACE_MIB if job.low_memory else None)
    if workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    if job.low_memory:
        for owner, name, least in ((builder, "max_threads", 1), (config, "max_aux_streams", 0)):
            if hasattr(owner, name):
                setattr(owner, name, least)
        if mode.external_tactics:
            config.set_tactic_sources(config.get_tactic_sources() & ~_bits(trt.TacticSource, mode.external_tactics))
        if mode.internal_tactics:
            config.set_preview_feature(getattr(trt.PreviewFeature, mode.internal_tactics), True)
    if job.optimization_level is not None:
        if not mode.optimization_levels:
            raise UsageError(
                f"{label} has no optimization levels; 8.6 and later have.",
                hint="Leave --optimization-level out; kept timings (--timing-cache) make the next build shorter.",
            )
        config.builder_optimization_level = job.optimization_level
    if job.dla is not None:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = job.dla
    return flags


def _set_batch(builder: Any, network: Any, config: Any, job: Job) -> str:
    """Gives a dynamic batch its range; returns it as ``min,opt,max``."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    dynamic = [tensor for tensor in inputs if tensor.shape[0] == -1]
    if not dynamic:
        if job.batch is not None:
            raise UsageError(
                f"The graph has a fixed batch of {inputs[0].shape[0]}.",
                hint="Leave --batch out, or export with --dynamic-batch.",
            )
        return ",".join([str(inputs[0].shape[0])] * 3)
    if job.batch is None:
        raise UsageError(
            "The graph has a dynamic batch, and an engine has to know its range.",
            hint="Give it as --batch MIN,OPT,MAX; it is fastest at OPT. For example: --batch 1,1,8.",
        )
    config.add_optimization_profile(batch_profile(builder, dynamic, job.batch))
    return ",".join(map(str, job.batch))


def _plan(trt: Any, builder: Any, network: Any, config: Any, job: Job, folder: Path) -> tuple[Any, Mapping[str, str]]:
    """The engine, None where the builder fails, and facts about its calibration."""
    if job.calibration is None:
        return builder.build_serialized_network(network, config), {}
    with calibrated(trt, builder, network, config, job.calibration, job.batch) as calibrator:
        plan = builder.build_serialized_network(network, config)
    return plan, {} if plan is None else calibrator.facts(folder)


def _inspect(trt: Any, logger: Any, plan: bytes, batch: tuple[int, int, int] | None) -> str:
    """JSON of the engine's layers, as its runtime executes them at the optimal batch."""
    engine = _made(trt.Runtime, logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise load_error(logger.errors)
    inspector = engine.create_engine_inspector()
    if batch is not None:  # the formats of dynamic shapes belong to a context
        context = engine.create_execution_context()
        for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors)):
            if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                context.set_input_shape(name, (batch[1], *tuple(engine.get_tensor_shape(name))[1:]))
        inspector.execution_context = context
    text: str = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return text
