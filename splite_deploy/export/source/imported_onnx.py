"""A given ONNX graph as the start of an export, instead of a torch network. Imports onnx and ONNX Runtime.

Its inputs and outputs get the names that the rest of the tool reads; nothing else is changed. The reference is the file
itself, run by ONNX Runtime: there is no torch network to compare with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray

from splite_deploy.bundle import Artifact, TensorSpec
from splite_deploy.decoders import check_shapes
from splite_deploy.errors import BackendError, CheckpointError, ExportError
from splite_deploy.export.graph.torch_to_onnx import first_line, input_spec
from splite_deploy.files import sha256_of
from splite_deploy.runtime.session import open_bytes
from splite_deploy.runtime.verify import run_each
from splite_deploy.spec import HostSpec, ModelSpec

LEAST_OPSET = 13
"""Older graphs have operators that the simplifier and the backends treat differently."""
_FULL = "Export it again in float32; lower precisions are made from that."


@dataclass(frozen=True)
class GivenGraph:
    """An ONNX file that fits its model spec.

    Attributes:
        path: The file.
        model: Its graph, with the names and the batch size of a bundle's graph.
        artifact: The file as it is, with its own names.
        opset: Its operator set, which is kept.
        spec: Its model spec.
        host: What only the developer's machine needs of ``model.toml``.
        checkpoint_sha256: Hash of the file.
        notes: What was found and chosen, in words.
    """

    path: Path
    model: onnx.ModelProto
    artifact: Artifact
    opset: int
    spec: ModelSpec
    host: HostSpec
    checkpoint_sha256: str
    notes: tuple[str, ...]
    name: ClassVar[str] = "onnx"
    """What the outputs of `run` are called in a report."""

    def run(self, tensors: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Reference outputs of the file by role, N first, computed one crop at a time as on a device."""
        return _run(self.path, self.artifact, tensors)


def read_graph(path: Path, spec: ModelSpec, host: HostSpec, *, opset: int | None, dynamic_batch: bool) -> GivenGraph:
    """Reads an ONNX file and fits it to the model spec.

    Args:
        path: The file; external data lies beside it.
        spec: The model.
        host: The rest of ``model.toml``.
        opset: The operator set asked for; None takes that of the file.
        dynamic_batch: Leaves the batch size open; otherwise it is 1.

    Raises:
        CheckpointError: The file is damaged or not whole, or no valid ONNX.
        ExportError: Its operator set, input or outputs are not those that are needed.
        BackendError: ONNX Runtime cannot run it.
    """
    model = _load(path)
    found = _opset_of(model, opset)
    image = _image(model.graph, spec, dynamic_batch)
    _check_precision(model.graph)
    names, matched = _match_outputs(model.graph, spec)
    digest = sha256_of(path)
    sizes = input_spec(spec, dynamic_batch).shape
    outputs = tuple(TensorSpec(name, (), "float32", spec.decoder.layouts[role], role) for role, name in names.items())
    inputs = (TensorSpec(image.name, sizes, "float32", "NCHW", "image"),)
    artifact = Artifact("onnx", "ort", "fp32", path.name, digest, inputs, outputs, spec.limits, {})
    shapes = _try(path, artifact, spec, dynamic_batch)
    _rename(model.graph, {image.name: "image", **{name: role for role, name in names.items()}})
    _set_shapes(model.graph, {"image": sizes, **shapes})
    notes = (
        "the reference is the given ONNX graph in ONNX Runtime; it was not compared with a torch network",
        f"kept the opset {found} of the graph",
        *matched,
        *(("arch in model.toml was not used: the graph is the network",) if host.arch else ()),
    )
    return GivenGraph(path, model, artifact, found, spec, host, digest, notes)


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path), load_external_data=False)
        whole = bool(model.graph.node)
    except Exception:  # protobuf's error lies in a module of its own, and differs between its versions
        whole = False
    if not whole:
        raise CheckpointError(f"{path} is not a whole ONNX graph.", hint="Copy it again; it may be truncated.")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as err:  # a file is missing, too short, or lies elsewhere
        raise CheckpointError(
            f"{path} keeps weights in another file, which cannot be read: {first_line(err)}",
            hint="Copy that file too, to the same folder and under the name it was written with.",
        ) from err
    try:
        onnx.checker.check_model(model)
    except Exception as err:
        raise CheckpointError(
            f"{path} is not valid ONNX: {first_line(err)}", hint="Export it again from its framework."
        ) from err
    return model


def _opset_of(model: onnx.ModelProto, asked: int | None) -> int:
    found = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    convert = "convert it with onnx.version_converter.convert_version"
    if found < LEAST_OPSET:
        raise ExportError(
            f"The graph has opset {found}; {LEAST_OPSET} is the least.",
            hint=f"Export it again with opset 18, or {convert}(model, 18).",
        )
    if asked not in (None, found):
        raise ExportError(
            f"The graph has opset {found}, not {asked}; a given graph keeps its own.",
            hint=f"Leave out --opset, or {convert}(model, {asked}).",
        )
    return found


def _image(graph: onnx.GraphProto, spec: ModelSpec, dynamic_batch: bool) -> onnx.ValueInfoProto:
    weights = {tensor.name for tensor in graph.initializer}  # old graphs list them as inputs too
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        held = ", ".join(value.name for value in inputs) or "none"
        raise ExportError(f"The graph takes {len(inputs)} inputs: {held}.", hint="Export it with one input, the image.")
    image: onnx.ValueInfoProto = inputs[0]
    kind = _dtype(image)
    sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in image.type.tensor_type.shape.dim]
    wanted = (1, 3, spec.input.height, spec.input.width)
    fits = len(sizes) == 4 and all(size in (None, want) for size, want in zip(sizes, wanted, strict=True))
    if not fits or kind != "float32":
        hint = "Check the input's size in model.toml, or export the graph again."
        if kind != "float32":
            hint = _FULL
        elif len(sizes) == 4 and sizes[3] == 3:
            hint = "Its channels come last: export it again with channels first (NCHW)."
        shown = "x".join("N" if size is None else str(size) for size in sizes) or "of unknown shape"
        raise ExportError(
            f"The graph's input '{image.name}' is {kind} {shown}; the model spec says float32 "
            f"{'x'.join(map(str, wanted))}.",
            hint=hint,
        )
    if dynamic_batch and sizes[0] is not None:
        raise ExportError(
            "The graph was exported for a batch of 1.",
            hint="Leave out --dynamic-batch, or export the graph again with an open first axis.",
        )
    return image


def _dtype(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type.elem_type
    return onnx.helper.tensor_dtype_to_np_dtype(kind).name if kind else "no tensor"


def _check_precision(graph: onnx.GraphProto) -> None:
    """The bundle's graph is the one of full precision; others are made from it."""
    lower = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    if any(tensor.data_type in lower for tensor in graph.initializer):
        what = "holds weights of half precision"
    elif any("QuantizeLinear" in node.op_type for node in graph.node):
        what = "is quantised"
    else:
        return
    raise ExportError(f"The graph {what}.", hint=_FULL)


def _match_outputs(graph: onnx.GraphProto, spec: ModelSpec) -> tuple[dict[str, str], tuple[str, ...]]:
    """The graph's outputs by role, with a note where these were matched by their order."""
    roles, names = spec.decoder.roles, [output.name for output in graph.output]
    if len(names) != len(roles):
        raise ExportError(
            f"The graph gives {len(names)} outputs: {', '.join(names)}; the decoder '{spec.decoder.type}' reads "
            f"{len(roles)}: {', '.join(roles)}.",
            hint="Choose the decoder that fits, or export the graph with these outputs in this order.",
        )
    for output in graph.output:
        if _dtype(output) != "float32":
            raise ExportError(
                f"The graph's output '{output.name}' is {_dtype(output)}, not float32.",
                hint=_FULL,
            )
    if set(names) == set(roles):
        return {role: role for role in roles}, ()
    if shared := sorted(set(names) & set(roles)):
        raise ExportError(
            f"The graph's outputs are {', '.join(names)}: only {', '.join(shared)} is named by its role.",
            hint=f"Name all of them ({', '.join(roles)}) or none; then their order counts.",
        )
    by_order = dict(zip(roles, names, strict=True))
    said = ", ".join(f"'{name}' is the {role}" for role, name in by_order.items())
    return by_order, (f"matched the graph's outputs by their order: {said}",)


def _run(path: Path, artifact: Artifact, tensors: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    with open_bytes(path.read_bytes(), artifact) as session:
        return run_each(session, tensors)


def _try(path: Path, artifact: Artifact, spec: ModelSpec, dynamic_batch: bool) -> dict[str, tuple[int | None, ...]]:
    """Runs the file once; returns its outputs' sizes, of which only the first may be open."""
    image = np.zeros((2 if dynamic_batch else 1, 3, spec.input.height, spec.input.width), np.float32)
    session = open_bytes(path.read_bytes(), artifact)
    try:
        values = session.run({artifact.inputs[0].name: image})
    except BackendError as err:
        raise ExportError(
            f"The graph fails on an input of {image.shape}: {err.message}",
            hint="Check the input size in model.toml, or export the graph again for it.",
        ) from err
    finally:
        session.close()
    shapes = {output.role: values[output.name].shape for output in artifact.outputs}
    if dynamic_batch and any(shape[:1] != (2,) for shape in shapes.values()):
        raise ExportError(
            f"Run on a batch of 2 the graph gives outputs of {', '.join(map(str, shapes.values()))}.",
            hint="Leave out --dynamic-batch, or export the graph again with an open first axis.",
        )
    check_shapes(shapes, spec, crops=2 if dynamic_batch else 1, error=ExportError)
    return {role: (None if dynamic_batch else 1, *shape[1:]) for role, shape in shapes.items()}


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Renames tensors; what had one of the new names before gets another."""
    taken = _names_in(graph)
    moved = {}
    for name in set(names.values()) & (taken - set(names)):
        inner = f"{name}_inner"
        while inner in taken:
            inner += "_"
        moved[name] = inner
    _replace(graph, {**names, **moved})


def _names_in(graph: onnx.GraphProto) -> set[str]:
    names = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        names.update(node.input, node.output, *map(_names_in, _bodies(node)))
    return names


def _replace(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for held in (node.input, node.output):
            held[:] = [names.get(name, name) for name in held]
        for body in _bodies(node):
            _replace(body, names)


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Graphs inside a node, which see the tensors around it: the branches of If, the body of Loop."""
    return [body for held in node.attribute for body in ([held.g] if held.HasField("g") else list(held.graphs))]


def _set_shapes(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int | None, ...]]) -> None:
    """States the sizes of the inputs and outputs; those in between are left to be inferred."""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.name not in shapes:
            continue
        del value.type.tensor_type.shape.dim[:]
        for size in shapes[value.name]:
            dim = value.type.tensor_type.shape.dim.add()
            if size is None:
                dim.dim_param = "batch"
            else:
                dim.dim_value = size
