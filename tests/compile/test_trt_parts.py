"""Progress, the choice among builds, the timing cache, and what the processes tell each other."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trt_graphs import needs_rtx

from splite_deploy.bundle import Bundle
from splite_deploy.compile.tensorrt.best_of import Trial, choose_build, try_builds
from splite_deploy.compile.tensorrt.job import Built, CalibrationInputs, Job, read_error, write_error
from splite_deploy.compile.tensorrt.progress import Phases
from splite_deploy.compile.tensorrt.target import facts_of
from splite_deploy.compile.tensorrt.timing_cache import check_timing_file, keep_timings, timing_file, use_timings
from splite_deploy.device.cuda_driver import Gpu
from splite_deploy.errors import (
    BackendError,
    CompileError,
    MissingDependencyError,
    ParityError,
    SpliteError,
    UsageError,
)
from splite_deploy.runtime.backends.trt.compatibility import this_platform
from splite_deploy.runtime.backends.trt.module import TensorRt
from splite_deploy.runtime.session import open_session
from splite_deploy.spec import LimitSpec

# --- progress ---


def test_a_step_of_an_inner_phase_is_a_part_of_a_step_of_the_outer_one() -> None:
    told: list[tuple[str, float]] = []
    phases = Phases(lambda step, share: told.append((step, round(share, 3))))
    phases.start("all", None, 4)
    phases.step("all", 0)
    phases.start("inner", "all", 2)
    phases.step("inner", 0)
    phases.start("innermost", "inner", 10)
    phases.step("innermost", 4)
    phases.finish("innermost")
    phases.finish("inner")
    phases.step("all", 1)
    phases.step("all", 3)
    assert told == [("all", 0.25), ("inner", 0.375), ("innermost", 0.438), ("all", 0.5), ("all", 1.0)]


def test_progress_never_goes_back() -> None:
    told: list[float] = []
    phases = Phases(lambda step, share: told.append(share))
    phases.start("all", None, 2)
    phases.start("again", "all", 2)
    phases.step("again", 1)
    phases.finish("again")
    phases.start("again", "all", 2)
    phases.step("again", 0)
    phases.step("unknown", 5)
    phases.start("orphan", "ended", 1)
    phases.step("orphan", 0)
    assert told == [0.5]


# --- the best of several builds ---


def trial(p50_ms: float, *violations: str) -> Trial:
    return Trial(p50_ms, p50_ms / 10, violations)


def test_the_fastest_build_within_its_limits() -> None:
    trials = [trial(2.0), trial(1.0, "keypoint deviation p95 9 px (limit 1)"), trial(1.5)]
    assert choose_build(trials, "model.int8.engine") == (
        2,
        "3 builds, p50 1.000 to 2.000 ms, deviation p95 0.1 to 0.2 px",
    )
    with pytest.raises(ParityError, match=r"None of 1 builds of model\.int8\.engine keeps its limits: too far\."):
        choose_build([trial(1.0, "too far")], "model.int8.engine")


def test_builds_are_run_side_by_side(tiny_bundle: Path) -> None:
    """Any session will do; what ONNX Runtime runs stands for engines here."""
    bundle = Bundle.open(tiny_bundle)
    sessions = [open_session(bundle, "ort", threads=1) for _ in range(2)]
    try:
        artifact = bundle.manifest.artifacts[0]
        exact = try_builds(sessions, bundle, replace(artifact, limits=LimitSpec(0.01, 0.05, 0.01)))
        strict = try_builds(sessions, bundle, replace(artifact, limits=LimitSpec(0.01, 1e-12, 0.01)))
    finally:
        for session in sessions:
            session.close()
    assert len(exact) == 2
    for found in exact:
        assert 0 < found.p50_ms < 1000 and found.deviation_p95_px < 0.01 and found.violations == ()
    assert all("keypoint deviation max" in found.violations[0] for found in strict)


# --- the target ---


def test_the_facts_of_a_jetson(tmp_path: Path) -> None:
    tensorrt = TensorRt(None, "tensorrt", "10.3.0")
    orin = Gpu("Orin", (8, 7), 7620, True, "12.6", None)
    platform = {"flavour": "tensorrt", "tensorrt": "10.3.0", "platform": this_platform()}
    device = {"gpu": "Orin", "compute_capability": "8.7", "cuda": "12.6"}
    assert facts_of(tensorrt, None, tmp_path) == platform
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nv_tegra_release").write_text(
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n"
    )
    assert facts_of(tensorrt, orin, tmp_path) == {**platform, **device, "l4t": "36.4.3", "jetpack": "6.1, 6.2"}
    assert facts_of(tensorrt, replace(orin, driver="580.95"), tmp_path)["driver"] == "580.95"


# --- the timing cache ---

FACTS = {"flavour": "tensorrt", "tensorrt": "10.3.0", "gpu": "Orin", "compute_capability": "8.7", "cuda": "12.6"}


def test_timings_lie_under_all_that_they_depend_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPLITE_CACHE", str(tmp_path))
    files = {timing_file(None, {**FACTS, name: "other"}) for name in FACTS} | {timing_file(None, FACTS)}
    assert len(files) == len(FACTS) + 1
    assert all(file is not None and file.parent == tmp_path for file in files)
    assert timing_file(None, {**FACTS, "l4t": "36.4.3"}) == timing_file(None, FACTS)
    assert timing_file("off", FACTS) is None
    assert timing_file("/some/file", FACTS) == Path("/some/file")


class Cache:
    """Timings of TensorRT, which take a GPU: a set of lines that can be combined."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self.lines = set(lines)

    def combine(self, other: Cache, ignore_mismatch: bool) -> bool:
        self.lines |= other.lines
        return True

    def serialize(self) -> bytes:
        return b"\n".join(sorted(self.lines))


class Config:
    """The part of a builder's configuration that has to do with them."""

    def __init__(self) -> None:
        self.cache: Cache | None = None

    def create_timing_cache(self, data: bytes) -> Cache | None:
        return None if data.startswith(b"another device") else Cache(data.split(b"\n") if data else [])

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return True

    def get_timing_cache(self) -> Cache | None:
        return self.cache


def test_what_two_builds_have_timed_is_kept_of_both(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "timings.cache"
    configs = Config(), Config()
    for config, line in zip(configs, (b"one", b"two"), strict=True):
        use_timings(config, file)
        assert config.cache is not None and not config.cache.lines
        config.cache.lines.add(line)
    for config in configs:
        keep_timings(config, file)
    assert file.read_bytes() == b"one\ntwo"
    assert list(file.parent.iterdir()) == [file]


def test_timings_of_another_device_count_as_none(tmp_path: Path) -> None:
    file = tmp_path / "timings.cache"
    file.write_bytes(b"another device")
    config = Config()
    use_timings(config, file)
    assert config.cache is not None and config.cache.lines == set()
    config.cache.lines.add(b"mine")
    keep_timings(config, file)
    assert file.read_bytes() == b"mine"


def test_a_named_file_that_holds_no_timings_is_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "timings.cache"
    file.write_bytes(b"another device")
    with pytest.raises(UsageError, match=r"timings\.cache holds something else than timings") as caught:
        use_timings(Config(), file, named=True)
    assert caught.value.hint == "Name a new file with --timing-cache, or leave it out."
    assert file.read_bytes() == b"another device"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("photo", b"\xff\xd8\xff\xe0" + bytes(range(256))),
        ("photo", b"\x89PNG\r\n\x1a\n" + bytes(range(256))),
        ("net", b"\x20\0\0\0TFL3" + bytes(range(256))),
        ("net.onnx", bytes(range(256))),
        ("net.engine", bytes(range(256))),
        ("notes", b"mine"),
        ("notes", ("a" * 4095 + "\u00e9").encode()),
    ],
)
def test_a_file_of_something_else_is_refused_before_the_build(tmp_path: Path, name: str, content: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UsageError, match=f"--timing-cache .*{name} holds something else than timings"):
        check_timing_file(str(file))
    with pytest.raises(UsageError, match="holds something else"):
        check_timing_file(str(tmp_path))


def test_a_file_that_may_hold_timings_is_taken(tmp_path: Path) -> None:
    (tmp_path / "empty.json").touch()
    (tmp_path / "timings").write_bytes(bytes(range(256)))
    for named in (None, "off", str(tmp_path / "new"), str(tmp_path / "empty.json"), str(tmp_path / "timings")):
        check_timing_file(named)


def test_a_cache_that_cannot_be_written_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = Config()
    use_timings(config, tmp_path / "file" / "timings.cache")
    keep_timings(config, tmp_path / "file" / "timings.cache")


@needs_rtx
def test_the_real_configuration_takes_the_same_calls(tmp_path: Path) -> None:
    trt = importlib.import_module("tensorrt_rtx_bindings")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    config = builder.create_builder_config()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # RTX has the calls, and does nothing on them
        use_timings(config, tmp_path / "timings.cache")
        keep_timings(config, tmp_path / "timings.cache")


# --- what the processes tell each other ---


def test_a_job_and_what_was_built_come_back_as_they_were(tmp_path: Path) -> None:
    job = Job("int8", {"weak": "/a.onnx", "strong": "/b.onnx"}, (1, 2, 8), 64, True, None, 0, "off")
    job.write(tmp_path)
    assert Job.read(tmp_path) == job
    calibrated = replace(job, calibration=CalibrationInputs("minmax", "/inputs.npy", "128 images of photos"))
    calibrated.write(tmp_path)
    assert Job.read(tmp_path) == calibrated
    built = Built("strong", {"conv_1": "int8"}, False, {"gpu": "Orin"})
    built.write(tmp_path)
    assert Built.read(tmp_path) == built


@pytest.mark.parametrize(
    ("kind", "becomes"),
    [
        (CompileError, CompileError),
        (UsageError, UsageError),
        (MissingDependencyError, MissingDependencyError),
        (BackendError, CompileError),
    ],
)
def test_an_error_comes_back(kind: type[SpliteError], becomes: type[Any], tmp_path: Path) -> None:
    assert read_error(tmp_path) is None
    write_error(tmp_path, kind("It failed.", hint="Do better."))
    found = read_error(tmp_path)
    assert type(found) is becomes
    assert (found.message, found.hint) == ("It failed.", "Do better.")
