"""Graphs of other floats in float32, from which all precisions of a bundle are made."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

_OTHERS: dict[int, str] = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}
_TYPE_ATTRIBUTES = ("to", "dtype")
_LARGEST = np.finfo(np.float32).max


def to_float32(model: onnx.ModelProto) -> frozenset[str]:
    """Makes float32 of all other floats in a graph, in place: weights, casts, inputs and outputs.

    Half precision stays what it is, which float32 holds exactly; float64 is rounded, and what is too large for float32
    (a mask's lowest number) becomes the largest there is.

    Returns:
        The kinds that were found: ``float16``, ``bfloat16`` and ``float64``.
    """
    found: set[str] = set()
    _change_graph(model.graph, found)
    for function in model.functions:
        _change_nodes(function.node, found)
    return frozenset(found)


def _change_graph(graph: GraphProto, found: set[str]) -> None:
    _change_nodes(graph.node, found)
    for tensor in graph.initializer:
        _change_tensor(tensor, found)
    for value in (*graph.input, *graph.output):
        _change_value(value, found)
    if found:
        del graph.value_info[:]  # types in between, which are inferred anew


def _change_nodes(nodes: Iterable[NodeProto], found: set[str]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.INT and attribute.name in _TYPE_ATTRIBUTES and attribute.i in _OTHERS:
                found.add(_OTHERS[attribute.i])
                attribute.i = TensorProto.FLOAT
            for tensor in (attribute.t, *attribute.tensors):
                _change_tensor(tensor, found)
            graphs = [attribute.g] if attribute.type == AttributeProto.GRAPH else []
            for graph in (*graphs, *attribute.graphs):
                _change_graph(graph, found)


def _change_tensor(tensor: TensorProto, found: set[str]) -> None:
    if tensor.data_type in _OTHERS:
        found.add(_OTHERS[tensor.data_type])
        values = np.asarray(numpy_helper.to_array(tensor)).astype(np.float64)
        values = np.where(np.isfinite(values), values.clip(-_LARGEST, _LARGEST), values).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _change_value(value: ValueInfoProto, found: set[str]) -> None:
    kind = value.type.tensor_type
    if kind.elem_type in _OTHERS:
        found.add(_OTHERS[kind.elem_type])
        kind.elem_type = TensorProto.FLOAT
