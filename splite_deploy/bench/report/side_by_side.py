"""Several artifacts that were timed in one run, beside each other, as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich import box

from splite_deploy.bench.gates import METRICS, Reading
from splite_deploy.bench.loop import DECODE, END_TO_END, INFERENCE, MODEL_ONLY, PREPROCESS
from splite_deploy.bench.profile import shares_by_type
from splite_deploy.bench.recommend import Recommendation, common_stage, names_of, source_of
from splite_deploy.bench.report.sentences import compared_on, measured_besides
from splite_deploy.bench.result import BenchResult, KeypointDeviation
from splite_deploy.plain_table import Table, plain

SHOWN_SHARE = 0.03
"""Smaller shares of a type that a network computes in are not shown."""
_WHOLE_SHARE = 0.95
_ACCURACY: Mapping[str, Reading] = {
    "Error\n% of box": METRICS["epe_box_pct"].read,
    "PCK": METRICS["pck_05"].read,
    "AP@0.5": METRICS["ap_50"].read,
}
_ACCURACY_SAYS: Mapping[str, str] = {
    "Error\n% of box": "Error: mean over keypoints.",
    "PCK": "PCK: share of keypoints within 5 % of the box.",
    "AP@0.5": "AP: average precision of boxes at an overlap of 0.5.",
}


def stages_table(results: Sequence[BenchResult]) -> Table:
    """Where the time of each goes, with its start and its memory; what else was measured below."""
    names = names_of(results)
    first = results[0]
    threads = "default of the backend" if first.threads is None else str(first.threads)
    cores = "" if first.affinity is None else f" on cores {', '.join(map(str, first.affinity))}"
    inputs = dict.fromkeys(f"{one.inputs_from} ({one.inputs_count})" for one in results)
    crops = f", {first.batch} crops a frame" if first.batch > 1 else ""
    below = [
        f"Medians in ms, of {', '.join(inputs)}, threads: {threads}{cores}{crops}. Load, first inference and memory "
        "are those of a process of its own."
    ]
    below += [
        " ".join((f"{name}:", *said))
        for name, one in zip(names, results, strict=True)
        if (said := list(measured_besides(one)))
    ]
    grid = Table(title="Stages", caption="\n".join(below), caption_justify="left", box=box.SIMPLE_HEAD)
    grid.add_column("Artifact")
    for header in ("Preprocess", "Inference", "Decode", "Model only", "Load", "First", "Peak MiB", "Frames"):
        grid.add_column(header, justify="right")
    for name, one in zip(names, results, strict=True):
        medians = (
            _ms(one.stages[stage].p50_ms) if stage in one.stages else ""
            for stage in (PREPROCESS, INFERENCE, DECODE, MODEL_ONLY)
        )
        start = one.startup
        started = ("", "") if start is None else (f"{start.load_ms:.0f}", f"{start.first_inference_ms:.1f}")
        memory = "" if one.memory is None else f"{one.memory.rss_peak_mib:.0f}"
        grid.add_row(name, *medians, *started, memory, str(one.frames))
    return grid


def side_by_side_table(results: Sequence[BenchResult], recommendation: Recommendation) -> Table:
    """One row per artifact: times, speed-up, steadiness, size, deviation, accuracy, and what it really computes in."""
    stage = common_stage(results)
    accuracy = [name for name, read in _ACCURACY.items() if any(read(one) is not None for one in results)]
    moved = any(one.deviation is not None for one in results)
    what = "from image to keypoints" if stage == END_TO_END else "of the model alone"
    grid = Table(
        title=f"Side by side, ms {what}",
        caption="\n".join(_explained(results, accuracy)),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
    )
    grid.add_column("Artifact")
    for header in ("p50", "p90", "p99", "Speed-\nup", "Steady", "MB"):
        grid.add_column(header, justify="right", no_wrap=True)
    for header in (*(("Moves by\np95", "\nmax") if moved else ()), *accuracy):
        grid.add_column(header, justify="right")
    grid.add_column("Ran in")
    for index, (name, one) in enumerate(zip(names_of(results), results, strict=True)):
        stats, ratio = one.stages[stage], recommendation.speed_ups[index]
        cells = [_ms(stats.p50_ms), _ms(stats.p90_ms), _ms(stats.p99_ms)]
        cells += ["" if ratio is None else f"{ratio:.2f}", "NO" if one.unsteady else "yes"]
        cells += ["" if one.model_bytes is None else f"{one.model_bytes / 1e6:.2f}"]
        cells += list(_moved(one.deviation)) if moved else []
        cells += ["" if (value := _ACCURACY[header](one)) is None else f"{value:.3g}" for header in accuracy]
        source = f"{source_of(one)} "
        lines = name if not name.startswith(source) else f"{source}\n{name[len(source) :]}"
        label = plain(lines, "bold" if index == recommendation.index else "")
        grid.add_row(label, *cells, "\n".join(ran_in(one)))
    return grid


def ran_in(result: BenchResult) -> list[str]:
    """The types that the layers of an artifact really work on, each with its share; empty where it is not known."""
    shares = shares_by_type(result.layers)
    kept = {name: share for name, share in shares.items() if share >= SHOWN_SHARE}
    return [name if share >= _WHOLE_SHARE else f"{name} {share:.0%}" for name, share in kept.items()]


def limits_broken(results: Sequence[BenchResult]) -> list[str]:
    """Which limits of its keypoints' deviation each breaks, as sentences."""
    return [
        f"{name} is over its limits: {'; '.join(one.deviation.violations)}."
        for name, one in zip(names_of(results), results, strict=True)
        if one.deviation is not None and one.deviation.violations
    ]


def _explained(results: Sequence[BenchResult], accuracy: Sequence[str]) -> Iterator[str]:
    apart = ", on each machine apart" if any(one.device is not None for one in results) else ""
    yield f"Timed in turn{apart}. Speed-up: over the fp32 of the same backend, of the shortest times."
    told: dict[str, list[str]] = {}
    for name, one in zip(names_of(results), results, strict=True):
        if one.deviation is not None:
            told.setdefault(compared_on(one.deviation), []).append(name)
    if told:
        where = [f"{text} ({', '.join(names)})" for text, names in told.items()] if len(told) > 1 else list(told)
        yield (
            "Moves by: how far keypoints lie from the original network's, in pixels and percent of the input's longer "
            f"side, and in depth; {'; '.join(where)}."
        )
    timed = [one for one in results if one.layers]
    if timed:
        yield "Ran in: types that the layers work on, with their share of the time, or of the layers."
    if said := [_ACCURACY_SAYS[header] for header in accuracy]:
        yield " ".join(said)


def _moved(found: KeypointDeviation | None) -> tuple[str, str]:
    """The 95th percentile and the maximum, in each unit a line."""
    if found is None:
        return "", ""
    moved = [(found.deviation_px, "px"), (found.deviation_pct, "%")]
    moved += [] if found.depth is None else [(found.depth, found.depth_unit)]
    p95, most = ("\n".join(f"{_short(getattr(one, name))} {unit}" for one, unit in moved) for name in ("p95", "max"))
    return p95, most


def _short(value: float) -> str:
    return "<0.001" if 0 < value < 0.001 else f"{value:.2g}"


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"
