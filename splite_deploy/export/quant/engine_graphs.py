"""The int8 graph of a builder that is strongly typed, as TensorRT 11 is: Q/DQ with float16 in between.

Scales of Q/DQ have the type of what they scale, so that no cast parts a convolution from its quantisation.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from splite_deploy.errors import ExportError
from splite_deploy.export.graph.torch_to_onnx import first_line, quiet
from splite_deploy.export.graph.walk import Walk, constant
from splite_deploy.export.quant.precision import float16_form

_OPSET = 19  # the first whose QuantizeLinear takes float16


def to_int8_fp16(model: onnx.ModelProto, float_nodes: Collection[str]) -> onnx.ModelProto:
    """A float16 copy of TensorRT's int8 graph, with float32 inputs and outputs.

    Args:
        model: Of `splite_deploy.export.quant.precision.to_int8` for ``trt``.
        float_nodes: Names of nodes that float16 cannot hold, see `splite_deploy.export.quant.precision.to_fp16`.

    Raises:
        ExportError: The graph cannot be converted.
    """
    try:
        with quiet():
            if model.opset_import[0].version < _OPSET:
                model = version_converter.convert_version(model, _OPSET)
            return float16_form(model, float_nodes)
    except Exception as err:  # both converters raise many kinds
        raise ExportError(
            f"The int8 graph cannot be made float16: {first_line(err)}", hint="Export -p fp16 or fp32 for TensorRT."
        ) from err


def rounding_to_nearest(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that quantises float16 by way of float32, to be run by ONNX Runtime and not to be kept.

    ONNX rounds half to even, and so does TensorRT. ONNX Runtime 1.23 cuts float16 off towards zero instead.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    walk, nodes = Walk(made), []
    for name, node in walk.nodes.items():
        scale = constant(walk, node.input[1]) if node.op_type == "QuantizeLinear" else None
        if scale is not None and scale.dtype == np.float16:
            nodes.append(helper.make_node("Cast", [node.input[0]], [f"{name}:float32"], to=TensorProto.FLOAT))
            made.graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}:scale"))
            node.input[0], node.input[1] = f"{name}:float32", f"{name}:scale"
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made
