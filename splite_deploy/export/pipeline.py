"""Checkpoint to verified bundle, readable from top to bottom."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from splite_deploy import __version__
from splite_deploy.bundle import (
    FORMAT_VERSION,
    GOLDEN,
    MANIFEST,
    Bundle,
    Golden,
    Manifest,
    Parity,
    Source,
    new_bundle,
    sha256_of,
    write_golden,
)
from splite_deploy.errors import ParityError, UsageError, writing
from splite_deploy.export.checkpoint import build_architecture, load_weights, read_checkpoint
from splite_deploy.export.crops import make_crops
from splite_deploy.export.graph import check_outputs, onnx_from_network, ort_artifact, simplify
from splite_deploy.runtime.backends.ort import OrtSession
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.verify import compare, run_each, violations
from splite_deploy.spec import HostSpec, ModelSpec, load_model_toml

GRAPH = "model.onnx"
GOLDEN_CROPS = 8
_LIBRARIES = ("torch", "onnx", "onnxruntime", "onnxsim", "onnxscript", "numpy", "opencv-python-headless")


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        images: Folder of images or labels file for parity; None uses the model's own renderer.
        crops: Number of crops compared at each hop.
        dynamic_batch: Leaves the batch size of the graph open.
        opset: ONNX operator set.
        weights: Which weights of the checkpoint; see `splite_deploy.export.checkpoint.read_checkpoint`.
        overwrite: Replaces an existing bundle.
    """

    images: Path | None = None
    crops: int = 64
    dynamic_batch: bool = False
    opset: int = 18
    weights: str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class LoadedModel:
    """A network with its weights, and what is known of it.

    Attributes:
        network: In evaluation mode; its outputs are those that the decoder reads.
        spec: Its model spec.
        host: What only the developer's machine needs of ``model.toml``.
        checkpoint_sha256: Hash of the checkpoint.
        notes: What was done to the checkpoint and to the network while loading, in words.
    """

    network: nn.Module
    spec: ModelSpec
    host: HostSpec
    checkpoint_sha256: str
    notes: tuple[str, ...]


def load_model(checkpoint: Path, model: Path | None, weights: str | None) -> LoadedModel:
    """Builds the network of ``model.toml`` with the weights of a checkpoint, which may be compacted.

    Args:
        checkpoint: ``.safetensors`` or ``.pt``.
        model: ``model.toml``; None is the one beside the checkpoint.
        weights: Which weights of the checkpoint; see `splite_deploy.export.checkpoint.read_checkpoint`.

    Raises:
        SpliteError: Everything that can be wrong with the three files.
    """
    stored = read_checkpoint(checkpoint, weights=weights)
    spec, host = load_model_toml(model or checkpoint.parent / "model.toml")
    network = build_architecture(host)
    notes = load_weights(network, stored, torch.zeros(1, 3, spec.input.height, spec.input.width))
    check_outputs(network, spec)
    return LoadedModel(network, spec, host, stored.sha256, (*stored.notes, *notes))


def export_bundle(
    checkpoint: Path,
    output: Path,
    *,
    model: Path | None = None,
    options: ExportOptions | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Bundle:
    """Exports a checkpoint to a bundle whose every conversion was compared with the torch network.

    Args:
        checkpoint: ``.safetensors`` or ``.pt``.
        output: Folder to make, by custom ``NAME.splite``.
        model: ``model.toml``; None is the one beside the checkpoint.
        options: How to export.
        progress: Told each step as it begins.

    Returns:
        The new bundle, opened and checked.

    Raises:
        SpliteError: Everything that can be wrong with the inputs; nothing is left behind then.
        ParityError: A conversion moved keypoints by more than the limits of the model spec.
    """
    options = options or ExportOptions()
    if options.crops < 1:
        raise UsageError("At least one crop is needed to compare conversions.", hint="Give --crops 1 or more.")
    progress("reading the checkpoint")
    loaded = load_model(checkpoint, model, options.weights)
    network, spec = loaded.network, loaded.spec

    progress("cropping images for the comparison")
    crops = make_crops(options.images, options.crops, spec.input, loaded.host)
    tensors = Preprocessor(spec.input, spec.input.color).normalise(crops.pixels)
    reference = run_network(network, tensors, spec)

    with new_bundle(output, overwrite=options.overwrite) as folder:
        progress("torch -> ONNX")
        raw = folder / "raw.onnx"
        onnx_from_network(network, spec, raw, opset=options.opset, dynamic_batch=options.dynamic_batch)
        hops = [_hop("torch -> onnx", raw, reference, tensors, spec, crops.origin, options)]
        progress("ONNX -> simplified ONNX")
        metadata = {"splite_model": json.dumps(spec.to_dict()), "splite_version": __version__}
        simplify(raw, folder / GRAPH, metadata=metadata)
        raw.unlink()
        hops.append(_hop("torch -> simplified", folder / GRAPH, reference, tensors, spec, crops.origin, options))

        progress("writing the bundle")
        chosen = np.linspace(0, len(crops.pixels) - 1, min(GOLDEN_CROPS, len(crops.pixels))).round().astype(int)
        write_golden(folder / GOLDEN, Golden(crops.pixels[chosen], {k: v[chosen] for k, v in reference.items()}))
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            model=spec,
            source=Source(
                checkpoint=checkpoint.name,
                checkpoint_sha256=loaded.checkpoint_sha256,
                notes=loaded.notes,
                tool_version=__version__,
                versions=_versions(),
                opset=options.opset,
            ),
            artifacts=(ort_artifact(folder / GRAPH, spec, options.dynamic_batch),),
            parity=tuple(hops),
            golden_sha256=sha256_of(folder / GOLDEN),
        )
        with writing(output):
            (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Bundle.open(output)


def run_network(network: nn.Module, tensors: NDArray[np.float32], spec: ModelSpec) -> dict[str, NDArray[np.float32]]:
    """Reference outputs of the torch network by role, N first, computed one crop at a time as on a device."""
    with torch.inference_mode():
        results = [network(torch.from_numpy(tensors[i : i + 1])) for i in range(len(tensors))]
    rows = [(result,) if isinstance(result, torch.Tensor) else tuple(result) for result in results]
    return {
        role: torch.cat([row[index] for row in rows]).numpy().astype(np.float32)
        for index, role in enumerate(spec.decoder.roles)
    }


def _hop(
    name: str,
    file: Path,
    reference: Mapping[str, NDArray[np.float32]],
    tensors: NDArray[np.float32],
    spec: ModelSpec,
    origin: str,
    options: ExportOptions,
) -> Parity:
    """Runs a graph from its file and compares it with the reference.

    Raises:
        ParityError: It lies over the limits of the spec.
    """
    session = OrtSession(file, ort_artifact(file, spec, options.dynamic_batch), None)
    try:
        parity = compare(name, reference, run_each(session, tensors), spec, origin)
    finally:
        session.close()
    broken = violations(parity, spec.limits, spec)
    if broken:
        raise ParityError(
            f"{name} changed the result on {parity.crops} crops: {'; '.join(broken)}.",
            hint="Nothing was written. Look for layers in training mode or randomness in the network; if the shift is "
            "acceptable, raise [limits] in model.toml.",
        )
    return parity


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for example another build of OpenCV
    return found
