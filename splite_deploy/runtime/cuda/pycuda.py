"""CUDA over pycuda. It does not support CUDA graphs."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np

from splite_deploy.errors import BackendError, first_line
from splite_deploy.runtime.cuda.memory import Handle, HostBuffer

DEVICE = 0
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING of cuda.h, which pycuda does not name


class PyCuda:
    """See `splite_deploy.runtime.cuda.memory.Cuda`.

    It retains the primary context itself: `pycuda.autoinit` would make a context of its own, which nothing else shares.

    Raises:
        BackendError: It cannot be imported, or there is no GPU.
    """

    name = "pycuda"
    can_capture = False

    def __init__(self) -> None:
        try:
            self._driver: Any = importlib.import_module("pycuda.driver")
        except ImportError as err:
            raise BackendError(
                f"pycuda cannot be imported: {first_line(err)}.",
                hint="Install the NVIDIA driver, or build pycuda again: pip install --force-reinstall pycuda.",
            ) from err
        with self._errors():
            self._driver.init()
            self._context = self._driver.Device(DEVICE).retain_primary_context()

    @contextmanager
    def use(self) -> Iterator[None]:
        with self._errors():
            self._context.push()
            try:
                yield
            finally:
                self._driver.Context.pop()

    def allocate(self, size_bytes: int) -> Handle:
        memory = self._driver.mem_alloc(size_bytes)
        return Handle(int(memory), memory)

    def free(self, memory: Handle) -> None:
        memory.owner.free()

    def allocate_host(self, size_bytes: int, *, mapped: bool) -> HostBuffer:
        flags = self._driver.host_alloc_flags.DEVICEMAP if mapped else 0
        array = self._driver.pagelocked_empty(size_bytes, np.uint8, mem_flags=flags)
        return HostBuffer(array, int(array.base.get_device_pointer()) if mapped else 0, array.base)

    def free_host(self, buffer: HostBuffer) -> None:
        buffer.owner.free()

    def create_stream(self) -> Handle:
        stream = self._driver.Stream(_NON_BLOCKING)
        return Handle(int(stream.handle), stream)

    def destroy_stream(self, stream: Handle) -> None:
        """Pycuda does that with its object, in the context that it was made in."""

    def synchronise(self, stream: Handle) -> None:
        stream.owner.synchronize()

    def copy_to_device(self, memory: Handle, buffer: HostBuffer, size_bytes: int, stream: Handle) -> None:
        self._driver.memcpy_htod_async(memory.pointer, buffer.array[:size_bytes], stream.owner)

    def copy_to_host(self, buffer: HostBuffer, memory: Handle, size_bytes: int, stream: Handle) -> None:
        self._driver.memcpy_dtoh_async(buffer.array[:size_bytes], memory.pointer, stream.owner)

    def create_event(self) -> Handle:
        return Handle(0, self._driver.Event())

    def destroy_event(self, event: Handle) -> None:
        """Pycuda does that with its object, in the context that it was made in."""

    def record(self, event: Handle, stream: Handle, *, capturing: bool) -> None:
        event.owner.record(stream.owner)

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        return float(end.owner.time_since(start.owner))

    def begin_capture(self, stream: Handle) -> NoReturn:
        raise BackendError("pycuda does not support CUDA graphs.", hint="Use cuda-python: pip install cuda-python.")

    def end_capture(self, stream: Handle) -> NoReturn:
        self.begin_capture(stream)

    def abandon_capture(self, stream: Handle) -> None:
        """There is none."""

    def launch(self, graph: Handle, stream: Handle) -> NoReturn:
        self.begin_capture(stream)

    def destroy_graph(self, graph: Handle) -> None:
        """There is none."""

    def close(self) -> None:
        with self._errors():
            self._context.detach()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns pycuda's errors into ours."""
        try:
            yield
        except self._driver.MemoryError as err:
            raise BackendError(
                "The GPU's memory is full.",
                hint="End other programs that use the GPU, or compile with a smaller --batch.",
            ) from err
        except self._driver.Error as err:
            raise BackendError(
                f"CUDA failed: {first_line(err)}.", hint="Run 'splite-deploy doctor' and nvidia-smi."
            ) from err
