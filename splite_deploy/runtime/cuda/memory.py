"""Memory, streams, events and graphs of CUDA, as far as a session needs them, over whichever package is installed.

All is done in the device's primary context, which torch, OpenCV and TensorRT use too, on the first GPU (others by
CUDA_VISIBLE_DEVICES). Nothing but `Cuda.use` has to be told about threads.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import MissingDependencyError, UsageError

MEMORY_BACKENDS = ("auto", "cuda-python", "pycuda")
"""What may handle the GPU's memory, in the order in which ``auto`` prefers them."""
_HINT = "Install it: pip install cuda-python, or where that has no wheel: pip install pycuda."


@dataclass(frozen=True, eq=False)
class Handle:
    """A thing that CUDA made.

    Attributes:
        pointer: Its address, as TensorRT takes it.
        owner: What the package knows it by.
    """

    pointer: int
    owner: Any


@dataclass(frozen=True, eq=False)
class HostBuffer:
    """Memory of the host that the GPU copies to and from without help of the processor (pinned).

    Attributes:
        array: (bytes,) uint8, the memory itself; not to be touched after `Cuda.free_host`.
        device_pointer: Where the GPU sees the same memory; 0 unless it was mapped.
        owner: What the package knows it by.
    """

    array: NDArray[np.uint8]
    device_pointer: int
    owner: Any


class Cuda(Protocol):
    """One package. All but `use` is called inside of ``with use():``, and raises BackendError where CUDA fails."""

    name: str
    can_capture: bool

    def use(self) -> AbstractContextManager[None]:
        """Makes the primary context current for the calling thread, and gives back what was."""

    def allocate(self, size_bytes: int) -> Handle:
        """Memory of the device."""

    def free(self, memory: Handle) -> None:
        """Frees it."""

    def allocate_host(self, size_bytes: int, *, mapped: bool) -> HostBuffer:
        """Pinned memory of the host; where mapped, the GPU may use it in place."""

    def free_host(self, buffer: HostBuffer) -> None:
        """Frees it."""

    def create_stream(self) -> Handle:
        """A queue of work that waits for no other."""

    def destroy_stream(self, stream: Handle) -> None:
        """Frees it."""

    def synchronise(self, stream: Handle) -> None:
        """Returns when the work in it is done."""

    def copy_to_device(self, memory: Handle, buffer: HostBuffer, size_bytes: int, stream: Handle) -> None:
        """Queues a copy of the first bytes."""

    def copy_to_host(self, buffer: HostBuffer, memory: Handle, size_bytes: int, stream: Handle) -> None:
        """Queues a copy of the first bytes."""

    def create_event(self) -> Handle:
        """A point in time on the device."""

    def destroy_event(self, event: Handle) -> None:
        """Frees it."""

    def record(self, event: Handle, stream: Handle, *, capturing: bool) -> None:
        """Queues the taking of the time; where capturing, each replay takes it anew."""

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        """Milliseconds between two events that have happened."""

    def begin_capture(self, stream: Handle) -> None:
        """From now on what this thread queues in the stream is noted down instead of done."""

    def end_capture(self, stream: Handle) -> Handle:
        """What was noted down, ready to be launched."""

    def abandon_capture(self, stream: Handle) -> None:
        """Ends a capture that went wrong; raises nothing."""

    def launch(self, graph: Handle, stream: Handle) -> None:
        """Queues all of it."""

    def destroy_graph(self, graph: Handle) -> None:
        """Frees it."""

    def close(self) -> None:
        """Lets go of the context; called last, and outside of `use`."""


def open_cuda(choice: str = "auto") -> Cuda:
    """The package to use.

    Args:
        choice: One of `MEMORY_BACKENDS`; ``auto`` takes the first that is installed.

    Raises:
        UsageError: There is no such choice.
        MissingDependencyError: It is not installed, or none is.
        BackendError: CUDA cannot be initialised.
    """
    if choice not in MEMORY_BACKENDS:
        raise UsageError(
            f"There is no memory backend '{choice}'.", hint=f"Choose one of: {', '.join(MEMORY_BACKENDS)}."
        )
    if choice != "pycuda" and _installed("cuda"):
        from splite_deploy.runtime.cuda.cuda_python import CudaPython

        return CudaPython()
    if choice != "cuda-python" and _installed("pycuda"):
        from splite_deploy.runtime.cuda.pycuda import PyCuda

        return PyCuda()
    if choice == "auto":
        raise MissingDependencyError("TensorRT needs cuda-python or pycuda; neither is installed.", hint=_HINT)
    raise MissingDependencyError(
        f"The memory backend '{choice}' is not installed.", hint=f"Install it: pip install {choice}."
    )


def _installed(package: str) -> bool:
    """Whether a package is there with the module that is needed; ``cuda`` is a namespace that others use too."""
    if package == "cuda":
        return any(_found(module) for module in ("cuda.bindings.runtime", "cuda.cudart"))
    return _found(package)


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its package is not there
        return False
