"""What the page begins with: what to ship and why, and one table of all results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from splite_deploy.bench.gates import METRICS, Reading
from splite_deploy.bench.loop import END_TO_END
from splite_deploy.bench.recommend import Recommendation, common_stage, source_of
from splite_deploy.bench.report.sentences import boxes_found, compared_on, labels_of, ran_by
from splite_deploy.bench.report.side_by_side import ran_in
from splite_deploy.bench.result import BenchResult, KeypointDeviation
from splite_deploy.bundle.report import Percentiles

_ACCURACY: tuple[tuple[str, str, int], ...] = (
    ("Error, % of box", "epe_box_pct", 2),
    ("PCK", "pck_05", 3),
    ("3D error, mm", "pa_mpjpe_mm", 2),
    ("AP (OKS)", "oks_ap", 3),
    ("AP@0.5", "ap_50", 3),
)
"""Titles of columns, metrics, and decimals."""
_EXPLAINED = {
    "epe_box_pct": "Error: mean over keypoints, in percent of the longer side of the tight box of the labels.",
    "pck_05": "PCK: share of the keypoints within 5 % of that side.",
    "pa_mpjpe_mm": "3D error: mean over keypoints after alignment.",
    "oks_ap": "AP (OKS): average precision by object keypoint similarity.",
    "ap_50": "AP@0.5: average precision of boxes at an overlap of 0.5.",
}
_PX_DIGITS, _DEPTH_DIGITS = 3, 2


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        group: Title over several columns; empty for none.
        head: Its own title.
        cells: A text for each result; empty where nothing was measured.
        words: Whether these are words, which are aligned on the left.
    """

    group: str
    head: str
    cells: tuple[str, ...]
    words: bool = False

    @property
    def label(self) -> str:
        """Its whole title, for a narrow page that has no head row."""
        return f"{self.group}, {self.head}" if self.group else self.head


@dataclass(frozen=True)
class Opening:
    """What the page begins with.

    Attributes:
        lead: What to ship, or what else was found, as a few words or a sentence.
        why: The rest of the sentence that ``lead`` begins; empty where it is whole.
        remarks: What else is worth knowing, each a sentence.
        index: Which result to ship; None for none.
        budget: Whether it keeps the time that a frame may take, as a sentence; empty without a budget.
        kept: Whether it does; None without a budget.
        facts: Figures of what to ship, as (title, text).
    """

    lead: str
    why: str
    remarks: tuple[str, ...]
    index: int | None = None
    budget: str = ""
    kept: bool | None = None
    facts: tuple[tuple[str, str], ...] = ()


def opening_of(results: Sequence[BenchResult], found: Recommendation | None, said: Sequence[str]) -> Opening:
    """What to ship, or sentences that take its place.

    Args:
        results: What was measured.
        found: What to ship; None where results cannot be ranked.
        said: The outcome of a comparison, without a recommendation; empty for none.
    """
    if found is None and not said:
        said = ["These results are not ranked: they differ in machine, threads or batch, or repeat a file."]
    first, *others = said if found is None else (found.reason, *found.remarks)
    lead, why = _begun(first)
    if found is None or found.index is None:
        return Opening(lead, why, tuple(others))
    budget, kept = "", None
    if found.budget is not None:
        *others, budget = others  # see `recommend`
        kept = found.ship in found.budget.met
    facts = tuple(_facts(results[found.index], common_stage(results)))
    return Opening(lead, why, tuple(others), found.index, budget, kept, facts)


def _begun(sentence: str) -> tuple[str, str]:
    """A sentence at its first colon, in two: ``Ship ort int8`` and why."""
    lead, colon, why = sentence.partition(": ")
    return (lead, f"{why[:1].upper()}{why[1:]}") if colon else (sentence, "")


def _facts(one: BenchResult, stage: str) -> Iterator[tuple[str, str]]:
    stats = one.stages[stage]
    yield "p50", f"{milliseconds(stats.p50_ms)} ms"
    yield "p99", f"{milliseconds(stats.p99_ms)} ms"
    if one.model_bytes is not None:
        yield "Size", f"{one.model_bytes / 1e6:.2f} MB"
    if one.deviation is not None:
        yield "Keypoints move by, p95", f"{_digits(one.deviation.deviation_px.p95, _PX_DIGITS)} px"
    for title, metric, digits in _ACCURACY:
        if (value := METRICS[metric].read(one)) is not None:
            yield title, _digits(value, digits)
            return


def columns_of(results: Sequence[BenchResult], found: Recommendation | None) -> list[Column]:
    """The columns of the table that hold anything, from left to right; names are apart."""
    stats = [one.stages[common_stage(results)] for one in results]
    speed_ups = (None,) * len(results) if found is None or len(results) < 2 else found.speed_ups
    moved = [one.deviation for one in results]

    def column(group: str, head: str, cells: Sequence[str], words: bool = False) -> Column:
        return Column(group, head, tuple(cells), words)

    columns = [
        column("Time, ms", "p50", [milliseconds(one.p50_ms) for one in stats]),
        column("Time, ms", "p99", [milliseconds(one.p99_ms) for one in stats]),
        column("", "Frames/s", [f"{1e3 / one.p50_ms:.0f}" for one in stats]),
        column("", "Speed-up", ["" if ratio is None else f"{ratio:.2f}" for ratio in speed_ups]),
        column("", "Size, MB", ["" if one.model_bytes is None else f"{one.model_bytes / 1e6:.2f}" for one in results]),
    ]
    for head, take in _TAKEN.items():
        cells = ["" if one is None else _digits(take(one.deviation_px), _PX_DIGITS) for one in moved]
        columns.append(column("Keypoints move by, px", head, cells))
    units = list(dict.fromkeys(one.depth_unit for one in moved if one is not None and one.depth is not None))
    group = f"Depth moves by, {units[0]}" if len(units) == 1 else "Depth moves by"
    for head, take in _TAKEN.items():
        columns.append(column(group, head, [_depth(one, take, len(units) > 1) for one in moved]))
    for head, metric, digits in _ACCURACY:
        columns.append(column("", head, _read(results, METRICS[metric].read, digits)))
    columns += [
        column("", "Ran in", [", ".join(ran_in(one)) for one in results], words=True),
        column("", "Steady", [{None: "", True: "yes", False: "NO"}[_steady(one)] for one in results], words=True),
    ]
    return [one for one in columns if any(one.cells)]


_TAKEN: dict[str, Callable[[Percentiles], float]] = {"p95": lambda one: one.p95, "max": lambda one: one.max}


def groups_of(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Titles over the columns, each with the number of columns below it; each column without a title alone."""
    found: list[tuple[str, int]] = []
    for title, below in groupby(columns, key=lambda one: one.group):
        count = len(list(below))
        found += [(title, count)] if title else [("", 1)] * count
    return found


def explained(results: Sequence[BenchResult]) -> list[str]:
    """How to read the table, as sentences."""
    end_to_end = common_stage(results) == END_TO_END
    said = [f"Times are {'from image to keypoints' if end_to_end else 'of the model alone'}."]
    told: dict[str, list[int]] = {}
    for number, one in enumerate(results, 1):
        if one.deviation is not None:
            told.setdefault(compared_on(one.deviation), []).append(number)
    if told:
        where = "; ".join(
            text if len(told) == 1 else f"{text} ({', '.join(map(str, numbers))})" for text, numbers in told.items()
        )
        said.append(
            f"Keypoints move by: how far they lie from those of the original network, in pixels of its input; {where}."
        )
    said += [
        text for metric, text in _EXPLAINED.items() if any(METRICS[metric].read(one) is not None for one in results)
    ]
    labels = dict.fromkeys(labels_of(one.accuracy) for one in results if one.accuracy is not None)
    if labels:
        said.append(f"Labels: {'; '.join(labels)}.")
    if any(one.layers for one in results):
        said.append("Ran in: the types that the layers really work on, with their share of the time, or of the layers.")
    if any(one.windows is not None for one in results):
        said.append("Steady: the medians of the last windows agree.")
    return said


def marks_of(one: BenchResult) -> list[tuple[str, str]]:
    """What has to be said beside a name, as (text, class): class ``warn`` for what speaks against its figures."""
    marks = [("over its limits", "warn")] if one.deviation is not None and one.deviation.violations else []
    marks += [("no network ran", "warn")] if one.backend == "replay" else []
    marks += [("no manifest", "warn")] if one.undescribed else []
    if one.placements:
        marks.append((ran_by(one), "warn" if len(one.placements) > 1 else "soft"))
    if one.people_per_image is not None:
        marks.append((f"finds {one.people_per_image:.3g} per image", "soft"))
    if one.accuracy is not None:
        marks += [(said, "soft") for said in boxes_found(one.accuracy.boxes)]
    return marks


def names_on_page(results: Sequence[BenchResult]) -> list[str]:
    """Results as text: what differs between them, and always the name of a file without a bundle."""
    several = len({source_of(one) for one in results}) > 1
    threads_vary, batches_vary = (len({read(one) for one in results}) > 1 for read in (_threads, _batch))
    names = []
    for one in results:
        source = f"{source_of(one)} · " if several or not one.bundle else ""
        threads = f", {_threads(one)}" if threads_vary else ""
        batch = f", {_batch(one)}" if batches_vary else ""
        names.append(f"{source}{one.label}{threads}{batch}")
    return names


def common_conditions(results: Sequence[BenchResult]) -> list[str]:
    """Threads and batch where all results agree in them, since names do not tell them then."""
    return [next(iter(values)) for read in (_threads, _batch) if len(values := {read(one) for one in results}) == 1]


def milliseconds(value: float) -> str:
    """A time with about four digits."""
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def _threads(one: BenchResult) -> str:
    return "default threads" if one.threads is None else f"{one.threads} thread{'s' if one.threads > 1 else ''}"


def _batch(one: BenchResult) -> str:
    return f"batch {one.batch}"


def _steady(one: BenchResult) -> bool | None:
    return None if one.windows is None else one.windows.stable


def _read(results: Sequence[BenchResult], read: Reading, digits: int) -> list[str]:
    return ["" if (value := read(one)) is None else _digits(value, digits) for one in results]


def _depth(one: KeypointDeviation | None, take: Callable[[Percentiles], float], unit: bool) -> str:
    if one is None or one.depth is None:
        return ""
    return _digits(take(one.depth), _DEPTH_DIGITS) + (f" {one.depth_unit}" if unit else "")


def _digits(value: float, digits: int) -> str:
    least = 10.0**-digits
    return f"<{least:g}" if 0 < value < least / 2 else f"{value:.{digits}f}"
