"""Puts the ends of the network into the files of a bundle in the making: see `splite_deploy.export.ends`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from splite_deploy.bundle import Artifact, Bundle, Graph, Manifest, TensorSpec, sha256_of
from splite_deploy.errors import ExportError
from splite_deploy.export.artifacts import open_here, runnable
from splite_deploy.export.budget import Shift
from splite_deploy.export.ends import fuse_decode, fuse_input, tensor_specs
from splite_deploy.export.onnx_walk import load, save
from splite_deploy.export.options import ExportOptions
from splite_deploy.export.reference import Reference
from splite_deploy.runtime.verify import Outputs, compare, run_each
from splite_deploy.spec import ModelSpec

FUSED_PX = 0.02
"""How far keypoints may lie from those of the host's preprocessing and decoding, input pixels."""


Tensors = tuple[TensorSpec, ...]
Held = TypeVar("Held", Artifact, Graph)


def fuse_bundle(
    draft: Bundle,
    shifts: Mapping[str, Shift],
    reference: Reference,
    options: ExportOptions,
    progress: Callable[[str], None],
) -> tuple[Manifest, dict[str, Shift]]:
    """Rewrites every ONNX file of a bundle in the making.

    Args:
        draft: The bundle; its files have been compared.
        shifts: How far they lie from the reference, by labels of artifacts and graphs.
        reference: The original network.
        options: Which ends.
        progress: Told each step as it begins.

    Returns:
        The manifest and the shifts of the new files.

    Raises:
        ExportError: The ends cannot be written, or compute something else than the host does.
    """
    progress("putting the ends into the graph")
    held = runnable(draft.manifest)
    before = {label: _outputs(draft, one, reference) for label, one in held.items()}
    fused = {one.file: _fuse(draft.path / one.file, draft.model, options) for one in held.values()}
    artifacts = tuple(_described(artifact, *fused[artifact.file]) for artifact in draft.manifest.artifacts)
    graphs = tuple(_described(graph, *fused[graph.file]) for graph in draft.manifest.graphs)
    manifest, made = replace(draft.manifest, artifacts=artifacts, graphs=graphs), {}
    for label, one in runnable(manifest).items():
        after = _outputs(Bundle(draft.path, manifest), one, reference)
        by_host = compare(label, before[label], after, reference.spec, "").shift_px.max
        if not by_host <= FUSED_PX:
            raise ExportError(
                f"With its ends in the graph {label} moves keypoints by {by_host:.3g} px; {FUSED_PX:g} px are allowed.",
                hint="Leave out --fuse-input and --fuse-decode, and report this with the model.",
            )
        hop = f"{reference.name} -> {label}"
        parity = compare(hop, reference.outputs, after, reference.spec, reference.crops_from)
        made[label] = Shift(parity, shifts[label].peak_switches)  # of the heatmaps that it may no longer show
    return manifest, made


def _fuse(file: Path, spec: ModelSpec, options: ExportOptions) -> tuple[str, Tensors, Tensors]:
    """Rewrites a file; returns its hash, its inputs and its outputs."""
    model = load(file)
    if options.fuse_input:
        model = fuse_input(model, spec)
    if options.fuse_decode:
        model = fuse_decode(model, spec)
    save(model, file)
    return sha256_of(file), *tensor_specs(model)


def _described(held: Held, sha256: str, inputs: Tensors, outputs: Tensors) -> Held:
    return replace(held, sha256=sha256, inputs=inputs, outputs=outputs)


def _outputs(draft: Bundle, held: Artifact | Graph, reference: Reference) -> Outputs:
    session = open_here(draft, held)
    try:
        return run_each(session, reference.feed(session))
    finally:
        session.close()
