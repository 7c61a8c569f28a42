"""What was built, for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from splite_deploy.bench.profile import types_histogram
from splite_deploy.bundle import REPORT, Artifact, Bundle
from splite_deploy.runtime.backends.trt.module import FLAVOURS

_ROADS = {"weak": "weak typing: its flags", "strong": "strong typing: the graph"}  # what decides on types
_APART = ("flavour", "tensorrt", "typing", "build_s")  # facts that have columns of their own, or are part of one


def engine_table(bundle: Bundle, engines: Sequence[Artifact]) -> Table:
    """Engines of a bundle: road, time, size, target, and their layers by the types that they work on."""
    layers = bundle.report().layers if (bundle.path / REPORT).is_file() else {}
    table = Table(title="engines")
    for heading in ("engine", "built by", "time", "size", "target", "layers"):
        table.add_column(heading, justify="right" if heading in ("time", "size") else "left")
    for engine in engines:
        target = engine.target
        groups = types_histogram(layers.get(engine.label, ()))
        table.add_row(
            f"{engine.precision}\n{escape(engine.file)}",
            f"{FLAVOURS[target['flavour']]} {target['tensorrt']}\n{_ROADS[target['typing']]}",
            f"{target['build_s']} s",
            f"{(bundle.path / engine.file).stat().st_size / 1e6:.2f} MB",
            "\n".join(f"{name} {escape(value)}" for name, value in target.items() if name not in _APART),
            "\n".join(f"{group.count} {group.types}" for group in groups) or "not read back: no GPU here",
        )
    return table
