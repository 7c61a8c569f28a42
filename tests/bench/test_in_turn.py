"""The command bench on all artifacts of a bundle, on several bundles and on files beside them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from engines import NO_ENGINE

from splite_deploy.bench import read_results
from splite_deploy.bundle import MANIFEST, Artifact, Bundle
from splite_deploy.cli import main
from splite_deploy.files import sha256_of
from splite_deploy.runtime.backends import base

Splite = Callable[..., Result]
QUICK = ("--frames", 12, "--warmup", 1, "--threads", 1)


@pytest.fixture(scope="module")
def mixed(tiny_bundle: Path, tiny_tflite_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/tiny for ONNX Runtime (fp32) and LiteRT (fp32, int8), and an engine that no machine has use for."""
    path = tmp_path_factory.mktemp("mixed") / "mixed.splite"
    shutil.copytree(tiny_tflite_bundle, path)
    (path / "model.fp16.engine").write_bytes(NO_ENGINE)
    manifest, lite = Bundle.open(tiny_bundle).manifest, Bundle.open(tiny_tflite_bundle).manifest
    (graph,) = manifest.artifacts
    target = {"flavour": "rtx", "tensorrt": "1.2.3", "platform": "linux-none", "compute_capability": "8.7"}
    sha256 = sha256_of(path / "model.fp16.engine")
    engine = Artifact(
        "engine", "trt", "fp16", "model.fp16.engine", sha256, graph.inputs, graph.outputs, graph.limits, target
    )
    kept = [one for one in lite.artifacts if one.precision != "fp16"]
    (path / MANIFEST).write_text(
        dataclasses.replace(manifest, artifacts=(graph, *kept, engine)).to_json(), encoding="utf-8"
    )
    return path


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.slow
def test_every_artifact_whose_backend_is_installed_is_timed_in_one_run(
    splite: Splite, mixed: Path, tmp_path: Path
) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("json", "csv", "markdown", "html")}
    options = [part for name, file in files.items() for part in (f"--{name}", file)]
    done = splite("bench", mixed, *QUICK, *options, "--budget", "100s", "--fail-if", "p50_ms>60000")
    assert done.exit_code == 0, done.output
    results = read_results(files["json"])
    assert [result.label for result in results] == ["ort fp32", "tflite fp32", "tflite int8"]
    assert len({result.run for result in results}) == 1 and results[0].run is not None
    graph, float_file, int8_file = results
    for result in results:
        assert result.startup is not None and result.deviation is not None and result.deviation.violations == ()
    assert graph.deviation is not None and graph.deviation.origin == "recorded"  # the report is of the graph alone
    assert float_file.deviation is not None and float_file.deviation.origin == "measured"
    assert int8_file.deviation is not None
    assert int8_file.deviation.deviation_px.max > 10 * float_file.deviation.deviation_px.max
    said = done.stdout
    for part in ("Stages", "Environment", "Side by side, ms from image to keypoints", "Ran in"):
        assert part in said
    assert "int8" in said.split("Side by side")[1].split("Timed in turn")[0]
    last = said.strip().splitlines()
    assert last[-1].startswith("Ship ") and "within its limits" in last[-1]
    assert "It keeps the budget of 1e+05 ms" in last[-1]
    assert last[-2].startswith("Left out mixed.splite trt fp16: ")
    assert len(files["csv"].read_text(encoding="utf-8").splitlines()) == 4
    assert files["markdown"].read_text(encoding="utf-8").count("| mixed.splite") == 3
    page = files["html"].read_text(encoding="utf-8")
    assert last[-1].split(":")[0] in page and page.count("<polygon") == 3
    assert "Left out mixed.splite trt fp16" in page and "✓ It keeps the budget of 1e+05 ms" in page
    assert page.count("<figure>") == 1 + 2 + 1 + 1  # the top, what to ship, the two others


def test_backends_and_precisions_narrow_it_down(splite: Splite, mixed: Path) -> None:
    done = splite("bench", mixed, *QUICK, "-b", "ort", "-b", "litert", "-p", "fp32", "--json", "-")
    assert done.exit_code == 0, done.output
    labels = [(one["backend"], one["precision"]) for one in map(json.loads, done.stdout.splitlines())]
    assert labels == [("ort", "fp32"), ("tflite", "fp32")]
    alone = splite("bench", mixed, *QUICK, "-p", "int8")
    assert alone.exit_code == 0 and "Share of end to end" in words(alone.stdout) and "Ship" not in alone.stdout
    none = splite("bench", mixed, *QUICK, "-b", "ort", "-p", "int8")
    assert none.exit_code == 1 and "holds no ort int8 artifact." in none.stderr


def test_what_is_not_installed_is_left_out_unless_it_was_named(
    splite: Splite, mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = base.find_spec
    monkeypatch.setattr(base, "find_spec", lambda name: None if name == "ai_edge_litert" else found(name))
    monkeypatch.setattr(
        base, "module_is_found", lambda name: name not in ("ai_edge_litert", "tflite_runtime", "tensorflow")
    )
    done = splite("bench", mixed, *QUICK, "-p", "fp32")
    assert done.exit_code == 0, done.output
    assert "Left out mixed.splite tflite fp32: The backend 'tflite' needs" in words(done.stdout)
    assert "Install it: pip install" in words(done.stdout)
    alone = splite("bench", mixed, *QUICK, "-p", "fp32", "--json", "-")
    assert json.loads(alone.stdout)["backend"] == "ort" and "Left out mixed.splite tflite fp32" in alone.stderr
    named = splite("bench", mixed, *QUICK, "-b", "ort", "-b", "tflite", "-p", "fp32")
    assert named.exit_code == 1 and "The backend 'tflite' needs" in named.stderr


def test_an_engine_that_was_named_is_a_failure_after_the_rest_is_kept(
    splite: Splite, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "module_is_found", lambda name: True)
    file = tmp_path / "out.jsonl"
    unnamed = splite("bench", mixed, *QUICK, "-p", "fp16", "-p", "fp32")
    assert unnamed.exit_code == 0 and "Left out mixed.splite trt fp16: " in words(unnamed.stdout)
    done = splite("bench", mixed, *QUICK, "-b", "ort", "-b", "trt", "--json", file)
    assert done.exit_code == 1, done.output
    assert [result.label for result in read_results(file)] == ["ort fp32"]
    timed, error, hint, *_ = done.stderr.splitlines()
    assert timed == "timing mixed.splite ort fp32, mixed.splite trt fp16 in turn"
    assert error.startswith("error: ") and hint.startswith("hint:")


def test_several_bundles_and_a_file_in_one_run(splite: Splite, mixed: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    shutil.copy(tiny_bundle / "model.onnx", file)
    done = splite("bench", tiny_bundle, mixed, file, *QUICK, "-b", "ort", "--fps", 0.01)
    assert done.exit_code == 0, done.output
    said = words(done.stdout)
    assert "Side by side, ms of the model alone" in said  # the file has no model.toml
    for name in ("tiny.splite ort fp32", "mixed.splite ort fp32", "net.onnx ort"):
        assert name in said
    assert "The networks differ: --eval LABELS says which is how accurate." in said
    twice = splite("bench", tiny_bundle, tiny_bundle, *QUICK)
    assert (
        twice.exit_code == 1 and "are the same." in twice.stderr and "Name each bundle and file once." in twice.stderr
    )


def test_every_artifact_has_to_keep_the_limits(splite: Splite, mixed: Path) -> None:
    done = splite("bench", mixed, *QUICK, "-p", "fp32", "--fail-if", "p50_ms>0.000001")
    assert done.exit_code == 1
    assert "(ort fp32)" in done.stderr and "(tflite fp32)" in done.stderr


def test_a_long_run_is_for_one_artifact(splite: Splite, mixed: Path) -> None:
    done = splite("bench", mixed, *QUICK, "--duration", 5)
    assert done.exit_code == 1
    assert "A run of 5 s heats the machine, so it is for one artifact, and there are " in done.stderr
    assert "Name one, with --backend and --precision, or leave out --duration." in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--budget", "soon"), "'soon' is not a time, such as 33ms."),
        (("--budget", "0"), "'0' is not a time, such as 33ms."),
        (("--budget", "33", "--fps", "30"), "--budget and --fps both say how long a frame may take."),
        (("--fps", "0"), "0.0 is not in the range x>=0.001"),
    ],
)
def test_a_budget_that_is_none(splite: Splite, tiny_bundle: Path, options: tuple[str, ...], said: str) -> None:
    done = splite("bench", tiny_bundle, *options)
    assert done.exit_code == 2 and said in done.stderr


@pytest.mark.parametrize(("typed", "limit_ms"), [("33ms", 33), ("33", 33), ("0.5 s", 500), (".1s", 100)])
def test_a_budget_has_a_unit_or_is_in_milliseconds(typed: str, limit_ms: float) -> None:
    context = main.commands["bench"].make_context("bench", ["x.splite", "--budget", typed])
    assert context.params["budget_ms"] == limit_ms


def test_a_budget_for_one_artifact(splite: Splite, tiny_bundle: Path) -> None:
    done = splite("bench", tiny_bundle, *QUICK, "--budget", "33ms")
    assert done.exit_code == 0, done.output
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("Ship ort fp32: the only one here within its limits") and " the budget of 33 ms (" in last


def test_an_artifact_over_its_limits_here_is_not_recommended(
    splite: Splite, mixed: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    """Its manifest allows next to nothing, so that what it does on the golden crops here is too much."""
    path = tmp_path / "strict.splite"
    shutil.copytree(mixed, path)
    manifest = Bundle.open(path).manifest
    strict = [
        dataclasses.replace(one, limits=dataclasses.replace(one.limits, shift_p95_px=1e-5, shift_max_px=1e-5))
        if one.precision == "int8"
        else one
        for one in manifest.artifacts
    ]
    (path / MANIFEST).write_text(dataclasses.replace(manifest, artifacts=tuple(strict)).to_json(), encoding="utf-8")
    done = splite("bench", path, *QUICK, "-b", "tflite")
    assert done.exit_code == 0, done.output
    said = words(done.stdout)
    assert "tflite int8 is over its limits: keypoint deviation p95" in said
    assert "Ship tflite fp32" in said and "Tflite int8 is over its limits." in said


def test_two_lines_of_one_file_are_compared(splite: Splite, mixed: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    assert splite("bench", mixed, *QUICK, "-b", "tflite", "--json", file).exit_code == 0
    done = splite("bench", "--compare", f"{file}:1", f"{file}:2")
    assert done.exit_code == 0, done.output
    said = words(done.stdout)
    assert "mixed.splite tflite fp32, 1 thread -> mixed.splite tflite int8, 1 thread" in said
    assert "Artifact: tflite fp32 before, tflite int8 after." in said
    quiet = splite("bench", "-q", "--compare", f"{file}:1", f"{file}:2", "--markdown", tmp_path / "out.md")
    assert (quiet.exit_code, quiet.output) == (0, "") and (tmp_path / "out.md").is_file()
    assert "mixed.splite tflite int8" in words(splite("bench", "--compare", f"{file}:1", f"{file}:2", "-v").stdout)
    missing = splite("bench", "--compare", f"{file}:1", f"{file}:9")
    assert missing.exit_code == 1
    assert "holds no result in line 9." in missing.stderr and "There are results in lines: 1, 2." in missing.stderr
    over = splite("bench", "--compare", f"{file}:1", f"{file}:2", "--csv", file)
    assert over.exit_code != 0 and len(read_results(file)) == 2  # what is read is not written over


def test_bundles_of_one_name_are_two_networks(splite: Splite, mixed: Path, tmp_path: Path) -> None:
    here = [tmp_path / name / "a" / "net.splite" for name in ("v1", "v2")]
    for place in here:
        shutil.copytree(mixed, place)
    page, file = tmp_path / "page.html", tmp_path / "out.jsonl"
    done = splite("bench", *here, *QUICK, "-b", "tflite", "-p", "fp32", "--json", file, "--html", page)
    assert done.exit_code == 0, done.output
    names = ["v1/a/net.splite", "v2/a/net.splite"]
    assert [result.bundle for result in read_results(file)] == names
    said = words(done.stdout)
    assert "The networks differ" in said and "(1)" not in said
    assert f"Ship {names[0]} tflite fp32" in said or f"Ship {names[1]} tflite fp32" in said
    assert all(name in page.read_text(encoding="utf-8") for name in names)


def test_files_of_one_name_are_two_networks(splite: Splite, tiny_bundle: Path, tmp_path: Path) -> None:
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        shutil.copy(tiny_bundle / "model.onnx", tmp_path / name / "net.onnx")
    file = tmp_path / "out.jsonl"
    done = splite("bench", tmp_path / "v1/net.onnx", tmp_path / "v2/net.onnx", *QUICK, "--json", file)
    assert done.exit_code == 0, done.output
    assert [result.artifact_file for result in read_results(file)] == ["v1/net.onnx", "v2/net.onnx"]
