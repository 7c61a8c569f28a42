"""Benchmarks of one file, or of several in turn, from the first reading to the results."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path
from typing import Any

import cv2

from splite_deploy.bench.environment import read_environment
from splite_deploy.bench.evaluation import evaluate, evaluation_labels, evaluation_scenes, ignored_labels
from splite_deploy.bench.loop import EstimatorSubject, Input, Measurement, Options, Progress, Subject, measure_in_turn
from splite_deploy.bench.process import bound_to
from splite_deploy.bench.result import SCHEMA_VERSION, Angles, BenchResult, Evaluation, HandLabels, Sustained, Windows
from splite_deploy.bench.streams import run_streams
from splite_deploy.bench.sustained import sustain
from splite_deploy.bench.targets import ArtifactTarget, FileTarget, NetworkTarget, Opened, PoseTarget, Target
from splite_deploy.bundle import Bundle
from splite_deploy.errors import SpliteError, UsageError
from splite_deploy.files import is_folder
from splite_deploy.metrics.labels import LabelledImage
from splite_deploy.runtime.backends.placement import placements_of
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.network_file import NetworkFile
from splite_deploy.runtime.session import OptionSet, Placed, backend_of, pick_artifact
from splite_deploy.spec import Color, ModelSpec, Precision

SAMPLES = 2000
"""Of each stage at most so many times are kept in a result."""
FRAMES, MIN_S = 300, 2.5
"""Unless the caller says otherwise, at least so many frames are timed, and for at least so many seconds."""
WINDOWS_IN_TURN = 6
"""Windows at most where several are timed in turn: all of them run until the last one is steady."""


@dataclass(frozen=True)
class Extras:
    """What else to measure; of a file without a model spec only ``cold_start`` and ``duration_s``.

    Attributes:
        cold_start: Start-up times and memory of a process of its own; takes a second or two.
        layers: What the backend makes of the file, layer by layer, where it can tell; takes less than a second.
        deviation: How far an artifact of a bundle moves keypoints; takes some inferences.
        duration_s: Run without a pause for so many seconds, with the sensors read; 0 does not. Of one file alone, since
            the next would find the machine hot.
        streams: Run so many estimators at once; 1 does not.
        streams_s: How long they run, and one of them alone before, seconds.
        labels: Evaluate on this ``labels.json`` or its folder, the split ``val`` where it has one, or COCO file.
        flip_test: Evaluate on the mean of each crop and its mirror image.
        angles: Where the evaluation has the angles of boxes from; see `evaluate`.
        hands: Whose left and right the labels mean; see `evaluate`.
    """

    cold_start: bool = True
    layers: bool = True
    deviation: bool = True
    duration_s: float = 0.0
    streams: int = 1
    streams_s: float = 2.0
    labels: Path | None = None
    flip_test: bool = False
    angles: Angles = "found"
    hands: HandLabels = "as-seen"


def run_targets(
    targets: Sequence[Target],
    *,
    threads: int | None = None,
    affinity: Sequence[int] | None = None,
    frames: int | None = None,
    warmup: int = 50,
    warmup_min_s: float = 0.5,
    min_s: float | None = None,
    batch: int = 1,
    extras: Extras | None = None,
    progress: Progress | None = None,
    step: Callable[[str], None] = lambda message: None,
    failed: Callable[[Target, SpliteError], None] | None = None,
) -> list[BenchResult]:
    """Measures files on this machine; several in one run, in turn, see `measure_in_turn`.

    All of them are loaded before the first is timed. What else is measured follows, of one after the other.

    Args:
        targets: What to measure.
        threads: CPU threads of the backends, for the results; None is their default. OpenCV keeps its own number.
        affinity: Cores to use; needs ``threads``. None leaves that to the system.
        frames: Timed frames of each, in three windows; more are added until three windows in a row agree. None is
            `FRAMES`, or as many as take ``min_s`` seconds.
        warmup: Fewest untimed frames of each beforehand.
        warmup_min_s: Shortest warm-up of each in seconds.
        min_s: Shortest time of the timed frames of each in seconds. None is `MIN_S` without a number of frames, since a
            run that is shorter than other work on the machine is at its mercy, and none with one.
        batch: Crops per frame; above 1 the artifacts must have a dynamic batch.
        extras: What else to measure; None is start-up, memory, layers and deviation.
        progress: Called with (frames measured, frames in all), then (seconds, seconds in all) of a sustained run.
        step: Called with each step as it begins.
        failed: Called with one that cannot be loaded or run, which has no result then; None raises its error.

    Returns:
        A result for each that could be run, in their order.

    Raises:
        UsageError: An option or input cannot be used, or there is more than one to run for ``duration_s``.
        MissingDependencyError: A backend's package is not installed.
        BackendError: A backend cannot load or run a file, or not with this batch.
    """
    loop = _loop_options(frames, warmup, warmup_min_s, min_s, batch, len(targets))
    extras = extras or Extras()
    if extras.duration_s > 0 and len(targets) > 1:
        raise UsageError(
            f"A run of {extras.duration_s:g} s heats the machine, so it is for one artifact, and there are "
            f"{len(targets)}.",
            hint="Name one, with --backend and --precision, or leave out --duration.",
        )
    labels = [_labels_for(target, extras) for target in targets]
    conditions = _conditions(threads, affinity)
    with bound_to(affinity, threads):
        with ExitStack() as stack:
            able: list[tuple[Target, Opened, list[LabelledImage]]] = []
            for target, its_labels in zip(targets, labels, strict=True):
                step(f"loading {target.label}")
                try:
                    opened = stack.enter_context(target.opened(batch))
                    opened.subject.run(0)
                except SpliteError as err:
                    if failed is None:
                        raise
                    failed(target, err)
                else:
                    able.append((target, opened, its_labels))
            subjects = [opened.subject for _, opened, _ in able]
            step("timing" if len(able) == 1 else f"timing {len(able)} in turn")
            measured = measure_in_turn(subjects, loop, progress=progress) if able else []
            parts = []
            for (target, opened, its_labels), one in zip(able, measured, strict=True):
                step(f"running {target.label}")
                part = {**conditions, "batch": batch, **opened.facts, **_figures(one, loop)}
                parts.append(part | _of_session(target, opened, its_labels, extras, part["batch"], progress))
        run = secrets.token_hex(4) if len(able) > 1 else None
        results = []
        for (target, *_), part in zip(able, parts, strict=True):
            step(f"starting {target.label} in a process of its own")
            part |= _by_itself(target, extras, part["batch"])
            results.append(BenchResult(backend=target.backend.name, run=run, **part))
        return results


def run_bench(
    bundle: Bundle | str | PathLike[str],
    *,
    backend: str = "auto",
    precision: Precision | None = None,
    threads: int | None = None,
    affinity: Sequence[int] | None = None,
    frames: int | None = None,
    warmup: int = 50,
    warmup_min_s: float = 0.5,
    min_s: float | None = None,
    batch: int = 1,
    inputs: Sequence[Input] | None = None,
    inputs_from: str = "images given by the caller",
    color: Color = "bgr",
    options: OptionSet = (),
    extras: Extras | None = None,
    progress: Progress | None = None,
) -> BenchResult:
    """Measures one artifact of a bundle on this machine.

    Args:
        bundle: An opened bundle, or its path.
        backend: As for `PoseEstimator.open`.
        precision: As for `PoseEstimator.open`.
        threads: CPU threads of the backend; None is its default. OpenCV keeps its own number, see the result.
        affinity: Cores to use; needs ``threads``. None leaves that to the system.
        frames: Timed frames, in three windows; more are added until three windows in a row agree. None is `FRAMES`, or
            as many as take ``min_s`` seconds.
        warmup: Fewest untimed frames beforehand.
        warmup_min_s: Shortest warm-up in seconds.
        min_s: Shortest time of the timed frames in seconds. None is `MIN_S` without a number of frames, since a run
            that is shorter than other work on the machine is at its mercy, and none with one.
        batch: Crops per frame; above 1 the artifact must have a dynamic batch.
        inputs: Images with boxes; None takes the golden crops of the bundle. Those are as small as the input of
            the network: cropping a large photograph takes longer, so give your own images to measure that.
        inputs_from: Where ``inputs`` come from, for the report.
        color: Channel order of ``inputs``; golden crops are in the model's own.
        options: How the backend works; its stages are timed in any case, where it can.
        extras: What else to measure; None is start-up, memory, layers and deviation.
        progress: Called with (frames measured, frames in all), then (seconds, seconds in all) of a sustained run.

    Raises:
        BundleError: The bundle is missing or damaged.
        UsageError: It has no such artifact, or an option or input cannot be used.
        MissingDependencyError: The backend's package is not installed.
        BackendError: The backend cannot load or run the artifact, or not with this batch.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    chosen, artifact = pick_artifact(opened, backend, precision)
    target = ArtifactTarget(
        opened, artifact, chosen, options=options, threads=threads, inputs=inputs, color=color, inputs_from=inputs_from
    )
    return _alone(
        target, threads, affinity, frames, warmup, warmup_min_s, min_s, batch=batch, extras=extras, progress=progress
    )


def run_network_file(
    file: NetworkFile,
    *,
    backend: str = "auto",
    threads: int | None = None,
    affinity: Sequence[int] | None = None,
    frames: int | None = None,
    warmup: int = 50,
    warmup_min_s: float = 0.5,
    min_s: float | None = None,
    batch: int = 1,
    inputs: Sequence[Input] | None = None,
    inputs_from: str = "images given by the caller",
    color: Color = "bgr",
    options: OptionSet = (),
    extras: Extras | None = None,
    progress: Progress | None = None,
) -> BenchResult:
    """Measures a file without a bundle end to end, by its ``model.toml``.

    Args:
        file: The file.
        backend: A backend's name, or ``auto``: the first that is installed and whose files have this suffix.
        threads: As for `run_bench`.
        affinity: As for `run_bench`.
        frames: As for `run_bench`.
        warmup: As for `run_bench`.
        warmup_min_s: As for `run_bench`.
        min_s: As for `run_bench`.
        batch: As for `run_bench`.
        inputs: Images with boxes; None takes random pictures as small as the input of the network, see `run_bench`.
        inputs_from: As for `run_bench`.
        color: As for `run_bench`.
        options: As for `run_bench`.
        extras: As for `run_bench`.
        progress: As for `run_bench`.

    Raises:
        UsageError: An option or input cannot be used.
        MissingDependencyError: The backend's package is not installed.
        BackendError: The backend cannot load or run the file, or it is not what ``model.toml`` says.
    """
    chosen = backend_of(file.path, backend)
    target = FileTarget(
        file, chosen, options=options, threads=threads, inputs=inputs, color=color, inputs_from=inputs_from
    )
    return _alone(
        target, threads, affinity, frames, warmup, warmup_min_s, min_s, batch=batch, extras=extras, progress=progress
    )


def run_file(
    path: Path,
    *,
    backend: str = "auto",
    threads: int | None = None,
    affinity: Sequence[int] | None = None,
    frames: int | None = None,
    warmup: int = 50,
    warmup_min_s: float = 0.5,
    min_s: float | None = None,
    batch: int = 1,
    tensors: Path | None = None,
    options: OptionSet = (),
    extras: Extras | None = None,
    progress: Progress | None = None,
) -> BenchResult:
    """Measures the network alone of a file without a bundle, of which no model spec is needed.

    Args:
        path: The file.
        backend: A backend's name, or ``auto``: the first that is installed and whose files have this suffix.
        threads: As for `run_bench`.
        affinity: As for `run_bench`.
        frames: As for `run_bench`.
        warmup: As for `run_bench`.
        warmup_min_s: As for `run_bench`.
        min_s: As for `run_bench`.
        batch: First size of inputs whose file leaves it open. The result has that of the one image that is run.
        tensors: A ``.npz`` of inputs, used in turn, see `feeds_from_file`; None takes random numbers.
        options: How the backend works.
        extras: What else to measure; streams and labels need a model spec.
        progress: As for `run_bench`.

    Raises:
        UsageError: No backend runs such a file, or an option or input cannot be used.
        MissingDependencyError: The backend's package is not installed.
        BackendError: The backend cannot load or run the file.
    """
    target = NetworkTarget(path, backend, options=options, threads=threads, tensors=tensors)
    return _alone(
        target, threads, affinity, frames, warmup, warmup_min_s, min_s, batch=batch, extras=extras, progress=progress
    )


def _alone(
    target: Target,
    threads: int | None,
    affinity: Sequence[int] | None,
    frames: int | None,
    warmup: int,
    warmup_min_s: float,
    min_s: float | None,
    **more: Any,
) -> BenchResult:
    (result,) = run_targets(
        [target],
        threads=threads,
        affinity=affinity,
        frames=frames,
        warmup=warmup,
        warmup_min_s=warmup_min_s,
        min_s=min_s,
        **more,
    )
    return result


def _labels_for(target: Target, extras: Extras) -> list[LabelledImage]:
    """What to evaluate a target on, read before anything is loaded; refuses what it has no use for.

    Raises:
        UsageError: It has no model spec, and streams or labels are requested; its crops are not turned, and the angles
            of labels are; or the labels cannot be used.
    """
    if not isinstance(target, PoseTarget):
        if extras.streams > 1 or extras.labels is not None:
            raise UsageError(
                f"{target.facts['artifact_file']} is a file without a bundle: there is no model spec to crop and "
                "decode by.",
                hint="Name the bundle, or the file's model.toml with --model, or leave out --streams and --eval.",
            )
        return []
    if extras.angles == "labels" and target.model.input.turn is None:
        raise UsageError(
            f"Crops of the model '{target.model.name}' are not turned: it has no use for the angles of labels.",
            hint="Leave out --angles; a model whose crops are turned says so by rotate_by of [input].",
        )
    return [] if extras.labels is None else evaluation_labels(extras.labels, target.model.keypoint_count)


def _of_session(
    target: Target,
    opened: Opened,
    labels: Sequence[LabelledImage],
    extras: Extras,
    batch: int,
    progress: Progress | None,
) -> dict[str, Any]:
    """The part of a result that comes of the session that was timed."""
    subject, estimator = opened.subject, opened.estimator
    found: dict[str, Any] = {"sustained": _sustained(subject, extras, progress)}
    if isinstance(opened.session, Placed):
        found["placements"] = opened.session.placements()
    if estimator is None or not isinstance(subject, EstimatorSubject) or not isinstance(target, PoseTarget):
        return found
    found["keypoints"] = target.model.keypoint_count
    if estimator.finds_people:
        count = len(target.inputs)
        people = sum(len(subject.run(index)) for index in range(count))
        found["people_per_image"] = people / (count * batch)
    if extras.deviation:
        found["deviation"] = target.deviation(estimator.session)
    if extras.labels is not None:
        found["accuracy"] = _evaluated(target.model, estimator, labels, extras.labels, extras)
    return found


def _evaluated(
    model: ModelSpec, estimator: PoseEstimator, labels: Sequence[LabelledImage], file: Path, extras: Extras
) -> Evaluation:
    folder = file if is_folder(file) else file.parent
    rgb = PoseEstimator(model, estimator.session, "rgb")
    return evaluate(
        rgb,
        labels,
        f"{len(labels)} labels of {folder.resolve().name}",
        folder,
        ignored=ignored_labels(file, model.keypoint_count),
        scenes=evaluation_scenes(file) if rgb.finds_people else {},
        flip_test=extras.flip_test,
        angles=extras.angles,
        hands=extras.hands,
    )


def _by_itself(target: Target, extras: Extras, batch: int) -> dict[str, Any]:
    """The part of a result that takes sessions or processes of its own, when no other session is open."""
    found: dict[str, Any] = {}
    if extras.streams > 1 and isinstance(target, PoseTarget):
        found["streams"] = run_streams(
            target.open_estimator, target.inputs, extras.streams, batch=batch, seconds=extras.streams_s
        )
    if extras.layers:
        found["layers"] = target.layers()
        if placements := placements_of(found["layers"]):
            found["placements"] = placements
    if extras.cold_start:
        found["startup"], found["memory"] = target.cold_start(batch)
    return found


def _loop_options(
    frames: int | None, warmup: int, warmup_min_s: float, min_s: float | None, batch: int, count: int
) -> Options:
    more = {"max_windows": WINDOWS_IN_TURN} if count > 1 else {}
    return Options(
        frames=FRAMES if frames is None else frames,
        warmup_frames=warmup,
        warmup_min_s=warmup_min_s,
        min_s=min_s if min_s is not None else MIN_S if frames is None else 0.0,
        batch=batch,
        **more,
    )


def _conditions(threads: int | None, affinity: Sequence[int] | None) -> dict[str, Any]:
    """The part of a result that is read before the measurement."""
    return {
        "schema_version": SCHEMA_VERSION,
        "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "threads": threads,
        "affinity": None if affinity is None else tuple(affinity),
        "opencv_threads": cv2.getNumThreads(),
        "environment": read_environment(),
    }


def _figures(measurement: Measurement, options: Options) -> dict[str, Any]:
    """The part of a result that comes of the timed loop."""
    every = -(-measurement.frames // SAMPLES)
    return {
        "frames": measurement.frames,
        "warmup_frames": measurement.warmup_frames,
        "warmup_s": measurement.warmup_s,
        "timer_overhead_us": measurement.timer_overhead_us,
        "stages": measurement.stages(),
        "windows": Windows(
            frames=measurement.window_frames,
            p50_ms=measurement.windows_p50_ms,
            stable=measurement.stable,
            tolerance=options.tolerance,
        ),
        "samples_ms": {
            stage: tuple(round(float(ns) / 1e6, 5) for ns in samples[::every])
            for stage, samples in measurement.samples_ns.items()
        },
        "samples_every": every,
    }


def _sustained(subject: Subject, extras: Extras, progress: Progress | None) -> Sustained | None:
    if extras.duration_s <= 0:
        return None
    return sustain(subject, extras.duration_s, progress=progress or (lambda done, total: None))
