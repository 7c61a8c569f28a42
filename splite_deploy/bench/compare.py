"""Two sets of results beside each other: is one faster, and can that be told at all?

Times of one run resemble their neighbours: clocks drift, other processes come and go. So blocks of neighbours are
drawn in the bootstrap, not single times; and since that noise has no one time scale, blocks of two lengths, of which
the wider interval counts. What no interval of a single run holds is how far two runs of the same file lie apart: on a
machine with other work their medians may differ by a tenth, since that work only ever adds time, and to most frames of
a run. Their fastest frames hardly differ: the fastest of all stands for the run (Chen and Revels, Robust benchmarking
in noisy environments, arXiv:1608.04295), and a change counts where it changed as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.console import RenderableType

from splite_deploy.bench.bootstrap import Ranks, Ratio, Samples, bootstrap_ratios, median_ranks, value_of
from splite_deploy.bench.loop import END_TO_END
from splite_deploy.bench.recommend import source_of
from splite_deploy.bench.report.text import STAGE_NAMES
from splite_deploy.bench.result import BenchResult
from splite_deploy.device.environment import NOT_AVAILABLE
from splite_deploy.errors import UsageError
from splite_deploy.plain_table import Table, plain

THRESHOLD = 0.03
"""Smaller changes are none: two runs of one file differ as much. Of a short stage also those below half of it of the
frame end to end, since what the caches held before is a matter of microseconds, and of chance."""
_LEAST_MS = 1e-6
"""A nanosecond, which a ratio takes for a time that is all gone since the cost of reading the clock is taken off."""
OVERLOAD, OVERLOADED_THRESHOLD = 2.0, 0.1
"""From so many processes per core on even the fastest frames are disturbed; smaller changes are none then."""
SHORT_S = 1.0
"""Runs of fewer seconds than this may lie within other work from beginning to end."""
BLOCK_COUNTS = (32, 8)
FAST_PCT = 10
"""The percentile of frames with little other work, which must not contradict the fastest of all."""

Outcome = Literal["faster", "slower", "no difference", "unclear"]
_OUTCOMES: Mapping[Outcome, str] = {
    "faster": "faster",
    "slower": "slower",
    "no difference": "no difference",
    "unclear": "unclear whether it is faster or slower",
}
_COLOURS = {"faster": "green", "slower": "red", "no difference": "", "unclear": "yellow"}


@dataclass(frozen=True)
class StageChange:
    """One stage before and after.

    Attributes:
        stage: See `BenchResult.stages`.
        before_ms: Its median, milliseconds.
        after_ms: Its median, milliseconds.
        median: Ratio of the medians, after over before.
        fast: The same of the percentile `FAST_PCT`.
        minimum: The same of the fastest frame, in which nothing came between.
        outcome: See `outcome_of`.
    """

    stage: str
    before_ms: float
    after_ms: float
    median: Ratio
    fast: Ratio
    minimum: Ratio
    outcome: Outcome


@dataclass(frozen=True)
class Comparison:
    """One artifact before and after.

    Attributes:
        before: What was measured, as text.
        after: What was measured, as text.
        runs: How many runs of either were taken together.
        stages: The stages that both have.
        warnings: What else differs and may be the cause, as text.
    """

    before: str
    after: str
    runs: tuple[int, int]
    stages: tuple[StageChange, ...]
    warnings: tuple[str, ...]


def compare(before: Sequence[BenchResult], after: Sequence[BenchResult]) -> list[Comparison]:
    """Compares the artifacts that two sets of results have in common.

    They are matched by backend, provider, precision, batch and streams; where several agree in that, by bundle, model
    and threads as well. Where each set is of one thing these two are compared, whatever they are.

    Raises:
        UsageError: They have nothing in common, and one holds several; or a result holds no single times.
    """
    pairs = list(_pairs(_groups(before), _groups(after))) or _only_pair(before, after)
    if not pairs:
        labels = [", ".join(dict.fromkeys(result.label for result in results)) for results in (before, after)]
        raise UsageError(
            f"The results have no artifact in common: {labels[0] or 'none'} before, {labels[1] or 'none'} after.",
            hint="Name one line of each to compare these, such as before.jsonl:1 and after.jsonl:2, or measure the "
            "same backend, precision and batch for both.",
        )
    return [_compare(*pair) for pair in pairs]


def comparison_tables(comparisons: Sequence[Comparison]) -> list[RenderableType]:
    """A table for each artifact, one row per stage, with what else differs below; then how to read them."""
    lines = [
        "After over before, with 95 % bootstrap intervals. Minimum: of the fastest frame, to which other work adds "
        f"nothing. Slower and faster need a change of {THRESHOLD:.0%} there, and of {THRESHOLD / 2:.1%} of the frame, "
        "that the fastest tenth does not contradict."
    ]
    if any(change.outcome == "unclear" for item in comparisons for change in item.stages):
        lines.append(
            "Unclear: the medians moved and the fastest frame did not, or not as far. Measure again on a quiet "
            "machine, or append several runs of each to its file, in turn (before, after, before, ...): they count "
            "together."
        )
    return [*map(_table, comparisons), *lines]


def outcomes(comparisons: Sequence[Comparison]) -> list[str]:
    """What became of the whole frame of each artifact, as a sentence: end to end, or of a file the model alone."""
    return [_sentence(item) for item in comparisons if item.stages]


def _sentence(item: Comparison) -> str:
    changes = {change.stage: change for change in item.stages}
    change = changes.get(END_TO_END) or item.stages[-1]
    name = item.after if item.before == item.after else f"{item.after} instead of {item.before}"
    return (
        f"{name}: {_OUTCOMES[change.outcome]}. {STAGE_NAMES[change.stage]} p50 {change.before_ms:.3f} ms before and "
        f"{change.after_ms:.3f} ms after, {_cell(change.median)} times as long."
    )


def _table(item: Comparison) -> Table:
    names = item.after if item.before == item.after else f"{item.before} -> {item.after}"
    runs = "" if item.runs == (1, 1) else f" ({item.runs[0]} and {item.runs[1]} runs)"
    below = "\n".join(f"{warning[0].upper()}{warning[1:]}." for warning in item.warnings)
    grid = Table(title=f"{names}, ms{runs}", caption=below or None, caption_justify="left")
    grid.add_column("Stage")
    for header in ("Before", "After", "Medians", "Minimum"):
        grid.add_column(header, justify="right", no_wrap=True)
    grid.add_column("Outcome")
    for change in item.stages:
        colour = _COLOURS[change.outcome]
        grid.add_row(
            STAGE_NAMES.get(change.stage, change.stage),
            f"{change.before_ms:.3f}",
            f"{change.after_ms:.3f}",
            _cell(change.median),
            _cell(change.minimum),
            plain(change.outcome, colour or ""),
        )
    return grid


def _cell(ratio: Ratio) -> str:
    return f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def fast_ranks(count: int) -> tuple[int, ...]:
    """The percentile `FAST_PCT`, without interpolation."""
    return ((count - 1) * FAST_PCT // 100,)


def minimum_ranks(count: int) -> tuple[int, ...]:
    """The smallest of all."""
    return (0,)


def ratios_of_runs(after_ms: Samples, before_ms: Samples, statistics: Sequence[Ranks]) -> list[Ratio]:
    """After over before, of times in order that were not measured side by side; the widest interval of all blocks."""
    by_blocks = [
        bootstrap_ratios(_blocks(after_ms, count), _blocks(before_ms, count), statistics, paired=False)
        for count in BLOCK_COUNTS
    ]
    widest = [max(ratios, key=lambda ratio: ratio.high - ratio.low) for ratios in zip(*by_blocks, strict=True)]
    values = [value_of(after_ms, statistic) / value_of(before_ms, statistic) for statistic in statistics]
    return [Ratio(value, wide.low, wide.high) for value, wide in zip(values, widest, strict=True)]


def outcome_of(
    median: Ratio, fast: Ratio, minimum: Ratio, threshold: float = THRESHOLD, needed: float = THRESHOLD
) -> Outcome:
    """What the ratios of after over before say together.

    Args:
        median: Of the medians.
        fast: Of the percentile `FAST_PCT`.
        minimum: Of the fastest frames.
        threshold: Up to which change there is none.
        needed: From which change there is one; ``threshold`` or more.

    Returns:
        ``slower`` or ``faster``: the fastest frame changed by ``needed`` or more, its interval leaves out 1, and that
        of the fast frames does not lie on the other side of 1. ``no difference``: neither the median nor the fastest
        frame is beyond the threshold. Otherwise ``unclear``.
    """
    if minimum.value >= 1 + needed and minimum.low > 1 and fast.high > 1:
        return "slower"
    if minimum.value <= 1 / (1 + needed) and minimum.high < 1 and fast.low < 1:
        return "faster"
    small = all(1 / (1 + threshold) < ratio.value < 1 + threshold for ratio in (median, minimum))
    return "no difference" if small else "unclear"


def _blocks(times_ms: Samples, count: int) -> Samples:
    """As ``count`` blocks; what is left over at the end is dropped."""
    count = min(count, times_ms.size)
    frames = times_ms.size // count
    return times_ms[: count * frames].reshape(count, frames)


_Group = list[BenchResult]
_Key = tuple[object, ...]


def _groups(results: Sequence[BenchResult]) -> dict[_Key, dict[_Key, _Group]]:
    """Runs of the same thing, by what has to agree and then by what should."""
    found: dict[_Key, dict[_Key, _Group]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        streams = result.streams.count if result.streams else 1
        has_to = (result.backend, result.provider, result.precision, result.batch, streams)
        found[has_to][result.bundle, result.model, result.threads, result.device].append(result)
    return found


def _pairs(
    before: dict[_Key, dict[_Key, _Group]], after: dict[_Key, dict[_Key, _Group]]
) -> Iterator[tuple[_Group, _Group]]:
    for key, groups in before.items():
        others = after.get(key, {})
        if len(groups) == len(others) == 1:
            yield next(iter(groups.values())), next(iter(others.values()))
        else:
            yield from ((group, others[name]) for name, group in groups.items() if name in others)


def _only_pair(before: Sequence[BenchResult], after: Sequence[BenchResult]) -> list[tuple[_Group, _Group]]:
    """Both sets, where each is of one thing alone."""
    alone = [
        [group for groups in _groups(results).values() for group in groups.values()] for results in (before, after)
    ]
    return [(alone[0][0], alone[1][0])] if [len(groups) for groups in alone] == [1, 1] else []


def _compare(before: _Group, after: _Group) -> Comparison:
    for result in (*before, *after):
        if not result.samples_ms:
            raise UsageError(
                f"The result of {_name(result)} of {result.date_utc} has no times of single frames, which a "
                f"comparison needs.",
                hint="Measure it again with this version of splite-deploy.",
            )
    stages = [stage for stage in STAGE_NAMES if all(result.samples_ms.get(stage) for result in (*before, *after))]
    return Comparison(
        _name(before[0]),
        _name(after[0]),
        (len(before), len(after)),
        tuple(_change(stage, before, after) for stage in stages),
        tuple(_warnings(before, after)),
    )


def _change(stage: str, before: _Group, after: _Group) -> StageChange:
    old, new = (
        np.concatenate([result.samples_ms[stage] for result in group]).clip(_LEAST_MS) for group in (before, after)
    )
    median, fast, minimum = ratios_of_runs(new, old, (median_ranks, fast_ranks, minimum_ranks))
    old_ms, new_ms = value_of(old, median_ranks), value_of(new, median_ranks)
    frame_ms = before[0].stages[before[0].headline].p50_ms
    threshold = max(THRESHOLD, THRESHOLD / 2 * frame_ms / old_ms)
    needed = max(threshold, OVERLOADED_THRESHOLD) if any(map(_overloaded, (*before, *after))) else threshold
    outcome = outcome_of(median, fast, minimum, threshold, needed)
    return StageChange(stage, old_ms, new_ms, median, fast, minimum, outcome)


def _overloaded(result: BenchResult) -> bool:
    """Whether far more work than there are cores was waiting when it began."""
    load, cores = result.environment.load_average_1min, result.environment.usable_cores
    return load is not None and cores is not None and load > OVERLOAD * cores


def _name(result: BenchResult) -> str:
    threads = "" if result.threads is None else f", {result.threads} thread{'s' if result.threads > 1 else ''}"
    return f"{source_of(result)} {result.label}{threads}"


def _warnings(before: _Group, after: _Group) -> Iterator[str]:
    """Everything about the conditions that is not the same in all runs of both."""
    old, new = ([dict(_conditions(result)) for result in group] for group in (before, after))
    for what in dict.fromkeys(key for item in (*old, *new) for key in item):
        values = [list(dict.fromkeys(_shown(item.get(what)) for item in group)) for group in (old, new)]
        if values[0] != values[1] or len(values[0]) > 1:
            yield f"{what}: {' and '.join(values[0])} before, {' and '.join(values[1])} after"
    for when, group in (("before", before), ("after", after)):
        if any(result.unsteady for result in group):
            yield f"unsteady {when}: the windows of a run did not agree"
        shortest_s = min(result.frames * result.stages[result.headline].p50_ms / 1e3 for result in group)
        if shortest_s < SHORT_S:
            yield f"short {when}: {shortest_s:.1f} s of frames, which other work may outlast; leave out --frames"
        if loads := [result.environment.load_average_1min for result in group if _overloaded(result)]:
            yield (
                f"other work {when}: a load average of {max(filter(None, loads)):.1f} on "
                f"{group[0].environment.usable_cores} cores, so that a change counts from {OVERLOADED_THRESHOLD:.0%} on"
            )


def differences(before: BenchResult, after: BenchResult) -> list[str]:
    """Every condition that is not the same in two results, such as versions and the file, each as text."""
    old, new = dict(_conditions(before)), dict(_conditions(after))
    keys = dict.fromkeys([*old, *new])
    return [f"{key}: {_shown(old.get(key))} → {_shown(new.get(key))}" for key in keys if old.get(key) != new.get(key)]


def _shown(value: object) -> str:
    return NOT_AVAILABLE if value is None else str(value)


def _conditions(result: BenchResult) -> Iterator[tuple[str, object]]:
    """What should be the same where two results are compared, as (what, value)."""
    machine = result.environment
    yield "artifact", result.label
    yield "bundle", result.bundle or None
    yield "model", result.model
    yield "batch", str(result.batch)
    yield "streams", str(result.streams.count if result.streams else 1)
    yield "file", f"{result.artifact_file} {result.artifact_sha256[:12]}"
    yield "threads", "default" if result.threads is None else str(result.threads)
    yield "OpenCV's threads", str(result.opencv_threads)
    yield "affinity", "none" if result.affinity is None else str(list(result.affinity))
    yield "images", f"{result.inputs_count}, {result.inputs_from}"
    yield "image size", f"{result.image_width_px} x {result.image_height_px} px"
    yield "board", machine.board
    yield "processor", machine.cpu_model
    yield "vector instructions", None if machine.instructions is None else ", ".join(machine.instructions)
    yield "cores", f"{machine.usable_cores} of {machine.logical_cores}"
    yield "CPU quota", machine.cpu_quota_cores
    yield "governor", machine.governor
    yield "highest clock allowed", machine.allowed_clock_mhz
    yield "power mode", machine.nvpmodel
    yield "jetson_clocks", machine.jetson_clocks
    yield "GPU", ", ".join(machine.gpus) or "none"
    yield "GPU driver", machine.gpu_driver
    yield "Jetson Linux", machine.l4t
    yield "kernel", machine.kernel
    yield "emulator", machine.emulator or "none"
    yield "Python", machine.python
    yield "thread variables", str(dict(machine.thread_variables))
    yield from machine.versions.items()
