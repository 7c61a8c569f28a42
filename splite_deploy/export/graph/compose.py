"""Pieces of a graph, and how they are joined to a network's: for what is fused, and for a network's view."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence

import onnx
import onnx_ir as ir
import torch
from onnx import compose, helper, version_converter
from torch import Tensor, nn

from splite_deploy.errors import ExportError, first_line
from splite_deploy.export.graph.torch_to_onnx import MIN_OPSET
from splite_deploy.export.graph.walk import name_of
from splite_deploy.export.log_output import quiet


def graph_of(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    prefix: str,
    opset: int = MIN_OPSET,
) -> onnx.ModelProto:
    """A module's graph with an open batch; nodes, tensors and constants have names of their own.

    torch's older exporter makes it: of such modules the same nodes as the newer one, in 10 ms and not in a second.
    """
    buffer = io.BytesIO()
    with quiet():
        torch.onnx.export(
            module,
            example,
            buffer,  # type: ignore[arg-type]  # which the older exporter takes
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=opset,
            dynamic_axes={name: {0: "batch"} for name in (*inputs, *outputs)},
            dynamo=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    for node in [node for node in model.graph.node if node.op_type == "Constant"]:
        constant = model.graph.initializer.add()
        constant.CopyFrom(helper.get_node_attr_value(node, "value"))
        constant.name = node.output[0]
        model.graph.node.remove(node)
    return _prefixed(model, prefix, (*inputs, *outputs))


def _prefixed(model: onnx.ModelProto, prefix: str, ends: Iterable[str]) -> onnx.ModelProto:
    """A copy whose names begin with ``prefix``, but for those of its ends.

    onnx has options for that, which left the nodes without the ends' names up to 1.18 (https://github.com/onnx/onnx/pull/6869).
    """
    made: onnx.ModelProto = compose.add_prefix(model, prefix)
    names = {prefix + end: end for end in ends}
    for value in (*made.graph.input, *made.graph.output):
        value.name = names[value.name]
    for node in made.graph.node:
        for used in (node.input, node.output):
            used[:] = [names.get(name, name) for name in used]
    return made


def suited(piece: onnx.ModelProto, model: ir.Model) -> onnx.ModelProto:
    """A copy of pre- or postprocessing in the opset and the IR version of the graph that it is for."""
    made: onnx.ModelProto = version_converter.convert_version(piece, model.opset_imports[""])
    made.ir_version = model.ir_version
    return made


def renamed(model: ir.Model, names: Mapping[str, str]) -> ir.Model:
    """A copy in which some activations have other names."""
    made = model.clone()
    for node in made.graph:
        for value in node.outputs:
            value.name = names.get(name_of(value), value.name)
    return made


def joined(first: onnx.ModelProto, second: onnx.ModelProto, joints: Mapping[str, str]) -> onnx.ModelProto:
    """Two graphs as one, where outputs of the first, by name, are inputs of the second; the names of both differ.

    Raises:
        ExportError: The whole is not valid.
    """
    try:
        made = compose.merge_models(first, second, list(joints.items()), name="network", doc_string="")
    except (ValueError, onnx.checker.ValidationError) as err:
        raise ExportError(
            f"With fused pre- or postprocessing the graph would not be valid ONNX: {first_line(err, named=True)}",
            hint="Report this.",
        ) from err
    opsets = {item.domain: item for item in (*first.opset_import, *second.opset_import)}
    del made.opset_import[:]
    made.opset_import.extend(opsets.values())
    del made.graph.value_info[:]  # batches have other names in the two
    return made


def set_batch(values: Iterable[ir.Value], of: ir.Value) -> None:
    """Gives tensors the batch of another one."""
    for value in values:
        if value.shape is not None and of.shape is not None:
            value.shape = ir.Shape([of.shape[0], *value.shape[1:]])
