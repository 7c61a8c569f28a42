"""Leaves the batch of a TFLite file open, which converters fix at 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools.flatbuffer_utils import convert_object_to_bytearray, read_model_from_bytearray

_BUILTIN = schema.BuiltinOperator


def with_open_batch(content: bytes) -> bytes:
    """A file whose inputs and outputs are open in their first size: LiteRT settles it when the input is resized.

    Operators compute with whatever batch comes in, but for those that a constant tells the size of their result: in
    RESHAPE, SLICE and STRIDED_SLICE the batch is taken from what they read instead (XNNPACK does so in TRANSPOSE_CONV).
    Whatever else stands for the batch has to be found by running several crops at once.

    Args:
        content: A file of one graph, whose batch is 1.
    """
    model = read_model_from_bytearray(content)
    (graph,) = model.subgraphs
    for index in (*graph.inputs, *graph.outputs):
        tensor = graph.tensors[index]
        tensor.shapeSignature = [-1, *map(int, tensor.shape[1:])]
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        kind = max(code.builtinCode, code.deprecatedBuiltinCode)
        if kind == _BUILTIN.RESHAPE and _keeps_batch(graph, operator):
            sizes = [-1, *map(int, graph.tensors[operator.outputs[0]].shape[1:])]
            _set_constant(model, operator, 1, sizes)
            if operator.builtinOptions is not None:
                operator.builtinOptions.newShape = sizes
        elif kind == _BUILTIN.SLICE and _keeps_batch(graph, operator):
            held = _constant(model, graph, operator.inputs[2])
            if held is not None:
                _set_constant(model, operator, 2, [-1, *held[1:]])
        elif kind == _BUILTIN.STRIDED_SLICE and _keeps_batch(graph, operator):
            operator.builtinOptions.beginMask |= 1
            operator.builtinOptions.endMask |= 1
    return bytes(convert_object_to_bytearray(model))


def _keeps_batch(graph: Any, operator: Any) -> bool:
    """Whether an operator reads and gives a first size of 1."""
    ends = (graph.tensors[operator.inputs[0]].shape, graph.tensors[operator.outputs[0]].shape)
    return all(shape is not None and len(shape) > 1 and shape[0] == 1 for shape in ends)


def _constant(model: Any, graph: Any, tensor: int) -> list[int] | None:
    """The whole numbers that a tensor holds; None where it is computed."""
    data = model.buffers[graph.tensors[tensor].buffer].data
    return None if data is None or len(data) == 0 else np.frombuffer(bytes(data), np.int32).tolist()


def _set_constant(model: Any, operator: Any, place: int, values: list[int]) -> None:
    """Gives an operator a constant of its own in the place of one that others may read too."""
    (graph,) = model.subgraphs
    if len(operator.inputs) <= place:
        return
    before = graph.tensors[operator.inputs[place]]
    if _constant(model, graph, operator.inputs[place]) is None:
        return
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.array(values, np.int32).tobytes(), np.uint8)
    model.buffers.append(buffer)
    made = schema.TensorT()
    made.name, made.type, made.shape, made.hasRank = f"{before.name.decode()}/any", before.type, [len(values)], True
    made.buffer = len(model.buffers) - 1
    graph.tensors.append(made)
    operator.inputs[place] = len(graph.tensors) - 1
