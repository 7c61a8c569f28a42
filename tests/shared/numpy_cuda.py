"""CUDA on numpy for machines without a GPU: memory, streams, events and graphs that really hold and copy bytes.

As on a GPU, what is queued in a stream happens when the stream is synchronised, not before; and what is queued while a
stream is captured happens when the graph is launched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from splite_deploy.errors import BackendError
from splite_deploy.runtime.cuda.memory import Handle, HostBuffer

Work = Callable[[], None]
DEVICE_BASE = 1 << 40
"""Addresses of the device begin here: whoever takes one for memory of the host fails."""


class NumpyCuda:
    """One device.

    Args:
        can_capture: Whether it knows graphs.
        memory_bytes: What it has.
    """

    name = "numpy"

    def __init__(self, *, can_capture: bool = True, memory_bytes: int = 1 << 30) -> None:
        self.can_capture = can_capture
        self.memory_bytes = memory_bytes
        self.memory: dict[int, np.ndarray[Any, Any]] = {}  # by device address: its own, and mapped memory of the host
        self.live: list[object] = []  # what was made and not freed
        self.calls: list[str] = []
        self.users = 0
        self.closed = False
        self.clock_ms = 0.0
        self._next_address = DEVICE_BASE
        self._queues: dict[int, list[Work]] = {}
        self._capturing: int | None = None
        self._captured: list[Work] = []

    @contextmanager
    def use(self) -> Iterator[None]:
        assert not self.closed
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1

    def allocate(self, size_bytes: int) -> Handle:
        array = np.zeros(size_bytes, np.uint8)
        return self._made("allocate", Handle(self._address(array), array))

    def free(self, memory: Handle) -> None:
        self._gone("free", memory)
        del self.memory[memory.pointer]

    def allocate_host(self, size_bytes: int, *, mapped: bool) -> HostBuffer:
        array = np.zeros(size_bytes, np.uint8)
        return self._made("allocate_host", HostBuffer(array, self._address(array) if mapped else 0, array))

    def free_host(self, buffer: HostBuffer) -> None:
        self._gone("free_host", buffer)
        self.memory.pop(buffer.device_pointer, None)
        buffer.array[:] = 0xCD  # whoever still looks at it sees rubbish

    def create_stream(self) -> Handle:
        stream = self._made("create_stream", Handle(len(self._queues) + 1, None))
        self._queues[stream.pointer] = []
        return stream

    def destroy_stream(self, stream: Handle) -> None:
        self._gone("destroy_stream", stream)

    def synchronise(self, stream: Handle) -> None:
        self._call("synchronise")
        assert self._capturing is None, "a stream that is captured cannot be waited for"
        queue = self._queues[stream.pointer]
        while queue:
            queue.pop(0)()

    def copy_to_device(self, memory: Handle, buffer: HostBuffer, size_bytes: int, stream: Handle) -> None:
        self._call("copy_to_device")
        self.enqueue(stream.pointer, lambda: _copy(self.memory[memory.pointer], buffer.array, size_bytes))

    def copy_to_host(self, buffer: HostBuffer, memory: Handle, size_bytes: int, stream: Handle) -> None:
        self._call("copy_to_host")
        self.enqueue(stream.pointer, lambda: _copy(buffer.array, self.memory[memory.pointer], size_bytes))

    def create_event(self) -> Handle:
        return self._made("create_event", Handle(0, {}))

    def destroy_event(self, event: Handle) -> None:
        self._gone("destroy_event", event)

    def record(self, event: Handle, stream: Handle, *, capturing: bool) -> None:
        self._call("record")
        assert capturing == (self._capturing is not None)
        self.enqueue(stream.pointer, lambda: event.owner.update(at_ms=self.clock_ms))

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        self._call("elapsed_ms")
        return float(end.owner["at_ms"] - start.owner["at_ms"])

    def begin_capture(self, stream: Handle) -> None:
        self._call("begin_capture")
        assert self._capturing is None
        self._capturing, self._captured = stream.pointer, []

    def end_capture(self, stream: Handle) -> Handle:
        assert self._capturing == stream.pointer
        self._capturing = None
        return self._made("end_capture", Handle(1, self._captured))

    def abandon_capture(self, stream: Handle) -> None:
        self._call("abandon_capture")
        self._capturing = None

    def launch(self, graph: Handle, stream: Handle) -> None:
        self._call("launch")
        assert graph in self.live
        self._queues[stream.pointer].extend(graph.owner)

    def destroy_graph(self, graph: Handle) -> None:
        self._gone("destroy_graph", graph)

    def close(self) -> None:
        assert self.users == 0
        self.closed = True

    def enqueue(self, stream: int, work: Work) -> None:
        """Queues work, or notes it down while the stream is captured."""
        (self._captured if self._capturing == stream else self._queues[stream]).append(work)

    def _address(self, array: np.ndarray[Any, Any]) -> int:
        if sum(memory.nbytes for memory in self.memory.values()) + array.nbytes > self.memory_bytes:
            raise BackendError("The GPU's memory is full (numpy).", hint="End other programs.")
        address = self._next_address
        self._next_address += -(-array.nbytes // 256) * 256
        self.memory[address] = array
        return address

    def _call(self, name: str) -> None:
        assert self.users > 0, f"{name} outside of use()"
        self.calls.append(name)

    def _made(self, name: str, thing: Any) -> Any:
        self._call(name)
        self.live.append(thing)
        return thing

    def _gone(self, name: str, thing: object) -> None:
        self._call(name)
        self.live.remove(thing)  # fails where it is freed twice


def _copy(target: np.ndarray[Any, Any], source: np.ndarray[Any, Any], size_bytes: int) -> None:
    target[:size_bytes] = source[:size_bytes]
