"""The matrix runner on a tiny bundle, with a combination that cannot run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from matrix import Case, cases, median_run, rounds

from splite_deploy.bench import append_result, read_results, run_bench
from splite_deploy.errors import UsageError

COMMON = ("--rounds", "2", "--frames", "12")


def run(root: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, root / "benchmarks" / "matrix.py", *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


def test_every_combination_is_measured_in_each_round(root: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "results.jsonl", tmp_path / "matrix.html"
    done = run(root, tiny_bundle, *COMMON, "--threads", "1", "2", "--out", out, "--html", page)
    assert done.returncode == 0, done.stderr
    results = read_results(out)
    assert sorted(result.threads or 0 for result in results) == [1, 1, 2, 2]
    assert {result.threads for result in results[:2]} == {1, 2}
    assert done.stdout.count("tiny.splite ort fp32") == 2
    assert page.read_text(encoding="utf-8").count("<polygon") == 2


def test_nothing_to_measure(root: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    done = run(root, tiny_bundle, *COMMON, "--backend", "tflite", "--out", tmp_path / "out.jsonl")
    assert done.returncode == 1
    assert "No bundle holds what was requested." in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(UsageError):
        cases([tiny_bundle], [], ["int8"], [1])


def test_rounds_change_their_order_and_leave_out_what_failed() -> None:
    found = [Case(Path(f"{name}.splite"), "ort", "fp32", 1) for name in "abcd"]
    skipped: set[Case] = set()
    order = []
    for case in rounds(found, 6, skipped):
        order.append(case)
        if case is found[1]:
            skipped.add(case)
    assert order.count(found[1]) == 1
    assert all(order.count(case) == 6 for case in found if case is not found[1])
    assert len({tuple(order[i : i + 3]) for i in range(4, len(order) - 2, 3)}) > 1


def test_the_median_run(tiny_bundle: Path, tmp_path: Path) -> None:
    for _ in range(3):
        append_result(tmp_path / "runs.jsonl", run_bench(tiny_bundle, frames=10, warmup=1, warmup_min_s=0))
    runs = read_results(tmp_path / "runs.jsonl")
    by_p50 = sorted(runs, key=lambda result: result.stages["end_to_end"].p50_ms)
    assert median_run(runs) == by_p50[1]
    assert median_run(runs[:2]) == min(runs[:2], key=lambda result: result.stages["end_to_end"].p50_ms)
