"""Tables of a bundle: what it holds, how its artifacts compare, and engines that were built."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType

from splite_deploy.bench.profile import types_histogram
from splite_deploy.bundle import REPORT, Artifact, Bundle, Failure, Parity, Report, TensorSpec
from splite_deploy.bundle.report import BoxAccuracy, LayerSearch, Recommendation
from splite_deploy.cli.console import tick
from splite_deploy.plain_table import Table, plain
from splite_deploy.runtime.backends.trt.module import FLAVOURS
from splite_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from splite_deploy.runtime.verify import Verification

_TYPING_MODES = {"weak": "weakly typed: flags decide", "strong": "strongly typed: the graph decides"}
_REFERENCES = {
    "torch": "the torch network",
    "onnx": "the imported ONNX graph",
    "tflite": "the imported TFLite file",
}
_SHOWN = 6  # layers of a search; more are for those who ask
_APART = ("flavour", "tensorrt", "typing", "build_s")  # facts that have columns of their own, or are part of one


def parity_table(rows: Sequence[tuple[Parity, Sequence[str]]], spec: ModelSpec) -> RenderableType:
    """Measured differences, one row per comparison.

    Args:
        rows: Comparisons, each with the limits it breaks.
        spec: The model.
    """
    first = rows[0][0]
    reference = _REFERENCES.get(first.reference, first.reference)
    title = f"{spec.name}: difference to {reference} on {first.crops} crops ({first.crops_from})"
    table = Table(title=title)
    table.add_column("step", no_wrap=True)
    for heading in ("tensor max abs", "deviation p50 px", "p95 px", "max px"):
        table.add_column(heading, justify="right")
    if first.depth is not None:
        table.add_column(f"depth p95 {first.depth_unit}", justify="right")
        table.add_column(f"max {first.depth_unit}", justify="right")
    for head in first.heads:
        table.add_column(f"{head} p95", justify="right")
        table.add_column("max", justify="right")
    if first.people is not None:
        for heading in ("score max", "people"):
            table.add_column(heading, justify="right")
        if any(parity.people is not None and parity.people.boxes is not None for parity, _ in rows):
            for heading in ("box IoU p5", "centre p95 %"):
                table.add_column(heading, justify="right")
        table.caption = "People: found by the reference, - those of them that are missed, + those that are new."
        if not first.people.found:
            table.caption = "It finds no people there: its candidates of the highest scores are compared."
    table.add_column("", no_wrap=True)
    for parity, broken in rows:
        deviation, depth = parity.deviation_px, parity.depth
        cells = [parity.label, f"{max(parity.tensor_max_abs.values()):.2g}"]
        cells += [f"{value:.2g}" for value in (deviation.p50, deviation.p95, deviation.max)]
        cells += [f"{value:.2g}" for value in (depth.p95, depth.max)] if depth is not None else []
        cells += [f"{value:.2g}" for away in parity.heads.values() for value in (away.p95, away.max)]
        if (people := parity.people) is not None:
            lost = "".join(f" {sign}{count}" for sign, count in (("-", people.missed), ("+", people.new)) if count)
            cells += [f"{people.score_max:.2g}", f"{people.found}{lost}"]
            if (boxes := people.boxes) is not None:
                cells += [f"{boxes.iou_p05:.3f}", f"{boxes.centre_box_pct.p95:.2g}"]
            elif len(cells) < len(table.columns) - 1:
                cells += ["", ""]
        table.add_row(*cells, plain("over the limit", "red") if broken else tick(sys.stdout))
    return table


def image_table(results: Sequence[Verification]) -> RenderableType:
    """Preprocessing on this machine: the crop of the golden image, and keypoints in pixels of that image."""
    crop = results[0].crop
    same = f"equals the recorded one (OpenCV {crop.opencv_here} here, {crop.opencv_recorded} there)"
    caption = f"This machine's crop {same if not crop.max_levels else f'differs: {crop}'}."
    table = Table(title="golden image: keypoints in its pixels, preprocessing included", caption=caption)
    table.add_column("artifact", no_wrap=True)
    for heading in ("deviation p50 px", "p95 px", "max px", "by the crop alone p95 px", "max px"):
        table.add_column(heading, justify="right")
    table.add_column("crop", no_wrap=True)  # what the mark judges: the table above judges the rest
    for result in results:
        reference_px, crop_px = result.image.reference_px, result.image.crop_px
        cells = [
            f"{value:.2g}" for value in (reference_px.p50, reference_px.p95, reference_px.max, crop_px.p95, crop_px.max)
        ]
        mark = tick(sys.stdout) if not crop.max_levels else plain("the crop differs", "yellow")
        table.add_row(result.label, *cells, mark if result.image.within_limits else plain("over the limit", "red"))
    return table


def bundle_tables(bundle: Bundle, report: Report, *, every_layer: bool = False) -> list[RenderableType]:
    """What a bundle holds: facts, artifacts, and what was measured.

    Args:
        bundle: The bundle.
        report: Its report.
        every_layer: Names every layer that went back to float, not the costliest alone.
    """
    failed = [_failures_table(report.failures)] if report.failures else []
    return [
        _facts(bundle, report),
        _artifacts(bundle),
        *failed,
        *measured_tables(report, bundle.model, every_layer=every_layer),
    ]


def measured_tables(report: Report, spec: ModelSpec, *, every_layer: bool = False) -> list[RenderableType]:
    """What the export measured: differences, layers excluded from quantisation, and which artifact to ship."""
    tables = [parity_table([(parity, ()) for parity in report.parity], spec)] if report.parity else []
    for search in report.searches:
        tables += _search_tables(search, spec, len(search.excluded) if every_layer else _SHOWN)
    tables += [] if report.recommendation is None else _recommendation_tables(report.recommendation)
    return tables


def _search_tables(search: LayerSearch, spec: ModelSpec, most: int) -> list[RenderableType]:
    """What the search for layers in float found: before and after it, and at most so many layers with their costs."""
    depth_limit = spec.depth_limit(search.limits) * (spec.mm_per_unit() or 1.0)
    unit = search.plain.depth_unit
    table = Table(title=f"{search.artifact}: layers in float, so that it keeps its limits")
    table.add_column("")
    scored = search.plain.score_max is not None
    more = [*([f"depth p95 {unit}"] if unit else ()), *(["score max"] if scored else ())]
    for heading in ("deviation p95 px", "max px", *more, "latency min ms"):
        table.add_column(heading, justify="right")
    count = len(search.excluded)
    for name, one in (
        (f"all {search.layers} layers in int8", search.plain),
        (f"{count} of them back in float", search.mixed),
    ):
        figures = [one.deviation_px.p95, one.deviation_px.max, *([one.depth.p95] if one.depth is not None else ())]
        figures += [one.score_max] if one.score_max is not None else []
        table.add_row(name, *(f"{value:.3g}" for value in figures), f"{one.latency_ms:.3f}")
    limits = [search.limits.shift_p95_px, search.limits.shift_max_px, *([depth_limit] if unit else ())]
    limits += [search.limits.score_max] if scored else []
    table.add_row("limits", *(f"{value:.3g}" for value in limits), "")
    layers = Table(
        title=f"{search.artifact}: layers that went back to float, the costliest first",
        caption="Cost: keypoint deviation p95 with this layer alone in int8, on a part of the crops.",
    )
    for heading in ("layer", "kind"):
        layers.add_column(heading)
    layers.add_column("cost px", justify="right")
    for row in search.excluded[:most]:
        layers.add_row(row.layer, row.op, f"{row.isolated_p95_px:.3g}")
    if len(search.excluded) > most:
        layers.add_row(f"{len(search.excluded) - most} more: 'splite-deploy inspect --layers' lists them", "", "")
    return [table, layers]


def search_line(search: LayerSearch) -> str:
    """What the search for layers in float found, as a sentence."""
    plain, mixed = search.plain, search.mixed
    scores = ""
    if mixed.score_max is not None and plain.score_max is not None:
        scores = f" Scores move by {mixed.score_max:.3g} ({plain.score_max:.3g}, limit {search.limits.score_max:.3g})."
    return (
        f"{search.artifact}: {len(search.excluded)} of {search.layers} layers went back to float, so that keypoints "
        f"move by {mixed.deviation_px.p95:.3g} px (p95; {plain.deviation_px.p95:.3g} with all of them in int8, limit "
        f"{search.limits.shift_p95_px:.3g}), at most by {mixed.deviation_px.max:.3g} px ({plain.deviation_px.max:.3g}, "
        f"limit {search.limits.shift_max_px:.3g}).{scores}"
    )


def _recommendation_tables(recommendation: Recommendation) -> list[RenderableType]:
    """The artifacts side by side, their accuracy where it was measured, and the recommendation."""
    first = recommendation.rows[0]
    table = Table(title="artifacts side by side", caption=recommendation.measured)
    headings = ["MB", "p50 ms", "min ms", "speed-up", "deviation p50 px", "p95 px", "max px"]
    headings += [f"depth p95 {first.depth_unit}"] if first.depth is not None else []
    accuracy = Table(title="accuracy on the labels")
    finds = first.accuracy is not None and first.accuracy.boxes is not None
    boxes = ["AP@0.3", "AP@0.5", "recall at 0.5", "false alarms"] if finds else []
    errors = ["found" if finds else "images", "mean error, % of box", "PCK@0.05", "PA-MPJPE, mm"]
    for one, names in ((table, [*headings, "peak switches"]), (accuracy, [*boxes, *errors])):
        one.add_column("artifact", no_wrap=True)
        for name in names:
            one.add_column(name, justify="right")
    for row in recommendation.rows:
        deviation, found = row.deviation_px, row.accuracy
        label = plain(row.label, "bold" if row.label == recommendation.ship else "")
        cells = [
            f"{row.size_bytes / 1e6:.2f}",
            f"{row.p50_ms:.3f}{' (unsteady)' if row.steady is False else ''}",
            "" if row.min_ms is None else f"{row.min_ms:.3f}",
        ]
        cells += ["" if row.speed_up is None else f"{row.speed_up:.2f}"]
        cells += [f"{value:.2g}" for value in (deviation.p50, deviation.p95, deviation.max)]
        cells += [f"{row.depth.p95:.2g}"] if row.depth is not None else []
        table.add_row(label, *cells, str(row.peak_switches))
        if found is not None:
            places = (found.mean_error_box_pct, 2), (found.pck_05, 3), (found.pa_mpjpe_mm, 2)
            figures = ["" if value is None else f"{value:.{digits}f}" for value, digits in places]
            accuracy.add_row(label, *_of_boxes(found.boxes), str(found.images), *figures)
    return [table, *([accuracy] if first.accuracy is not None else ()), plain(recommendation.reason)]


def _of_boxes(found: BoxAccuracy | None) -> list[str]:
    """The cells of how well boxes are found."""
    if found is None:
        return []
    alarms = "" if found.false_alarms is None else f"{found.false_alarms:.3f}"
    return [*(f"{value:.3f}" for value in (found.ap_30, found.ap_50, found.recall_50)), alarms]


def _facts(bundle: Bundle, report: Report) -> RenderableType:
    spec, source = bundle.model, bundle.manifest.source
    size = f"{spec.input.width} x {spec.input.height} {spec.input.color.upper()}"
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    opset = f"opset {report.opset}, " if report.opset is not None else ""
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("model", f"{spec.name}, {spec.keypoint_count} keypoints, decoder {spec.decoder.type}"),
        ("input", f"{size}, box padded by {spec.input.box_padding:g}{_turned(spec)}"),
        *((("gives besides", ", ".join(spec.heads)),) if spec.heads else ()),
        ("checkpoint", f"{source.checkpoint}, sha256 {source.checkpoint_sha256[:16]}..."),
        ("made with", f"splite-deploy {source.tool_version}, {opset}{versions}"),
        *(("note", note) for note in report.notes),
    ):
        facts.add_row(plain(name, "bold"), value)
    return facts


def _turned(spec: ModelSpec) -> str:
    """By which keypoints crops are turned, if they are."""
    names, turn = spec.skeleton.keypoint_names, spec.input.turn
    return "" if turn is None else f", turned so that {names[turn[1]]} lies above {names[turn[0]]}"


def _artifacts(bundle: Bundle) -> Table:
    table = Table(title="artifacts")
    for heading in ("backend", "precision", "file", "size", "inputs", "outputs", "target"):
        table.add_column(heading, justify="right" if heading == "size" else "left")
    for artifact in bundle.manifest.artifacts:
        size = f"{bundle.size_of(artifact) / 1e6:.2f} MB"
        target = ", ".join(f"{name} {value}" for name, value in artifact.target.items()) or "any"
        tensors = _tensors(artifact.inputs), _tensors(artifact.outputs)
        table.add_row(artifact.backend, artifact.precision, artifact.files_text, size, *tensors, target)
    return table


def _failures_table(failures: Sequence[Failure]) -> Table:
    """What was requested and failed."""
    table = Table(title="requested, and failed when this bundle was exported")
    for heading in ("artifact", "failed in", "why", "what to do"):
        table.add_column(heading)
    for one in failures:
        table.add_row(one.artifact, one.stage, one.message, one.hint)
    return table


def _tensors(specs: Sequence[TensorSpec]) -> str:
    return "\n".join(f"{t.name} {'x'.join('N' if size is None else str(size) for size in t.shape)}" for t in specs)


def engine_table(bundle: Bundle, engines: Sequence[Artifact]) -> Table:
    """Engines of a bundle: typing mode, time, size, target, and their layers by type."""
    layers = bundle.report().layers if (bundle.path / REPORT).is_file() else {}
    table = Table(title="engines")
    for heading in ("engine", "built by", "time", "size", "target", "layers"):
        table.add_column(heading, justify="right" if heading in ("time", "size") else "left")
    for engine in engines:
        target = engine.target
        groups = types_histogram(layers.get(engine.label, ()))
        table.add_row(
            f"{engine.precision}\n{engine.file}",
            f"{FLAVOURS[target['flavour']]} {target['tensorrt']}\n{_TYPING_MODES[target['typing']]}",
            f"{target['build_s']} s",
            f"{(bundle.path / engine.file).stat().st_size / 1e6:.2f} MB",
            "\n".join(f"{name} {value}" for name, value in target.items() if name not in _APART),
            "\n".join(f"{group.count} {group.types}" for group in groups) or "unknown: no GPU here to read them back",
        )
    return table
