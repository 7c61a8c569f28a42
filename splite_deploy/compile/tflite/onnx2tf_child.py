"""ONNX graph to a float32 ``.tflite`` file by onnx2tf, run by the Python of the environment that has onnx2tf.

`splite_deploy.compile.tflite.converter` runs this file in a folder; that environment has neither splite_deploy nor
torch. It loads onnx2tf, and TensorFlow where that onnx2tf works through it. When its standard input ends it reads
there ``model.onnx``, whose batch is 1, and writes ``model.tflite``, whose tensors onnx2tf orders, names and transposes
as it likes. Lines on standard output are progress; log output of the libraries goes to standard error.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

SAMPLE = "calibration_image_sample_data_20x128x128x3_float32.npy"
"""onnx2tf 1 reads this file for its trial runs, in the folder it runs in, and downloads it where it is missing."""
_OUT = "onnx2tf"


def main() -> None:
    """Does the job of the folder it runs in."""
    sys.path.pop(0)  # this file's folder: its neighbours are not modules of this environment
    steps = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # from here on everything that is printed is log output
    say = _stopwatch(steps)
    say("loading onnx2tf")
    from onnx2tf.onnx2tf import convert  # the package itself loads it late

    direct = "tflite_backend" in inspect.signature(convert).parameters
    if not direct:
        import tensorflow  # noqa: F401
    say("")
    sys.stdin.read()
    say("ONNX -> TFLite")
    content = _direct(convert) if direct else _through_tensorflow(convert)
    Path("model.tflite").write_bytes(content)
    say("")


def _stopwatch(steps: TextIO) -> Callable[[str], None]:
    """Returns a function that reports the next step, if any, and logs how long the last one took."""
    begun: list[tuple[str, float, float]] = []

    def say(step: str) -> None:
        now, used = time.perf_counter(), time.process_time()
        if begun:
            last, then, spent = begun.pop()
            print(f"splite-deploy: {last}: {now - then:.1f} s ({used - spent:.1f} s of CPU)", flush=True)
        if step:
            begun.append((step, now, used))
            steps.write(step + "\n")

    return say


def _convert(convert: Callable[..., Any], **options: Any) -> Any:
    return convert(
        input_onnx_file_path="model.onnx",
        output_folder_path=_OUT,
        batch_size=1,
        not_use_onnxsim=True,  # it is simplified
        non_verbose=True,
        **options,
    )


def _direct(convert: Callable[..., Any]) -> bytes:
    _convert(convert, tflite_backend="flatbuffer_direct")
    return Path(_OUT, "model_float32.tflite").read_bytes()


def _through_tensorflow(convert: Callable[..., Any]) -> bytes:
    import numpy as np
    import tensorflow as tf

    np.save(SAMPLE, np.random.default_rng(0).random((20, 128, 128, 3), np.float32))
    model = _convert(convert, disable_model_save=True)
    inputs = [tf.TensorSpec(value.shape, value.dtype) for value in model.inputs]
    run = tf.function(lambda *values: model(values)).get_concrete_function(*inputs)
    content: bytes = tf.lite.TFLiteConverter.from_concrete_functions([run], model).convert()
    return content


if __name__ == "__main__":
    main()
