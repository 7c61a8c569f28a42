"""CSV, Markdown and the published schema."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import jsonschema
import pytest
from bench_results import ENVIRONMENT, bench_result

from splite_deploy.bench.records import read_results
from splite_deploy.bench.report.tables import csv_text, markdown_text
from splite_deploy.bench.result import Windows, upgraded
from splite_deploy.bench.schema import result_schema


def test_csv_has_a_row_for_each_result_and_a_column_for_each_figure() -> None:
    other = bench_result(bundle="a,b.splite", precision="int8", accuracy=None, threads=2)
    rows = list(csv.DictReader(io.StringIO(csv_text([bench_result(), other]))))
    assert [row["bundle"] for row in rows] == ["hand.splite", "a,b.splite"]
    assert float(rows[0]["stages.end_to_end.p50_ms"]) == 2.0
    assert rows[0]["environment.cpu_model"] == "Test CPU"
    assert rows[0]["environment.versions.numpy"] == "1.26.4"
    assert rows[0]["accuracy.epe_box_pct"] == "1.6"
    assert rows[1].get("accuracy.epe_box_pct") == ""
    assert (rows[0]["threads"], rows[1]["threads"]) == ("", "2")
    assert json.loads(rows[0]["affinity"]) == [0, 1]
    assert not [column for column in rows[0] if column.startswith(("samples_ms", "layers", "sustained.curve"))]


def test_markdown_has_cells_under_every_head() -> None:
    other = bench_result(bundle="a|b.splite", model_bytes=None, accuracy=None, deviation=None)
    text = markdown_text([bench_result(), other])
    lines = text.splitlines()
    times = "2.000 | 2.200 | 2.400 | 4.000 | 1.188 | 500.0"
    assert lines[2] == f"| hand.splite ort fp32 | default | {times} | 2.46 | 0.25 | 1.5 | 1.60 |"
    assert {line.replace("\\|", "").count("|") for line in lines[:4]} == {13}
    assert "a\\|b.splite" in lines[3]
    assert "Test CPU, 4 cores. Batch 1." in text


def test_markdown_says_which_figures_are_unsteady() -> None:
    unsteady = bench_result(windows=Windows(100, (2.0, 2.5, 3.0), False, 0.03))
    assert "| hand.splite ort fp32 (unsteady) |" in markdown_text([unsteady])


def test_a_board_is_named_by_itself() -> None:
    board = dataclasses.replace(ENVIRONMENT, board="NVIDIA Jetson Orin Nano")
    assert "NVIDIA Jetson Orin Nano. Batch 1." in markdown_text([bench_result(environment=board)])


def test_the_published_schema_is_that_of_the_dataclasses(root: Path) -> None:
    published = json.loads((root / "splite_deploy/bench/schema.json").read_text(encoding="utf-8"))
    assert published == result_schema(), "Run python -m splite_deploy.bench.schema > splite_deploy/bench/schema.json"
    jsonschema.Draft202012Validator.check_schema(published)
    described = [published, *published["$defs"].values()]
    assert all(field["description"] for item in described for field in item["properties"].values())


def test_results_are_valid() -> None:
    validator = jsonschema.Draft202012Validator(result_schema())
    for result in (bench_result(), bench_result(precision=None, sustained=None, accuracy=None, samples_ms={})):
        validator.validate(json.loads(json.dumps(result.to_dict())))


@pytest.mark.parametrize(
    ("change", "where"),
    [({"schema_version": 1}, "schema_version"), ({"precision": "fp8"}, "precision"), ({"frames": "many"}, "frames")],
)
def test_what_is_no_result_is_invalid(change: dict[str, object], where: str) -> None:
    data = json.loads(json.dumps(bench_result().to_dict())) | change
    (error,) = jsonschema.Draft202012Validator(result_schema()).iter_errors(data)
    assert list(error.absolute_path) == [where]


def test_recorded_results_are_valid_in_the_words_of_this_version(root: Path, tmp_path: Path) -> None:
    """What lies in the repository: results as they are, and those inside of other records."""
    validator = jsonschema.Draft202012Validator(result_schema())
    for file in (root / "benchmarks" / "results").glob("*.jsonl"):
        for line in filter(None, file.read_text(encoding="utf-8").splitlines()):
            record = json.loads(line)
            data = record.get("bench", record if "artifact_sha256" in record else None)
            if data is None:
                continue
            (tmp_path / "one.jsonl").write_text(json.dumps(data), encoding="utf-8")
            assert len(read_results(tmp_path / "one.jsonl")) == 1
            if data["schema_version"] > 1:
                validator.validate(upgraded(data))
