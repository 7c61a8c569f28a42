"""Loads what is to be exported: weights in their architecture, a program, or an imported ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from splite_deploy.decoders import roles_of
from splite_deploy.decoders.people import joined
from splite_deploy.errors import CheckpointError, UsageError
from splite_deploy.export.graph.torch_to_onnx import check_outputs
from splite_deploy.export.graph.view import base_network, network_example, viewed
from splite_deploy.export.options import ExportOptions
from splite_deploy.export.source.checkpoint import build_architecture, load_weights, read_checkpoint
from splite_deploy.export.source.formats import (
    FORMATS,
    ImportedOnnx,
    format_of,
    load_program,
    load_script,
    read_onnx,
    require_trust,
)
from splite_deploy.export.source.header import check_metadata
from splite_deploy.export.source.masks import masked_notes
from splite_deploy.export.source.weights import weights_key
from splite_deploy.files import sha256_of
from splite_deploy.spec import HostSpec, ModelSpec, load_model_toml


@dataclass(frozen=True)
class LoadedModel:
    """A network with its weights, and what is known of it.

    Attributes:
        network: In evaluation mode; its outputs are those that the decoder reads.
        spec: Its model spec.
        host: What only the developer's machine needs of ``model.toml``.
        checkpoint_sha256: Hash of the checkpoint.
        notes: What was done to the checkpoint and to the network while loading, as text.
    """

    network: nn.Module
    spec: ModelSpec
    host: HostSpec
    checkpoint_sha256: str
    notes: tuple[str, ...]
    name: ClassVar[str] = "torch"
    """What the outputs of `run` are called in a report."""

    @property
    def weights_sha256(self) -> str:
        """Key of the loaded weights, see `splite_deploy.export.source.weights.weights_key`."""
        tensors = self.network.state_dict().values()
        return weights_key(tensor.float().numpy() for tensor in tensors if tensor.is_floating_point())

    def run(self, tensors: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Reference outputs by role, N first, computed one crop at a time as on a device."""
        return run_network(self.network, tensors, self.spec)


def load_model(checkpoint: Path, model: Path | None, weights: str | None) -> LoadedModel:
    """Builds the network of ``model.toml`` with the weights of a checkpoint, which may be compacted.

    Args:
        checkpoint: ``.safetensors`` or ``.pt``.
        model: ``model.toml``; None is the one beside the checkpoint.
        weights: Which weights of the checkpoint; see `splite_deploy.export.source.checkpoint.read_checkpoint`.

    Raises:
        SpliteError: Everything that can be wrong with the three files.
    """
    kind = format_of(checkpoint)
    if kind != "weights":
        raise CheckpointError(
            f"{checkpoint} is {FORMATS[kind]}, not weights by name.",
            hint="Only 'splite-deploy export' reads it. Where its class is at hand save the weights: "
            "torch.save(model.state_dict(), ...).",
        )
    stored = read_checkpoint(checkpoint, weights=weights)
    spec, host = load_model_toml(model or checkpoint.parent / "model.toml")
    made_for = check_metadata(stored.metadata, spec, checkpoint)
    network = build_architecture(host)
    notes = load_weights(network, stored, network_example(host.view.input, spec.input))
    network, spec, said = viewed(network, host.view, spec)
    check_outputs(network, spec)
    return LoadedModel(network, spec, host, stored.sha256, (*stored.notes, *made_for, *notes, *said))


def load_source(checkpoint: Path, model: Path | None, options: ExportOptions) -> LoadedModel | ImportedOnnx:
    """Loads what is to be exported, in whichever format it is.

    Args:
        checkpoint: Weights, a torch.export program, a TorchScript archive, or an ONNX graph.
        model: ``model.toml``; None is the one beside the checkpoint.
        options: How to export.

    Raises:
        SpliteError: Everything that can be wrong with the files.
    """
    kind = format_of(checkpoint)
    spec_file = model or checkpoint.parent / "model.toml"
    if kind == "weights":
        loaded = load_model(checkpoint, spec_file, options.weights)
        return replace(
            loaded, notes=(*loaded.notes, *masked_notes(base_network(loaded.network), checkpoint, spec_file))
        )
    require_trust(checkpoint, kind, options.trust)
    if options.weights is not None:
        raise UsageError(
            f"{checkpoint} is {FORMATS[kind]}: there are no weights to choose.", hint="Leave out --weights."
        )
    spec, host = load_model_toml(spec_file)
    if kind == "onnx":
        return read_onnx(checkpoint, spec, host, opset=options.opset, dynamic_batch=options.dynamic_batch)
    if kind == "program":
        network = load_program(checkpoint, spec, host.view.input, options.dynamic_batch)
    else:
        network = load_script(checkpoint)
    network, spec, said = viewed(network, host.view, spec)
    check_outputs(network, spec)
    unused = "; arch in model.toml was not used" if host.arch else ""
    notes = (f"the network is {FORMATS[kind]}{unused}", *said)
    return LoadedModel(network, spec, host, sha256_of(checkpoint), notes)


def run_network(network: nn.Module, tensors: NDArray[np.float32], spec: ModelSpec) -> dict[str, NDArray[np.float32]]:
    """Reference outputs of the torch network by role, N first, computed one crop at a time as on a device."""
    with torch.inference_mode():
        results = [network(torch.from_numpy(tensors[i : i + 1])) for i in range(len(tensors))]
    rows = [(result,) if isinstance(result, torch.Tensor) else tuple(result) for result in results]
    roles = roles_of(spec)
    by_role = [{role: row[index].numpy().astype(np.float32) for index, role in enumerate(roles)} for row in rows]
    return joined(by_role, spec.decoder)
