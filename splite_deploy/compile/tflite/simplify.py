"""Rewrites a float32 TFLite file so that fewer operators round in int8; it computes the same.

* A matrix product with constants is a fully connected layer, whose weights have a scale for each output.
* The bias and ReLU that follow a transposed convolution, behind the slice that cuts it to its size, become its own.
* A product with a constant for each channel and the sum with others, as converters write a batch normalisation that no
  convolution takes, are a depthwise convolution of 1 x 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.compile.tflite.network import Network, Operator


def simplified(content: bytes) -> Network:
    """The network of a file, rewritten; tensors that stay keep their names."""
    network = Network(content)
    for operator in list(network.operators):
        if operator.kind == "BATCH_MATMUL":
            _as_fully_connected(network, operator)
        elif operator.kind == "TRANSPOSE_CONV":
            _take_bias(network, operator)
        elif operator.kind == "MUL":
            _as_depthwise(network, operator)
    return network


def _as_fully_connected(network: Network, operator: Operator) -> None:
    """Makes a matrix product with a constant matrix a fully connected layer; leaves any other as it is."""
    weights = network.constant(operator.inputs[1])
    options = operator.raw.builtinOptions
    if weights is None or options is None or options.adjX or weights.size != np.prod(weights.shape[-2:]):
        return
    matrix = weights.reshape(weights.shape[-2:])
    rows = np.ascontiguousarray(matrix if options.adjY else matrix.T)
    added = network.add_constant(f"{network.name(operator.outputs[0])}:weights", rows)
    operator.inputs = [operator.inputs[0], added, -1]
    connected = network.options("FullyConnectedOptions")
    connected.keepNumDims = True
    network.set_kind(operator, "FULLY_CONNECTED", connected)


def _take_bias(network: Network, operator: Operator) -> None:
    """Gives a transposed convolution the constant sum and the ReLU behind the slice that follows it."""
    piece = _only_reader(network, operator, ("STRIDED_SLICE", "SLICE"))
    total = None if piece is None else _only_reader(network, piece, ("ADD",))
    if len(operator.inputs) > 3 or piece is None or total is None:
        return
    channels = network.shape(operator.outputs[0])[-1]
    bias = _per_channel(network, total, channels)
    if bias is None or network.shape(piece.outputs[0])[-1] != channels:
        return
    operator.inputs = [*operator.inputs, network.add_constant(f"{network.result(operator)}:bias", bias)]
    operator.raw.builtinOptions.fusedActivationFunction = total.raw.builtinOptions.fusedActivationFunction
    network.set_kind(operator, operator.kind, operator.raw.builtinOptions, version=4)
    piece.outputs = total.outputs
    network.operators.remove(total)


def _as_depthwise(network: Network, operator: Operator) -> None:
    """Makes a product and a sum with constants for each channel one depthwise convolution."""
    total = _only_reader(network, operator, ("ADD",))
    shape = network.shape(operator.outputs[0])
    if total is None or len(shape) != 4 or shape[-1] == 1 or operator.raw.builtinOptions.fusedActivationFunction:
        return
    factor, bias = (_per_channel(network, one, shape[-1]) for one in (operator, total))
    read = network.activations(operator)
    if factor is None or bias is None or np.ptp(factor) == 0 or network.shape(read[0]) != shape:
        return  # one factor for all channels loses nothing, and belongs to a polynomial rather
    name = network.result(total)
    weights = network.add_constant(f"{name}:factor", factor.reshape(1, 1, 1, -1))
    operator.inputs = [read[0], weights, network.add_constant(f"{name}:bias", bias)]
    operator.outputs = total.outputs
    options = network.options("DepthwiseConv2DOptions")
    options.strideW = options.strideH = options.dilationWFactor = options.dilationHFactor = 1
    options.depthMultiplier = 1
    options.fusedActivationFunction = total.raw.builtinOptions.fusedActivationFunction
    network.set_kind(operator, "DEPTHWISE_CONV_2D", options)
    network.operators.remove(total)


def _only_reader(network: Network, operator: Operator, kinds: tuple[str, ...]) -> Operator | None:
    """The operator that alone reads the only result of another one, if it is of one of these kinds."""
    (result, *others), readers = operator.outputs, network.readers()
    found = readers.get(operator.outputs[0], [])
    alone = not others and len(found) == 1 and result not in network.outputs and found[0].kind in kinds
    return found[0] if alone else None


def _per_channel(network: Network, operator: Operator, channels: int) -> NDArray[Any] | None:
    """The constant that a product or sum has for each channel, the last axis; None where it has no such constant."""
    constants = [values for values in map(network.constant, operator.inputs) if values is not None]
    if len(constants) != 1 or len(network.activations(operator)) != 1 or constants[0].dtype != np.float32:
        return None
    (values,) = constants
    if values.size != 1 and (values.shape[-1] != channels or values.size != channels):
        return None
    return np.ascontiguousarray(np.broadcast_to(values.reshape(-1), (channels,)))
