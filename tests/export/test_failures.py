"""One artifact that fails does not discard the others: what the bundle holds, and who says what about the rest."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from splite_deploy.bundle import MANIFEST, Bundle
from splite_deploy.bundle.report import Failure
from splite_deploy.compile.child_process import kept_log
from splite_deploy.errors import CalibrationError, CompileError, ExportError, OutputError, ParityError
from splite_deploy.export import ExportOptions, PartialExportError, artifacts, export_bundle, pipeline, variants
from splite_deploy.export.failures import Failures, grouped

Run = Callable[..., Result]
HOPELESS = ("--max-shift-px", "1e-7")
"""What no int8 keeps."""


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "tiny.splite"


@pytest.fixture
def export(splite: Run, tiny_bundle: Path, tiny_model: Path, output: Path) -> Run:  # type: ignore[override]
    """Exports the graph of the tiny network through the command line: a graph needs no torch export."""

    def run(*arguments: Any) -> Result:
        return splite(
            "export", tiny_bundle / "model.onnx", "--model", tiny_model, "-o", output, "--crops", 4, *arguments
        )

    return run


def test_the_bundle_holds_what_passed(export: Run, splite: Run, output: Path) -> None:
    result = export("-p", "int8", "-p", "fp16", *HOPELESS)
    assert result.exit_code == 3, result.output
    bundle = Bundle.open(output)
    assert [one.label for one in bundle.manifest.artifacts] == ["ort fp16", "ort fp32"]
    assert {file.name for file in output.iterdir()} == {
        "manifest.json",
        "report.json",
        "golden.bin",
        "model.onnx",
        "model.fp16.onnx",
    }
    report = bundle.report()
    (failure,) = report.failures
    assert (failure.artifact, failure.stage) == ("ort int8", "comparison")
    assert "breaks its limits on 4 crops with only one of 2 layers in int8" in failure.message and failure.hint
    assert report.recommendation is not None
    assert [row.label for row in report.recommendation.rows] == ["ort fp16", "ort fp32"]

    lines = result.stderr.splitlines()[-4:]
    assert lines[0] == f"error: ort int8 failed: {failure.message}" and lines[1] == f"hint:  {failure.hint}"
    assert lines[2] == f"{output} holds what passed: ort fp16, ort fp32."
    assert lines[3] == "ort int8 was to run by default; instead ort fp16 runs."
    assert "side by side" in result.stdout and "Next:" in result.stdout

    for command in ("verify", "inspect"):
        done = splite(command, output)
        assert done.exit_code == 0, done.output
    shown = " ".join(done.stdout.split())
    assert "requested, and failed when this bundle was exported" in shown and "ort int8 │ comparison" in shown
    assert splite("bench", output, "--threads", 1, "--frames", 20).exit_code == 0
    refused = splite("verify", output, "-p", "int8")
    assert refused.exit_code == 1 and "ort fp16" in refused.stderr


def test_the_default_is_told_only_where_it_changed(export: Run) -> None:
    result = export("-p", "fp32", "-p", "int8", *HOPELESS)
    assert result.exit_code == 3 and "by default" not in result.stderr


def test_json_has_the_failures(export: Run) -> None:
    result = export("-p", "fp32", "-p", "int8", *HOPELESS, "--json", "-")
    assert result.exit_code == 3
    (failure,) = json.loads(result.stdout)["failures"]
    assert failure["artifact"] == "ort int8" and failure["stage"] == "comparison" and failure["hint"]
    assert f"error: ort int8 failed: {failure['message']}" in result.stderr


def test_all_or_nothing_writes_nothing(export: Run, output: Path) -> None:
    result = export("-p", "fp32", "-p", "int8", *HOPELESS, "--all-or-nothing")
    assert result.exit_code == 1 and "holds what passed" not in result.stderr
    assert "hint:  Nothing was written. " in result.stderr
    assert list(output.parent.iterdir()) == []


def test_a_failed_export_leaves_the_old_bundle_alone(export: Run, output: Path) -> None:
    assert export().exit_code == 0
    before = (output / MANIFEST).read_bytes()
    assert export("-p", "int8", *HOPELESS, "--all-or-nothing", "--overwrite").exit_code == 1
    assert (output / MANIFEST).read_bytes() == before
    assert export("-p", "int8", *HOPELESS, "--overwrite").exit_code == 3
    assert Bundle.open(output).report().failures


def test_graphs_for_engines_fail_one_by_one(export: Run, splite: Run, output: Path) -> None:
    result = export("-b", "ort", "-b", "trt", "-p", "fp16", "-p", "int8", *HOPELESS)
    assert result.exit_code == 3, result.output
    bundle = Bundle.open(output)
    assert [(one.precision, one.typing) for one in bundle.manifest.graphs] == [("fp16", "weak"), ("fp16", "strong")]
    labels = [one.artifact for one in bundle.report().failures]
    assert labels == ["ort int8", "trt int8 graph (weakly typed)", "trt int8 graph (strongly typed)"]
    assert not [file.name for file in output.iterdir() if "int8" in file.name]
    assert "a graph for trt fp16 (weakly typed), a graph for trt fp16 (strongly typed)." in result.stderr
    assert "splite-deploy compile" in result.stdout and "-p int8" not in result.stdout
    refused = splite("compile", output, "-p", "int8")
    assert refused.exit_code == 1 and "holds no graph for int8 engines" in refused.stderr
    assert "where that failed, this says why: splite-deploy inspect " in refused.stderr


def test_a_graph_that_cannot_be_made(
    tiny_bundle: Path, tiny_model: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise ExportError("no float16", hint="leave it out")

    monkeypatch.setattr(variants, "to_fp16", fail)
    options = ExportOptions(backends=("ort", "trt"), precisions=("fp16", "int8"), crops=4, max_shift_px=9.0)
    with pytest.raises(PartialExportError) as caught:
        export_bundle(tiny_bundle / "model.onnx", output, model=tiny_model, options=options)
    told = "ort fp16, trt fp16 graph (strongly typed): no float16"
    assert caught.value.message == f"Not all that was requested could be exported: {told}"
    assert caught.value.hint == f"{output} holds what passed: ort int8, ort fp32. leave it out"
    assert [(one.artifact, one.stage) for one in caught.value.failures] == [
        ("ort fp16", "conversion"),
        ("trt fp16 graph (strongly typed)", "conversion"),
    ]
    bundle = Bundle.open(output)
    assert bundle.manifest == caught.value.bundle.manifest
    # a weakly typed builder makes float16 by itself, of the float32 graph
    assert [(one.precision, one.typing) for one in bundle.manifest.graphs] == [
        ("fp16", "weak"),
        ("int8", "weak"),
        ("int8", "strong"),
    ]


def test_where_nothing_passes_it_is_an_error(export: Run, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "FUSED_PX", -1.0)  # no file with fused ends keeps it
    result = export("-p", "fp32", "-p", "int8", "--fuse-decode")
    assert result.exit_code == 1 and "With fused pre- and postprocessing ort fp32 moves keypoints by" in result.stderr
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("bug"), OutputError("full", hint="delete")])
def test_nothing_is_half_written(
    tiny_bundle: Path, tiny_model: Path, output: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """An artifact has failed already when the interrupt, the bug or the full disk comes."""
    measure = pipeline.measure_graph

    def fail(*arguments: Any) -> Any:
        if arguments[1].label == "ort fp16":
            raise error
        return measure(*arguments)

    monkeypatch.setattr(pipeline, "measure_graph", fail)
    options = ExportOptions(precisions=("int8", "fp16"), crops=4, max_shift_px=1e-7)
    with pytest.raises(type(error)):
        export_bundle(tiny_bundle / "model.onnx", output, model=tiny_model, options=options)
    assert list(output.parent.iterdir()) == []


BROKEN_CONVERTER = """#!/bin/sh
case "$2" in
-c) echo '{"version": "3.12.0", "onnx2tf": "2.6.9", "tensorflow": "", "direct": true}' ;;
*) cat >/dev/null; echo "ValueError: no such layer" >&2; exit 1 ;;
esac
"""


def test_a_converter_of_tflite_that_fails_keeps_the_rest(
    export: Run, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(BROKEN_CONVERTER, encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setenv("SPLITE_TFLITE_PYTHON", str(python))
    result = export("-b", "tflite", "-b", "ort", "-p", "fp32", "-p", "fp16")
    assert result.exit_code == 3, result.output
    bundle = Bundle.open(output)
    assert [one.label for one in bundle.manifest.artifacts] == ["ort fp32", "ort fp16"]
    first, second = bundle.report().failures
    assert (first.artifact, second.artifact) == ("tflite fp32", "tflite fp16")
    assert first.stage == "conversion" and "no such layer" in first.message
    assert f"error: tflite fp32, tflite fp16 failed: {first.message}" in result.stderr  # once for both
    assert result.stderr.splitlines()[-1] == "tflite fp32 was to run by default; instead ort fp32 runs."
    log = Path(first.hint.partition("Its log is ")[2].split(". ")[0])
    assert "no such layer" in log.read_text(encoding="utf-8")  # it stays, since the hint names it
    log.unlink()


# --- the parts ---


def test_failures_are_recorded_for_every_artifact_that_they_concern() -> None:
    failures = Failures(all_or_nothing=False)
    failures.raise_first()  # there is none
    with failures.kept("a", "b"):
        raise ParityError("too far", hint="nearer")
    with failures.kept("c"):
        raise ExportError("no", hint="yes")
    assert failures.found == [
        Failure("a", "comparison", "too far", "nearer"),
        Failure("b", "comparison", "too far", "nearer"),
        Failure("c", "conversion", "no", "yes"),
    ]
    assert [(labels, one.message) for labels, one in grouped(failures.found)] == [
        (["a", "b"], "too far"),
        (["c"], "no"),
    ]
    failures.check("d")
    with pytest.raises(ExportError, match="It is made from b, which failed") as caught:
        failures.check("b")
    assert caught.value.hint == "nearer"
    with pytest.raises(ParityError, match="too far"):
        failures.raise_first()
    with pytest.raises(ExportError, match="no"), Failures(all_or_nothing=True).kept("c"):
        raise ExportError("no")


def test_the_log_of_a_recorded_failure_stays() -> None:
    with kept_log("test") as log:
        log.keep = True
    assert log.path.exists()
    log.path.unlink()
    with kept_log("test") as log:
        pass
    assert not log.path.exists()
    with pytest.raises(CompileError), kept_log("test") as log:
        raise CompileError("no")
    assert log.path.exists()
    log.path.unlink()


def test_a_missing_converter_costs_its_own_artifacts_alone(
    tiny_checkpoint: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLITE_TFLITE_PYTHON", str(tmp_path / "missing"))
    options = ExportOptions(backends=("ort", "tflite"), crops=2)
    with pytest.raises(PartialExportError) as caught:
        export_bundle(tiny_checkpoint, tmp_path / "a.splite", model=tiny_model, options=options)
    assert [one.label for one in Bundle.open(tmp_path / "a.splite").manifest.artifacts] == ["ort fp32"]
    (failure,) = caught.value.failures
    assert failure.artifact == "tflite fp32" and "there is no such file" in failure.message and failure.hint
    for strict in (
        dataclasses.replace(options, all_or_nothing=True),
        dataclasses.replace(options, backends=("tflite",)),
    ):
        with pytest.raises(CompileError, match="there is no such file"):
            export_bundle(tiny_checkpoint, tmp_path / "b.splite", model=tiny_model, options=strict)
        assert not (tmp_path / "b.splite").exists()


@pytest.mark.parametrize("name", ["a.ranges.json", "labels.json"])
def test_damaged_ranges_cost_the_precisions_that_need_them(
    name: str, tiny_checkpoint: Path, tiny_model: Path, tmp_path: Path
) -> None:
    ranges = tmp_path / name
    ranges.write_text('{"made_by": "1", "images_sha256": "0", "tensors": [', encoding="utf-8")
    options = ExportOptions(precisions=("fp32", "fp16", "int8"), crops=2, calibration=ranges)
    with pytest.raises(PartialExportError) as caught:
        export_bundle(tiny_checkpoint, tmp_path / "a.splite", model=tiny_model, options=options)
    assert [one.label for one in Bundle.open(tmp_path / "a.splite").manifest.artifacts] == ["ort fp32"]
    assert [one.artifact for one in caught.value.failures] == ["ort fp16", "ort int8"]
    assert all(
        f"{name} is not a whole file of ranges: it is not valid JSON" in one.message for one in caught.value.failures
    )
    for strict in (
        dataclasses.replace(options, all_or_nothing=True),
        dataclasses.replace(options, precisions=("int8",)),
    ):
        with pytest.raises(CalibrationError, match="is not a whole file of ranges"):
            export_bundle(tiny_checkpoint, tmp_path / "b.splite", model=tiny_model, options=strict)
        assert not (tmp_path / "b.splite").exists()
