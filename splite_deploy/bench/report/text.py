"""What was measured, as one line of JSON and as a table for people."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from splite_deploy.bench.loop import (
    BARE,
    COMPUTE,
    DECODE,
    DEVICE_TO_HOST,
    HOST_TO_DEVICE,
    INFERENCE,
    PREPROCESS,
    TOTAL,
)
from splite_deploy.bench.report.sentences import sentences
from splite_deploy.bench.result import BenchResult
from splite_deploy.device.environment import NOT_AVAILABLE, Environment
from splite_deploy.errors import UsageError
from splite_deploy.files import writing

STAGE_NAMES: Mapping[str, str] = {
    PREPROCESS: "Preprocess",
    INFERENCE: "Inference",
    HOST_TO_DEVICE: "- host to device",
    COMPUTE: "- compute",
    DEVICE_TO_HOST: "- device to host",
    DECODE: "Decode",
    TOTAL: "Estimator, total",
    BARE: "Bare inference",
}
"""Stages as they are named for people."""


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
    """One row per artifact and stage, with sentences on each artifact below."""
    grid = Table(
        title="Latency",
        caption=escape("\n".join(" ".join(sentences(result)) for result in results)),
        caption_justify="left",
    )
    grid.add_column("Artifact")
    grid.add_column("Stage")
    for header in ("p50 (ms)", "p90 (ms)", "p99 (ms)", "Max (ms)", "Share of total (%)"):
        grid.add_column(header, justify="right")
    for result in results:
        shown = [stage for stage in STAGE_NAMES if stage in result.stages]
        for stage in shown:
            first, last = stage == shown[0], stage == shown[-1]
            label = escape(f"{result.bundle or result.artifact_file}\n{result.label}") if first else ""
            grid.add_row(label, STAGE_NAMES[stage], *_figures(result, stage), end_section=last)
    return grid


def _figures(result: BenchResult, stage: str) -> list[str]:
    stats = result.stages[stage]
    times = [f"{value:.3f}" for value in (stats.p50_ms, stats.p90_ms, stats.p99_ms, stats.max_ms)]
    # Means add up to the mean of the total, medians do not. The bare network is no part of the total.
    share = "-" if stage == BARE else f"{100 * stats.mean_ms / result.stages[TOTAL].mean_ms:.1f}"
    return [*times, share]


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
