"""The command bench."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from splite_deploy.bench import read_results
from splite_deploy.bench.report.tables import machine
from splite_deploy.device import environment

Splite = Callable[..., Result]
QUICK = ("--frames", 10, "--warmup", 1, "--threads", 1)


@pytest.mark.slow
def test_a_bundle_with_everything(splite: Splite, tiny_bundle: Path, tmp_path: Path) -> None:
    core, file = min(os.sched_getaffinity(0)), tmp_path / "bench.jsonl"
    more = ("--affinity", core, "--duration", 0.2, "--streams", 2, "--json", file)
    done = splite("bench", tiny_bundle, *QUICK, *more)
    assert done.exit_code == 0, done.output
    (result,) = read_results(file)
    assert result.affinity == (core,)
    assert result.sustained is not None and result.streams is not None and result.startup is not None
    for part in ("End to end", "Model only", "streams at once", "without a pause", "Environment"):
        assert part in done.stdout


@pytest.mark.parametrize(
    ("options", "least", "most"),
    [((), 600, 1e9), (("--frames", 12), 12, 200), (("--frames", 12, "--min-seconds", 0.2), 600, 1e9)],
)
def test_how_long_it_measures(
    splite: Splite,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[object, ...],
    least: int,
    most: int,
) -> None:
    """The variable counts where the command names neither frames nor seconds."""
    monkeypatch.setenv("SPLITE_BENCH_MIN_SECONDS", "0.2")
    done = splite("bench", tiny_bundle / "model.onnx", "--threads", 1, "--warmup", 20, *options, "--json", "-")
    assert done.exit_code == 0, done.output
    assert least <= json.loads(done.stdout)["frames"] <= most


def test_times_of_an_emulated_processor_are_called_so(
    splite: Splite, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "read_emulator", lambda root: "qemu-aarch64")
    done = splite("bench", tiny_bundle / "model.onnx", *QUICK, "--json", tmp_path / "bench.jsonl")
    assert done.exit_code == 0, done.output
    assert "warning: qemu-aarch64 emulates the processor: these times are those of no machine" in done.stderr
    assert "Emulated by" in done.stdout
    (result,) = read_results(tmp_path / "bench.jsonl")
    assert result.environment.emulator == "qemu-aarch64"
    assert machine(result.environment).endswith(", emulated by qemu-aarch64")


def test_a_file_alone(splite: Splite, tiny_bundle: Path) -> None:
    done = splite("bench", tiny_bundle / "model.onnx", *QUICK)
    assert done.exit_code == 0, done.output
    assert "random numbers (8)" in " ".join(done.stdout.split())
    assert "Preprocess" not in done.stdout


@pytest.mark.parametrize(("option", "value"), [("--precision", "fp32"), ("--images", "photos"), ("--eval", "labels")])
def test_options_of_bundles_are_refused_for_a_file(splite: Splite, tiny_bundle: Path, option: str, value: str) -> None:
    done = splite("bench", tiny_bundle / "model.onnx", option, value)
    assert done.exit_code == 1
    assert "model.onnx" in done.stderr and "hint:" in done.stderr
    assert "bundle" in done.stderr


def test_a_backend_named_for_a_file(splite: Splite, tiny_bundle: Path) -> None:
    done = splite("bench", tiny_bundle / "model.onnx", *QUICK, "--backend", "ort")
    assert done.exit_code == 0, done.output
    done = splite("bench", tiny_bundle / "model.onnx", *QUICK, "--backend", "tflite")
    assert done.exit_code == 1
    assert "The backend 'tflite' does not run model.onnx." in done.stderr
    assert "Files end in .tflite." in done.stderr


def test_an_option_of_another_backend_is_refused(splite: Splite, tiny_bundle: Path) -> None:
    for option in (["--no-cuda-graph"], ["--memory-backend", "auto"]):
        done = splite("bench", tiny_bundle, *QUICK, "-b", "ort", *option)
        assert done.exit_code == 2
        assert f"{option[0]} is for trt, and -b names ort." in done.stderr


def test_tensors_are_refused_for_a_bundle(splite: Splite, tiny_bundle: Path) -> None:
    done = splite("bench", tiny_bundle, "--inputs", "x.npz")
    assert done.exit_code == 1
    assert "--inputs are for a file without a bundle." in done.stderr


@pytest.mark.parametrize("cores", ["a", "0,", "-1", "0;1"])
def test_what_are_no_cores(splite: Splite, tiny_bundle: Path, cores: str) -> None:
    done = splite("bench", tiny_bundle, "--affinity", cores)
    assert done.exit_code == 2
    assert "not a list of core numbers, such as 0,1" in done.stderr


def test_what_is_neither_a_bundle_nor_a_file(splite: Splite, tmp_path: Path) -> None:
    done = splite("bench", tmp_path / "none.splite")
    assert done.exit_code == 1
    assert "does not exist" in done.stderr
    done = splite("bench", tmp_path / "none.onnx")
    assert done.exit_code == 1
    assert "There is no file" in done.stderr


@pytest.mark.parametrize("option", ["--batch", "--streams"])
def test_more_at_once_than_there_is_memory_for(splite: Splite, tmp_path: Path, option: str) -> None:
    done = splite("bench", tmp_path / "none.splite", option, 1_000_000_000)
    assert done.exit_code == 2 and "not in the range 1<=x<=1024" in done.stderr, done.output
