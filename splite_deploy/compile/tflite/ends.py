"""Both ends of a network inside of its ``.tflite`` file: uint8 crops in, keypoints out. For files of any precision.

The converter gets the graph with its decoder, and what the network gives stays an output beside the keypoints. From
what it makes `network_alone` takes the network, which becomes half precision or int8 as any other, and `with_decoder`
puts the decoder behind it again: that stays float32, and quantisation never sees it. `with_normalisation` puts float
arithmetic before the input.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools.flatbuffer_utils import convert_object_to_bytearray, read_model_from_bytearray
from numpy.typing import NDArray

from splite_deploy.compile.tflite.network import indices
from splite_deploy.compile.tflite.rewrite import tensor_maps

_BUILTIN, _TYPE = schema.BuiltinOperator, schema.TensorType
_TYPES = {np.dtype(np.float32): _TYPE.FLOAT32, np.dtype(np.int32): _TYPE.INT32}
_IMAGE = "image"


def network_alone(content: bytes, outputs: Mapping[str, str]) -> bytes:
    """A file without what is computed from its outputs.

    Args:
        content: A file with one graph and a signature.
        outputs: Names of outputs in the signature, by the name that they get; the others go.
    """
    whole = read_model_from_bytearray(content)
    (graph,), (signature,) = whole.subgraphs, whole.signatureDefs
    held = indices(signature.outputs)
    made = copy.copy(whole)
    made.subgraphs, made.buffers = [copy.copy(graph)], [schema.BufferT()]
    made.metadata = made.metadataBuffer = None  # which tell of buffers by their number
    made.subgraphs[0].tensors, made.subgraphs[0].operators = [], []
    known: dict[int, int] = {}
    for index in graph.inputs:
        _copy_tensor(whole, int(index), made, known)
    _copy_operators(whole, _needed(graph, [held[name] for name in outputs.values()], ()), made, known)
    inputs = {name: known[index] for name, index in indices(signature.inputs).items()}
    _sign(made, inputs, {name: known[held[before]] for name, before in outputs.items()})
    return bytes(convert_object_to_bytearray(made))


def with_decoder(content: bytes, whole: bytes, joints: Mapping[str, str], outputs: Sequence[str]) -> bytes:
    """A file with what another one computes from its outputs.

    Args:
        content: A file with one graph and a signature, whose outputs are float32.
        whole: The file with the decoder, with a signature.
        joints: Names of the first file's outputs in its signature, by those of the same tensors in the other one's.
        outputs: Names in the signature of that file which become the outputs, in this order.
    """
    made, source = read_model_from_bytearray(content), read_model_from_bytearray(whole)
    (graph,), (signature,) = made.subgraphs, made.signatureDefs
    given, held = indices(signature.outputs), indices(source.signatureDefs[0].outputs)
    known = {held[name]: given[own] for name, own in joints.items()}
    for name, index in zip(joints, known.values(), strict=True):
        graph.tensors[index].name = name  # its own may be that of a new output
    wanted = [held[name] for name in outputs]
    _copy_operators(source, _needed(source.subgraphs[0], wanted, known), made, known)
    placed = [_copy_tensor(source, index, made, known) for index in wanted]  # one may be a constant
    _sign(made, indices(signature.inputs), dict(zip(outputs, placed, strict=True)))
    return bytes(convert_object_to_bytearray(made))


def with_normalisation(content: bytes, mean: Sequence[float], std: Sequence[float], *, planes_first: bool) -> bytes:
    """A file that takes uint8 crops (1, h, w, C) and normalises them: (pixel - mean) / std by channel, in float32.

    XNNPACK runs DEQUANTIZE and arithmetic at the speed of memory, but requantises no uint8 to int8, which is why int8
    files too go through float32 here. Constants are as wide as the crop: along three channels alone it takes as long as
    a fifth of a small network. Zero padding of the first layer stands for pixels of the mean, as it has to: the mean is
    not folded into a bias.

    Args:
        content: A file with one graph and a signature, whose input ``image`` is float32.
        mean: By channel, on the 0-255 scale.
        std: By channel.
        planes_first: Whether that input is NCHW and not NHWC.
    """
    model = read_model_from_bytearray(content)
    (graph,), (signature,) = model.subgraphs, model.signatureDefs
    (normalised,) = indices(signature.inputs).values()
    held = [int(size) for size in graph.tensors[normalised].shape]
    shape = [held[axis] for axis in (0, 2, 3, 1)] if planes_first else held
    graph.tensors[normalised].name = "normalised"
    one_scale = len(set(std)) == 1
    step = 1.0 / std[0] if one_scale else 1.0
    operators: list[Any] = []

    def apply(kind: str, options: Any, inputs: Sequence[int], result: int | None = None) -> int:
        made = schema.OperatorT()
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(_BUILTIN, kind)
        code.version = 1
        made.opcodeIndex = _operator_code(model, code)
        name = type(options).__name__.removesuffix("T")
        made.builtinOptionsType, made.builtinOptions = getattr(schema.BuiltinOptions, name), options
        output = _add_tensor(model, f"normalise/{kind.lower()}", shape) if result is None else result
        made.inputs, made.outputs = list(inputs), [output]
        operators.append(made)
        return output

    def constant(name: str, values: NDArray[np.float64]) -> int:
        wide = np.broadcast_to(values.astype(np.float32), (1, 1, *shape[2:]))
        return _add_tensor(model, f"normalise/{name}", wide.shape, wide)

    crop = _add_tensor(model, _IMAGE, shape)
    graph.tensors[crop].type = _TYPE.UINT8
    graph.tensors[crop].quantization = schema.QuantizationParametersT()
    graph.tensors[crop].quantization.scale, graph.tensors[crop].quantization.zeroPoint = [step], [0]
    value = apply("DEQUANTIZE", schema.DequantizeOptionsT(), [crop])
    scale, offset = 1.0 / np.array(std), -np.array(mean) / np.array(std)
    if not one_scale:
        value = apply("MUL", schema.MulOptionsT(), [value, constant("scale", scale)])
    last = None if planes_first else normalised
    value = apply("ADD", schema.AddOptionsT(), [value, constant("offset", offset)], last)
    if planes_first:
        order = _add_tensor(model, "normalise/order", (4,), np.array((0, 3, 1, 2), np.int32))
        apply("TRANSPOSE", schema.TransposeOptionsT(), [value, order], normalised)
    graph.operators = [*operators, *graph.operators]
    _sign(model, {_IMAGE: crop}, indices(signature.outputs))
    return bytes(convert_object_to_bytearray(model))


def _needed(graph: Any, wanted: Iterable[int], known: Iterable[int]) -> list[Any]:
    """The operators that tensors are computed with from those that are known, in their order."""
    missing, found = set(wanted) - set(known), []
    for operator in reversed(graph.operators):
        if not missing.isdisjoint(map(int, operator.outputs)):
            found.append(operator)
            missing |= set(map(int, operator.inputs)) - set(known)
    return found[::-1]


def _copy_operators(source: Any, operators: Iterable[Any], target: Any, known: dict[int, int]) -> None:
    """Appends operators of one file to another one, with the tensors that they read and make.

    Args:
        source: Whose operators they are.
        operators: In their order.
        target: The other file.
        known: Tensors there, by those of ``source`` that they are; grows.
    """
    for operator in operators:
        made = copy.copy(operator)
        made.opcodeIndex = _operator_code(target, source.operatorCodes[operator.opcodeIndex])
        made.inputs = [_copy_tensor(source, int(index), target, known) for index in operator.inputs]
        made.outputs = [_copy_tensor(source, int(index), target, known) for index in operator.outputs]
        target.subgraphs[0].operators.append(made)


def _copy_tensor(source: Any, index: int, target: Any, known: dict[int, int]) -> int:
    """The index of a tensor in another file, after copying it there unless it is known; -1 for what is left out."""
    if index < 0 or index in known:
        return known.get(index, -1)
    made = copy.copy(source.subgraphs[0].tensors[index])
    data = source.buffers[made.buffer].data
    made.buffer = 0 if data is None or len(data) == 0 else _add_buffer(target, data)
    target.subgraphs[0].tensors.append(made)
    known[index] = len(target.subgraphs[0].tensors) - 1
    return known[index]


def _operator_code(model: Any, wanted: Any) -> int:
    """The place of a kind of operator in a file's table of them, which it is added to where it is missing."""

    def facts(code: Any) -> tuple[Any, ...]:
        return max(code.builtinCode, code.deprecatedBuiltinCode), code.version, code.customCode

    for index, code in enumerate(model.operatorCodes):
        if facts(code) == facts(wanted):
            return index
    model.operatorCodes = [*model.operatorCodes, wanted]
    return len(model.operatorCodes) - 1


def _add_tensor(model: Any, name: str, shape: Sequence[int], values: NDArray[Any] | None = None) -> int:
    """Adds a tensor, a float32 activation or a constant; returns its index."""
    made = schema.TensorT()
    made.name, made.shape, made.hasRank = name, list(shape), True
    made.type = _TYPE.FLOAT32 if values is None else _TYPES[values.dtype]
    made.buffer = 0 if values is None else _add_buffer(model, np.frombuffer(values.tobytes(), np.uint8))
    model.subgraphs[0].tensors.append(made)
    return len(model.subgraphs[0].tensors) - 1


def _add_buffer(model: Any, data: Any) -> int:
    buffer = schema.BufferT()
    buffer.data = data
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def _sign(model: Any, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> None:
    """Makes these tensors the inputs and outputs, under these names in the signature and for themselves."""
    (graph,), (signature,) = model.subgraphs, model.signatureDefs
    for name, index in {**inputs, **outputs}.items():
        graph.tensors[index].name = name
    graph.inputs, graph.outputs = list(inputs.values()), list(outputs.values())
    signature.inputs, signature.outputs = tensor_maps(inputs), tensor_maps(outputs)
