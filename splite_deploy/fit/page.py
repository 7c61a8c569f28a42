"""The page of a search: one self-contained file, without scripts, as that of `bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from splite_deploy.bench.report.charts import Axis, polylines, stacked
from splite_deploy.bench.report.html import page_template
from splite_deploy.fit.choice import Choice
from splite_deploy.fit.driver import FailedTry
from splite_deploy.fit.output import Shipped
from splite_deploy.fit.score import UNITS
from splite_deploy.fit.search import REFERENCE, Outcome, Point
from splite_deploy.version import __version__

_SAID = {
    "labels": "mean keypoint errors on the labels, percent of the box",
    "parent": "how far keypoints lie from the parent's, 95th percentile, pixels of its input: there are no labels",
}


def page(
    title: str,
    outcome: Outcome,
    shipped: Sequence[Shipped],
    budget_ms: float | None,
    failures: Sequence[FailedTry],
    facts: Sequence[tuple[str, str]],
) -> str:
    """The page as HTML.

    Args:
        title: What was searched, for the head.
        outcome: Of the search.
        shipped: What each device gets.
        budget_ms: How long a frame may take.
        failures: All tries that failed.
        facts: What else is worth knowing of the search, by name.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(one.name for one in outcome.points), 1)}
    rungs = sorted({steps for one in outcome.networks.values() for steps in one.rungs})
    predictions = predictions_of(outcome)
    template = page_template("splite_deploy.fit", "page.html.j2")
    rendered = template.render(
        version=__version__,
        title=title,
        unit=UNITS[outcome.against],
        error_said=_SAID[outcome.against],
        parent_error=outcome.parent_error,
        budget_ms=budget_ms,
        notes=outcome.notes,
        devices=[_device(one, outcome, numbers, budget_ms) for one in shipped],
        rows=[_row(point, numbers, shipped) for point in outcome.points],
        rungs=rungs,
        networks=[
            {
                "name": name,
                "errors": [one.rungs.get(steps) for steps in rungs],
                "fate": one.fate,
                "reason": one.reason,
            }
            for name, one in outcome.networks.items()
        ],
        predictions=predictions,
        prediction_said=_off(predictions),
        unmeasured=outcome.unmeasured,
        failures=failures,
        facts=facts,
    )
    return str(rendered)


def predictions_of(outcome: Outcome) -> list[dict[str, Any]]:
    """What was predicted of each network on each device, beside what was measured where it was."""
    measured = {(one.network, one.place): one.measured["p50_ms"] for one in outcome.points if one.variant == REFERENCE}
    return [
        {
            "name": name,
            "place": place,
            "predicted_ms": predicted_ms,
            "measured_ms": (found := measured.get((name, place))),
            "off_pct": None if found is None else 100 * (predicted_ms / found - 1),
        }
        for name, one in outcome.networks.items()
        for place, predicted_ms in one.predicted_ms.items()
        if predicted_ms is not None
    ]


def _off(predictions: Sequence[Mapping[str, Any]]) -> str:
    off = [abs(one["off_pct"]) for one in predictions if one["off_pct"] is not None]
    return f"In the median of {len(off)} they are off by {np.median(off):.0f} %." if off else ""


def _row(point: Point, numbers: Mapping[str, int], shipped: Sequence[Shipped]) -> dict[str, Any]:
    choice = next(one.choice for one in shipped if one.choice.place == point.place)
    remarks = [*point.measured["against"], *([] if point.measured["stable"] else ["its timing was unsteady"])]
    return {
        "number": numbers[point.name],
        "name": point.name,
        "place": point.place,
        "error": point.error,
        "p50_ms": point.measured["p50_ms"],
        "p99_ms": point.measured["p99_ms"],
        "kind": _kind(point, choice),
        "ship": point is choice.ship,
        "remarks": "; ".join(remarks),
    }


def _kind(point: Point, choice: Choice) -> str:
    return "best" if point.name in choice.front else "dominated"


def _device(one: Shipped, outcome: Outcome, numbers: Mapping[str, int], budget_ms: float | None) -> dict[str, Any]:
    choice = one.choice
    points = [point for point in outcome.points if point.place == choice.place]
    return {
        "place": choice.place,
        "reason": choice.reason,
        "bundle": "" if one.bundle is None else one.bundle.name,
        "again": one.again,
        "machine": next((point.measured["machine"] for point in points), ""),
        "chart": _chart(points, choice, numbers, budget_ms) if points else None,
    }


def _chart(
    points: Sequence[Point], choice: Choice, numbers: Mapping[str, int], budget_ms: float | None
) -> dict[str, Any]:
    times, errors = [one.measured["p50_ms"] for one in points], [one.error for one in points]
    x_axis = Axis.around(times, margin=0.1)
    y_axis = Axis.around([*errors, max(errors) + 0.4 * (max(errors) - min(errors))], margin=0.1)  # room for labels
    places = [(x_axis.percent(x), y_axis.percent(y)) for x, y in zip(times, errors, strict=True)]
    levels = stacked(places)
    best = sorted((one for one in points if one.name in choice.front), key=lambda one: one.measured["p50_ms"])
    corners: list[tuple[float, float]] = []
    for one in best:
        if corners:
            corners.append((one.measured["p50_ms"], corners[-1][1]))
        corners.append((one.measured["p50_ms"], one.error))
    within = budget_ms is not None and x_axis.low < budget_ms < x_axis.high
    return {
        "x_ticks": x_axis.ticks(),
        "y_ticks": y_axis.ticks(),
        "logarithmic": x_axis.logarithmic,
        "budget": x_axis.percent(budget_ms) if within and budget_ms is not None else None,
        "front": polylines([x for x, _ in corners], [y for _, y in corners], x_axis, y_axis),
        "points": [
            {
                "x": x,
                "y": y,
                "level": level,
                "number": numbers[point.name],
                "kind": f"{_kind(point, choice)}{' ship' if point is choice.ship else ''}",
                "text": f"{point.name}: {point.error:.3g}, {point.measured['p50_ms']:.3g} ms",
            }
            for point, (x, y), level in zip(points, places, levels, strict=True)
        ],
    }
