"""Runs the network of an artifact for the plugin that counts: on the emulated machine, called by arm64_instructions.py.

    python inferences.py BUNDLE COUNT BACKEND,PRECISION ...

Of each artifact in turn it sets a mark before COUNT inferences, after them, and after twice as many more. An inference
is the engine's own call on one thread, on noise: kernels do the same work whatever the values are. What prepares an
input and takes an output is outside.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.bundle import Bundle

MARK = 0x5350
"""As in executed.c."""
WARM_UP = 2
_TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}


def noise(shape: Sequence[Any], dtype: Any) -> NDArray[Any]:
    """An input; a size that is left open is 1."""
    sizes = [size if isinstance(size, int | np.integer) and size > 0 else 1 for size in shape]
    values = np.random.default_rng(0).random(sizes)
    return (values if np.issubdtype(dtype, np.floating) else 127 * values).astype(dtype)


def by_ort(content: bytes) -> Callable[[], object]:
    """The inference of a graph, with inputs and outputs bound."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = ort.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for given in session.get_inputs():
        binding.bind_cpu_input(given.name, noise(given.shape, _TYPES[given.type]))
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return lambda: session.run_with_iobinding(binding)


def by_litert(content: bytes) -> Callable[[], object]:
    """The inference of a TFLite file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    for given in interpreter.get_input_details():
        interpreter.set_tensor(given["index"], noise(given["shape"], given["dtype"]))
    invoke: Callable[[], object] = interpreter.invoke
    return invoke


ENGINES = {"ort": by_ort, "tflite": by_litert}


def mark() -> None:
    """Tells the plugin that this point is reached."""
    with suppress(OSError):
        os.getpriority(MARK, 0)


def main() -> None:
    path, count, *artifacts = sys.argv[1:]
    bundle = Bundle.open(Path(path))
    for backend, precision in (one.split(",") for one in artifacts):
        infer = ENGINES[backend](bundle.read(bundle.find(backend, precision)))
        for repeats in (WARM_UP, int(count), 2 * int(count)):
            for _ in range(repeats):
                infer()
            mark()


if __name__ == "__main__":
    main()
