"""Which artifact to ship: the rule on rows made by hand, and the timing that feeds it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from splite_deploy.bench.interleaved import BLOCK_FRAMES
from splite_deploy.bundle import TensorSpec
from splite_deploy.bundle.report import ExcludedLayer, Layer, LayerSearch, Mixture, Percentiles, RecommendationRow
from splite_deploy.device.int8 import Int8Instructions
from splite_deploy.export import recommend as verdict
from splite_deploy.export.recommend import (
    choose,
    decide_on_device,
    device_notes,
    mostly_float,
    saturation_note,
    time_sessions,
)
from splite_deploy.spec import LimitSpec


def row(label: str, p50_ms: float, speed_up: float | None = None, **changed: Any) -> RecommendationRow:
    backend, _, precision = label.partition(" ")
    none = Percentiles(0.0, 0.0, 0.0)
    made = RecommendationRow(backend, precision, 1000, p50_ms, speed_up, none, None, "", 0, within_limits=True)
    return replace(made, **{"min_ms": p50_ms, "steady": True, **changed})


def test_int8_that_gains_nothing_is_not_shipped() -> None:
    ship, reason = choose([row("ort fp32", 1.97, 1.0), row("ort int8", 1.93, 1.02)])
    assert ship == "ort fp32"
    assert reason.startswith("Ship ort fp32: the fastest here within its limits, 1.970 ms.")
    assert "INT8 does not pay here: ort int8 takes 1.930 ms, and ort fp32 1.970 ms; it would have to be 5% faster." in (
        reason
    )


@pytest.mark.parametrize(("int8_ms", "shipped"), [(1.0, "ort int8"), (1.9, "ort int8"), (1.91, "ort fp32")])
def test_five_percent_decide(int8_ms: float, shipped: str) -> None:
    ship, reason = choose([row("ort fp32", 2.0, 1.0), row("ort int8", int8_ms, 2.0 / int8_ms)])
    assert ship == shipped
    assert (f"{2.0 / int8_ms:.2f} times as fast as ort fp32" in reason) == (shipped == "ort int8")


def test_a_fast_artifact_over_its_limits_is_not_shipped() -> None:
    rows = [row("ort fp32", 2.0), row("ort int8", 0.5, within_limits=False), row("tflite int8", 1.5)]
    ship, reason = choose(rows)
    assert ship == "tflite int8" and "Ort int8 is over its limits." in reason
    ship, reason = choose(rows[:2])
    assert ship == "ort fp32" and "over its limits" in reason


def test_the_best_backend_of_a_precision_counts_and_each_precision_has_to_pay() -> None:
    rows = [row("tflite int8", 0.88), row("ort fp32", 2.0), row("tflite fp32", 0.9), row("ort fp16", 3.0)]
    ship, reason = choose(rows)
    assert ship == "tflite fp32"
    assert "FP16 does not pay here: ort fp16 takes 3.000 ms, and tflite fp32 0.900 ms" in reason
    assert "INT8 does not pay here: tflite int8 takes 0.880 ms" in reason
    # fp16 pays, and int8 is then held against it
    ship, reason = choose([row("ort fp32", 2.0), row("ort fp16", 1.0), row("ort int8", 0.97)])
    assert ship == "ort fp16" and "and ort fp16 1.000 ms" in reason


def test_nothing_is_shipped_where_all_are_over_their_limits() -> None:
    ship, reason = choose([row("ort fp32", 1.0, within_limits=False)])
    assert ship is None and reason.startswith("Ship none of them: ort fp32 is over its limits.")


class Sleeping:
    """A session that takes a known time."""

    inputs = (TensorSpec("image", (1, 3, 4, 4), "float32", "NCHW", "image"),)
    outputs = ()

    def __init__(self, seconds: float) -> None:
        self.seconds, self.calls = seconds, 0

    def run(self, feeds: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        assert feeds["image"].shape == (1, 3, 4, 4)
        self.calls += 1
        time.sleep(self.seconds)
        return {}

    def close(self) -> None: ...


def test_slow_artifacts_are_timed_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "SECONDS", 0.1)
    sessions = {"slow": Sleeping(0.02), "fast": Sleeping(0.001)}
    timings = time_sessions(sessions, dict.fromkeys(sessions, np.zeros((3, 3, 4, 4), np.float32)))
    slow, fast = timings["slow"], timings["fast"]
    assert slow.p50_ms >= slow.min_ms >= 20 > fast.p50_ms >= fast.min_ms >= 1
    assert sessions["slow"].calls == sessions["fast"].calls <= 5 + 1 + 6 * BLOCK_FRAMES


def test_no_ratio_is_claimed_where_the_timing_was_disturbed() -> None:
    rows = [row("ort fp32", 9.0, 1.0, min_ms=2.0, steady=False), row("ort int8", 1.2, 2.0, min_ms=1.0)]
    ship, reason = choose(rows)
    assert ship == "ort int8" and "times as fast as" not in reason
    assert "Other work disturbed the timing of ort fp32" in reason and "export again on a machine at rest" in reason


def test_the_shortest_latency_decides() -> None:
    rows = [row("ort fp32", 2.0, min_ms=1.0), row("ort int8", 1.5, min_ms=1.4)]
    assert choose(rows)[0] == "ort fp32"


def test_the_device_decides() -> None:
    assert decide_on_device("ort int8", "hand.splite") == (
        "This speaks of this machine's CPU alone. Decide on the device: splite-deploy bench hand.splite."
    )
    assert decide_on_device(None, "hand.splite") == "This speaks of this machine's CPU alone."


def test_what_other_cpus_do_is_said_of_the_artifacts_that_are_there() -> None:
    layers = [Layer("a", "CONV_2D", "int8", None), Layer("b", "DEPTHWISE_CONV_2D", "int8", None)]
    told = device_notes({"ort fp16": [], "ort int8": [], "tflite int8": layers}, WITH, trained=False, reduced=False)
    assert [text.split(" ")[0] for text in told] == ["Sums", "ONNX", "ARM", "1"]
    assert "four times the deviation" in told[1] and "Cortex-A53, A72" in told[2]
    assert told[3] == "1 of its 2 convolutions in int8 are depthwise, which gain nothing there either."
    assert len(device_notes({"ort fp16": []}, WITH, trained=False, reduced=False)) == 1
    assert device_notes({"ort int8": []}, WITHOUT, trained=False, reduced=True) == []
    arm = Int8Instructions(True, False, ("asimddp",))
    assert device_notes({"ort fp16": [], "tflite int8": layers}, arm, trained=False, reduced=False) == []


WITH, WITHOUT = Int8Instructions(True, True, ("avx_vnni",)), Int8Instructions(True, True, ())
ARM, UNKNOWN = Int8Instructions(True, False, ()), Int8Instructions(False, False, ())


@pytest.mark.parametrize("cpu", [WITH, ARM, UNKNOWN])
def test_an_int8_graph_with_weights_of_8_bits_names_the_cpus_where_it_saturates(cpu: Int8Instructions) -> None:
    note = saturation_note(cpu, trained=False)
    assert note.startswith(
        "Sums of int8 can saturate in ONNX Runtime on an x86 CPU without VNNI and AMX: export for it"
    )
    assert note.endswith("with --reduce-range.")


def test_a_cpu_where_int8_saturates_is_named() -> None:
    assert saturation_note(WITHOUT, trained=False).startswith("This CPU has neither VNNI nor AMX, so that")
    assert "--reduce-range" not in saturation_note(WITHOUT, trained=True)
    assert saturation_note(WITHOUT, trained=True).endswith("check it there with 'splite-deploy verify'.")


def test_int8_by_name_alone_is_not_recommended() -> None:
    """45 of 46 layers in float, and fast by chance."""
    limits, nothing = LimitSpec(1.0, 6.0, 1.0), Mixture(Percentiles(0.1, 0.1, 0.1), None, "", 1.0)

    def search(excluded: int) -> LayerSearch:
        layers = tuple(ExcludedLayer(f"conv{i}", "Conv", 1.0) for i in range(excluded))
        return LayerSearch("ort int8", 46, limits, nothing, nothing, layers)

    rows = [row("ort fp32", 2.0, 1.0), row("ort int8", 1.0, 2.0)]
    ship, reason = choose(rows, mostly_float([search(45)]))
    assert ship == "ort fp32" and "Ort int8 is int8 by name alone: 45 of its 46 layers are in float." in reason
    assert choose(rows, mostly_float([search(10)]))[0] == "ort int8"
    ship, reason = choose(rows[1:], mostly_float([search(45)]))
    assert ship is None and reason.startswith("Ship none of them: ort int8 is int8 by name alone")
