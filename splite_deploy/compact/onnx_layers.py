"""The layers of an ONNX graph: their widths, which of these can change, and each of them alone. Imports onnx."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import onnx_ir as ir

from splite_deploy.bundle import Artifact, TensorSpec
from splite_deploy.compact.alignment import WeightedLayer
from splite_deploy.errors import ExportError
from splite_deploy.export.graph.walk import (
    add_constant,
    attributes,
    forget_types,
    name_of,
    save,
    sizes,
    with_shapes,
)
from splite_deploy.spec import LimitSpec

_CONVS, _LINEARS = ("Conv", "ConvTranspose"), ("Gemm", "MatMul")
_BROADCASTS = ("Add", "Sub", "Mul", "Div")
_SIZES = ("Shape", "Size")


class LayerGraph:
    """The layers of an ONNX graph that have stored weights.

    Args:
        model: The graph; its shapes are inferred for one image.

    Attributes:
        layers: In the order in which they run; one that runs several times is there once, with all its positions.

    Raises:
        ExportError: The sizes in the graph contradict each other.
    """

    def __init__(self, model: ir.Model) -> None:
        single = model.clone()
        forget_types(single.graph)  # they can name a dynamic batch
        for value in (*single.graph.inputs, *single.graph.outputs):
            if value.shape is not None and len(value.shape):
                value.shape = ir.Shape([1, *value.shape[1:]])
        self._model = with_shapes(single)
        self._fixed = self._fixed_channels()
        self._nodes: dict[str, ir.Node] = {}
        found: dict[str, WeightedLayer] = {}
        for node in filter(_is_layer, self._model.graph):
            layer = self._layer(node)
            if (known := found.get(layer.name)) is not None and known.positions and layer.positions:
                layer = replace(known, positions=known.positions + layer.positions)
            found[layer.name] = layer
            self._nodes.setdefault(layer.name, node)
        self.layers = tuple(found.values())

    def _layer(self, node: ir.Node) -> WeightedLayer:
        (source, weight, *rest), stored, given = node.inputs, _stored(node), attributes(node)
        assert source is not None and weight is not None
        groups, kernel, transposed = given.get("group", 1), stored[2:], node.op_type == "ConvTranspose"
        if node.op_type in _LINEARS:
            inputs, outputs = stored[::-1] if given.get("transB") else stored
            kind = "linear"
        else:
            inputs, outputs = (stored[0], stored[1] * groups) if transposed else (stored[1] * groups, stored[0])
            plain = "transposed" if transposed else "conv"
            kind = plain if groups == 1 else "depthwise" if groups == inputs else "grouped"
        shape = _known_sizes(source if transposed else node.outputs[0])
        positions = prod(shape[1:-1] if kind == "linear" else shape[2:]) if shape else 0
        called = name_of(weight)
        name = called.removesuffix(".weight") if called.endswith(".weight") else name_of(node)
        fixed = self._fixed.get(source, ""), self._fixed.get(node.outputs[0], "")
        bias = any(value is not None for value in rest)
        return WeightedLayer(name, kind, inputs, outputs, groups, kernel, positions or None, bias, *fixed)

    def _fixed_channels(self) -> dict[ir.Value, str]:
        """Why the channels of a value cannot change, as far as is known.

        The reason goes from the outputs upwards and from the inputs downwards, through all that is no layer, and
        through depthwise layers.
        """
        graph = self._model.graph
        through = [node for node in graph if node.op_type not in _SIZES and _keeps_channels(node)]
        fixed = dict.fromkeys(graph.outputs, "output")
        for node in reversed(through):
            reason = next(filter(None, map(fixed.get, node.outputs)), "")
            for value in node.inputs:
                if value is not None and not value.is_initializer():  # constants are shared
                    fixed[value] = fixed.get(value) or ("broadcast" if _is_spread(node, value) else reason)
        fixed |= dict.fromkeys(graph.inputs, "input")
        for node in through:
            met = [value for value in node.inputs if value is not None and not _is_spread(node, value)]
            reason = next(filter(None, map(fixed.get, met)), "")
            fixed |= {value: fixed.get(value) or reason for value in node.outputs}
        return fixed

    def alone(self, layer: WeightedLayer, widths: tuple[int, int], file: Path) -> Artifact:
        """Writes a graph of one layer with other widths and noise for weights.

        Args:
            layer: One of `layers`.
            widths: Its (inputs, outputs).
            file: What to write.

        Returns:
            Its description, for ONNX Runtime.

        Raises:
            ExportError: The size of its input is not known.
        """
        original, (inputs, outputs) = self._nodes[layer.name], widths
        source, given = original.inputs[0], attributes(original)
        shape = [] if source is None else list(_known_sizes(source))
        if not shape or not all(shape):
            raise ExportError(
                f"The size of what enters '{layer.name}' is not known, so it cannot be timed.",
                hint="Leave out --measure, or make the sizes in the graph constant.",
            )
        shape[-1 if layer.kind == "linear" else 1] = inputs
        groups = inputs if layer.kind == "depthwise" else layer.groups
        if layer.kind == "linear":
            stored = [outputs, inputs] if given.get("transB") else [inputs, outputs]
        else:
            transposed = original.op_type == "ConvTranspose"
            pair = [inputs, outputs // groups] if transposed else [outputs, inputs // groups]
            stored = [*pair, *layer.kernel]
        x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
        graph = ir.Graph([x], [], nodes=[], opset_imports=self._model.opset_imports, name="layer")
        noise = np.random.default_rng(0)
        constants = [
            add_constant(graph, name, noise.standard_normal(size, np.float32))
            for name, size in {"w": stored, **({"b": [outputs]} if layer.bias else {})}.items()
        ]
        if "group" in given:
            given["group"] = groups
        node = ir.node(original.op_type, [x, *constants], given, name="layer")
        (y,) = node.outputs
        y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape([None] * len(shape))
        graph.append(node)
        graph.outputs.append(y)
        save(ir.Model(graph, ir_version=self._model.ir_version), file)
        ports = (TensorSpec("x", tuple(shape), "float32", "", "image"),), (TensorSpec("y", (), "float32", "", ""),)
        return Artifact("onnx", "ort", "fp32", file.name, "", *ports, LimitSpec(), {})


def _stored(node: ir.Node) -> tuple[int, ...]:
    """The shape of a node's stored weight; empty where that is computed."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    return _known_sizes(weight) if weight is not None and weight.is_initializer() else ()


def _known_sizes(value: ir.Value) -> tuple[int, ...]:
    """The shape of a value, 0 where a size is open; empty where nothing is known."""
    return tuple(size or 0 for size in sizes(value))


def _is_layer(node: ir.Node) -> bool:
    if node.op_type not in _CONVS + _LINEARS:
        return False
    stored = _stored(node)
    return len(stored) > 2 if node.op_type in _CONVS else len(stored) == 2


def _keeps_channels(node: ir.Node) -> bool:
    if not _is_layer(node):
        return True
    stored, groups = _stored(node), attributes(node).get("group", 1)
    return bool(1 < groups == (stored[0] if node.op_type == "ConvTranspose" else stored[1] * groups))


def _is_spread(node: ir.Node, value: ir.Value) -> bool:
    """Whether this is one channel that meets several others here, as a mask does."""
    one, all_of = _known_sizes(value)[1:2], _known_sizes(node.outputs[0])[1:2]
    return node.op_type in _BROADCASTS and one == (1,) != all_of
