"""The layers of an ONNX graph: their widths, which of these can change, and each of them alone. Imports onnx."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from splite_deploy.bundle import Artifact, TensorSpec
from splite_deploy.compact.alignment import Layer
from splite_deploy.errors import ExportError
from splite_deploy.export.graph.walk import attributes
from splite_deploy.spec import LimitSpec

_CONVS, _LINEARS = ("Conv", "ConvTranspose"), ("Gemm", "MatMul")
_BROADCASTS = ("Add", "Sub", "Mul", "Div")
_SIZES = ("Shape", "Size")


class Graph:
    """The layers of an ONNX graph that have stored weights.

    Args:
        model: The graph; its shapes are inferred for one image.

    Attributes:
        layers: In the order in which they run; one that runs several times is there once, with all its positions.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        single = onnx.ModelProto()
        single.CopyFrom(model)
        del single.graph.value_info[:]  # they can name a dynamic batch
        for value in (*single.graph.input, *single.graph.output):
            for batch in value.type.tensor_type.shape.dim[:1]:
                batch.dim_value = 1
        self._graph = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
        self._versions = {"opset_imports": model.opset_import, "ir_version": model.ir_version}
        self._stored = {tensor.name: tuple(tensor.dims) for tensor in self._graph.initializer}
        self._shapes = {
            value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
            for value in (*self._graph.input, *self._graph.value_info, *self._graph.output)
        }
        self._fixed = self._fixed_channels()
        self._nodes: dict[str, onnx.NodeProto] = {}
        found: dict[str, Layer] = {}
        for node in filter(self._is_layer, self._graph.node):
            layer = self._layer(node)
            if (known := found.get(layer.name)) is not None and known.positions and layer.positions:
                layer = replace(known, positions=known.positions + layer.positions)
            found[layer.name] = layer
            self._nodes.setdefault(layer.name, node)
        self.layers = tuple(found.values())

    def _is_layer(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in _CONVS + _LINEARS:
            return False
        stored = self._stored.get(node.input[1], ())
        return len(stored) > 2 if node.op_type in _CONVS else len(stored) == 2

    def _layer(self, node: onnx.NodeProto) -> Layer:
        stored, given = self._stored[node.input[1]], attributes(node)
        groups, kernel, transposed = given.get("group", 1), stored[2:], node.op_type == "ConvTranspose"
        if node.op_type in _LINEARS:
            inputs, outputs = stored[::-1] if given.get("transB") else stored
            kind = "linear"
        else:
            inputs, outputs = (stored[0], stored[1] * groups) if transposed else (stored[1] * groups, stored[0])
            plain = "transposed" if transposed else "conv"
            kind = plain if groups == 1 else "depthwise" if groups == inputs else "grouped"
        shape = self._shapes.get(node.input[0] if transposed else node.output[0], ())
        positions = prod(shape[1:-1] if kind == "linear" else shape[2:]) if shape else 0
        weight = node.input[1]
        name = weight.removesuffix(".weight") if weight.endswith(".weight") else node.name or weight
        fixed = self._fixed.get(node.input[0], ""), self._fixed.get(node.output[0], "")
        bias = len(node.input) > 2 and bool(node.input[2])
        return Layer(name, kind, inputs, outputs, groups, kernel, positions or None, bias, *fixed)

    def _fixed_channels(self) -> dict[str, str]:
        """Why the channels of a tensor cannot change, as far as is known.

        The reason goes from the outputs upwards and from the inputs downwards, through all that is no layer, and
        through depthwise layers.
        """
        through = [node for node in self._graph.node if node.op_type not in _SIZES and self._keeps_channels(node)]
        fixed = {value.name: "output" for value in self._graph.output}
        for node in reversed(through):
            reason = next(filter(None, map(fixed.get, node.output)), "")
            for name in node.input:
                if name not in self._stored:  # constants are shared
                    fixed[name] = fixed.get(name) or ("broadcast" if self._is_spread(node, name) else reason)
        fixed |= {value.name: "input" for value in self._graph.input}
        for node in through:
            met = [name for name in node.input if not self._is_spread(node, name)]
            reason = next(filter(None, map(fixed.get, met)), "")
            fixed |= {name: fixed.get(name) or reason for name in node.output}
        return fixed

    def _keeps_channels(self, node: onnx.NodeProto) -> bool:
        if not self._is_layer(node):
            return True
        stored, groups = self._stored[node.input[1]], attributes(node).get("group", 1)
        return bool(1 < groups == (stored[0] if node.op_type == "ConvTranspose" else stored[1] * groups))

    def _is_spread(self, node: onnx.NodeProto, name: str) -> bool:
        """Whether this is one channel that meets several others here, as a mask does."""
        one, all_of = self._shapes.get(name, ())[1:2], self._shapes.get(node.output[0], ())[1:2]
        return node.op_type in _BROADCASTS and one == (1,) != all_of

    def alone(self, layer: Layer, widths: tuple[int, int], file: Path) -> Artifact:
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
        shape, node = list(self._shapes.get(original.input[0], ())), onnx.NodeProto()
        if not shape or not all(shape):
            raise ExportError(
                f"The size of what enters '{layer.name}' is not known, so it cannot be timed.",
                hint="Leave out --measure, or make the sizes in the graph constant.",
            )
        shape[-1 if layer.kind == "linear" else 1] = inputs
        node.CopyFrom(original)
        groups = inputs if layer.kind == "depthwise" else layer.groups
        for attribute in node.attribute:
            if attribute.name == "group":
                attribute.i = groups
        if layer.kind == "linear":
            stored = [outputs, inputs] if attributes(original).get("transB") else [inputs, outputs]
        else:
            transposed = node.op_type == "ConvTranspose"
            pair = [inputs, outputs // groups] if transposed else [outputs, inputs // groups]
            stored = [*pair, *layer.kernel]
        sizes = {"w": stored, **({"b": [outputs]} if layer.bias else {})}
        node.input[:], node.output[:] = ["x", *sizes], ["y"]
        noise = np.random.default_rng(0)
        tensors = [numpy_helper.from_array(noise.standard_normal(s, np.float32), name) for name, s in sizes.items()]
        x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", None)))
        graph = helper.make_graph([node], "layer", [x], [y], tensors)
        onnx.save(helper.make_model(graph, **self._versions), str(file))
        ports = (TensorSpec("x", tuple(shape), "float32", "", "image"),), (TensorSpec("y", (), "float32", "", ""),)
        return Artifact("onnx", "ort", "fp32", file.name, "", *ports, LimitSpec(), {})
