"""LiteRT (TensorFlow Lite) on the CPU, with XNNPACK."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from string import ascii_lowercase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.bundle import TensorSpec
from splite_deploy.bundle.report import Layer
from splite_deploy.errors import BackendError, first_line
from splite_deploy.runtime.backends.base import (
    Backend,
    BackendOptions,
    BaseSession,
    IoSignature,
    ModelFile,
    layer_types,
    option,
)

_SESSION_LAYOUTS = ("NCHW", "NKC")
"""Layouts of a session's tensors; the file's are the same axes in any order."""
_PLANES_FIRST = (0, 3, 1, 2)


@dataclass(frozen=True)
class TfliteOptions(BackendOptions):
    """How LiteRT works.

    Attributes:
        threads: CPU threads; None is its default, one.
    """

    threads: int | None = option(None, "CPU threads; one without it.", type=int)


class TfliteSession(BaseSession):
    """A file loaded into LiteRT's interpreter.

    The file is NHWC and may have integer inputs and outputs; the session takes and gives NCHW float32, and `inputs` and
    `outputs` say so. Integers are rounded half to even, as XNNPACK does, and clipped. A file whose artifact says that
    it takes uint8 normalises by itself: the session takes the crops as they are.

    Args:
        file: The file; the names in its artifact are those of its signature. Without an artifact it tells its tensors
            itself.
        options: How it works.

    Raises:
        BackendError: LiteRT cannot load it, or it is not what its artifact says.
    """

    def __init__(self, file: ModelFile, options: TfliteOptions) -> None:
        import ai_edge_litert
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(model_content=file.data, num_threads=options.threads)
            self._interpreter.allocate_tensors()
            if file.artifact is None:  # it may have no signature
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
        in_file = file.artifact or IoSignature(_specs(inputs, file.name), _specs(outputs, file.name))
        super().__init__(
            replace(
                in_file,
                inputs=tuple(_in_session(spec) for spec in in_file.inputs),
                outputs=tuple(_in_session(spec) for spec in in_file.outputs),
            )
        )
        self._inputs = {spec.name: self._bind(spec, inputs, file.name) for spec in in_file.inputs}
        self._outputs = {spec.name: self._bind(spec, outputs, file.name) for spec in in_file.outputs}

    def _infer(self, feeds: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        for name, binding in self._inputs.items():
            binding.write(feeds[name])
        try:
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as err:
            raise BackendError(f"LiteRT failed: {first_line(err)}", hint="Run 'splite-deploy verify'.") from err
        return {name: binding.read() for name, binding in self._outputs.items()}

    def _release(self) -> None:
        self._inputs.clear()  # they hold the interpreter too
        self._outputs.clear()
        del self._interpreter

    def _bind(self, spec: TensorSpec, details: Mapping[str, Any], file: str) -> _Binding:
        found = details.get(spec.name)
        if found is None or tuple(found["shape"]) != spec.shape or found["dtype"] != np.dtype(spec.dtype):
            held = ", ".join(f"{name} {d['dtype'].__name__} {tuple(d['shape'])}" for name, d in details.items())
            raise BackendError(
                f"{file} has the tensors {held}; the manifest says {spec.name} {spec.dtype} {spec.shape}.",
                hint="Compile the bundle again.",
            )
        scale, zero = found["quantization"]
        layout = _session_layout(spec)
        return _Binding(
            interpreter=self._interpreter,
            index=found["index"],
            memory=self._interpreter.tensor(found["index"]),
            axes=None if layout == spec.layout else tuple(map(spec.layout.index, layout)),
            dtype=np.dtype(spec.dtype),
            quantised=spec.dtype != "float32" and not _is_crop(spec),
            scale=np.float32(scale),
            zero=np.float32(zero),
        )


class TracedTfliteSession(TfliteSession):
    """A file that tells its operators, without times; those that unpack weights while it is loaded are left out."""

    def __init__(self, file: ModelFile, options: TfliteOptions) -> None:
        super().__init__(file, options)
        self._file = file

    def layers(self) -> tuple[Layer, ...]:
        """See `TracedSession.layers`."""
        from splite_deploy.runtime.backends.tflite_file import parse_contents

        return tuple(
            Layer(op.result, op.name, layer_types(op.computed or op.inputs, op.outputs, op.weights), None)
            for op in parse_contents(self._file.data, self._file.name).operators
            if not op.unpacks_weights
        )


@dataclass(frozen=True)
class _Binding:
    """One tensor of an interpreter.

    Attributes:
        interpreter: Which one.
        index: The tensor's number there.
        memory: Gives a view of its memory. Each is short-lived: the interpreter does not run while one is held.
        axes: Transposes the file's layout to the session's; None where both are the same.
        dtype: Its type in the file.
        quantised: Whether its integers stand for the session's float32.
        scale: Of one integer step, where it is quantised.
        zero: The integer that stands for 0, where it is quantised.
    """

    interpreter: Any
    index: int
    memory: Callable[[], NDArray[Any]]
    axes: tuple[int, ...] | None
    dtype: np.dtype[Any]
    quantised: bool
    scale: np.float32
    zero: np.float32

    def write(self, values: NDArray[Any]) -> None:
        """Copies an array of the session into the tensor."""
        if self.quantised:
            limits = np.iinfo(self.dtype)
            values = values / self.scale
            np.rint(values, out=values)
            values += self.zero
            np.clip(values, limits.min, limits.max, out=values)
            values = values.astype(self.dtype)
        if self.axes is None:
            self.interpreter.set_tensor(self.index, values)
        else:  # NCHW to NHWC; ten times faster than numpy's transpose
            import cv2

            for planes, pixels in zip(values, self.memory(), strict=True):
                cv2.merge(tuple(planes), pixels)

    def read(self) -> FloatArray:
        """The tensor as a new array of the session."""
        values: FloatArray
        if self.axes is None:
            values = self.interpreter.get_tensor(self.index).astype(np.float32, copy=False)
        elif self.axes == _PLANES_FIRST:  # NHWC to NCHW; three times faster than numpy's transpose
            import cv2

            memory = self.memory()
            count, height, width, channels = memory.shape
            planes = np.empty((count, channels, height, width), self.dtype)
            for pixels, target in zip(memory, planes, strict=True):
                cv2.transpose(pixels.reshape(-1, channels), target.reshape(channels, -1))
            values = planes.astype(np.float32, copy=False)
        else:
            values = self.memory().transpose(self.axes).astype(np.float32, order="C")
        if self.quantised:
            values -= self.zero
            values *= self.scale
        return values


def _specs(details: Mapping[str, Any], file: str) -> tuple[TensorSpec, ...]:
    """Tensors as the interpreter tells them; their axes have no meaning here and are lettered in the file's order.

    Raises:
        BackendError: One is neither float32 nor a quantised integer.
    """
    for name, found in details.items():
        if found["dtype"] != np.float32 and not found["quantization"][0]:
            raise BackendError(
                f"{file} has the tensor {name} of {found['dtype'].__name__}, which does not stand for float numbers.",
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


def _is_crop(spec: TensorSpec) -> bool:
    """Whether an input takes crops as they are. Only a manifest tells roles: without one integers are numbers."""
    return spec.role == "image" and spec.dtype == "uint8"


def _session_layout(spec: TensorSpec) -> str:
    if _is_crop(spec):
        return spec.layout
    return next((layout for layout in _SESSION_LAYOUTS if sorted(layout) == sorted(spec.layout)), spec.layout)


def _in_session(spec: TensorSpec) -> TensorSpec:
    """The tensor as the session takes or gives it."""
    layout = _session_layout(spec)
    shape = tuple(spec.shape[spec.layout.index(axis)] for axis in layout)
    return replace(spec, shape=shape, dtype=spec.dtype if _is_crop(spec) else "float32", layout=layout)


def _load() -> None:
    import cv2  # noqa: F401


BACKEND = Backend(
    name="tflite",
    label="LiteRT",
    open=TfliteSession,
    formats=("tflite",),
    options=TfliteOptions,
    aliases=("litert",),
    suffixes={".tflite": "tflite"},
    modules=("ai_edge_litert",),
    install="pip install 'splite-deploy[litert]'",
    load=_load,
    open_traced=TracedTfliteSession,
    layers_from="as they lie in the file; its Python package times no operators.",
    export="tflite",
    distributions={"tflite": ("ai-edge-litert", "tflite-runtime", "tensorflow")},
)
