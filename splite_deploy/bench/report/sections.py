"""The sections of the page below its table: figures of results as what the template lays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from splite_deploy.bench.gates import METRICS, Reading
from splite_deploy.bench.loop import DECODE, DEVICE_STAGES, INFERENCE, MODEL_ONLY, PREPROCESS
from splite_deploy.bench.recommend import common_stage
from splite_deploy.bench.report.charts import Axis, pareto_front, polylines, ridge, stacked
from splite_deploy.bench.report.overview import milliseconds
from splite_deploy.bench.report.tables import machine
from splite_deploy.bench.report.text import STAGE_NAMES
from splite_deploy.bench.result import BenchResult
from splite_deploy.device.environment import NOT_AVAILABLE, Environment

PARTS = (PREPROCESS, INFERENCE, DECODE)
SHOWN_PCT = 99.5
"""Slower frames lie at the end of the axis of the distributions."""
SHOWN_LAYERS, SHOWN_FILES = 15, 24
"""Layers of one file, and files whose layers are shown."""
MOST_RIDGES = 60
"""Of more results each has its percentiles alone, so that the page stays small."""
MOST_LABELS = 16
"""Of more points only the best have a label, since they would hide each other."""
LEAST_PX = 0.001
"""A smaller deviation is drawn as this: it is how floating point rounds."""
LONGEST_NAME = 120
"""Characters of a layer's name: TensorRT joins those of all that it fused."""


def distributions(results: Sequence[BenchResult], names: Sequence[str], budget_ms: float | None) -> dict[str, Any]:
    """The times of each result on one axis; of results without single times only the percentiles."""
    stage = common_stage(results)
    bounds = []
    for result in results:
        stats, ordered = result.stages[stage], sorted(result.samples_ms.get(stage, ()))
        bounds += [
            stats.min_ms,
            ordered[int((len(ordered) - 1) * SHOWN_PCT / 100)] if ordered else stats.p99_ms,
            stats.p99_ms,
        ]
    axis = Axis.around(bounds, margin=0.03)
    rows = []
    for number, (name, result) in enumerate(zip(names, results, strict=True), 1):
        stats, times = result.stages[stage], result.samples_ms.get(stage, ())
        marks = [("p50", stats.p50_ms), ("p90", stats.p90_ms), ("p99", stats.p99_ms)]
        rows.append(
            {
                "number": number,
                "name": name,
                "points": ridge(times, axis) if times and len(results) <= MOST_RIDGES else None,
                "marks": [(mark, axis.percent(value)) for mark, value in marks],
                "stats": stats,
            }
        )
    within = budget_ms is not None and axis.low < budget_ms < axis.high
    return {
        "axis": axis.ticks(),
        "logarithmic": axis.logarithmic,
        "rows": rows,
        "budget": axis.percent(budget_ms) if within and budget_ms is not None else None,
        "budget_ms": budget_ms,
    }


def stages(results: Sequence[BenchResult], names: Sequence[str]) -> dict[str, Any] | None:
    """Mean times of the stages of each estimator, which add up to the mean end to end; None of files alone."""
    chosen = [
        (number, name, result)
        for number, (name, result) in enumerate(zip(names, results, strict=True), 1)
        if PREPROCESS in result.stages
    ]
    if not chosen:
        return None
    means = {number: [result.stages[name].mean_ms for name in PARTS] for number, _, result in chosen}
    axis = Axis.around([sum(parts) for parts in means.values()], zero=True)
    rows = [
        {
            "number": number,
            "name": name,
            "parts": [
                {"key": part, "title": STAGE_NAMES[part], "ms": ms, "width": axis.percent(ms)}
                for part, ms in zip(PARTS, means[number], strict=True)
            ],
            "model_only_percent": axis.percent(result.stages[MODEL_ONLY].mean_ms),
            "total_ms": sum(means[number]),
        }
        for number, name, result in chosen
    ]
    alone = _stages_of_one(chosen[0][2]) if len(chosen) == 1 else None
    return {"axis": axis.ticks(), "legend": [(name, STAGE_NAMES[name]) for name in PARTS], "rows": rows, "one": alone}


def _stages_of_one(result: BenchResult) -> dict[str, Any]:
    """Every stage of one result as a bar of its own: there is nothing beside which to stack them."""
    order = (PREPROCESS, INFERENCE, *DEVICE_STAGES, DECODE, MODEL_ONLY)
    shown = [name for name in order if name in result.stages]
    axis = Axis.around([result.stages[name].mean_ms for name in shown], zero=True)
    rows = [
        {
            "key": name if name in PARTS else "other",
            "title": STAGE_NAMES[name],
            "stats": result.stages[name],
            "width": axis.percent(result.stages[name].mean_ms),
        }
        for name in shown
    ]
    return {"axis": axis.ticks(), "rows": rows}


@dataclass(frozen=True)
class _Measure:
    """What may be drawn over latency.

    Attributes:
        title: Of the section.
        said: What it is, with its unit.
        unit: Of a point's text.
        read: Takes it from a result.
        more: Whether more is better.
        least: Smaller values are drawn as this; 0 for none.
    """

    title: str
    said: str
    unit: str
    read: Reading
    more: bool = False
    least: float = 0.0


_ACCURACIES = (
    _Measure("Accuracy over latency", "average precision (OKS)", "AP", METRICS["oks_ap"].read, more=True),
    _Measure("Accuracy over latency", "average precision of boxes, AP@0.5", "AP", METRICS["ap_50"].read, more=True),
    _Measure("Accuracy over latency", "mean error, % of the box", "% of the box", METRICS["epe_box_pct"].read),
)
_DEVIATIONS = (
    _Measure(
        "Deviation over latency",
        "how far keypoints move (p95), pixels of the input",
        "px",
        METRICS["deviation_p95_px"].read,
        least=LEAST_PX,
    ),
)


def tradeoff(
    results: Sequence[BenchResult], names: Sequence[str], ship: int | None, budget_ms: float | None
) -> dict[str, Any] | None:
    """Accuracy over latency, or without labels the deviation; None where fewer than two results have either.

    Args:
        results: What was measured.
        names: What to call them.
        ship: Index of the one to ship.
        budget_ms: How long a frame may take.
    """
    stage = common_stage(results)
    measure = _measure(results)
    if measure is None:
        return None
    chosen = [
        (number, result.stages[stage].p50_ms, value)
        for number, result in enumerate(results, 1)
        if (value := measure.read(result)) is not None
    ]
    values = [max(value, measure.least) for *_, value in chosen]
    costs = [(p50_ms, -value if measure.more else value) for (_, p50_ms, _), value in zip(chosen, values, strict=True)]
    x_axis = Axis.around([x for x, _ in costs], margin=0.1)
    room = max(values) + 0.4 * (max(values) - min(values))  # for labels
    y_axis = Axis.around([*values, min(room, 1.0) if measure.more else room], margin=0.1)
    front = pareto_front(costs)
    places = [(x_axis.percent(x), y_axis.percent(y)) for (x, _), y in zip(costs, values, strict=True)]
    labelled = [
        index
        for index, (number, *_) in enumerate(chosen)
        if len(chosen) <= MOST_LABELS or index in front or number - 1 == ship
    ]
    levels = dict(zip(labelled, stacked([places[index] for index in labelled]), strict=True))
    steps: list[tuple[float, float]] = []
    for index in front:
        if steps:
            steps.append((costs[index][0], steps[-1][1]))
        steps.append((costs[index][0], values[index]))
    within = budget_ms is not None and x_axis.low < budget_ms < x_axis.high
    return {
        "title": measure.title,
        "said": measure.said,
        "better": "Upper" if measure.more else "Lower",
        "least": measure.least if any(value < measure.least for *_, value in chosen) else None,
        "hidden": len(labelled) < len(chosen),
        "x_ticks": x_axis.ticks(),
        "y_ticks": y_axis.ticks(),
        "logarithmic": x_axis.logarithmic,
        "front": polylines([x for x, _ in steps], [y for _, y in steps], x_axis, y_axis),
        "budget": x_axis.percent(budget_ms) if within and budget_ms is not None else None,
        "points": [
            {
                "number": number,
                "x": places[index][0],
                "y": places[index][1],
                "level": levels.get(index),
                "text": f"{names[number - 1]}: {milliseconds(p50_ms)} ms, {value:.3g} {measure.unit}",
                "best": index in front,
                "ship": number - 1 == ship,
            }
            for index, (number, p50_ms, value) in enumerate(chosen)
        ],
    }


def _measure(results: Sequence[BenchResult]) -> _Measure | None:
    """What all that were evaluated have, or the deviation."""
    evaluated = [one for one in results if one.accuracy is not None]
    if len(evaluated) > 1:
        for one in _ACCURACIES:
            if all(one.read(result) is not None for result in evaluated):
                return one
    return next((one for one in _DEVIATIONS if sum(one.read(result) is not None for result in results) > 1), None)


def resources(results: Sequence[BenchResult], names: Sequence[str]) -> list[dict[str, Any]]:
    """Bars of memory and start-up, of each what at least two results have: one bar says no more than its number."""
    figures = {
        "Peak memory of a process of its own, MiB": "rss_peak_mib",
        "Loading, ms": "load_ms",
        "First inference, ms": "first_inference_ms",
    }
    charts = []
    for title, metric in figures.items():
        values = [
            (number, name, METRICS[metric].read(result))
            for number, (name, result) in enumerate(zip(names, results, strict=True), 1)
        ]
        known = [(number, name, value) for number, name, value in values if value is not None]
        if len(known) > 1:
            axis = Axis.around([value for *_, value in known], zero=True)
            bars = [
                {"number": number, "name": name, "value": value, "width": axis.percent(value)}
                for number, name, value in known
            ]
            charts.append({"title": title, "bars": bars})
    return charts


def sustained(number: int, name: str, result: BenchResult) -> dict[str, Any]:
    """The curves of one sustained run, one chart for each unit, over the same seconds."""
    run = result.sustained
    assert run is not None
    seconds = [point.second for point in run.curve]
    charts = [_chart("p50 of each second, ms", seconds, {"p50": [point.p50_ms for point in run.curve]}, run.seconds)]
    if run.sensors is not None:
        series = {
            "Power, mW": run.sensors.power_mw,
            "Temperature, °C": run.sensors.temperatures_c,
            "Clock, MHz": run.sensors.clocks_mhz,
        }
        charts += [_chart(title, run.sensors.seconds, lines, run.seconds) for title, lines in series.items() if lines]
    return {"number": number, "name": name, "run": run, "charts": [chart for chart in charts if chart is not None]}


def _chart(
    title: str, seconds: Sequence[float], series: Mapping[str, Sequence[float | None]], end_s: float
) -> dict[str, Any] | None:
    """None where no line has two points."""
    values = [value for line in series.values() for value in line if value is not None]
    if max((sum(value is not None for value in line) for line in series.values()), default=0) < 2:
        return None
    x_axis = Axis.around([end_s, *seconds], zero=True, margin=0)
    y_axis = Axis.around(values, margin=0.12)
    lines = [{"name": name, "lines": polylines(seconds, line, x_axis, y_axis)} for name, line in series.items()]
    return {"title": title, "lines": lines, "x_ticks": x_axis.ticks(), "y_ticks": y_axis.ticks()}


def layers(results: Sequence[BenchResult], names: Sequence[str], ship: int | None) -> dict[str, Any] | None:
    """The layers of each file, that of the one to ship first; threads and rounds change nothing about them."""
    found: dict[tuple[str, str, str | None], dict[str, Any]] = {}
    order = sorted(range(len(results)), key=lambda index: index != ship)
    for index in order:
        result = results[index]
        if result.layers:
            key = (result.artifact_sha256, result.backend, result.provider)
            found[key] = found.get(key) or _layers(index + 1, names[index], result)
    if not found:
        return None
    return {"files": list(found.values())[:SHOWN_FILES], "left_out": max(0, len(found) - SHOWN_FILES)}


def _layers(number: int, name: str, result: BenchResult) -> dict[str, Any]:
    """The slowest layers of one file; the first ones where no times were measured."""
    timed = [layer for layer in result.layers if layer.time_us is not None]
    total_us = sum(layer.time_us or 0.0 for layer in timed)
    shown = sorted(timed, key=lambda layer: -(layer.time_us or 0.0)) if timed else list(result.layers)
    widest = max((layer.time_us or 0.0 for layer in timed), default=0.0) or 1.0
    rows = [
        {
            "name": layer.name if len(layer.name) <= LONGEST_NAME else f"{layer.name[:LONGEST_NAME]}…",
            "layer": layer,
            "share_pct": 100 * (layer.time_us or 0.0) / total_us if total_us else 0.0,
            "width": 100 * (layer.time_us or 0.0) / widest,
        }
        for layer in shown[:SHOWN_LAYERS]
    ]
    return {
        "number": number,
        "name": name,
        "rows": rows,
        "count": len(result.layers),
        "total_us": total_us,
        "timed": bool(timed),
        "bars": len(timed) > 1,
    }


def environments(results: Sequence[BenchResult]) -> list[dict[str, Any]]:
    """The machines, each with the numbers of its results. What changes by the minute is that of the first of them."""
    found: dict[str, tuple[Environment, list[int]]] = {}
    for number, result in enumerate(results, 1):
        lasting = replace(result.environment, load_average_1min=None, current_clock_mhz=None, temperatures_c={})
        found.setdefault(repr(lasting), (result.environment, []))[1].append(number)
    return [
        {
            "title": machine(environment),
            "numbers": numbers,
            "rows": [row for row in environment.rows() if row[1] != NOT_AVAILABLE],
            "absent": [label for label, value in environment.rows() if value == NOT_AVAILABLE],
        }
        for environment, numbers in found.values()
    ]
