"""Which of several artifacts to ship: one rule for `export` and `bench`, on figures alone.

It is the fastest that keeps its limits. A lower precision has to be `GAIN` times as fast as the best of the precisions
above it, since accuracy is lost for sure and less is noise on most machines. The shortest latencies are compared, since
other work on the machine can only lengthen one (Chen and Revels, Robust benchmarking in noisy environments,
arXiv:1608.04295).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from splite_deploy.bench.loop import END_TO_END, MODEL_ONLY
from splite_deploy.bench.profile import float_layers
from splite_deploy.bench.result import BenchResult
from splite_deploy.errors import UsageError
from splite_deploy.spec import PRECISIONS, Precision

GAIN = 1.05
"""A lower precision has to be so many times as fast: less is noise on most machines, and accuracy is lost for sure."""
MOST_NAMES = 6
"""So many are listed in a sentence."""
MOST_FLOAT = 0.75
"""An int8 network with a larger share of its layers in float gains next to nothing, and goes by a wrong name."""


@dataclass(frozen=True)
class Candidate:
    """One artifact beside the others, timed in one run with them.

    Attributes:
        name: What it is called; no other has this name.
        backend: What ran it.
        precision: Its precision; None for a file that does not say.
        shortest_ms: Its shortest latency, milliseconds.
        p50_ms: The median, milliseconds.
        p99_ms: The 99th percentile, milliseconds; None where it is not known.
        steady: Whether its figures were steady; None where that is not known.
        network: What it is of, such as its bundle. A lower precision has to pay among those of one network.
        compared: Whether its keypoints were compared with those of what it was made of.
        against: Why it may not be shipped, each as a phrase of which its name is the subject; empty for nothing.
        error_box_pct: Mean keypoint error on labels, percent of the box; None where it was not evaluated.
        model_only: Whether the times are of the network alone, without the crop before and the decoding after it.
        finds: What it finds, as text: ``21 keypoints in a box``; empty where that is not known.
    """

    name: str
    backend: str
    precision: str | None
    shortest_ms: float
    p50_ms: float
    p99_ms: float | None = None
    steady: bool | None = None
    network: str = ""
    compared: bool = True
    against: tuple[str, ...] = ()
    error_box_pct: float | None = None
    model_only: bool = False
    finds: str = ""

    @property
    def slow_ms(self) -> float:
        """What a budget is judged by: the 99th percentile, or where that is not known the median."""
        return self.p50_ms if self.p99_ms is None else self.p99_ms


@dataclass(frozen=True)
class Budget:
    """Who keeps the time that a frame may take.

    Attributes:
        limit_ms: That time, milliseconds.
        met: Names of those whose 99th percentile keeps it.
        missed: Names of those whose 99th percentile does not.
    """

    limit_ms: float
    met: tuple[str, ...]
    missed: tuple[str, ...]


@dataclass(frozen=True)
class Recommendation:
    """What to ship, and why.

    Attributes:
        ship: Name of the artifact; None where there is none to recommend.
        index: Its place among the candidates; None where there is none.
        reason: Why, as one sentence: ``Ship ort int8: the fastest here within its limits, ...``.
        remarks: What else is worth knowing, each as a sentence: which precision does not pay, who is over its limits,
            whose timing was disturbed; the last one, whether the budget is met, where there is one and one to ship.
        speed_ups: Of each candidate, see `speed_ups`.
        budget: Who keeps the budget; None without one.
    """

    ship: str | None
    index: int | None
    reason: str
    remarks: tuple[str, ...]
    speed_ups: tuple[float | None, ...]
    budget: Budget | None = None

    @property
    def line(self) -> str:
        """Reason and remarks, one after the other."""
        return " ".join((self.reason, *self.remarks))


def recommend(
    candidates: Sequence[Candidate],
    *,
    budget_ms: float | None = None,
    again: str = "measure again on a machine at rest",
    hampered: Mapping[Precision, str] = MappingProxyType({}),
) -> Recommendation:
    """Chooses the artifact to ship.

    Of several networks the fastest choice of each is compared, unless they find different things, such as a network of
    hands and its detector: then none takes the place of another, and each kind has its own choice. One whose keypoints
    nobody compared is only chosen where none was compared. Of two that are as fast the first is chosen.

    Args:
        candidates: The artifacts, timed in one run on one machine.
        budget_ms: How long a frame may take, milliseconds.
        again: What to do where other work disturbed the timing, as a part of a sentence.
        hampered: What the machine lacks for a precision, as a part of a sentence; it is said where one does not pay.

    Raises:
        UsageError: There is no candidate.
    """
    if not candidates:
        raise UsageError("There is nothing to recommend.", hint="Measure at least one artifact.")
    kinds = list(dict.fromkeys(one.finds for one in candidates))
    if not _alike(kinds):
        return _of_each_kind(kinds, candidates, budget_ms, again, hampered)
    allowed = [one for one in candidates if not one.against]
    pool = [one for one in allowed if one.compared] or allowed
    chosen: list[Candidate] = []
    against: list[str] = []
    for network in dict.fromkeys(one.network for one in candidates):
        best, objections = _best([one for one in candidates if one.network == network], pool, hampered)
        chosen += [] if best is None else [best]
        against += objections
    ratios = speed_ups(candidates)
    budget = None if budget_ms is None else _budget(candidates, budget_ms)
    if not chosen:
        return Recommendation(None, None, f"Ship none of them: {'; '.join(against)}.", (), ratios, budget)
    best = min(chosen, key=lambda one: one.shortest_ms)
    index = candidates.index(best)
    remarks = [
        *(f"{text[0].upper()}{text[1:]}." for text in against),
        *_beside(best, candidates, allowed, pool),
        *_disturbed(candidates, again),
        *(() if budget is None else (_budget_line(best, candidates, budget),)),
    ]
    return Recommendation(best.name, index, _reason(best, candidates, ratios[index]), tuple(remarks), ratios, budget)


def find_alike(results: Sequence[BenchResult]) -> bool:
    """Whether one of the results could take the place of another; assumed where it is not known what one finds."""
    return _alike([_finds(one) for one in results])


def _alike(kinds: Sequence[str]) -> bool:
    return len(set(kinds)) < 2 or "" in kinds


def _of_each_kind(
    kinds: Sequence[str],
    candidates: Sequence[Candidate],
    budget_ms: float | None,
    again: str,
    hampered: Mapping[Precision, str],
) -> Recommendation:
    """A choice of each kind, as remarks."""
    groups = [[one for one in candidates if one.finds == kind] for kind in kinds]
    who = (
        f"{_listed(list(dict.fromkeys(one.network for one in group)))} finds {kind}"
        for kind, group in zip(kinds, groups, strict=True)
    )
    reason = f"Ship one of each kind: none takes the place of another, since {', and '.join(who)}."
    lines = tuple(recommend(group, budget_ms=budget_ms, again=again, hampered=hampered).line for group in groups)
    budget = None if budget_ms is None else _budget(candidates, budget_ms)
    return Recommendation(None, None, reason, lines, speed_ups(candidates), budget)


def speed_ups(candidates: Sequence[Candidate]) -> tuple[float | None, ...]:
    """Of each the shortest latency of the same network's and backend's fp32 over its own; None where there is none."""
    return tuple(
        None if (base := _fp32_of(one, candidates)) is None else base.shortest_ms / one.shortest_ms
        for one in candidates
    )


def _fp32_of(one: Candidate, candidates: Sequence[Candidate]) -> Candidate | None:
    same = (one.network, one.backend, "fp32")
    return next((other for other in candidates if (other.network, other.backend, other.precision) == same), None)


def _best(
    candidates: Sequence[Candidate], pool: Sequence[Candidate], hampered: Mapping[Precision, str]
) -> tuple[Candidate | None, list[str]]:
    """The one to ship of one network, and what speaks against others, as text."""
    best: Candidate | None = None
    against: list[str] = []
    for precision in (None, *PRECISIONS):
        held = [one for one in candidates if one.precision == precision]
        against += [f"{one.name} {phrase}" for one in held for phrase in one.against]
        fastest = min((one for one in held if one in pool), key=lambda one: one.shortest_ms, default=None)
        if fastest is None:
            continue
        if best is None or best.shortest_ms >= GAIN * fastest.shortest_ms:
            best = fastest
        else:
            lacking = "" if precision is None else hampered.get(precision, "")
            against.append(
                f"{str(precision).upper()} does not pay here: {fastest.name} takes {fastest.shortest_ms:.3f} ms, and "
                f"{best.name} {best.shortest_ms:.3f} ms; it would have to be {GAIN - 1:.0%} faster"
                + (f"; {lacking}" if lacking else "")
            )
    return best, against


def _reason(best: Candidate, candidates: Sequence[Candidate], ratio: float | None) -> str:
    which = "fastest here" if len(candidates) > 1 else "only one here"
    limits = " within its limits" if best.compared else ""
    times = f"{best.shortest_ms:.3f} ms"
    if best.p99_ms is not None:
        times = f"{best.shortest_ms:.3f} ms at the least, p50 {best.p50_ms:.3f} ms, p99 {best.p99_ms:.3f} ms"
    gain = ""
    base = _fp32_of(best, candidates)
    if base is not None and (ratio or 0) >= GAIN and not any(one.steady is False for one in (best, base)):
        gain = f", {ratio:.2f} times as fast as {base.name}"
    state = "" if best.p99_ms is None or best.steady is None else ", steady" if best.steady else ", unsteady"
    return f"Ship {best.name}: the {which}{limits}, {times}{gain}{state}."


def _beside(
    best: Candidate, candidates: Sequence[Candidate], allowed: Sequence[Candidate], pool: Sequence[Candidate]
) -> Iterator[str]:
    """What is said of others that may be shipped."""
    close = [
        one.name
        for one in pool
        if one is not best and one.precision == best.precision and one.shortest_ms < GAIN * best.shortest_ms
    ]
    if close:
        yield f"As fast within {GAIN - 1:.0%}: {_listed(close)}."
    unknown = [one for one in allowed if one not in pool and one.shortest_ms < best.shortest_ms]
    for one in unknown:
        yield f"{one.name} is faster ({one.shortest_ms:.3f} ms), but nobody compared its keypoints: verify it first."
    if not best.compared:
        yield "Nobody compared its keypoints with those of the original: verify it first."
    errors = [one for one in allowed if one.error_box_pct is not None]
    exact = min(errors, key=lambda one: one.error_box_pct or 0.0, default=None)
    if exact is not None and best.error_box_pct is not None:
        said = f"{exact.error_box_pct:.2f}", f"{best.error_box_pct:.2f}"
        if said[0] != said[1]:
            yield (
                f"The most accurate is {exact.name}: error {said[0]} % of the box instead of {said[1]} %, in "
                f"{exact.shortest_ms:.3f} ms."
            )
    elif len({one.network for one in candidates}) > 1:
        yield "The networks differ: --eval LABELS says which is how accurate."


def _disturbed(candidates: Sequence[Candidate], again: str) -> Iterator[str]:
    disturbed = [one.name for one in candidates if one.steady is False]
    if disturbed:
        yield (
            f"Other work disturbed the timing of {_listed(disturbed)}: how many times as fast one is cannot be "
            f"said; {again}."
        )


def _budget(candidates: Sequence[Candidate], limit_ms: float) -> Budget:
    met = tuple(one.name for one in candidates if one.slow_ms <= limit_ms)
    return Budget(limit_ms, met, tuple(one.name for one in candidates if one.name not in met))


def _budget_line(best: Candidate, candidates: Sequence[Candidate], budget: Budget) -> str:
    """Whether the one to ship keeps the budget, and who else does."""
    rate = f"{budget.limit_ms:.4g} ms ({1e3 / budget.limit_ms:.3g} frames per second)"
    alone = " Only the network was timed: preparing a picture and decoding come on top." if best.model_only else ""
    if best.name in budget.met:
        others = [one.name for one in candidates if one is not best and one.name in budget.met and not one.against]
        more = f" {_listed(others)} {'do' if len(others) > 1 else 'does'}, too." if others else ""
        return f"It keeps the budget of {rate}: p99 {best.slow_ms:.3f} ms.{more}{alone}"
    half = "half of its frames do" if best.p50_ms <= budget.limit_ms else "not even half of its frames do"
    cause = "; other work on the machine may be the cause" if best.steady is False else ""
    return f"It does not keep the budget of {rate}: p99 {best.slow_ms:.3f} ms; {half}{cause}.{alone}"


def _listed(names: Sequence[str]) -> str:
    """Names as text; of many the first ones."""
    more = len(names) - MOST_NAMES
    return ", ".join(names) if more < 2 else f"{', '.join(names[:MOST_NAMES])} and {more} more"


def names_of(results: Sequence[BenchResult]) -> list[str]:
    """What to call each of some results: backend and precision, and what it is of where that is not the same for all.

    Those that agree in this, too, have a number.
    """
    sources = [source_of(result) for result in results]
    one_source = len(set(sources)) == 1
    names = [
        result.label if one_source and result.bundle else f"{source} {result.label}"
        for source, result in zip(sources, results, strict=True)
    ]
    return [
        name if names.count(name) == 1 else f"{name} ({names[:index].count(name) + 1})"
        for index, name in enumerate(names)
    ]


def source_of(result: BenchResult) -> str:
    """The bundle, or the file without one, that a result is of, after the machine's name where it has one."""
    return " ".join(filter(None, (result.device, result.bundle or result.artifact_file)))


def common_stage(results: Sequence[BenchResult]) -> str:
    """What stands for a frame of all results: end to end, or the model alone where one has nothing else."""
    return END_TO_END if all(END_TO_END in result.stages for result in results) else MODEL_ONLY


def candidates_of(results: Sequence[BenchResult]) -> list[Candidate]:
    """Results as what is chosen from; what replays recorded outputs may not be."""
    stage, names = common_stage(results), names_of(results)
    return [_candidate(name, result, stage) for name, result in zip(names, results, strict=True)]


def _candidate(name: str, result: BenchResult, stage: str) -> Candidate:
    stats, found = result.stages[stage], result.deviation
    return Candidate(
        name=name,
        backend=result.backend,
        precision=result.precision,
        shortest_ms=stats.min_ms,
        p50_ms=stats.p50_ms,
        p99_ms=stats.p99_ms,
        steady=None if result.windows is None else result.windows.stable,
        network=source_of(result),
        compared=found is not None,
        against=tuple(_against(result)),
        error_box_pct=None if result.accuracy is None else result.accuracy.epe_box_pct,
        model_only=stage == MODEL_ONLY,
        finds=_finds(result),
    )


def _finds(result: BenchResult) -> str:
    if result.keypoints is None:
        return ""
    what = f"{result.keypoints} keypoint{'' if result.keypoints == 1 else 's'}" if result.keypoints else "boxes"
    return f"{what} in a {'box' if result.people_per_image is None else 'whole picture'}"


def _against(result: BenchResult) -> Iterator[str]:
    if result.backend == "replay":
        yield "runs no network"
    if result.deviation is not None and result.deviation.violations:
        yield "is over its limits"
    if result.precision == "int8":
        yield from by_name_alone(len(float_layers(result.layers)), len(result.layers))


def by_name_alone(in_float: int, layers: int) -> Iterator[str]:
    """A phrase where so many of the layers of an int8 network are in float that it is int8 by name alone."""
    if in_float > MOST_FLOAT * layers:
        yield f"is int8 by name alone: {in_float} of its {layers} layers are in float"


def recommend_of(results: Sequence[BenchResult], *, budget_ms: float | None = None) -> Recommendation | None:
    """The same of results; None where they cannot be compared.

    They can where all are of one machine, one batch, one number of threads and the same kind of inputs, and none is of
    the same file by the same backend as another.
    """
    if not results or len({_conditions(result) for result in results}) > 1:
        return None
    if len({(source_of(one), one.artifact_sha256, one.backend) for one in results}) < len(results):
        return None
    hampered: dict[Precision, str] = {}
    if results[0].environment.multiplies_int8 is False:
        hampered["int8"] = "this processor has no instructions for products of int8 (VNNI, dot products)"
    return recommend(candidates_of(results), budget_ms=budget_ms, hampered=hampered)


def _conditions(result: BenchResult) -> tuple[object, ...]:
    machine = result.environment
    where = result.device, machine.board, machine.cpu_model, machine.usable_cores, machine.gpus
    return (*where, result.batch, result.threads, result.affinity)
