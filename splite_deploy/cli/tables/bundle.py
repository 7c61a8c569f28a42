"""Tables for people: what the command line shows of a bundle and of a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from splite_deploy.bundle import Bundle, Parity, Report, TensorSpec
from splite_deploy.bundle.report import BudgetSearch, Recommendation
from splite_deploy.spec import ModelSpec

if TYPE_CHECKING:  # the device side has no torch
    from splite_deploy.compact import Compaction
    from splite_deploy.compact.alignment import Alignment, Fit, Layer
    from splite_deploy.compact.inspection import CheckpointReport
    from splite_deploy.runtime.verify import Verification


def parity_table(rows: Sequence[tuple[Parity, Sequence[str]]], spec: ModelSpec) -> RenderableType:
    """Measured differences, one row per comparison.

    Args:
        rows: Comparisons, each with the limits it breaks.
        spec: The model.
    """
    first = rows[0][0]
    reference = "torch network" if first.reference == "torch" else "given ONNX graph"
    title = f"{spec.name}: difference to the {reference} on {first.crops} crops ({first.crops_from})"
    table = Table(title=escape(title))
    table.add_column("step", no_wrap=True)
    for heading in ("tensor max abs", "shift p50 px", "p95 px", "max px"):
        table.add_column(heading, justify="right")
    if first.depth is not None:
        table.add_column(f"depth p95 {first.depth_unit}", justify="right")
        table.add_column(f"max {first.depth_unit}", justify="right")
    table.add_column("", no_wrap=True)
    for parity, broken in rows:
        shift, depth = parity.deviation_px, parity.depth
        cells = [parity.label, f"{max(parity.tensor_max_abs.values()):.2g}"]
        cells += [f"{value:.2g}" for value in (shift.p50, shift.p95, shift.max)]
        cells += [f"{value:.2g}" for value in (depth.p95, depth.max)] if depth is not None else []
        table.add_row(*cells, "[red]over the limit[/]" if broken else "[green]✓[/]")
    return table


def image_table(results: Sequence[Verification]) -> RenderableType:
    """Preprocessing on this machine: the crop of the golden image, and keypoints in pixels of that image."""
    crop = results[0].crop
    same = f"equals the recorded one (OpenCV {crop.opencv_here} here, {crop.opencv_recorded} there)"
    caption = f"The crop cut here {same if not crop.max_levels else f'differs: {crop}'}."
    table = Table(title="golden image: crop, run, back to its pixels", caption=escape(caption))
    table.add_column("artifact", no_wrap=True)
    for heading in ("deviation p50 px", "p95 px", "max px", "by the crop alone p95 px", "max px"):
        table.add_column(heading, justify="right")
    table.add_column("", no_wrap=True)
    for result in results:
        whole, crop_px = result.image.reference_px, result.image.crop_px
        cells = [f"{value:.2g}" for value in (whole.p50, whole.p95, whole.max, crop_px.p95, crop_px.max)]
        mark = "[green]✓[/]" if not crop.max_levels else "[yellow]the crop differs[/]"
        table.add_row(result.artifact.label, *cells, mark if result.image.within_limits else "[red]over the limit[/]")
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


def bundle_tables(bundle: Bundle, report: Report) -> list[RenderableType]:
    """What a bundle holds: facts, artifacts, and what was measured."""
    return [_facts(bundle, report), _artifacts(bundle), *measured_tables(report, bundle.model)]


def measured_tables(report: Report, spec: ModelSpec) -> list[RenderableType]:
    """What the export measured: differences, layers that went back to float, and which artifact to ship."""
    tables = [parity_table([(parity, ()) for parity in report.parity], spec)]
    tables += [] if report.search is None else [_search_table(report.search)]
    tables += [] if report.recommendation is None else _recommendation_tables(report.recommendation)
    return tables


def _search_table(search: BudgetSearch) -> RenderableType:
    """The layers that int8 gave back, in the order in which they went."""
    limits = ((search.max_shift_px, "px"), (search.max_shift_mm, "mm"))
    asked = " and ".join(f"{limit:g} {unit}" for limit, unit in limits if limit is not None)
    if not search.excluded:
        return f"int8 keeps the budget of {asked} without returning a layer to float."
    table = Table(title=f"int8: layers returned to float until a shift of {asked} (p95) held")
    for heading in ("layer", "kind"):
        table.add_column(heading)
    for heading in ("it alone, p95 px", "left over, p95 px", "latency p50 ms"):
        table.add_column(heading, justify="right")
    table.add_row("every layer in int8", "", "", f"{search.plain_p95_px:.3g}", f"{search.plain_latency_ms:.3f}")
    for row in search.excluded:
        shifts = f"{row.isolated_p95_px:.3g}", f"{row.accumulated_p95_px:.3g}"
        table.add_row(escape(row.layer), row.op, *shifts, f"{row.latency_ms:.3f}")
    return table


def _recommendation_tables(recommendation: Recommendation) -> list[RenderableType]:
    """The artifacts side by side, their accuracy where it was measured, and what follows."""
    first = recommendation.rows[0]
    table = Table(title="artifacts side by side", caption=escape(recommendation.measured))
    headings = ["MB", "p50 ms", "speed-up", "shift p50 px", "p95 px", "max px"]
    headings += [f"depth p95 {first.depth_unit}"] if first.depth is not None else []
    accuracy = Table(title="accuracy on the labels given")
    for one, names in (
        (table, [*headings, "peak switches"]),
        (accuracy, ["images", "mean error, % of box", "PCK@0.05", "PA-MPJPE, mm"]),
    ):
        one.add_column("artifact", no_wrap=True)
        for name in names:
            one.add_column(name, justify="right")
    for row in recommendation.rows:
        shift, found = row.deviation_px, row.accuracy
        label = f"[bold]{row.label}[/]" if row.label == recommendation.ship else row.label
        cells = [f"{row.size_bytes / 1e6:.2f}", f"{row.p50_ms:.3f}"]
        cells += ["" if row.speed_up is None else f"{row.speed_up:.2f}"]
        cells += [f"{value:.2g}" for value in (shift.p50, shift.p95, shift.max)]
        cells += [f"{row.depth.p95:.2g}"] if row.depth is not None else []
        table.add_row(label, *cells, str(row.peak_switches))
        if found is not None:
            aligned = "" if found.pa_mpjpe_mm is None else f"{found.pa_mpjpe_mm:.2f}"
            figures = f"{found.mean_error_box_pct:.2f}", f"{found.pck_05:.3f}"
            accuracy.add_row(label, str(found.images), *figures, aligned)
    return [table, *([accuracy] if first.accuracy is not None else ()), escape(recommendation.reason)]


def checkpoint_tables(report: CheckpointReport) -> list[RenderableType]:
    """What a checkpoint holds: facts, then its widths."""
    header = ", ".join(f"{key} {value}" for key, value in (report.compacted or {}).items() if key != "input")
    kinds = Counter(layer.kind for layer in report.alignment.layers)
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("checkpoint", f"{report.file}, {report.format}, sha256 {report.sha256[:16]}…"),
        ("size", f"{report.size_bytes / 1e6:.2f} MB, {report.parameters:,} parameters"),
        *([("compacted", header)] if header else ()),
        ("layers", f"{kinds.total()}: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}"),
        *(("note", note) for note in report.notes),
    ):
        facts.add_row(f"[bold]{name}[/]", escape(value))
    hint = "To get widths that fit: splite-deploy compact DENSE --round-to 8 ... for fp16, 16 or 32 for int8."
    avoidable = any(not misfit.fixed for fit in report.alignment.fits for misfit in fit.misfits)
    return [facts, *alignment_tables(report.alignment), *([hint] if avoidable else ())]


def width_tables(
    bundle: Bundle, *, timed: bool, progress: Callable[[str], None] = lambda message: None
) -> list[RenderableType]:
    """The widths of a bundle; where the host's packages are not installed, one line that says so.

    Args:
        bundle: The bundle.
        timed: Whether to time its layers; then nothing may be missing.
        progress: Told each step as it begins.
    """
    try:
        from splite_deploy.compact.inspection import inspect_bundle
    except ModuleNotFoundError as err:
        if timed:
            raise
        install = "pip install 'splite-deploy[export]'"
        return [escape(f"The widths are not judged: {err.name} is not installed here. Install it: {install}.")]
    if not timed and all(artifact.label != "ort fp32" for artifact in bundle.manifest.artifacts):
        return ["The widths are not judged: they are read from the fp32 graph, which this bundle does not hold."]
    return alignment_tables(inspect_bundle(bundle, timed=timed, progress=progress))


def alignment_tables(alignment: Alignment) -> list[RenderableType]:
    """Layers whose widths hardware pads, what that costs, and what was measured."""
    fits = alignment.fits
    misfits = [{misfit.layer: misfit for misfit in fit.misfits} for fit in fits]
    if not any(misfits):
        return [f"Every width fits multiples of {', '.join(_target(fit) for fit in fits)}."]
    layers = Table(
        title="widths that hardware pads: predicted cost of the padding",
        caption="Widths with a reason in brackets are fixed: they cannot be changed.",
    )
    layers.add_column("layer", overflow="fold")
    layers.add_column("kind", no_wrap=True)
    for heading in ("in -> out", *(f"to {_target(fit)}" for fit in fits)):
        layers.add_column(heading, justify="right", no_wrap=True)
    for layer in alignment.layers:
        padded = [held.get(layer.name) for held in misfits]
        if any(padded):
            cells = (f"{m.inputs} -> {m.outputs} {m.cost:+.0%}" if m is not None else "fits" for m in padded)
            layers.add_row(escape(layer.name), layer.kind, _widths(layer), *cells)
    return [layers, _rounding_up(alignment), *([_timings(alignment)] if alignment.timings else ())]


def _target(fit: Fit) -> str:
    return f"{fit.multiple} ({fit.precision})"


def _widths(layer: Layer) -> str:
    """Both widths; one that cannot change says why."""
    sides = ((layer.inputs, layer.fixed_inputs), (layer.outputs, layer.fixed_outputs))
    return " -> ".join(f"{width} ({reason})" if reason else str(width) for width, reason in sides)


def _rounding_up(alignment: Alignment) -> Table:
    """The whole network: what its padding costs, and what it would be if it filled the padding itself."""
    table = Table(title="in all, and what rounding up every width that is not fixed would change")
    for heading in ("", "layers padded", "predicted cost", "parameters", "MACs", "MB in fp32"):
        table.add_column(heading, justify="right" if heading else "left")
    now = alignment.now
    macs = "unknown" if now.macs is None else f"{now.macs:,}"
    table.add_row("as it is", "", "", f"{now.parameters:,}", macs, f"{now.megabytes:.2f}")
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
    """Medians, and their sums."""
    table = Table(
        title="measured: each layer alone, p50 ms",
        caption="On this CPU: ONNX Runtime, fp32, one thread, at widths rounded up. A layer alone pays for a change of "
        "layout that a network pays once: thin layers of many pixels look worse than they are. What fp16 and int8 gain "
        "on other hardware is only predicted, above.",
    )
    table.add_column("layer")
    for heading in ("as it is", *(f"to {fit.multiple}" for fit in alignment.fits)):
        table.add_column(heading, justify="right", no_wrap=True)
    total = [0.0] * (len(alignment.fits) + 1)
    for timing in alignment.timings:
        taken = [timing.now.p50_ms, *(stats.p50_ms for stats in timing.rounded.values())]
        same = [stats is timing.now for stats in timing.rounded.values()]
        total = [so_far + ms for so_far, ms in zip(total, taken, strict=True)]
        cells = ("" if kept else _change(ms, taken[0]) for ms, kept in zip(taken[1:], same, strict=True))
        table.add_row(escape(timing.layer), f"{taken[0]:.3f}", *cells)
    table.add_section()
    table.add_row("in all", f"{total[0]:.3f}", *(_change(ms, total[0]) for ms in total[1:]))
    return table


def _change(ms: float, before_ms: float) -> str:
    return f"{ms:.3f} {ms / before_ms - 1:+.0%}"


def _facts(bundle: Bundle, report: Report) -> Table:
    spec, source = bundle.model, bundle.manifest.source
    size = f"{spec.input.width} x {spec.input.height} {spec.input.color.upper()}"
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("model", f"{spec.name}, {spec.keypoint_count} keypoints, decoder {spec.decoder.type}"),
        ("input", f"{size}, box padded by {spec.input.box_padding:g}"),
        ("checkpoint", f"{source.checkpoint}, sha256 {source.checkpoint_sha256[:16]}…"),
        ("made with", f"splite-deploy {source.tool_version}, opset {report.opset}, {versions}"),
        *(("note", note) for note in report.notes),
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
