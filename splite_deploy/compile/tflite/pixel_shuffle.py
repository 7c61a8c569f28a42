"""Puts pixel shuffles into the order of channels for which runtimes have a kernel.

torch's ``PixelShuffle`` is ONNX's DepthToSpace of mode CRD: the pixels of a block are neighbours in the channels.
TFLite's DEPTH_TO_SPACE has mode DCR, where the channels of one pixel are neighbours, as they are in memory. Converters
turn CRD into a transposition of six axes, which takes longer than the convolution before it. That convolution can write
its channels in the other order instead, at no cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

_ELEMENTWISE = frozenset(
    {"Relu", "Clip", "LeakyRelu", "Elu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Identity"}
)


def channels_last_shuffles(model: onnx.ModelProto) -> int:
    """Turns DepthToSpace of mode CRD into mode DCR where it follows a convolution, in place.

    Activations may lie between the two. The graph computes the same. A shuffle is left alone where another node reads
    one of the tensors in between, or where the convolution's weights are not constants.

    Returns:
        The number of shuffles that were turned.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, int] = {output.name: 1 for output in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    turned = 0
    for node in model.graph.node:
        if node.op_type != "DepthToSpace" or _text(node, "mode") != "CRD":
            continue
        conv = _convolution(node.input[0], makers, readers)
        if conv is None or not all(name in constants for name in conv.input[1:]):
            continue
        _reorder(model, conv, constants, _number(node, "blocksize"))
        next(item for item in node.attribute if item.name == "mode").s = b"DCR"
        turned += 1
    read = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in read]:
        model.graph.initializer.remove(tensor)
    return turned


def _convolution(tensor: str, makers: dict[str, onnx.NodeProto], readers: dict[str, int]) -> onnx.NodeProto | None:
    """The dense convolution that alone makes a tensor's channels, if no other node reads it."""
    while readers[tensor] == 1 and tensor in makers:
        node = makers[tensor]
        if node.op_type == "Conv" and _number(node, "group", 1) == 1:
            return node
        if node.op_type not in _ELEMENTWISE:
            return None
        tensor = node.input[0]
    return None


def _reorder(model: onnx.ModelProto, conv: onnx.NodeProto, constants: dict[str, onnx.TensorProto], block: int) -> None:
    """Gives the convolution's channels the order of mode DCR; constants that other nodes read are not changed."""
    from onnx import numpy_helper

    for position, name in enumerate(conv.input):
        if position == 0:
            continue
        values = numpy_helper.to_array(constants[name])
        ordered = numpy_helper.from_array(np.ascontiguousarray(values[_order(len(values), block)]), f"{name}:DCR")
        model.graph.initializer.append(ordered)
        conv.input[position] = ordered.name


def _order(count: int, block: int) -> NDArray[np.int64]:
    """For each channel in mode DCR its place in mode CRD (ONNX operators, DepthToSpace)."""
    return np.arange(count).reshape(-1, block * block).T.ravel()


def _text(node: onnx.NodeProto, name: str) -> str:
    return next((item.s.decode() for item in node.attribute if item.name == name), "DCR")


def _number(node: onnx.NodeProto, name: str, default: int = 0) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), default)
