"""Where ranges of activations come from: from images given, a file that travels with the checkpoint, or a renderer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch.fx import GraphModule
from torch.jit import ScriptModule

from splite_deploy.errors import CalibrationError, UsageError
from splite_deploy.export.graph.torch_to_onnx import simplified_graph, simplify
from splite_deploy.export.options import ExportOptions
from splite_deploy.export.quant.calibration import CalibrationSet, Kind, load_calibration, no_images
from splite_deploy.export.quant.calibration_lint import Scorer
from splite_deploy.export.quant.qdq import has_qdq
from splite_deploy.export.quant.ranges import METHOD, Method, Ranges, calibrate
from splite_deploy.export.quant.stored_ranges import StoredRanges, is_ranges_file, read_ranges, restore, store
from splite_deploy.export.quant.trained import has_quantisers
from splite_deploy.export.reference import Reference
from splite_deploy.export.source.formats import ImportedOnnx
from splite_deploy.export.source.load import LoadedModel, load_source
from splite_deploy.files import cache_folder, real_path, refuse_existing
from splite_deploy.text import command

Progress = Callable[[str], None]


Given = CalibrationSet | tuple[Path, StoredRanges]
"""Images to calibrate on, or ranges that were measured, with their file."""


@dataclass(frozen=True)
class Calibrated:
    """The ranges of an export, and where they come from.

    Attributes:
        ranges: Of the activations of the fp32 graph.
        kind: What they were measured on.
        origin: The same for people, in full.
        crops: Number of images.
        sha256: Hex key of what the network saw.
        notes: What is weak about them or worth knowing, as text.
        pixels: (N, h, w, C) uint8 crops for what has to be measured in other forms of the network.
    """

    ranges: Ranges
    kind: Kind
    origin: str
    crops: int
    sha256: str
    notes: tuple[str, ...]
    pixels: NDArray[np.uint8]


def find_ranges(
    graph: ir.Model,
    checkpoint: Path,
    model: Path | None,
    source: LoadedModel | ImportedOnnx,
    reference: Reference,
    options: ExportOptions,
    scorer: Scorer,
    progress: Progress,
    given: Given | None,
) -> Calibrated:
    """The ranges for fp16 and int8: of ``--calibration``, else those stored with the checkpoint, else of the renderer.

    Args:
        graph: The simplified fp32 graph.
        checkpoint: What it was made from.
        model: Its ``model.toml``; None is the one beside the checkpoint.
        source: That, loaded.
        reference: Its crops are there for what a file of ranges lacks.
        options: The requested options.
        scorer: See `load_calibration`.
        progress: Called with each step as it begins.
        given: What ``--calibration`` names, of `read_given`.

    Raises:
        SpliteError: See `load_calibration`, `read_ranges`, `StoredRanges.check_input` and `restore`; or no file is for
            these weights.
    """
    remedy = _remedy(checkpoint, model)
    files = [source.host.folder / name for name in source.host.calibration]
    if given is None and files:
        given = _chosen(files, source, remedy)
    if given is None:
        given = _images(source, options, scorer, progress)
    if isinstance(given, CalibrationSet):
        progress(f"measuring the ranges of activations on {len(given.pixels)} crops")
        ranges = calibrate(graph, given.tensors(source.spec.input), METHOD)
        return Calibrated(
            ranges, given.kind, given.origin, len(given.pixels), given.sha256, given.warnings, given.pixels
        )
    progress("restoring the ranges of activations")
    file, found = given
    ranges, notes = restore(found, graph, source.spec.input, reference.tensors, file, remedy)
    notes = (f"calibrated with {found.origin}", *notes)
    return Calibrated(ranges, found.kind, found.origin, found.images, found.images_sha256, notes, reference.pixels)


def read_given(
    checkpoint: Path,
    model: Path | None,
    source: LoadedModel | ImportedOnnx,
    options: ExportOptions,
    progress: Progress,
) -> Given | None:
    """What ``--calibration`` names, read and checked before minutes of work; None where it names nothing.

    Where it names nothing and nothing else could be calibrated on, that is said as early.

    Args:
        checkpoint: See `find_ranges`.
        model: See `find_ranges`.
        source: See `find_ranges`.
        options: The requested options.
        progress: Called with each step as it begins.

    Raises:
        SpliteError: See `find_ranges`.
    """
    named = options.calibration
    if named is None:
        host = source.host
        found = bool(host.calibration or host.samples) or options.allow_random_calibration
        if options.calibrates and not found and not _may_be_trained(source):
            raise no_images()
        return None
    if is_ranges_file(named):
        progress("reading the ranges of activations")
        return _chosen([named], source, _remedy(checkpoint, model))
    return _images(source, options, source.run, progress)


def _may_be_trained(source: LoadedModel | ImportedOnnx) -> bool:
    """Whether the network may bring its own ranges from training; of a program only its graph will tell."""
    if isinstance(source, ImportedOnnx):
        return has_qdq(source.model)
    programs = any(isinstance(part, (GraphModule, ScriptModule)) for part in source.network.modules())
    return programs or has_quantisers(source.network)


def _images(
    source: LoadedModel | ImportedOnnx, options: ExportOptions, scorer: Scorer, progress: Progress
) -> CalibrationSet:
    """The images to calibrate on."""
    return load_calibration(
        options.calibration,
        source.spec,
        source.host,
        allow_random=options.allow_random_calibration,
        hold_out=options.images is None,
        evaluation=options.evaluation,
        comparison=options.images,
        scorer=scorer,
        cache=cache_folder(),
        progress=progress,
    )


def _chosen(files: Sequence[Path], source: LoadedModel | ImportedOnnx, remedy: str) -> tuple[Path, StoredRanges]:
    """The file that was measured for these weights behind this preprocessing.

    Raises:
        SpliteError: There is none, or a file cannot be read.
    """
    for file in files:
        found = read_ranges(file, remedy)
        if found.weights == source.weights_sha256:
            found.check_input(source.spec.input, file, remedy)
            return file, found
    names = " and ".join(map(str, files))
    raise CalibrationError(
        f"The ranges of {names} were measured for other weights than this checkpoint's.", hint=remedy
    )


@dataclass(frozen=True)
class CalibratedFile:
    """A file of ranges that was written.

    Attributes:
        ranges: Its content.
        origin: Where the images come from, for people.
        checked: What was checked about them, as text.
        warnings: What is weak about them; empty if nothing.
        model: The model spec that has to name it.
        line: What that is to say, in TOML.
        is_named: Whether it says so already.
    """

    ranges: StoredRanges
    origin: str
    checked: tuple[str, ...]
    warnings: tuple[str, ...]
    model: Path
    line: str
    is_named: bool


def calibrate_checkpoint(
    checkpoint: Path,
    output: Path,
    *,
    images: Path,
    model: Path | None = None,
    count: int = 128,
    evaluation: Path | None = None,
    method: Method = METHOD,
    weights: str | None = None,
    trust: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda message: None,
) -> CalibratedFile:
    """Measures the ranges of a network's activations on images and writes them to a file that travels with it.

    Args:
        checkpoint: As `splite_deploy.export.export_bundle` takes it.
        output: The file.
        images: See ``source`` of `load_calibration`.
        model: ``model.toml``; None is the one beside the checkpoint.
        count: At most so many images, picked evenly.
        evaluation: See `load_calibration`.
        method: See `splite_deploy.export.quant.ranges.calibrate`.
        weights: Which weights of the checkpoint.
        trust: Loads a torch.export program or a TorchScript archive, which can run code.
        overwrite: Replaces an existing file.
        progress: Called with each step as it begins.

    Raises:
        SpliteError: The inputs are wrong, the images are unfit, or the file exists.
    """
    refuse_existing(output, overwrite=overwrite)
    progress("reading the checkpoint")
    source = load_source(checkpoint, model, ExportOptions(weights=weights, trust=trust))
    spec = source.spec
    chosen = load_calibration(
        images,
        spec,
        source.host,
        count=count,
        evaluation=evaluation,
        scorer=source.run,
        cache=cache_folder(),
        progress=progress,
        option="--images",
    )
    progress("making the graph")
    if isinstance(source, ImportedOnnx):
        graph = simplify(source.model, metadata={})
    else:
        graph = simplified_graph(source.network, spec)
    if has_qdq(graph):
        raise UsageError(
            "This network was trained for int8 and brings its own scales: there is nothing to calibrate.",
            hint="Export it as it is, with -p int8; or calibrate the float checkpoint.",
        )
    progress(f"measuring the ranges of activations on {len(chosen.pixels)} crops")
    ranges = calibrate(graph, chosen.tensors(spec.input), method)
    found = store(graph, ranges, chosen, source.weights_sha256, spec.input)
    found.write(output)
    spec_file = model or checkpoint.parent / "model.toml"
    return _written(found, chosen, output, spec_file, source.host.calibration)


def _written(
    found: StoredRanges, chosen: CalibrationSet, output: Path, model: Path, named: tuple[str, ...]
) -> CalibratedFile:
    folder, file = real_path(model.parent), real_path(output)
    names = [Path(os.path.relpath(file, folder)).as_posix(), *named]  # the first for these weights is taken
    line = f"calibration = {json.dumps(names if named else names[0])}"
    is_named = file in {real_path(folder / name) for name in named}
    return CalibratedFile(found, chosen.origin, chosen.checked, chosen.warnings, model, line, is_named)


def _remedy(checkpoint: Path, model: Path | None) -> str:
    """What to do about stored ranges that do not fit."""
    named = () if model is None else ("--model", model)
    file = Path(checkpoint.with_suffix(".ranges.json").name)
    measure = command("calibrate", checkpoint, *named, "--images", "DIR", "-o", file)
    return (
        f"Measure them: {measure}, and name that file as "
        "calibration in model.toml or with --calibration. Or name images with --calibration."
    )
