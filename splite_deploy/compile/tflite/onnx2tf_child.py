"""ONNX graph to ``.tflite`` files, in a process of its own. Imports tensorflow and onnx2tf.

`splite_deploy.compile.tflite.compiler` runs it in a folder. It loads TensorFlow. When its standard
input ends it reads there

    model.onnx    the graph, with one input ``image`` (1, 3, h, w) and outputs named by their role
    inputs.npy    (N, h, w, 3) float32 network inputs
    job.json      roles, and the files to make with their options

It writes there those files and ``layouts.json``, the layout of each output by role. Lines on standard output are
progress; log output of the libraries goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.compile.tflite.match import Match, match_outputs

SAMPLE = "calibration_image_sample_data_20x128x128x3_float32.npy"
"""onnx2tf reads this file for its trial runs, in the folder it runs in, and downloads it where it is missing."""
_SAVED = "saved_model"


def main() -> None:
    """Does the job of the folder it runs in."""
    steps = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # from here on everything that is printed is log output
    say = _stopwatch(steps)

    say("loading TensorFlow")
    import onnx2tf  # noqa: F401
    import onnxruntime  # noqa: F401
    import tensorflow as tf

    say("")
    sys.stdin.read()
    say("ONNX -> TensorFlow")
    job = json.loads(Path("job.json").read_text(encoding="utf-8"))
    inputs = np.load("inputs.npy")
    _write_sample(inputs)
    model, matches = _network(inputs[:1], job["roles"])
    shape = tuple(model.inputs[0].shape)

    class Network(tf.Module):  # type: ignore[misc]
        """The network with one input and outputs named by their role, which the signature of the files repeats."""

        @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="image")])  # type: ignore[untyped-decorator]
        def __call__(self, image: Any) -> dict[str, Any]:
            outputs = tf.nest.flatten(model(image))
            return {role: outputs[match.index] for role, match in matches.items()}

    network = Network()
    # A module saves the variables that it references, and the model does not reference all of onnx2tf's
    network.captured = network.__call__.get_concrete_function().variables
    tf.saved_model.save(network, _SAVED, signatures=network.__call__)
    for file, options in job["files"].items():
        say(f"TensorFlow -> {file}")
        converter = _converter(tf, options, inputs)
        Path(file).write_bytes(converter.convert())
    Path("layouts.json").write_text(json.dumps({role: match.layout for role, match in matches.items()}))
    say("")


def _write_sample(inputs: NDArray[np.float32]) -> None:
    resized = np.stack([cv2.resize(picture, (128, 128)) for picture in inputs[:20]])
    np.save(SAMPLE, np.resize(resized, (20, 128, 128, 3)))


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


def _network(crop: NDArray[np.float32], roles: list[str]) -> tuple[Any, dict[str, Match]]:
    """The graph as a Keras model, and the role of each of its outputs."""
    import onnx
    import onnx2tf
    import onnxruntime as ort
    import tensorflow as tf

    from splite_deploy.compile.tflite.pixel_shuffle import channels_last_shuffles

    session = ort.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    values = session.run(roles, {"image": np.ascontiguousarray(crop.transpose(0, 3, 1, 2))})
    reference = dict(zip(roles, values, strict=True))
    graph = onnx.load("model.onnx")
    if channels_last_shuffles(graph):
        onnx.save(graph, "model.onnx")
    model = onnx2tf.convert(
        input_onnx_file_path="model.onnx",
        output_folder_path="onnx2tf",
        batch_size=1,
        not_use_onnxsim=True,  # it is simplified
        disable_model_save=True,
        non_verbose=True,
    )
    outputs = [output.numpy() for output in tf.nest.flatten(model(crop))]
    return model, match_outputs(outputs, reference)


def _converter(tf: Any, options: Mapping[str, Any], inputs: NDArray[np.float32]) -> Any:
    converter = tf.lite.TFLiteConverter.from_saved_model(_SAVED)
    if options["precision"] == "fp32":
        return converter
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if options["precision"] == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    elif options["recipe"] == "full-integer":

        def crops() -> Iterator[list[NDArray[np.float32]]]:
            for index in range(len(inputs)):
                yield [inputs[index : index + 1]]

        converter.representative_dataset = crops
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        ]  # fails where an operator has no int8 kernel
        if options["integer_io"]:
            converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter


if __name__ == "__main__":
    main()
