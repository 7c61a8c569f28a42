"""The int8 graph of a builder that is strongly typed, as TensorRT 11 is: Q/DQ with float16 in between.

Scales of Q/DQ have the type of what they scale, so that no cast parts a convolution from its quantisation.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from onnx import version_converter

from splite_deploy.errors import ExportError, first_line
from splite_deploy.export.graph.walk import add_constant, constant, from_proto, name_of, to_proto
from splite_deploy.export.log_output import quiet
from splite_deploy.export.quant.precision import float16_form

_OPSET = 19  # the first whose QuantizeLinear takes float16


def to_int8_fp16(model: ir.Model, float_nodes: Collection[str]) -> ir.Model:
    """A float16 copy of TensorRT's int8 graph, with float32 inputs and outputs.

    Args:
        model: Of `splite_deploy.export.quant.precision.to_int8` for ``trt``.
        float_nodes: Names of nodes that float16 cannot hold, see `splite_deploy.export.quant.precision.to_fp16`.

    Raises:
        ExportError: The graph cannot be converted.
    """
    try:
        with quiet():
            proto = to_proto(model)
            if model.opset_imports[""] < _OPSET:
                proto = version_converter.convert_version(proto, _OPSET)
            converted = from_proto(proto)
            return float16_form(converted, _with_quantisers(converted.graph, float_nodes))
    except Exception as err:  # both converters raise many kinds
        raise ExportError(
            f"The int8 graph cannot be made float16: {first_line(err, named=True)}",
            hint="Export -p fp16 or fp32 for TensorRT.",
        ) from err


def _with_quantisers(graph: ir.Graph, float_nodes: Collection[str]) -> set[str]:
    """These nodes and the quantisers at their ends: what float16 cannot hold, it can neither quantise nor restore."""
    found = {node for node in graph if node.name in float_nodes}
    for node in list(found):
        found.update(before for before in node.predecessors() if before.op_type == "DequantizeLinear")
        found.update(after for after in node.successors() if after.op_type == "QuantizeLinear")
    return {name_of(node) for node in found}


def rounding_to_nearest(model: ir.Model) -> ir.Model:
    """A copy that quantises float16 by way of float32, to be run by ONNX Runtime and not to be kept.

    ONNX rounds half to even, and so does TensorRT. ONNX Runtime 1.23 cuts float16 off towards zero instead.
    """
    made = model.clone()
    for node in list(made.graph):
        scale = constant(node.inputs[1]) if node.op_type == "QuantizeLinear" else None
        if scale is not None and scale.dtype == np.float16:
            cast = ir.node("Cast", [node.inputs[0]], {"to": ir.DataType.FLOAT}, name=f"{node.name}:float32")
            cast.outputs[0].name = f"{node.name}:float32"
            node.prepend(cast)
            node.replace_input_with(0, cast.outputs[0])
            node.replace_input_with(1, add_constant(made.graph, f"{node.name}:scale", scale.astype(np.float32)))
    return made
