"""Checkpoint formats: recognises them by a file's content, not by its name, and reads those that are not weights.

A torch.export program and a TorchScript archive bring their own code: loading either can run code, so the caller has to
say that it is trusted, see `require_trust`. An imported ONNX graph takes the place of a torch network: its inputs and
outputs get the names that the rest of the tool reads, and nothing else is changed. The reference is the file itself,
run by ONNX Runtime, since there is no torch network to compare with. Imports torch, onnx and ONNX Runtime.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from splite_deploy.bundle import Artifact, TensorSpec
from splite_deploy.decoders import check_shapes
from splite_deploy.errors import BackendError, CheckpointError, ExportError, first_line, reading_hint
from splite_deploy.export.graph.torch_to_onnx import input_spec
from splite_deploy.export.graph.view import view_around, view_notes
from splite_deploy.export.graph.walk import attributes, forget_types, make_session, name_of, sizes, to_proto
from splite_deploy.export.log_output import quiet
from splite_deploy.export.source.onnx_file import read_graph, settle_opset
from splite_deploy.export.source.weights import weights_key
from splite_deploy.runtime.backends import find_backend
from splite_deploy.runtime.backends.base import ModelFile
from splite_deploy.runtime.first_load import first_load
from splite_deploy.runtime.session import open_bytes
from splite_deploy.runtime.verify import run_each
from splite_deploy.runtime.view import apply_view, network_input
from splite_deploy.spec import HostSpec, InputView, ModelSpec, OutputView, View
from splite_deploy.spec.reading import ReadError, check_file, refuse_stand_in
from splite_deploy.spec.view import DTYPES, choose, heads_in, no_tensor

Format = Literal["weights", "program", "script", "onnx"]
FORMATS: dict[Format, str] = {
    "weights": "a file of weights",
    "program": "a torch.export program",
    "script": "a TorchScript archive",
    "onnx": "an ONNX graph",
}
"""Every format, as text."""
_ZIP = b"PK\x03\x04"
_ONNX = b"\x08"
"""The tag of ``ir_version``, the first field that ONNX writers put into a file; protobuf has no other mark."""


def read_head(path: Path) -> bytes:
    """The first nine bytes of a checkpoint; fewer where it is shorter.

    Raises:
        CheckpointError: It cannot be read, or is no file.
        StandInError: A download left something else in its place.
    """
    hint = "Name a .safetensors or .pt file, or an .onnx graph."
    try:
        check_file(path)
        with path.open("rb") as stream:
            head = stream.read(64)
    except ReadError as err:
        message = f"Cannot read the checkpoint {path}: {err.reason}."
        raise CheckpointError(message, hint=reading_hint(err, hint)) from err
    except OSError as err:
        message = f"Cannot read the checkpoint {path}: {err.strerror}."
        raise CheckpointError(message, hint=reading_hint(err, hint)) from err
    refuse_stand_in(head, str(path))
    return head[:9]


def format_of(path: Path) -> Format:
    """The format of a checkpoint; what is damaged or unknown counts as weights, whose reader says what is wrong.

    Raises:
        CheckpointError: It cannot be read.
    """
    head = read_head(path)
    if head.startswith(_ZIP):
        return _format_of_archive(path)
    is_safetensors = head[8:9] == b"{"
    return "onnx" if not is_safetensors and (path.suffix == ".onnx" or head.startswith(_ONNX)) else "weights"


def _format_of_archive(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):  # their reader says what is wrong
        return "weights"
    inner = {name.partition("/")[2] for name in names}  # torch puts all under one folder
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return "script"
    # The second name is that of torch 2.1 to 2.6
    if "archive_format" in inner or "serialized_exported_program.json" in names:
        return "program"
    return "weights"


def require_trust(path: Path, kind: Format, trust: bool) -> None:
    """Refuses the forms whose loading can run code, unless the caller said that the file is trusted.

    TorchScript is a program, and its operators read and write files. ``torch.export.load`` unpickles what is no plain
    tensor (``pickle.loads``, ``weights_only=False``) and evaluates the shape expressions and guards of the file as
    Python; none of that can be switched off.

    Raises:
        CheckpointError: It is such a format, and not trusted.
    """
    if kind in ("program", "script") and not trust:
        raise CheckpointError(
            f"{path} is {FORMATS[kind]}; it was not loaded, since that can run code.",
            hint="If you know who made it add --trust; otherwise ask for the weights alone (.safetensors) or an "
            ".onnx file.",
        )


def read_program(path: Path) -> torch.export.ExportedProgram:
    """What is in a ``.pt2`` file of ``torch.export.save``.

    Raises:
        CheckpointError: torch cannot load it.
    """
    try:
        with quiet():
            return torch.export.load(path)
    except Exception as err:  # on damaged bytes and on other versions torch raises anything
        raise CheckpointError(
            f"torch {torch.__version__} cannot load {path} as a torch.export program: {first_line(err, named=True)}",
            hint="Copy it again; or save it again with torch.export.save of this version, or as an ONNX graph.",
        ) from err


def load_program(path: Path, spec: ModelSpec, view: InputView, dynamic_batch: bool) -> nn.Module:
    """The network of a ``.pt2`` file of ``torch.export.save``.

    Raises:
        CheckpointError: torch cannot load it.
        ExportError: Its input is not what the view says of it, its batch is fixed where it is to be open, or it was
            exported in training mode.
    """
    program = read_program(path)
    _check_input(program, spec, view, dynamic_batch)
    for node in program.graph.nodes:
        if _trains(node):
            raise ExportError(
                f"The program was exported in training mode: '{node.name}' trains.",
                hint="Call network.eval() before torch.export.export, and save it again.",
            )
    return program.module()


def _trains(node: torch.fx.Node) -> bool:
    """Whether an operator behaves as in training: batch norms and dropout say so in an argument."""
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema is not None else []
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return given.get("training") is True or given.get("train") is True


def _check_input(program: torch.export.ExportedProgram, spec: ModelSpec, view: InputView, dynamic_batch: bool) -> None:
    names = program.graph_signature.user_inputs
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(values) != 1 or not isinstance(values[0], torch.Tensor):
        raise ExportError(
            f"The program takes {len(names)} inputs: {', '.join(map(str, names))}.",
            hint="Export a network that takes one tensor, the image.",
        )
    (value,) = values
    wanted = (1, *view.shape(spec.input.planes))
    open_sizes = [not isinstance(size, int) for size in value.shape]
    fits = len(open_sizes) == len(wanted) and all(
        is_open or size == want for is_open, size, want in zip(open_sizes, value.shape, wanted, strict=True)
    )
    dtype = str(value.dtype).removeprefix("torch.")
    if not fits or dtype != view.dtype:
        shown = "x".join("N" if is_open else str(size) for is_open, size in zip(open_sizes, value.shape, strict=True))
        hint = "Check the input's size in model.toml, and say in [inputs.image] which layout and dtype it takes."
        if dtype not in DTYPES:
            hint = "Export the program again with one float32 image."
        raise ExportError(
            f"The program takes {dtype} {shown}; the model spec says {view.dtype} {'x'.join(map(str, wanted))}.",
            hint=hint,
        )
    if dynamic_batch and not open_sizes[0]:
        raise ExportError(
            "The program was exported for a batch of 1.",
            hint="Leave out --dynamic-batch, or give torch.export.export dynamic_shapes with a Dim for the first axis.",
        )


def load_script(path: Path) -> nn.Module:
    """The network of an archive of ``torch.jit.save``, in evaluation mode.

    Raises:
        CheckpointError: torch cannot load it.
    """
    try:
        with quiet():
            script: Any = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
            return script.eval()  # type: ignore[no-any-return]
    except Exception as err:  # the archive's own code can raise anything
        raise CheckpointError(
            f"torch {torch.__version__} cannot load {path} as TorchScript: {first_line(err, named=True)}",
            hint="Copy it again; or save the weights alone, or an ONNX graph, where the class is at hand.",
        ) from err


_FULL = "Export it again in float32; lower precisions are made from that."


@dataclass(frozen=True)
class ImportedOnnx:
    """An ONNX file that fits its model spec.

    Attributes:
        content: The graph as it is, with weights that lay beside its file.
        model: Its graph, with the names and the batch size of a bundle's graph.
        artifact: What ``content`` takes and gives, with its own names.
        opset: Its operator set, which is that of the file from 13 on.
        spec: Its model spec.
        host: What only the developer's machine needs of ``model.toml``.
        checkpoint_sha256: Hash of the file.
        notes: What was found and chosen, as text.
    """

    content: bytes
    model: ir.Model
    artifact: Artifact
    opset: int
    spec: ModelSpec
    host: HostSpec
    checkpoint_sha256: str
    notes: tuple[str, ...]
    name: ClassVar[str] = "onnx"
    """What the outputs of `run` are called in a report."""

    @property
    def weights_sha256(self) -> str:
        """Key of the graph's constants, see `splite_deploy.export.source.weights.weights_key`."""
        parts = (self.model.graph, *self.model.graph.subgraphs())
        stored = [value.const_value for part in parts for value in part.initializers.values()]
        stored += [value for part in parts for node in part for value in attributes(node).values()]
        return weights_key(tensor.numpy() for tensor in stored if isinstance(tensor, ir.TensorProtocol))

    def run(self, tensors: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Reference outputs of the file by role, N first, computed one crop at a time as on a device."""
        with open_bytes(self.content, self.artifact, model=self.spec) as session:
            return run_each(session, tensors, self.spec)


def read_onnx(path: Path, spec: ModelSpec, host: HostSpec, *, opset: int | None, dynamic_batch: bool) -> ImportedOnnx:
    """Reads an ONNX file and fits it to the model spec.

    Args:
        path: The file; external data lies beside it.
        spec: The model.
        host: The rest of ``model.toml``; its view says how the graph's tensors lie.
        opset: The operator set requested; None takes that of the file.
        dynamic_batch: Leaves the batch size open; otherwise it is 1.

    Raises:
        CheckpointError: The file is damaged or not whole, or no valid ONNX.
        ExportError: Its operator set, input or outputs are not those that are needed.
        BackendError: ONNX Runtime cannot run it.
    """
    model, changed, kinds, digest = read_graph(path)
    batch = None if dynamic_batch else 1
    given = host.view
    if given.input.dtype in kinds:
        given = replace(given, input=replace(given.input, dtype="float32"))
    model, single = _one_crop(model, spec, given.input, dynamic_batch)
    image = _image(model.graph, spec, given.input, dynamic_batch)
    held = {name_of(value): value for value in model.graph.outputs}
    spec = spec.with_heads(heads_in(held, given, spec))
    chosen, by_order = choose(held, given, spec, ExportError)
    for role, value in chosen.items():
        if not isinstance(value.type, ir.TensorType):
            raise no_tensor(name_of(value), role, ExportError)
    sources = {role: name_of(value) for role, value in chosen.items()}
    inputs = (TensorSpec(name_of(image), (batch, *given.input.shape(spec.input.planes)), _dtype(image), "", ""),)
    outputs = tuple(TensorSpec(name, (), _dtype(held[name]), "", "") for name in dict.fromkeys(sources.values()))
    artifact = Artifact("onnx", "ort", "fp32", path.name, digest, inputs, outputs, spec.limits, {}, given)
    content = to_proto(model).SerializeToString()
    raw = _try(content, replace(artifact, view=None), spec, given.input, dynamic_batch)
    sized = (replace(output, shape=(batch, *raw[output.name][1:])) for output in outputs)
    # Named sources, since the graph may have more outputs than these
    named = View(given.input, {role: replace(given.output(role), source=name) for role, name in sources.items()})
    artifact = replace(artifact, outputs=tuple(sized), view=named)
    shapes = _canonical_shapes(content, artifact, spec, raw)
    model, upgraded = settle_opset(model, opset)  # the reference stays as it is
    found = model.opset_imports[""]
    image, held = model.graph.inputs[0], {name_of(value): value for value in model.graph.outputs}
    as_read = replace(given, outputs={role: one for role, one in given.outputs.items() if one != OutputView()})
    plain = as_read.is_canonical and len(held) == len(sources) and {one.dtype for one in outputs} == {"float32"}
    names = {name_of(image): "image", **{name: role for role, name in sources.items()}}
    if not plain:
        names = {old: f"source/{new}" for old, new in names.items()}
    _rename(model.graph, names, {"image", *sources})
    if not plain:
        inner = {role: names[name] for role, name in sources.items()}
        model = view_around(model, given, spec, inner, {names[name]: shape for name, shape in raw.items()})
    _set_shapes(model.graph, {"image": input_spec(spec, dynamic_batch).shape, **shapes})
    order = ", ".join(f"'{name}' is the {role}" for role, name in sources.items())
    notes = (
        "the reference is the imported ONNX graph in ONNX Runtime; it was not compared with a torch network",
        *upgraded,
        *changed,
        *single,
        *((f"matched the graph's outputs by their order: {order}",) * by_order),
        *view_notes(host.view),
        *(("arch in model.toml was not used: the graph is the network",) if host.arch else ()),
    )
    return ImportedOnnx(content, model, artifact, found, spec, host, digest, notes)


def _one_crop(
    model: ir.Model, spec: ModelSpec, view: InputView, dynamic_batch: bool
) -> tuple[ir.Model, tuple[str, ...]]:
    """Sets a fixed batch of several crops to one, where the graph computes each by itself.

    Raises:
        ExportError: It does not: the number is in its nodes. Or the batch shall be open.
    """
    inputs = list(model.graph.inputs)
    shape = sizes(inputs[0]) if len(inputs) == 1 else ()
    fixed, wanted = shape[0] if shape else None, view.shape(spec.input.planes)
    kind = _dtype(inputs[0]) if inputs else ""
    if fixed is None or fixed < 2 or shape[1:] != wanted or kind != view.dtype:
        return model, ()  # what is wrong besides is said later
    if dynamic_batch:
        raise ExportError(
            f"The graph was exported for a batch of {fixed}, which export can make one crop, but not open.",
            hint="Leave out --dynamic-batch, or export the graph again with an open first axis.",
        )
    single = model.clone()
    single.graph.inputs[0].shape = ir.Shape([1, *wanted])
    forget_types(single.graph)
    for output in single.graph.outputs:
        output.shape = None
    noise = np.random.default_rng(0).standard_normal((fixed, *spec.input.planes)).astype(np.float32)
    image = network_input(view, noise)
    try:
        whole = make_session(model).run(None, {inputs[0].name: image})
        alone = make_session(single).run(None, {inputs[0].name: image[:1]})
        rows = zip(whole, alone, strict=True)
        same = all(len(a) == fixed and np.allclose(a[:1], b, rtol=1e-4, atol=1e-5 * np.abs(a).max()) for a, b in rows)
    except Exception:  # ONNX Runtime raises many kinds
        same = False
    if not same:
        raise ExportError(
            f"The graph was exported for a batch of {fixed}, and does not compute one crop by itself.",
            hint="Export it again for one crop, or with an open first axis (dynamic_axes in torch).",
        )
    return single, (f"set the graph's batch of {fixed} to 1: each crop is computed by itself",)


def _image(graph: ir.Graph, spec: ModelSpec, view: InputView, dynamic_batch: bool) -> ir.Value:
    inputs = list(graph.inputs)
    if len(inputs) != 1:
        names = ", ".join(map(name_of, inputs)) or "none"
        raise ExportError(
            f"The graph takes {len(inputs)} inputs: {names}.", hint="Export it with one input, the image."
        )
    image = inputs[0]
    kind, shape = _dtype(image), sizes(image)
    wanted = (1, *view.shape(spec.input.planes))
    fits = len(shape) == len(wanted) and all(size in (None, want) for size, want in zip(shape, wanted, strict=True))
    named = view.source in (None, 0, -1, image.name)
    if not fits or kind != view.dtype or not named:
        hint = "Check the input's size in model.toml, or export the graph again."
        last = (spec.input.height, spec.input.width, spec.input.channels)
        changes = [f'dtype = "{kind}"'] if kind != view.dtype else []
        if view.layout == "NCHW" and shape[1:] == last:
            changes.insert(0, 'layout = "NHWC"')
        if not named:
            hint = f"Correct source in [inputs.image] of model.toml, which is {view.source!r}."
        elif kind not in DTYPES:
            hint = _FULL
        elif changes:
            hint = f"Say so in [inputs.image] of model.toml: {' and '.join(changes)}."
        shown = "x".join("N" if size is None else str(size) for size in shape) or "of unknown shape"
        raise ExportError(
            f"The graph's input '{image.name}' is {kind} {shown}; the model spec says {view.dtype} "
            f"{'x'.join(map(str, wanted))}.",
            hint=hint,
        )
    if dynamic_batch and shape[0] is not None:
        raise ExportError(
            "The graph was exported for a batch of 1.",
            hint="Leave out --dynamic-batch, or export the graph again with an open first axis.",
        )
    return image


def _dtype(value: ir.Value) -> str:
    return "no tensor" if value.dtype is None else value.dtype.numpy().name


def _try(
    content: bytes, artifact: Artifact, spec: ModelSpec, view: InputView, dynamic_batch: bool
) -> dict[str, tuple[int, ...]]:
    """Runs the graph once, at first in a process of its own; returns what its outputs measure, by their names."""
    blank = np.zeros((2 if dynamic_batch else 1, *spec.input.planes), np.float32)
    image = network_input(view, blank)
    first_load(find_backend("ort"), ModelFile(content, artifact.file, "onnx"), quick=True)
    with open_bytes(content, artifact) as session:
        try:
            values = session.run({artifact.inputs[0].name: image})
        except BackendError as err:
            raise ExportError(
                f"The graph fails on an input of {image.shape}: {err.message}",
                hint="Check the input size in model.toml, or export the graph again for it.",
            ) from err
    shapes = {output.name: values[output.name].shape for output in artifact.outputs}
    if dynamic_batch and any(shape[:1] != (2,) for shape in shapes.values()):
        raise ExportError(
            f"Run on a batch of 2 the graph gives outputs of {', '.join(map(str, shapes.values()))}.",
            hint="Leave out --dynamic-batch, or export the graph again with an open first axis.",
        )
    return shapes


def _canonical_shapes(
    content: bytes, artifact: Artifact, spec: ModelSpec, raw: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int | None, ...]]:
    """What the decoder's outputs measure, of which only the first size may be open."""
    assert artifact.view is not None
    blank = {name: np.broadcast_to(np.float32(0), shape) for name, shape in raw.items()}
    try:
        made = apply_view(artifact.view, blank, spec)
    except BackendError as err:
        raise ExportError(err.message, hint=err.hint) from err
    shapes = {role: values.shape for role, values in made.items()}
    check_shapes(shapes, spec, crops=next(iter(raw.values()))[0], error=ExportError)
    return {role: (artifact.inputs[0].shape[0], *shape[1:]) for role, shape in shapes.items()}


def _rename(graph: ir.Graph, names: Mapping[str, str], reserved: set[str]) -> None:
    """Renames the graph's inputs and outputs; what has one of the new names or a reserved one gets another."""
    outer = {value: names[name_of(value)] for value in (*graph.inputs, *graph.outputs) if value.name in names}
    inner = [value for value in _values(graph) if value not in outer]
    known = {name_of(value) for value in inner} | set(names.values()) | reserved
    for value in inner:
        if value.name in reserved or value.name in outer.values():
            name = f"{value.name}_inner"
            while name in known:
                name += "_"
            known.add(name)
            value.name = name
    for value, name in outer.items():
        value.name = name


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """All values of a graph and of the graphs inside its nodes: the branches of If, the body of Loop."""
    for part in (graph, *graph.subgraphs()):
        yield from part.inputs
        yield from part.initializers.values()
        for node in part:
            yield from node.outputs


def _set_shapes(graph: ir.Graph, shapes: Mapping[str, tuple[int | None, ...]]) -> None:
    """States the sizes of the inputs and outputs; those in between are left to be inferred."""
    forget_types(graph)
    for value in (*graph.inputs, *graph.outputs):
        if (shape := shapes.get(name_of(value))) is not None:
            value.shape = ir.Shape(["batch" if size is None else size for size in shape])
