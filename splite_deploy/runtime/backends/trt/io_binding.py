"""The tensors of an engine with their memory on both sides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.bundle import Artifact, TensorSpec
from splite_deploy.errors import BackendError, BundleError
from splite_deploy.runtime.backends.base import IoSignature
from splite_deploy.runtime.backends.trt.compatibility import EngineFile
from splite_deploy.runtime.cuda.memory import Cuda, Handle, HostBuffer

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8"}
"""numpy name of TensorRT's types of inputs and outputs, by their names: the numbers change between versions."""
_INPUTS, _OUTPUTS = ("float32", "float16", "uint8"), ("float32", "float16")
NOT_TAKEN_HINT = "Time it with TensorRT's own trtexec."
"""For engines that were built for something else than a session."""


@dataclass(frozen=True)
class Binding:
    """One input or output.

    Attributes:
        spec: As the file has it.
        is_input: Whether it is fed.
        dynamic: Whether the batch has to be set before each run.
        smallest_batch: Of the engine's profile.
        largest_batch: Of the engine's profile; the memory is made for it.
        pointer: What TensorRT is given.
        cuda: Who made the memory.
        host: The host's side.
        host_values: The host's side as an array of the largest batch.
        device: The device's side; None where it is the host's, mapped.
    """

    spec: TensorSpec
    is_input: bool
    dynamic: bool
    smallest_batch: int
    largest_batch: int
    pointer: int
    cuda: Cuda
    host: HostBuffer
    host_values: NDArray[Any]
    device: Handle | None

    def shape(self, batch: int) -> tuple[int, ...]:
        """Its sizes with this batch."""
        return (self._rows(batch), *self.host_values.shape[1:])

    def write(self, values: NDArray[Any]) -> None:
        """Puts values into the host's side, converted to the file's type."""
        np.copyto(self.host_values[: len(values)], values, casting="same_kind")

    def read(self, batch: int) -> FloatArray:
        """A new array of what the host's side holds."""
        return self.host_values[: self._rows(batch)].astype(np.float32)

    def upload(self, batch: int, stream: Handle) -> None:
        """Queues the copy to the device, where one is needed."""
        if self.device is not None:
            self.cuda.copy_to_device(self.device, self.host, self._size_bytes(batch), stream)

    def download(self, batch: int, stream: Handle) -> None:
        """Queues the copy to the host, where one is needed."""
        if self.device is not None:
            self.cuda.copy_to_host(self.host, self.device, self._size_bytes(batch), stream)

    def _size_bytes(self, batch: int) -> int:
        return self.host_values.nbytes // self.largest_batch * self._rows(batch)

    def _rows(self, batch: int) -> int:
        """First size; that of a fixed tensor need not be a batch."""
        return batch if self.dynamic else self.largest_batch


def read_signature(engine: Any, file: EngineFile) -> IoSignature:
    """What an engine itself says of its tensors, with None for a dynamic batch.

    Args:
        engine: A deserialised engine.
        file: Where it comes from.

    Raises:
        BackendError: It has a tensor that no session takes: not of float numbers, open in more than the batch, without
            axes, or not in linear memory.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    sizes = _sizes(engine, names)
    for name in names:
        formatted = engine.get_tensor_format(name).name
        if not sizes[name] or min(sizes[name][1:], default=1) < 1 or formatted != "LINEAR":
            shown = "x".join("N" if size < 0 else str(size) for size in sizes[name]) or "no axes"
            raise BackendError(
                f"{file.name} has '{name}' with the sizes {shown} in the memory format {formatted}; a session takes "
                "sizes that are fixed but for the batch, in LINEAR.",
                hint=NOT_TAKEN_HINT,
            )
    low, high = _batches(engine, sizes)
    found: dict[str, list[TensorSpec]] = {"input": [], "output": []}
    for name in names:
        direction, dtype, shape = _read(engine, name, sizes[name], low if low == high else None)
        found[direction].append(TensorSpec(name, shape, dtype, layout="", role=""))
    return IoSignature(tuple(found["input"]), tuple(found["output"]))


def bind_tensors(
    engine: Any, signature: Artifact | IoSignature, cuda: Cuda, stack: ExitStack, *, mapped: bool, file: EngineFile
) -> tuple[Binding, ...]:
    """Memory for every tensor of an engine.

    Args:
        engine: A deserialised engine.
        signature: What the manifest says of it, or without one it itself.
        cuda: Who makes the memory.
        stack: Frees it.
        mapped: Whether both sides are one.
        file: Where it comes from.

    Raises:
        BackendError: The memory is full.
        BundleError: The engine has other tensors than the manifest says.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    sizes = _sizes(engine, names)
    low, high = _batches(engine, sizes)
    inputs = {spec.name for spec in signature.inputs}
    specs = {spec.name: spec for spec in (*signature.inputs, *signature.outputs)}
    found = {name: _shown(*_read(engine, name, sizes[name], low if low == high else None)) for name in names}
    wanted = {name: _shown("input" if name in inputs else "output", s.dtype, s.shape) for name, s in specs.items()}
    if found != wanted:
        raise BundleError(
            f"{file.name} has the tensors {_listed(found)}; the manifest says {_listed(wanted)}.",
            hint=file.build_hint(),
        )
    bindings = []
    for name, spec in specs.items():
        is_input = name in inputs
        if spec.dtype not in (_INPUTS if is_input else _OUTPUTS):
            raise BackendError(
                f"{file.name} has '{name}' in {spec.dtype}, which no session supports.",
                hint=NOT_TAKEN_HINT if file.command is None else file.build_hint(),
            )
        dynamic = sizes[name][0] < 0
        smallest, largest = (low, high) if dynamic else (sizes[name][0], sizes[name][0])
        shape = (largest, *sizes[name][1:])
        size_bytes = math.prod(shape) * np.dtype(spec.dtype).itemsize
        host = cuda.allocate_host(size_bytes, mapped=mapped)
        stack.callback(cuda.free_host, host)
        device = None
        if not mapped:
            device = cuda.allocate(size_bytes)
            stack.callback(cuda.free, device)
        pointer = host.device_pointer if device is None else device.pointer
        values = host.array.view(spec.dtype).reshape(shape)
        bindings.append(Binding(spec, is_input, dynamic, smallest, largest, pointer, cuda, host, values, device))
    return tuple(bindings)


def _batches(engine: Any, sizes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """Smallest and largest dynamic batch, which outputs have from the inputs; 1, 1 where none is dynamic."""
    dynamic = [name for name in sizes if sizes[name][0] < 0 and engine.get_tensor_mode(name).name == "INPUT"]
    profiles = [engine.get_tensor_profile_shape(name, 0) for name in dynamic]
    low, high = [profile[0][0] for profile in profiles], [profile[2][0] for profile in profiles]
    return int(max(low, default=1)), int(min(high, default=1))


def _sizes(engine: Any, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(int(size) for size in engine.get_tensor_shape(name)) for name in names}


def _read(
    engine: Any, name: str, sizes: tuple[int, ...], only_batch: int | None
) -> tuple[str, str, tuple[int | None, ...]]:
    """Direction, type and shape of a tensor; a dynamic batch that can be but one is no range."""
    dtype = engine.get_tensor_dtype(name).name
    shape = (only_batch if sizes[0] < 0 else sizes[0], *(size if size >= 0 else None for size in sizes[1:]))
    return engine.get_tensor_mode(name).name.lower(), _DTYPES.get(dtype, dtype.lower()), shape


def _shown(direction: str, dtype: str, shape: tuple[int | None, ...]) -> str:
    return f"{direction} {dtype} {'x'.join('N' if size is None else str(size) for size in shape)}"


def _listed(tensors: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({text})" for name, text in tensors.items())
