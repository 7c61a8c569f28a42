"""A graph that gives what it takes, so that what is fused to it can be run alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir  # noqa: TID253
from numpy.typing import NDArray
from onnx import TensorProto, helper  # noqa: TID253

from splite_deploy.export.graph.walk import from_proto, make_session


def through(shapes: Mapping[str, tuple[int | str, ...]], *, opset: int = 18) -> ir.Model:
    """Takes float32 arrays as ``in_ROLE`` and gives them as ``ROLE``.

    Args:
        shapes: By role; a text is an open size.
        opset: ONNX operator set.
    """
    inputs = [helper.make_tensor_value_info(f"in_{role}", TensorProto.FLOAT, shape) for role, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info(role, TensorProto.FLOAT, shape) for role, shape in shapes.items()]
    nodes = [helper.make_node("Identity", [f"in_{role}"], [role]) for role in shapes]
    graph = helper.make_graph(nodes, "through", inputs, outputs)
    opsets = [helper.make_opsetid("", opset)]
    return from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets)))


def run(model: ir.Model, **feeds: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    """Outputs by name, in ONNX Runtime."""
    session = make_session(model)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def run_through(model: ir.Model, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """The same of a graph made by `through`, from arrays by role."""
    return run(model, **{f"in_{role}": array for role, array in arrays.items()})
