"""Limits on results."""

from __future__ import annotations

import dataclasses
import json

import pytest
from bench_results import EVALUATION, bench_result, stats_of

from splite_deploy.bench import BenchResult
from splite_deploy.bench.gates import METRICS, Gate, check
from splite_deploy.bench.loop import END_TO_END, MODEL_ONLY
from splite_deploy.bundle.report import BoxAccuracy
from splite_deploy.errors import GateError, UsageError


def slow() -> dict[str, object]:
    return {END_TO_END: dataclasses.replace(stats_of(20.0), p99_ms=41.2), MODEL_ONLY: stats_of(10.0)}


def test_a_limit_that_is_not_kept_says_by_how_much() -> None:
    result = bench_result(stages=slow())
    with pytest.raises(GateError) as caught:
        check([Gate.parse("p99_ms>33")], [result])
    assert caught.value.message == "p99_ms is 41.2, 8.2 over the limit of 33 (ort fp32)"
    assert "--fail-if" in caught.value.hint


def test_every_limit_that_is_not_kept_has_a_line() -> None:
    gates = [Gate.parse(text) for text in ("p99_ms > 33", "epe_box_pct>=1.5", "pck_05<0.98", "model_mb>100")]
    with pytest.raises(GateError) as caught:
        check(gates, [bench_result(stages=slow()), bench_result(precision="int8", stages=slow())])
    lines = caught.value.message.splitlines()
    assert len(lines) == 6
    assert lines[1] == "epe_box_pct is 1.6, 0.1 over the limit of 1.5 (ort fp32)"
    assert lines[2] == "pck_05 is 0.97, 0.01 under the limit of 0.98 (ort fp32)"
    assert lines[3].endswith("(ort int8)")


def test_results_of_several_bundles_are_called_by_them() -> None:
    with pytest.raises(GateError) as caught:
        check([Gate.parse("deviation_max_px>1")], [bench_result(), bench_result(bundle="b.splite")])
    first, second = caught.value.message.splitlines()
    assert first == "deviation_max_px is 1.5, 0.5 over the limit of 1 (hand.splite ort fp32)"
    assert second.endswith("(b.splite ort fp32)")


def test_limits_that_are_kept() -> None:
    check(
        [Gate.parse("p99_ms>33"), Gate.parse("epe_box_pct>2.5"), Gate.parse("frames_per_second<30")], [bench_result()]
    )


@pytest.mark.parametrize(
    ("text", "fails"), [("p50_ms>2", False), ("p50_ms>=2", True), ("p50_ms<2", False), ("p50_ms<=2", True)]
)
def test_the_limit_itself(text: str, fails: bool) -> None:
    assert (Gate.parse(text).failure(bench_result()) is not None) == fails


BOXES = ("ap_30", "ap_50", "recall_30", "recall_50", "false_alarms")
_RARE = ("host_to_device", "compute", "device_to_host", "oks_ap", "handedness", *BOXES)
RARE = [name for name in METRICS if name.startswith(_RARE)]
ALWAYS = ["mean_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms", "frames_per_second"]
ALWAYS += [name for name in METRICS if name.startswith(MODEL_ONLY)]


@pytest.mark.parametrize("metric", [name for name in METRICS if name not in RARE])
def test_every_metric_is_read(metric: str) -> None:
    assert Gate.parse(f"{metric}<1e9").failure(bench_result()) is not None
    assert Gate.parse(f"{metric}<0").failure(bench_result()) is None


@pytest.mark.parametrize("metric", BOXES)
def test_figures_of_a_detector_are_read(metric: str) -> None:
    boxes = BoxAccuracy(337, 0.9, 0.6, 0.4, 0.9, 0.6, 100, 0.05)
    result = bench_result(accuracy=dataclasses.replace(EVALUATION, boxes=boxes))
    assert Gate.parse(f"{metric}<1").failure(result) is not None and Gate.parse(f"{metric}<0").failure(result) is None
    read = BenchResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert read.accuracy is not None and read.accuracy.boxes == boxes


@pytest.mark.parametrize("metric", [name for name in METRICS if name not in ALWAYS])
def test_every_metric_that_was_not_measured_says_what_it_needs(metric: str) -> None:
    bare = bench_result(accuracy=None, memory=None, startup=None, sustained=None, streams=None, model_bytes=None)
    bare = dataclasses.replace(bare, deviation=None, stages={MODEL_ONLY: bare.stages[MODEL_ONLY]})
    with pytest.raises(UsageError, match=f"^{metric} was not measured") as caught:
        Gate.parse(f"{metric}>1").failure(bare)
    assert caught.value.hint.endswith(".")


def test_accuracy_that_was_not_measured_says_what_to_add() -> None:
    with pytest.raises(UsageError, match=r"epe_box_pct was not measured \(ort fp32\)") as caught:
        check([Gate.parse("epe_box_pct>2.5")], [bench_result(accuracy=None)])
    assert caught.value.hint == "Add --eval LABELS."


def test_errors_of_nobody_are_no_figure() -> None:
    nobody = {"images": 0, **dict.fromkeys(("epe_px", "epe_box_pct", "pck_05", "pck_auc"))}
    boxes = BoxAccuracy(337, 0.0, 0.0, 0.4, 0.0, 0.0, 100, 0.05)
    result = bench_result(accuracy=dataclasses.replace(EVALUATION, boxes=boxes, **nobody))
    with pytest.raises(UsageError, match=r"pck_05 was not measured \(ort fp32\)") as caught:
        check([Gate.parse("pck_05<0.9")], [result])
    assert caught.value.hint == "None of those who are labelled was found: set limits on ap_30, ap_50 or recall_50."
    with pytest.raises(GateError, match=r"ap_50 is 0, 0\.6 under the limit of 0\.6"):
        check([Gate.parse("ap_50<0.6")], [result])
    read = BenchResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert read.accuracy == result.accuracy


def test_an_unknown_metric_lists_all() -> None:
    with pytest.raises(UsageError, match="no metric 'p98_ms'") as caught:
        Gate.parse("p98_ms>3")
    assert all(metric in caught.value.hint for metric in METRICS)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("p98_ms", "p99_ms or p90_ms"),
        ("fps", "frames_per_second"),
        ("epe_pct", "epe_box_pct"),
        ("oks_app", "oks_ap"),
        ("recall_20", "recall_50 or recall_30"),
        ("model_only_p90ms", "model_only_p90_ms"),
    ],
)
def test_a_misspelt_metric_is_recognised(typed: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"no metric '{typed}'") as caught:
        Gate.parse(f"{typed}>3")
    assert caught.value.hint.startswith("Did you mean ") and meant in caught.value.hint.partition("?")[0]


def test_a_metric_that_is_like_none_has_no_suggestion() -> None:
    with pytest.raises(UsageError, match="no metric 'colour'") as caught:
        Gate.parse("colour>3")
    assert caught.value.hint.startswith("There are: mean_ms")


@pytest.mark.parametrize("text", ["", "p99_ms", "p99_ms=3", "p99_ms>", "p99_ms>fast", "p99_ms>nan", "p99_ms>1>2", ">3"])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(UsageError, match="is not METRIC, comparison and number") as caught:
        Gate.parse(text)
    assert "p99_ms>33" in caught.value.hint
