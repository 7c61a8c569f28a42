"""Results as JSON lines and as a table."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench_results import ENVIRONMENT, EVALUATION, SUSTAINED, bench_result, stats_of
from rich.console import Console, RenderableType

from splite_deploy.bench.loop import STAGES
from splite_deploy.bench.records import append_record, append_result, read_results
from splite_deploy.bench.report.sentences import sentences
from splite_deploy.bench.report.text import environment_table, table
from splite_deploy.bench.result import BenchResult, Windows
from splite_deploy.errors import OutputError, UsageError


def _text(renderable: RenderableType, width: int = 200) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_round_trip_of_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    results = [bench_result(), bench_result(backend="tflite", precision="int8", threads=4, batch=2)]
    for result in results:
        append_result(file, result)
    assert file.read_bytes().count(b"\n") == 2
    assert read_results(file) == results


def test_empty_lines_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    append_result(file, bench_result())
    file.write_text("\n" + file.read_text() + "\n")
    assert len(read_results(file)) == 1


def test_schema_is_fixed() -> None:
    """Whoever changes a key must raise SCHEMA_VERSION."""
    data = bench_result().to_dict()
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
        "people_per_image",
        "run",
        "deviation",
    ]
    assert list(data["stages"]) == ["preprocess", "inference", "decode", "end_to_end", "model_only"]
    assert list(data["stages"]["end_to_end"]) == [
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
    known = dataclasses.replace(ENVIRONMENT, instructions=("avx2",), emulator="qemu-x86_64")  # else they are left out
    there = bench_result(environment=known).to_dict()["environment"]
    assert list(there) == [*data["environment"], "instructions", "emulator"]
    assert list(data["windows"]) == ["frames", "p50_ms", "stable", "tolerance"]
    assert list(data["startup"]) == ["import_ms", "load_ms", "first_inference_ms"]
    assert list(data["memory"]) == ["rss_before_mib", "rss_steady_mib", "rss_peak_mib"]
    assert list(data["sustained"]) == [
        "seconds",
        "frames",
        "frames_per_second",
        "curve",
        "state",
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
    assert data["schema_version"] == 3


def test_recorded_results_of_the_first_version_are_read(root: Path) -> None:
    lines = (root / "benchmarks" / "results" / "x86-64-2-cores.jsonl").read_text(encoding="utf-8").splitlines()
    results = [BenchResult.from_dict(json.loads(line)["bench"]) for line in lines]
    assert {result.schema_version for result in results} == {1}
    assert all(
        result.windows is None and result.accuracy is None and result.stages["end_to_end"].count for result in results
    )


def test_a_result_of_the_second_version_is_read_in_the_words_of_this_one() -> None:
    data = json.loads(json.dumps(bench_result().to_dict()))
    second = {**data, "schema_version": 2}
    for name in ("stages", "samples_ms"):
        old = {"end_to_end": "total", "model_only": "bare_inference"}
        second[name] = {old.get(stage, stage): values for stage, values in data[name].items()}
    second["sustained"] = {"verdict" if key == "state" else key: value for key, value in data["sustained"].items()}
    assert second != data
    assert BenchResult.from_dict(second) == bench_result()
    del second["stages"]["bare_inference"]
    with pytest.raises(UsageError, match="it lacks the stage model_only"):
        BenchResult.from_dict(second)


def test_a_file_alone_has_the_model_only() -> None:
    alone_stages = {"model_only": stats_of(1.0)}
    alone = bench_result(bundle="", model="net", artifact_file="net.onnx", precision=None, stages=alone_stages)
    assert BenchResult.from_dict(json.loads(json.dumps(alone.to_dict()))) == alone
    assert (alone.label, alone.overhead_ms, alone.frames_per_second) == ("ort", 0.0, 1000.0)
    text = _text(table([alone]))
    assert "net.onnx" in text and "Model only" in text and "Preprocess" not in text


def test_table_holds_the_figures() -> None:
    text = _text(table([bench_result()]))
    for header in ("Artifact", "Stage", "p50 (ms)", "p90 (ms)", "p99 (ms)", "Max (ms)", "Share of end to end (%)"):
        assert header in text
    rows = {stage: line for line in text.splitlines() for stage in ("Preprocess", "Decode") if stage in line}
    assert rows["Preprocess"].split("│")[3:8] == [f" {v} " for v in _padded("0.125", "0.138", "0.150", "0.250", "6.2")]
    for figure in ("1.250", "1.375", "1.500", "2.500", "62.5", "2.000", "4.000", "100.0", "1.188", "ort fp32"):
        assert figure in text
    assert "hand.splite" in text


def _padded(*figures: str) -> list[str]:
    """Right-aligned under the headers of the table."""
    widths = [len(header) for header in ("p50 (ms)", "p90 (ms)", "p99 (ms)", "Max (ms)", "Share of end to end (%)")]
    return [figure.rjust(width) for figure, width in zip(figures, widths, strict=True)]


def summary(result: BenchResult) -> str:
    return " ".join(sentences(result))


def test_sentence_states_overhead_and_speed() -> None:
    text = summary(bench_result())
    assert "end to end p50 2.000 ms minus model only p50 1.188 ms = 0.812 ms overhead" in text
    assert "500.0 frames per second at p50" in text
    assert "golden crops of the bundle (8 of at most 128 x 96 px)" in text
    assert "300 frames after 73 of warm-up" in text
    assert "default of the backend" in text
    assert " ".join(text.split()) in " ".join(_text(table([bench_result()]), width=3000).split())


def test_sentences_say_everything_else_that_was_measured() -> None:
    text = summary(bench_result())
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
    assert (
        "Keypoints lie 0.25 px (p95) and at most 1.5 px from the original network's, 0.2 % and 1.2 % of the input's "
        "longer side; depth by 0.4 mm (p95): recorded when the bundle was made, on 64 crops." in text
    )


def test_an_unsteady_result_is_called_so() -> None:
    text = summary(bench_result(windows=Windows(100, (2.0, 2.5, 2.0, 2.6), stable=False, tolerance=0.03)))
    assert "UNSTABLE: no three windows of 100 frames in a row agree within 3 % (p50 2.000, 2.500, 2.000, 2.600" in text


def test_what_was_not_measured_is_not_said() -> None:
    nothing = dict.fromkeys(("windows", "affinity", "startup", "memory", "sustained", "streams", "accuracy"))
    nothing["deviation"] = None
    assert len(sentences(bench_result(**nothing))) == 2
    silent = dataclasses.replace(SUSTAINED, sensors=None)
    assert "Power, temperatures and clocks could not be read here." in summary(bench_result(sustained=silent))


def test_sentence_of_a_batch_and_of_recorded_outputs() -> None:
    assert "frames of 4 crops per second" in summary(bench_result(batch=4))
    assert "threads: 2" in summary(bench_result(threads=2))
    assert "no network ran" in summary(bench_result(backend="replay"))
    assert "no network ran" not in summary(bench_result())


def test_environment_table_shows_what_is_not_available() -> None:
    lines = _text(environment_table(ENVIRONMENT)).splitlines()
    shown = {parts[1].strip(): parts[2].strip() for parts in (line.split("│") for line in lines) if len(parts) == 4}
    assert shown["Processor"] == "Test CPU"
    assert shown["Highest clock"] == "1510.4 MHz"
    assert "Frequency governor" in shown["Not available"]
    assert shown["Thread variables"] == "OMP_NUM_THREADS=2"
    assert shown["numpy"] == "1.26.4"


def test_brackets_in_a_name_are_no_markup() -> None:
    assert "hand[bold].splite" in _text(table([bench_result(bundle="hand[bold].splite")]))


def test_writing_to_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        append_result(tmp_path / "no" / "results.jsonl", bench_result())
    assert caught.value.hint


@pytest.mark.parametrize(
    "content",
    [
        "nonsense",
        "[]",
        "{}",
        '{"schema_version": 4}',
        '{"schema_version": 3}',
        '{"schema_version": 2}',
        '{"schema_version": 1}',
    ],
)
def test_wrong_line_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "results.jsonl"
    append_result(file, bench_result())
    with file.open("a") as stream:
        stream.write(content + "\n")
    with pytest.raises(UsageError, match="line 2") as caught:
        read_results(file)
    assert caught.value.hint


@pytest.mark.parametrize("stage", STAGES)
def test_missing_stage_is_named(stage: str) -> None:
    data = bench_result().to_dict()
    del data["stages"][stage]
    with pytest.raises(UsageError, match=stage):
        BenchResult.from_dict(json.loads(json.dumps(data)))


@pytest.mark.parametrize(
    ("field", "value"), [("p50_ms", 0.0), ("p50_ms", -1.0), ("min_ms", 0.0), ("mean_ms", 0.0), ("count", 0)]
)
def test_a_time_that_is_none_is_refused(field: str, value: float) -> None:
    data = json.loads(json.dumps(bench_result().to_dict()))
    data["stages"]["end_to_end"][field] = value
    with pytest.raises(UsageError, match="malformed: the stage end_to_end has") as caught:
        BenchResult.from_dict(data)
    assert caught.value.hint == "Measure again."


def test_readings_that_belong_to_no_time_are_refused() -> None:
    data = json.loads(json.dumps(bench_result().to_dict()))
    sensors = data["sustained"]["sensors"]
    kind = next(kind for kind in ("power_mw", "temperatures_c", "clocks_mhz") if sensors[kind])
    name = next(iter(sensors[kind]))
    sensors[kind][name].append(1.0)
    said = f"sustained.sensors.{kind}.{name} has not one value for each of seconds."
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        BenchResult.from_dict(data)
    assert caught.value.hint == "Measure again."


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot read"):
        read_results(tmp_path / "none.jsonl")


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_a_result_is_told(tmp_path: Path, content: str) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text(content)
    for line in (None, 1):
        with pytest.raises(UsageError, match=r"results\.jsonl holds no result\.") as caught:
            read_results(file, line)
        assert caught.value.hint == "Name a file that 'splite-deploy bench BUNDLE --json FILE' wrote."


def test_a_line_that_was_cut_stays_and_is_told(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    append_result(file, bench_result())
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:200])  # what a killed run may leave
    with pytest.raises(UsageError, match="line 2 is cut off: what wrote it was ended") as caught:
        read_results(file)
    assert caught.value.hint == "Remove that line; the others are whole."
    append_result(file, bench_result())
    assert file.read_bytes() == whole + whole[:200] + b"\n" + whole


def test_a_last_line_without_an_end_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    append_result(file, bench_result())
    file.write_bytes(file.read_bytes()[:-1])
    append_result(file, bench_result())
    assert read_results(file) == [bench_result(), bench_result()]


def test_a_figure_that_is_not_finite_is_not_appended(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    with pytest.raises(OutputError, match="rss_mib is not a finite number") as caught:
        append_record(file, {"rss_mib": float("inf")})
    assert "without --json" in caught.value.hint and not file.exists()


def test_a_disk_that_fills_up_leaves_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    append_result(file, bench_result())
    before = file.read_bytes()
    append = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parents[1] / "shared")!r})
from bench_results import bench_result
from splite_deploy.bench import append_result
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 500}, -1))
append_result({str(file)!r}, bench_result())
"""
    done = subprocess.run([sys.executable, "-c", append], capture_output=True, text=True, check=False)
    assert "OutputError: Cannot write" in done.stderr and file.read_bytes() == before


@pytest.mark.parametrize(
    ("angles", "said"),
    [
        ("found", "turned as the network finds them"),
        ("two-passes", "turned in two passes"),
        ("labels", "turned by the angles of the labels"),
    ],
)
def test_an_evaluation_of_turned_crops_says_whose_angles_it_took(angles: Any, said: str) -> None:
    turned = dataclasses.replace(
        EVALUATION, angles=angles, handedness=0.95, handedness_hands=280, handedness_labels="as-seen"
    )
    text = summary(bench_result(accuracy=turned))
    assert f"This file on 289 labels of hands, {said}: mean error 1.25 px" in text
    assert "handedness 0.9500 (280)" in text
