"""Results as CSV, for a spreadsheet, and as a Markdown table, for a page."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from splite_deploy.bench.loop import MODEL_ONLY
from splite_deploy.bench.recommend import source_of
from splite_deploy.bench.result import BenchResult, KeypointDeviation
from splite_deploy.device.environment import Environment
from splite_deploy.text import shown

SERIES = ("samples_ms", "layers", "sustained.curve", "sustained.sensors", "accuracy.worst", "accuracy.median")
"""What has no place in one row; it is in the JSON line."""


def csv_text(results: Sequence[BenchResult]) -> str:
    """One row per result; a column for each figure, named by its path in the line: ``stages.end_to_end.p50_ms``."""
    rows = [dict(_flat(result.to_dict(), "")) for result in results]
    stream = io.StringIO()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _flat(data: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Leaves of nested data by their dotted path; lists stay together, as JSON."""
    for key, value in data.items():
        path = f"{prefix}{key}"
        if path in SERIES:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}.")
        else:
            yield path, _cell(json.dumps(value) if isinstance(value, list) else value)


def _cell(value: Any) -> Any:
    """A value of a spreadsheet: a text that would be taken for a formula gets a quotation mark before it.

    See https://owasp.org/www-community/attacks/CSV_Injection.
    """
    if not isinstance(value, str):
        return value
    text = shown(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _markdown(text: str) -> str:
    """A text that Markdown shows as it is: neither a link, nor HTML, nor the end of a cell."""
    return re.sub(r"[\\`*\[\]<>|]", r"\\\g<0>", shown(text))


def markdown_text(results: Sequence[BenchResult]) -> str:
    """One row per result: latency, that of the model alone, size, deviation, accuracy; empty where not measured."""
    head = (
        "artifact",
        "threads",
        "p50",
        "p90",
        "p99",
        "max, ms",
        "model only p50, ms",
        "frames/s",
        "MB",
        "moves keypoints by, px (p95)",
        "max, px",
        "error, % of box",
    )
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for result in results:
        stats, model_only = result.stages[result.headline], result.stages[MODEL_ONLY]
        cells = [
            _markdown(f"{source_of(result)} {result.label}") + (" (unsteady)" if result.unsteady else ""),
            "default" if result.threads is None else str(result.threads),
            *(f"{value:.3f}" for value in (stats.p50_ms, stats.p90_ms, stats.p99_ms, stats.max_ms, model_only.p50_ms)),
            f"{result.frames_per_second:.1f}",
            "" if result.model_bytes is None else f"{result.model_bytes / 1e6:.2f}",
            *_moved_px(result.deviation),
            "" if result.accuracy is None else _or_nothing(result.accuracy.epe_box_pct),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    machines = dict.fromkeys(machine(result.environment) for result in results)
    return "\n".join([*lines, "", f"{'; '.join(map(_markdown, machines))}. Batch {_batches(results)}.", ""])


def _or_nothing(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _moved_px(found: KeypointDeviation | None) -> tuple[str, str]:
    return ("", "") if found is None else (f"{found.deviation_px.p95:.3g}", f"{found.deviation_px.max:.3g}")


def machine(environment: Environment) -> str:
    """A machine as text."""
    name = environment.board or f"{environment.cpu_model or 'unknown processor'}, {environment.logical_cores} cores"
    return name if environment.emulator is None else f"{name}, emulated by {environment.emulator}"


def _batches(results: Sequence[BenchResult]) -> str:
    return ", ".join(str(batch) for batch in sorted({result.batch for result in results}))
