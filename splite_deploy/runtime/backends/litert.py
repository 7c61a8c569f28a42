"""LiteRT (TensorFlow Lite) on the CPU, with XNNPACK."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import ai_edge_litert
import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from splite_deploy.bundle import Artifact, Bundle, TensorSpec
from splite_deploy.errors import BackendError
from splite_deploy.runtime.session import DEFAULT_GPU, BaseSession, Ends, GpuOptions, ModelFile, first_line

Array = NDArray[np.float32]

_SEAM = ("NCHW", "NKC")
"""Layouts of a session's tensors; the file's are the same axes in any order."""
_PLANES_FIRST = (0, 3, 1, 2)


class TfliteSession(BaseSession):
    """A file loaded into LiteRT's interpreter.

    The file is NHWC and may have integer ends; the session takes and gives NCHW float32, and `inputs` and `outputs` say
    so. Integers are rounded half to even, as XNNPACK does, and clipped.

    Args:
        file: The file.
        artifact: Its description; the names are those of its signature. None reads it from the file.
        threads: CPU threads; None is LiteRT's default, one.
    """

    def __init__(self, file: Path | ModelFile, artifact: Artifact | None, threads: int | None) -> None:
        try:
            if isinstance(file, ModelFile):
                self._interpreter = Interpreter(model_content=file.data, num_threads=threads)
            else:
                self._interpreter = Interpreter(model_path=str(file), num_threads=threads)
            self._interpreter.allocate_tensors()
            if artifact is None:  # it may have no signature
                inputs = {details["name"]: details for details in self._interpreter.get_input_details()}
                outputs = {details["name"]: details for details in self._interpreter.get_output_details()}
            else:
                signature = self._interpreter.get_signature_runner()
                inputs, outputs = signature.get_input_details(), signature.get_output_details()
        except Exception as err:  # LiteRT raises ValueError and RuntimeError, and what its own code trips over
            raise BackendError(
                f"LiteRT {ai_edge_litert.__version__} cannot load {file.name}: {first_line(err)}",
                hint="Upgrade ai-edge-litert, or compile the bundle again.",
            ) from err
        held = artifact or Ends(_specs(inputs, file), _specs(outputs, file))
        super().__init__(
            replace(
                held,
                inputs=tuple(_at_the_seam(spec) for spec in held.inputs),
                outputs=tuple(_at_the_seam(spec) for spec in held.outputs),
            )
        )
        self._inputs = {spec.name: self._port(spec, inputs, file) for spec in held.inputs}
        self._outputs = {spec.name: self._port(spec, outputs, file) for spec in held.outputs}

    @classmethod
    def open(
        cls, bundle: Bundle, artifact: Artifact, threads: int | None, gpu: GpuOptions = DEFAULT_GPU
    ) -> TfliteSession:
        """Loads an artifact of a bundle."""
        return cls(bundle.path / artifact.file, artifact, threads)

    @classmethod
    def open_file(cls, file: Path, threads: int | None, gpu: GpuOptions = DEFAULT_GPU) -> TfliteSession:
        """Loads a file without a bundle."""
        return cls(file, None, threads)

    @classmethod
    def open_content(cls, file: ModelFile, threads: int | None, gpu: GpuOptions = DEFAULT_GPU) -> TfliteSession:
        """Loads a file from memory."""
        return cls(file, file.artifact, threads)

    def _infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        for name, port in self._inputs.items():
            port.write(feeds[name])
        try:
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as err:
            raise BackendError(f"LiteRT failed: {first_line(err)}", hint="Run 'splite-deploy verify'.") from err
        return {name: port.read() for name, port in self._outputs.items()}

    def _release(self) -> None:
        self._inputs.clear()  # they hold the interpreter too
        self._outputs.clear()
        del self._interpreter

    def _port(self, spec: TensorSpec, details: Mapping[str, Any], file: Path | ModelFile) -> _Port:
        found = details.get(spec.name)
        if found is None or tuple(found["shape"]) != spec.shape or found["dtype"] != np.dtype(spec.dtype):
            held = ", ".join(f"{name} {d['dtype'].__name__} {tuple(d['shape'])}" for name, d in details.items())
            raise BackendError(
                f"{file.name} has the tensors {held}; the manifest says {spec.name} {spec.dtype} {spec.shape}.",
                hint="Compile the bundle again.",
            )
        scale, zero = found["quantization"]
        seam = _seam_layout(spec)
        return _Port(
            memory=self._interpreter.tensor(found["index"]),
            axes=tuple(spec.layout.index(axis) for axis in seam),
            dtype=np.dtype(spec.dtype),
            scale=np.float32(scale),
            zero=np.float32(zero),
        )


@dataclass(frozen=True)
class _Port:
    """One tensor of an interpreter.

    Attributes:
        memory: Gives a view of its memory. Each is short-lived: the interpreter does not run while one is held.
        axes: Transposes the file's layout to the seam's.
        dtype: Its type in the file.
        scale: Of one integer step; unused for float32.
        zero: The integer that stands for 0; unused for float32.
    """

    memory: Callable[[], NDArray[Any]]
    axes: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: np.float32
    zero: np.float32

    def write(self, values: NDArray[Any]) -> None:
        """Copies an array of the seam into the tensor."""
        if self.dtype != np.float32:
            limits = np.iinfo(self.dtype)
            values = values / self.scale
            np.rint(values, out=values)
            values += self.zero
            np.clip(values, limits.min, limits.max, out=values)
            values = values.astype(self.dtype)
        memory = self.memory()
        if list(self.axes) == sorted(self.axes):
            np.copyto(memory, values)
        else:  # NCHW to NHWC; ten times faster than numpy's transpose
            for planes, pixels in zip(values, memory, strict=True):
                cv2.merge(tuple(planes), pixels)

    def read(self) -> Array:
        """The tensor as a new array of the seam."""
        values: Array
        if self.axes == _PLANES_FIRST:  # NHWC to NCHW; three times faster than numpy's transpose
            memory = self.memory()
            count, height, width, channels = memory.shape
            planes = np.empty((count, channels, height, width), self.dtype)
            for pixels, target in zip(memory, planes, strict=True):
                cv2.transpose(pixels.reshape(-1, channels), target.reshape(channels, -1))
            values = planes.astype(np.float32, copy=False)
        else:
            values = self.memory().transpose(self.axes).astype(np.float32, order="C")
        if self.dtype != np.float32:
            values -= self.zero
            values *= self.scale
        return values


def _specs(details: Mapping[str, Any], file: Path | ModelFile) -> tuple[TensorSpec, ...]:
    """Tensors as the interpreter tells them; their axes have no meaning here and are lettered in the file's order.

    Raises:
        BackendError: One is neither float32 nor a quantised integer.
    """
    for name, found in details.items():
        if found["dtype"] != np.float32 and not found["quantization"][0]:
            raise BackendError(
                f"{file.name} has the tensor {name} of {found['dtype'].__name__}, which stands for no float numbers.",
                hint="Time it with LiteRT's own benchmark_model.",
            )
    return tuple(
        TensorSpec(
            name=name,
            shape=tuple(map(int, found["shape"])),
            dtype=found["dtype"].__name__,
            layout=ascii_lowercase[: len(found["shape"])],
            role="",
        )
        for name, found in details.items()
    )


def _seam_layout(spec: TensorSpec) -> str:
    return next((layout for layout in _SEAM if sorted(layout) == sorted(spec.layout)), spec.layout)


def _at_the_seam(spec: TensorSpec) -> TensorSpec:
    """The tensor as the session takes or gives it."""
    layout = _seam_layout(spec)
    shape = tuple(spec.shape[spec.layout.index(axis)] for axis in layout)
    return replace(spec, shape=shape, dtype="float32", layout=layout)
