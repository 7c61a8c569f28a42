"""Networks that bring their own code: torch.export programs and TorchScript archives. Imports torch.

Loading either can run code, see `splite_deploy.export.source.formats.require_trust`: the caller has to have asked for
it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from splite_deploy.errors import CheckpointError, ExportError, first_line
from splite_deploy.export.log_output import quiet
from splite_deploy.spec import ModelSpec


def load_program(path: Path, spec: ModelSpec, dynamic_batch: bool) -> nn.Module:
    """The network of a ``.pt2`` file of ``torch.export.save``.

    Raises:
        CheckpointError: torch cannot load it.
        ExportError: Its input is not that of the spec, its batch is fixed where it is to be open, or it was exported
            in training mode.
    """
    try:
        with quiet():
            program = torch.export.load(path)
    except Exception as err:  # on damaged bytes and on other versions torch raises anything
        raise CheckpointError(
            f"torch {torch.__version__} cannot load {path} as a torch.export program: {first_line(err, named=True)}",
            hint="Copy it again; or save it again with torch.export.save of this version, or as an ONNX graph.",
        ) from err
    _check_input(program, spec, dynamic_batch)
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


def _check_input(program: torch.export.ExportedProgram, spec: ModelSpec, dynamic_batch: bool) -> None:
    names = program.graph_signature.user_inputs
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(values) != 1 or not isinstance(values[0], torch.Tensor):
        raise ExportError(
            f"The program takes {len(names)} inputs: {', '.join(map(str, names))}.",
            hint="Export a network that takes one tensor, the image.",
        )
    (value,) = values
    wanted = (1, 3, spec.input.height, spec.input.width)
    open_sizes = [not isinstance(size, int) for size in value.shape]
    fits = len(open_sizes) == 4 and all(
        is_open or size == want for is_open, size, want in zip(open_sizes, value.shape, wanted, strict=True)
    )
    if not fits or value.dtype != torch.float32:
        shown = "x".join("N" if is_open else str(size) for is_open, size in zip(open_sizes, value.shape, strict=True))
        raise ExportError(
            f"The program takes {str(value.dtype).removeprefix('torch.')} {shown}; the model spec says float32 "
            f"{'x'.join(map(str, wanted))}.",
            hint="Check the input's size in model.toml, or export the program again with one float32 image.",
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
