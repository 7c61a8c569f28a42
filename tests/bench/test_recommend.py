"""Which artifact to ship: the rule on figures made by hand, and on any figures."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from bench_results import DEVIATION, ENVIRONMENT, EVALUATION, bench_result, stats_of
from hypothesis import given
from hypothesis import strategies as st

from splite_deploy.bench.recommend import (
    GAIN,
    Candidate,
    Recommendation,
    candidates_of,
    find_alike,
    recommend,
    recommend_of,
    speed_ups,
)
from splite_deploy.bench.result import BenchResult, Windows
from splite_deploy.bundle.report import Layer
from splite_deploy.errors import UsageError


def one(name: str, shortest_ms: float, **changes: Any) -> Candidate:
    backend, _, precision = name.partition(" ")
    made = Candidate(name, backend, precision, shortest_ms, shortest_ms * 1.1, shortest_ms * 1.5, steady=True)
    return dataclasses.replace(made, **changes)


def test_the_fastest_within_its_limits_with_its_figures_and_its_steadiness() -> None:
    found = recommend([one("ort fp32", 2.0), one("ort int8", 1.0), one("tflite int8", 0.9, against=("is odd",))])
    assert (found.ship, found.index) == ("ort int8", 1)
    assert found.reason == (
        "Ship ort int8: the fastest here within its limits, 1.000 ms at the least, p50 1.100 ms, p99 1.500 ms, "
        "2.00 times as fast as ort fp32, steady."
    )
    assert found.remarks == ("Tflite int8 is odd.",)
    assert found.speed_ups == (1.0, 2.0, None)
    assert found.line == f"{found.reason} Tflite int8 is odd."


def test_int8_that_does_not_pay_is_named() -> None:
    found = recommend([one("ort fp32", 1.0), one("ort int8", 0.97)])
    assert found.ship == "ort fp32"
    assert found.remarks == (
        "INT8 does not pay here: ort int8 takes 0.970 ms, and ort fp32 1.000 ms; it would have to be 5% faster.",
    )


def test_networks_that_find_different_things_have_a_choice_each() -> None:
    """The faster of a hand network and the detector before it does not do the work of both."""
    hand = {"network": "hand.splite", "finds": "21 keypoints in a box"}
    palm = {"network": "palm.splite", "finds": "2 keypoints in a whole picture"}
    rows = [one("hand fp32", 2.0, **hand), one("hand int8", 1.0, **hand), one("palm fp32", 0.5, **palm)]
    found = recommend(rows, budget_ms=1.0)
    assert (found.ship, found.index, found.speed_ups) == (None, None, speed_ups(rows))
    assert found.reason == (
        "Ship one of each kind: none takes the place of another, since hand.splite finds 21 keypoints in a box, and "
        "palm.splite finds 2 keypoints in a whole picture."
    )
    assert found.remarks == (recommend(rows[:2], budget_ms=1.0).line, recommend(rows[2:], budget_ms=1.0).line)
    assert found.remarks[1].startswith("Ship palm fp32: the only one here")
    assert found.budget is not None and found.budget.met == ("palm fp32",)

    unknown = one("net fp32", 0.4, network="net.onnx")
    assert recommend([*rows, unknown]).ship == "net fp32"  # what it finds may be the same


def test_what_a_network_finds_is_read_from_its_result() -> None:
    hand = bench_result(keypoints=21)
    palm = bench_result(bundle="palm.splite", artifact_sha256="1" * 64, keypoints=2, people_per_image=1.5)
    boxes = dataclasses.replace(palm, keypoints=0)
    assert [row.finds for row in candidates_of([hand, palm, boxes])] == [
        "21 keypoints in a box", "2 keypoints in a whole picture", "boxes in a whole picture",
    ]  # fmt: skip
    assert not find_alike([hand, palm]) and find_alike([hand, dataclasses.replace(palm, keypoints=None)])


def test_of_a_tie_the_first_is_shipped_and_the_others_are_named() -> None:
    found = recommend([one("ort fp32", 1.0), one("tflite fp32", 1.0), one("slow fp32", 1.06)])
    assert found.ship == "ort fp32" and found.remarks == ("As fast within 5%: tflite fp32.",)


def test_what_other_work_disturbed_is_named_and_no_ratio_claimed() -> None:
    found = recommend([one("ort fp32", 2.0, steady=False), one("ort int8", 1.0)])
    assert found.ship == "ort int8" and "times as fast as" not in found.reason and found.reason.endswith("steady.")
    assert found.remarks == (
        "Other work disturbed the timing of ort fp32: how many times as fast one is cannot be said; measure again on a "
        "machine at rest.",
    )
    assert recommend([one("ort fp32", 2.0, steady=False)]).reason.endswith(", unsteady.")


def test_none_within_its_limits() -> None:
    found = recommend([one("ort fp32", 1.0, against=("is over its limits",))], budget_ms=5)
    assert (found.ship, found.index, found.remarks) == (None, None, ())
    assert found.reason == "Ship none of them: ort fp32 is over its limits."


def test_a_file_that_nobody_compared_is_not_shipped_beside_those_that_were() -> None:
    unknown = Candidate("net.onnx ort", "ort", None, 0.5, 0.6, 0.7, True, network="net.onnx", compared=False)
    found = recommend([one("ort fp32", 1.0, network="a.splite"), unknown])
    assert found.ship == "ort fp32"
    assert "net.onnx ort is faster (0.500 ms), but nobody compared its keypoints: verify it first." in found.remarks
    alone = recommend([unknown])
    assert alone.reason.startswith("Ship net.onnx ort: the only one here, 0.500 ms at the least")
    assert alone.remarks == ("Nobody compared its keypoints with those of the original: verify it first.",)


def test_each_network_has_its_own_choice_and_the_most_accurate_is_named() -> None:
    """An int8 of another network need not be 5 % faster than the fp32 of this one: it is no lower precision of it."""
    rows = [
        one("a fp32", 1.0, network="a", error_box_pct=2.0),
        one("b int8", 0.99, network="b", error_box_pct=3.0),
        one("c fp32", 5.0, network="c", error_box_pct=1.0, against=("is over its limits",)),
    ]
    found = recommend(rows)
    assert found.ship == "b int8"
    assert "The most accurate is a fp32: error 2.00 % of the box instead of 3.00 %, in 1.000 ms." in found.remarks
    blind = recommend([dataclasses.replace(row, error_box_pct=None) for row in rows])
    assert "The networks differ: --eval LABELS says which is how accurate." in blind.remarks


@pytest.mark.parametrize(
    ("budget_ms", "said"),
    [
        (33.0, "It keeps the budget of 33 ms (30.3 frames per second): p99 15.000 ms. tflite fp32 does, too."),
        (12.0, "It does not keep the budget of 12 ms (83.3 frames per second): p99 15.000 ms; half of its frames do."),
        (5.0, "It does not keep the budget of 5 ms (200 frames per second): p99 15.000 ms; not even half of its frames "
              "do."),
    ],
)  # fmt: skip
def test_the_budget_is_that_of_99_frames_in_100(budget_ms: float, said: str) -> None:
    rows = [one("ort fp32", 10.0), one("tflite fp32", 20.0), one("ort int8", 1.0, against=("is over its limits",))]
    found = recommend(rows, budget_ms=budget_ms)
    assert found.ship == "ort fp32" and found.remarks[-1] == said and found.budget is not None
    assert found.budget.met == tuple(row.name for row in rows if (row.p99_ms or 0) <= budget_ms)
    assert set(found.budget.met) | set(found.budget.missed) == {row.name for row in rows}


@pytest.mark.parametrize(("budget_ms", "kept"), [(33.0, True), (0.5, False)])
def test_a_budget_is_of_more_than_the_network_alone(budget_ms: float, kept: bool) -> None:
    alone = bench_result()
    alone = dataclasses.replace(alone, bundle="", stages={"model_only": alone.stages["model_only"]})
    said = recommend(candidates_of([alone]), budget_ms=budget_ms).remarks[-1]
    assert said.startswith("It keeps" if kept else "It does not keep")
    assert said.endswith(" Only the network was timed: preparing a picture and decoding come on top.")
    whole = recommend(candidates_of([bench_result()]), budget_ms=budget_ms)
    assert "Only the network" not in whole.line


def test_a_budget_that_other_work_may_have_broken() -> None:
    found = recommend([one("ort fp32", 10.0, steady=False)], budget_ms=12)
    assert found.remarks[-1].endswith("half of its frames do; other work on the machine may be the cause.")


def test_nothing_to_recommend() -> None:
    with pytest.raises(UsageError, match="nothing to recommend") as caught:
        recommend([])
    assert caught.value.hint == "Measure at least one artifact."


NAMES = [f"{backend} {precision}" for backend in ("ort", "tflite", "trt") for precision in ("fp32", "fp16", "int8")]
CANDIDATES = st.lists(
    st.builds(
        one,
        st.sampled_from(NAMES),
        st.floats(0.01, 1000),
        network=st.sampled_from(["a", "b"]),
        steady=st.sampled_from([True, False, None]),
        compared=st.booleans(),
        against=st.sampled_from([(), (), ("is over its limits",)]),
        error_box_pct=st.one_of(st.none(), st.floats(0, 50)),
    ),
    min_size=1,
    max_size=9,
).map(lambda rows: [dataclasses.replace(row, name=f"{row.name} {number}") for number, row in enumerate(rows)])


@given(CANDIDATES, st.one_of(st.none(), st.floats(0.1, 100)))
def test_what_is_shipped_is_allowed_and_hardly_slower_than_any_other(
    rows: list[Candidate], budget_ms: float | None
) -> None:
    found = recommend(rows, budget_ms=budget_ms)
    allowed = [row for row in rows if not row.against]
    pool = [row for row in allowed if row.compared] or allowed
    assert (found.ship is None) == (not allowed)
    if found.index is None:
        assert found.reason.startswith("Ship none of them: ")
        return
    best = rows[found.index]
    assert best.name == found.ship and best in pool and f"Ship {best.name}: " in found.line
    # Three precisions are passed over at most twice, each for less than 5 %.
    assert all(row.shortest_ms * GAIN**2 > best.shortest_ms * (1 - 1e-9) for row in pool)
    same = [row for row in pool if (row.network, row.precision) == (best.network, best.precision)]
    assert best.shortest_ms == min(row.shortest_ms for row in same)


@given(CANDIDATES, st.randoms(use_true_random=False))
def test_the_order_decides_ties_alone(rows: list[Candidate], random: Any) -> None:
    if len({row.shortest_ms for row in rows}) < len(rows):
        return
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert recommend(rows).ship == recommend(shuffled).ship


@given(CANDIDATES, st.floats(1.0, 3.0))
def test_to_become_slower_never_helps(rows: list[Candidate], factor: float) -> None:
    """Whoever is not shipped is not shipped for being slower."""
    before = recommend(rows)
    for index, row in enumerate(rows):
        if index != before.index:
            slower = [*rows[:index], dataclasses.replace(row, shortest_ms=row.shortest_ms * factor), *rows[index + 1 :]]
            assert recommend(slower).ship != row.name or row.shortest_ms * factor == row.shortest_ms


# --- of results ---


def timed(precision: str = "fp32", p50_ms: float = 2.0, **changes: Any) -> BenchResult:
    stages = {**bench_result().stages, "end_to_end": stats_of(p50_ms)}
    made = {"precision": precision, "stages": stages, "artifact_sha256": f"{precision}{p50_ms}"}
    return bench_result(**{**made, **changes})


def recommended(*results: BenchResult) -> Recommendation:
    found = recommend_of(results)
    assert found is not None
    return found


def test_results_of_one_bundle_are_called_by_backend_and_precision() -> None:
    found = recommended(timed(), timed("int8", 1.0, accuracy=None, layers=()))
    assert found.ship == "ort int8" and "2.00 times as fast as ort fp32" in found.reason
    named = [row.name for row in candidates_of([timed(), timed(bundle="b.splite"), timed(bundle="b.splite")])]
    assert named == ["hand.splite ort fp32", "b.splite ort fp32 (1)", "b.splite ort fp32 (2)"]


@pytest.mark.parametrize(
    ("instructions", "said"),
    [
        (None, ""),
        (("avx2",), "; this processor has no instructions for products of int8 (VNNI, dot products)"),
        (("asimd", "asimddp"), ""),
    ],
)
def test_why_int8_does_not_pay_on_a_processor(instructions: tuple[str, ...] | None, said: str) -> None:
    machine = dataclasses.replace(ENVIRONMENT, instructions=instructions)
    (remark,) = recommended(timed(environment=machine), timed("int8", environment=machine, layers=())).remarks
    assert remark.startswith("INT8 does not pay here: ") and remark.endswith(f" 5% faster{said}.")


def test_what_speaks_against_a_result() -> None:
    beyond = dataclasses.replace(DEVIATION, violations=("keypoint deviation p95 3 px (limit 1 px)",))
    layers = tuple(Layer(str(index), "Conv", "float32" if index else "int8", 1.0) for index in range(5))
    unsteady = Windows(100, (1.0, 2.0, 3.0), stable=False, tolerance=0.03)
    found = recommended(
        timed("fp32", 9.0, windows=unsteady),
        timed("fp16", 1.0, deviation=beyond),
        timed("int8", 0.5, layers=layers),
        timed("fp32", 0.1, backend="replay"),
    )
    assert found.ship == "ort fp32" and found.reason.endswith(", unsteady.")
    for said in (
        "Ort fp16 is over its limits.",
        "Ort int8 is int8 by name alone: 4 of its 5 layers are in float.",
        "Replay fp32 runs no network.",
        "Other work disturbed the timing of ort fp32",
    ):
        assert any(remark.startswith(said) for remark in found.remarks), said


def test_a_file_alone_beside_a_bundle_is_compared_by_the_model_alone() -> None:
    made = {"bundle": "", "artifact_file": "net.onnx", "artifact_sha256": "x", "precision": None, "deviation": None}
    alone = bench_result(**made, stages={"model_only": stats_of(0.5)})
    rows = candidates_of([timed(), alone])
    assert [row.p50_ms for row in rows] == [1.1875, 0.5] and [row.compared for row in rows] == [True, False]


@pytest.mark.parametrize(
    "other",
    [
        timed("int8", 1.0, environment=dataclasses.replace(ENVIRONMENT, cpu_model="Another CPU")),
        timed("int8", 1.0, environment=dataclasses.replace(ENVIRONMENT, gpus=("NVIDIA H100",))),
        timed("int8", 1.0, batch=4),
        timed("int8", 1.0, threads=4),
        timed(accuracy=EVALUATION),
    ],
)
def test_results_that_cannot_be_compared(other: BenchResult) -> None:
    """Of other machines, such as engines of other devices, in other conditions, or of the same file again."""
    assert recommend_of([timed(), other]) is None
    assert recommend_of([]) is None
