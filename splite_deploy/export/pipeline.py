"""Checkpoint to verified bundle, readable from top to bottom."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from splite_deploy.bench.accuracy import evaluation_labels
from splite_deploy.bench.profile import profile_artifact
from splite_deploy.bundle import (
    FORMAT_VERSION,
    GOLDEN,
    MANIFEST,
    REPORT,
    REPORT_VERSION,
    Bundle,
    Manifest,
    Report,
    Source,
    new_bundle,
    write_golden,
)
from splite_deploy.errors import CheckpointError, UsageError
from splite_deploy.export.artifacts import (
    FP32,
    check_artifacts,
    int8_limits,
    make_artifacts,
    tflite_compiler,
)
from splite_deploy.export.crops import make_crops
from splite_deploy.export.finishing import finish_bundle
from splite_deploy.export.golden import make_golden, prepare_image
from splite_deploy.export.graph.torch_to_onnx import MIN_OPSET, check_outputs, onnx_from_network, ort_artifact, simplify
from splite_deploy.export.graph.walk import save
from splite_deploy.export.options import ExportOptions as ExportOptions
from splite_deploy.export.quant.search import Shift
from splite_deploy.export.recommend import recommend
from splite_deploy.export.reference import Reference
from splite_deploy.export.source.checkpoint import build_architecture, load_weights, read_checkpoint
from splite_deploy.export.source.formats import FORMS, form_of, require_trust
from splite_deploy.export.source.header import check_metadata
from splite_deploy.export.source.imported_onnx import GivenGraph, read_graph
from splite_deploy.export.source.masks import masked_notes
from splite_deploy.export.source.programs import load_program, load_script
from splite_deploy.files import sha256_of, writing
from splite_deploy.metrics.labels import LabelledImage
from splite_deploy.runtime.backends.ort import OrtSession
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.spec import HostSpec, ModelSpec, load_model_toml
from splite_deploy.version import __version__

GRAPH = "model.onnx"
_LIBRARIES = ("torch", "onnx", "onnxruntime", "onnxsim", "onnxscript", "numpy", "opencv-python-headless")
_TFLITE_LIBRARIES = ("tensorflow", "onnx2tf", "ai-edge-litert")


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
        weights: Which weights of the checkpoint; see `splite_deploy.export.source.checkpoint.read_checkpoint`.

    Raises:
        SpliteError: Everything that can be wrong with the three files.
    """
    form = form_of(checkpoint)
    if form != "weights":
        raise CheckpointError(
            f"{checkpoint} is {FORMS[form]}, not weights by name.",
            hint="Only 'splite-deploy export' takes it. Where its class is at hand save the weights: "
            "torch.save(model.state_dict(), ...).",
        )
    stored = read_checkpoint(checkpoint, weights=weights)
    spec, host = load_model_toml(model or checkpoint.parent / "model.toml")
    made_for = check_metadata(stored.metadata, spec, checkpoint)
    network = build_architecture(host)
    notes = load_weights(network, stored, torch.zeros(1, 3, spec.input.height, spec.input.width))
    check_outputs(network, spec)
    return LoadedModel(network, spec, host, stored.sha256, (*stored.notes, *made_for, *notes))


def load_source(checkpoint: Path, model: Path | None, options: ExportOptions) -> LoadedModel | GivenGraph:
    """Loads what is to be exported, in whichever form it is.

    Args:
        checkpoint: Weights, a torch.export program, a TorchScript archive, or an ONNX graph.
        model: ``model.toml``; None is the one beside the checkpoint.
        options: How to export.

    Raises:
        SpliteError: Everything that can be wrong with the files.
    """
    form = form_of(checkpoint)
    spec_file = model or checkpoint.parent / "model.toml"
    if form == "weights":
        loaded = load_model(checkpoint, spec_file, options.weights)
        return replace(loaded, notes=(*loaded.notes, *masked_notes(loaded.network, checkpoint, spec_file)))
    require_trust(checkpoint, form, options.trust)
    if options.weights is not None:
        raise UsageError(f"{checkpoint} is {FORMS[form]}: there are no weights to choose.", hint="Leave out --weights.")
    spec, host = load_model_toml(spec_file)
    if form == "onnx":
        return read_graph(checkpoint, spec, host, opset=options.opset, dynamic_batch=options.dynamic_batch)
    if form == "program":
        network = load_program(checkpoint, spec, options.dynamic_batch)
    else:
        network = load_script(checkpoint)
    check_outputs(network, spec)
    unused = "; arch in model.toml was not used" if host.arch else ""
    return LoadedModel(network, spec, host, sha256_of(checkpoint), (f"the network is {FORMS[form]}{unused}",))


def export_bundle(
    checkpoint: Path,
    output: Path,
    *,
    model: Path | None = None,
    options: ExportOptions | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Bundle:
    """Exports a checkpoint to a bundle whose every conversion was compared with the original network.

    Args:
        checkpoint: Weights, a torch.export program, a TorchScript archive, or an ONNX graph, which is then itself what
            is compared with.
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
    with tflite_compiler(options) as compiler:  # first: TensorFlow loads while torch exports
        progress("reading the checkpoint")
        loaded = load_source(checkpoint, model, options)
        spec = loaded.spec
        int8_limits(spec, options)  # a budget that the model has no unit for fails here
        labels = evaluation_labels(options.evaluation, spec.keypoint_count) if options.evaluation else []

        progress("cropping images for the comparison")
        crops = make_crops(options.images, options.crops, spec.input, loaded.host, calibration=options.calibration)
        image = prepare_image(crops.example, spec.input)
        tensors = Preprocessor(spec.input, spec.input.color).normalise([*crops.pixels, image.crop])
        if isinstance(loaded, GivenGraph):
            name, outputs = "onnx", loaded.run(tensors)
        else:
            name, outputs = "torch", run_network(loaded.network, tensors, spec)
        on_image = {role: values[-1:] for role, values in outputs.items()}
        outputs = {role: values[:-1] for role, values in outputs.items()}
        reference = Reference(name, spec, crops.pixels, tensors[:-1], outputs, crops.origin)

        with new_bundle(output, overwrite=options.overwrite) as folder:
            hops = []
            if isinstance(loaded, GivenGraph):
                opset, raw = loaded.opset, loaded.model
            else:
                opset = MIN_OPSET if options.opset is None else options.opset
                progress("torch -> ONNX")
                raw = onnx_from_network(loaded.network, spec, opset=opset, dynamic_batch=options.dynamic_batch)
                file = folder / "raw.onnx"
                save(raw, file)
                hops.append(_hop("onnx", raw, file, reference, options).parity)
                file.unlink()
            progress("ONNX -> simplified ONNX")
            metadata = {"splite_model": json.dumps(spec.to_dict()), "splite_version": __version__}
            model_graph = simplify(raw, metadata=metadata)
            save(model_graph, folder / GRAPH)
            simplified = _hop("simplified", model_graph, folder / GRAPH, reference, options)
            graph = ort_artifact(model_graph, folder / GRAPH, spec, options.dynamic_batch)
            made = make_artifacts(folder, graph, reference, loaded.host, options, compiler, progress)

            golden = make_golden(reference, image, on_image)
            manifest = Manifest(
                format_version=FORMAT_VERSION,
                model=spec,
                source=Source(
                    checkpoint=checkpoint.name,
                    checkpoint_sha256=loaded.checkpoint_sha256,
                    tool_version=__version__,
                ),
                artifacts=made.artifacts,
                golden=write_golden(folder / GOLDEN, golden),
                graphs=made.graphs,
            )
            report = Report(
                report_version=REPORT_VERSION,
                opset=opset,
                versions=_versions(options),
                notes=(*loaded.notes, *made.notes),
                parity=(*hops, simplified.parity),
                calibration=made.calibration,
                search=made.search,
            )
            draft = Bundle(folder, manifest)
            manifest, report = _measured(draft, report, reference, simplified, labels, options, progress)
            progress("writing the bundle")
            with writing(output):
                (folder / REPORT).write_text(report.to_json(), encoding="utf-8")
                (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Bundle.open(output)


def _measured(
    draft: Bundle,
    report: Report,
    reference: Reference,
    simplified: Shift,
    labels: Sequence[LabelledImage],
    options: ExportOptions,
    progress: Callable[[str], None],
) -> tuple[Manifest, Report]:
    """The manifest of finished files; the report with their differences, their layers, and which of them to ship."""
    shifts = {FP32: simplified, **check_artifacts(draft, reference, options, progress)}
    manifest, shifts, notes = finish_bundle(draft, shifts, reference, options, progress)
    added = [label for label in shifts if label != FP32 or options.fuses]
    draft = Bundle(draft.path, manifest)
    recommendation = None
    if len(manifest.artifacts) > 1 or labels:
        recommendation = recommend(draft, shifts, reference, labels, progress)
    progress("listing the layers of every artifact")
    layers = {artifact.label: profile_artifact(draft, artifact) for artifact in manifest.artifacts}
    parity = (*report.parity, *(shifts[label].parity for label in added))
    report = replace(report, notes=(*report.notes, *notes))
    return manifest, replace(report, parity=parity, recommendation=recommendation, layers=layers)


def run_network(network: nn.Module, tensors: NDArray[np.float32], spec: ModelSpec) -> dict[str, NDArray[np.float32]]:
    """Reference outputs of the torch network by role, N first, computed one crop at a time as on a device."""
    with torch.inference_mode():
        results = [network(torch.from_numpy(tensors[i : i + 1])) for i in range(len(tensors))]
    rows = [(result,) if isinstance(result, torch.Tensor) else tuple(result) for result in results]
    return {
        role: torch.cat([row[index] for row in rows]).numpy().astype(np.float32)
        for index, role in enumerate(spec.decoder.roles)
    }


def _hop(step: str, graph: onnx.ModelProto, file: Path, reference: Reference, options: ExportOptions) -> Shift:
    """Runs a fp32 graph from its file and compares it with the reference.

    Raises:
        ParityError: It lies over the limits of the spec.
    """
    spec = reference.spec
    session = OrtSession(file, ort_artifact(graph, file, spec, options.dynamic_batch), None)
    hint = (
        "Look for layers in training mode or randomness in the network; if the shift is acceptable, raise [limits] in "
        "model.toml."
    )
    return reference.compare(step, session, spec.limits, hint)


def _versions(options: ExportOptions) -> dict[str, str]:
    found = {}
    for name in (*_LIBRARIES, *(_TFLITE_LIBRARIES if "tflite" in options.backends else ())):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for example another build of OpenCV
    return found
