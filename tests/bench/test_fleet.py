"""Results of many machines over time: what is read, what is passed over, limits for devices, and the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from bench_results import ENVIRONMENT, bench_result, stats_of

from splite_deploy.bench.fleet import (
    Fleet,
    FleetGate,
    Series,
    broken_limits,
    check_fleet,
    datetime_of,
    read_fleet,
)
from splite_deploy.bench.records import append_result
from splite_deploy.bench.result import BenchResult
from splite_deploy.errors import GateError, InputError, MissingDependencyError, OptionError

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def result(device: str, day: int, p50_ms: float, **changes: Any) -> BenchResult:
    plain = bench_result(sustained=None, streams=None, accuracy=None, samples_ms={}, layers=())
    stages = {**plain.stages, "end_to_end": stats_of(p50_ms)}
    return replace(plain, device=device, date_utc=f"2025-11-{day:02}T08:00:00+00:00", stages=stages, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two devices: the jetson has grown slower by a half, the pi is as it was."""
    place = tmp_path / "results"
    (place / "pi").mkdir(parents=True)
    for day, p50_ms in ((3, 3.0), (1, 2.0), (2, 2.0)):  # in no order
        versions = {**ENVIRONMENT.versions, "onnxruntime": "1.23.0" if day == 3 else "1.22.0"}
        environment = replace(ENVIRONMENT, versions=versions)
        append_result(place / "jetson.jsonl", result("jetson", day, p50_ms, environment=environment))
    for day in (1, 2):
        append_result(place / "pi" / "pi.jsonl", result("pi5", day, 8.0))
    return place


def read(*places: Any) -> Fleet:
    return read_fleet([str(place) for place in places], now=NOW)


def test_results_are_in_series_by_device_in_the_order_of_its_clock(folder: Path) -> None:
    fleet = read(folder)
    assert [(one.device, len(one.results)) for one in fleet.series] == [("jetson", 3), ("pi5", 2)]
    jetson = fleet.devices["jetson"][0]
    assert jetson.latest.stages["end_to_end"].p50_ms == 3.0
    assert jetson.previous is not None and jetson.previous.date_utc.startswith("2025-11-02")
    assert jetson.changes == ["onnxruntime: 1.22.0 → 1.23.0"]
    assert fleet.notes == ()


def test_other_threads_and_artifacts_are_other_series(tmp_path: Path) -> None:
    for changes in ({}, {"threads": 1}, {"precision": "int8"}, {"batch": 4}):
        append_result(tmp_path / "r.jsonl", result("pi5", 1, 8.0, **changes))
    names = [one.name for one in read(tmp_path).series]
    assert names == [
        "hand.splite ort fp32",
        "hand.splite ort fp32, 1 thread",
        "hand.splite ort fp32, batch 4",
        "hand.splite ort int8",
    ]


def test_what_is_no_whole_result_is_passed_over_and_named(folder: Path) -> None:
    whole = json.dumps(result("pi5", 3, 8.5).to_dict())
    newer = json.dumps({**result("pi5", 4, 8.5).to_dict(), "schema_version": 99})
    dateless = json.dumps({**result("pi5", 4, 8.5).to_dict(), "date_utc": "yesterday"})
    other = json.dumps({"kind": "adaptive", "rows": {}})
    lines = [whole[: len(whole) // 2], newer, dateless, "[]", other, whole, whole]
    (folder / "more.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    fleet = read(folder)
    assert len(fleet.devices["pi5"][0].results) == 3
    place = folder / "more.jsonl"
    assert fleet.notes[0] == f"Passed over: {place}, line 1 is cut off: what wrote it was ended, or the disk was full."
    assert fleet.notes[1].startswith(f"Passed over: {place}, line 2: The benchmark result has schema version 99")
    assert fleet.notes[2] == f"Passed over: {place}, line 3: The date 'yesterday' of a result is none."
    assert fleet.notes[3:] == (
        f"Passed over: 1 more line of {place}.",
        "Read twice, and counted once: 1 result.",
        "Of another kind: 1 record.",
    )


def test_a_clock_that_is_ahead_is_named_and_changes_no_order_of_others(folder: Path) -> None:
    future = replace(result("pi5", 1, 9.0), date_utc="2031-05-01T00:00:00+00:00")
    append_result(folder / "pi" / "pi.jsonl", future)
    fleet = read(folder)
    assert fleet.notes == ("The clock of pi5 is ahead: its latest result is of 2031-05-01 00:00 UTC.",)
    assert fleet.devices["jetson"][0].latest.date_utc.startswith("2025-11-03")


def test_dates_of_other_time_zones_are_told_in_utc(tmp_path: Path, splite: Any) -> None:
    for date in ("2025-11-01T01:30:00+02:00", "2025-11-01T00:00:00+00:00"):
        append_result(tmp_path / "r.jsonl", replace(result("pi5", 1, 8.0), date_utc=date))
    (series,) = read(tmp_path).series
    assert [f"{datetime_of(one):%m-%d %H:%M}" for one in series.results] == ["10-31 23:30", "11-01 00:00"]
    for date in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):  # in UTC of no year that there is
        append_result(tmp_path / "r.jsonl", replace(result("pi5", 1, 8.0), date_utc=date))
    fleet = read(tmp_path)
    assert len(fleet.series[0].results) == 2 and len(fleet.notes) == 2
    assert "line 3: The date '0001-01-01T00:00:00+14:00' of a result is none" in fleet.notes[0]


def test_a_file_of_results_is_not_written_over(folder: Path, splite: Any) -> None:
    """As by who has learned that --json of bench appends."""
    held = (folder / "jetson.jsonl").read_bytes()
    for option in ("--json", "--html"):
        for results in (folder, folder / "jetson.jsonl"):
            refused = splite("fleet", results, option, folder / "jetson.jsonl")
            assert refused.exit_code == 1, refused.output
            assert "jetson.jsonl would overwrite the input that RESULTS names" in refused.stderr
    assert (folder / "jetson.jsonl").read_bytes() == held
    for _ in range(2):  # its own figures may lie beside the results, and are written anew
        done = splite("fleet", folder, "--json", folder / "fleet.json")
        assert done.exit_code == 0, done.output
    assert done.stderr.count("warning") == 4 and "more lines of" in done.stderr
    assert "2 devices, 5 results." in done.stdout
    empty = splite("fleet", "")
    assert empty.exit_code == 2 and "It is empty: name a file or a folder" in empty.stderr


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no result in") as caught:
        read(tmp_path)
    assert "bench --json FILE" in caught.value.hint
    with pytest.raises(InputError, match=r"Cannot read the results .*nowhere\.jsonl"):
        read(tmp_path / "nowhere.jsonl")


def test_an_object_store_is_read_through_fsspec(folder: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    for file in folder.rglob("*.jsonl"):
        store.pipe_file(f"/fleet-test/{file.name}", file.read_bytes())
    store.pipe_file("/fleet-test/notes.txt", b"no results")
    try:
        assert [one.device for one in read("memory://fleet-test").series] == ["jetson", "pi5"]
        assert [one.device for one in read("memory://fleet-test/pi.jsonl").series] == ["pi5"]
        with pytest.raises(InputError, match="memory://nothing-there"):
            read("memory://nothing-there")
        with pytest.raises((InputError, MissingDependencyError), match="nosuchstore://x"):
            read("nosuchstore://x")
    finally:
        store.rm("/fleet-test", recursive=True)


def test_a_relative_limit_compares_with_the_previous_result(folder: Path) -> None:
    fleet = read(folder)
    (failure,) = FleetGate.parse("jetson: p50_ms > 1.1x").failures(fleet)
    assert failure == (
        "p50_ms is 3, 0.8 over the limit of 2.2 (jetson, hand.splite ort fp32), 1.1 times the previous 2"
    )
    assert not list(FleetGate.parse("jetson: p50_ms > 1.6x").failures(fleet))
    assert not list(FleetGate.parse("pi*: p50_ms>1.1x").failures(fleet))
    assert len(list(FleetGate.parse("p50_ms > 2.5").failures(fleet))) == 2
    with pytest.raises(GateError, match="p50_ms is 3"):
        check_fleet(broken_limits([FleetGate.parse("p50_ms > 1.1x")], fleet))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jetson: p50_ms", "is not DEVICE, colon, METRIC, comparison and number"),
        ("jetson: p5_ms > 1x", "There is no metric 'p5_ms'"),
        ("p50_ms > -1x", "is no multiple"),
    ],
)
def test_a_malformed_limit_is_refused(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        FleetGate.parse(text)


def test_a_limit_for_nobody_is_refused(folder: Path) -> None:
    fleet = read(folder)
    with pytest.raises(OptionError, match="No result is of a device 'orin'") as caught:
        broken_limits([FleetGate.parse("orin: p50_ms > 1x")], fleet)
    assert caught.value.hint == "There are: jetson, pi5."
    with pytest.raises(OptionError, match="epe_px was not measured by 'pi5'"):
        broken_limits([FleetGate.parse("pi5: epe_px > 1")], fleet)


@pytest.mark.parametrize("name", ["[x]", "pi: kitchen", "a>b", "a=b < c", "Ärger 手", "Pi 5 Model B Rev 1.0, 4 cores"])
def test_a_limit_names_a_device_whatever_it_is_called(name: str) -> None:
    fleet = Fleet((Series(name, "hand.splite ort fp32", (result(name, 1, 3.0),)),))
    (failure,) = FleetGate.parse(f"{name}: p50_ms > 2").failures(fleet)
    assert failure.startswith("p50_ms is 3, 1 over the limit of 2")
    with pytest.raises(OptionError, match="No result is of a device"):
        list(FleetGate.parse(f"{name}.: p50_ms > 2").failures(fleet))


def test_the_command_shows_checks_and_writes_a_page(folder: Path, splite: Any, tmp_path: Path) -> None:
    page, lines = tmp_path / "fleet.html", tmp_path / "fleet.json"
    done = splite("fleet", folder, "--html", page, "--json", lines, "--fail-if", "jetson: p50_ms > 1.1x")
    assert done.exit_code == 1
    assert "jetson" in done.output and "+50.0%" in done.output and "p50_ms is 3" in done.output
    html = page.read_text(encoding="utf-8")
    assert "1 limit is exceeded" in html and "jetson: p50_ms &gt; 1.1x" in html
    assert "onnxruntime: 1.22.0 → 1.23.0" in html and html.count("<polyline") == 4
    assert "<script" not in html and not re.search(r"(src|href)=\"(?!#|data:)", html)
    data = json.loads(lines.read_text(encoding="utf-8"))
    assert [one["device"] for one in data["series"]] == ["jetson", "pi5"] and len(data["exceeded"]) == 1
    assert splite("fleet", folder, "--fail-if", "pi5: p50_ms > 1.1x").exit_code == 0


def test_a_page_of_many_devices_keeps_to_its_size(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    from splite_deploy.bench.report.fleet import fleet_page

    several = [
        replace(result("d", 1 + day % 28, 2.0), date_utc=f"20{10 + day // 300}-{1 + day % 12:02}-01")
        for day in range(300)
    ]
    series = tuple(Series(f"device {index:03}", "hand.splite ort fp32", tuple(several)) for index in range(150))
    html = fleet_page(Fleet(series))
    assert len(html.encode()) <= 1_000_000
    assert "Charts and machines of so many devices would make the page too large" in html
    assert "<h2>device 000</h2>" in html and "<h2>device 149</h2>" not in html
    assert '<th scope="row">device 149, hand.splite ort fp32</th>' in html and html.count("<tr><th scope=") == 150


def test_a_page_of_a_thousand_devices_keeps_to_its_size() -> None:
    pytest.importorskip("jinja2")
    from splite_deploy.bench.report.fleet import fleet_page

    one = result("d", 1, 2.0)
    html = fleet_page(
        Fleet(tuple(Series(f"device {index:03}", "hand.splite ort fp32", (one,)) for index in range(1000)))
    )
    assert len(html.encode()) <= 1_000_000 and html.count("<tr><th scope=") == 1000
