"""What the command bench does with a result: files, comparison, limits."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from bench_results import bench_result
from click.testing import Result

from splite_deploy.bench import append_result, read_results

Splite = Callable[..., Result]
QUICK = ("--frames", 10, "--warmup", 1, "--threads", 1)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Six grey pictures, and keypoints of the tiny skeleton on a diagonal."""
    samples = []
    for index in range(6):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((90, 80, 3), 40 * index, np.uint8))
        points = [[10 + 10 * k + index, 20 + 10 * k] for k in range(5)]
        samples.append({"image": f"{index}.png", "keypoints": points})
    file = tmp_path / "labels.json"
    file.write_text(json.dumps({"samples": samples}), encoding="utf-8")
    return file


def record(file: Path, p50_ms: float, runs: int = 1) -> Path:
    for seed in range(runs):
        times = p50_ms * (1 + np.random.default_rng(seed).gamma(2.0, 0.01, 500))
        append_result(file, bench_result(samples_ms={"end_to_end": tuple(times.tolist())}))
    return file


def test_all_files_of_one_run(splite: Splite, tiny_bundle: Path, labels: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("json", "csv", "markdown", "html")}
    options = [part for name, file in files.items() for part in (f"--{name}", file)]
    done = splite("bench", tiny_bundle, *QUICK, "--eval", labels, *options, "--fail-if", "p99_ms>60000")
    assert done.exit_code == 0, done.output
    (result,) = read_results(files["json"])
    assert result.accuracy is not None
    (row,) = csv.DictReader(files["csv"].read_text(encoding="utf-8").splitlines())
    assert float(row["stages.end_to_end.p50_ms"]) == result.stages["end_to_end"].p50_ms
    assert f"| {result.stages['end_to_end'].p50_ms:.3f} |" in files["markdown"].read_text(encoding="utf-8")
    page = files["html"].read_text(encoding="utf-8")
    assert result.artifact_sha256 in page
    assert page.count("data:image/jpeg;base64,") == 7  # at the top, four labelled images, two golden crops
    assert "compared with the labels" in page and "compared with the original network" in page
    assert f"tiny.splite/manifest.json</dt><dd><code>{result.manifest_sha256}" in page
    assert result.accuracy.worst[0].image in page


def test_a_limit_that_is_not_kept_ends_with_status_1_after_the_files_are_written(
    splite: Splite, tiny_bundle: Path, tmp_path: Path
) -> None:
    file = tmp_path / "out.csv"
    done = splite("bench", tiny_bundle, *QUICK, "--csv", file, "--fail-if", "p50_ms>0.000001", "--fail-if", "p50_ms<0")
    assert done.exit_code == 1
    assert "over the limit of 1e-06 (ort fp32)" in done.stderr
    assert done.stderr.count("p50_ms is") == 1
    assert file.is_file()


@pytest.mark.parametrize(("limit", "told"), [("p98_ms>3", "no metric 'p98_ms'"), ("p99_ms", "is not METRIC")])
def test_a_wrong_limit_is_told_before_anything_is_measured(
    splite: Splite, tmp_path: Path, limit: str, told: str
) -> None:
    done = splite("bench", tmp_path / "none.splite", "--fail-if", limit)
    assert done.exit_code == 2
    assert told in done.stderr


def test_a_metric_that_was_not_measured(splite: Splite, tiny_bundle: Path) -> None:
    done = splite("bench", tiny_bundle, *QUICK, "--fail-if", "epe_box_pct>2.5")
    assert done.exit_code == 2
    assert "epe_box_pct was not measured" in done.stderr
    assert "Add --eval LABELS." in done.stderr


def test_two_files_are_compared(splite: Splite, tmp_path: Path) -> None:
    before, after = record(tmp_path / "a.jsonl", 1.0, runs=2), record(tmp_path / "b.jsonl", 1.05)
    done = splite("bench", "--compare", before, after)
    assert done.exit_code == 0, done.output
    assert "slower" in done.stdout
    assert "2 and 1 runs" in done.stdout
    same = splite("bench", "--compare", before, before)
    assert "no difference" in same.stdout
    assert "slower" not in same.stdout.replace("Slower and faster", "")


def test_a_comparison_writes_files_of_both_and_limits_the_second(splite: Splite, tmp_path: Path) -> None:
    before, after = record(tmp_path / "a.jsonl", 1.0), record(tmp_path / "b.jsonl", 1.0)
    page, table = tmp_path / "both.html", tmp_path / "both.csv"
    options = ("--html", page, "--csv", table, "--fail-if", "pck_05<0.99")
    done = splite("bench", "--compare", before, after, *options)
    assert done.exit_code == 1
    assert done.stderr.count("pck_05 is 0.97, 0.02 under the limit of 0.99") == 1
    assert len(table.read_text(encoding="utf-8").splitlines()) == 3
    source = page.read_text(encoding="utf-8")
    assert source.count("<polygon") == 2
    assert '<p class="why">No difference. End to end p50 ' in source


def test_a_comparison_measures_nothing(splite: Splite, tiny_bundle: Path, tmp_path: Path) -> None:
    file = record(tmp_path / "a.jsonl", 1.0)
    done = splite("bench", tiny_bundle, "--compare", file, file)
    assert done.exit_code == 2
    assert "--compare measures nothing" in done.stderr
    done = splite("bench")
    assert done.exit_code == 2
    assert "Name a bundle or a file, or two with --compare." in done.stderr


@pytest.mark.parametrize("words", [("--json", "new.json"), ("--json", "-"), ("--eval", "x"), ("-p", "int8")])
def test_what_a_comparison_has_no_use_for(
    splite: Splite, tmp_path: Path, words: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = record(tmp_path / "a.jsonl", 1.0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPLITE_BENCH_MIN_SECONDS", "0.1")
    done = splite("bench", "--compare", file, file, *words)
    flag = "--precision" if words[0] == "-p" else words[0]
    assert done.exit_code == 2, done.output
    assert f"error: --compare measures nothing, and {flag} is for a measurement." in done.stderr
    assert f"hint:  Leave out {flag}, or --compare." in done.stderr
    assert not (tmp_path / "new.json").exists()
    assert splite("bench", "--compare", file, file).exit_code == 0
