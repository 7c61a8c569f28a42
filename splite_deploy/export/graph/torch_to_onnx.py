"""Network to ONNX, and ONNX to simpler ONNX. Imports torch and onnx."""

from __future__ import annotations

import io
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import nn

from splite_deploy.bundle import TensorSpec
from splite_deploy.compile.simplifier import lift_constants, run_onnxsim
from splite_deploy.decoders import check_shapes, roles_of
from splite_deploy.errors import ExportError, first_line
from splite_deploy.export.graph.walk import fold_pool_padding, from_proto, name_of, to_proto
from splite_deploy.export.log_output import quiet, without_stdout
from splite_deploy.export.quant.trained import has_quantisers
from splite_deploy.spec import ModelSpec

MIN_OPSET = 18  # the lowest that torch's exporter writes without a conversion that fails on reductions
MAX_OPSET = 23
_LEAST_IR = 8  # of opset 18, which we write; older ones take notes and functions otherwise
_SIMPLIFIER = "Install the onnxsim that constraints.txt names, or export with --opset 18."


def input_spec(spec: ModelSpec, dynamic_batch: bool) -> TensorSpec:
    """The input tensor of the graph."""
    batch = None if dynamic_batch else 1
    return TensorSpec("image", (batch, *spec.input.planes), "float32", "NCHW", "image")


def check_outputs(network: nn.Module, spec: ModelSpec) -> None:
    """Runs the network once and compares what it gives with what the decoder reads.

    Raises:
        ExportError: The number or the shape of the outputs is another.
    """
    example = torch.zeros(1, *spec.input.planes)
    try:
        with torch.inference_mode():
            outputs = network(example)
    except (Exception, SystemExit) as err:  # the user's network can raise anything
        raise failure_on(tuple(example.shape), err) from err
    values = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    if not isinstance(values, tuple | list) or not all(
        isinstance(value, torch.Tensor) and value.dtype == torch.float32 for value in values
    ):
        raise ExportError(
            f"The network gives {_describe(values)}, not float32 tensors.",
            hint=f"Return a tuple of float32 tensors: {', '.join(roles_of(spec))}; or say in [outputs] of "
            "model.toml where they are.",
        )
    roles = roles_of(spec)
    if len(values) != len(roles):
        raise ExportError(
            f"The network gives {len(values)} outputs; the decoder '{spec.decoder.type}' reads {len(roles)}: "
            f"{', '.join(roles)}.",
            hint=f"Choose the decoder that fits; or say in model.toml which of them it reads, as in "
            f"[outputs.{roles[0]}] with source = -1 for the last.",
        )
    shapes = {role: tuple(value.shape) for role, value in zip(roles, values, strict=True)}
    check_shapes(shapes, spec, crops=1, error=ExportError)


def failure_on(shape: tuple[int, ...], err: BaseException) -> ExportError:
    """The error of a network that fails on an input of this shape."""
    return ExportError(
        f"The network fails on an input of {shape}: {type(err).__name__}: {err}",
        hint="Check the input size in model.toml, and how [inputs.image] says that the network takes it.",
    )


def _describe(value: object) -> str:
    """What a network gave, as text."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype).removeprefix("torch.")
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {', '.join(map(_describe, value)) or 'nothing'}"
    return f"a {type(value).__name__}"


def onnx_from_network(network: nn.Module, spec: ModelSpec, *, opset: int, dynamic_batch: bool) -> ir.Model:
    """The network as an ONNX graph; inputs and outputs are named by their role.

    Args:
        network: In evaluation mode.
        spec: The model.
        opset: ONNX operator set.
        dynamic_batch: Leaves the batch size open; otherwise it is 1.

    Raises:
        ExportError: torch cannot trace the network, or the graph is invalid.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ExportError(f"Opset {opset} is not supported.", hint=f"Choose {MIN_OPSET} to {MAX_OPSET}.")
    is_script = isinstance(network, torch.jit.ScriptModule)
    convert = _traced if is_script or has_quantisers(network) else _exported
    # An example batch of 1 would make torch take 1 for a constant
    example = torch.zeros(2 if dynamic_batch else 1, *spec.input.planes)
    try:
        with quiet():
            model = convert(network, example, spec, opset, dynamic_batch)
    except (Exception, SystemExit) as err:  # torch raises many kinds, some of them private
        hint = "Data-dependent control flow is the usual cause; try torch.export.export on it for the details."
        if is_script:
            hint = "Save the weights alone (.safetensors) or a torch.export program where its class is at hand."
        raise ExportError(
            f"torch cannot export this network: {first_line(err, named=True)}",
            hint=hint + (" Without --dynamic-batch it may pass." if dynamic_batch else ""),
        ) from err
    settle_format(model)
    _check(model, "The graph that torch made")
    return from_proto(model)


def simplified_graph(network: nn.Module, spec: ModelSpec) -> ir.Model:
    """The simplified graph of one crop, to be looked at or timed and not to be kept.

    Raises:
        ExportError: See `onnx_from_network` and `simplify`.
    """
    return simplify(onnx_from_network(network, spec, opset=MIN_OPSET, dynamic_batch=False), metadata={})


def _exported(
    network: nn.Module, example: torch.Tensor, spec: ModelSpec, opset: int, dynamic_batch: bool
) -> onnx.ModelProto:
    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic_batch else None

    def to_onnx(source: nn.Module | torch.export.ExportedProgram, **options: Any) -> onnx.ModelProto:
        program = torch.onnx.export(
            source,
            (example,),
            input_names=["image"],
            output_names=list(roles_of(spec)),
            opset_version=opset,
            dynamo=True,
            verbose=False,
            **options,
        )
        assert program is not None
        model: onnx.ModelProto = program.model_proto
        return model

    try:
        return to_onnx(network, dynamic_shapes=shapes)
    except (Exception, SystemExit) as err:  # torch raises many kinds
        # Of some operations the exporter knows one form alone, as of attention that with a head axis: in small steps
        # it takes all of them. The graph has more nodes then, so that this is the second choice
        try:
            traced = torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)
            return to_onnx(traced.run_decompositions())
        except Exception:
            raise err from err.__cause__


def _traced(
    network: nn.Module, example: torch.Tensor, spec: ModelSpec, opset: int, dynamic_batch: bool
) -> onnx.ModelProto:
    """The graph of a ScriptModule or of fake quantisers, which only torch's older exporter takes."""
    names, written = ["image", *roles_of(spec)], io.BytesIO()
    with without_stdout():
        torch.onnx.export(
            network,
            (example,),
            written,  # type: ignore[arg-type]  # its annotation forgets that this exporter takes streams
            input_names=names[:1],
            output_names=names[1:],
            opset_version=opset,
            dynamic_axes={name: {0: "batch"} for name in names} if dynamic_batch else None,
            dynamo=False,
            verbose=False,
        )
    model: onnx.ModelProto = onnx.load_model_from_string(written.getvalue())
    return model


def simplify(model: ir.Model, *, metadata: dict[str, str]) -> ir.Model:
    """A copy with constants folded and without nodes that do nothing.

    Args:
        model: Any graph.
        metadata: Written into the graph's metadata slot.

    Raises:
        ExportError: onnxsim fails, or gives a graph it cannot validate.
    """
    lifted = model.clone()
    try:
        lift_constants(lifted)
        with quiet():
            simplified, valid = run_onnxsim(to_proto(lifted))
    except Exception as err:
        raise ExportError(f"onnxsim failed: {first_line(err, named=True)}", hint=_SIMPLIFIER) from err
    if not valid:
        raise ExportError("onnxsim could not validate the simplified graph.", hint=_SIMPLIFIER)
    _set_metadata(simplified, metadata)
    settle_format(simplified)
    _check(simplified, "The simplified graph")
    made = from_proto(simplified)
    fold_pool_padding(made.graph)
    return made


def settle_format(model: onnx.ModelProto) -> None:
    """Writes the lowest IR version that has the graph's opset, or leaves a lower one.

    Exporters write their own newest; a runtime of the year of the opset refuses that, as ONNX Runtime up to 1.17 does
    with 10. Versions and opsets: https://onnx.ai/onnx/repo-docs/Versioning.html
    """
    standard = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if standard:
        least = max(_LEAST_IR, onnx.helper.find_min_ir_version_for(standard))
        model.ir_version = min(model.ir_version, least)


def _set_metadata(model: onnx.ModelProto, metadata: dict[str, str]) -> None:
    """Drops the exporter's notes, which name source files, and sets the metadata."""
    for part in (
        model.graph.node,
        model.graph.input,
        model.graph.output,
        model.graph.value_info,
        model.graph.initializer,
    ):
        for item in part:
            del item.metadata_props[:]
            item.doc_string = ""
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value


def check_output_names(model: ir.Model, spec: ModelSpec) -> None:
    """Compares the outputs of a graph, which are named by their roles, with what the decoder reads.

    Raises:
        ExportError: They are others.
    """
    names = list(map(name_of, model.graph.outputs))
    if set(names) != set(roles_of(spec)):
        raise ExportError(
            f"The graph's outputs are {names}, not {list(roles_of(spec))}.",
            hint="Two outputs of the network may be the same tensor; return them separately.",
        )


def _check(model: onnx.ModelProto, what: str) -> None:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as err:
        raise ExportError(
            f"{what} is not valid ONNX: {first_line(err, named=True)}", hint="Try another --opset."
        ) from err
