"""Tables for people: what the command line shows of a bundle and of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from splite_deploy.bundle import Bundle, Parity, TensorSpec
from splite_deploy.spec import ModelSpec

if TYPE_CHECKING:  # the device side has no torch
    from splite_deploy.compact import Compaction


def parity_table(rows: Sequence[tuple[Parity, Sequence[str]]], spec: ModelSpec) -> RenderableType:
    """Measured differences, one row per comparison.

    Args:
        rows: Comparisons, each with the limits it breaks.
        spec: The model.
    """
    first = rows[0][0]
    title = f"{spec.name}: difference to the torch network on {first.crops} crops ({first.crops_from})"
    table = Table(title=escape(title))
    table.add_column("step", no_wrap=True)
    for heading in ("tensor max abs", "shift p50 px", "p95 px", "max px"):
        table.add_column(heading, justify="right")
    if first.depth is not None:
        table.add_column(f"depth p95 {first.depth_unit}", justify="right")
        table.add_column(f"max {first.depth_unit}", justify="right")
    table.add_column("", no_wrap=True)
    for parity, broken in rows:
        shift, depth = parity.shift_px, parity.depth
        cells = [parity.hop, f"{max(parity.tensor_max_abs.values()):.2g}"]
        cells += [f"{value:.2g}" for value in (shift.p50, shift.p95, shift.max)]
        cells += [f"{value:.2g}" for value in (depth.p95, depth.max)] if depth is not None else []
        table.add_row(*cells, "[red]over the limit[/]" if broken else "[green]✓[/]")
    return table


def compaction_tables(result: Compaction) -> tuple[RenderableType, RenderableType]:
    """Widths of every layer before and after, and what they add up to."""
    layers = Table(title="channels")
    for heading in ("layer", "kind", "in", "out"):
        layers.add_column(heading)
    for row in result.layers:
        widths = ((row.inputs_before, row.inputs_after), (row.outputs_before, row.outputs_after))
        cells = (str(before) if before == after else f"{before} -> {after}" for before, after in widths)
        layers.add_row(escape(row.name), row.kind, *cells)
    whole = Table(title="in all")
    for heading in ("", "dense", "compacted", "ratio"):
        whole.add_column(heading, justify="right" if heading else "left")
    before, after = result.parameters_before, result.parameters_after
    whole.add_row("parameters", f"{before:,}", f"{after:,}", f"{before / after:.2f}")
    whole.add_row("multiply-accumulates", f"{result.macs_before:,}", f"{result.macs_after:,}", f"{result.speed_up:.2f}")
    if result.latency is not None:
        for name in ("p50_ms", "p90_ms", "p99_ms"):
            dense, small = getattr(result.latency.dense, name), getattr(result.latency.compacted, name)
            whole.add_row(f"{name[:3]} ms, ort, one thread", f"{dense:.3f}", f"{small:.3f}", f"{dense / small:.2f}")
    whole.add_row("largest difference to zeroed channels", "", f"{result.max_difference:.1e}", "")
    return layers, whole


def bundle_tables(bundle: Bundle) -> list[RenderableType]:
    """What a bundle holds: facts, artifacts, measured differences."""
    return [_facts(bundle), _artifacts(bundle), parity_table([(p, ()) for p in bundle.manifest.parity], bundle.model)]


def _facts(bundle: Bundle) -> Table:
    spec, source = bundle.model, bundle.manifest.source
    size = f"{spec.input.width} x {spec.input.height} {spec.input.color.upper()}"
    versions = ", ".join(f"{name} {version}" for name, version in source.versions.items())
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("model", f"{spec.name}, {spec.keypoint_count} keypoints, decoder {spec.decoder.type}"),
        ("input", f"{size}, box padded by {spec.input.box_padding:g}"),
        ("checkpoint", f"{source.checkpoint}, sha256 {source.checkpoint_sha256[:16]}…"),
        ("made with", f"splite-deploy {source.tool_version}, opset {source.opset}, {versions}"),
        *(("note", note) for note in source.notes),
    ):
        facts.add_row(f"[bold]{name}[/]", escape(value))
    return facts


def _artifacts(bundle: Bundle) -> Table:
    table = Table(title="artifacts")
    for heading in ("backend", "precision", "file", "size", "inputs", "outputs", "target"):
        table.add_column(heading, justify="right" if heading == "size" else "left")
    for artifact in bundle.manifest.artifacts:
        size = f"{(bundle.path / artifact.file).stat().st_size / 1e6:.2f} MB"
        target = ", ".join(f"{name} {value}" for name, value in artifact.target.items()) or "any"
        tensors = _tensors(artifact.inputs), _tensors(artifact.outputs)
        table.add_row(artifact.backend, artifact.precision, artifact.file, size, *tensors, target)
    return table


def _tensors(specs: Sequence[TensorSpec]) -> str:
    return "\n".join(f"{t.name} {'x'.join('N' if size is None else str(size) for size in t.shape)}" for t in specs)
