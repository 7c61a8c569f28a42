"""An engine that computes with numpy, in the place of a real one, which runs on a GPU alone.

It has the methods of TensorRT's `ICudaEngine` and `IExecutionContext` that the session calls, and their rules: an
inference is queued in a stream, reads and writes the addresses that were set, and takes shapes within its profile.
`tests/runtime/test_trt_names.py` holds the names against the real bindings, and `tests/gpu` runs real engines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy_cuda import NumpyCuda

from splite_deploy.runtime.backends.trt.module import TensorRt

Compute = Callable[[Mapping[str, Any]], Mapping[str, Any]]
TRT_TYPES = {"float32": "FLOAT", "float16": "HALF", "uint8": "UINT8", "int32": "INT32"}


class Logger:
    """What `collecting_logger` derives from."""

    Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2)


def tensorrt(engine: StandInEngine | None = None) -> TensorRt:
    """TensorRT 10.3.0, whose runtime makes this engine of any bytes, and without one of none."""
    module = ModuleType("tensorrt")
    module.ILogger = Logger  # type: ignore[attr-defined]
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda data: engine)
    module.Runtime = lambda logger: runtime  # type: ignore[attr-defined]
    return TensorRt(module, "tensorrt", "10.3.0")


def trt_dtype(name: str) -> Any:
    return SimpleNamespace(name=TRT_TYPES[name])


@dataclass
class StandInEngine:
    """An engine.

    Attributes:
        cuda: The device that it runs on.
        inputs: Sizes (-1 for a dynamic batch) and numpy type by name.
        outputs: The same.
        compute: Arrays of the inputs to arrays of the outputs.
        batches: Smallest and largest batch of its profile.
        compute_ms: What an inference takes by the device's clock.
        fails: Names of the calls that report failure.
        formats: Memory formats by name, where they are not LINEAR.
        logger: Told why a call fails, as TensorRT's is: in the thread of the call.
        says: What it is told.
        after_logging: Called then.
    """

    cuda: NumpyCuda
    inputs: Mapping[str, tuple[tuple[int, ...], str]]
    outputs: Mapping[str, tuple[tuple[int, ...], str]]
    compute: Compute
    batches: tuple[int, int] = (1, 1)
    compute_ms: float = 2.0
    fails: set[str] = field(default_factory=set)
    formats: Mapping[str, str] = field(default_factory=dict)
    logger: Any = None
    says: str = "Error Code 2: OutOfMemory\n (no memory)"
    after_logging: Callable[[], object] = lambda: None

    def failing(self, call: str) -> bool:
        """Whether a call reports failure; says why, if so."""
        if call not in self.fails:
            return False
        if self.logger is not None:
            self.logger.log(Logger.Severity.ERROR, self.says)
            self.logger.log(Logger.Severity.WARNING, "a warning")
            self.after_logging()
        return True

    @property
    def num_io_tensors(self) -> int:
        return len(self.inputs) + len(self.outputs)

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name="INPUT" if name in self.inputs else "OUTPUT")

    def get_tensor_dtype(self, name: str) -> Any:
        return trt_dtype({**self.inputs, **self.outputs}[name][1])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return {**self.inputs, **self.outputs}[name][0]

    def get_tensor_format(self, name: str) -> Any:
        return SimpleNamespace(name=self.formats.get(name, "LINEAR"))

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0 and name in self.inputs
        low, high = self.batches
        return [(batch, *self.inputs[name][0][1:]) for batch in (low, low, high)]

    def create_execution_context(self) -> StandInContext | None:
        return None if self.failing("create_execution_context") else StandInContext(self)


class StandInContext:
    """Runs an engine."""

    def __init__(self, engine: StandInEngine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.shapes = {name: shape for name, (shape, _) in engine.inputs.items() if -1 not in shape}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return not self.engine.failing("set_tensor_address")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, high = self.engine.batches
        if not low <= shape[0] <= high or shape[1:] != self.engine.inputs[name][0][1:]:
            return False
        self.shapes[name] = shape
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.inputs if name not in self.shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.shapes:
            return self.shapes[name]
        sizes = self.engine.outputs[name][0]
        known = "get_tensor_shape" not in self.engine.fails
        return tuple(self._batch() if size < 0 and known else size for size in sizes)

    def execute_async_v3(self, stream: int) -> bool:
        engine, cuda = self.engine, self.engine.cuda
        if engine.failing("execute_async_v3") or ("capture" in engine.fails and cuda._capturing is not None):
            return False
        shapes = dict(self.shapes)  # as they are now: a graph keeps them

        def work() -> None:
            feeds = {name: self._memory(name, engine.inputs[name][1], shape).copy() for name, shape in shapes.items()}
            batch = next(iter(shapes.values()))[0]
            for name, values in engine.compute(feeds).items():
                sizes, dtype = engine.outputs[name]
                self._memory(name, dtype, (batch if sizes[0] < 0 else sizes[0], *sizes[1:]))[:] = values
            cuda.clock_ms += engine.compute_ms

        cuda.enqueue(stream, work)
        return True

    def _batch(self) -> int:
        return next(iter(self.shapes.values()))[0]

    def _memory(self, name: str, dtype: str, shape: tuple[int, ...]) -> Any:
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.engine.cuda.memory[self.addresses[name]][:size_bytes].view(dtype).reshape(shape)
