"""One benchmark of an artifact of a bundle, or of a file alone, from the first reading to the result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.bench.environment import read_environment
from splite_deploy.bench.evaluation import evaluate, evaluation_labels, evaluation_scenes, ignored_labels
from splite_deploy.bench.feeds import feeds_from_file, random_feeds
from splite_deploy.bench.loop import (
    EstimatorSubject,
    Input,
    Measurement,
    NetworkSubject,
    Options,
    Progress,
    Subject,
    measure,
)
from splite_deploy.bench.process import bound_to, cold_start
from splite_deploy.bench.profile import profile_artifact, profile_file
from splite_deploy.bench.result import SCHEMA_VERSION, Angles, BenchResult, HandLabels, Sustained, Windows
from splite_deploy.bench.streams import run_streams
from splite_deploy.bench.sustained import sustain
from splite_deploy.bundle import Bundle
from splite_deploy.bundle.report import Layer
from splite_deploy.errors import UsageError
from splite_deploy.files import is_folder
from splite_deploy.runtime.crops import cut, random_pictures
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.network_file import NetworkFile
from splite_deploy.runtime.preprocess import check_image
from splite_deploy.runtime.session import (
    OptionSet,
    backend_of,
    configured,
    open_artifact,
    open_model_file,
    pick_artifact,
    read_file,
)
from splite_deploy.spec import Color, ModelSpec, Precision

SAMPLES = 2000
"""Of each stage at most so many times are kept in a result."""
RANDOM_PICTURES = 8
"""Where neither images nor golden crops are at hand."""
FRAMES, MIN_S = 300, 2.5
"""Unless the caller says otherwise, at least so many frames are timed, and for at least so many seconds."""


@dataclass(frozen=True)
class Extras:
    """What else to measure; of a file without a model spec only ``cold_start`` and ``duration_s``.

    Attributes:
        cold_start: Start-up times and memory of a process of its own; takes a second or two.
        layers: What the backend makes of the file, layer by layer, where it can tell; takes less than a second.
        duration_s: Run without a pause for so many seconds, with the sensors read; 0 does not.
        streams: Run so many estimators at once; 1 does not.
        streams_s: How long they run, and one of them alone before, seconds.
        labels: Evaluate on this ``labels.json`` or its folder, the split ``val`` where it has one, or COCO file.
        flip_test: Evaluate on the mean of each crop and its mirror image.
        angles: Where the evaluation has the angles of boxes from; see `evaluate`.
        hands: Whose left and right the labels mean; see `evaluate`.
    """

    cold_start: bool = True
    layers: bool = True
    duration_s: float = 0.0
    streams: int = 1
    streams_s: float = 2.0
    labels: Path | None = None
    flip_test: bool = False
    angles: Angles = "two-passes"
    hands: HandLabels = "as-seen"


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
        extras: What else to measure; None is start-up, memory and layers.
        progress: Called with (frames measured, frames in all), then (seconds, seconds in all) of a sustained run.

    Raises:
        BundleError: The bundle is missing or damaged.
        UsageError: It has no such artifact, or an option or input cannot be used.
        MissingDependencyError: The backend's package is not installed.
        BackendError: The backend cannot load or run the artifact, or not with this batch.
    """
    loop = _loop_options(frames, warmup, warmup_min_s, min_s, batch)
    extras = extras or Extras()
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if inputs is None:
        inputs, color = golden_inputs(opened), opened.model.input.picture_color
        inputs_from = "golden crops of the bundle"
    chosen, artifact = pick_artifact(opened, backend, precision)
    settings = configured(chosen, options, threads=threads)
    timed = configured(chosen, settings, stage_timing=True)

    def open_estimator() -> PoseEstimator:
        return PoseEstimator(opened.model, open_artifact(opened, artifact, chosen, options=timed), color)

    conditions = _conditions(threads, affinity)
    with bound_to(affinity, threads):
        figures = _end_to_end(open_estimator, opened.model, inputs, loop, extras, progress)
        layers: tuple[Layer, ...] = ()
        if extras.layers and chosen.open_traced is not None:
            layers = profile_artifact(opened, artifact, backend=chosen, threads=None, options=settings)
        startup, memory = None, None
        if extras.cold_start:
            startup, memory = cold_start(opened.path, chosen, artifact.precision, settings, batch)
    return BenchResult(
        bundle=opened.path.resolve().name,
        model=opened.model.name,
        artifact_file=artifact.file,
        artifact_sha256=artifact.sha256,
        backend=chosen.name,
        precision=artifact.precision,
        batch=batch,
        inputs_from=inputs_from,
        model_bytes=(opened.path / artifact.file).stat().st_size,
        startup=startup,
        memory=memory,
        layers=layers,
        **conditions,
        **figures,
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
    loop = _loop_options(frames, warmup, warmup_min_s, min_s, batch)
    extras, spec = extras or Extras(), file.spec
    if inputs is None:
        pictures = random_pictures(RANDOM_PICTURES, max(spec.input.height, spec.input.width))
        inputs, color, inputs_from = [(picture, None) for picture in pictures], "bgr", "random pictures"
    chosen = backend_of(file.path, backend)
    settings = configured(chosen, options, threads=threads)
    timed = configured(chosen, settings, stage_timing=True)

    def open_estimator() -> PoseEstimator:
        return PoseEstimator(spec, file.open(chosen, options=timed), color, compared=False)

    conditions = _conditions(threads, affinity)
    with bound_to(affinity, threads):
        figures = _end_to_end(open_estimator, spec, inputs, loop, extras, progress)
        layers: tuple[Layer, ...] = ()
        if extras.layers and chosen.open_traced is not None:
            few = [(image, None if box is None else np.asarray(box, float)) for image, box in inputs[:RANDOM_PICTURES]]
            crops = cut(few, color, spec.input)
            layers = profile_file(chosen, file.content(chosen), spec, crops, options=settings)
        startup, memory = None, None
        if extras.cold_start:
            startup, memory = cold_start(file.path, chosen, None, settings, batch, [(batch, *file.image_shape)])
    return BenchResult(
        bundle="",
        model=spec.name,
        artifact_file=file.path.name,
        artifact_sha256=hashlib.sha256(file.data).hexdigest(),
        backend=chosen.name,
        precision=None,
        batch=batch,
        inputs_from=inputs_from,
        model_bytes=len(file.data),
        startup=startup,
        memory=memory,
        layers=layers,
        **conditions,
        **figures,
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
    loop = _loop_options(frames, warmup, warmup_min_s, min_s, batch)
    extras = extras or Extras()
    if extras.streams > 1 or extras.labels is not None:
        raise UsageError(
            f"{path.name} is a file without a bundle: there is no model spec to crop and decode by.",
            hint="Name the bundle, or the file's model.toml with --model, or leave out --streams and --eval.",
        )
    chosen = backend_of(path, backend)
    settings = configured(chosen, options, threads=threads)
    conditions = _conditions(threads, affinity)
    with bound_to(affinity, threads):
        file = read_file(path, chosen)
        with open_model_file(chosen, file, options=settings) as session:
            feeds = random_feeds(session.inputs, batch) if tensors is None else feeds_from_file(tensors, session.inputs)
            batch = _crops(feeds[0], batch)
            subject = NetworkSubject(session, feeds)
            measurement = measure(subject, loop, progress=progress)
            sustained = _sustained(subject, extras, progress)
        startup, memory = None, None
        if extras.cold_start:
            fed = [values.shape for values in feeds[0].values()]
            startup, memory = cold_start(path, chosen, None, settings, batch, fed)
    return BenchResult(
        bundle="",
        model=path.stem,
        artifact_file=path.name,
        artifact_sha256=hashlib.sha256(file.data).hexdigest(),
        backend=chosen.name,
        precision=None,
        batch=batch,
        inputs_from="random numbers" if tensors is None else f"tensors of {tensors.name}",
        inputs_count=len(feeds),
        image_width_px=0,
        image_height_px=0,
        model_bytes=len(file.data),
        startup=startup,
        memory=memory,
        sustained=sustained,
        **conditions,
        **_figures(measurement, loop),
    )


def _crops(feed: Mapping[str, NDArray[Any]], batch: int) -> int:
    """Crops in one inference of a file that has no model spec: those of its input, where it is one of images."""
    values = next(iter(feed.values()))
    return len(values) if len(feed) == 1 and values.ndim == 4 else batch


def _end_to_end(
    open_estimator: Callable[[], PoseEstimator],
    model: ModelSpec,
    inputs: Sequence[Input],
    loop: Options,
    extras: Extras,
    progress: Progress | None,
) -> dict[str, Any]:
    """The part of a result that comes of an estimator on images.

    Raises:
        UsageError: The labels cannot be used, or their angles are requested of a model whose crops are not turned.
    """
    if extras.angles == "labels" and model.input.turn is None:
        raise UsageError(
            f"Crops of the model '{model.name}' are not turned: it has no use for the angles of labels.",
            hint="Leave out --angles; a model whose crops are turned says so by rotate_by of [input].",
        )
    labels = None if extras.labels is None else evaluation_labels(extras.labels, model.keypoint_count)
    sizes = [check_image(image).shape for image, _ in inputs]
    with open_estimator() as estimator:
        subject = EstimatorSubject(estimator, inputs, loop.batch)
        measurement = measure(subject, loop, progress=progress)
        people = None
        if estimator.finds_people:
            people = sum(len(subject.run(index)) for index in range(len(inputs))) / (len(inputs) * loop.batch)
        sustained = _sustained(subject, extras, progress)
        accuracy = None
        if labels is not None and extras.labels is not None:
            folder = extras.labels if is_folder(extras.labels) else extras.labels.parent
            rgb = PoseEstimator(model, estimator.session, "rgb")
            accuracy = evaluate(
                rgb,
                labels,
                f"{len(labels)} labels of {folder.resolve().name}",
                folder,
                ignored=ignored_labels(extras.labels, model.keypoint_count),
                scenes=evaluation_scenes(extras.labels) if rgb.finds_people else {},
                flip_test=extras.flip_test,
                angles=extras.angles,
                hands=extras.hands,
            )
    streams = None
    if extras.streams > 1:
        streams = run_streams(open_estimator, inputs, extras.streams, batch=loop.batch, seconds=extras.streams_s)
    height_px, width_px = max(sizes, key=lambda shape: shape[0] * shape[1])[:2]
    return {
        "inputs_count": len(inputs),
        "image_width_px": width_px,
        "image_height_px": height_px,
        "sustained": sustained,
        "streams": streams,
        "accuracy": accuracy,
        "people_per_image": people,
        **_figures(measurement, loop),
    }


def _loop_options(frames: int | None, warmup: int, warmup_min_s: float, min_s: float | None, batch: int) -> Options:
    return Options(
        frames=FRAMES if frames is None else frames,
        warmup_frames=warmup,
        warmup_min_s=warmup_min_s,
        min_s=min_s if min_s is not None else MIN_S if frames is None else 0.0,
        batch=batch,
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


def golden_inputs(bundle: Bundle) -> list[Input]:
    """The golden crops as images, each with the box that cuts out the whole of it.

    The preprocessing pads a box before it cuts; shrunk by that padding, the box of the whole crop gives it
    back pixel by pixel. The images have the channel order of the model; grey crops get three equal channels.
    """
    spec = bundle.model.input
    margin_x = spec.width / 2 * (1 - 1 / spec.box_padding)
    margin_y = spec.height / 2 * (1 - 1 / spec.box_padding)
    box = (margin_x, margin_y, spec.width - margin_x, spec.height - margin_y)
    return [(crop if spec.channels == 3 else np.repeat(crop, 3, 2), box) for crop in bundle.golden().crops]
