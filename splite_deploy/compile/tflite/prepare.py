"""Readies an ONNX graph for TFLite's converters: forms that they convert rightly and fast, and plain names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass

from splite_deploy.compile.tflite.operators import join_gelus, spell_norms
from splite_deploy.compile.tflite.pixel_shuffle import channels_last_shuffles

_PLAIN = re.compile(r"\bnode_\d+\b")


@dataclass(frozen=True)
class Prepared:
    """A graph as the converter reads it.

    Attributes:
        content: An ONNX file with a batch of 1. Its inputs are called ``in_0``, its outputs ``out_0`` and so on, in
            their order; no name of the given graph is left.
        layers: The given name of each node, by its plain one.
        kinds: The given names of the nodes of each kind, by the kind of operator in capitals.
    """

    content: bytes
    layers: Mapping[str, str]
    kinds: Mapping[str, tuple[str, ...]]

    def with_given_names(self, text: str) -> str:
        """A message of the converter with the nodes called as in the given graph."""
        return _PLAIN.sub(lambda found: self.layers.get(found[0], found[0]), text)


def prepare(graph: bytes, *, direct: bool = True) -> Prepared:
    """Readies a simplified graph.

    Args:
        graph: An ONNX file; a dynamic batch becomes 1.
        direct: Whether onnx2tf writes TFLite itself; through TensorFlow it fails on a Gather of channels.
    """
    model = ir.from_proto(onnx.load_model_from_string(graph))
    if _fix_batch(model) or any(_is_constant(node) or _lacks_shape(node) for node in model.graph):
        model = _folded(model)
    spell_norms(model)
    join_gelus(model)
    channels_last_shuffles(model, gathers=direct)
    RemoveUnusedNodesPass()(model)
    ClearMetadataAndDocStringPass()(model)
    layers = _rename(model)
    kinds: dict[str, tuple[str, ...]] = {}
    for node in model.graph.all_nodes():
        kind = node.op_type.upper()
        kinds[kind] = (*kinds.get(kind, ()), layers[node.name or ""])
    return Prepared(ir.to_proto(model).SerializeToString(), layers, kinds)


def _fix_batch(model: ir.Model) -> bool:
    """Sets dimensions of the inputs without a size to 1, wherever they occur; whether there were any."""
    open_dims = {
        dim.value for value in model.graph.inputs for dim in value.shape or () if isinstance(dim, ir.SymbolicDim)
    }
    values = [*model.graph.inputs, *(value for node in model.graph.all_nodes() for value in node.outputs)]
    for value in values if open_dims else ():
        if value.shape is not None:
            named = [dim.value if isinstance(dim, ir.SymbolicDim) else dim for dim in value.shape]
            unnamed = 1 if value.is_graph_input() else None
            value.shape = ir.Shape(
                [1 if dim and dim in open_dims else unnamed if dim is None else dim for dim in named]
            )
    return bool(open_dims)


def _is_constant(node: ir.Node) -> bool:
    """Whether a node computes the same for every picture, as in the TorchScript exporter's graphs.

    onnx2tf converts a Pad wrongly whose amounts are computed, even from constants.
    """
    return all(value is None or value.const_value is not None for value in node.inputs)


def _lacks_shape(node: ir.Node) -> bool:
    return any(value.shape is None for value in node.outputs)


def _folded(model: ir.Model) -> ir.Model:
    """The graph with what its constants and shapes give computed, and with the shapes of all values."""
    from splite_deploy.compile.simplifier import lift_constants, run_onnxsim

    lift_constants(model)
    return ir.from_proto(run_onnxsim(ir.to_proto(model))[0])


def _rename(model: ir.Model) -> dict[str, str]:
    """Gives plain names to everything; returns the given name of each node by its plain one."""
    layers: dict[str, str] = {}
    for index, value in enumerate(model.graph.inputs):
        value.name = f"in_{index}"
    constants = list(model.graph.initializers.values())
    model.graph.name = "graph"
    for index, value in enumerate(constants):
        value.name = f"weight_{index}"
    count = 0
    for index, node in enumerate(model.graph.all_nodes()):
        layers[f"node_{index}"], node.name = node.name or node.op_type, f"node_{index}"
        for value in node.outputs:
            if value.name:  # an optional output without one is not made
                value.name = f"tensor_{count}"
                count += 1
    for index, value in enumerate(model.graph.outputs):
        value.name = f"out_{index}"
    return layers
