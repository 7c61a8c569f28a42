"""Widens graphs of half precision to float32, from which all precisions of a bundle are made."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPE_ATTRIBUTES = ("to", "dtype")


def widen(model: onnx.ModelProto) -> bool:
    """Makes float32 of all float16 and bfloat16 in a graph, in place: weights, casts, inputs and outputs.

    The values of the weights stay what they are, which float32 holds exactly.

    Returns:
        Whether there was any.
    """
    found = _widen_graph(model.graph)
    for function in model.functions:
        found = _widen_nodes(function.node) or found
    return found


def _widen_graph(graph: GraphProto) -> bool:
    found = _widen_nodes(graph.node)
    for tensor in graph.initializer:
        found = _widen_tensor(tensor) or found
    for value in (*graph.input, *graph.output):
        found = _widen_value(value) or found
    if found:
        del graph.value_info[:]  # types in between, which are inferred anew
    return found


def _widen_nodes(nodes: Iterable[NodeProto]) -> bool:
    found = False
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.INT and attribute.name in _TYPE_ATTRIBUTES and attribute.i in _HALVES:
                attribute.i, found = TensorProto.FLOAT, True
            for tensor in (attribute.t, *attribute.tensors):
                found = _widen_tensor(tensor) or found
            graphs = [attribute.g] if attribute.type == AttributeProto.GRAPH else []
            for graph in (*graphs, *attribute.graphs):
                found = _widen_graph(graph) or found
    return found


def _widen_tensor(tensor: TensorProto) -> bool:
    if tensor.data_type not in _HALVES:
        return False
    values = np.asarray(numpy_helper.to_array(tensor)).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return True


def _widen_value(value: ValueInfoProto) -> bool:
    kind = value.type.tensor_type
    if kind.elem_type not in _HALVES:
        return False
    kind.elem_type = TensorProto.FLOAT
    return True
