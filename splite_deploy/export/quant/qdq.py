"""Writes QuantizeLinear/DequantizeLinear pairs into a float32 graph: int8 as ONNX Runtime and TensorRT each read it.

onnxruntime.quantization parts a convolution from its ReLU where ranges are symmetric, knows neither DepthToSpace nor
ReduceMean, and takes seconds for a graph; a pair in the wrong place is a layer that silently runs in float.

    ort  activations uint8 with a zero point, bias int32: without either ONNX Runtime does not fuse QLinearConv. It
         turns int8 activations into uint8 on x86, but not those that several nodes read, and cannot mix the two.
    trt  symmetric activations, zero points 0, float bias: TensorRT refuses anything else. The sum of a residual gets
         one branch straight from its convolution, which TensorRT fuses.

Weights are int8, symmetric, with one scale per output channel, in both.
"""

from __future__ import annotations

from collections.abc import Collection, MutableSequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from splite_deploy.export.graph.walk import WEIGHTED, Walk, attributes, constant
from splite_deploy.export.quant.ranges import Ranges

Consumer = Literal["ort", "trt"]

_KEEP_RANGE = {"DepthToSpace", "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Resize"}
_INT8 = _KEEP_RANGE | {"Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Concat"}
INT8_OPS: dict[Consumer, frozenset[str]] = {
    "ort": frozenset(_INT8 | {"AveragePool", "GlobalAveragePool"}),
    "trt": frozenset(_INT8 | {"AveragePool", "GlobalAveragePool", "ConvTranspose"}),
}
_ACTIVATIONS = {"Relu", "Clip"}  # vanish into the quantisation of what they follow
_SMALLEST = float(np.finfo(np.float32).tiny) * 2.0**24  # scales below it leave float32 when multiplied


@dataclass(frozen=True)
class _Grid:
    scale: float
    zero_point: np.uint8 | np.int8


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that says the same in operators which have int8 kernels; tensors keep their names.

    A mean over height and width becomes GlobalAveragePool. A hard sigmoid behind a convolution, clip(a x + b, 0, 1),
    lends it a and b and becomes Clip, which a quantised convolution does for nothing.
    """
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    walk = Walk(prepared)
    for node in walk.nodes.values():
        if node.op_type == "ReduceMean":
            _pool(walk, node)
        elif node.op_type == "HardSigmoid":
            _fold_hard_sigmoid(walk, node)
    _drop_unused(prepared)
    return prepared


def _pool(walk: Walk, node: onnx.NodeProto) -> None:
    given = attributes(node)
    axes = given.get("axes") if len(node.input) < 2 else constant(walk, node.input[1])
    if axes is not None and given.get("keepdims", 1) and sorted(np.asarray(axes).tolist()) in ([2, 3], [-2, -1]):
        node.op_type = "GlobalAveragePool"
        del node.input[1:], node.attribute[:]


def _fold_hard_sigmoid(walk: Walk, node: onnx.NodeProto) -> None:
    conv = walk.producer.get(node.input[0])
    if conv is None or conv.op_type != "Conv" or len(conv.input) != 3 or len(walk.consumers[node.input[0]]) > 1:
        return
    weight, bias = constant(walk, conv.input[1]), constant(walk, conv.input[2])
    if weight is None or bias is None or node.input[0] in walk.outputs:
        return
    given, graph = attributes(node), walk.model.graph
    alpha, beta = np.float32(given.get("alpha", 0.2)), np.float32(given.get("beta", 0.5))
    constants = {"weight": weight * alpha, "bias": bias * alpha + beta, "min": np.float32(0), "max": np.float32(1)}
    for key, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), f"{node.name}:{key}"))
    conv.input[1], conv.input[2] = f"{node.name}:weight", f"{node.name}:bias"
    node.op_type = "Clip"
    node.input.extend([f"{node.name}:min", f"{node.name}:max"])
    del node.attribute[:]


def _drop_unused(model: onnx.ModelProto) -> None:
    """Drops the constants that nothing reads, and the types of tensors, which may have changed."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:], model.graph.value_info[:]
    model.graph.initializer.extend(kept)


def has_qdq(model: onnx.ModelProto) -> bool:
    """Whether the graph already holds quantisation, as that of a network trained for it does."""
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node)


def with_uint8(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a quantised graph whose int8 activations are uint8 of the same scale, as ONNX Runtime's kernels are.

    The grid stays the same, but behind a ReLU, where it starts at zero: the lower half held no values.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    walk = Walk(made)
    for name, node in walk.nodes.items():
        zero = constant(walk, node.input[2]) if node.op_type == "QuantizeLinear" and len(node.input) > 2 else None
        if zero is None or zero.dtype != np.int8 or zero.size > 1 or node.input[0] in walk.constants:
            continue
        above = walk.producer.get(node.input[0])
        rectified = above is not None and above.op_type == "Relu" and not zero.any()
        shifted = np.reshape(np.uint8(0 if rectified else int(zero.ravel()[0]) + 128), zero.shape)
        made.graph.initializer.append(numpy_helper.from_array(shifted, f"{name}:zero_point"))
        for reader in (node, *walk.consumers.get(node.output[0], [])):
            reader.input[2] = f"{name}:zero_point"
    _drop_unused(made)
    return made


def insert_qdq(
    model: onnx.ModelProto,
    ranges: Ranges,
    consumer: Consumer,
    floating: Collection[str] = (),
    *,
    reduce_range: bool = False,
) -> onnx.ModelProto:
    """A copy of the graph with Q/DQ pairs around every node that the consumer runs in int8.

    Args:
        model: float32 graph from `prepare`.
        ranges: Ranges of its activations.
        consumer: Who will run it.
        floating: Names of nodes that stay float32.
        reduce_range: Weights of 7 bits. Intel and AMD CPUs without VNNI add pairs of uint8 x int8 products in 16 bits,
            which saturate with 8.
    """
    return _Inserter(model, ranges, consumer, set(floating), 63 if reduce_range else 127).run()


def quantised_nodes(walk: Walk, ranges: Ranges, consumer: Consumer, floating: Collection[str]) -> list[str]:
    """Names of the nodes that are to run in int8: of a kind that can, computing on calibrated float tensors."""
    found: dict[str, None] = {}
    for name, node in walk.nodes.items():
        can = node.op_type in INT8_OPS[consumer] and node.output[0] in ranges.limits
        if name in floating or not can or not any(tensor in ranges.limits for tensor in node.input):
            continue
        above = walk.producer.get(node.input[0])
        if node.op_type in _ACTIVATIONS and (above is None or above.name not in found):
            continue  # it follows what it is fused with
        found[name] = None
    return list(found)


class _Inserter:
    def __init__(
        self, model: onnx.ModelProto, ranges: Ranges, consumer: Consumer, floating: set[str], weight_max: int
    ) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.walk, self.ranges, self.consumer, self.weight_max = Walk(self.model), ranges, consumer, weight_max
        self.quantised = set(quantised_nodes(self.walk, ranges, consumer, floating))
        self.grids: dict[str, _Grid] = {}
        self.nodes: dict[str, list[onnx.NodeProto]] = {}  # what comes before a node, or after the inputs ("")
        self.after: dict[str, list[onnx.NodeProto]] = {}
        self.dropped: set[str] = set()
        self.inputs = {name: node.input[0] for name, node in self.walk.nodes.items() if node.input}  # as they were

    def run(self) -> onnx.ModelProto:
        marked = [tensor for tensor in self.ranges.limits if self._is_marked(tensor)]
        for tensor in marked:
            self.grids[tensor] = self._grid(tensor)
        for tensor in marked:
            self._pair(tensor)
        for name in self.walk.nodes:
            if name in self.quantised:
                self._constants(self.walk.nodes[name])
        ordered = list(self.after.get("", []))
        for name, node in self.walk.nodes.items():
            ordered += [*self.nodes.get(name, []), *([] if name in self.dropped else [node]), *self.after.get(name, [])]
        del self.model.graph.node[:]
        self.model.graph.node.extend(ordered)
        _drop_unused(self.model)
        return self.model

    def _is_int8(self, node: onnx.NodeProto | None) -> bool:
        return node is not None and node.name in self.quantised

    def _is_marked(self, tensor: str) -> bool:
        """Whether a tensor gets a Q/DQ pair."""
        producer, readers = self.walk.producer.get(tensor), self.walk.consumers.get(tensor, [])
        read, made = [node for node in readers if self._is_int8(node)], self._is_int8(producer)
        alone = len(readers) == 1 and tensor not in self.walk.outputs
        if made and alone and read and read[0].op_type in _ACTIVATIONS:
            return False
        if self.consumer == "ort":
            return bool(read) or made
        if made and alone and read and read[0].op_type == "Add" and producer.op_type in WEIGHTED:  # type: ignore[union-attr]
            return tensor != self._fused_branch(read[0])
        return bool(read)

    def _fused_branch(self, add: onnx.NodeProto) -> str | None:
        """The input of a sum that comes straight from a convolution that nothing else reads."""
        tensors: list[str] = list(add.input)
        for tensor in tensors:
            producer = self.walk.producer.get(tensor)
            if self._is_int8(producer) and producer.op_type in WEIGHTED and len(self.walk.consumers[tensor]) == 1:  # type: ignore[union-attr]
                return tensor
        return None

    def _grid(self, tensor: str) -> _Grid:
        producer = self.walk.producer.get(tensor)
        if self._is_int8(producer) and producer.op_type in _KEEP_RANGE and producer.input[0] in self.grids:  # type: ignore[union-attr]
            return self.grids[producer.input[0]]  # type: ignore[union-attr]
        return self._affine(*self.ranges.limits[tensor], self.ranges.magnitudes[tensor])

    def _affine(self, low: float, high: float, magnitude: float) -> _Grid:
        if self.consumer == "trt":
            return _Grid(max(magnitude / 127, _SMALLEST), np.int8(0))
        scale = max((high - low) / 255, _SMALLEST)
        return _Grid(scale, np.uint8(np.clip(np.round(-low / scale), 0, 255)))

    def _saturates(self, tensor: str, activation: onnx.NodeProto) -> bool:
        """Whether quantising clips as this ReLU or Clip does, so that it can go: nothing parts it from its convolution.

        TensorRT fuses them itself, and its symmetric ranges do not clip.
        """
        if self.consumer == "trt" or activation.op_type not in _ACTIVATIONS or activation.input[0] in self.grids:
            return False
        bounds = [constant(self.walk, name) for name in activation.input[1:]]
        low = 0.0 if activation.op_type == "Relu" else float(bounds[0]) if bounds and bounds[0] is not None else -np.inf
        return low in (0.0, -np.inf) or low <= self.ranges.extremes[tensor][0] <= 0.0

    def _pair(self, tensor: str) -> None:
        """Puts Q and DQ behind the maker of a tensor, and has its readers read that."""
        producer, grid = self.walk.producer.get(tensor), self.grids[tensor]
        scale = self._constant(f"{tensor}_scale", np.float32(grid.scale))
        zero = self._constant(f"{tensor}_zero_point", grid.zero_point)
        source, result = tensor, f"{tensor}_dequantized"
        made = self._is_int8(producer)
        if tensor in self.walk.outputs and made:
            assert producer is not None
            source, result = f"{tensor}_raw", tensor
            _replace(producer.output, tensor, source)
        if made and self._saturates(tensor, producer):  # type: ignore[arg-type]
            assert producer is not None
            self.dropped.add(producer.name)
            source = producer.input[0]
        for node in self.walk.consumers.get(tensor, []):
            if made or self._is_int8(node):
                _replace(node.input, tensor, result)
        self.after.setdefault("" if producer is None else producer.name, []).extend(
            [
                helper.make_node("QuantizeLinear", [source, scale, zero], [f"{tensor}_quantized"], f"{tensor}_Q"),
                helper.make_node("DequantizeLinear", [f"{tensor}_quantized", scale, zero], [result], f"{tensor}_DQ"),
            ]
        )

    def _constants(self, node: onnx.NodeProto) -> None:
        """Quantises what a node reads from the file."""
        if node.op_type not in WEIGHTED:
            for name in list(node.input) if node.op_type in ("Add", "Mul", "Concat") else ():
                value = constant(self.walk, name)
                if value is not None and value.dtype == np.float32:
                    self._operand(node, name, value)
            return
        tensor, weight = self.inputs[node.name], constant(self.walk, node.input[1])
        bias = constant(self.walk, node.input[2]) if len(node.input) > 2 else None
        if weight is None:
            return
        axis = _channel_axis(node, weight)
        others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
        scales = np.maximum(np.abs(weight.astype(np.float64)).max(axis=others) / self.weight_max, _SMALLEST)
        step = self.grids[tensor].scale
        if bias is not None and self.consumer == "ort":
            # The bias is stored in steps of input scale x weight scale: nearly dead channels would overflow int32
            scales = np.maximum(scales, np.abs(bias.astype(np.float64)) / (step * 2.0**30))
        error = self._store(node, node.input[1], weight, scales, axis) - weight
        if bias is None:
            return
        if node.op_type == "Conv" and tensor in self.ranges.means:
            bias = bias - _expected(error, self.ranges.means[tensor])
        name = f"{node.name}:{node.input[2]}"
        if self.consumer == "trt":
            _replace(node.input, node.input[2], self._constant(f"{name}_corrected", bias.astype(np.float32)))
            return
        stored = [
            self._constant(f"{name}_quantized", np.round(bias / (step * scales)).astype(np.int32)),
            self._constant(f"{name}_scale", (step * scales).astype(np.float32)),
            self._constant(f"{name}_zero_point", np.zeros(scales.shape, np.int32)),
        ]
        self._dequantize(node, node.input[2], stored, name, 0 if scales.ndim else None)

    def _operand(self, node: onnx.NodeProto, name: str, value: NDArray[Any]) -> None:
        """Quantises a constant as the activation beside it is: ONNX Runtime's int8 kernels take one type."""
        low, high = min(float(value.min()), 0.0), max(float(value.max()), 0.0)
        grid, own = self._affine(low, high, max(-low, high)), f"{node.name}:{name}"
        lowest, highest = np.iinfo(grid.zero_point).min, np.iinfo(grid.zero_point).max
        levels = np.clip(np.round(value / grid.scale) + int(grid.zero_point), lowest, highest)
        stored = [
            self._constant(f"{own}_quantized", levels.astype(grid.zero_point.dtype)),
            self._constant(f"{own}_scale", np.float32(grid.scale)),
            self._constant(f"{own}_zero_point", grid.zero_point),
        ]
        self._dequantize(node, name, stored, own, None)

    def _store(
        self,
        node: onnx.NodeProto,
        name: str,
        value: NDArray[Any],
        scales: NDArray[np.float64] | np.float64,
        axis: int | None,
    ) -> NDArray[np.float64]:
        """Stores a constant as int8, with one scale for each channel of ``axis``; returns what it then stands for."""
        shape = [-1 if i == axis else 1 for i in range(value.ndim)]
        steps = np.reshape(scales, shape if axis is not None else ())
        quantised = np.clip(np.round(value.astype(np.float64) / steps), -self.weight_max, self.weight_max)
        own = f"{node.name}:{name}"
        stored = [
            self._constant(f"{own}_quantized", quantised.astype(np.int8)),
            self._constant(f"{own}_scale", np.asarray(scales, np.float32)),
            self._constant(f"{own}_zero_point", np.zeros(np.shape(scales), np.int8)),
        ]
        self._dequantize(node, name, stored, own, axis)
        stands_for: NDArray[np.float64] = quantised * steps
        return stands_for

    def _dequantize(self, node: onnx.NodeProto, name: str, stored: list[str], own: str, axis: int | None) -> None:
        result = f"{own}_dequantized"
        extra: dict[str, Any] = {} if axis is None else {"axis": axis}
        made = helper.make_node("DequantizeLinear", stored, [result], f"{own}_DQ", **extra)
        self.nodes.setdefault(node.name, []).append(made)
        _replace(node.input, name, result)

    def _constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _expected(error: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the rounding of a convolution's weights adds to each output channel on average.

    Nagel et al. 2019, Data-Free Quantization Through Weight Equalization and Bias Correction (arXiv 1906.04721),
    section 4.2, with measured means.

    Args:
        error: (out, in / groups, ...) quantised minus float weights.
        means: (in,) mean of each input channel.
    """
    groups = len(means) // error.shape[1]
    taps = error.reshape(*error.shape[:2], -1).sum(axis=2).reshape(groups, -1, error.shape[1])
    shift: NDArray[np.float64] = np.einsum("goi,gi->go", taps, means.reshape(groups, -1)).ravel()
    return shift


def _channel_axis(node: onnx.NodeProto, weight: NDArray[Any]) -> int | None:
    """The axis of the output channels; None for grouped transposed convolutions, which spread them over two."""
    given = attributes(node)
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if given.get("group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if given.get("transB", 0) else 1
    return weight.ndim - 1


def _replace(names: MutableSequence[str], old: str, new: str) -> None:
    """Replaces a name among the inputs or outputs of a node."""
    for index, name in enumerate(names):
        if name == old:
            names[index] = new
