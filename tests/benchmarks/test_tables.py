"""Tables and picture from recorded results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bench_results import bench_result, stats_of
from make_tables import BACKENDS, CARD, HOW, PALM, README, RESULTS, SECTIONS, write_tables

from splite_deploy.bench.loop import STAGES
from splite_deploy.bench.result import KeypointDeviation
from splite_deploy.bundle.report import Layer, Percentiles

ENVIRONMENT = {"board": None, "cpu_model": "Some CPU", "logical_cores": 2}
ACCURACY = {"images": 9, "mean_error_box_pct": 1.5, "pck_05": 0.97, "pa_mpjpe_mm": 6.0}
LATENCY = {"count": 100, "p50_ms": 0.5, "p90_ms": 0.6, "p99_ms": 0.7}
RATIO = {"value": 2.0, "low": 1.9, "high": 2.1}


def tradeoff_record(name: str, date: str, p50_ms: float) -> dict[str, Any]:
    return {
        "kind": "trade-off",
        "date_utc": date,
        "name": name,
        "reference": "dense",
        "size": {"parameters": 600_000, "macs": 51_000_000, "checkpoint_bytes": 2_460_000},
        "latency": {**LATENCY, "p50_ms": p50_ms},
        "speed_up": RATIO,
        "accuracy": ACCURACY,
        "environment": ENVIRONMENT,
    }


def mediapipe_record() -> dict[str, Any]:
    return {
        "kind": "mediapipe-hands",
        "date_utc": "2026-01-01T00:00:00+00:00",
        "checkpoint": "hand.safetensors",
        "ours": "ours",
        "files": {name: {"bytes": 2_000_000, "sha256": "ab" * 32} for name in ("ours", "lite")},
        "latency": {"ours": LATENCY, "ours, estimator": LATENCY, "lite": {**LATENCY, "p50_ms": 1.0}},
        "ratios": {"lite": {"ours": RATIO}},
        "accuracy": {"ours": ACCURACY, "lite": {**ACCURACY, "mean_error_box_pct": 1.8}},
        "strangers": {
            "ours": {**ACCURACY, "mean_error_box_pct": 12.6},
            "lite": {**ACCURACY, "mean_error_box_pct": 6.3},
        },
        "caveat": "Labels of another network.",
        "environment": ENVIRONMENT,
    }


def solution_record() -> dict[str, Any]:
    return {
        "kind": "mediapipe-solution",
        "date_utc": "2026-01-01T00:00:00+00:00",
        "checkpoint": "hand.safetensors",
        "mediapipe": "0.10.14",
        "frame_px": [640, 480],
        "clips": 9,
        "ours": "ours",
        "latency": {"ours": LATENCY, "solution": {**LATENCY, "p50_ms": 1.0}},
        "first": {"ours": LATENCY, "solution": {**LATENCY, "p50_ms": 9.0}},
        "ratios": {"solution": RATIO},
        "accuracy": {"ours": {**ACCURACY, "lost": 0}, "solution": {**ACCURACY, "lost": 2}},
        "environment": ENVIRONMENT,
    }


def pipeline_record() -> dict[str, Any]:
    found = {
        "found_pct": 97.25,
        "close_pct": 91.0,
        "wrong_per_100_frames": 0.5,
        "switches": 0,
        "left": 0,
        "id_again": 0,
        "lose_frames_most": None,
        "error_box_pct": 3.456,
        "still_px": None,
        "shake_px": 1.25,
        "behind_ms": 0.5,
    }
    left = {**found, "left": 2, "id_again": 1, "lose_frames_most": 3, "error_box_pct": None, "shake_px": 0.75}
    ours, other = ({"p50_ms": time, "minimum_ms": time / 2} for time in (0.5, 4.0))
    return {
        "kind": "pipeline",
        "date_utc": "2026-01-01T00:00:00+00:00",
        "checkpoint": "hand.safetensors",
        "detector": "palm.splite",
        "mediapipe": "0.10.21",
        "split": "val",
        "frame_px": [640, 480],
        "clips": {"one": 6, "leaving": 4},
        "latency": {"ours": {"one": ours, "leaving": ours}, "solutions.hands, lite": {"one": other, "leaving": other}},
        "found": {name: {"one": found, "leaving": left} for name in ("ours", "solutions.hands, lite")},
        "smoothed": {name: {"one": found, "leaving": found} for name in ("ours", "solutions.hands, lite")},
        "environment": ENVIRONMENT,
    }


def profile_record() -> dict[str, Any]:
    kinds = [
        {"kind": "CONV_2D", "count": 2, "time_us": 75.0, "share": 0.75, "macs": 3_000_000},
        {"kind": "ADD", "count": 1, "time_us": 25.0, "share": 0.25, "macs": 0},
    ]
    return {
        "kind": "litert-profile",
        "date_utc": "2026-01-01T00:00:00+00:00",
        "frames": 200,
        "networks": {"ours": {"time_us": 100.0, "kinds": kinds, "layers": [{}, {}, {}]}},
        "environment": ENVIRONMENT,
    }


def decoders_record() -> dict[str, Any]:
    return {
        "kind": "decoders",
        "date_utc": "2026-01-01T00:00:00+00:00",
        "checkpoint": "hand.safetensors",
        "heatmap": [1, 21, 32, 32],
        "latency": {"argmax": LATENCY},
        "accuracy": {"argmax": {**ACCURACY, "pa_mpjpe_mm": None}},
        "environment": ENVIRONMENT,
    }


def conversion_record() -> dict[str, Any]:
    return {
        "kind": "onnx2tf-time",
        "date_utc": "2026-01-01T00:00:00+00:00",
        "model": "hand",
        "onnx2tf": "1.29.24",
        "seconds": {"onnx2tf -i model.onnx": [30.0, 20.0, 25.0], "splite-deploy": [10.0, 9.0, 12.0]},
        "environment": ENVIRONMENT,
    }


def topologies_record(label: str, reason: str) -> dict[str, Any]:
    cell = {"topology": "unet", "name": "U-Net", "backend": "ort", "precision": "fp32", "p95_px": 0.0, "reason": ""}
    mixed = {"precision": "int8", "p95_px": 0.25, "floats": 2, "layers": 20}
    engine = {"backend": "trt", "precision": "int8", "p95_px": None, "reason": reason}
    cells = [{**cell, "floats": 0, "layers": None, **changes} for changes in ({}, mixed, engine)]
    return {"kind": "topologies", "date_utc": "2026-01-01T00:00:00+00:00", "label": label, "cells": cells}


def power_record() -> dict[str, Any]:
    return {
        "kind": "compare-power",
        "date_utc": "2026-01-01T00:00:00+00:00",
        "pairs": 20,
        "frames": 1000,
        "slowdown": 0.05,
        "outcomes": {"same": {"no difference": 15, "unclear": 5}, "slowed": {"slower": 20}},
        "median_ratios": {"same": [0.9, 1.1], "slowed": [1.0, 1.2]},
        "minimum_ratios": {"same": [0.99, 1.01], "slowed": [1.04, 1.06]},
        "environment": ENVIRONMENT,
    }


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Pages with all markers and nothing between them, and no results."""
    for page in (README, CARD, PALM, HOW, BACKENDS):
        markers = [f"{section.begin}\n{section.end}\n" for section in SECTIONS if page in section.pages]
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / page).write_text("# Head\n\n" + "\n".join(markers) + "\nTail\n", encoding="utf-8")
    (tmp_path / RESULTS).mkdir()
    return tmp_path


def record(repository: Path, name: str, *records: dict[str, Any]) -> None:
    with (repository / RESULTS / name).open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(item) + "\n" for item in records)


def test_without_results_nothing_is_required(repository: Path) -> None:
    before = (repository / CARD).read_text(encoding="utf-8")
    (repository / HOW).write_text("no markers\n", encoding="utf-8")
    assert write_tables(repository, check=True) == []
    assert write_tables(repository, check=False) == []
    assert (repository / CARD).read_text(encoding="utf-8") == before


def test_the_newest_run_is_written_and_then_it_is_up_to_date(repository: Path) -> None:
    record(repository, "tradeoff.jsonl", tradeoff_record("old", "2026-01-01T00:00:00+00:00", 0.9))
    run = [tradeoff_record(name, "2026-02-01T00:00:00+00:00", ms) for name, ms in (("dense", 0.5), ("half", 0.25))]
    record(repository, "tradeoff.jsonl", *run)
    (stale,) = write_tables(repository, check=True)
    assert "CARD.md, section 'trade-off'" in stale
    assert "dense" not in (repository / CARD).read_text(encoding="utf-8")
    write_tables(repository, check=False)
    text = (repository / CARD).read_text(encoding="utf-8")
    assert "| half | 600 k | 51.0 M | 2.46 MB | 0.250 | 0.700 | 2.00 (1.90 to 2.10) | 1.50 | 0.970 | 6.00 |" in text
    assert "| old |" not in text
    assert "Some CPU, 2 cores" in text
    assert text.startswith("# Head\n")
    assert text.endswith("\nTail\n")
    assert write_tables(repository, check=True) == []
    # every row has as many cells as the head
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1

    (repository / CARD).write_text(text.replace("0.250", "0.200"), encoding="utf-8")
    assert len(write_tables(repository, check=True)) == 1


def test_results_need_their_markers(repository: Path) -> None:
    record(repository, "tradeoff.jsonl", tradeoff_record("dense", "2026-01-01T00:00:00+00:00", 0.5))
    page = repository / CARD
    page.write_text(page.read_text(encoding="utf-8").replace("<!-- end of trade-off -->", ""), encoding="utf-8")
    for check in (True, False):
        (stale,) = write_tables(repository, check=check)
        assert "lacks the lines" in stale


def test_mediapipe_has_a_table_in_the_page_of_the_benchmarks(repository: Path) -> None:
    record(repository, "mediapipe-hands.jsonl", mediapipe_record())
    write_tables(repository, check=False)
    text = (repository / HOW).read_text(encoding="utf-8")
    assert (
        "| lite | 2.00 MB | `abababababab` | 1.00 | 0.60 | 0.70 | 2.00 (1.90 to 2.10) | 1.80 | 0.970 | 6.00 "
        "| 6.30 | 0.970 | 6.00 |" in text
    )
    assert "Labels of another network." in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert write_tables(repository, check=True) == []


def test_the_hand_detector_has_a_table_in_its_card(repository: Path) -> None:
    shares = {"ap_30": 0.91, "ap_50": 0.625, "recall_30": 0.88, "recall_50": 0.6, "min_score": 0.4}
    its = {**shares, "boxes": 337, "angle_p50_deg": 6.04, "angle_p95_deg": 31.0}
    row = {"bytes": 185_000, "latency": {**LATENCY, "min_ms": 0.1}, "over_hand": {**RATIO, "value": 0.5}}
    accuracy = {"hands-varied val": {**its, "false_alarms": 0.04}, "hand-digits val": its}
    made = {"kind": "hand-detector", "date_utc": "2026-01-01T00:00:00+00:00", "hand": "hand.safetensors"}
    artifacts = {"tflite int8": {**row, "accuracy": accuracy}}
    record(repository, "hand-detector.jsonl", {**made, "artifacts": artifacts, "environment": ENVIRONMENT})
    write_tables(repository, check=False)
    text = (repository / PALM).read_text(encoding="utf-8")
    cells = "| 0.910 | 0.625 | 0.880 | 0.600 |"
    assert f"| tflite int8 | 0.18 MB | 337 hands of hands-varied val {cells} 4 | 6.0, 31.0 | 0.100 | 0.50 |" in text
    assert f"| tflite int8 | 0.18 MB | 337 hands of hand-digits val {cells}  | 6.0, 31.0 | 0.100 | 0.50 |" in text
    assert "Found: at the threshold of 0.4" in text and "in turn with hand.safetensors" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert write_tables(repository, check=True) == []


def test_the_picture_shows_what_was_recorded(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from plot_tradeoff import COMPACTED, DENSE, draw, label

    run = [tradeoff_record("dense", "2026-02-01", 0.5), tradeoff_record("half", "2026-02-01", 0.25)]
    assert label(run[0]) == "dense\n600 k parameters"
    assert label(run[1]) == "half\n600 k parameters, 2.00x"
    plain = cv2.imdecode(np.frombuffer(draw(run, None), np.uint8), cv2.IMREAD_COLOR)
    guided = cv2.imdecode(np.frombuffer(draw(run, {**ACCURACY, "mean_error_box_pct": 1.8}), np.uint8), cv2.IMREAD_COLOR)
    assert plain.shape[1] >= 800
    for color in (DENSE, COMPACTED):
        bgr = [int(color[i : i + 2], 16) for i in (5, 3, 1)]
        assert (plain == bgr).all(axis=2).sum() > 100
    assert (plain != guided).any()


def test_the_page_of_the_benchmarks_has_a_table_of_each_kind(repository: Path) -> None:
    record(repository, "decoders.jsonl", decoders_record())
    record(repository, "onnx2tf-time.jsonl", conversion_record())
    record(repository, "compare-power.jsonl", power_record())
    record(repository, "topologies.jsonl", topologies_record("Earlier", "no kernel."))
    record(repository, "topologies.jsonl", topologies_record("Now", "too far. Calibrate."))
    record(repository, "mediapipe-solution.jsonl", solution_record())
    record(repository, "litert-profile.jsonl", profile_record())
    record(repository, "pipeline.jsonl", pipeline_record())
    write_tables(repository, check=False)
    text = (repository / HOW).read_text(encoding="utf-8")
    assert "| argmax | 500 | 700 | 1.50 | 0.970 |" in text
    assert "heatmaps of 21 x 32 x 32 of hand.safetensors" in text
    assert "| onnx2tf -i model.onnx | 25.0 | 20.0 | 30.0 |" in text
    assert "| U-Net | 0.000 px | 0.250 px, 2 of 20 layers in float | no |" in text
    assert "Earlier: 2 of 3 cells work.\nNow: 2 of 3 cells work.\n" in text
    assert "* U-Net, trt int8: too far. Calibrate.\n" in text
    assert "no kernel" not in text
    assert "| the same file | 0 | 0 | 15 | 5 | 0.900 to 1.100 | 0.990 to 1.010 |" in text
    assert "| made 5% slower | 20 | 0 | 0 | 0 | 1.000 to 1.200 | 1.040 to 1.060 |" in text
    assert "| solution | 1.00 | 0.60 | 0.70 | 2.00 (1.90 to 2.10) | 9.00 | 2 | 1.50 | 0.970 | 6.00 |" in text
    cells = "| 4.00 (2.00) | 8.00 / 8.00 | 97.2 | 91.0 | 3.46 | 0.5 | 0 |  |  |"
    assert f"| 6 one | solutions.hands, lite {cells}" in text
    assert "| 4 leaving | ours | 0.50 (0.25) | 1.00 / 1.00 | 97.2 | 91.0 |  | 0.5 | 0 | 3 | 1 of 2 |" in text
    assert "| ours |  |  | 1.00 | 1.25 | 0.5 | 0.5 |" in text
    assert "hand.safetensors with the detector palm.splite, mediapipe 0.10.21" in text
    assert "| ours | 3 all | 100 | 100 % | 3.0 | 30 |" in text
    assert "| ours | 2 CONV_2D | 75 | 75 % | 3.0 | 40 |" in text
    assert "| ours | 1 ADD | 25 | 25 % |  |  |" in text
    assert write_tables(repository, check=True) == []


def test_the_first_minutes_have_a_table(repository: Path) -> None:
    road = {
        "version": "1.2",
        "typed": 90,
        "packages": 14,
        "download_bytes": 80_000_000,
        "disk_bytes": 250_000_000,
        "seconds": {"environment": 6.0, "download": 12.0, "install": 12.0, "run": 6.0},
        "cpu_seconds": {"environment": 3.0, "download": 4.0, "install": 9.0, "run": 5.0},
        "hands": 2,
        "drawn": True,
        "error": "",
    }
    failed = {**road, "hands": None, "drawn": False, "error": "urllib.error.URLError: <urlopen error>"}
    wrong = {**failed, "error": "ImportError: none"}
    roads = {"ours": road, "far": failed, "wrong": wrong}
    environment = {**ENVIRONMENT, "python": "CPython 3.11"}
    record(
        repository,
        "first-minutes.jsonl",
        {"kind": "first-minutes", "date_utc": "2026", "roads": roads, "load": 9.4, "environment": environment},
    )
    again = {"ours": {**road, "typed": 80}}
    record(
        repository,
        "first-minutes.jsonl",
        {"kind": "first-minutes", "date_utc": "2027", "roads": again, "load": 0.4, "environment": environment},
    )
    write_tables(repository, check=False)
    text = (repository / HOW).read_text(encoding="utf-8")
    assert "| ours 1.2 | 80 | 14 | 80 | 250 | 0.5 min | 0.1 min | 21 s | 2 of 2 |" in text
    assert "| far 1.2 | 90 | 14 | 80 | 250 | 0.5 min | - | 21 s | none: its models cannot be downloaded here |" in text
    assert "| - | 21 s | none: ImportError: none |" in text
    assert "| ours 1.2 | 90 |" not in text
    assert "while other work kept it busy (load 9): look at the CPU time, CPython 3.11." in text


def test_of_a_matrix_the_median_run_of_each_combination_is_shown(repository: Path) -> None:
    for p50_ms, threads in ((3.0, 1), (1.0, 1), (2.0, 1), (0.5, 2)):
        stages = {name: stats_of(p50_ms) for name in STAGES}
        record(repository, "machine-matrix.jsonl", bench_result(stages=stages, threads=threads).to_dict())
    write_tables(repository, check=False)
    text = (repository / HOW).read_text(encoding="utf-8")
    assert "| hand.splite ort fp32 | 1 | 2.000 |" in text
    assert "| hand.splite ort fp32 | 2 | 0.500 |" in text
    assert text.count("| hand.splite ort fp32 |") == 2
    assert "The median of 1 or 3 runs each." in text
    assert "Some CPU" not in text


def test_of_several_backends_the_newest_run_has_its_table(repository: Path) -> None:
    moved = KeypointDeviation("recorded", 64, "images", Percentiles(0.1, 0.25, 0.5), Percentiles(0, 0, 0), None, "", ())
    layers = (Layer("a", "Conv", "float32[float16]", None),)
    older, newer = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"
    for date, backend, p50_ms in ((older, "ort", 9.0), (newer, "ort", 2.0), (newer, "ncnn", 3.0)):
        stages = {name: stats_of(p50_ms) for name in STAGES}
        result = bench_result(date_utc=date, backend=backend, stages=stages, deviation=moved, layers=layers)
        record(repository, "machine-backends.jsonl", result.to_dict())
    write_tables(repository, check=False)
    text = (repository / BACKENDS).read_text(encoding="utf-8")
    least_ms = stats_of(2.0).min_ms
    assert f"| ort fp32 | 2.46 | {least_ms:.2f} | 2.00 | " in text and "9.00" not in text
    assert "| 0.25 | 0.5 | 64 crops, by the export | float32[float16] |" in text
    assert text.index("| ort fp32 |") < text.index("| ncnn fp32 |")
    assert "hand.splite ort" not in (repository / HOW).read_text(encoding="utf-8")  # it is no matrix


def test_a_batch_has_a_table_of_minima_and_medians(repository: Path) -> None:
    ways = {
        "single": {"minimum_ms": 4.0, "median_ms": 5.0},
        "batch": {"minimum_ms": 3.0, "median_ms": 4.0},
    }
    made = {
        "kind": "batch",
        "date_utc": "2026-01-01T00:00:00+00:00",
        "bundle": "hand.safetensors",
        "crops": 8,
        "frames": 100,
        "artifacts": {"ort fp32": {"estimator": ways, "session": ways}},
        "environment": ENVIRONMENT,
    }
    record(repository, "batch.jsonl", made)
    write_tables(repository, check=False)
    text = (repository / HOW).read_text(encoding="utf-8")
    cells = "4.00 (5.00) | 3.00 (4.00) | 0.75 (0.80)"
    assert f"| ort fp32 | {cells} | {cells} |" in text
    assert "minima, and medians in brackets, of 100 runs of each in turn." in text
    assert write_tables(repository, check=True) == []
