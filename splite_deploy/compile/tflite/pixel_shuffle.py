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


def channels_last_shuffles(model: ir.Model, *, gathers: bool = True) -> tuple[int, int]:
    """Turns DepthToSpace of mode CRD into mode DCR where it follows a convolution, in place.

    Activations may lie between the two. The graph computes the same. Where another node reads one of the tensors in
    between, where the convolution's weights are not constants, or where there is no convolution, as behind a residual
    sum, a Gather puts the channels in order.

    Args:
        model: The graph.
        gathers: Whether the converter converts a Gather of channels; otherwise a convolution puts them in order.

    Returns:
        The number of shuffles that cost nothing, and of those that cost an operator.
    """
    turned, gathered = 0, 0
    for node in list(model.graph):
        if node.op_type != "DepthToSpace" or node.attributes.get_string("mode", "DCR") != "CRD":
            continue
        source, block = node.inputs[0], node.attributes.get_int("blocksize")
        conv = _convolution(source)
        if conv is not None and all(value is not None and value.is_initializer() for value in conv.inputs[1:]):
            _reorder(conv, block)
            turned += 1
        elif source is not None and source.shape is not None and isinstance(source.shape[1], int):
            _put_in_order(node, source, _order(source.shape[1], block), gathers)
            gathered += 1
        else:
            continue
        node.attributes["mode"] = ir.AttrString("mode", "DCR")
    return turned, gathered


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


def _put_in_order(shuffle: ir.Node, source: ir.Value, order: NDArray[np.int64], gathers: bool) -> None:
    """Puts the channels before a shuffle in order."""
    graph = shuffle.graph
    assert isinstance(graph, ir.Graph)
    kernel = np.eye(len(order), dtype=np.float32)[order][:, :, None, None]
    operand = ir.Value(name=f"{source.name}:order:{shuffle.name}", const_value=ir.tensor(order if gathers else kernel))
    graph.register_initializer(operand)
    kind, attributes = ("Gather", [ir.AttrInt64("axis", 1)]) if gathers else ("Conv", [])
    mover = ir.Node("", kind, [source, operand], attributes, name=f"{shuffle.name}:order")
    mover.outputs[0].name = f"{source.name}:ordered:{shuffle.name}"
    mover.outputs[0].shape, mover.outputs[0].dtype = source.shape, source.dtype or ir.DataType.FLOAT
    graph.insert_before(shuffle, mover)
    shuffle.replace_input_with(0, mover.outputs[0])


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
