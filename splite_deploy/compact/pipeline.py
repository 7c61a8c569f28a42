"""Checkpoint to compacted checkpoint, readable from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from splite_deploy.compact.importance import Loss, output_energy
from splite_deploy.compact.latency import measure_latency
from splite_deploy.compact.prune import Compaction, CompactOptions, compact
from splite_deploy.errors import UsageError
from splite_deploy.export.crops import make_crops
from splite_deploy.export.graph.torch_to_onnx import check_outputs
from splite_deploy.export.graph.view import base_network
from splite_deploy.export.source.header import compacted_metadata
from splite_deploy.export.source.load import load_model
from splite_deploy.files import write_file
from splite_deploy.runtime.preprocess import Preprocessor

_BATCH = 8


def compact_checkpoint(
    checkpoint: Path,
    output: Path,
    options: CompactOptions,
    *,
    model: Path | None = None,
    images: Path | None = None,
    crops: int = 16,
    weights: str | None = None,
    loss: Loss = output_energy,
    latency: bool = True,
    progress: Callable[[str], None] = lambda message: None,
) -> Compaction:
    """Compacts a checkpoint and writes the result.

    Args:
        checkpoint: The dense ``.safetensors`` or ``.pt``.
        output: The ``.safetensors`` to write; replaced where it exists.
        options: How much to remove.
        model: ``model.toml``; None is the one beside the checkpoint.
        images: Folder of images or labels file; None uses the model's own renderer.
        crops: Number of images to use.
        weights: Which weights of the checkpoint; see `splite_deploy.export.source.checkpoint.read_checkpoint`.
        loss: For the method "taylor": from the network's output to a scalar.
        latency: Whether to measure the latency before and after.
        progress: Called with each step as it begins.

    Raises:
        SpliteError: Everything that can be wrong with the inputs, and what `compact` raises; nothing is written then.
    """
    if output.suffix != ".safetensors":
        raise UsageError(f"{output} is not a .safetensors file.", hint="Name the output OUT.safetensors.")
    progress("reading the checkpoint")
    loaded = load_model(checkpoint, model, weights)
    network, spec = loaded.network, loaded.spec
    progress("cropping images")
    pixels = make_crops(images, crops, spec.input, loaded.host).pixels
    inputs = torch.from_numpy(Preprocessor(spec.input, spec.input.color).normalise(pixels))
    batches = [inputs[i : i + _BATCH] for i in range(0, len(inputs), _BATCH)]
    compaction = compact(network, batches[0], options, data=batches, loss=loss, progress=progress)
    check_outputs(compaction.network, spec)
    if latency:
        measured = measure_latency(network, compaction.network, spec, progress=progress)
        compaction = replace(compaction, latency=measured)
    progress("writing the checkpoint")
    if base_network(network) is not network:  # layers are named as in the checkpoint
        named = tuple(replace(row, name=row.name.removeprefix("network.")) for row in compaction.layers)
        sizes = {path.removeprefix("network."): held for path, held in compaction.sizes.items()}
        notes = tuple(note.replace("'network.", "'") for note in compaction.notes)
        compaction = replace(compaction, layers=named, sizes=sizes, notes=notes)
    save_compacted(output, base_network(compaction.network), compacted_metadata(spec, compaction.sizes))
    return replace(compaction, notes=(*loaded.notes, *compaction.notes))


def save_compacted(path: Path, network: nn.Module, metadata: Mapping[str, str]) -> None:
    """Writes a network's state as safetensors; a reader sees the old file or the whole new one.

    Raises:
        OutputError: It cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    write_file(path, save(tensors, metadata=dict(metadata)))
