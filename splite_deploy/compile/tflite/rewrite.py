"""Rewrites ``.tflite`` files: their names and signature, and their weights in half precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools.flatbuffer_utils import convert_object_to_bytearray, read_model_from_bytearray

_SIGNATURE = "serving_default"
_BUILTIN = schema.BuiltinOperator
_WEIGHTED = frozenset(
    {
        _BUILTIN.CONV_2D,
        _BUILTIN.DEPTHWISE_CONV_2D,
        _BUILTIN.TRANSPOSE_CONV,
        _BUILTIN.FULLY_CONNECTED,
        _BUILTIN.BATCH_MATMUL,
        _BUILTIN.CONV_3D,
    }
)
_MANY = 256  # constants of so many values are stored in half precision wherever they are read


def with_signature(content: bytes, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> bytes:
    """A file with one signature, whose tensors are called as the signature calls them.

    Args:
        content: The file.
        inputs: Indices of the tensors of its only graph, by their name in the signature.
        outputs: Likewise, in the order that the file is to have.
    """
    model = read_model_from_bytearray(content)
    (graph,) = model.subgraphs
    for index, tensor in enumerate(graph.tensors):
        tensor.name = f"tensor_{index}"
    for name, index in {**inputs, **outputs}.items():
        graph.tensors[index].name = name
    graph.inputs, graph.outputs, graph.name = list(inputs.values()), list(outputs.values()), "main"
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = _SIGNATURE, 0
    signature.inputs, signature.outputs = tensor_maps(inputs), tensor_maps(outputs)
    model.signatureDefs = [signature]
    return bytes(convert_object_to_bytearray(model))


def with_half_weights(content: bytes) -> bytes:
    """A float32 file whose weights are stored as float16; it computes in what the device chooses.

    A DEQUANTIZE operator, which runs once while the file is loaded, gives them to their readers. Short constants, among
    them biases and the small numbers that keep divisors from zero, stay float32; so do those beyond float16's range.
    """
    model = read_model_from_bytearray(content)
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    unpack = schema.OperatorCodeT()
    unpack.builtinCode = unpack.deprecatedBuiltinCode = _BUILTIN.DEQUANTIZE
    unpack.version = 3  # the first that takes float16
    model.operatorCodes.append(unpack)
    for graph in model.subgraphs:
        weights = {
            int(operator.inputs[1])
            for operator in graph.operators
            if codes[operator.opcodeIndex] in _WEIGHTED and len(operator.inputs) > 1
        }
        unpacking = []
        for index in range(len(graph.tensors)):
            half = _half(model, graph.tensors[index], 1 if index in weights else _MANY)
            if half is not None:
                operator = schema.OperatorT()
                operator.opcodeIndex = len(codes)
                operator.inputs, operator.outputs = [len(graph.tensors)], [index]
                graph.tensors.append(half)
                unpacking.append(operator)
        graph.operators = [*unpacking, *graph.operators]
    read = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    read |= {entry.buffer for entry in model.metadata or ()}
    for index, buffer in enumerate(model.buffers):
        if index not in read:
            buffer.data = None
    return bytes(convert_object_to_bytearray(model))


def _half(model: Any, tensor: Any, least: int) -> Any:
    """Takes the values from a float32 constant; returns the tensor that holds them as float16.

    None where it is no such constant, has fewer values than ``least``, or some that float16 cannot hold.
    """
    data = model.buffers[tensor.buffer].data
    if tensor.type != schema.TensorType.FLOAT32 or data is None:
        return None
    values = np.frombuffer(bytes(data), np.float32)
    if values.size < least or float(np.abs(values).max(initial=0.0)) > np.finfo(np.float16).max:
        return None
    buffer, half = schema.BufferT(), schema.TensorT()
    buffer.data = np.frombuffer(values.astype(np.float16).tobytes(), np.uint8)
    half.name, half.shape, half.hasRank = f"{_text(tensor.name)}_half", tensor.shape, True
    half.type, half.buffer = schema.TensorType.FLOAT16, len(model.buffers)
    model.buffers.append(buffer)
    tensor.buffer = 0  # which holds nothing, by custom
    return half


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def tensor_maps(tensors: Mapping[str, int]) -> list[Any]:
    """One side of a signature, from the indices of its tensors by name."""
    maps = []
    for name, index in tensors.items():
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        maps.append(entry)
    return maps
