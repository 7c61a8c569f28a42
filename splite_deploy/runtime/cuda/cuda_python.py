"""CUDA over cuda-python's runtime API (`cuda.bindings.runtime`, or `cuda.cudart` before version 12.6)."""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from splite_deploy.errors import BackendError, first_line
from splite_deploy.runtime.cuda.memory import Handle, HostBuffer

DEVICE = 0


class CudaPython:
    """See `splite_deploy.runtime.cuda.memory.Cuda`.

    Raises:
        BackendError: It cannot be imported.
    """

    name = "cuda-python"
    can_capture = True

    def __init__(self) -> None:
        self._cudart = _runtime_module()
        self._threads = threading.local()

    @contextmanager
    def use(self) -> Iterator[None]:
        (device,) = self._call("cudaGetDevice")
        if device != DEVICE or not hasattr(self._threads, "bound"):
            self._call("cudaSetDevice", DEVICE)
            self._call("cudaFree", 0)  # a thread has no context before the first call that needs one
            self._threads.bound = True
        try:
            yield
        finally:
            if device != DEVICE:
                self._call("cudaSetDevice", device)

    def allocate(self, size_bytes: int) -> Handle:
        (pointer,) = self._call("cudaMalloc", size_bytes)
        return Handle(int(pointer), None)

    def free(self, memory: Handle) -> None:
        self._call("cudaFree", memory.pointer)

    def allocate_host(self, size_bytes: int, *, mapped: bool) -> HostBuffer:
        flags = self._cudart.cudaHostAllocMapped if mapped else self._cudart.cudaHostAllocDefault
        (address,) = self._call("cudaHostAlloc", size_bytes, flags)
        array = np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(int(address)))
        device_pointer = int(self._call("cudaHostGetDevicePointer", address, 0)[0]) if mapped else 0
        return HostBuffer(array, device_pointer, int(address))

    def free_host(self, buffer: HostBuffer) -> None:
        self._call("cudaFreeHost", buffer.owner)

    def create_stream(self) -> Handle:
        (stream,) = self._call("cudaStreamCreateWithFlags", self._cudart.cudaStreamNonBlocking)
        return Handle(int(stream), stream)

    def destroy_stream(self, stream: Handle) -> None:
        self._call("cudaStreamDestroy", stream.owner)

    def synchronise(self, stream: Handle) -> None:
        self._call("cudaStreamSynchronize", stream.owner)

    def copy_to_device(self, memory: Handle, buffer: HostBuffer, size_bytes: int, stream: Handle) -> None:
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", memory.pointer, buffer.owner, size_bytes, kind, stream.owner)

    def copy_to_host(self, buffer: HostBuffer, memory: Handle, size_bytes: int, stream: Handle) -> None:
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", buffer.owner, memory.pointer, size_bytes, kind, stream.owner)

    def create_event(self) -> Handle:
        (event,) = self._call("cudaEventCreate")
        return Handle(int(event), event)

    def destroy_event(self, event: Handle) -> None:
        self._call("cudaEventDestroy", event.owner)

    def record(self, event: Handle, stream: Handle, *, capturing: bool) -> None:
        # Without the flag a captured event would be a dependency of the graph, not a node that takes the time.
        flags = self._cudart.cudaEventRecordExternal if capturing else self._cudart.cudaEventRecordDefault
        self._call("cudaEventRecordWithFlags", event.owner, stream.owner, flags)

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        (elapsed_ms,) = self._call("cudaEventElapsedTime", start.owner, end.owner)
        return float(elapsed_ms)

    def begin_capture(self, stream: Handle) -> None:
        # Other threads may allocate meanwhile: theirs is another session's business.
        mode = self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream.owner, mode)

    def end_capture(self, stream: Handle) -> Handle:
        (graph,) = self._call("cudaStreamEndCapture", stream.owner)
        try:
            (executable,) = self._call("cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)
        return Handle(int(executable), executable)

    def abandon_capture(self, stream: Handle) -> None:
        with suppress(BackendError):
            (graph,) = self._call("cudaStreamEndCapture", stream.owner)
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Handle, stream: Handle) -> None:
        self._call("cudaGraphLaunch", graph.owner, stream.owner)

    def destroy_graph(self, graph: Handle) -> None:
        self._call("cudaGraphExecDestroy", graph.owner)

    def close(self) -> None:
        """Nothing is held: the runtime API retains the primary context by itself."""

    def _call(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        """Calls a function of CUDA; returns its results without the error code."""
        try:
            error, *results = getattr(self._cudart, function)(*arguments)
        except RuntimeError as err:  # so older versions say that there is no driver
            raise BackendError(
                f"CUDA failed: {function}: {first_line(err)}.", hint="Run 'splite-deploy doctor' and nvidia-smi."
            ) from err
        if error == self._cudart.cudaError_t.cudaSuccess:
            return tuple(results)
        if error == self._cudart.cudaError_t.cudaErrorMemoryAllocation:
            raise BackendError(
                f"The GPU's memory is full ({function}).",
                hint="End other programs that use the GPU, or compile with a smaller --batch.",
            )
        raise BackendError(
            f"CUDA failed: {function} returned {error.name}.", hint="Run 'splite-deploy doctor' and nvidia-smi."
        )


def _runtime_module() -> Any:
    try:
        try:
            return importlib.import_module("cuda.bindings.runtime")
        except ModuleNotFoundError:
            return importlib.import_module("cuda.cudart")
    except (ImportError, RuntimeError) as err:  # RuntimeError: a library that it loads is not there
        raise BackendError(
            f"cuda-python cannot be imported: {first_line(err)}.",
            hint="Install the version of your driver's CUDA, for example: pip install 'cuda-python==12.*'.",
        ) from err
