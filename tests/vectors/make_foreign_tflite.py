"""Writes foreign.*.tflite: one small network as TensorFlow's own converter writes it, in the forms that people have.

    python tests/vectors/make_foreign_tflite.py        # with TensorFlow 2.16 or later, in an environment of its own

The network takes NHWC pictures of 64 x 48 in 0 to 1 and gives a heatmap, flat coordinates in pixels with a logit each,
and scores; its weights are drawn with a seed and never change.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent
HEIGHT, WIDTH, KEYPOINTS, STRIDE = 64, 48, 5, 4


def weights() -> list[Any]:
    """Of two convolutions, 3 x 3, to 8 and 16 channels, and of one, 1 x 1, to a heatmap of each keypoint.

    Fewer than 1024 weights of a layer are left alone by the converter's dynamic range.
    """
    rng = np.random.default_rng(7)
    shapes = [(3, 3, 3, 8), (3, 3, 8, 16), (1, 1, 16, KEYPOINTS)]
    return [tf.constant(rng.normal(0, np.prod(s[:3]) ** -0.5, s), tf.float32) for s in shapes]


def heatmap(image: Any, kernels: list[Any]) -> Any:
    """(N, h, w, K) logits."""
    for kernel in kernels[:2]:
        image = tf.nn.relu(tf.nn.conv2d(image, kernel, 2, "SAME"))
    return 8 * tf.nn.conv2d(image, kernels[2], 1, "SAME")


def network(image: Any, kernels: list[Any]) -> tuple[Any, Any, Any]:
    """Heatmap (N, h, w, K), coordinates (N, 3 K) and scores (N, K)."""
    logits = heatmap(image, kernels)
    rows, columns = HEIGHT // STRIDE, WIDTH // STRIDE
    flat = tf.reshape(logits, (1, rows * columns, KEYPOINTS))
    mass = tf.nn.softmax(tf.transpose(flat, (0, 2, 1)))
    y, x = np.divmod(np.arange(rows * columns), columns)
    centres = tf.constant(np.stack([x + 0.5, y + 0.5], 1) * STRIDE, tf.float32)
    peaks = tf.reduce_max(flat, 1) / 8  # whose scale is not that of the heatmap where all is quantised
    points = tf.concat([tf.matmul(mass, centres), peaks[..., None]], 2)
    return logits, tf.reshape(points, (1, 3 * KEYPOINTS)), tf.sigmoid(peaks)


def converted(
    function: Callable[..., Any], *inputs: Any, prepare: Callable[[Any], None] = lambda converter: None
) -> bytes:
    """The file of a function, as the converter writes it of a concrete function."""
    concrete = tf.function(function).get_concrete_function(*inputs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    prepare(converter)
    content: bytes = converter.convert()
    return content


def unsigned(converter: Any) -> None:
    """uint8 from end to end, with weights of a scale for each channel."""
    rng = np.random.default_rng(1)
    steps = [[rng.uniform(0, 1, (1, HEIGHT, WIDTH, 3)).astype(np.float32)] for _ in range(16)]
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: iter(steps)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8


def dynamic_range(converter: Any) -> None:
    """int8 weights, float activations."""
    converter.optimizations = [tf.lite.Optimize.DEFAULT]


def half_weights(converter: Any) -> None:
    """float16 weights."""
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]


def flex(converter: Any) -> None:
    """TensorFlow's own operators where TensorFlow Lite has none."""
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]


def custom(converter: Any) -> None:
    """Operators that nobody has."""
    converter.allow_custom_ops = True


def without_signature(content: bytes) -> bytes:
    """The file as converters wrote it before there were signatures."""
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    model.signatureDefs = []
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


class Signed(tf.Module):
    """The network with a signature that names its ends."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = weights()

    @tf.function(input_signature=[tf.TensorSpec((1, HEIGHT, WIDTH, 3), tf.float32, name="image")])
    def serve(self, image: Any) -> dict[str, Any]:
        """The outputs by name."""
        maps, points, scores = network(image, self.kernels)
        return {"heatmap": maps, "points": points, "scores": scores}


def main() -> None:
    """Writes the files beside this one."""
    kernels = weights()
    picture = tf.TensorSpec((1, HEIGHT, WIDTH, 3), tf.float32, name="input_1")

    def plain(image: Any) -> Any:
        return network(image, kernels)

    def maps_alone(image: Any) -> Any:
        return heatmap(image, kernels)

    def half(image: Any) -> Any:
        return network(tf.cast(image, tf.float32), kernels)

    def error_function(image: Any) -> Any:
        return tf.math.erf(heatmap(image, kernels))

    def complementary(image: Any) -> Any:
        return tf.math.erfc(heatmap(image, kernels))

    signed = Signed()
    with_names = tf.lite.TFLiteConverter.from_concrete_functions([signed.serve.get_concrete_function()], signed)
    half_picture = tf.TensorSpec((1, HEIGHT, WIDTH, 3), tf.float16, name="input_1")
    files = {
        "float32": without_signature(converted(plain, picture)),
        "float16": without_signature(converted(plain, picture, prepare=half_weights)),
        "dynamic-range": converted(plain, picture, prepare=dynamic_range),
        "uint8": converted(plain, picture, prepare=unsigned),
        "signed": with_names.convert(),
        "half-input": converted(half, half_picture),
        "open": converted(maps_alone, tf.TensorSpec((None, None, None, 3), tf.float32, name="input_1")),
        "flex": converted(error_function, picture, prepare=flex),
        "custom": converted(complementary, picture, prepare=custom),
    }
    for name, content in files.items():
        (HERE / f"foreign.{name}.tflite").write_bytes(content)


if __name__ == "__main__":
    main()
