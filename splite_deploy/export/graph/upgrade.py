"""Graphs in operator sets 9 to 17, written anew in a later one.

What changed between two sets is read from the schemas of onnx, so that only nodes whose form or meaning is another are
touched, those of branches and loops too. ``onnx.version_converter`` does not serve: it does not look into branches,
moves the positions of linear resizing of opset 9 and 10, and normalises over other axes where sizes are open. Source:
the changelog of ONNX's operators (docs/Changelog.md of onnx).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import defs

from splite_deploy.errors import ExportError
from splite_deploy.export.graph.walk import attributes, constant, name_of, set_inputs

UPGRADED_OPSET = 18
"""What graphs older than 13 become, and what the changes below lead to."""
_OLD_IR = 8  # what onnx wrote with that opset
_FLOATS = (float(np.finfo(np.float32).min), float(np.finfo(np.float32).max))


def upgrade(model: ir.Model, target: int) -> tuple[ir.Model, tuple[str, ...]]:
    """A copy in a later opset that computes the same.

    Args:
        model: In opset 9 or above.
        target: The opset to reach, 18 or above.

    Returns:
        The copy, and what was rewritten, as text.

    Raises:
        ExportError: A node has no form in that opset; the message names it.
    """
    upgraded, found = model.clone(), model.opset_imports.get("", 0)
    change = _Change(upgraded, found, target)
    for graph in (upgraded.graph, *upgraded.graph.subgraphs()):
        for node in list(graph):
            if node.domain == "" and not change.apply(graph, node):
                raise ExportError(
                    f"The node {name_of(node)} ({node.op_type}) of opset {found} has no form in opset {target}.",
                    hint=f"Export the graph again with opset {target}, or leave that operator out of the network.",
                )
    upgraded.opset_imports[""] = target
    upgraded.ir_version = max(upgraded.ir_version, _OLD_IR)
    return upgraded, change.notes()


def restate(model: ir.Model, target: int) -> ir.Model | None:
    """A copy in an earlier opset; None where a node is written in another way there."""
    copy, found = model.clone(), model.opset_imports.get("", 0)
    for node in copy.graph.all_nodes():
        if node.domain == "":
            if not (defs.has(node.op_type, target, "") and defs.has(node.op_type, found, "")):
                return None
            newer, older = (defs.get_schema(node.op_type, opset, "") for opset in (found, target))
            if newer.since_version != older.since_version and not _same_form(node, newer, older):
                return None
    copy.opset_imports[""] = target
    return copy


class _Change:
    """The nodes of one graph, taken from one opset to another."""

    def __init__(self, model: ir.Model, found: int, target: int) -> None:
        self._model, self._found, self._target = model, found, target
        self._done: Counter[str] = Counter()
        self._linear = False
        self._made = 0

    def notes(self) -> tuple[str, ...]:
        done = ", ".join(f"{count} {kind}" for kind, count in sorted(self._done.items()))
        what = f"wrote the graph of opset {self._found} anew in opset {self._target}"
        notes = [
            f"{what}, since these have another form or meaning for converters: {done}"
            if done
            else f"{what}: every node is the same in both"
        ]
        if self._linear:
            notes.append(
                f"the graph enlarges linearly in opset {self._found}, at other positions than torch's interpolate: "
                "where torch exported it keypoints may lie elsewhere than the network's; export it again with opset 11"
            )
        return tuple(notes)

    def apply(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Rewrites a node if it has to be; False where there is no way."""
        if not defs.has(node.op_type, self._found, ""):
            return False
        before = defs.get_schema(node.op_type, self._found, "")
        if node.op_type in _CHANGES:
            last, change = _CHANGES[node.op_type]
            if before.since_version < last:
                self._done[node.op_type] += 1
                return change(self, graph, node)
            return True
        if not defs.has(node.op_type, self._target, ""):
            return False
        after = defs.get_schema(node.op_type, self._target, "")
        return before.since_version == after.since_version or _same_form(node, before, after)

    def new(self, graph: ir.Graph, node: ir.Node, value: Any, kind: Any = np.int64) -> ir.Value:
        """A constant beside a node, in the graph that the node is in."""
        self._made += 1
        array = np.asarray(value, kind)
        tensor = ir.tensor(array)
        made = ir.Node(
            "", "Constant", [], [ir.AttrTensor("value", tensor)], name=f"{name_of(node)}:upgrade{self._made}"
        )
        made.outputs[0].name = f"{name_of(node)}:constant{self._made}"
        made.outputs[0].dtype, made.outputs[0].shape = tensor.dtype, ir.Shape(array.shape)
        graph.insert_before(node, made)
        return made.outputs[0]

    def put(
        self, graph: ir.Graph, node: ir.Node, kind: str, inputs: list[ir.Value | None], given: Mapping[str, Any]
    ) -> None:
        """Puts another operator into the place of a node with one output that is used."""
        made = ir.Node(
            "", kind, inputs, list(ir.convenience.convert_attributes(dict(given))), name=node.name, num_outputs=1
        )
        old, result = node.outputs[0], made.outputs[0]
        name, result.type, result.shape = old.name, old.type, old.shape
        graph.insert_before(node, made)
        old.replace_all_uses_with(result, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        result.name = name

    def _axes(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Axes move from an attribute to an input."""
        axes = node.attributes.pop("axes", None)
        if axes is not None:
            set_inputs(node, node.inputs[0], self.new(graph, node, axes.value))  # type: ignore[arg-type]
        return True

    def _resize(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Until opset 10 cells began at the origin, x / scale, and the nearest was the one below."""
        given = attributes(node)
        if self._found >= 11:
            return self._resize_11(graph, node, given)
        linear = given.get("mode", "nearest") == "linear"
        self._linear = self._linear or linear
        how = {"mode": "linear" if linear else "nearest", "coordinate_transformation_mode": "asymmetric"}
        self.put(graph, node, "Resize", [node.inputs[0], None, node.inputs[1]], how | {"nearest_mode": "floor"})
        return True

    def _resize_11(self, graph: ir.Graph, node: ir.Node, given: Mapping[str, Any]) -> bool:
        """Empty tensors stood for inputs that are left out now, and one mode is gone."""
        if given.get("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
            # (x + .5) / scale, the cell below: the nearest of half-pixel positions, with ties to the upper one
            if given.get("mode", "nearest") != "nearest" or given.get("nearest_mode") != "floor":
                return False
            node.attributes.add(ir.AttrString("coordinate_transformation_mode", "half_pixel"))
            node.attributes.add(ir.AttrString("nearest_mode", "round_prefer_ceil"))
        for index, value in enumerate(node.inputs):
            held = _held(value)
            if index and held is not None and not held.size:
                node.replace_input_with(index, None)
        return True

    def _slice(self, graph: ir.Graph, node: ir.Node) -> bool:
        given = attributes(node)
        begins = list(given["starts"])
        parts = (begins, given["ends"], given.get("axes", range(len(begins))))
        set_inputs(node, node.inputs[0], *(self.new(graph, node, list(part)) for part in parts))  # type: ignore[arg-type]
        node.attributes.clear()
        return True

    def _pad(self, graph: ir.Graph, node: ir.Node) -> bool:
        given = attributes(node)
        pads, value = self.new(graph, node, given["pads"]), self.new(graph, node, given.get("value", 0.0), np.float32)
        set_inputs(node, node.inputs[0], pads, value)  # type: ignore[arg-type]
        node.attributes.pop("pads")
        node.attributes.pop("value", None)
        return True

    def _clip(self, graph: ir.Graph, node: ir.Node) -> bool:
        given, image = attributes(node), node.inputs[0]
        bounds = [given.get(name, usual) for name, usual in zip(("min", "max"), _FLOATS, strict=True)]
        set_inputs(node, image, *(self.new(graph, node, bound, np.float32) for bound in bounds))  # type: ignore[arg-type]
        node.attributes.clear()
        return True

    def _dropout(self, graph: ir.Graph, node: ir.Node) -> bool:
        """It does nothing at inference; the mask has another type."""
        if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            return False
        self.put(graph, node, "Identity", [node.inputs[0]], {})
        return True

    def _split(self, graph: ir.Graph, node: ir.Node) -> bool:
        sizes = node.attributes.pop("split", None)
        if sizes is not None:
            set_inputs(node, node.inputs[0], self.new(graph, node, sizes.value))  # type: ignore[arg-type]
        elif len(node.inputs) < 2 or node.inputs[1] is None:
            node.attributes.add(ir.AttrInt64("num_outputs", len(node.outputs)))
        return True

    def _softmax(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Until opset 12 over all axes from this one on, as if they were one."""
        if self._found >= 13:
            return True
        axis, shape = attributes(node).get("axis", 1), node.inputs[0].shape if node.inputs[0] is not None else None
        if axis == -1 or (shape is not None and axis == len(shape) - 1):
            node.attributes.add(ir.AttrInt64("axis", -1))
            return True
        source, label = node.inputs[0], name_of(node)
        flat = ir.Node("", "Flatten", [source], [ir.AttrInt64("axis", axis)], name=f"{label}:flat")
        inner = ir.Node("", node.op_type, [flat.outputs[0]], [ir.AttrInt64("axis", -1)], name=f"{label}:rows")
        whole = ir.Node("", "Shape", [source], name=f"{label}:shape")
        for made in (flat, inner, whole):
            made.outputs[0].name = f"{made.name}:out"
            made.outputs[0].dtype = ir.DataType.INT64 if made is whole else ir.DataType.FLOAT
        graph.insert_before(node, (flat, inner, whole))
        self.put(graph, node, "Reshape", [inner.outputs[0], whole.outputs[0]], {})
        return True

    def _top_k(self, graph: ir.Graph, node: ir.Node) -> bool:
        count = node.attributes.pop("k", None)
        if count is not None:
            set_inputs(node, node.inputs[0], self.new(graph, node, [count.value]))  # type: ignore[arg-type]
        return True

    def _scatter(self, graph: ir.Graph, node: ir.Node) -> bool:
        """It has another name."""
        self.put(graph, node, "ScatterElements", list(node.inputs), attributes(node))
        return True

    def _roi_align(self, graph: ir.Graph, node: ir.Node) -> bool:
        """What it did is no longer what it does without being told."""
        node.attributes.add(ir.AttrString("coordinate_transformation_mode", "output_half_pixel"))
        return True


def _held(value: ir.Value | None) -> NDArray[Any] | None:
    """A constant, whether it is an initializer or a node."""
    maker = None if value is None else value.producer()
    if maker is not None and maker.op_type == "Constant" and "value" in maker.attributes:
        return attributes(maker)["value"].numpy()  # type: ignore[no-any-return]
    return constant(value)


def _same_form(node: ir.Node, before: defs.OpSchema, after: defs.OpSchema) -> bool:
    """Whether a node is written alike under both schemas, and means the same where it leaves something out."""
    names = [[given.name for given in schema.inputs][: len(node.inputs)] for schema in (before, after)]
    variadic = any(given.option == defs.OpSchema.FormalParameterOption.Variadic for given in before.inputs)
    shared = set(before.attributes) & set(after.attributes)
    usual = all(
        before.attributes[name].default_value == after.attributes[name].default_value
        for name in shared - set(node.attributes)
    )
    added = [after.attributes[name] for name in set(after.attributes) - set(before.attributes)]
    fits = set(node.attributes) <= set(after.attributes) and not any(one.required for one in added)
    return fits and usual and (variadic or len(names[0]) == len(names[1])) and len(node.outputs) <= after.max_output


_REDUCTIONS = ("Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
_Rewrite = Callable[[_Change, ir.Graph, ir.Node], bool]
_CHANGES: Mapping[str, tuple[int, _Rewrite]] = {
    "Clip": (11, _Change._clip),
    "Dropout": (12, _Change._dropout),
    "Hardmax": (13, _Change._softmax),
    "LogSoftmax": (13, _Change._softmax),
    "Pad": (11, _Change._pad),
    **{f"Reduce{kind}": (18, _Change._axes) for kind in _REDUCTIONS},
    "ReduceSum": (13, _Change._axes),
    "Resize": (13, _Change._resize),
    "RoiAlign": (16, _Change._roi_align),
    "Scatter": (11, _Change._scatter),
    "Slice": (10, _Change._slice),
    "Softmax": (13, _Change._softmax),
    "Split": (18, _Change._split),
    "Squeeze": (13, _Change._axes),
    "TopK": (10, _Change._top_k),
    "Unsqueeze": (13, _Change._axes),
    "Upsample": (10, _Change._resize),
}
"""Operators with the opset since which nothing has to be changed, and how it is changed before."""
