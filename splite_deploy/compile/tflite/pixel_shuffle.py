"""Puts pixel shuffles into the order of channels for which runtimes have a kernel.

torch's ``PixelShuffle`` is ONNX's DepthToSpace of mode CRD: the pixels of a block are neighbours in the channels.
TFLite's DEPTH_TO_SPACE has mode DCR, where the channels of one pixel are neighbours, as they are in memory. Converters
turn CRD into a transposition of six axes, which takes longer than the convolution before it. That convolution can write
its channels in the other order instead, at no cost.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

_ELEMENTWISE = frozenset(
    {"Relu", "Clip", "LeakyRelu", "Elu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Identity"}
)


def channels_last_shuffles(model: ir.Model) -> int:
    """Turns DepthToSpace of mode CRD into mode DCR where it follows a convolution, in place.

    Activations may lie between the two. The graph computes the same. A shuffle is left alone where another node reads
    one of the tensors in between, or where the convolution's weights are not constants.

    Returns:
        The number of shuffles that were turned.
    """
    turned = 0
    for node in model.graph:
        if node.op_type != "DepthToSpace" or node.attributes.get_string("mode", "DCR") != "CRD":
            continue
        conv = _convolution(node.inputs[0])
        if conv is None or not all(value is not None and value.is_initializer() for value in conv.inputs[1:]):
            continue
        _reorder(conv, node.attributes.get_int("blocksize"))
        node.attributes["mode"] = ir.AttrString("mode", "DCR")
        turned += 1
    return turned


def _convolution(value: ir.Value | None) -> ir.Node | None:
    """The dense convolution that alone makes a tensor's channels, if no other node reads it."""
    while value is not None and len(value.uses()) == 1 and not value.is_graph_output():
        node = value.producer()
        if node is not None and node.op_type == "Conv" and node.attributes.get_int("group", 1) == 1:
            return node
        if node is None or node.op_type not in _ELEMENTWISE:
            return None
        value = node.inputs[0]
    return None


def _reorder(conv: ir.Node, block: int) -> None:
    """Gives the convolution's channels the order of mode DCR; constants that other nodes read are not changed."""
    graph = conv.graph
    assert isinstance(graph, ir.Graph)
    for position, value in enumerate(conv.inputs[1:], 1):
        assert value is not None and value.const_value is not None
        values = value.const_value.numpy()
        name = f"{value.name}:DCR:{conv.name}"
        ordered = ir.Value(name=name, const_value=ir.tensor(np.ascontiguousarray(values[_order(len(values), block)])))
        graph.register_initializer(ordered)
        conv.replace_input_with(position, ordered)
        if not value.uses():
            del graph.initializers[value.name or ""]


def _order(count: int, block: int) -> NDArray[np.int64]:
    """For each channel in mode DCR its place in mode CRD (ONNX operators, DepthToSpace)."""
    return np.arange(count).reshape(-1, block * block).T.ravel()
