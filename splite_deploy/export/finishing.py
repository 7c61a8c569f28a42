"""The last change to the files of a bundle in the making: ends in the graph, and an operator set that builders know.

See `splite_deploy.export.graph.fuse` and `splite_deploy.export.graph.opset`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import onnx

from splite_deploy.bundle import Artifact, Bundle, Graph, Manifest, TensorSpec
from splite_deploy.errors import ExportError
from splite_deploy.export.artifacts import open_here, runnable
from splite_deploy.export.graph.fuse import fuse_decode, fuse_input, tensor_specs
from splite_deploy.export.graph.opset import lower_opset
from splite_deploy.export.graph.walk import load, save
from splite_deploy.export.options import ExportOptions
from splite_deploy.export.quant.search import Shift
from splite_deploy.export.reference import Reference
from splite_deploy.files import sha256_of
from splite_deploy.metrics.parity import Outputs, compare
from splite_deploy.runtime.verify import run_each
from splite_deploy.spec import ModelSpec

FUSED_PX = 0.02
"""How far keypoints may lie from those of the host's preprocessing and decoding, input pixels."""
Tensors = tuple[TensorSpec, ...]
Held = TypeVar("Held", Artifact, Graph)


def finish_bundle(
    draft: Bundle,
    shifts: Mapping[str, Shift],
    reference: Reference,
    options: ExportOptions,
    progress: Callable[[str], None],
) -> tuple[Manifest, dict[str, Shift], list[str]]:
    """Rewrites the ONNX files of a bundle in the making, where the options ask for it.

    Args:
        draft: The bundle; its files have been compared.
        shifts: How far they lie from the reference, by labels of artifacts and graphs.
        reference: The original network.
        options: Which ends go into the graphs. What weakly typed builders read becomes opset 17 in any case.
        progress: Told each step as it begins.

    Returns:
        The manifest, the shifts of all files, and what is worth knowing, in words.

    Raises:
        ExportError: The ends cannot be written, or compute something else than the host does.
    """
    manifest, spec = draft.manifest, draft.model
    old = {graph.file for graph in manifest.graphs if graph.typing == "weak"}
    changing = {label: held for label, held in runnable(manifest).items() if options.fuses or held.file in old}
    if not changing:
        return manifest, dict(shifts), []
    progress("putting the ends into the graphs" if options.fuses else "graphs for older builders")
    before = {label: _outputs(draft, one, reference) for label, one in changing.items()}
    made, notes = {}, []
    for one in changing.values():
        file = draft.path / one.file
        model = _fused(load(file), spec, options)
        if one.file in old:
            try:
                model = lower_opset(model)
            except ExportError as err:
                notes.append(f"{one.file} is not for TensorRT 8: {err.message}")
        save(model, file)
        made[one.file] = (sha256_of(file), *tensor_specs(model))
    manifest = replace(
        manifest,
        artifacts=tuple(_described(artifact, made) for artifact in manifest.artifacts),
        graphs=tuple(_described(graph, made) for graph in manifest.graphs),
    )
    finished = dict(shifts)
    for label in changing:
        after = _outputs(Bundle(draft.path, manifest), runnable(manifest)[label], reference)
        by_host = compare(label, before[label], after, spec, "").deviation_px.max
        if not by_host <= FUSED_PX:
            raise ExportError(
                f"With its ends in the graph {label} moves keypoints by {by_host:.3g} px; {FUSED_PX:g} px are allowed.",
                hint="Leave out --fuse-input and --fuse-decode, and report this with the model.",
            )
        parity = compare(f"{reference.name} -> {label}", reference.outputs, after, spec, reference.crops_from)
        finished[label] = Shift(parity, shifts[label].peak_switches)  # of the heatmaps that it may no longer show
    return manifest, finished, notes


def _fused(model: onnx.ModelProto, spec: ModelSpec, options: ExportOptions) -> onnx.ModelProto:
    if options.fuse_input:
        model = fuse_input(model, spec)
    return fuse_decode(model, spec) if options.fuse_decode else model


def _described(held: Held, made: Mapping[str, tuple[str, Tensors, Tensors]]) -> Held:
    """An artifact or graph with the hash and the tensors of its file as it is now."""
    if held.file not in made:
        return held
    sha256, inputs, outputs = made[held.file]
    return replace(held, sha256=sha256, inputs=inputs, outputs=outputs)


def _outputs(draft: Bundle, held: Artifact | Graph, reference: Reference) -> Outputs:
    session = open_here(draft, held)
    try:
        return run_each(session, reference.feed(session))
    finally:
        session.close()
