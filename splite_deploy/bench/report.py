"""What was measured, as one line of JSON and as a table for people."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from splite_deploy.bench.environment import NOT_AVAILABLE, Environment
from splite_deploy.bench.measure import BARE, DECODE, INFERENCE, PREPROCESS, STAGES, TOTAL
from splite_deploy.bench.stats import LatencyStats
from splite_deploy.errors import SpecError, UsageError, writing
from splite_deploy.spec import Precision
from splite_deploy.structure import structure, to_plain

SCHEMA_VERSION = 1

STAGE_NAMES: Mapping[str, str] = {
    PREPROCESS: "Preprocess",
    INFERENCE: "Inference",
    DECODE: "Decode",
    TOTAL: "Estimator, total",
    BARE: "Bare inference",
}
"""Stages as they are named for people."""


@dataclass(frozen=True)
class BenchResult:
    """One artifact, measured once on one machine.

    Attributes:
        schema_version: `SCHEMA_VERSION`.
        date_utc: Start of the measurement, ISO 8601 in UTC.
        bundle: Name of the bundle's folder, without its path.
        model: Name of the model.
        artifact_file: Name of the file inside the bundle.
        artifact_sha256: Its hash.
        backend: The backend that ran it; ``replay`` runs no network.
        precision: Its precision.
        batch: Crops per frame.
        threads: CPU threads asked of the backend; None is the backend's default.
        opencv_threads: CPU threads that OpenCV used for the preprocessing.
        frames: Timed frames per stage.
        warmup_frames: Untimed frames beforehand.
        warmup_s: Seconds that they took.
        inputs_from: Where the images came from.
        inputs_count: Number of different images with boxes, used in turn.
        image_width_px: Width of the largest image.
        image_height_px: Height of the largest image.
        timer_overhead_us: Cost of one reading of the clock in microseconds, contained in every stage.
        stages: Statistics per stage of `splite_deploy.bench.measure.STAGES`.
        environment: The machine.
    """

    schema_version: int
    date_utc: str
    bundle: str
    model: str
    artifact_file: str
    artifact_sha256: str
    backend: str
    precision: Precision
    batch: int
    threads: int | None
    opencv_threads: int
    frames: int
    warmup_frames: int
    warmup_s: float
    inputs_from: str
    inputs_count: int
    image_width_px: int
    image_height_px: int
    timer_overhead_us: float
    stages: Mapping[str, LatencyStats]
    environment: Environment

    @property
    def label(self) -> str:
        """For example ``ort fp32``."""
        return f"{self.backend} {self.precision}"

    @property
    def overhead_ms(self) -> float:
        """Estimator's p50 minus that of the bare network, in milliseconds; noise may make it negative."""
        return self.stages[TOTAL].p50_ms - self.stages[BARE].p50_ms

    @property
    def frames_per_second(self) -> float:
        """Frames (of ``batch`` crops each) per second at the estimator's median."""
        return 1e3 / self.stages[TOTAL].p50_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back to an equal result."""
        return to_plain(self)  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BenchResult:
        """Reads a result from plain data.

        Raises:
            UsageError: It is of another schema version, or a key is missing, unknown or of the wrong type.
        """
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise UsageError(
                f"The benchmark result has schema version {version}; this version reads {SCHEMA_VERSION}.",
                hint="Read it with the version of splite-deploy that wrote it, or measure again.",
            )
        try:
            result = structure(cls, data, "")
        except SpecError as err:
            raise UsageError(f"The benchmark result is malformed: {err.message}", hint="Measure again.") from err
        missing = [stage for stage in STAGES if stage not in result.stages]
        if missing:
            raise UsageError(
                f"The benchmark result is malformed: it lacks the stage {missing[0]}.", hint="Measure again."
            )
        return result


def append_result(path: str | PathLike[str], result: BenchResult) -> None:
    """Appends a result to a file of JSON lines; see `append_record`."""
    append_record(path, result.to_dict())


def append_record(path: str | PathLike[str], record: Mapping[str, Any]) -> None:
    """Appends a line to a file of JSON lines, by a single write; makes the file where there is none.

    Raises:
        OutputError: The file cannot be written.
    """
    line = json.dumps(record, allow_nan=False).encode() + b"\n"
    with writing(path), Path(path).open("ab", buffering=0) as stream:
        start = stream.seek(0, os.SEEK_END) if stream.seekable() else 0
        if stream.write(line) != len(line):  # the disk filled up in the middle; half a line would spoil the file
            stream.truncate(start)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_results(path: str | PathLike[str]) -> list[BenchResult]:
    """Reads a file of JSON lines; empty lines are skipped.

    Raises:
        UsageError: The file cannot be read, or a line is no result; the message names the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise UsageError(
            f"Cannot read the results {path}: {err}.", hint="Name a file that 'splite-deploy bench --json' wrote."
        ) from err
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _parse(line: str, where: str) -> BenchResult:
    try:
        data = json.loads(line)
    except json.JSONDecodeError as err:
        raise UsageError(f"{where} is no JSON: {err}.", hint="Remove that line.") from err
    if not isinstance(data, dict):
        raise UsageError(f"{where} is no benchmark result.", hint="Remove that line.")
    try:
        return BenchResult.from_dict(data)
    except UsageError as err:
        raise UsageError(f"{where}: {err.message}", hint=err.hint) from err


def table(results: Sequence[BenchResult]) -> Table:
    """One row per artifact and stage, with a sentence on each artifact below."""
    grid = Table(
        title="Latency", caption=escape("\n".join(summary(result) for result in results)), caption_justify="left"
    )
    grid.add_column("Artifact")
    grid.add_column("Stage")
    for header in ("p50 (ms)", "p90 (ms)", "p99 (ms)", "Max (ms)", "Share of total (%)"):
        grid.add_column(header, justify="right")
    for result in results:
        for stage in STAGES:
            first, last = stage == STAGES[0], stage == STAGES[-1]
            label = escape(f"{result.bundle}\n{result.label}") if first else ""
            grid.add_row(label, STAGE_NAMES[stage], *_figures(result, stage), end_section=last)
    return grid


def _figures(result: BenchResult, stage: str) -> list[str]:
    stats = result.stages[stage]
    times = [f"{value:.3f}" for value in (stats.p50_ms, stats.p90_ms, stats.p99_ms, stats.max_ms)]
    # Means add up to the mean of the total, medians do not. The bare network is no part of the total.
    share = "-" if stage == BARE else f"{100 * stats.mean_ms / result.stages[TOTAL].mean_ms:.1f}"
    return [*times, share]


def summary(result: BenchResult) -> str:
    """The result and its conditions in plain sentences."""
    total, bare = result.stages[TOTAL].p50_ms, result.stages[BARE].p50_ms
    crops = f" of {result.batch} crops" if result.batch > 1 else ""
    threads = f"threads: {'default of the backend' if result.threads is None else result.threads}"
    replay = " These are recorded outputs: no network ran." if result.backend == "replay" else ""
    return (
        f"{result.label}: estimator p50 {total:.3f} ms minus bare inference p50 {bare:.3f} ms = "
        f"{result.overhead_ms:.3f} ms overhead; {result.frames_per_second:.1f} frames{crops} per second at p50. "
        f"{result.frames} frames after {result.warmup_frames} of warm-up, {threads}, "
        f"{result.inputs_from} ({result.inputs_count} of at most "
        f"{result.image_width_px} x {result.image_height_px} px).{replay}"
    )


def environment_table(environment: Environment) -> Table:
    """The machine, one reading per row; what could not be read is named in the last."""
    grid = Table(title="Environment", show_header=False)
    grid.add_column("Reading")
    grid.add_column("Value")
    rows = environment.rows()
    for label, value in rows:
        if value != NOT_AVAILABLE:
            grid.add_row(label, escape(value))
    absent = [label for label, value in rows if value == NOT_AVAILABLE]
    if absent:
        grid.add_row("Not available", escape(", ".join(absent)))
    return grid
