"""Reads an ONNX file of any maker: whole, valid, of its standard operators, in evaluation mode and in float32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from onnx import AttributeProto, GraphProto, NodeProto, defs, numpy_helper

from splite_deploy.errors import CheckpointError, ExportError, first_line
from splite_deploy.export.graph.torch_to_onnx import MAX_OPSET
from splite_deploy.export.graph.upgrade import UPGRADED_OPSET, restate, upgrade
from splite_deploy.export.graph.walk import from_proto
from splite_deploy.export.source.external_data import embed_external_data
from splite_deploy.export.source.floats import to_float32
from splite_deploy.runtime.backends.onnx_file import LEAST_OPSET
from splite_deploy.spec.reading import ReadError, read_bytes

KEPT_OPSET = 13
"""Older graphs have operators that the simplifier and the backends treat differently."""
_NEWEST_IR = 10  # of ONNX Runtime 1.18; what later ones add are types of 4 bits and notes for several devices
_ORT = ("com.microsoft", "com.ms.")
_INTEGER = ("QLinear", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")
_NORM = "BatchNormalization"
_DROPOUT = "Dropout"


def read_graph(path: Path) -> tuple[ir.Model, tuple[str, ...], frozenset[str], str]:
    """Reads a graph, with weights that lie beside its file.

    Args:
        path: The file. It is read once: what is hashed is what is exported.

    Returns:
        The graph in its own opset, what was changed, as text, the kinds of floats that became float32, and the hex
        SHA-256 of all that was read.

    Raises:
        CheckpointError: The file is damaged or not whole, no valid ONNX, or keeps weights outside of its folder.
        BackendError: It ends the process of ONNX Runtime.
        ExportError: It was optimised for ONNX Runtime, computes in integers, or is newer than the installed onnx.
    """
    try:
        content = read_bytes(path, most_bytes=path.stat().st_size)
    except (ReadError, OSError) as err:
        reason = err.reason if isinstance(err, ReadError) else err.strerror
        raise CheckpointError(f"Cannot read the checkpoint {path}: {reason}.", hint="Name an .onnx graph.") from err
    try:
        model = onnx.load_model_from_string(content)
        whole = bool(model.graph.node)
    except Exception:  # protobuf's error lies in a module of its own, and differs between its versions
        whole = False
    if not whole:
        raise CheckpointError(f"{path} is not a whole ONNX graph.", hint="Copy it again; it may be truncated.")
    if not _is_text(model):
        raise CheckpointError(
            f"{path} is not valid ONNX: a text in it is not UTF-8.", hint="Export it again from its framework."
        )
    nodes = list(_nodes(model.graph))
    _check_makers(nodes)
    digest = embed_external_data(model, path, content)
    del content
    notes = _settle_version(model)
    try:
        onnx.checker.check_model(model)
    except Exception as err:
        raise CheckpointError(
            f"{path} is not valid ONNX: {first_line(err, named=True)}", hint="Export it again from its framework."
        ) from err
    if trained := _evaluate(model.graph, nodes):
        notes.append(f"the graph was exported in training mode: {trained} layers behave as in evaluation here")
    kinds = to_float32(model)
    if kinds:
        notes.append(f"made float32 of {' and '.join(sorted(kinds))} in the graph, in which the reference computes")
    _drop_constant_inputs(model)
    try:
        graph = from_proto(model)
    except Exception as err:  # onnx_ir raises many kinds
        raise CheckpointError(
            f"{path} is not valid ONNX: {first_line(err, named=True)}", hint="Export it again from its framework."
        ) from err
    return _known_opset(graph, notes), tuple(notes), kinds, digest


def settle_opset(model: ir.Model, requested: int | None) -> tuple[ir.Model, tuple[str, ...]]:
    """A graph in the opset that a bundle's is made from: its own if that is 13 or later.

    Args:
        model: As it lies in its file.
        requested: The opset requested; None keeps that of the file.

    Returns:
        The graph, and what was done, as text.

    Raises:
        ExportError: It is older than 9, or a node has no form in the requested opset.
    """
    found = model.opset_imports.get("", 0)
    if found < LEAST_OPSET:
        raise ExportError(
            f"The graph has opset {found}; {LEAST_OPSET} is the least.", hint="Export it again with opset 18."
        )
    usual = found if found >= KEPT_OPSET else UPGRADED_OPSET
    target = requested or usual
    if target == found:
        return model, (f"kept the opset {found} of the graph",)
    if not UPGRADED_OPSET <= target <= MAX_OPSET or target < found:
        raise ExportError(
            f"The graph has opset {found}, which cannot become {target}.",
            hint=f"Leave out --opset, or choose {max(found, UPGRADED_OPSET)} to {MAX_OPSET}.",
        )
    return upgrade(model, target)


def _known_opset(model: ir.Model, notes: list[str]) -> ir.Model:
    """The graph in the latest opset that runtimes read, where it is of a later one."""
    found = model.opset_imports.get("", 0)
    if found <= MAX_OPSET:
        return model
    lower = restate(model, MAX_OPSET)
    if lower is None:
        raise ExportError(
            f"The graph has opset {found}, which says something that {MAX_OPSET}, the latest that is read, cannot say.",
            hint="Export it again with opset 18.",
        )
    notes.append(f"wrote opset {MAX_OPSET} for {found}: every node is the same in both")
    return lower


def _is_text(message: Any) -> bool:
    """Whether all its texts are UTF-8: protobuf gives the bytes of others, and some versions say nothing."""
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        values = [value] if isinstance(value, (str, bytes)) or hasattr(value, "ListFields") else value
        if not all(isinstance(one, str) if field.type == field.TYPE_STRING else _is_text(one) for one in values):
            return False
    return True


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph, and of the branches and loops in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
            for part in inner:
                yield from _nodes(part)


def _check_makers(nodes: Iterable[NodeProto]) -> None:
    """Refuses graphs that a runtime has made its own, and those without float weights."""
    nodes = list(nodes)
    integer = [node for node in nodes if node.op_type.startswith(_INTEGER)]
    if integer:
        raise ExportError(
            f"The graph computes in integers: it has {len(integer)} nodes such as {_kinds(integer)}.",
            hint="Give the float32 graph, from which export makes int8; or one with QuantizeLinear and "
            "DequantizeLinear, in ONNX Runtime quant_format=QuantFormat.QDQ, whose scales export keeps.",
        )
    own = [node for node in nodes if node.domain.startswith(_ORT)]
    if own:
        raise ExportError(
            f"The graph was optimised by ONNX Runtime: {len(own)} of {len(nodes)} nodes are its own ({_kinds(own)}), "
            "which no other backend reads.",
            hint="Give the file that ONNX Runtime was given before; it optimises every graph as it loads it.",
        )


def _kinds(nodes: list[NodeProto]) -> str:
    kinds = list(dict.fromkeys(node.op_type for node in nodes))
    return ", ".join(kinds[:4]) + (" and others" if len(kinds) > 4 else "")


def _settle_version(model: onnx.ModelProto) -> list[str]:
    """Lowers a version of the file's format that runtimes do not know, since its content is that of an older one."""
    found = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if found > defs.onnx_opset_version():
        raise ExportError(
            f"The graph has opset {found}; onnx {onnx.__version__} knows {defs.onnx_opset_version()}.",
            hint="Upgrade onnx and onnxruntime, or export the graph again with opset 18.",
        )
    if model.ir_version <= _NEWEST_IR:
        return []
    newer, model.ir_version = model.ir_version, _NEWEST_IR
    return [f"wrote IR version {_NEWEST_IR} for {newer}, which not every runtime reads"]


def _evaluate(graph: GraphProto, nodes: Iterable[NodeProto]) -> int:
    """Makes batch norms and dropouts of a graph exported in training mode behave as in evaluation."""
    read = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in nodes if node.op_type == "Constant"}
    changed = 0
    for node in nodes:
        if node.op_type == _NORM and not node.domain:
            changed += _evaluate_norm(node, read)
        elif node.op_type == _DROPOUT and len(node.input) > 2:
            trains = constants.get(node.input[2])
            if trains is not None and numpy_helper.to_array(trains).any():
                del node.input[2:]
                changed += 1
    return changed


def _evaluate_norm(node: NodeProto, read: set[str]) -> bool:
    trains = len(node.output) > 1 or any(item.name == "training_mode" and item.i for item in node.attribute)
    if not trains:
        return False
    if used := [name for name in node.output[1:] if name in read]:
        raise ExportError(
            f"The graph was exported in training mode, and reads the statistics '{used[0]}' of a batch norm.",
            hint="Export it again in evaluation mode: network.eval(), and for torch training=TrainingMode.EVAL.",
        )
    del node.output[1:]
    kept = [item for item in node.attribute if item.name != "training_mode"]
    del node.attribute[:]
    node.attribute.extend(kept)
    return True


def _drop_constant_inputs(model: onnx.ModelProto) -> None:
    """Old exporters list constants among the inputs, where a caller could exchange them."""
    constants = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in constants]
    if len(kept) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(kept)
        model.ir_version = max(model.ir_version, 4)  # the first that allows it
