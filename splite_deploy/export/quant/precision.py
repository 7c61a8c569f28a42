"""Float16 and int8 graphs from the simplified float32 graph, read back and proven to be what was requested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, shape_inference
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from splite_deploy.arrays import FloatArray
from splite_deploy.errors import ExportError, UsageError, first_line
from splite_deploy.export.crops import evenly
from splite_deploy.export.graph.walk import (
    WEIGHTED,
    ExposedGraph,
    activations,
    add_constant,
    after_softmax,
    attributes,
    check_calibration,
    constant,
    from_proto,
    head,
    name_of,
    named_nodes,
    optimised,
    readers,
    replace_input,
    to_proto,
)
from splite_deploy.export.log_output import quiet
from splite_deploy.export.quant.qdq import Consumer, has_qdq, insert_qdq, prepare, quantised_nodes, with_uint8
from splite_deploy.export.quant.ranges import Method, Ranges, calibrate

FP16_LARGEST = 65504 / 8  # three bits excluded for what the calibration crops do not show
FP16_SMALLEST = 2.0**-14 * 8  # where even the largest value is less, most are subnormal and lose their digits
_SUMS = {"ReduceMean", "ReduceSum", "GlobalAveragePool", "AveragePool", "ReduceL1"}
_SQUARES = {"InstanceNormalization", "LayerNormalization", "GroupNormalization", "ReduceL2", "ReduceSumSquare"}
_WATCHED = 32  # crops on which every node of a float16 graph is looked at; ranges come from all of them
_ROUNDS = 5  # of taking away the pairs of nodes that run in float; the second finds none left as a rule
_NAMED = 5  # nodes that a message names
_TO_FLOAT = {"DequantizeLinear", "MatMulIntegerToFloat", "QGemm"}
_RESULT_SCALE = 7  # the input of QGemm without which it gives float
_EXPONENT = np.uint16(0x7C00)  # of float16
_FLOAT32, _FLOAT16 = int(ir.DataType.FLOAT), int(ir.DataType.FLOAT16)


@dataclass(frozen=True)
class ExcludedNode:
    """A node that stays in float32.

    Attributes:
        node: Its name.
        op: Its operator.
        reason: Why, as text.
    """

    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class Fp16Report:
    """What a float16 graph really computes in.

    Attributes:
        float16: Operator to the number of nodes whose result is float16.
        float32: The same for float32; casts are not counted.
        excluded: Nodes that stay in float32.
    """

    float16: Mapping[str, int]
    float32: Mapping[str, int]
    excluded: tuple[ExcludedNode, ...]


@dataclass(frozen=True)
class Int8Report:
    """What an int8 graph really computes in.

    Attributes:
        consumer: ``ort`` or ``trt``.
        method: How ranges were chosen; None where the graph brought its own quantisation.
        crops: Number of calibration crops; 0 where the graph brought its own quantisation.
        quantised: Names of the nodes that run in int8.
        excluded: Names of the nodes left in float32 because the caller or the head rule says so.
        float_islands: Further nodes that run in float32, with their operators: those without an int8 kernel. For
            ``ort`` this is read from the graph that ONNX Runtime makes of the file.
        nodes: Operator to the number of nodes, after ONNX Runtime's fusions for ``ort``, in the file for ``trt``.
        notes: What else is worth knowing, as text.
    """

    consumer: Consumer
    method: Method | None
    crops: int
    quantised: tuple[str, ...]
    excluded: tuple[str, ...]
    float_islands: Mapping[str, str]
    nodes: Mapping[str, int]
    notes: tuple[str, ...]


def to_fp16(model: ir.Model, crops: FloatArray, *, ranges: Ranges | None = None) -> tuple[ir.Model, Fp16Report]:
    """A float16 copy with float32 inputs and outputs.

    Nodes whose values on the crops leave float16's safe range stay in float32: by what was measured, not by name.

    Args:
        model: float32 graph.
        crops: (N, 3, H, W) float32, normalised.
        ranges: Of `calibrate` on the same graph, if they are at hand; any method.

    Returns:
        The graph, and what it computes in.

    Raises:
        ExportError: The graph cannot be converted, a node gives NaN or infinity on a crop, or nothing became float16.
    """
    check_calibration(model, crops)
    if has_qdq(model):
        raise ExportError("The graph is quantised to int8 already.", hint="Make float16 of the float32 graph.")
    excluded = unsafe_in_fp16(model, ranges or calibrate(model, crops))
    try:
        with quiet():
            converted = float16_form(model, [k.node for k in excluded])
    except Exception as err:  # the converter raises many kinds
        raise ExportError(
            f"The graph cannot be made float16: {first_line(err, named=True)}", hint="Leave out -p fp16."
        ) from err
    float16, float32 = _types(converted, crops[evenly(len(crops), _WATCHED)])
    if not float16:
        raise ExportError(
            "float16 was requested, but every node stays in float32: "
            + "; ".join(f"{k.node} ({k.reason})" for k in excluded[:_NAMED]),
            hint="Leave out -p fp16, or scale the network's activations.",
        )
    return converted, Fp16Report(float16, float32, tuple(excluded))


def float16_form(model: ir.Model, float_nodes: Collection[str]) -> ir.Model:
    """The graph in float16, but for its inputs, its outputs and these nodes; the converter raises many kinds."""
    floats = {node for node in model.graph if node.name in float_nodes or node.op_type in DEFAULT_OP_BLOCK_LIST}
    own = model.clone()
    copies = named_nodes(own.graph)
    for node in floats:
        _own_constants(own.graph, copies[name_of(node)], {copies[name_of(one)] for one in floats})
    typed = _with_types(own)
    converted = convert_float_to_float16(
        to_proto(typed), keep_io_types=True, disable_shape_infer=True, node_block_list=list(float_nodes)
    )
    _drop_repeated(converted.graph)
    OnnxModel(converted).topological_sort()  # the converter appends its casts at the end
    made = from_proto(converted)
    _drop_float16_between(made.graph)
    return made


def _drop_repeated(graph: GraphProto) -> None:
    """Keeps the first of casts of the same value: from ONNX Runtime 1.25 on every reader has one, all of one name."""
    once: dict[tuple[str, ...], NodeProto] = {}
    for node in graph.node:
        once.setdefault(tuple(node.output), node)
    kept = list(once.values())
    del graph.node[:]
    graph.node.extend(kept)


def _with_types(model: ir.Model) -> ir.Model:
    """A copy with the types of all values: the converter passes over what has none, as behind GroupNormalization."""
    typed = from_proto(shape_inference.infer_shapes(to_proto(model)))
    for node in typed.graph:
        for value in node.outputs:
            known = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else None
            if value.dtype is None and known is not None:
                value.dtype = known
    return typed


def _own_constants(graph: ir.Graph, node: ir.Node, floats: Collection[ir.Node]) -> None:
    """Gives a node that stays in float32 copies of what float16 nodes read too: the converter rounds for both."""
    for index, value in enumerate(node.inputs):
        array = constant(value)
        if value is None or array is None or array.dtype != np.float32:
            continue
        if any(reader not in floats for reader in readers(value)):
            node.replace_input_with(index, add_constant(graph, f"{node.name}:{index}:{value.name}", array))


def _drop_float16_between(graph: ir.Graph) -> None:
    """Has a float32 node read what another one gives: the converter casts to float16 and back, where 1e5 overflows."""
    for cast in list(graph):
        half = cast.inputs[0].producer() if cast.op_type == "Cast" and cast.inputs[0] is not None else None
        if half is None or half.op_type != "Cast" or (_cast_to(cast), _cast_to(half)) != (_FLOAT32, _FLOAT16):
            continue
        whole, result = half.inputs[0], cast.outputs[0]
        assert whole is not None
        cast.replace_input_with(0, whole)
        if whole.dtype == ir.DataType.FLOAT and not result.is_graph_output():
            for reader in readers(result):
                replace_input(reader, result, whole)
            graph.remove(cast, safe=True)
        if not half.outputs[0].uses() and not half.outputs[0].is_graph_output():
            graph.remove(half, safe=True)


def _cast_to(cast: ir.Node) -> int:
    return int(attributes(cast)["to"])


def unsafe_in_fp16(model: ir.Model, ranges: Ranges) -> list[ExcludedNode]:
    """The nodes of a float32 graph that float16 cannot hold, by the ranges of `calibrate` on it."""
    decoding = after_softmax(model.graph)
    return [
        ExcludedNode(name_of(node), node.op_type, reason)
        for node in model.graph
        if any(value.name in ranges.extremes for value in node.outputs) and (reason := _unsafe(node, ranges, decoding))
    ]


def _unsafe(node: ir.Node, ranges: Ranges, decoding: Collection[str]) -> str:
    """Why a node cannot be trusted to float16; empty if it can."""
    if node.name in decoding:
        return "it decodes, and a coordinate of 200 px has steps of 0.125 px in float16"
    if node.op_type in DEFAULT_OP_BLOCK_LIST:
        return "ONNX Runtime has no float16 form of it"
    for value in (*node.inputs, *node.outputs):
        name, array = "" if value is None else name_of(value), constant(value)
        if array is None and name in ranges.extremes:
            largest = max(map(abs, ranges.extremes[name]))
        elif array is not None and array.dtype == np.float32 and array.size:
            largest = float(np.abs(array).max())
        else:
            continue
        if largest > FP16_LARGEST:
            return f"'{name}' reaches {largest:.4g}, over {FP16_LARGEST:g}"
        if 0 < largest < FP16_SMALLEST:
            return f"'{name}' stays below {largest:.2g}, where float16 has no digits"
    total = _accumulated(node, ranges)
    return f"it sums up to {total:.4g}, over {FP16_LARGEST:g}" if total > FP16_LARGEST else ""


def _accumulated(node: ir.Node, ranges: Ranges) -> float:
    """The largest sum that a reduction can meet inside: float16 kernels may add up in float16."""
    source, result = "" if node.inputs[0] is None else name_of(node.inputs[0]), name_of(node.outputs[0])
    if node.op_type not in _SUMS | _SQUARES or source not in ranges.extremes or result not in ranges.extremes:
        return 0.0
    largest = max(map(abs, ranges.extremes[source]))
    before, after = prod(ranges.shapes[source]), prod(ranges.shapes[result])
    if node.op_type in _SQUARES:
        # A normalisation gives as many values as it takes: at worst all of them share one sum
        return largest**2 * (before / after if after < before else before)
    return largest * before / after


def _types(model: ir.Model, crops: FloatArray) -> tuple[Counter[str], Counter[str]]:
    """Operators by the type of their results, as they come out of a run in which every node is looked at.

    Raises:
        ExportError: A node gives NaN or infinity; the first one is named.
    """
    float16: Counter[str] = Counter()
    float32: Counter[str] = Counter()
    made_by = {name: node for name, value in activations(model.graph).items() if (node := value.producer()) is not None}
    for index, values in enumerate(ExposedGraph(model, made_by).run(crops)):
        for name, value in values.items():
            node = made_by[name]
            if value.dtype.kind == "f" and not _is_finite(value):
                raise ExportError(
                    f"In float16 the node {node.name} ({node.op_type}) is the first to give NaN or infinity.",
                    hint="Calibrate on more images with --calibration, so that it stays in float32. Else leave out "
                    "-p fp16.",
                )
            if index == 0 and node.op_type != "Cast" and value.dtype in (np.float16, np.float32):
                (float16 if value.dtype == np.float16 else float32)[node.op_type] += 1
    return float16, float32


def _is_finite(value: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite: these have all bits of the exponent, which is quick to see in float16."""
    if value.dtype == np.float16:
        return not ((value.view(np.uint16) & _EXPONENT) == _EXPONENT).any()
    return bool(np.isfinite(value).all())


def to_int8(
    model: ir.Model,
    crops: FloatArray,
    consumer: Consumer,
    *,
    method: Method = "mse",
    exclude: Collection[str] = (),
    quantise_head: bool = False,
    reduce_range: bool = False,
    ranges: Ranges | None = None,
) -> tuple[ir.Model, Int8Report]:
    """An int8 copy with Q/DQ pairs for one consumer; see `splite_deploy.export.quant.qdq` for how they differ.

    A graph that brings quantisation along, as that of a network trained for it, keeps its own scales and is only
    validated.

    Args:
        model: float32 graph.
        crops: (N, 3, H, W) float32, normalised.
        consumer: Who will run it.
        method: See `splite_deploy.export.quant.ranges.calibrate`.
        exclude: Names of nodes that stay in float32.
        quantise_head: Quantises the last convolutions before the outputs, too; they cost the most accuracy.
        reduce_range: See `splite_deploy.export.quant.qdq.insert_qdq`.
        ranges: Of `calibrate` on the same graph, if they are at hand; ``method`` is then theirs.

    Returns:
        The graph, and what it computes in.

    Raises:
        UsageError: ``exclude`` names a node that is not there.
        ExportError: A node that was to run in int8 does not; the message names it.
    """
    check_calibration(model, crops)
    if has_qdq(model):
        return _keep_quantisation(model, consumer)
    ranges = ranges or calibrate(model, crops, method)
    prepared = prepare(model)
    return quantise(prepared, ranges, consumer, excluded_nodes(prepared.graph, exclude, quantise_head), reduce_range)


def excluded_nodes(graph: ir.Graph, exclude: Collection[str], quantise_head: bool) -> frozenset[str]:
    """Names of the nodes that stay in float32 by choice.

    Raises:
        UsageError: A name is not there.
    """
    nodes = named_nodes(graph)
    unknown = [name for name in exclude if name not in nodes]
    if unknown:
        raise UsageError(
            f"The graph has no node {', '.join(unknown[:_NAMED])}.", hint=f"Its nodes are: {_names(nodes)}."
        )
    return frozenset(exclude) | (frozenset() if quantise_head else head(graph))


def quantise(
    prepared: ir.Model, ranges: Ranges, consumer: Consumer, excluded: Collection[str], reduce_range: bool = False
) -> tuple[ir.Model, Int8Report]:
    """The int8 graph of a prepared one, and what it computes in; see `to_int8`."""
    all_nodes = named_nodes(prepared.graph)
    requested = _requested(prepared, ranges, consumer, excluded)
    floating = set(excluded)
    for _ in range(_ROUNDS):
        made = insert_qdq(prepared, ranges, consumer, floating, reduce_range=reduce_range)
        if consumer == "trt":
            islands = {name: node.op_type for name, node in all_nodes.items() if name not in requested}
            nodes = Counter(node.op_type for node in made.graph)
            _check_trt(made.graph)
            break
        run = optimised(made)
        islands, nodes = _float_nodes(run.graph), Counter(node.op_type for node in run.graph)
        weighted = {name for name in requested if all_nodes[name].op_type in WEIGHTED}
        joined = weighted.difference(map(_own_name, run.graph))  # with others, under a new name: only float nodes are
        missed = [name for name in requested if name in islands or name in joined]
        if not missed:
            break
        floating.update(missed)  # whose pairs are needless then
        requested = _requested(prepared, ranges, consumer, floating)
    report = Int8Report(
        consumer=consumer,
        method=ranges.method,
        crops=ranges.crops,
        quantised=tuple(name for name in requested if name not in islands),
        excluded=tuple(name for name in all_nodes if name in excluded),
        float_islands={name: op for name, op in islands.items() if name not in excluded},
        nodes=nodes,
        notes=("weights of 7 bits",) if reduce_range else (),
    )
    return made, report


def _requested(prepared: ir.Model, ranges: Ranges, consumer: Consumer, floating: Collection[str]) -> list[str]:
    """Names of the nodes that are to run in int8.

    Raises:
        ExportError: None of them has weights.
    """
    names, nodes = quantised_nodes(prepared.graph, ranges, consumer, floating), named_nodes(prepared.graph)
    if not any(nodes[name].op_type in WEIGHTED for name in names):
        raise ExportError(
            "int8 was requested, but no layer with weights remains to quantise: those before the outputs stay in "
            "float, and so do those that were excluded or have no int8 kernel.",
            hint="Export -p fp16.",
        )
    return names


def _float_nodes(graph: ir.Graph) -> dict[str, str]:
    """Nodes of an optimised graph that compute in float32, by following its types from the input on."""
    floats = {value for value in graph.inputs if value.dtype == ir.DataType.FLOAT}
    found = {}
    for node in graph:
        if node.op_type == "QuantizeLinear" or node.op_type.startswith("QLinear"):
            continue
        if node.op_type in _TO_FLOAT and not (len(node.inputs) > _RESULT_SCALE and node.inputs[_RESULT_SCALE]):
            floats.update(node.outputs)
        elif any(value in floats for value in node.inputs):
            floats.update(node.outputs)
            found[_own_name(node)] = node.op_type
    return found


def _own_name(node: ir.Node) -> str:
    """The name that a node of an optimised graph had before ONNX Runtime fused it with its neighbours."""
    return name_of(node).removeprefix("fused ")


def _check_trt(graph: ir.Graph) -> None:
    """Raises `ExportError` for what TensorRT's parser refuses."""
    refused = []
    for node in graph:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        stored, zero = constant(node.inputs[0]), constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if stored is not None and stored.dtype == np.int32:
            refused.append(f"{node.name} (an int32 bias)")
        elif zero is not None and zero.any():
            refused.append(f"{node.name} (a zero point that is not 0)")
        elif zero is not None and zero.dtype != np.int8:
            refused.append(f"{node.name} ({zero.dtype})")
    if refused:
        raise ExportError(
            f"TensorRT does not support this quantisation: {_names(refused)}.",
            hint="Train with symmetric int8 activations (zero point 0), and leave the bias in float.",
        )


def _keep_quantisation(model: ir.Model, consumer: Consumer) -> tuple[ir.Model, Int8Report]:
    """Validates a graph that brings its quantisation along; returns it as the consumer reads it."""
    if consumer == "trt":
        _check_trt(model.graph)
    requested = [
        name_of(node) for node in model.graph if node.op_type in WEIGHTED and all(map(_is_dequantised, node.inputs[:2]))
    ]
    if not requested:
        raise ExportError(
            "The graph holds QuantizeLinear, but no convolution whose input and weight are both quantised.",
            hint="Export the network with its weight quantisers enabled, and let no simplifier fold the weights.",
        )
    pairs = sum(node.op_type == "QuantizeLinear" for node in model.graph)
    notes = [f"kept the graph's own quantisation ({pairs} quantisers); nothing was calibrated"]
    last, islands = head(model.graph), {}
    nodes = Counter(node.op_type for node in model.graph)
    if consumer == "ort":
        model = with_uint8(model)
        run = optimised(model)
        islands, nodes = _float_nodes(run.graph), Counter(node.op_type for node in run.graph)
        notes.append("int8 activations became uint8 on the same grid, for ONNX Runtime")
    missed = [name for name in requested if name in islands and name not in last]
    if missed:
        raise ExportError(
            f"ONNX Runtime runs {_names(missed)} in float32: their results are not quantised.",
            hint="Fake-quantise what follows these layers in training, sums and gates too, or quantise after training.",
        )
    report = Int8Report(
        consumer=consumer,
        method=None,
        crops=0,
        quantised=tuple(name for name in requested if name not in islands),
        excluded=tuple(name for name in named_nodes(model.graph) if name in last and name in islands),
        float_islands={name: op for name, op in islands.items() if name not in last},
        nodes=nodes,
        notes=tuple(notes),
    )
    return model, report


def _is_dequantised(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def _names(names: Collection[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(list(names)[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
