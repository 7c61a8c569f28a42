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

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splite_deploy.export.graph.opset import quantisable_opset
from splite_deploy.export.graph.walk import (
    WEIGHTED,
    add_constant,
    attributes,
    constant,
    drop_unused,
    forget_types,
    name_of,
    readers,
    replace_input,
    set_inputs,
    sizes,
)
from splite_deploy.export.quant.ranges import Ranges

Consumer = Literal["ort", "trt"]

_MOVERS = {"DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Resize", "Slice"}
_MOVERS |= {"Split", "Squeeze", "Transpose", "Unsqueeze"}
_JOINING = {"Add", "Mul"}
_COMPUTING = _JOINING | {"AveragePool", "Clip", "Concat", "Conv", "Gemm", "GlobalAveragePool", "LeakyRelu", "MatMul"}
_COMPUTING |= {"Relu", "Sigmoid"}
_PRODUCTS = {"Gemm", "MatMul"}  # ONNX Runtime's int8 kernels of them give float as well
_NOT_FUSED = {"GatherND", "Pad"}  # by ONNX Runtime, which runs them in integers where they are written so
MOVERS: dict[Consumer, frozenset[str]] = {
    "ort": frozenset(_MOVERS | {"GatherElements", "GatherND", "ReduceMax", "ReduceMin", "Tile"}),
    "trt": frozenset(_MOVERS),
}
"""Operators that move values without changing them: what they give keeps the grid of what they take."""
INT8_OPS: dict[Consumer, frozenset[str]] = {
    "ort": frozenset(MOVERS["ort"] | _COMPUTING),
    "trt": frozenset(MOVERS["trt"] | _COMPUTING | {"ConvTranspose"}),
}
_ORDERLESS = {"DepthToSpace", "Flatten", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_ACTIVATIONS = {"Relu", "Clip"}  # vanish into the quantisation of what they follow
_ALIKE = 0.75  # a range of this share of another may take its grid: a third of a step more costs less than requantising
_SMALLEST = float(np.finfo(np.float32).tiny) * 2.0**24  # scales below it leave float32 when multiplied


@dataclass(frozen=True)
class _Grid:
    scale: float
    zero_point: np.uint8 | np.int8


def prepare(model: ir.Model) -> ir.Model:
    """A copy that says the same in operators which have int8 kernels; tensors keep their names.

    A mean over height and width becomes GlobalAveragePool. A hard sigmoid behind a convolution, clip(a x + b, 0, 1),
    lends it a and b and becomes Clip, which a quantised convolution does for nothing. So does a ReLU behind a pixel
    shuffle or another mover, once it stands in front of it. MatMul and the bias behind it become Gemm on rows: its bias
    has 32 bits in int8, and ONNX Runtime joins the two in any case, once they are int8 no longer.
    """
    prepared = quantisable_opset(model)
    for node in prepared.graph:
        if node.op_type == "ReduceMean":
            _pool(node)
        elif node.op_type == "HardSigmoid":
            _fold_hard_sigmoid(prepared.graph, node)
        elif node.op_type in _ACTIVATIONS:
            _before_movers(node)
        elif node.op_type == "MatMul":
            _gemm(prepared.graph, node)
    drop_unused(prepared.graph)
    forget_types(prepared.graph)
    return prepared


def _pool(node: ir.Node) -> None:
    given, image = attributes(node), node.inputs[0]
    axes = given.get("axes") if len(node.inputs) < 2 else constant(node.inputs[1])
    spatial = axes is not None and sorted(np.asarray(axes).tolist()) in ([2, 3], [-2, -1])
    if image is not None and spatial and given.get("keepdims", 1):
        node.op_type = "GlobalAveragePool"
        set_inputs(node, image)
        node.attributes.clear()


def _fold_hard_sigmoid(graph: ir.Graph, node: ir.Node) -> None:
    (source,) = node.inputs
    conv = None if source is None else source.producer()
    if source is None or conv is None or conv.op_type != "Conv" or len(conv.inputs) != 3:
        return
    weight, bias = constant(conv.inputs[1]), constant(conv.inputs[2])
    if weight is None or bias is None or len(readers(source)) > 1 or source.is_graph_output():
        return
    given = attributes(node)
    alpha, beta = np.float32(given.get("alpha", 0.2)), np.float32(given.get("beta", 0.5))
    values = {"weight": weight * alpha, "bias": bias * alpha + beta, "min": np.float32(0), "max": np.float32(1)}
    added = {key: add_constant(graph, f"{node.name}:{key}", np.asarray(v, np.float32)) for key, v in values.items()}
    conv.replace_input_with(1, added["weight"])
    conv.replace_input_with(2, added["bias"])
    node.op_type = "Clip"
    set_inputs(node, source, added["min"], added["max"])
    node.attributes.clear()


def _gemm(graph: ir.Graph, node: ir.Node) -> None:
    """Makes Gemm between two reshapes of a product with a constant matrix and the bias added to it."""
    rows, result = node.inputs[0], node.outputs[0]
    weight, reading = constant(node.inputs[1]), readers(result)
    if rows is None or weight is None or weight.ndim != 2 or len(reading) != 1 or reading[0].op_type != "Add":
        return
    add, shape = reading[0], sizes(result)
    bias = next((value for value in add.inputs if constant(value) is not None), None)
    array, total = constant(bias), add.outputs[0]
    if bias is None or array is None or array.shape != weight.shape[1:] or total.is_graph_output():
        return
    if len(shape) < 2 or None in shape[1:] or result.is_graph_output():
        return
    flat = add_constant(graph, f"{node.name}:rows", np.array([-1, weight.shape[0]]))
    back = add_constant(graph, f"{node.name}:shape", np.array([-1, *shape[1:]]))
    take = ir.node("Reshape", [rows, flat], name=f"{node.name}:take")
    give = ir.node("Reshape", [result, back], name=f"{node.name}:give")
    for reader in readers(total):
        replace_input(reader, total, give.outputs[0])
    graph.remove(add, safe=True)
    take.outputs[0].name, give.outputs[0].name = f"{node.name}:rows_of", f"{total.name}:shaped"
    result.name = total.name  # whose range it has
    node.prepend(take)
    node.append(give)
    node.op_type = "Gemm"
    node.replace_input_with(0, take.outputs[0])
    node.resize_inputs(3)
    node.replace_input_with(2, bias)


def _before_movers(activation: ir.Node) -> None:
    """Puts a ReLU or Clip in front of what only moves values, where that makes no difference.

    The result keeps its name; what then lies in between gets names without a range, and so the range of the result.
    """
    source, name = activation.inputs[0], name_of(activation.outputs[0])
    mover = None if source is None else source.producer()
    while mover is not None and mover.op_type in _ORDERLESS and len(mover.outputs) == 1:
        moved, taken = mover.outputs[0], mover.inputs[0]
        if taken is None or len(moved.uses()) > 1 or moved.is_graph_output() or activation.outputs[0].is_graph_output():
            return
        result, graph = activation.outputs[0], activation.graph
        assert graph is not None
        for reader in readers(result):
            replace_input(reader, result, moved)
        activation.replace_input_with(0, taken)
        mover.replace_input_with(0, result)
        graph.remove(activation)
        mover.prepend(activation)
        moved.name, name = name, f"{mover.name}:clipped"
        result.name = name
        mover = taken.producer()


def has_qdq(model: ir.Model) -> bool:
    """Whether the graph already holds quantisation, as that of a network trained for it does."""
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph)


def with_uint8(model: ir.Model) -> ir.Model:
    """A copy of a quantised graph whose int8 activations are uint8 on the same grid, as ONNX Runtime's kernels are.

    A ReLU or Clip between a layer and its quantiser keeps ONNX Runtime from fusing the two. It goes behind the
    quantiser, where it is a Clip of integers: rounding keeps the order of values, so that Q(clip(x, a, b)) is
    clip(Q(x), Q(a), Q(b)). The largest value stays the one that training saw.
    """
    made = model.clone()
    for node in list(made.graph):
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scalar_grid(node)
        if node.op_type != "QuantizeLinear" or len(node.inputs) < 3:
            continue
        zero, source, reading = constant(node.inputs[2]), node.inputs[0], readers(node.outputs[0])
        if zero is None or zero.size > 1 or source is None or source.is_initializer():
            continue
        if zero.dtype == np.int8 and all(reader.op_type == "DequantizeLinear" for reader in reading):
            zero = (zero.astype(np.int16) + 128).astype(np.uint8)
            added = add_constant(made.graph, f"{node.name}:zero_point", zero)
            for reader in (node, *reading):
                reader.replace_input_with(2, added)
        if zero.dtype == np.uint8:
            _clip_behind(made.graph, node, int(zero.ravel()[0]))
    drop_unused(made.graph)
    forget_types(made.graph)
    return made


def scalar_grid(node: ir.Node) -> None:
    """Makes scales and zero points of one element scalars: torch writes lists of one, which sums refuse."""
    for value in node.inputs[1:]:
        array = constant(value)
        if value is not None and array is not None and array.shape == (1,):
            value.const_value, value.shape = ir.tensor(array.reshape(()), name=value.name), ir.Shape([])


def _clip_behind(graph: ir.Graph, quantiser: ir.Node, zero: int) -> None:
    """Moves the ReLU or Clip in front of a uint8 quantiser behind it, if nothing else reads its result."""
    clipped, scale = quantiser.inputs[0], constant(quantiser.inputs[1])
    activation = None if clipped is None else clipped.producer()
    bounds = None if activation is None else _bounds(activation)
    if clipped is None or activation is None or bounds is None or scale is None:
        return
    if len(clipped.uses()) > 1 or clipped.is_graph_output() or activation.inputs[0] is None:
        return
    quantiser.replace_input_with(0, activation.inputs[0])
    graph.remove(activation, safe=True)
    levels = np.clip(np.round(np.asarray(bounds, np.float32) / np.float32(scale.ravel()[0])) + zero, 0, 255).astype(
        np.uint8
    )
    if levels.tolist() == [0, 255]:  # which the type holds anyway
        return
    low, high = (
        add_constant(graph, f"{quantiser.name}:{which}", level)
        for which, level in zip(("min", "max"), levels, strict=True)
    )
    stored, reading = quantiser.outputs[0], readers(quantiser.outputs[0])
    clip = ir.node("Clip", [stored, low, high], name=f"{quantiser.name}:clip")
    clip.outputs[0].name = f"{stored.name}:clipped"
    for reader in reading:
        replace_input(reader, stored, clip.outputs[0])
    quantiser.append(clip)


def _bounds(activation: ir.Node) -> tuple[float, float] | None:
    """What a ReLU or Clip clips to; None for other nodes, and for bounds that are computed."""
    if activation.op_type == "Relu":
        return 0.0, np.inf
    if activation.op_type != "Clip":
        return None
    found = [-np.inf, np.inf]
    for index, value in enumerate(activation.inputs[1:]):
        array = constant(value)
        if value is not None and array is None:
            return None
        if array is not None:
            found[index] = float(array.ravel()[0])
    return found[0], found[1]


def insert_qdq(
    model: ir.Model,
    ranges: Ranges,
    consumer: Consumer,
    floating: Collection[str] = (),
    *,
    reduce_range: bool = False,
) -> ir.Model:
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


def quantised_nodes(graph: ir.Graph, ranges: Ranges, consumer: Consumer, floating: Collection[str]) -> list[str]:
    """Names of the nodes that are to run in int8: of a kind that can, computing on calibrated float tensors."""
    return [name_of(node) for node in _Selection(graph, _with_moved(ranges, graph, consumer), consumer, floating).found]


def _with_moved(ranges: Ranges, graph: ir.Graph, consumer: Consumer) -> Ranges:
    """Ranges that hold the values, too, which `prepare` has moved."""
    limits, magnitudes, extremes = dict(ranges.limits), dict(ranges.magnitudes), dict(ranges.extremes)
    movers = [node for node in graph if node.op_type in MOVERS[consumer]]
    ends = [(node.inputs[0], node.outputs[0]) for node in movers] + [
        (node.outputs[0], node.inputs[0]) for node in reversed(movers)
    ]
    for known, new in ends:
        if known is not None and new is not None and known.name in limits and new.name not in limits:
            source, name = name_of(known), name_of(new)
            limits[name], magnitudes[name], extremes[name] = limits[source], magnitudes[source], extremes[source]
    return replace(ranges, limits=limits, magnitudes=magnitudes, extremes=extremes)


class _Selection:
    """Which nodes run in int8: those with weights, and between them what need not leave int8 for it.

    A sum, gate, pool or mover in a float island, as in a normalisation, would gain nothing from two conversions and
    lose digits: it runs in int8 only where its inputs are there already and a node with weights follows.

    Attributes:
        found: The nodes, in topological order.
    """

    def __init__(self, graph: ir.Graph, ranges: Ranges, consumer: Consumer, floating: Collection[str]) -> None:
        self.ranges, self.consumer, self.movers = ranges, consumer, MOVERS[consumer]
        self.can = {node for node in graph if node.name not in floating and self._has_kernel(node)}
        self.leading: set[ir.Node] = set()
        for node in reversed(graph):
            if any(self._leads(reader) for value in node.outputs for reader in readers(value)):
                self.leading.add(node)
        self.image = set(graph.inputs)
        self.made: set[ir.Value] = set()
        self.found: dict[ir.Node, None] = {}
        for node in graph:
            if node in self.can and self._runs(node):
                self.found[node] = None
                moves_image = node.op_type not in WEIGHTED and all(v in self.image for v in self._activations(node))
                (self.image if moves_image else self.made).update(node.outputs)

    def _activations(self, node: ir.Node) -> list[ir.Value]:
        return [value for value in node.inputs if value is not None and value.name in self.ranges.limits]

    def _has_kernel(self, node: ir.Node) -> bool:
        if node.op_type not in INT8_OPS[self.consumer] or node.outputs[0].name not in self.ranges.limits:
            return False
        given = self._activations(node)
        if not given:
            return False
        if node.op_type in self.movers and node.inputs[0] is not given[0]:
            return False  # what it moves is a constant
        if node.op_type == "Resize":
            kind = attributes(node).get("mode", "nearest")
            return kind == "nearest" or (kind == "linear" and len(self.ranges.shapes[name_of(given[0])]) == 3)
        if node.op_type == "MaxPool":
            return len(node.outputs) == 1
        return node.op_type != "Pad" or self._pads_within(node, name_of(given[0]))

    def _pads_within(self, pad: ir.Node, source: str) -> bool:
        """Whether the padding lies on the grid of what is padded: zero does, -3.4e38 does not."""
        value = pad.inputs[2] if len(pad.inputs) > 2 else None
        if attributes(pad).get("mode", "constant") != "constant" or value is None:
            return True
        array, (low, high) = constant(value), self.ranges.limits[source]
        return array is not None and (not array.any() or bool((array >= low).all() and (array <= high).all()))

    def _leads(self, reader: ir.Node) -> bool:
        """Whether a reader has weights, or can stay in int8 on the way to one that has."""
        return reader.op_type in WEIGHTED or (reader in self.can and reader in self.leading)

    def _runs(self, node: ir.Node) -> bool:
        given = self._activations(node)
        if node.op_type in WEIGHTED:
            return not any(map(self._is_softmax_of_int8, given))
        if node.op_type in _ACTIVATIONS:
            return given[0].producer() in self.found  # it follows what it is fused with
        if node not in self.leading:
            return False
        if node.op_type in _JOINING and self._is_epilogue(node):
            self.made.update(node.outputs if given[0] in self.made else ())
            return False
        here = [value in self.made for value in given]
        if node.op_type == "Concat":
            return any(here) or all(value in self.image for value in given)
        if node.op_type in _JOINING and not any(here):
            return False
        return all(value in self.made or value in self.image for value in given)

    def _is_epilogue(self, node: ir.Node) -> bool:
        """Whether TensorRT computes a sum or product with a constant at the end of the layer in front of it.

        It does so in float, and refuses int8 scalars.
        """
        return self.consumer == "trt" and any(constant(value) is not None for value in node.inputs)

    def _is_softmax_of_int8(self, value: ir.Value) -> bool:
        """Whether ONNX Runtime would run the softmax in int8, too, which loses most of its digits."""
        softmax = self._origin(value).producer()
        if self.consumer != "ort" or softmax is None or softmax.op_type != "Softmax" or softmax.inputs[0] is None:
            return False
        producer = self._origin(softmax.inputs[0]).producer()
        return producer in self.found and producer is not None and producer.op_type not in _PRODUCTS

    def _origin(self, value: ir.Value) -> ir.Value:
        """What was computed and has only been moved since."""
        producer = value.producer()
        while producer is not None and producer.op_type in self.movers and producer.inputs[0] is not None:
            value = producer.inputs[0]
            producer = value.producer()
        return value


class _Inserter:
    def __init__(
        self, model: ir.Model, ranges: Ranges, consumer: Consumer, floating: set[str], weight_max: int
    ) -> None:
        self.model = model.clone()
        self.graph, self.consumer, self.weight_max = self.model.graph, consumer, weight_max
        self.ranges, self.movers = _with_moved(ranges, self.graph, consumer), MOVERS[consumer]
        self.quantised = _Selection(self.graph, self.ranges, consumer, floating).found
        self.grids: dict[ir.Value, _Grid] = {}
        self.sources = {node: node.inputs[0] for node in self.quantised}  # as they were

    def run(self) -> ir.Model:
        values = [*self.graph.inputs, *(value for node in self.graph for value in node.outputs)]
        marked = [value for value in values if value.name in self.ranges.limits and self._is_marked(value)]
        for value in marked:
            self.grids[value] = self._grid(value)
        for value in marked:
            self._pair(value)
        for node in self.quantised:
            if node.graph is not None:  # not dropped
                self._constants(node)
        if self.consumer == "ort":
            for node in list(self.graph):
                if node.op_type in _NOT_FUSED:
                    self._in_integers(node)
        drop_unused(self.graph)
        forget_types(self.graph)
        return self.model

    def _is_int8(self, node: ir.Node | None) -> bool:
        return node in self.quantised

    def _is_marked(self, value: ir.Value) -> bool:
        """Whether a value gets a Q/DQ pair."""
        producer, reading = value.producer(), readers(value)
        read, made = [node for node in reading if self._is_int8(node)], self._is_int8(producer)
        alone = len(reading) == 1 and not value.is_graph_output()
        moved = producer is not None and producer.op_type in self.movers
        if made and alone and read and read[0].op_type in _ACTIVATIONS and not moved:
            return False
        if self.consumer == "ort":
            return bool(read) or (made and producer is not None and producer.op_type not in _PRODUCTS)
        if producer is not None and made and alone and read and read[0].op_type == "Add":
            return producer.op_type not in WEIGHTED or value is not self._fused_branch(read[0])
        return bool(read)

    def _fused_branch(self, add: ir.Node) -> ir.Value | None:
        """The input of a sum that comes straight from a convolution that nothing else reads."""
        for value in add.inputs:
            producer = None if value is None else value.producer()
            weighted = producer is not None and self._is_int8(producer) and producer.op_type in WEIGHTED
            if value is not None and weighted and len(readers(value)) == 1:
                return value
        return None

    def _grid(self, value: ir.Value) -> _Grid:
        producer, name = value.producer(), name_of(value)
        if producer is not None and self._is_int8(producer) and producer.op_type in self.movers:
            source = self.sources[producer]
            if source in self.grids:
                return self.grids[source]
        joined = self._joined_with(value)
        if joined and self._may_share(name, joined, producer):
            name = joined
        return self._affine(*self.ranges.limits[name], self.ranges.magnitudes[name])

    def _may_share(self, name: str, joined: str, producer: ir.Node | None) -> bool:
        """Whether a value loses little on the grid of the concatenation that it reaches."""
        if self.consumer == "trt":
            return self.ranges.magnitudes[name] >= _ALIKE * self.ranges.magnitudes[joined]
        (low, high), (first, last) = self.ranges.limits[name], self.ranges.limits[joined]
        clipped = producer is not None and self._is_int8(producer) and producer.op_type in _ACTIVATIONS
        if clipped and (first, last) != (low, high):  # the ends of its own grid replace it
            return False
        return high - low >= _ALIKE * (last - first)

    def _joined_with(self, value: ir.Value) -> str:
        """The name of the concatenation that a value reaches, moved at most; empty where it reaches none."""
        for reader in readers(value):
            if self._is_int8(reader):
                if reader.op_type == "Concat":
                    return name_of(reader.outputs[0])
                if reader.op_type in self.movers and (found := self._joined_with(reader.outputs[0])):
                    return found
        return ""

    def _in_integers(self, mover: ir.Node) -> None:
        """Has a mover work on the integers, where the pairs in front of it and behind it have one grid."""
        restore = None if mover.inputs[0] is None else mover.inputs[0].producer()
        after = readers(mover.outputs[0])
        if restore is None or restore.op_type != "DequantizeLinear" or len(after) != 1:
            return
        quantise, grid = after[0], [constant(value) for value in restore.inputs[1:]]
        if quantise.op_type != "QuantizeLinear" or mover.outputs[0].is_graph_output():
            return
        same = [constant(value) for value in quantise.inputs[1:]]
        if not all(a is not None and b is not None and np.array_equal(a, b) for a, b in zip(grid, same, strict=True)):
            return
        step, zero = grid
        assert step is not None and zero is not None
        if mover.op_type == "Pad" and attributes(mover).get("mode", "constant") == "constant":
            padding = constant(mover.inputs[2]) if len(mover.inputs) > 2 else None
            level = np.round((0.0 if padding is None else padding.ravel()[0]) / step) + int(zero)
            added = add_constant(self.graph, f"{mover.name}:padding", np.clip(level, 0, 255).astype(np.uint8))
            mover.resize_inputs(max(len(mover.inputs), 3))
            mover.replace_input_with(2, added)
        mover.replace_input_with(0, restore.inputs[0])
        stored = quantise.outputs[0]
        for reader in readers(stored):
            replace_input(reader, stored, mover.outputs[0])
        self.graph.remove(quantise, safe=True)
        if not restore.outputs[0].uses() and not restore.outputs[0].is_graph_output():
            self.graph.remove(restore, safe=True)

    def _affine(self, low: float, high: float, magnitude: float) -> _Grid:
        if self.consumer == "trt":
            return _Grid(max(magnitude / 127, _SMALLEST), np.int8(0))
        scale = max((high - low) / 255, _SMALLEST)
        return _Grid(scale, np.uint8(np.clip(np.round(-low / scale), 0, 255)))

    def _saturates(self, name: str, activation: ir.Node) -> bool:
        """Whether quantising clips as this ReLU or Clip does, so that it can go: nothing parts it from its convolution.

        TensorRT fuses them itself, and its symmetric ranges do not clip.
        """
        if self.consumer == "trt" or activation.op_type not in _ACTIVATIONS or self.sources[activation] in self.grids:
            return False
        if (bounds := _bounds(activation)) is None:
            return False
        return bounds[0] in (0.0, -np.inf) or bounds[0] <= self.ranges.extremes[name][0] <= 0.0

    def _pair(self, value: ir.Value) -> None:
        """Puts Q and DQ behind the maker of a value, and has its readers read that."""
        producer, grid, name = value.producer(), self.grids[value], name_of(value)
        made, reading = self._is_int8(producer), readers(value)
        scale = add_constant(self.graph, f"{name}_scale", np.float32(grid.scale))
        zero = add_constant(self.graph, f"{name}_zero_point", grid.zero_point)
        source, dropped = value, False
        if producer is not None and made and self._saturates(name, producer):
            fused_with = self.sources[producer]
            assert fused_with is not None
            source, dropped = fused_with, True
        quantise = ir.node("QuantizeLinear", [source, scale, zero], name=f"{name}_Q")
        restore = ir.node("DequantizeLinear", [quantise.outputs[0], scale, zero], name=f"{name}_DQ")
        (stored,), (result,) = quantise.outputs, restore.outputs
        stored.name, result.name = f"{name}_quantized", f"{name}_dequantized"
        if value.is_graph_output() and made:
            result.type, result.shape = value.type, value.shape
            value.name, result.name = f"{name}_raw", name
            for index, output in enumerate(self.graph.outputs):
                if output is value:
                    self.graph.outputs[index] = result
        for node in reading:
            if made or self._is_int8(node):
                replace_input(node, value, result)
        if producer is None:
            self.graph.insert_before(self.graph[0], [quantise, restore])
        else:
            producer.append([quantise, restore])
        if dropped and producer is not None:
            self.graph.remove(producer, safe=True)

    def _constants(self, node: ir.Node) -> None:
        """Quantises what a node reads from the file."""
        if node.op_type not in WEIGHTED:
            for value in list(node.inputs) if node.op_type in _JOINING | {"Concat"} else ():
                array = constant(value)
                if value is not None and array is not None and array.dtype == np.float32:
                    self._operand(node, value, array)
            return
        kernel, source = node.inputs[1], self.sources[node]
        offset = node.inputs[2] if len(node.inputs) > 2 else None
        weight, bias = constant(kernel), constant(offset)
        if kernel is None or weight is None or source is None:
            return
        axis = _channel_axis(node, weight)
        others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
        scales = np.maximum(np.abs(weight.astype(np.float64)).max(axis=others) / self.weight_max, _SMALLEST)
        step = self.grids[source].scale
        if bias is not None and self.consumer == "ort":
            # The bias is stored in steps of input scale x weight scale: nearly dead channels would overflow int32
            scales = np.maximum(scales, np.abs(bias.astype(np.float64)) / (step * 2.0**30))
        error = self._store(node, kernel, weight, scales, axis) - weight
        if bias is None or offset is None:
            return
        if node.op_type == "Conv" and name_of(source) in self.ranges.means:
            bias = bias - _expected(error, self.ranges.means[name_of(source)])
        name = f"{node.name}:{offset.name}"
        if self.consumer == "trt":
            corrected = add_constant(self.graph, f"{name}_corrected", bias.astype(np.float32))
            replace_input(node, offset, corrected)
            return
        stored = [
            add_constant(self.graph, f"{name}_quantized", np.round(bias / (step * scales)).astype(np.int32)),
            add_constant(self.graph, f"{name}_scale", (step * scales).astype(np.float32)),
            add_constant(self.graph, f"{name}_zero_point", np.zeros(scales.shape, np.int32)),
        ]
        self._dequantize(node, offset, stored, name, 0 if scales.ndim else None)

    def _operand(self, node: ir.Node, value: ir.Value, array: NDArray[Any]) -> None:
        """Quantises a constant as the activation beside it is: ONNX Runtime's int8 kernels take one type."""
        low, high = min(float(array.min()), 0.0), max(float(array.max()), 0.0)
        grid, own = self._affine(low, high, max(-low, high)), f"{node.name}:{value.name}"
        lowest, highest = np.iinfo(grid.zero_point).min, np.iinfo(grid.zero_point).max
        levels = np.clip(np.round(array / grid.scale) + int(grid.zero_point), lowest, highest)
        stored = [
            add_constant(self.graph, f"{own}_quantized", levels.astype(grid.zero_point.dtype)),
            add_constant(self.graph, f"{own}_scale", np.float32(grid.scale)),
            add_constant(self.graph, f"{own}_zero_point", grid.zero_point),
        ]
        self._dequantize(node, value, stored, own, None)

    def _store(
        self,
        node: ir.Node,
        value: ir.Value,
        array: NDArray[Any],
        scales: NDArray[np.float64] | np.float64,
        axis: int | None,
    ) -> NDArray[np.float64]:
        """Stores a constant as int8, with one scale for each channel of ``axis``; returns what it then stands for."""
        shape = [-1 if i == axis else 1 for i in range(array.ndim)]
        steps = np.reshape(scales, shape if axis is not None else ())
        quantised = np.clip(np.round(array.astype(np.float64) / steps), -self.weight_max, self.weight_max)
        own = f"{node.name}:{value.name}"
        stored = [
            add_constant(self.graph, f"{own}_quantized", quantised.astype(np.int8)),
            add_constant(self.graph, f"{own}_scale", np.asarray(scales, np.float32)),
            add_constant(self.graph, f"{own}_zero_point", np.zeros(np.shape(scales), np.int8)),
        ]
        self._dequantize(node, value, stored, own, axis)
        stands_for: NDArray[np.float64] = quantised * steps
        return stands_for

    def _dequantize(self, node: ir.Node, value: ir.Value, stored: list[ir.Value], own: str, axis: int | None) -> None:
        made = ir.node("DequantizeLinear", stored, {} if axis is None else {"axis": axis}, name=f"{own}_DQ")
        made.outputs[0].name = f"{own}_dequantized"
        node.prepend(made)
        replace_input(node, value, made.outputs[0])


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


def output_channels(node: ir.Node) -> int:
    """Of a node with weights, or a product of two activations, those of one group; 0 where nobody knows."""
    second, group = node.inputs[1], int(attributes(node).get("group", 1))
    weight = constant(second)
    if weight is None:
        shape = () if second is None else sizes(second)
        return int((shape and shape[-1]) or 0)
    axis = 1 if node.op_type == "ConvTranspose" else _channel_axis(node, weight)
    return int(weight.shape[-1 if axis is None else axis]) // (group if node.op_type == "Conv" else 1)


def _channel_axis(node: ir.Node, weight: NDArray[Any]) -> int | None:
    """The axis of the output channels.

    None for grouped transposed convolutions, which spread them over two, and for matrices behind other axes, of which
    ONNX Runtime's kernel takes one scale.
    """
    given = attributes(node)
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if given.get("group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if given.get("transB", 0) else 1
    return 1 if weight.ndim == 2 else None
