"""What was measured, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from splite_deploy.bench.loop import (
    COMPUTE,
    DECODE,
    DEVICE_TO_HOST,
    END_TO_END,
    HOST_TO_DEVICE,
    INFERENCE,
    MODEL_ONLY,
    PREPROCESS,
)
from splite_deploy.bench.recommend import source_of
from splite_deploy.bench.report.sentences import sentences
from splite_deploy.bench.result import BenchResult
from splite_deploy.device.environment import NOT_AVAILABLE, Environment
from splite_deploy.plain_table import Table

STAGE_NAMES: Mapping[str, str] = {
    PREPROCESS: "Preprocess",
    INFERENCE: "Inference",
    HOST_TO_DEVICE: "- host to device",
    COMPUTE: "- compute",
    DEVICE_TO_HOST: "- device to host",
    DECODE: "Decode",
    END_TO_END: "End to end",
    MODEL_ONLY: "Model only",
}
"""Stages as they are named for people."""


def table(results: Sequence[BenchResult]) -> Table:
    """One row per artifact and stage, with sentences on each artifact below."""
    grid = Table(
        title="Latency",
        caption="\n".join(" ".join(sentences(result)) for result in results),
        caption_justify="left",
    )
    grid.add_column("Artifact")
    grid.add_column("Stage")
    for header in ("p50 (ms)", "p90 (ms)", "p99 (ms)", "Max (ms)", "Share of end to end (%)"):
        grid.add_column(header, justify="right")
    for result in results:
        shown = [stage for stage in STAGE_NAMES if stage in result.stages]
        for stage in shown:
            first, last = stage == shown[0], stage == shown[-1]
            label = f"{source_of(result)}\n{result.label}" if first else ""
            grid.add_row(label, STAGE_NAMES[stage], *_figures(result, stage), end_section=last)
    return grid


def _figures(result: BenchResult, stage: str) -> list[str]:
    stats = result.stages[stage]
    times = [f"{value:.3f}" for value in (stats.p50_ms, stats.p90_ms, stats.p99_ms, stats.max_ms)]
    # Means add up to the mean end to end, medians do not. The model alone is no part of it.
    share = "-" if stage == MODEL_ONLY else f"{100 * stats.mean_ms / result.stages[END_TO_END].mean_ms:.1f}"
    return [*times, share]


def environment_table(environment: Environment) -> Table:
    """The machine, one reading per row; what could not be read is named in the last."""
    grid = Table(title="Environment", show_header=False)
    grid.add_column("Reading")
    grid.add_column("Value")
    rows = environment.rows()
    for label, value in rows:
        if value != NOT_AVAILABLE:
            grid.add_row(label, value)
    absent = [label for label, value in rows if value == NOT_AVAILABLE]
    if absent:
        grid.add_row("Not available", ", ".join(absent))
    return grid
