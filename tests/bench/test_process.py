"""Cold starts, and cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from splite_deploy.bench.process import bound_to, cold_start
from splite_deploy.errors import BackendError, UsageError
from splite_deploy.runtime.backends import find_backend
from splite_deploy.runtime.backends.base import BackendOptions
from splite_deploy.runtime.backends.ort import OrtOptions


def test_what_a_cold_start_costs(tiny_bundle: Path) -> None:
    startup, memory = cold_start(tiny_bundle, find_backend("ort"), "fp32", OrtOptions(threads=1), 1)
    assert startup.import_ms > 20  # numpy, OpenCV and ONNX Runtime
    assert 0 < startup.load_ms < 5000
    assert 0 < startup.first_inference_ms < 5000
    assert memory is not None
    assert 10 < memory.rss_before_mib <= memory.rss_steady_mib <= memory.rss_peak_mib < 2000


def test_a_file_without_its_bundle_and_an_open_batch(tiny_dynamic_bundle: Path) -> None:
    startup, _ = cold_start(tiny_dynamic_bundle / "model.onnx", find_backend("ort"), None, OrtOptions(threads=1), 2)
    assert startup.first_inference_ms > 0


def test_recorded_outputs_need_no_backend(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise RuntimeError('onnxruntime was imported')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    startup, memory = cold_start(tiny_bundle, find_backend("replay"), "fp32", BackendOptions(), 1)
    assert startup.load_ms > 0 and memory is not None and memory.rss_peak_mib > 0
    with pytest.raises(BackendError, match="onnxruntime was imported"):
        cold_start(tiny_bundle, find_backend("ort"), "fp32", OrtOptions(), 1)


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nonsense")
    with pytest.raises(BackendError, match=r"loads broken\.onnx ended with status 1: broken\.onnx is no ONNX graph"):
        cold_start(broken, find_backend("ort"), None, OrtOptions(), 1)


needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process")


@needs_affinity
def test_cores_are_bound_and_released() -> None:
    before = os.sched_getaffinity(0)
    core = min(before)
    with bound_to([core], threads=1):
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before
    with bound_to(None, threads=None):
        assert os.sched_getaffinity(0) == before


@needs_affinity
@pytest.mark.parametrize("cores", [[100_000], []])
def test_cores_that_are_not_there(cores: list[int]) -> None:
    with pytest.raises(UsageError, match="not all usable") as caught, bound_to(cores, threads=1):
        pass
    assert str(min(os.sched_getaffinity(0))) in caught.value.hint


def test_cores_need_a_number_of_threads() -> None:
    with pytest.raises(UsageError, match="no number of threads") as caught, bound_to([0], threads=None):
        pass
    assert "--threads" in caught.value.hint
