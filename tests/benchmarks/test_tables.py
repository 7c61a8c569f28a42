"""Tables and picture from recorded results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from make_tables import CARD, HOW, README, RESULTS, SECTIONS, write_tables

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
        "caveat": "Labels of another network.",
        "environment": ENVIRONMENT,
    }


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Pages with all markers and nothing between them, and no results."""
    for page in (README, CARD, HOW):
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
        "| lite | 2.00 MB | `abababababab` | 1.00 | 0.60 | 0.70 | 2.00 (1.90 to 2.10) | 1.80 | 0.970 | 6.00 |" in text
    )
    assert "Labels of another network." in text
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
