"""Tables of a checkpoint: what it holds, its channel widths, and what compaction made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import RenderableType

from splite_deploy.bundle import Bundle
from splite_deploy.plain_table import Table, plain

if TYPE_CHECKING:  # the device side has no torch
    from splite_deploy.compact import Compaction
    from splite_deploy.compact.alignment import Alignment, Fit, WeightedLayer
    from splite_deploy.compact.inspection import CheckpointReport


def compaction_tables(result: Compaction) -> tuple[RenderableType, RenderableType]:
    """Widths of every layer before and after, and totals."""
    layers = Table(title="channels")
    for heading in ("layer", "kind", "in", "out"):
        layers.add_column(heading)
    for row in result.layers:
        widths = ((row.inputs_before, row.inputs_after), (row.outputs_before, row.outputs_after))
        cells = (str(before) if before == after else f"{before} -> {after}" for before, after in widths)
        layers.add_row(row.name, row.kind, *cells)
    totals = Table(title="totals")
    for heading in ("", "dense", "compacted", "ratio"):
        totals.add_column(heading, justify="right" if heading else "left")
    before, after = result.parameters_before, result.parameters_after
    totals.add_row("parameters", f"{before:,}", f"{after:,}", f"{before / after:.2f}")
    totals.add_row(
        "multiply-accumulates", f"{result.macs_before:,}", f"{result.macs_after:,}", f"{result.speed_up:.2f}"
    )
    if result.latency is not None:
        for name in ("p50_ms", "p90_ms", "p99_ms"):
            dense, small = getattr(result.latency.dense, name), getattr(result.latency.compacted, name)
            totals.add_row(f"{name[:3]} ms, ort, one thread", f"{dense:.3f}", f"{small:.3f}", f"{dense / small:.2f}")
    totals.add_row("largest difference to zeroed channels", "", f"{result.max_difference:.1e}", "")
    return layers, totals


def checkpoint_tables(report: CheckpointReport, *, widths: bool) -> list[RenderableType]:
    """The content of a checkpoint: facts, then, where they are wanted, its widths."""
    header = ", ".join(f"{key} {value}" for key, value in (report.compacted or {}).items() if key != "input")
    kinds = Counter(layer.kind for layer in report.alignment.layers)
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("checkpoint", f"{report.file}, {report.format}, sha256 {report.sha256[:16]}..."),
        ("size", f"{report.size_bytes / 1e6:.2f} MB, {report.parameters:,} parameters"),
        *([("compacted", header)] if header else ()),
        ("layers", f"{kinds.total()}: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}"),
        *(("note", note) for note in report.notes),
    ):
        facts.add_row(plain(name, "bold"), value)
    if not widths:
        return [facts]
    hint = "Widths without padding: splite-deploy compact DENSE --round-to 8 ... for fp16, 16 or 32 for int8."
    avoidable = any(not misfit.fixed for fit in report.alignment.fits for misfit in fit.misfits)
    return [facts, *alignment_tables(report.alignment), *([hint] if avoidable else ())]


def width_tables(
    bundle: Bundle, *, timed: bool, progress: Callable[[str], None] = lambda message: None
) -> list[RenderableType]:
    """The channel widths of a bundle; one line where it does not tell them.

    Args:
        bundle: The bundle.
        timed: Whether to time its layers.
        progress: Called with each step as it begins.
    """
    from splite_deploy.compact.inspection import inspect_bundle

    if not timed and all(artifact.label != "ort fp32" for artifact in bundle.manifest.artifacts):
        return [
            "The channel widths are not checked: they are read from the fp32 graph, which this bundle does not hold."
        ]
    return alignment_tables(inspect_bundle(bundle, timed=timed, progress=progress))


def alignment_tables(alignment: Alignment) -> list[RenderableType]:
    """Layers whose widths hardware pads, the predicted cost, and measured times."""
    fits = alignment.fits
    misfits = [{misfit.layer: misfit for misfit in fit.misfits} for fit in fits]
    if not any(misfits):
        return [f"Every channel width is a multiple of {', '.join(_target(fit) for fit in fits)}."]
    layers = Table(
        title="channel widths that hardware pads, and the predicted cost",
        caption="Widths with a reason in brackets are fixed: they cannot be changed.",
    )
    layers.add_column("layer", overflow="fold")
    layers.add_column("kind", no_wrap=True)
    for heading in ("in -> out", *(f"to {_target(fit)}" for fit in fits)):
        layers.add_column(heading, justify="right", no_wrap=True)
    for layer in alignment.layers:
        padded = [found.get(layer.name) for found in misfits]
        if any(padded):
            cells = (f"{m.inputs} -> {m.outputs} {m.cost:+.0%}" if m is not None else "fits" for m in padded)
            layers.add_row(layer.name, layer.kind, _widths(layer), *cells)
    return [layers, _rounding_up(alignment), *([_timings(alignment)] if alignment.timings else ())]


def _target(fit: Fit) -> str:
    return f"{fit.multiple} ({fit.precision})"


def _widths(layer: WeightedLayer) -> str:
    """Both widths, with the reason for one that cannot change."""
    sides = ((layer.inputs, layer.fixed_inputs), (layer.outputs, layer.fixed_outputs))
    return " -> ".join(f"{width} ({reason})" if reason else str(width) for width, reason in sides)


def _rounding_up(alignment: Alignment) -> Table:
    """The whole network: the cost of its padding, and its size with widths rounded up."""
    table = Table(title="totals, and the change if every width that is not fixed were rounded up")
    for heading in ("", "layers padded", "predicted cost", "parameters", "MACs", "MB in fp32"):
        table.add_column(heading, justify="right" if heading else "left")
    now = alignment.now
    macs = "unknown" if now.macs is None else f"{now.macs:,}"
    table.add_row("now", "", "", f"{now.parameters:,}", macs, f"{now.megabytes:.2f}")
    for fit in alignment.fits:
        fixed = sum(misfit.fixed for misfit in fit.misfits)
        padded = f"{len(fit.misfits)}" + (f" ({fixed} fixed)" if fixed else "")
        cost = "unknown" if fit.cost is None else f"{fit.cost:+.1%}"
        wide = fit.rounded
        table.add_row(
            f"to {_target(fit)}",
            padded,
            cost,
            f"{wide.parameters:,} {wide.parameters / now.parameters - 1:+.1%}",
            f"{wide.macs:,} {wide.macs / now.macs - 1:+.1%}" if wide.macs and now.macs else "unknown",
            f"{wide.megabytes:.2f}",
        )
    return table


def _timings(alignment: Alignment) -> Table:
    """Median times, and their sums."""
    table = Table(
        title="measured: each layer alone, p50 ms",
        caption="On this CPU: ONNX Runtime, fp32, one thread. Each layer alone pays for a change of layout that a "
        "network pays once, so thin layers of many pixels look slower than they are. The gain of fp16 and int8 "
        "on other "
        "hardware is only predicted, above.",
    )
    table.add_column("layer")
    for heading in ("now", *(f"to {fit.multiple}" for fit in alignment.fits)):
        table.add_column(heading, justify="right", no_wrap=True)
    total = [0.0] * (len(alignment.fits) + 1)
    for timing in alignment.timings:
        times_ms = [timing.now.p50_ms, *(stats.p50_ms for stats in timing.rounded.values())]
        same = [stats is timing.now for stats in timing.rounded.values()]
        total = [so_far + ms for so_far, ms in zip(total, times_ms, strict=True)]
        cells = ("" if equal else _change(ms, times_ms[0]) for ms, equal in zip(times_ms[1:], same, strict=True))
        table.add_row(timing.layer, f"{times_ms[0]:.3f}", *cells)
    table.add_section()
    table.add_row("total", f"{total[0]:.3f}", *(_change(ms, total[0]) for ms in total[1:]))
    return table


def _change(ms: float, before_ms: float) -> str:
    return f"{ms:.3f} {ms / before_ms - 1:+.0%}"
