"""Results as one self-contained HTML page: no scripts, nothing loaded, for desk, phone, dark and paper."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from typing import Any

from splite_deploy.bench.gates import METRICS
from splite_deploy.bench.loop import DECODE, INFERENCE, MODEL_ONLY, PREPROCESS
from splite_deploy.bench.recommend import Recommendation
from splite_deploy.bench.report.charts import Axis, pareto_front, polylines, ridge, stacked
from splite_deploy.bench.report.pictures import Picture
from splite_deploy.bench.report.sentences import boxes_found
from splite_deploy.bench.report.tables import machine
from splite_deploy.bench.report.text import STAGE_NAMES
from splite_deploy.bench.result import BenchResult, Evaluation
from splite_deploy.device.environment import NOT_AVAILABLE, Environment
from splite_deploy.errors import MissingDependencyError, UsageError
from splite_deploy.text import shown
from splite_deploy.version import __version__

PARTS = (PREPROCESS, INFERENCE, DECODE)
SHOWN_PCT = 99.5
"""Slower frames lie at the end of the axis of the distributions."""
SHOWN_LAYERS = 15


def check_available() -> None:
    """Whether a page can be made here; worth knowing before measuring for minutes.

    Raises:
        MissingDependencyError: Jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as err:
        raise MissingDependencyError(
            "The HTML page needs Jinja2, which is not installed here.",
            hint="Install it: pip install 'splite-deploy[report]'.",
        ) from err


def html_page(
    results: Sequence[BenchResult],
    pictures: Mapping[int, Sequence[Picture]] | None = None,
    recommendation: Recommendation | None = None,
) -> str:
    """The page of some results.

    Args:
        results: What was measured; one machine or several.
        pictures: By index of the result, if there are any.
        recommendation: Which of the results to ship, see `splite_deploy.bench.recommend.recommend_of`; None says
            nothing.

    Raises:
        UsageError: There is no result.
        MissingDependencyError: Jinja2 is not installed.
    """
    if not results:
        raise UsageError("There is no result to show.", hint="Measure one with 'splite-deploy bench'.")
    check_available()
    from jinja2 import Environment as Jinja
    from jinja2 import StrictUndefined

    source = (
        resources.files("splite_deploy.bench.report").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    )
    jinja = Jinja(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, finalize=_safe)
    page = jinja.from_string(source).render(
        version=__version__,
        title=", ".join(dict.fromkeys(result.model for result in results)),
        recommendation=recommendation,
        machines=list(dict.fromkeys(machine(result.environment) for result in results)),
        dates=_dates(results),
        rows=[_row(number, result) for number, result in enumerate(results, 1)],
        distributions=_distributions(results),
        stages=_stages(results),
        pareto=_pareto(results),
        resources=_resources(results),
        sustained=[_sustained(number, result) for number, result in enumerate(results, 1) if result.sustained],
        layers=[_layers(number, result) for number, result in _first_of_each_file(results) if result.layers],
        pictures=[
            {
                "number": index + 1,
                "name": name_of(results[index]),
                "pictures": [(picture, base64.b64encode(picture.jpeg).decode()) for picture in found],
            }
            for index, found in sorted((pictures or {}).items())
            if found
        ],
        environments=_environments(results),
    )
    return str(page)


def _safe(value: Any) -> Any:
    """Whatever the page shows: texts of others without control characters; Jinja escapes what HTML would obey."""
    return shown(value) if type(value) is str else value


def name_of(result: BenchResult) -> str:
    """An artifact as text."""
    threads = "" if result.threads is None else f", {result.threads} thread{'s' if result.threads > 1 else ''}"
    batch = "" if result.batch == 1 else f", batch {result.batch}"
    return f"{result.bundle or result.artifact_file} · {result.label}{threads}{batch}"


def _dates(results: Sequence[BenchResult]) -> str:
    days = sorted(result.date_utc[:10] for result in results)
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


def _row(number: int, result: BenchResult) -> dict[str, Any]:
    """One result in the tables at the top and at the end."""
    stats = result.stages[result.headline]
    evaluation: Evaluation | None = result.accuracy
    return {
        "number": number,
        "name": name_of(result),
        "result": result,
        "headline": STAGE_NAMES[result.headline],
        "stats": stats,
        "model_only": result.stages[MODEL_ONLY],
        "fps": result.frames_per_second,
        "unsteady": result.unsteady,
        "size_mb": METRICS["model_mb"].read(result),
        "accuracy": evaluation,
        "boxes": () if evaluation is None else tuple(boxes_found(evaluation.boxes)),
        "replay": result.backend == "replay",
        "undescribed": result.undescribed,
        "people": result.people_per_image,
    }


def _distributions(results: Sequence[BenchResult]) -> dict[str, Any]:
    """The times of each result on one axis; of results without single times only the percentiles."""
    bounds = []
    for result in results:
        stats, ordered = result.stages[result.headline], sorted(result.samples_ms.get(result.headline, ()))
        bounds += [
            stats.min_ms,
            ordered[int((len(ordered) - 1) * SHOWN_PCT / 100)] if ordered else stats.p99_ms,
            stats.p99_ms,
        ]
    axis = Axis.around(bounds, margin=0.03)
    rows = []
    for number, result in enumerate(results, 1):
        stats, times = result.stages[result.headline], result.samples_ms.get(result.headline, ())
        marks = [("p50", stats.p50_ms), ("p90", stats.p90_ms), ("p99", stats.p99_ms)]
        rows.append(
            {
                "number": number,
                "name": name_of(result),
                "points": ridge(times, axis) if times else None,
                "marks": [(name, axis.percent(value)) for name, value in marks],
                "stats": stats,
            }
        )
    return {"axis": axis.ticks(), "logarithmic": axis.logarithmic, "rows": rows}


def _stages(results: Sequence[BenchResult]) -> dict[str, Any] | None:
    """Mean times of the stages of each estimator, which add up to the mean end to end."""
    chosen = [(number, result) for number, result in enumerate(results, 1) if PREPROCESS in result.stages]
    if not chosen:
        return None
    means = {number: [result.stages[name].mean_ms for name in PARTS] for number, result in chosen}
    axis = Axis.around([sum(parts) for parts in means.values()], zero=True)
    rows = [
        {
            "number": number,
            "name": name_of(result),
            "parts": [
                {"key": name, "ms": ms, "width": axis.percent(ms)}
                for name, ms in zip(PARTS, means[number], strict=True)
            ],
            "model_only_ms": result.stages[MODEL_ONLY].mean_ms,
            "model_only_percent": axis.percent(result.stages[MODEL_ONLY].mean_ms),
            "total_ms": sum(means[number]),
        }
        for number, result in chosen
    ]
    return {"axis": axis.ticks(), "legend": [(name, STAGE_NAMES[name]) for name in PARTS], "rows": rows}


def _pareto(results: Sequence[BenchResult]) -> dict[str, Any] | None:
    """Error over latency of the results that were evaluated; None where fewer than two were."""
    chosen = [
        (number, result, accuracy, accuracy.epe_box_pct)
        for number, result in enumerate(results, 1)
        if (accuracy := result.accuracy) is not None and accuracy.epe_box_pct is not None
    ]
    if len(chosen) < 2:
        return None
    points = [(result.stages[result.headline].p50_ms, error_pct) for _, result, _, error_pct in chosen]
    x_axis = Axis.around([x for x, _ in points], margin=0.1)
    errors = [y for _, y in points]
    y_axis = Axis.around([*errors, max(errors) + 0.4 * (max(errors) - min(errors))], margin=0.1)  # room for labels
    front = pareto_front(points)
    places = [(x_axis.percent(x), y_axis.percent(y)) for x, y in points]
    levels = stacked(places)
    steps: list[tuple[float, float]] = []
    for index in front:
        if steps:
            steps.append((points[index][0], steps[-1][1]))
        steps.append(points[index])
    return {
        "x_ticks": x_axis.ticks(),
        "y_ticks": y_axis.ticks(),
        "logarithmic": x_axis.logarithmic,
        "front": polylines([x for x, _ in steps], [y for _, y in steps], x_axis, y_axis),
        "points": [
            {
                "number": number,
                "name": name_of(result),
                "x": places[index][0],
                "y": places[index][1],
                "level": levels[index],
                "p50_ms": point[0],
                "error_pct": point[1],
                "best": index in front,
            }
            for index, ((number, result, *_), point) in enumerate(zip(chosen, points, strict=True))
        ],
        "images": chosen[0][2].images,
        "labels_from": chosen[0][2].labels_from,
    }


def _resources(results: Sequence[BenchResult]) -> list[dict[str, Any]]:
    """Bars of size, memory and start-up; of each what any result has."""
    figures = {
        "Size of the file, MB": "model_mb",
        "Peak memory of a process of its own, MiB": "rss_peak_mib",
        "Loading, ms": "load_ms",
        "First inference, ms": "first_inference_ms",
    }
    charts = []
    for title, metric in figures.items():
        values = [(number, name_of(result), METRICS[metric].read(result)) for number, result in enumerate(results, 1)]
        known = [(number, name, value) for number, name, value in values if value is not None]
        if known:
            axis = Axis.around([value for *_, value in known], zero=True)
            bars = [
                {"number": number, "name": name, "value": value, "width": axis.percent(value)}
                for number, name, value in known
            ]
            charts.append({"title": title, "bars": bars})
    return charts


def _sustained(number: int, result: BenchResult) -> dict[str, Any]:
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
    return {
        "number": number,
        "name": name_of(result),
        "run": run,
        "charts": [chart for chart in charts if chart is not None],
    }


def _chart(
    title: str, seconds: Sequence[float], series: Mapping[str, Sequence[float | None]], end_s: float
) -> dict[str, Any] | None:
    values = [value for line in series.values() for value in line if value is not None]
    if not values:
        return None
    x_axis = Axis.around([end_s, *seconds], zero=True, margin=0)
    y_axis = Axis.around(values, margin=0.12)
    lines = [{"name": name, "lines": polylines(seconds, line, x_axis, y_axis)} for name, line in series.items()]
    return {"title": title, "lines": lines, "x_ticks": x_axis.ticks(), "y_ticks": y_axis.ticks()}


def _first_of_each_file(results: Sequence[BenchResult]) -> list[tuple[int, BenchResult]]:
    """With their numbers; threads and rounds change nothing about what a file is made of."""
    found: dict[tuple[str, str], tuple[int, BenchResult]] = {}
    for number, result in enumerate(results, 1):
        found.setdefault((result.artifact_sha256, result.backend), (number, result))
    return list(found.values())


def _layers(number: int, result: BenchResult) -> dict[str, Any]:
    """The slowest layers of one file; the first ones where no times were measured."""
    timed = [layer for layer in result.layers if layer.time_us is not None]
    total_us = sum(layer.time_us or 0.0 for layer in timed)
    shown = sorted(timed, key=lambda layer: -(layer.time_us or 0.0)) if timed else list(result.layers)
    widest = max((layer.time_us or 0.0 for layer in timed), default=0.0) or 1.0
    rows = [
        {
            "layer": layer,
            "share_pct": 100 * (layer.time_us or 0.0) / total_us if total_us else None,
            "width": 100 * (layer.time_us or 0.0) / widest,
        }
        for layer in shown[:SHOWN_LAYERS]
    ]
    return {
        "number": number,
        "name": name_of(result),
        "rows": rows,
        "count": len(result.layers),
        "total_us": total_us,
        "timed": bool(timed),
    }


def _environments(results: Sequence[BenchResult]) -> list[dict[str, Any]]:
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
