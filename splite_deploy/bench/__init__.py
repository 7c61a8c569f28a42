"""Latency of an artifact on this machine: stages apart, beside the bare network, with the environment."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from os import PathLike

import cv2

from splite_deploy.bench.environment import Environment, read_environment
from splite_deploy.bench.measure import Input, Measurement, Options, Progress, measure
from splite_deploy.bench.report import (
    append_record,
    append_result,
    environment_table,
    read_results,
    table,
)
from splite_deploy.bench.result import SCHEMA_VERSION, BenchResult
from splite_deploy.bench.stats import LatencyStats
from splite_deploy.bundle import Bundle
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.preprocess import check_image
from splite_deploy.runtime.session import open_session, pick_artifact
from splite_deploy.spec import Color, Precision

__all__ = [
    "BenchResult",
    "Environment",
    "Input",
    "LatencyStats",
    "Measurement",
    "Options",
    "append_record",
    "append_result",
    "environment_table",
    "golden_inputs",
    "measure",
    "read_environment",
    "read_results",
    "run_bench",
    "table",
]


def run_bench(
    bundle: Bundle | str | PathLike[str],
    *,
    backend: str = "auto",
    precision: Precision | None = None,
    threads: int | None = None,
    frames: int = 300,
    warmup: int = 50,
    warmup_min_s: float = 0.5,
    batch: int = 1,
    inputs: Sequence[Input] | None = None,
    inputs_from: str = "images given by the caller",
    color: Color = "bgr",
    progress: Progress | None = None,
) -> BenchResult:
    """Measures one artifact of a bundle on this machine.

    Args:
        bundle: An opened bundle, or its path.
        backend: As for `PoseEstimator.open`.
        precision: As for `PoseEstimator.open`.
        threads: CPU threads of the backend; None is its default. OpenCV keeps its own number, see the result.
        frames: Timed frames.
        warmup: Fewest untimed frames beforehand.
        warmup_min_s: Shortest warm-up in seconds.
        batch: Crops per frame; above 1 the artifact must have a dynamic batch.
        inputs: Images with boxes; None takes the golden crops of the bundle. Those are as small as the input of
            the network: cropping a large photograph takes longer, so give your own images to measure that.
        inputs_from: Where ``inputs`` come from, for the report.
        color: Channel order of ``inputs``; golden crops are in the model's own.
        progress: Told (frames measured, frames in all).

    Raises:
        BundleError: The bundle is missing or damaged.
        UsageError: It has no such artifact, or an option or input cannot be used.
        MissingDependencyError: The backend's package is not installed.
        BackendError: The backend cannot load or run the artifact, or not with this batch.
    """
    options = Options(frames=frames, warmup_frames=warmup, warmup_min_s=warmup_min_s, batch=batch)
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if inputs is None:
        inputs, color = golden_inputs(opened), opened.model.input.color
        inputs_from = "golden crops of the bundle"
    sizes = [check_image(image).shape for image, _ in inputs]
    name, artifact = pick_artifact(opened, backend, precision)
    environment = read_environment()
    date_utc = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with PoseEstimator(opened.model, open_session(opened, backend, precision, threads=threads), color) as estimator:
        measurement = measure(estimator, inputs, options, progress=progress)
    height_px, width_px = max(sizes, key=lambda shape: shape[0] * shape[1])[:2]
    return BenchResult(
        schema_version=SCHEMA_VERSION,
        date_utc=date_utc,
        bundle=opened.path.resolve().name,
        model=opened.model.name,
        artifact_file=artifact.file,
        artifact_sha256=artifact.sha256,
        backend=name,
        precision=artifact.precision,
        batch=batch,
        threads=threads,
        opencv_threads=cv2.getNumThreads(),
        frames=frames,
        warmup_frames=measurement.warmup_frames,
        warmup_s=measurement.warmup_s,
        inputs_from=inputs_from,
        inputs_count=len(inputs),
        image_width_px=width_px,
        image_height_px=height_px,
        timer_overhead_us=measurement.timer_overhead_us,
        stages=measurement.stages(),
        environment=environment,
    )


def golden_inputs(bundle: Bundle) -> list[Input]:
    """The golden crops as images, each with the box that cuts out the whole of it.

    The preprocessing pads a box before it cuts; shrunk by that padding, the box of the whole crop gives it
    back pixel by pixel. The images have the channel order of the model.
    """
    spec = bundle.model.input
    margin_x = spec.width / 2 * (1 - 1 / spec.box_padding)
    margin_y = spec.height / 2 * (1 - 1 / spec.box_padding)
    box = (margin_x, margin_y, spec.width - margin_x, spec.height - margin_y)
    return [(crop, box) for crop in bundle.golden().crops]
