"""A graph in the older operator set that TensorRT 8.5 and 8.6 read: their parsers know 17 and nothing later.

It does not refuse what it does not know, but reads over it: a ReduceMean of opset 18 has its axes in an input, without
which every axis is meant. ``onnx.version_converter`` has no way back for Split, and makes invalid reductions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import defs, helper

from splite_deploy.errors import ExportError
from splite_deploy.export.graph.torch_to_onnx import first_line
from splite_deploy.export.graph.walk import Walk, attributes, constant

OLD_OPSET = 17
_OLD_IR = 8  # what onnx wrote with that opset
_FROM = 18
_HINT = f"Export with --opset {_FROM}, or build with a later TensorRT, which reads the graph as it is."


def lower_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in opset 17 that computes the same.

    Args:
        model: In opset 17 or 18.

    Raises:
        ExportError: A node has no form in opset 17, or the opset is another; the message names it.
    """
    found = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if found not in (OLD_OPSET, _FROM):
        raise ExportError(f"The graph is of opset {found}, from which there is no way to {OLD_OPSET}.", hint=_HINT)
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    if found == OLD_OPSET:
        return lowered
    walk = Walk(lowered)
    for name, node in walk.nodes.items():
        if node.domain in ("", "ai.onnx") and not _unchanged(node.op_type):
            change = _CHANGES.get(node.op_type)
            if change is None or not change(walk, node):
                raise ExportError(f"The node {name} ({node.op_type}) has no form in opset {OLD_OPSET}.", hint=_HINT)
    for item in lowered.opset_import:
        if item.domain in ("", "ai.onnx"):
            item.version = OLD_OPSET
    lowered.ir_version = min(lowered.ir_version, _OLD_IR)
    try:
        onnx.checker.check_model(lowered, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise ExportError(f"In opset {OLD_OPSET} the graph is not valid: {first_line(err)}", hint=_HINT) from err
    return lowered


def _unchanged(op: str) -> bool:
    return defs.has(op, OLD_OPSET, "") and (
        defs.get_schema(op, OLD_OPSET, "").since_version == defs.get_schema(op, _FROM, "").since_version
    )


def _reduction(walk: Walk, node: onnx.NodeProto) -> bool:
    """Axes move from an input to an attribute."""
    given = attributes(node)
    axes = constant(walk, node.input[1]) if len(node.input) > 1 and node.input[1] else np.empty(0, np.int64)
    if axes is None or (not axes.size and given.get("noop_with_empty_axes", 0)):
        return False
    del node.input[1:], node.attribute[:]
    node.attribute.append(helper.make_attribute("keepdims", given.get("keepdims", 1)))
    if axes.size:
        node.attribute.append(helper.make_attribute("axes", axes.ravel().tolist()))
    return True


def _split(walk: Walk, node: onnx.NodeProto) -> bool:
    """``num_outputs`` is new; sizes given as an input say the same."""
    return "num_outputs" not in attributes(node)


def _resize(walk: Walk, node: onnx.NodeProto) -> bool:
    """``antialias``, ``axes`` and ``keep_aspect_ratio_policy`` are new; without them nothing has changed."""
    given = attributes(node)
    new = {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"}
    if "axes" in given or any(given.get(name, usual) != usual for name, usual in new.items()):
        return False
    _keep(node, lambda name: name not in new)
    return True


def _pad(walk: Walk, node: onnx.NodeProto) -> bool:
    """The input ``axes`` is new."""
    return len(node.input) < 4 or not node.input[3]


def _keep(node: onnx.NodeProto, wanted: Callable[[str], bool]) -> None:
    kept = [attribute for attribute in node.attribute if wanted(attribute.name)]
    del node.attribute[:]
    node.attribute.extend(kept)


_REDUCTIONS = ("Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
_CHANGES: Mapping[str, Callable[[Walk, onnx.NodeProto], bool]] = {
    **{f"Reduce{kind}": _reduction for kind in _REDUCTIONS},
    "Split": _split,
    "Resize": _resize,
    "Pad": _pad,
}
