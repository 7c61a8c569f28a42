"""Several artifacts beside each other, as tables."""

from __future__ import annotations

import dataclasses
import io

from bench_results import DEVIATION, EVALUATION, bench_result, stats_of
from rich.console import Console, RenderableType

from splite_deploy.bench.recommend import candidates_of, recommend
from splite_deploy.bench.report.side_by_side import limits_broken, ran_in, side_by_side_table, stages_table
from splite_deploy.bench.result import BenchResult, Windows
from splite_deploy.bundle.report import Layer, Percentiles

WIDE = 110
"""Columns where there is no terminal."""
INT8 = tuple(Layer(str(index), "Conv", "int8 -> int8" if index else "float32 -> int8", None) for index in range(10))


def other(**changes: object) -> BenchResult:
    stages = {**bench_result().stages, "end_to_end": stats_of(1.0)}
    moved = dataclasses.replace(DEVIATION, origin="measured", crops=8, deviation_px=Percentiles(0.0, 2.5e-4, 12.0))
    made = {"backend": "tflite", "precision": "int8", "stages": stages, "deviation": moved, "layers": INT8}
    return bench_result(**{**made, **changes})


def text_of(*tables: RenderableType, width: int = WIDE) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(*tables)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def side_by_side(*results: BenchResult) -> str:
    return text_of(side_by_side_table(results, recommend(candidates_of(results))))


def rows_of(text: str, name: str) -> list[str]:
    return next(line for line in text.splitlines() if name in line).split()


def test_a_row_has_every_figure_of_its_artifact() -> None:
    text = side_by_side(bench_result(), other(windows=Windows(100, (1.0, 2.0, 3.0), stable=False, tolerance=0.03)))
    assert max(map(len, text.splitlines())) <= WIDE
    first = rows_of(text, "ort fp32")
    assert first[:8] == ["ort", "fp32", "2.000", "2.200", "2.400", "1.00", "yes", "2.46"]
    assert first[8:] == ["0.25", "px", "1.5", "px", "1.6", "0.97", "float32"]
    second = rows_of(text, "tflite int8")
    assert second[2:8] == ["1.000", "1.100", "1.200", "NO", "2.46", "<0.001"]  # without an fp32 no speed-up
    assert second[-2:] == ["int8", "90%"] and "float32 10%" in text
    for part in ("Side by side, ms from image to keypoints", "0.4 mm", "0.2 %"):
        assert part in text
    said = " ".join(text.split())
    assert (
        "recorded when the bundle was made, on 64 crops (ort fp32); measured here, on 8 golden crops (tflite int8)"
        in (said)
    )


def test_columns_of_what_nobody_measured_are_left_out() -> None:
    results = [dataclasses.replace(one, deviation=None, accuracy=None) for one in (bench_result(), other())]
    text = side_by_side(*results)
    for part in ("Moves by", "PCK", "Error"):
        assert part not in text
    detector = dataclasses.replace(EVALUATION, epe_box_pct=None, pck_05=None)
    assert "PCK" not in side_by_side(*(dataclasses.replace(one, accuracy=detector) for one in results))


def test_of_several_bundles_each_is_named() -> None:
    lines = side_by_side(bench_result(), other(bundle="b.splite")).splitlines()
    named = [line.split() for line in lines if line.strip().startswith(("hand.splite", "b.splite", "ort", "tflite"))]
    assert [(words[0], words[1]) for words in named] == [
        ("hand.splite", "2.000"),
        ("ort", "fp32"),
        ("b.splite", "1.000"),
        ("tflite", "int8"),
    ]


def test_the_stages_and_what_was_measured_besides() -> None:
    text = text_of(stages_table([bench_result(), other(startup=None, memory=None)]))
    assert rows_of(text, "ort fp32") == ["ort", "fp32", "0.125", "1.250", "0.625", "1.188", "25", "3.5", "90", "300"]
    assert rows_of(text, "tflite int8") == ["tflite", "int8", "0.125", "1.250", "0.625", "1.188", "300"]
    said = " ".join(text.split())
    assert "ort fp32: Over 2 s without a pause:" in said and "tflite int8: Over 2 s without a pause:" in said
    assert "threads: default of the backend on cores 0, 1" in said


def test_limits_that_are_broken_are_told() -> None:
    beyond = dataclasses.replace(DEVIATION, violations=("keypoint deviation p95 3 px (limit 1 px)", "more"))
    told = limits_broken([bench_result(), other(deviation=beyond)])
    assert told == ["tflite int8 is over its limits: keypoint deviation p95 3 px (limit 1 px); more."]


def test_types_are_those_of_the_inputs_by_time_or_by_number() -> None:
    assert ran_in(other()) == ["int8 90%", "float32 10%"]
    timed = (Layer("a", "Conv", "float32[float16]", 97.0), Layer("b", "Cast", "bool", 3.0))
    assert ran_in(other(layers=timed)) == ["float32[float16]", "bool 3%"]
    assert ran_in(other(layers=())) == []
