"""Comparing recorded runs: simulated times with drift, bursts of other work and a floor, and what else differs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from bench_results import ENVIRONMENT, bench_result
from rich.console import Console

from splite_deploy.bench.bootstrap import Ratio
from splite_deploy.bench.compare import THRESHOLD, compare, comparison_tables, outcome_of
from splite_deploy.bench.loop import END_TO_END, MODEL_ONLY
from splite_deploy.bench.result import BenchResult, Windows
from splite_deploy.errors import UsageError

FRAMES, PAIRS = 1000, 20
CALM, SLOWER, FASTER = Ratio(1.0, 0.99, 1.01), Ratio(1.06, 1.04, 1.08), Ratio(0.94, 0.92, 0.96)
SLIGHTLY = Ratio(1.02, 1.015, 1.025)


def simulated(seed: int, slowdown: float = 1.0) -> BenchResult:
    """A run on a machine with other work: a floor of 1 ms, jitter, drift, and bursts that add up to half of it.

    The medians of two such runs differ by several percent, as those of real runs on a shared machine do.
    """
    rng = np.random.default_rng(seed)
    jitter = rng.gamma(2.0, 0.015, FRAMES)
    drift = 0.02 * np.sin(np.linspace(0, rng.uniform(1, 6), FRAMES) + rng.uniform(0, 6))
    bursts = np.zeros(FRAMES)
    for _ in range(rng.integers(0, 8)):
        start = rng.integers(FRAMES)
        bursts[start : start + rng.integers(20, 300)] = rng.uniform(0.02, 0.5)
    times = slowdown + jitter + np.abs(drift) + bursts * rng.uniform(0.2, 1.0, FRAMES)
    return bench_result(samples_ms={END_TO_END: tuple(times.tolist())}, frames=FRAMES)


def outcomes(pairs: Sequence[tuple[BenchResult, BenchResult]]) -> list[str]:
    return [compare([before], [after])[0].stages[0].outcome for before, after in pairs]


def test_two_runs_of_the_same_file_are_no_alarm_although_their_medians_differ() -> None:
    pairs = [(simulated(2 * seed), simulated(2 * seed + 1)) for seed in range(PAIRS)]
    medians = [np.median(b.samples_ms[END_TO_END]) / np.median(a.samples_ms[END_TO_END]) for a, b in pairs]
    assert sum(abs(ratio - 1) > THRESHOLD for ratio in medians) > PAIRS / 4  # the medians alone would cry
    told = outcomes(pairs)
    assert not {"slower", "faster"} & set(told), told


@pytest.mark.parametrize(("slowdown", "expected"), [(1.05, "slower"), (1 / 1.05, "faster")])
def test_a_change_of_5_percent_is_found(slowdown: float, expected: str) -> None:
    told = outcomes([(simulated(2 * seed), simulated(2 * seed + 1, slowdown)) for seed in range(PAIRS)])
    assert told == [expected] * PAIRS


def test_the_same_times_are_no_difference() -> None:
    (comparison,) = compare([simulated(1)], [simulated(1)])
    (change,) = comparison.stages
    assert (change.median.value, change.minimum.value, change.outcome) == (1.0, 1.0, "no difference")
    assert comparison.warnings == ()


@pytest.mark.parametrize(
    ("median", "fast", "minimum", "expected"),
    [
        (SLOWER, SLOWER, SLOWER, "slower"),
        (FASTER, FASTER, FASTER, "faster"),
        (CALM, CALM, CALM, "no difference"),
        (CALM, CALM, SLOWER, "slower"),
        (FASTER, CALM, SLOWER, "slower"),  # medians follow other work
        (SLOWER, CALM, CALM, "unclear"),
        (FASTER, FASTER, SLOWER, "unclear"),
        (SLOWER, SLOWER, FASTER, "unclear"),
        (SLOWER, SLOWER, Ratio(1.06, 0.98, 1.1), "unclear"),
        (SLIGHTLY, SLIGHTLY, SLIGHTLY, "no difference"),
    ],
)
def test_outcomes(median: Ratio, fast: Ratio, minimum: Ratio, expected: str) -> None:
    assert outcome_of(median, fast, minimum) == expected


def test_a_short_stage_needs_a_change_that_the_frame_would_feel() -> None:
    def run(decode_ms: float) -> BenchResult:
        jitter = np.random.default_rng(0).uniform(0, 0.001, FRAMES)
        return bench_result(samples_ms={"decode": tuple(decode_ms + jitter)})  # of a frame of 2 ms

    told = [compare([run(0.1)], [run(after_ms)])[0].stages[0] for after_ms in (0.105, 0.14)]
    assert [change.outcome for change in told] == ["no difference", "slower"]


def test_on_an_overloaded_machine_only_a_large_change_counts() -> None:
    busy = dataclasses.replace(ENVIRONMENT, load_average_1min=5.7, usable_cores=2)
    before = dataclasses.replace(simulated(0), environment=busy)
    told = [compare([before], [simulated(1, slowdown)])[0] for slowdown in (1.06, 1.15)]
    assert [comparison.stages[0].outcome for comparison in told] == ["unclear", "slower"]
    assert "other work before: a load average of 5.7 on 2 cores" in "\n".join(told[0].warnings)


def test_a_run_that_other_work_may_outlast_is_named() -> None:
    short = dataclasses.replace(simulated(1), frames=300)  # of 2 ms
    (comparison,) = compare([simulated(0)], [short])
    assert comparison.warnings == ("short after: 0.6 s of frames, which other work may outlast; leave out --frames",)


def test_runs_of_one_file_count_together() -> None:
    (comparison,) = compare([simulated(seed) for seed in range(3)], [simulated(seed) for seed in range(5, 10)])
    assert comparison.runs == (3, 5)


def test_artifacts_are_matched() -> None:
    def run(bundle: str, precision: str, threads: int | None) -> BenchResult:
        return dataclasses.replace(simulated(0), bundle=bundle, precision=precision, threads=threads)  # type: ignore[arg-type]

    before = [run("a.splite", "fp32", 1), run("a.splite", "int8", 1), run("a.splite", "int8", 2)]
    after = [run("b.splite", "fp32", 4), run("a.splite", "int8", 2), run("a.splite", "fp16", 1)]
    found = [(item.before, item.after) for item in compare(before, after)]
    assert found == [
        ("a.splite ort fp32, 1 thread", "b.splite ort fp32, 4 threads"),
        ("a.splite ort int8, 2 threads", "a.splite ort int8, 2 threads"),
    ]


def test_two_of_different_artifacts_are_compared_and_what_differs_is_told() -> None:
    other = dataclasses.replace(simulated(0, 1.2), backend="tflite", precision="int8", bundle="b.splite", batch=4)
    (comparison,) = compare([simulated(0)], [other])
    assert (comparison.before, comparison.after) == ("hand.splite ort fp32", "b.splite tflite int8")
    assert comparison.stages[0].outcome == "slower"
    assert comparison.warnings[:3] == (
        "artifact: ort fp32 before, tflite int8 after",
        "bundle: hand.splite before, b.splite after",
        "batch: 1 before, 4 after",
    )


def test_nothing_in_common() -> None:
    other = dataclasses.replace(simulated(0), backend="tflite")
    several = [other, dataclasses.replace(other, precision="int8")]
    said = "no artifact in common: ort fp32 before, tflite fp32, tflite int8 after"
    with pytest.raises(UsageError, match=said) as caught:
        compare([simulated(0)], several)
    assert "Name one line of each to compare these, such as before.jsonl:1" in caught.value.hint


def test_results_without_single_times_say_what_to_do() -> None:
    with pytest.raises(UsageError, match="no times of single frames") as caught:
        compare([bench_result(samples_ms={})], [simulated(0)])
    assert "Measure it again" in caught.value.hint


def test_what_else_differs_is_named() -> None:
    before = dataclasses.replace(simulated(0), threads=1)
    after = dataclasses.replace(
        simulated(0),
        threads=2,
        artifact_sha256="cd" * 32,
        environment=dataclasses.replace(ENVIRONMENT, nvpmodel="15W", governor="powersave", versions={"numpy": "2.0.0"}),
        windows=Windows(100, (1.0, 1.2, 1.5), False, 0.03),
    )
    (comparison,) = compare([before], [after])
    told = "\n".join(comparison.warnings)
    assert "threads: 1 before, 2 after" in told
    assert "file: model.onnx abababababab before, model.onnx cdcdcdcdcdcd after" in told
    assert "power mode: MAXN before, 15W after" in told
    assert "governor: not available before, powersave after" in told
    assert "numpy: 1.26.4 before, 2.0.0 after" in told
    assert "unsteady after" in told
    assert "processor" not in told
    console = Console(width=200)
    with console.capture() as captured:
        console.print(*comparison_tables([comparison]))
    text = " ".join(captured.get().split())
    assert "Power mode: MAXN before, 15W after." in text
    assert "no difference" in text


def test_the_table_says_what_to_do_where_it_is_unclear() -> None:
    calm = bench_result(samples_ms={MODEL_ONLY: tuple(1 + np.random.default_rng(0).uniform(0, 0.01, FRAMES))})
    disturbed = [time + (0.3 if index > 100 else 0) for index, time in enumerate(calm.samples_ms[MODEL_ONLY])]
    found = compare([calm], [dataclasses.replace(calm, samples_ms={MODEL_ONLY: tuple(disturbed)})])
    assert found[0].stages[0].outcome == "unclear"
    console = Console(width=200)
    with console.capture() as captured:
        console.print(*comparison_tables(found))
    assert "append several runs of each to its file" in " ".join(captured.get().split())


def test_times_of_nothing_and_stages_without_times_are_no_division_by_zero() -> None:
    base = simulated(1)
    stage = next(iter(base.samples_ms))
    nothing = dataclasses.replace(base, samples_ms={**base.samples_ms, stage: (0.0,) * len(base.samples_ms[stage])})
    for pair in ((nothing, base), (base, nothing), (nothing, nothing)):
        (found,) = compare([pair[0]], [pair[1]])
        assert all(np.isfinite([one.median.value, one.minimum.value]).all() for one in found.stages)
    empty = dataclasses.replace(base, samples_ms={**base.samples_ms, stage: ()})
    (found,) = compare([base], [empty])
    assert stage not in [one.stage for one in found.stages]
