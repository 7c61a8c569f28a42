"""TensorRT on an NVIDIA GPU: one path for TensorRT 8.5 to 11 and for TensorRT-RTX."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from splite_deploy.arrays import Feed, FloatArray
from splite_deploy.bundle import Artifact, TensorSpec
from splite_deploy.device import cuda_driver
from splite_deploy.errors import BackendError, UsageError
from splite_deploy.runtime.backends.base import BaseSession, IoSignature, ModelFile
from splite_deploy.runtime.backends.trt import TrtOptions
from splite_deploy.runtime.backends.trt.compatibility import (
    EngineFile,
    check_any_gpu,
    check_content,
    check_gpu,
    check_software,
)
from splite_deploy.runtime.backends.trt.io_binding import NOT_TAKEN_HINT, Binding, bind_tensors, read_signature
from splite_deploy.runtime.backends.trt.module import (
    TensorRt,
    collecting_logger,
    forget_errors,
    load_tensorrt,
    logged_errors,
)
from splite_deploy.runtime.cuda.memory import Cuda, Handle, open_cuda

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
        signature: Its inputs and outputs, as its artifact says or it itself.
        options: How it works.
        file: Where it comes from, for messages.

    Raises:
        BackendError: There is not enough memory.
        BundleError: The engine is not what the manifest describes.
        UsageError: A CUDA graph is requested, and the memory backend does not support one.
    """

    def __init__(
        self,
        runtime: Any,
        engine: Any,
        trt: TensorRt,
        cuda: Cuda,
        signature: Artifact | IoSignature,
        options: TrtOptions,
        file: EngineFile,
    ) -> None:
        super().__init__(
            replace(
                signature,
                inputs=tuple(_in_session(spec) for spec in signature.inputs),
                outputs=tuple(_in_session(spec) for spec in signature.outputs),
            )
        )
        if options.cuda_graph and not cuda.can_capture:
            raise UsageError(
                f"The memory backend {cuda.name} does not support CUDA graphs.",
                hint="Use cuda-python: pip install cuda-python.",
            )
        self._trt, self._cuda = trt, cuda
        self._file = file
        self._cuda_graph = options.cuda_graph if cuda.can_capture else False
        self._graph: Handle | None = None
        self._batch = 0
        self._runtime, self._engine = runtime, engine
        self._context: Any = None
        forget_errors(trt.module)
        with cuda.use(), ExitStack() as stack:
            self._stream = cuda.create_stream()
            stack.callback(cuda.destroy_stream, self._stream)
            self._bindings = bind_tensors(engine, signature, cuda, stack, mapped=options.mapped_memory, file=file)
            batched = [binding for binding in self._bindings if binding.is_input and binding.dynamic]
            self._batched = tuple(binding.spec.name for binding in batched)
            self._smallest_batch = max((binding.smallest_batch for binding in batched), default=1)
            self._largest_batch = min((binding.largest_batch for binding in batched), default=1)
            self._events: list[Handle] = []
            for _ in range(len(STAGES) + 1 if options.stage_timing else 0):
                self._events.append(cuda.create_event())
                stack.callback(cuda.destroy_event, self._events[-1])
            stack.callback(self._drop_engine)
            self._context = engine.create_execution_context()
            self._check(self._context is not None, "create_execution_context")
            stack.callback(self._drop_graph)
            for binding in self._bindings:
                self._check(self._context.set_tensor_address(binding.spec.name, binding.pointer), "set_tensor_address")
            self._resources = stack.pop_all()

    @classmethod
    def open(cls, file: ModelFile, options: TrtOptions) -> TrtSession:
        """Loads an engine after all that can be checked without TensorRT has been.

        Without an artifact TensorRT has to find out itself for which version, platform and GPU the engine is.
        """
        source = EngineFile.of(file)
        check_content(file.data, source)
        artifact = file.artifact
        trt = load_tensorrt(None if artifact is None else artifact.target.get("flavour"))
        if artifact is None:
            check_any_gpu(file.name, cuda_driver.gpu(), "Without a GPU, time the .onnx that it was built of.")
        else:
            check_software(artifact, source, trt.flavour, trt.version)
            check_gpu(artifact, source, cuda_driver.gpu())
        cuda = open_cuda(options.memory_backend)
        try:
            with cuda.use():
                runtime, engine = _deserialise(trt, file.data, source)
                signature = artifact or read_signature(engine, source)
            return cls(runtime, engine, trt, cuda, signature, options, source)
        except BaseException:
            with suppress(BackendError):  # what went wrong first is what has to be told
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

    def _infer(self, feeds: Mapping[str, Feed]) -> dict[str, FloatArray]:
        batch = self._batch_of(feeds)
        forget_errors(self._trt.module)
        with self._cuda.use():
            for binding in self._bindings:
                if binding.is_input:
                    binding.write(feeds[binding.spec.name])
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
        return {binding.spec.name: binding.read(batch) for binding in self._bindings if not binding.is_input}

    def _release(self) -> None:
        # After a fault of the GPU nothing can be freed and the process is to end anyway; but all is tried.
        with suppress(BackendError), ExitStack() as last:
            last.callback(self._cuda.close)
            with self._cuda.use(), ExitStack() as stack:
                stack.callback(self._forget)
                stack.callback(self._resources.close)
                self._cuda.synchronise(self._stream)

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
        for binding in self._bindings:
            if binding.is_input and binding.dynamic:
                shape = binding.shape(batch)
                self._check(self._context.set_input_shape(binding.spec.name, shape), "set_input_shape")
        missing = self._context.infer_shapes()
        self._check(not missing, f"infer_shapes ({', '.join(missing)})")
        for binding in self._bindings:
            if binding.dynamic and not binding.is_input:
                self._check_output(binding, batch)

    def _check_output(self, binding: Binding, batch: int) -> None:
        """An output that is open to something else than the batch might be larger than its memory."""
        shape = tuple(int(size) for size in self._context.get_tensor_shape(binding.spec.name))
        if shape != binding.shape(batch):
            raise BackendError(
                f"{self._file.name} gives '{binding.spec.name}' in the shape {shape} for a batch of {batch}; "
                f"a session takes {binding.shape(batch)}.",
                hint=NOT_TAKEN_HINT,
            )

    def _queue(self, batch: int, *, capturing: bool) -> None:
        """Copies in, runs, copies out; the time is taken before, between and after."""
        self._record(0, capturing)
        for binding in self._bindings:
            if binding.is_input:
                binding.upload(batch, self._stream)
        self._record(1, capturing)
        self._check(self._context.execute_async_v3(self._stream.pointer), "execute_async_v3")
        self._record(2, capturing)
        for binding in self._bindings:
            if not binding.is_input:
                binding.download(batch, self._stream)
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
                hint="Open it with TrtOptions(cuda_graph=None), which runs without a CUDA graph where none can "
                "be recorded.",
            ) from err

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._cuda.destroy_graph(self._graph)
            self._graph = None

    def _forget(self) -> None:
        """Pycuda frees a stream and events with the last reference to them."""
        self._bindings, self._events = (), []
        del self._stream

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
    forget_errors(trt.module)
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


def _in_session(spec: TensorSpec) -> TensorSpec:
    """The tensor as the session takes or gives it: float32, or the uint8 of a graph that normalises."""
    return spec if spec.dtype == "uint8" else replace(spec, dtype="float32")
