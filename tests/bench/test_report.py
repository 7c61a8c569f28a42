"""Results as JSON lines and as a table."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from splite_deploy.bench.environment import Environment
from splite_deploy.bench.measure import STAGES
from splite_deploy.bench.report import (
    append_result,
    environment_table,
    read_results,
    table,
)
from splite_deploy.bench.result import (
    SCHEMA_VERSION,
    BenchResult,
    CurvePoint,
    Evaluation,
    ImageError,
    Memory,
    Sensors,
    Startup,
    Streams,
    Sustained,
    Windows,
)
from splite_deploy.bench.sentences import sentences
from splite_deploy.bench.stats import LatencyStats
from splite_deploy.errors import OutputError, UsageError
from splite_deploy.evidence import Layer

ENVIRONMENT = Environment(
    cpu_model="Test CPU",
    logical_cores=4,
    usable_cores=2,
    cpu_quota_cores=None,
    governor=None,
    max_clock_mhz=1510.4,
    allowed_clock_mhz=None,
    memory_total_mib=7620,
    os="Test OS 1",
    kernel="Linux 6.1",
    architecture="aarch64",
    python="CPython 3.11.9",
    versions={"splite-deploy": "0.1.0", "numpy": "1.26.4"},
    board=None,
    l4t=None,
    thread_variables={"OMP_NUM_THREADS": "2"},
    load_average_1min=0.25,
    current_clock_mhz=1190.4,
    gpus=("NVIDIA RTX 2000",),
    gpu_driver="560.35",
    jetpack="6.1",
    nvpmodel="MAXN",
    jetson_clocks=True,
    temperatures_c={"cpu-thermal": 48.5},
)


SENSORS = Sensors(
    source="tegrastats",
    seconds=(0.0, 1.0),
    power_mw={"VDD_IN": (5000.0, 5200.0), "VDD_SOC": (None, 900.0)},
    temperatures_c={"cpu": (48.0, 49.5)},
    clocks_mhz={"gpu": (918.0, 918.0)},
    mean_power_mw={"VDD_IN": 5100.0, "VDD_SOC": 900.0},
    energy_rail="VDD_IN",
    energy_mj_per_frame=10.25,
    absent=("clock of the memory",),
)
CURVE = (CurvePoint(0, 480, 2.0, 3.0), CurvePoint(1, 490, 2.01, 2.5))
SUSTAINED = Sustained(2.0, 970, 485.0, CURVE, "steady", "p50 2.00 ms at first, 2.01 ms at last", SENSORS)
IMAGE = ImageError("images/0.jpg", (10.0, 12.5, 80.0, 90.0), 8.5)
EVALUATION = Evaluation("289 labels of hands", 289, 1.25, 1.6, 0.97, 0.92, 8.5, 6.0, None, (IMAGE,), (IMAGE,))


def _stats(p50_ms: float) -> LatencyStats:
    return LatencyStats(300, p50_ms, 0.01, p50_ms / 2, p50_ms, p50_ms * 1.1, p50_ms * 1.2, p50_ms * 2)


def _result(**changes: Any) -> BenchResult:
    result = BenchResult(
        schema_version=SCHEMA_VERSION,
        date_utc="2025-11-20T11:35:27+00:00",
        bundle="hand.splite",
        model="hand",
        artifact_file="model.onnx",
        artifact_sha256="ab" * 32,
        backend="ort",
        precision="fp32",
        batch=1,
        threads=None,
        opencv_threads=2,
        frames=300,
        warmup_frames=73,
        warmup_s=0.5,
        inputs_from="golden crops of the bundle",
        inputs_count=8,
        image_width_px=128,
        image_height_px=96,
        timer_overhead_us=0.05,
        stages=dict(zip(STAGES, map(_stats, (0.125, 1.25, 0.625, 2.0, 1.1875)), strict=True)),
        environment=ENVIRONMENT,
        windows=Windows(100, (2.1, 2.0, 2.0, 2.01), stable=True, tolerance=0.03),
        samples_ms={"total": (2.0, 2.01, 1.99)},
        samples_every=100,
        affinity=(0, 1),
        model_bytes=2_464_136,
        startup=Startup(310.5, 25.25, 3.5),
        memory=Memory(60.0, 84.5, 90.25),
        sustained=SUSTAINED,
        streams=Streams(2, 600, 900.0, 1.8, _stats(2.2)),
        accuracy=EVALUATION,
        layers=(Layer("/conv1", "Conv", "float32", 12.5), Layer("/head", "Conv", "float32", None)),
    )
    return dataclasses.replace(result, **changes)


def _text(renderable: RenderableType, width: int = 200) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_round_trip_of_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    results = [_result(), _result(backend="tflite", precision="int8", threads=4, batch=2)]
    for result in results:
        append_result(file, result)
    assert file.read_bytes().count(b"\n") == 2
    assert read_results(file) == results


def test_empty_lines_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    append_result(file, _result())
    file.write_text("\n" + file.read_text() + "\n")
    assert len(read_results(file)) == 1


def test_schema_is_fixed() -> None:
    """Whoever changes a key must raise SCHEMA_VERSION."""
    data = _result().to_dict()
    assert list(data) == [
        "schema_version",
        "date_utc",
        "bundle",
        "model",
        "artifact_file",
        "artifact_sha256",
        "backend",
        "precision",
        "batch",
        "threads",
        "opencv_threads",
        "frames",
        "warmup_frames",
        "warmup_s",
        "inputs_from",
        "inputs_count",
        "image_width_px",
        "image_height_px",
        "timer_overhead_us",
        "stages",
        "environment",
        "windows",
        "samples_ms",
        "samples_every",
        "affinity",
        "model_bytes",
        "startup",
        "memory",
        "sustained",
        "streams",
        "accuracy",
        "layers",
    ]
    assert list(data["stages"]) == ["preprocess", "inference", "decode", "total", "bare_inference"]
    assert list(data["stages"]["total"]) == [
        "count",
        "mean_ms",
        "std_ms",
        "min_ms",
        "p50_ms",
        "p90_ms",
        "p99_ms",
        "max_ms",
    ]
    assert list(data["environment"]) == [
        "cpu_model",
        "logical_cores",
        "usable_cores",
        "cpu_quota_cores",
        "governor",
        "max_clock_mhz",
        "allowed_clock_mhz",
        "memory_total_mib",
        "os",
        "kernel",
        "architecture",
        "python",
        "versions",
        "board",
        "l4t",
        "thread_variables",
        "load_average_1min",
        "current_clock_mhz",
        "gpus",
        "gpu_driver",
        "jetpack",
        "nvpmodel",
        "jetson_clocks",
        "temperatures_c",
    ]
    assert list(data["windows"]) == ["frames", "p50_ms", "stable", "tolerance"]
    assert list(data["startup"]) == ["import_ms", "load_ms", "first_inference_ms"]
    assert list(data["memory"]) == ["rss_before_mib", "rss_steady_mib", "rss_peak_mib"]
    assert list(data["sustained"]) == [
        "seconds",
        "frames",
        "frames_per_second",
        "curve",
        "verdict",
        "reason",
        "sensors",
    ]
    assert list(data["sustained"]["curve"][0]) == ["second", "frames", "p50_ms", "max_ms"]
    assert list(data["sustained"]["sensors"]) == [
        "source",
        "seconds",
        "power_mw",
        "temperatures_c",
        "clocks_mhz",
        "mean_power_mw",
        "energy_rail",
        "energy_mj_per_frame",
        "absent",
    ]
    assert list(data["streams"]) == ["count", "frames", "frames_per_second", "speed_up", "latency"]
    assert list(data["accuracy"]) == [
        "labels_from",
        "images",
        "epe_px",
        "epe_box_pct",
        "pck_05",
        "pck_auc",
        "mpjpe_mm",
        "pa_mpjpe_mm",
        "oks_ap",
        "worst",
        "median",
    ]
    assert list(data["accuracy"]["worst"][0]) == ["image", "box", "error_box_pct"]
    assert list(data["layers"][0]) == ["name", "kind", "types", "time_us"]
    assert data["schema_version"] == 2


def test_recorded_results_of_the_first_version_are_read(root: Path) -> None:
    lines = (root / "benchmarks" / "results" / "x86-64-2-cores.jsonl").read_text(encoding="utf-8").splitlines()
    results = [BenchResult.from_dict(json.loads(line)["bench"]) for line in lines]
    assert {result.schema_version for result in results} == {1}
    assert all(
        result.windows is None and result.accuracy is None and result.stages["total"].count for result in results
    )


def test_a_file_alone_has_the_bare_network_only() -> None:
    bare = {"bare_inference": _stats(1.0)}
    alone = _result(bundle="", model="net", artifact_file="net.onnx", precision=None, stages=bare)
    assert BenchResult.from_dict(json.loads(json.dumps(alone.to_dict()))) == alone
    assert (alone.label, alone.overhead_ms, alone.frames_per_second) == ("ort", 0.0, 1000.0)
    text = _text(table([alone]))
    assert "net.onnx" in text and "Bare inference" in text and "Preprocess" not in text


def test_table_holds_the_figures() -> None:
    text = _text(table([_result()]))
    for header in ("Artifact", "Stage", "p50 (ms)", "p90 (ms)", "p99 (ms)", "Max (ms)", "Share of total (%)"):
        assert header in text
    rows = {stage: line for line in text.splitlines() for stage in ("Preprocess", "Decode") if stage in line}
    assert rows["Preprocess"].split("│")[3:8] == [f" {v} " for v in _padded("0.125", "0.138", "0.150", "0.250", "6.2")]
    for figure in ("1.250", "1.375", "1.500", "2.500", "62.5", "2.000", "4.000", "100.0", "1.188", "ort fp32"):
        assert figure in text
    assert "hand.splite" in text


def _padded(*figures: str) -> list[str]:
    """Right-aligned under the headers of the table."""
    widths = [len(header) for header in ("p50 (ms)", "p90 (ms)", "p99 (ms)", "Max (ms)", "Share of total (%)")]
    return [figure.rjust(width) for figure, width in zip(figures, widths, strict=True)]


def summary(result: BenchResult) -> str:
    return " ".join(sentences(result))


def test_sentence_states_overhead_and_speed() -> None:
    text = summary(_result())
    assert "estimator p50 2.000 ms minus bare inference p50 1.188 ms = 0.812 ms overhead" in text
    assert "500.0 frames per second at p50" in text
    assert "golden crops of the bundle (8 of at most 128 x 96 px)" in text
    assert "300 frames after 73 of warm-up" in text
    assert "default of the backend" in text
    assert " ".join(text.split()) in " ".join(_text(table([_result()]), width=3000).split())


def test_sentences_say_everything_else_that_was_measured() -> None:
    text = summary(_result())
    assert "threads: default of the backend on cores 0, 1" in text
    assert "Steady: the last three windows of 100 frames agree within 3 %." in text
    assert "imports in 310 ms, loads in 25 ms and has its first inference after 3.5 ms more" in text
    assert "60 MiB before loading, 84 MiB while it runs, 90 MiB at most" in text
    assert "Over 2 s without a pause: 485.0 frames per second, steady (p50 2.00 ms" in text
    assert "Mean power (tegrastats): VDD_IN 5100 mW, VDD_SOC 900 mW." in text
    assert "10.25 mJ per frame of VDD_IN, idle power contained." in text
    assert "Could not be read: clock of the memory." in text
    assert "2 streams at once: 900.0 frames per second together, 1.80 times one alone" in text
    assert "This file on 289 labels of hands: mean error 1.25 px, 1.60 % of box" in text
    assert "MPJPE 8.50 mm, PA-MPJPE 6.00 mm." in text


def test_an_unsteady_result_is_called_so() -> None:
    text = summary(_result(windows=Windows(100, (2.0, 2.5, 2.0, 2.6), stable=False, tolerance=0.03)))
    assert "UNSTABLE: no three windows of 100 frames in a row agree within 3 % (p50 2.000, 2.500, 2.000, 2.600" in text


def test_what_was_not_measured_is_not_said() -> None:
    bare = dict.fromkeys(("windows", "affinity", "startup", "memory", "sustained", "streams", "accuracy"))
    assert len(sentences(_result(**bare))) == 2
    silent = dataclasses.replace(SUSTAINED, sensors=None)
    assert "Power, temperatures and clocks could not be read here." in summary(_result(sustained=silent))


def test_sentence_of_a_batch_and_of_recorded_outputs() -> None:
    assert "frames of 4 crops per second" in summary(_result(batch=4))
    assert "threads: 2" in summary(_result(threads=2))
    assert "no network ran" in summary(_result(backend="replay"))
    assert "no network ran" not in summary(_result())


def test_environment_table_shows_what_is_not_available() -> None:
    lines = _text(environment_table(ENVIRONMENT)).splitlines()
    shown = {parts[1].strip(): parts[2].strip() for parts in (line.split("│") for line in lines) if len(parts) == 4}
    assert shown["Processor"] == "Test CPU"
    assert shown["Highest clock"] == "1510.4 MHz"
    assert "Frequency governor" in shown["Not available"]
    assert shown["Thread variables"] == "OMP_NUM_THREADS=2"
    assert shown["numpy"] == "1.26.4"


def test_brackets_in_a_name_are_no_markup() -> None:
    assert "hand[bold].splite" in _text(table([_result(bundle="hand[bold].splite")]))


def test_writing_to_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        append_result(tmp_path / "no" / "results.jsonl", _result())
    assert caught.value.hint


@pytest.mark.parametrize(
    "content", ["nonsense", "[]", "{}", '{"schema_version": 3}', '{"schema_version": 2}', '{"schema_version": 1}']
)
def test_wrong_line_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "results.jsonl"
    append_result(file, _result())
    with file.open("a") as stream:
        stream.write(content + "\n")
    with pytest.raises(UsageError, match="line 2") as caught:
        read_results(file)
    assert caught.value.hint


@pytest.mark.parametrize("stage", STAGES)
def test_missing_stage_is_named(stage: str) -> None:
    data = _result().to_dict()
    del data["stages"][stage]
    with pytest.raises(UsageError, match=stage):
        BenchResult.from_dict(json.loads(json.dumps(data)))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot read"):
        read_results(tmp_path / "none.jsonl")
