"""Readies an ONNX graph for TFLite's converters: forms that they convert rightly and fast, and plain names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass, ShapeInferencePass

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


def prepare(graph: bytes) -> Prepared:
    """Readies a simplified graph.

    Args:
        graph: An ONNX file; a dynamic batch becomes 1.
    """
    model = ir.from_proto(onnx.load_model_from_string(graph))
    _fix_batch(model)
    channels_last_shuffles(model)
    RemoveUnusedNodesPass()(model)
    ClearMetadataAndDocStringPass()(model)
    layers = _rename(model)
    kinds: dict[str, tuple[str, ...]] = {}
    for node in model.graph.all_nodes():
        kind = node.op_type.upper()
        kinds[kind] = (*kinds.get(kind, ()), layers[node.name or ""])
    return Prepared(ir.to_proto(model).SerializeToString(), layers, kinds)


def _fix_batch(model: ir.Model) -> None:
    """Sets dimensions without a size to 1, and has the shapes that follow from them inferred."""
    known = True
    for value in model.graph.inputs:
        if value.shape is not None and not value.shape.is_static():
            value.shape = ir.Shape([size if isinstance(size, int) else 1 for size in value.shape])
            known = False
    if known:
        return
    for node in model.graph:
        for value in node.outputs:
            if value.shape is not None and not value.shape.is_static():
                value.shape = None
    ShapeInferencePass()(model)


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
