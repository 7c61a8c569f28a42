"""Graphs that were trained for int8: the float graph and the trained ranges in them, for every backend alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.errors import ExportError
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
)
from splite_deploy.export.quant.qdq import scalar_grid
from splite_deploy.export.quant.ranges import Ranges, calibrate

_MOVERS = {"DepthToSpace", "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Identity"}
"""Operators whose results are values of their input: these lie on its grid already."""
_CLIPS = {"Relu", "Clip"}
_ACTIVATIONS = _CLIPS | {"HardSigmoid", "LeakyRelu"}
Range = tuple[float, float]


@dataclass(frozen=True)
class TrainedGraph:
    """A graph that was trained for int8, with and without its quantisation.

    Attributes:
        quantised: As it came, with Q/DQ.
        floating: float32, without them; tensors keep their names.
        limits: Tensor of ``floating`` to the range that its trained scale covers.
        magnitudes: The same for symmetric scales of 127 steps.
        untrained: Nodes of ``floating`` that training left in float.
    """

    quantised: ir.Model
    floating: ir.Model
    limits: Mapping[str, Range]
    magnitudes: Mapping[str, float]
    untrained: frozenset[str]

    def ranges(self, crops: FloatArray) -> Ranges:
        """The trained ranges of activations; those of tensors between, which no scale was trained for, are measured.

        Biases have learned what the rounding of weights does: there are no means, by which they would be corrected.

        Args:
            crops: (N, 3, H, W) float32, normalised.

        Raises:
            ExportError: The crops do not fit the graph, or an activation is not finite in float32.
        """
        seen = calibrate(self.floating, crops)
        limits, magnitudes = {**seen.limits, **self.limits}, {**seen.magnitudes, **self.magnitudes}
        return replace(seen, limits=limits, magnitudes=magnitudes, means={})


def split_quantisation(model: ir.Model) -> TrainedGraph:
    """Takes the Q/DQ out of a graph and keeps what their scales say.

    Raises:
        ExportError: A DequantizeLinear restores what no QuantizeLinear of the graph made.
    """
    floating = model.clone()
    graph = floating.graph
    untrained = _untrained(graph)
    limits: dict[str, Range] = {}
    magnitudes: dict[str, float] = {}
    for node in [node for node in graph if node.op_type == "DequantizeLinear"]:
        restored, quantiser = node.outputs[0], _maker(node)
        source = _dequantised(graph, node) if quantiser is None else quantiser.inputs[0]
        assert source is not None
        if quantiser is not None and not source.is_initializer() and name_of(source) not in limits:
            limits[name_of(source)], magnitudes[name_of(source)] = _trained_range(quantiser, source)
        for reader in readers(restored):
            replace_input(reader, restored, source)
        for index, output in enumerate(graph.outputs):
            if output is restored:
                source.type, source.shape = restored.type, restored.shape
                name, restored.name = name_of(restored), f"{name_of(restored)}:restored"
                limits[name], magnitudes[name] = limits.pop(name_of(source)), magnitudes.pop(name_of(source))
                source.name, graph.outputs[index] = name, source
        graph.remove(node, safe=True)
        if quantiser is not None and not quantiser.outputs[0].uses():
            graph.remove(quantiser, safe=True)
    _fold_transposes(graph)
    drop_unused(graph)
    forget_types(graph)
    return TrainedGraph(_through_movers(model), floating, limits, magnitudes, untrained)


def _maker(node: ir.Node) -> ir.Node | None:
    """The QuantizeLinear whose integers a DequantizeLinear restores; None where they lie in the file."""
    stored = node.inputs[0]
    quantiser = None if stored is None else stored.producer()
    if quantiser is not None and quantiser.op_type != "QuantizeLinear":
        raise ExportError(
            f"{node.name} restores what {quantiser.name} ({quantiser.op_type}) computes in integers.",
            hint="Give the float checkpoint, or export the network with fake quantisers alone.",
        )
    return quantiser


def _untrained(graph: ir.Graph) -> frozenset[str]:
    """Nodes of a graph with Q/DQ that do not compute on what it restores.

    An activation belongs to the layer before it, whose result is quantised behind it.
    """
    restored: set[ir.Value] = set()
    found: set[str] = set()
    results: set[ir.Value] = set()  # of trained nodes, before they are quantised
    for node in graph:
        if node.op_type == "QuantizeLinear":
            continue
        if node.op_type == "DequantizeLinear":
            restored.update(node.outputs)
            continue
        read = [value for value in node.inputs if value is not None]
        of_int8 = [value in restored for value in (read[:2] if node.op_type in WEIGHTED else read)]
        if node.op_type in _MOVERS and of_int8 and of_int8[0]:
            restored.update(node.outputs)
            continue
        trained = all(of_int8) if node.op_type in WEIGHTED else any(of_int8)
        if trained or (node.op_type in _ACTIVATIONS and read[0] in results):
            results.update(node.outputs)
        else:
            found.add(name_of(node))
    return frozenset(found)


def _trained_range(quantiser: ir.Node, source: ir.Value) -> tuple[Range, float]:
    """What the integers of an activation stand for: as it is, and as a magnitude that 127 symmetric steps cover."""
    scale, zero = constant(quantiser.inputs[1]), constant(quantiser.inputs[2]) if len(quantiser.inputs) > 2 else None
    if scale is None:
        raise ExportError(
            f"The scale of {quantiser.name} is computed in the graph.",
            hint="Export the network with its observers switched off and its scales as buffers.",
        )
    zero = np.zeros((), np.uint8) if zero is None else zero
    held, steps = np.iinfo(zero.dtype), scale.astype(np.float64)
    low = float(((held.min - zero.astype(np.int64)) * steps).min())
    high = float(((held.max - zero.astype(np.int64)) * steps).max())
    symmetric = held.min < 0 and not zero.any()
    magnitude = held.max * float(steps.max()) if symmetric else max(-low, high)
    maker = source.producer()
    if maker is not None and maker.op_type in _CLIPS:
        bounds = [constant(value) for value in maker.inputs[1:]] if maker.op_type == "Clip" else [np.zeros(()), None]
        lowest, highest = ([*bounds, None, None])[:2]
        low = low if lowest is None else max(low, float(lowest.ravel()[0]))
        high = high if highest is None else min(high, float(highest.ravel()[0]))
    return (min(low, 0.0), max(high, 0.0)), magnitude


def _dequantised(graph: ir.Graph, node: ir.Node) -> ir.Value:
    """What a weight that is stored in integers stands for, as a float32 constant."""
    stored, scale = constant(node.inputs[0]), constant(node.inputs[1])
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if stored is None or scale is None:
        raise ExportError(
            f"{node.name} restores what no QuantizeLinear of the graph made.",
            hint="Give the float checkpoint, or export the network with fake quantisers alone.",
        )
    shape = [-1 if i == attributes(node).get("axis", 1) % max(stored.ndim, 1) else 1 for i in range(stored.ndim)]
    steps, zeros = (np.reshape(each, shape) if each.size > 1 else each.reshape(()) for each in (scale, _zeros(zero)))
    values = (stored.astype(np.float32) - zeros.astype(np.float32)) * steps
    return add_constant(graph, f"{name_of(node)}:float32", values.astype(np.float32))


def _zeros(zero: NDArray[Any] | None) -> NDArray[Any]:
    return np.zeros((), np.int8) if zero is None else zero


def _fold_transposes(graph: ir.Graph) -> None:
    """Transposes weights in the file, as those of a linear layer, whose quantiser stood before the transposition."""
    for node in list(graph):
        array = constant(node.inputs[0]) if node.op_type == "Transpose" else None
        if array is not None and not node.outputs[0].is_graph_output():
            turned = add_constant(graph, f"{name_of(node)}:folded", array.transpose(attributes(node).get("perm")))
            for reader in readers(node.outputs[0]):
                replace_input(reader, node.outputs[0], turned)
            graph.remove(node, safe=True)


def _through_movers(model: ir.Model) -> ir.Model:
    """A copy whose data movers run in int8: their results get the quantisation of their input, which loses nothing."""
    made = model.clone()
    graph = made.graph
    for node in graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scalar_grid(node)
    for node in list(graph):
        source = node.inputs[0] if node.op_type in _MOVERS else None
        restored = None if source is None else source.producer()
        if restored is None or restored.op_type != "DequantizeLinear" or restored.inputs[0] is None:
            continue
        scale, moved = constant(restored.inputs[1]), node.outputs[0]
        reading = readers(moved)
        stored = restored.inputs[0].is_initializer() or scale is None or scale.size > 1
        if stored or moved.is_graph_output() or any(reader.op_type == "QuantizeLinear" for reader in reading):
            continue
        quantise = ir.node("QuantizeLinear", [moved, *restored.inputs[1:]], name=f"{name_of(node)}:quantise")
        restore = ir.node(
            "DequantizeLinear", [quantise.outputs[0], *restored.inputs[1:]], name=f"{name_of(node)}:restore"
        )
        quantise.outputs[0].name, restore.outputs[0].name = f"{moved.name}:quantised", f"{moved.name}:restored"
        for reader in reading:
            replace_input(reader, moved, restore.outputs[0])
        node.append([quantise, restore])
    return made
