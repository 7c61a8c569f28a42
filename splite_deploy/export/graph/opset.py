"""Graphs in older operator sets: in 17, which TensorRT 8.5 and 8.6 read, and in 21, for which int8 kernels exist.

TensorRT 8's parser does not refuse what it does not know, but reads over it: a ReduceMean of opset 18 has its axes in
an input, without which every axis is meant. ``onnx.version_converter`` has no way back for Split, and makes invalid
reductions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx import defs

from splite_deploy.errors import ExportError, first_line
from splite_deploy.export.graph.walk import attributes, constant, set_inputs, to_proto

OLD_OPSET = 17
INT8_OPSET = 21
_OLD_IR = 8  # what onnx wrote with that opset
_FROM = 18
_HINT = "Build with a later TensorRT, which reads the graph as it is."


def lower_opset(model: ir.Model) -> ir.Model:
    """A copy in opset 17 that computes the same.

    Args:
        model: In opset 17 or 18.

    Raises:
        ExportError: A node has no form in opset 17, or the opset is another; the message names it.
    """
    found = model.opset_imports.get("", 0)
    if found not in (OLD_OPSET, _FROM):
        raise ExportError(
            f"The graph is of opset {found}, which cannot be converted to {OLD_OPSET}.",
            hint=f"Export with --opset {_FROM}, or build with a later TensorRT, which reads the graph as it is.",
        )
    lowered = model.clone()
    if found == OLD_OPSET:
        return lowered
    for node in lowered.graph.all_nodes():
        if node.domain == "" and not _unchanged(node.op_type):
            change = _CHANGES.get(node.op_type)
            if change is None or not change(node):
                raise ExportError(
                    f"The node {node.name} ({node.op_type}) does not exist in opset {OLD_OPSET}.", hint=_HINT
                )
    lowered.opset_imports[""] = OLD_OPSET
    lowered.ir_version = min(lowered.ir_version, _OLD_IR)
    try:
        onnx.checker.check_model(to_proto(lowered), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise ExportError(
            f"In opset {OLD_OPSET} the graph is not valid: {first_line(err, named=True)}", hint=_HINT
        ) from err
    return lowered


def quantisable_opset(model: ir.Model) -> ir.Model:
    """A copy in opset 21 where that says the same; of an older one as it is.

    Later opsets let QuantizeLinear and others take further types, and ONNX Runtime gets kernels for that later: 1.23
    has none for 23. A node that is newer itself keeps the graph in its opset.
    """
    copy, found = model.clone(), model.opset_imports.get("", 0)
    if found > INT8_OPSET and all(_same_form(node, found) for node in copy.graph.all_nodes() if node.domain == ""):
        copy.opset_imports[""] = INT8_OPSET
    return copy


def _same_form(node: ir.Node, opset: int) -> bool:
    """Whether a node is written alike in `INT8_OPSET`: it exists, with all that it uses."""
    if not defs.has(node.op_type, INT8_OPSET, ""):
        return False
    older, newer = (defs.get_schema(node.op_type, version, "") for version in (INT8_OPSET, opset))
    return set(node.attributes) <= set(older.attributes) and [i.name for i in older.inputs] == [
        i.name for i in newer.inputs
    ]


def _unchanged(op: str) -> bool:
    return defs.has(op, OLD_OPSET, "") and (
        defs.get_schema(op, OLD_OPSET, "").since_version == defs.get_schema(op, _FROM, "").since_version
    )


def _reduction(node: ir.Node) -> bool:
    """Axes move from an input to an attribute."""
    given, (data, *rest) = attributes(node), node.inputs
    axes = constant(rest[0]) if rest and rest[0] is not None else np.empty(0, np.int64)
    if data is None or axes is None or (not axes.size and given.get("noop_with_empty_axes", 0)):
        return False
    set_inputs(node, data)
    node.attributes.clear()
    node.attributes.add(ir.AttrInt64("keepdims", given.get("keepdims", 1)))
    if axes.size:
        node.attributes.add(ir.AttrInt64s("axes", axes.ravel().tolist()))
    return True


def _split(node: ir.Node) -> bool:
    """``num_outputs`` is new; without it the parts are equal, or the graph is not valid."""
    node.attributes.pop("num_outputs", None)
    return True


def _resize(node: ir.Node) -> bool:
    """``antialias``, ``axes`` and ``keep_aspect_ratio_policy`` are new; without them nothing has changed."""
    given = attributes(node)
    new = {"antialias": 0, "keep_aspect_ratio_policy": "stretch"}
    if "axes" in given or any(given.get(name, usual) != usual for name, usual in new.items()):
        return False
    for name in new:
        node.attributes.pop(name, None)
    return True


def _pad(node: ir.Node) -> bool:
    """The input ``axes`` is new."""
    return len(node.inputs) < 4 or node.inputs[3] is None


_REDUCTIONS = ("Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
_CHANGES: Mapping[str, Callable[[ir.Node], bool]] = {
    **{f"Reduce{kind}": _reduction for kind in _REDUCTIONS},
    "Split": _split,
    "Resize": _resize,
    "Pad": _pad,
}
