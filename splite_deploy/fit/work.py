"""Each step of a trial, done: from contents of files to contents of files and facts, wherever it runs."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splite_deploy.bundle import Bundle
from splite_deploy.errors import SpliteError
from splite_deploy.files import TMP_HINT, work_folder
from splite_deploy.fit.measuring import Place
from splite_deploy.fit.space import Candidate, Variant
from splite_deploy.fit.steps import Kind, Step
from splite_deploy.fit.training import TrainingCommand

CHECKPOINT = "network.safetensors"
"""What the file of weights is called among those of a step."""
PARENT = "parent.safetensors"
BUNDLE = "bundle/"
"""What the names of a bundle's files begin with."""
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Made:
    """What a step made.

    Attributes:
        files: Contents by name.
        facts: What it found; plain data.
        seconds: How long it took.
    """

    files: Files
    facts: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class Project:
    """What all trials of a search have in common: paths of files, as every machine has them that works for it.

    Attributes:
        model: The ``model.toml`` of the parent.
        training: Fine-tunes; None where nothing is trained.
        method: By which channels are removed; see `splite_deploy.compact.importance`.
        labels: To measure errors on; None compares with the parent.
        images: To compare conversions on; None renders them.
        calibration: For int8 and fp16; None takes ranges of ``model.toml`` or renders.
        crops: How many images conversions are compared on.
        places: Machines to measure on, by name.
    """

    model: Path
    training: TrainingCommand | None
    method: str = "group-norm"
    labels: Path | None = None
    images: Path | None = None
    calibration: Path | None = None
    crops: int = 32
    places: Mapping[str, Place] = field(default_factory=dict)


def perform(step: Step, project: Project, files: Files) -> Made:
    """Does a step.

    Args:
        step: What to do.
        project: What it is a part of.
        files: The contents of its inputs by name.

    Raises:
        SpliteError: It failed, for a reason that its message says.
    """
    began = time.perf_counter()
    try:
        with work_folder("splite-fit") as folder:
            for name, content in files.items():
                place = folder / "in" / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
            (folder / "in").mkdir(exist_ok=True)
            made, facts = _DO[step.kind](step.options, project, folder)
            return Made(made, facts, time.perf_counter() - began)
    except OSError as err:  # such as a full disk
        where = err.filename or tempfile.gettempdir()
        raise SpliteError(f"{err.strerror or err}: {where}, on {platform.node()}.", hint=TMP_HINT) from err


Found = tuple[dict[str, bytes], dict[str, Any]]


def _compact(options: Mapping[str, Any], project: Project, folder: Path) -> Found:
    """A candidate's network before it is trained, and the shapes of its layers."""
    from splite_deploy.compact import CompactOptions, compact_checkpoint
    from splite_deploy.compact.importance import METHODS
    from splite_deploy.export.graph.torch_to_onnx import simplified_graph
    from splite_deploy.export.source.load import load_model
    from splite_deploy.fit.latency_table import shapes_of

    candidate, given = Candidate(**options["candidate"]), folder / "in" / CHECKPOINT
    model, output, facts = _model(project, candidate, folder), given, dict[str, Any]()
    if candidate.speed_up > 1:
        assert project.method in METHODS
        output = folder / CHECKPOINT
        wanted = CompactOptions(project.method, speed_up=candidate.speed_up, round_to=candidate.round_to)
        images = project.images or project.labels
        done = compact_checkpoint(given, output, wanted, model=model, images=images, crops=8, latency=False)
        facts = {"speed_up": done.speed_up, "parameters": done.parameters_after, "notes": list(done.notes)}
    loaded = load_model(output, model, None)
    facts["layers"] = shapes_of(simplified_graph(loaded.network, loaded.spec))
    return {CHECKPOINT: output.read_bytes()}, facts


def _train(options: Mapping[str, Any], project: Project, folder: Path) -> Found:
    """The weights: those that cannot be read fail the training, and are not kept as what came of it."""
    from splite_deploy.export.source.checkpoint import read_checkpoint

    assert project.training is not None
    candidate, out = Candidate(**options["candidate"]), folder / "training" / "out"
    out.parent.mkdir()
    model = _model(project, candidate, folder)
    size = candidate.height, candidate.width
    tuned = project.training.run(folder / "in" / CHECKPOINT, options["steps"], out, model, size)
    read_checkpoint(tuned)
    return {CHECKPOINT: tuned.read_bytes()}, {}


def _score(options: Mapping[str, Any], project: Project, folder: Path) -> Found:
    model = _model(project, Candidate(**options["candidate"]), folder)
    return {}, _yardstick(project, folder).of_checkpoint(folder / "in" / CHECKPOINT, model)


def _export(options: Mapping[str, Any], project: Project, folder: Path) -> Found:
    """A bundle of an artifact, and its error as this machine computes it."""
    from splite_deploy.export import ExportOptions, export_bundle

    candidate, variant = Candidate(**options["candidate"]), Variant(options["backend"], options["precision"])
    wanted = ExportOptions(
        backends=(variant.backend,),
        precisions=(variant.precision,),
        images=project.images or project.labels,
        crops=project.crops,
        calibration=project.calibration if calibrates(variant) else None,
    )
    model = _model(project, candidate, folder)
    bundle = export_bundle(folder / "in" / CHECKPOINT, folder / "network.splite", model=model, options=wanted)
    facts = _yardstick(project, folder).of_bundle(bundle, options["backend"])
    held = {f"{BUNDLE}{one.name}": one.read_bytes() for one in sorted(bundle.path.iterdir())}
    return held, {**facts, "bytes": sum(map(len, held.values()))}


def calibrates(variant: Variant) -> bool:
    """Whether its export reads calibration images; it refuses them elsewhere, as for fp16 of TFLite."""
    from splite_deploy.export import ExportOptions

    return ExportOptions(backends=(variant.backend,), precisions=(variant.precision,)).calibrates


def _measure(options: Mapping[str, Any], project: Project, folder: Path) -> Found:
    bundle = (folder / "in" / BUNDLE).rename(folder / f"{options['name']}.splite")
    place = project.places[options["place"]]
    variant = Variant(options["backend"], options["precision"])
    return {}, place.measure(Bundle.open(bundle).path, variant, folder / "measured")


def _layers(options: Mapping[str, Any], project: Project, folder: Path) -> Found:
    from splite_deploy.fit.latency_table import table_graph, times_of

    shapes, graph = options["shapes"], folder / "layers.onnx"
    table_graph(shapes, graph)
    result = project.places[options["place"]].layers(graph, folder / "measured")
    return {}, {"times_us": times_of(shapes, result)}


_DO: Mapping[Kind, Callable[[Mapping[str, Any], Project, Path], Found]] = {
    "compact": _compact,
    "layers": _layers,
    "train": _train,
    "score": _score,
    "export": _export,
    "measure": _measure,
}


def _model(project: Project, candidate: Candidate, folder: Path) -> Path:
    """The model spec of a candidate: the parent's, unless its input has another size."""
    from splite_deploy.fit.sized import sized_model
    from splite_deploy.spec import load_model_toml

    spec, _ = load_model_toml(project.model)
    if (spec.input.height, spec.input.width) == (candidate.height, candidate.width):
        return project.model
    target = folder / "model.toml"
    sized_model(project.model, candidate.height, candidate.width, target)
    return target


def _yardstick(project: Project, folder: Path) -> Any:
    from splite_deploy.fit.score import Yardstick

    return Yardstick(project.labels, folder / "in" / PARENT, project.model, project.images, project.crops)
