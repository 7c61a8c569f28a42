"""The network of `converted.py` in Keras, with the same weights, written as ONNX graphs by tf2onnx.

    python converted_keras.py weights.npz OUT       # where tensorflow and tf2onnx are installed

It writes OUT.tf9.onnx and OUT.tf18.onnx, whose images and heatmaps have their channels last, and OUT.tf15-nchw.onnx.
"""

from __future__ import annotations

import sys

import numpy as np
import tensorflow as tf
import tf2onnx

keras = tf.keras


def main(weights: str, out: str) -> None:
    """Builds, fills and converts."""
    held = np.load(weights)
    model = build(held)
    signature = (tf.TensorSpec((1, 64, 64, 3), tf.float32, name="image"),)
    for opset in (9, 18):
        tf2onnx.convert.from_keras(model, signature, opset=opset, output_path=f"{out}.tf{opset}.onnx")
    names = {"inputs_as_nchw": ["image"], "outputs_as_nchw": [model.output_names[0]]}
    tf2onnx.convert.from_keras(model, signature, opset=15, output_path=f"{out}.tf15-nchw.onnx", **names)


def build(held):
    """The network; ``held`` has torch's tensors by name."""

    def kernel(name: str) -> np.ndarray:
        return held[f"{name}.weight"].transpose(2, 3, 1, 0)  # torch: out, in, rows, columns

    def conv(x, name: str, stride: int = 1):
        values = [kernel(name)] + ([held[f"{name}.bias"]] if f"{name}.bias" in held else [])
        made = keras.layers.Conv2D(values[0].shape[3], values[0].shape[0], stride, use_bias=len(values) > 1)
        return fill(made, padded(x, values[0].shape[0]), values)

    def depthwise(x, name: str, stride: int):
        values = [held[f"{name}.weight"].transpose(2, 3, 0, 1)]
        return fill(keras.layers.DepthwiseConv2D(3, stride, use_bias=False), padded(x, 3), values)

    def norm(x, name: str):
        parts = ("weight", "bias", "running_mean", "running_var")
        return fill(keras.layers.BatchNormalization(epsilon=1e-5), x, [held[f"{name}.{part}"] for part in parts])

    def transposed(x, name: str):
        values = [held[f"{name}.weight"].transpose(2, 3, 1, 0), held[f"{name}.bias"]]  # torch: in, out, rows, columns
        return fill(keras.layers.Conv2DTranspose(8, 2, 2), x, values)

    def padded(x, size: int):
        return keras.layers.ZeroPadding2D(1)(x) if size == 3 else x

    def fill(made, x, values):
        y = made(x)
        made.set_weights(values)
        return y

    relu = keras.layers.ReLU
    image = keras.Input((64, 64, 3), batch_size=1, name="image")
    x = relu(6.0)(norm(conv(image, "stem.0", 2), "stem.1"))
    x = relu()(norm(depthwise(x, "deep.0", 2), "deep.1"))
    x = relu()(norm(conv(x, "wide.0"), "wide.1"))
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = keras.layers.Activation("sigmoid")(conv(relu()(conv(gate, "squeeze")), "excite"))
    x = keras.layers.Multiply()([x, gate])
    y = norm(conv(norm(depthwise(x, "down.0", 2), "down.1"), "mix.0"), "mix.1")
    y = relu()(keras.layers.Add()([y, keras.layers.MaxPooling2D()(x)]))
    larger = keras.layers.UpSampling2D(2, interpolation="nearest")(y)
    joined = keras.layers.Concatenate()([transposed(y, "up"), larger, x])
    joined = norm(conv(joined, "join.0"), "join.1")
    joined = fill(keras.layers.PReLU(shared_axes=[1, 2]), joined, [held["slope.weight"][None, None]])
    return keras.Model(image, conv(joined, "head"))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
