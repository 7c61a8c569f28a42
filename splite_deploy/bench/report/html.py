"""Results as one self-contained HTML page: no scripts, nothing loaded, for desk, phone, dark and paper.

It begins with what to ship and a picture of it, then has one table, and after that what the table is made of. The
layers come last.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from splite_deploy.bench.recommend import Recommendation, common_stage, find_alike, recommend_of, source_of
from splite_deploy.bench.report import sections
from splite_deploy.bench.report.overview import (
    columns_of,
    common_conditions,
    explained,
    groups_of,
    marks_of,
    milliseconds,
    names_on_page,
    opening_of,
)
from splite_deploy.bench.report.pictures import Picture
from splite_deploy.bench.report.sentences import cold_start, under_streams
from splite_deploy.bench.report.side_by_side import limits_broken
from splite_deploy.bench.report.tables import machine
from splite_deploy.bench.result import BenchResult
from splite_deploy.errors import MissingDependencyError, UsageError
from splite_deploy.text import shown
from splite_deploy.version import __version__

MOST_BYTES = 1_000_000
"""Of the page. Pictures that would make it larger are left out, and counted."""
_FIGURE_BYTES = 600
"""What surrounds a picture."""


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


@dataclass(frozen=True)
class _Shown:
    """A picture on the page.

    Attributes:
        number: Of its result.
        name: Of its result.
        picture: What it shows.
        jpeg: In base64.
    """

    number: int
    name: str
    picture: Picture
    jpeg: str


def html_page(
    results: Sequence[BenchResult],
    pictures: Mapping[int, Sequence[Picture]] | None = None,
    recommendation: Recommendation | None = None,
    *,
    compared: Sequence[str] = (),
    left_out: Sequence[str] = (),
) -> str:
    """The page of some results.

    Args:
        results: What was measured; one machine or several.
        pictures: By index of the result, if there are any.
        recommendation: Which of the results to ship; None is `splite_deploy.bench.recommend.recommend_of`, which knows
            no budget.
        compared: The outcome of a comparison as sentences, see `splite_deploy.bench.compare.outcomes`; it takes the
            place of a recommendation.
        left_out: What could not be measured and why, each as a sentence.

    Raises:
        UsageError: There is no result.
        MissingDependencyError: Jinja2 is not installed.
    """
    if not results:
        raise UsageError("There is no result to show.", hint="Measure one with 'splite-deploy bench'.")
    check_available()
    if recommendation is None and not compared:
        recommendation = recommend_of(results)
    template = page_template("splite_deploy.bench.report", "templates/report.html.j2")
    content = _content(results, recommendation, compared, left_out)
    first, others = _in_order(pictures or {}, content["names"], content["opening"].index)
    room = MOST_BYTES - len(template.render(content, first=None, pictures=[], pictures_left_out=0).encode())
    kept: list[_Shown] = []
    for one in [*([] if first is None else [first]), *others]:
        room -= len(one.jpeg) + _FIGURE_BYTES + 2 * len(one.picture.name) + len(one.name)
        if room >= 0:
            kept.append(one)
    below = [one for one in others if one in kept]
    page = template.render(
        content,
        first=first if first in kept else None,
        pictures=below,
        pictures_left_out=len(others) - len(below),
    )
    return str(page)


def page_template(package: str, file: str) -> Any:
    """A template of Jinja for a page: strict, and safe for texts of others; ``style`` is the style of all pages.

    Args:
        package: Where the file is.
        file: Its path there.
    """
    from jinja2 import Environment as Jinja
    from jinja2 import StrictUndefined
    from markupsafe import Markup

    jinja = Jinja(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, finalize=_safe)
    jinja.filters["ms"] = milliseconds
    style = resources.files("splite_deploy.bench.report").joinpath("templates/page.css").read_text(encoding="utf-8")
    jinja.globals["style"] = Markup(style)
    return jinja.from_string(resources.files(package).joinpath(file).read_text(encoding="utf-8"))


def _content(
    results: Sequence[BenchResult],
    recommendation: Recommendation | None,
    compared: Sequence[str],
    left_out: Sequence[str],
) -> dict[str, Any]:
    names, opening = names_on_page(results), opening_of(results, recommendation, compared)
    budget = None if recommendation is None else recommendation.budget
    budget_ms = None if budget is None else budget.limit_ms
    stage, columns = common_stage(results), columns_of(results, recommendation)
    rows = [
        {
            "number": number,
            "name": name,
            "result": one,
            "marks": marks_of(one),
            "ship": number - 1 == opening.index,
            "kept": None if budget_ms is None else one.stages[stage].p99_ms <= budget_ms,
            "cells": [column.cells[number - 1] for column in columns],
        }
        for number, (name, one) in enumerate(zip(names, results, strict=True), 1)
    ]
    numbered = list(enumerate(zip(names, results, strict=True), 1))
    return {
        "version": __version__,
        "title": ", ".join(dict.fromkeys(one.model for one in results)),
        "machines": list(dict.fromkeys(machine(one.environment) for one in results)),
        "dates": _dates(results),
        "sources": list(dict.fromkeys(map(source_of, results))),
        "conditions": common_conditions(results),
        "opening": opening,
        "left_out": list(left_out),
        "names": names,
        "rows": rows,
        "columns": columns,
        "groups": groups_of(columns),
        "explained": explained(results),
        "broken": limits_broken(results),
        "distributions": sections.distributions(results, names, budget_ms),
        "stages": sections.stages(results, names),
        "tradeoff": sections.tradeoff(results, names, opening.index, budget_ms) if find_alike(results) else None,
        "resources": sections.resources(results, names),
        "cold": cold_start(results[0]) if len(results) == 1 else [],
        "streams": [(number, name, said) for number, (name, one) in numbered if (said := under_streams(one))],
        "sustained": [sections.sustained(number, name, one) for number, (name, one) in numbered if one.sustained],
        "layers": sections.layers(results, names, opening.index),
        "environments": sections.environments(results),
        "manifests": list(
            dict.fromkeys((one.bundle, one.manifest_sha256) for one in results if one.manifest_sha256 is not None)
        ),
    }


def _in_order(
    pictures: Mapping[int, Sequence[Picture]], names: Sequence[str], ship: int | None
) -> tuple[_Shown | None, list[_Shown]]:
    """The picture at the top, and those below: all of what to ship, then the worst of each other result."""
    order = sorted(pictures, key=lambda index: (index != ship, index))
    first, others = None, []
    for position, index in enumerate(order):
        number, name = index + 1, names[index]
        for one in sorted(pictures[index], key=lambda picture: picture.kind != "median"):
            if first is None and one.kind == "median":
                first = _Shown(number, name, one, base64.b64encode(one.ours).decode())
            if position == 0 or one.kind == "worst":
                others.append(_Shown(number, name, one, base64.b64encode(one.both).decode()))
    return first, others


def _safe(value: Any) -> Any:
    """Whatever the page shows: texts of others without control characters; Jinja escapes what HTML would obey."""
    return shown(value) if type(value) is str else value


def _dates(results: Sequence[BenchResult]) -> str:
    days = sorted(one.date_utc[:10] for one in results)
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
