"""A fleet as one page: per device the latest against the previous, latency and deviation over time, and machines.

Like the page of one benchmark it loads nothing, has no scripts, and keeps to a size: of many devices the first have
charts and their machines, and the others a row for each artifact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from splite_deploy.bench.fleet import Fleet, Series, datetime_of
from splite_deploy.bench.report.charts import Axis, polylines
from splite_deploy.bench.report.html import MOST_BYTES, check_available, page_template
from splite_deploy.bench.report.tables import machine
from splite_deploy.bench.result import BenchResult
from splite_deploy.device.environment import NOT_AVAILABLE
from splite_deploy.version import __version__

_MOST_POINTS = 200
"""Of a line; of more results they are thinned, the latest kept."""
_MOST_LINES = 6
"""Of a chart: as many as there are colours."""
_MOST_NOTES = 30


def fleet_page(fleet: Fleet, broken: Sequence[str] = (), limits: Sequence[str] = ()) -> str:
    """The page of a fleet.

    Args:
        fleet: What was read.
        broken: Limits that are not kept, as sentences.
        limits: The limits as they were typed.

    Raises:
        MissingDependencyError: Jinja2 is not installed.
    """
    check_available()
    template = page_template("splite_deploy.bench.report", "templates/fleet.html.j2")
    devices = [_device(name, several) for name, several in fleet.devices.items()]
    shown = len(devices)
    while True:
        page = str(
            template.render(
                version=__version__,
                devices=devices[:shown],
                others=[row for one in devices[shown:] for row in one["rows"]],
                count=len(devices),
                results=sum(len(one.results) for one in fleet.series),
                dates=_dates([result for one in fleet.series for result in one.results]),
                broken=list(broken),
                limits=list(limits),
                notes=list(fleet.notes[:_MOST_NOTES]),
                more_notes=max(0, len(fleet.notes) - _MOST_NOTES),
            )
        )
        if len(page.encode()) <= MOST_BYTES or not shown:
            return page
        shown //= 2


def _device(name: str, several: Sequence[Series]) -> dict[str, Any]:
    newest = max((one.latest for one in several), key=datetime_of)
    charts = [
        ("p50, ms", lambda result: result.stages[result.headline].p50_ms),
        ("deviation p95, px", lambda result: None if result.deviation is None else result.deviation.deviation_px.p95),
    ]
    made = (_chart(title, several, read) for title, read in charts)
    return {
        "name": name,
        "machine": machine(newest.environment),
        "rows": [_row(one) for one in several],
        "charts": [chart for chart in made if chart is not None],
        "environment": [row for row in newest.environment.rows() if row[1] != NOT_AVAILABLE],
    }


def _row(series: Series) -> dict[str, Any]:
    latest, previous = series.latest, series.previous
    now_ms = latest.stages[latest.headline].p50_ms
    before_ms = None if previous is None else previous.stages[previous.headline].p50_ms
    return {
        "device": series.device,
        "name": series.name,
        "date": f"{datetime_of(latest):%Y-%m-%d %H:%M}",
        "p50": now_ms,
        "p99": latest.stages[latest.headline].p99_ms,
        "before": before_ms,
        "change": "" if before_ms is None else f"{now_ms / before_ms - 1:+.1%}",
        "deviation": None if latest.deviation is None else latest.deviation.deviation_px.p95,
        "count": len(series.results),
        "changes": series.changes,
        "unsteady": latest.unsteady,
    }


def _chart(title: str, several: Sequence[Series], read: Callable[[BenchResult], float | None]) -> dict[str, Any] | None:
    """A figure over time; None where nothing was measured twice."""
    lines = [(one.name, _thinned(one.results, read)) for one in several]
    lines = sorted((line for line in lines if len(line[1]) > 1), key=lambda line: line[1][-1][0])[-_MOST_LINES:]
    if not lines:
        return None
    first = min(points[0][0] for _, points in lines)
    spread = max(points[-1][0] for _, points in lines) - first
    values = [value for _, points in lines for _, value in points]
    x_axis = Axis(0.0, max(spread.total_seconds(), 1.0))
    y_axis = Axis.around([*values, 0.0], zero=True)
    return {
        "title": title,
        "left_out": sum(len(_thinned(one.results, read)) > 1 for one in several) - len(lines),
        "lines": [
            {
                "name": name,
                "points": polylines(
                    [(date - first).total_seconds() for date, _ in points],
                    [value for _, value in points],
                    x_axis,
                    y_axis,
                ),
            }
            for name, points in lines
        ],
        "x_ticks": [(25.0 * quarter, _tick(first, spread * quarter / 4, spread)) for quarter in range(5)],
        "y_ticks": y_axis.ticks(),
    }


def _tick(first: datetime, after: timedelta, spread: timedelta) -> str:
    return f"{first + after:%Y-%m-%d}" if spread >= timedelta(days=4) else f"{first + after:%d %b %H:%M}"


def _thinned(
    results: Sequence[BenchResult], read: Callable[[BenchResult], float | None]
) -> list[tuple[datetime, float]]:
    points = [(datetime_of(one), value) for one in results if (value := read(one)) is not None]
    step = -(-len(points) // _MOST_POINTS)
    return points[::-1][:: max(1, step)][::-1]


def _dates(results: Sequence[BenchResult]) -> str:
    days = sorted(f"{datetime_of(one):%Y-%m-%d}" for one in results)
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
