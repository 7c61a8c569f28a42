"""Tables of the layers of artifacts: by types, by kind, and one by one."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from splite_deploy.bench.profile import LayerGroup, float_layers, histogram, total_us, types_histogram
from splite_deploy.bundle import Artifact, Manifest, Report
from splite_deploy.bundle.report import Layer
from splite_deploy.plain_table import Table
from splite_deploy.runtime.backends import all_backends

_NAMED = 6  # layers that a line names


def types_tables(manifest: Manifest, report: Report) -> list[RenderableType]:
    """The types of each artifact's layers, a row for each artifact; nothing where none were recorded."""
    recorded = _recorded(manifest, report)
    if not recorded:
        return []
    table = Table(title="types of the layers", caption=_caption(manifest, report))
    table.add_column("artifact", no_wrap=True)
    table.add_column("layers", justify="right")
    table.add_column("types: count and share of the time")
    for artifact, layers in recorded:
        table.add_row(artifact.label, str(len(layers)), ", ".join(map(_count, types_histogram(layers))))
    return [table, *_float_lines(manifest, report)]


def histogram_tables(manifest: Manifest, report: Report) -> list[RenderableType]:
    """The layers of each artifact by kind and types; nothing where none were recorded."""
    recorded = _recorded(manifest, report)
    if not recorded:
        return []
    table = _table("layers by kind and types", ("artifact", "kind", "types"), ("count", "time us", "share"))
    table.caption = _caption(manifest, report)
    for artifact, layers in recorded:
        for index, group in enumerate(histogram(layers)):
            figures = str(group.count), _us(group.time_us), _percent(group.share)
            table.add_row("" if index else artifact.label, group.kind, group.types, *figures)
        table.add_section()
    return [table, *_float_lines(manifest, report)]


def layer_tables(manifest: Manifest, report: Report) -> list[RenderableType]:
    """Every layer of each artifact in the order of execution; nothing where none were recorded."""
    tables: list[RenderableType] = []
    for artifact, layers in _recorded(manifest, report):
        table = _table(f"{artifact.label}: {len(layers)} layers", ("", "layer", "kind", "types"), ("time us", "share"))
        total = total_us(layers)
        for index, layer in enumerate(layers):
            share = layer.time_us / total if total and layer.time_us is not None else None
            names = layer.name, layer.kind, layer.types
            table.add_row(str(index + 1), *names, _us(layer.time_us), _percent(share))
        table.add_section()
        table.add_row("", "total", "", "", _us(total), "")
        tables.append(table)
    return [*tables, _caption(manifest, report), *_float_lines(manifest, report)] if tables else []


def _recorded(manifest: Manifest, report: Report) -> list[tuple[Artifact, Sequence[Layer]]]:
    """The artifacts whose layers were recorded."""
    return [(one, report.layers[one.label]) for one in manifest.artifacts if one.label in report.layers]


def _float_lines(manifest: Manifest, report: Report) -> list[RenderableType]:
    """A line for each int8 artifact: the layers that work in floating point all the same."""
    recorded = _recorded(manifest, report)
    return [f"{one.label}: {_float_line(layers)}" for one, layers in recorded if one.precision == "int8"]


def _float_line(layers: Sequence[Layer]) -> str:
    floating = sorted(float_layers(layers), key=lambda one: -(one.time_us or 0))
    if not floating:
        return f"none of {len(layers)} layers works in float, but for conversions."
    whole, taken = total_us(layers), total_us(floating)
    share = f", {_percent(taken / whole)} of the time" if whole and taken is not None else ""
    names = ", ".join(f"{one.name} ({one.kind})" for one in floating[:_NAMED])
    more = f" and {len(floating) - _NAMED} more" if len(floating) > _NAMED else ""
    return f"{len(floating)} of {len(layers)} layers work in float{share}: {names}{more}."


def _caption(manifest: Manifest, report: Report) -> str:
    """How the layers recorded were found."""
    names = {artifact.backend for artifact, _ in _recorded(manifest, report)}
    backends = [one for one in all_backends().values() if one.name in names and one.layers_from]
    return " ".join(f"{one.label}: {one.layers_from}" for one in backends)


def _count(group: LayerGroup) -> str:
    share = "" if group.share is None else f" ({_percent(group.share)})"
    return f"{group.types} {group.count}{share}"


def _table(title: str, names: Sequence[str], figures: Sequence[str]) -> Table:
    table = Table(title=title)
    for heading in names:
        table.add_column(heading, overflow="fold", no_wrap=heading in ("", "artifact"))
    for heading in figures:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _us(time_us: float | None) -> str:
    return "" if time_us is None else f"{time_us:,.0f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
