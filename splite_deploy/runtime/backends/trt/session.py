"""TensorRT on an NVIDIA GPU: one path for TensorRT 8.5 to 11 and for TensorRT-RTX."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.bundle import Artifact, Bundle, TensorSpec
from splite_deploy.device import cuda_driver
from splite_deploy.errors import BackendError, UsageError
from splite_deploy.runtime.backends.trt.compatibility import (
    EngineFile,
    check_any_gpu,
    check_gpu,
    check_software,
    read_engine,
)
from splite_deploy.runtime.backends.trt.io_binding import NOT_TAKEN_HINT, Port, open_ports, read_ends
from splite_deploy.runtime.backends.trt.module import TensorRt, collecting_logger, load_tensorrt, logged_errors
from splite_deploy.runtime.cuda.memory import Cuda, Handle, open_cuda
from splite_deploy.runtime.session import DEFAULT_GPU, BaseSession, Ends, Feed, GpuOptions, ModelFile

Array = NDArray[np.float32]

STAGES = ("h2d", "compute", "d2h")


class TrtSession(BaseSession):
    """A loaded engine with its buffers, made once for the largest batch, on a stream of its own.

    The first run with a batch size queues its work piece by piece, which also lets TensorRT prepare; from the second in
    a row on it is one CUDA graph that is replayed. Nothing is allocated per run but the arrays that are handed out.

    Sessions in several threads do not touch each other; one session may be used by several threads in turn.

    Args:
        runtime: What the engine was deserialised by, which has to outlive it.
        engine: The engine.
        trt: Its module.
        cuda: Who handles memory; closed with the session.
        artifact: Its description.
        options: How it works.
        file: Where it comes from, for messages.

    Raises:
        BackendError: The engine is not what the manifest describes, or there is not enough memory.
        UsageError: A CUDA graph is asked for, and the memory backend knows none.
    """

    def __init__(
        self,
        runtime: Any,
        engine: Any,
        trt: TensorRt,
        cuda: Cuda,
        artifact: Artifact | Ends,
        options: GpuOptions,
        file: EngineFile,
    ) -> None:
        super().__init__(
            replace(
                artifact,
                inputs=tuple(_at_the_seam(spec) for spec in artifact.inputs),
                outputs=tuple(_at_the_seam(spec) for spec in artifact.outputs),
            )
        )
        if options.cuda_graph and not cuda.can_capture:
            raise UsageError(
                f"The memory backend {cuda.name} knows no CUDA graphs.",
                hint="Use cuda-python: pip install cuda-python.",
            )
        self._trt, self._cuda = trt, cuda
        self._file = file
        self._cuda_graph = options.cuda_graph if cuda.can_capture else False
        self._graph: Handle | None = None
        self._batch = 0
        self._runtime, self._engine = runtime, engine
        self._context: Any = None
        with cuda.use(), ExitStack() as stack:
            self._stream = cuda.create_stream()
            stack.callback(cuda.destroy_stream, self._stream)
            self._ports = open_ports(engine, artifact, cuda, stack, mapped=options.mapped_memory, file=file)
            batched = [port for port in self._ports if port.is_input and port.dynamic]
            self._batched = tuple(port.spec.name for port in batched)
            self._smallest_batch = max((port.smallest_batch for port in batched), default=1)
            self._largest_batch = min((port.largest_batch for port in batched), default=1)
            self._events: list[Handle] = []
            for _ in range(len(STAGES) + 1 if options.stage_timing else 0):
                self._events.append(cuda.create_event())
                stack.callback(cuda.destroy_event, self._events[-1])
            stack.callback(self._drop_engine)
            self._context = engine.create_execution_context()
            self._check(self._context is not None, "create_execution_context")
            stack.callback(self._drop_graph)
            for port in self._ports:
                self._check(self._context.set_tensor_address(port.spec.name, port.pointer), "set_tensor_address")
            self._resources = stack.pop_all()

    @classmethod
    def open(cls, bundle: Bundle, artifact: Artifact, threads: int | None, gpu: GpuOptions) -> TrtSession:
        """Loads an engine after all that can be checked without TensorRT has been."""
        file = EngineFile.of(bundle.path, artifact)
        data = read_engine(file, artifact.sha256)
        trt = load_tensorrt(artifact.target.get("flavour"))
        check_software(bundle, artifact, trt.flavour, trt.version)
        check_gpu(bundle, artifact, cuda_driver.gpu())
        return cls._load(data, trt, artifact, gpu, file)

    @classmethod
    def open_file(cls, file: Path, threads: int | None, gpu: GpuOptions = DEFAULT_GPU) -> TrtSession:
        """Loads an engine without a bundle, for which version, platform and GPU TensorRT has to find out itself."""
        source = EngineFile(file)
        data = read_engine(source, None)
        trt = load_tensorrt()
        check_any_gpu(file.name, cuda_driver.gpu(), "Without a GPU, time the .onnx that it was built of.")
        return cls._load(data, trt, None, gpu, source)

    @classmethod
    def open_content(cls, file: ModelFile, threads: int | None, gpu: GpuOptions = DEFAULT_GPU) -> TrtSession:
        """Loads an engine from memory, which was built here just now."""
        source = EngineFile(Path(file.name))
        trt = load_tensorrt(None if file.artifact is None else file.artifact.target.get("flavour"))
        check_any_gpu(file.name, cuda_driver.gpu(), "Without a GPU, run another backend: -b ort.")
        return cls._load(file.data, trt, file.artifact, gpu, source)

    @classmethod
    def _load(
        cls, data: bytes, trt: TensorRt, artifact: Artifact | None, options: GpuOptions, file: EngineFile
    ) -> TrtSession:
        """Hands checked bytes to TensorRT; without an artifact the engine tells what it takes and gives."""
        cuda = open_cuda(options.memory_backend)
        try:
            with cuda.use():
                runtime, engine = _deserialise(trt, data, file)
                described = artifact or read_ends(engine, file)
            return cls(runtime, engine, trt, cuda, described, options, file)
        except BaseException:
            cuda.close()
            raise

    @property
    def replays(self) -> bool:
        """Whether the next run with the same batch replays a CUDA graph."""
        return self._graph is not None

    def stage_ms(self) -> dict[str, float] | None:
        """See `splite_deploy.runtime.session.StageTimed`."""
        if not self._events or self._batch == 0 or self._closed:
            return None
        with self._cuda.use():
            spans = zip(self._events, self._events[1:], strict=False)
            return dict(zip(STAGES, (self._cuda.elapsed_ms(start, end) for start, end in spans), strict=True))

    def _infer(self, feeds: Mapping[str, Feed]) -> dict[str, Array]:
        batch = self._batch_of(feeds)
        with self._cuda.use():
            for port in self._ports:
                if port.is_input:
                    port.write(feeds[port.spec.name])
            if batch != self._batch:
                self._drop_graph()
                self._set_batch(batch)
            elif self._graph is None and self._cuda_graph is not False:
                self._graph = self._capture(batch)
            if self._graph is not None:
                self._cuda.launch(self._graph, self._stream)
            else:
                self._queue(batch, capturing=False)
            self._cuda.synchronise(self._stream)
            self._batch = batch
        return {port.spec.name: port.read(batch) for port in self._ports if not port.is_input}

    def _release(self) -> None:
        with suppress(BackendError):  # after a fault of the GPU nothing can be freed, and the process is to end anyway
            with self._cuda.use():
                self._cuda.synchronise(self._stream)
                self._resources.close()
                self._ports, self._events = (), []  # pycuda frees a stream and events with the last reference to them
                del self._stream
            self._cuda.close()

    def _batch_of(self, feeds: Mapping[str, Feed]) -> int:
        """What the dynamic inputs have in common; 1 where all are fixed, since their shapes have been checked."""
        batches = {name: len(feeds[name]) for name in self._batched}
        batch = next(iter(batches.values()), 1)
        low, high = self._smallest_batch, self._largest_batch
        if len(set(batches.values())) > 1 or not low <= batch <= high:
            shown = ", ".join(f"'{name}' {count}" for name, count in batches.items())
            wanted = f"{max(1, min(low, batch))},{max(1, batch)},{max(high, batch)}"
            raise BackendError(
                f"The engine takes batches of {low} to {high}; the inputs hold {shown}.",
                hint=self._file.build_hint(wanted),
            )
        return batch

    def _set_batch(self, batch: int) -> None:
        """Tells TensorRT the shapes of the inputs."""
        self._batch = 0  # until a run with it has succeeded
        for port in self._ports:
            if port.is_input and port.dynamic:
                shape = port.shape(batch)
                self._check(self._context.set_input_shape(port.spec.name, shape), "set_input_shape")
        missing = self._context.infer_shapes()
        self._check(not missing, f"infer_shapes ({', '.join(missing)})")
        for port in self._ports:
            if port.dynamic and not port.is_input:
                self._check_output(port, batch)

    def _check_output(self, port: Port, batch: int) -> None:
        """An output that is open to something else than the batch might be larger than its memory."""
        shape = tuple(int(size) for size in self._context.get_tensor_shape(port.spec.name))
        if shape != port.shape(batch):
            raise BackendError(
                f"{self._file.name} gives '{port.spec.name}' in the shape {shape} for a batch of {batch}; "
                f"a session takes {port.shape(batch)}.",
                hint=NOT_TAKEN_HINT,
            )

    def _queue(self, batch: int, *, capturing: bool) -> None:
        """Copies in, runs, copies out; the time is taken before, between and after."""
        self._record(0, capturing)
        for port in self._ports:
            if port.is_input:
                port.upload(batch, self._stream)
        self._record(1, capturing)
        self._check(self._context.execute_async_v3(self._stream.pointer), "execute_async_v3")
        self._record(2, capturing)
        for port in self._ports:
            if not port.is_input:
                port.download(batch, self._stream)
        self._record(3, capturing)

    def _record(self, point: int, capturing: bool) -> None:
        if self._events:
            self._cuda.record(self._events[point], self._stream, capturing=capturing)

    def _capture(self, batch: int) -> Handle | None:
        """Records an inference; None where it cannot be, unless it has to be."""
        self._cuda.begin_capture(self._stream)
        try:
            self._queue(batch, capturing=True)
            return self._cuda.end_capture(self._stream)
        except BackendError as err:
            self._cuda.abandon_capture(self._stream)
            if self._cuda_graph is None:
                self._cuda_graph = False
                return None
            raise BackendError(
                f"The inference cannot be recorded as a CUDA graph: {err.message}",
                hint="Open it with GpuOptions(cuda_graph=None), which does without where it has to.",
            ) from err

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._cuda.destroy_graph(self._graph)
            self._graph = None

    def _drop_engine(self) -> None:
        """TensorRT frees its memory when Python lets go of its objects, the context first."""
        self._context = None
        self._engine = None
        self._runtime = None

    def _check(self, succeeded: bool, call: str) -> None:
        if not succeeded:
            raise BackendError(
                f"{self._trt.label} failed in {call}: {logged_errors(self._trt.module)}.",
                hint=self._file.failed_hint(),
            )


def _deserialise(trt: TensorRt, data: bytes, file: EngineFile) -> tuple[Any, Any]:
    """A runtime and the engine that it makes of bytes."""
    try:
        runtime = trt.module.Runtime(collecting_logger(trt.module))
        engine = runtime.deserialize_cuda_engine(data)
    except TypeError as err:  # so a factory of pybind11 says that it failed
        raise BackendError(
            f"{trt.label} cannot be initialised: {logged_errors(trt.module)}.", hint="Run 'splite-deploy doctor'."
        ) from err
    if engine is None:
        raise BackendError(f"{trt.label} cannot load {file.name}: {logged_errors(trt.module)}.", hint=file.build_hint())
    return runtime, engine


def _at_the_seam(spec: TensorSpec) -> TensorSpec:
    """The tensor as the session takes or gives it: float32, or the uint8 of a graph that normalises."""
    return spec if spec.dtype == "uint8" else replace(spec, dtype="float32")
