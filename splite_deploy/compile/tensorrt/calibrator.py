"""INT8 by a calibrator of TensorRT's own (8.5 to 10): it runs a float graph on images and chooses the scales itself.

TensorRT calls the calibrator from C++ code without exceptions: one that escapes would end the process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.compile.tensorrt.job import TABLE, CalibrationInputs, Calibrator
from splite_deploy.compile.tensorrt.typing_mode import CALIBRATORS, TypingMode
from splite_deploy.errors import CompileError, UsageError
from splite_deploy.runtime.cuda.memory import Cuda, open_cuda

_WITHOUT_PRECISION = ("CONSTANT", "SHAPE")


def check_calibrator(calibrator: Calibrator, mode: TypingMode, label: str) -> None:
    """Raises `UsageError` where the TensorRT of this label has no such calibrator."""
    if calibrator not in mode.calibrators:
        raise UsageError(
            f"{label} has no {calibrator} calibrator; TensorRT 8.5 to 10 has. Here the Q/DQ pairs of the int8 graph "
            "hold the scales.",
            hint="Leave --calibrator and --calibration out.",
        )


def batch_profile(builder: Any, tensors: Sequence[Any], sizes: tuple[int, int, int]) -> Any:
    """A profile with this (min, opt, max) batch of all tensors, whose batch is dynamic."""
    profile = builder.create_optimization_profile()
    for tensor in tensors:
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, *((size, *rest) for size in sizes))
    return profile


def keep_interface_float(trt: Any, network: Any, weighted: Collection[str]) -> None:
    """Makes everything before the first and after the last layers with weights compute in float32.

    With a calibrator the builder may use int8 wherever it has a kernel. In fused pre- and postprocessing that ruins the
    result: keypoints in steps of 1/127 of the input's size are useless. Q/DQ graphs have no int8 there either.

    Args:
        trt: The module.
        network: With its layers in the order of the graph, that is topologically sorted.
        weighted: Names of layers with weights.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    after: set[str] = set()  # tensors that depend on layers with weights
    for layer in layers:
        if layer.name in weighted or after & _names(_inputs(layer)):
            after |= _names(_outputs(layer))
    before: set[str] = set()  # tensors that layers with weights depend on
    for layer in reversed(layers):
        if layer.name in weighted or before & _names(_outputs(layer)):
            before |= _names(_inputs(layer))
    for layer in layers:
        inputs, outputs = _inputs(layer), _outputs(layer)
        between = layer.name in weighted or (after & _names(inputs) and before & _names(outputs))
        floats = all(tensor.dtype.name == "FLOAT" for tensor in (*inputs, *outputs))
        if not between and floats and layer.type.name not in _WITHOUT_PRECISION:
            layer.precision = trt.DataType.FLOAT


def _inputs(layer: Any) -> list[Any]:
    tensors = [layer.get_input(index) for index in range(layer.num_inputs)]
    return [tensor for tensor in tensors if tensor is not None]  # None stands for an optional one


def _outputs(layer: Any) -> list[Any]:
    return [layer.get_output(index) for index in range(layer.num_outputs)]


def _names(tensors: Sequence[Any]) -> set[str]:
    return {tensor.name for tensor in tensors}


class Batches:
    """Inputs batch by batch in the memory of the device; each batch overwrites the one before.

    Args:
        inputs: (N, ...) in the type of the graph's input.
        size: Of a batch; the last one is completed from the beginning.
        cuda: The memory backend, in use.
        stack: Frees it.
    """

    def __init__(self, inputs: NDArray[Any], size: int, cuda: Cuda, stack: ExitStack) -> None:
        self.size = size
        self._inputs = inputs
        self._cuda = cuda
        self._begun = 0
        self._size_bytes = inputs[:1].nbytes * size
        self._stream = cuda.create_stream()
        stack.callback(cuda.destroy_stream, self._stream)
        self._host = cuda.allocate_host(self._size_bytes, mapped=False)
        stack.callback(cuda.free_host, self._host)
        self._device = cuda.allocate(self._size_bytes)
        stack.callback(cuda.free, self._device)

    def next(self) -> int | None:
        """Address of the next batch; None after the last.

        Raises:
            BackendError: CUDA failed.
        """
        if self._begun >= len(self._inputs):
            return None
        rows = self._inputs[np.arange(self._begun, self._begun + self.size) % len(self._inputs)]
        self._begun += self.size
        with self._cuda.use():  # TensorRT calls from any thread
            self._host.array.view(rows.dtype).reshape(rows.shape)[:] = rows
            self._cuda.copy_to_device(self._device, self._host, self._size_bytes, self._stream)
            self._cuda.synchronise(self._stream)
        return self._device.pointer


@contextmanager
def calibrated(
    trt: Any, builder: Any, network: Any, config: Any, inputs: CalibrationInputs, batch: tuple[int, int, int] | None
) -> Iterator[Any]:
    """Gives the configuration a calibrator; its memory is freed when the block ends.

    A dynamic batch is calibrated in its largest size: many small batches give coarse histograms.

    Args:
        trt: The module.
        builder: Makes the profile of a dynamic batch.
        network: The float graph.
        config: Of the build.
        inputs: What to calibrate on.
        batch: (min, opt, max) of a dynamic batch.

    Yields:
        The calibrator; see `_calibrator`.

    Raises:
        SpliteError: No package for GPU memory is installed, or it failed while TensorRT calibrated.
        CompileError: TensorRT does not accept such a batch.
    """
    arrays = np.load(inputs.file, mmap_mode="r")
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    dynamic = [tensor for tensor in tensors if tensor.shape[0] == -1]
    size = tensors[0].shape[0] if batch is None else min(batch[2], len(arrays))
    if dynamic and not config.set_calibration_profile(batch_profile(builder, dynamic, (size, size, size))):
        raise CompileError(f"TensorRT does not accept batches of {size} for calibration.", hint="Try another --batch.")
    cuda = open_cuda()
    try:
        with cuda.use(), ExitStack() as stack:
            calibrator = _calibrator(trt, inputs, Batches(arrays, size, cuda, stack))
            config.int8_calibrator = calibrator
            yield calibrator
    finally:
        cuda.close()
    if calibrator.failure is not None:
        raise calibrator.failure


def _calibrator(trt: Any, inputs: CalibrationInputs, batches: Batches) -> Any:
    base: Any = getattr(trt, CALIBRATORS[inputs.calibrator])

    class OwnCalibrator(base):  # type: ignore[misc]
        """Hands out the batches; remembers the table that TensorRT makes of them, or the error."""

        def __init__(self) -> None:
            base.__init__(self)
            self.failure: Exception | None = None
            self.table: bytes | None = None

        def get_batch_size(self) -> int:
            return batches.size

        def get_batch(self, names: list[str]) -> list[int] | None:
            try:
                address = batches.next()
            except Exception as err:
                self.failure = err
                return None
            return None if address is None else [address]

        def read_calibration_cache(self) -> None:
            """Never reuses a table of another build: it does not say which images it was made of."""

        def write_calibration_cache(self, cache: Any) -> None:
            self.table = bytes(cache)

        def facts(self, folder: Path) -> Mapping[str, str]:
            """Writes the table to the folder; returns what `Artifact.target` says of it."""
            if self.table is None:
                raise CompileError(
                    "TensorRT built the engine without calibrating it.",
                    hint="Leave --calibrator and --calibration out to use the scales of the graph.",
                )
            (folder / TABLE).write_bytes(self.table)
            return {
                "calibrator": inputs.calibrator,
                "calibration": inputs.origin,
                "calibration_table_sha256": hashlib.sha256(self.table).hexdigest(),
            }

    return OwnCalibrator()
