"""The doctor: broken packages are findings, not crashes."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from splite_deploy import doctor
from splite_deploy.cli.tables.doctor import diagnosis_tables
from splite_deploy.doctor import Check, Stage, checks, diagnose
from splite_deploy.doctor.checks import check_package, import_in_child, version_of
from splite_deploy.doctor.machine import check_emulator, check_int8, check_temporary_folder, check_threads
from splite_deploy.runtime.backends import all_backends


def _module(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> str:
    """Makes ``import name`` run ``source``."""
    (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    return name


def _stage(found: doctor.Diagnosis, name: str) -> Stage:
    return next(stage for stage in found.stages if stage.name == name)


def _no_problem(module: str) -> str:
    return ""


def test_good_import() -> None:
    assert import_in_child("json") == ""


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise ImportError('libGL.so.1: cannot open shared object file')", "libGL.so.1"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "SIGILL"),
        ("raise SystemExit(3)", "status 3"),
    ],
)
def test_bad_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str) -> None:
    assert said in import_in_child(_module(tmp_path, monkeypatch, "broken_for_doctor", source))


def test_hanging_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = _module(tmp_path, monkeypatch, "hanging_for_doctor", "import time; time.sleep(60)")
    assert "more than 0.3 s" in import_in_child(name, timeout_s=0.3)


def test_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert "cannot start a process" in import_in_child("json")


def test_package_that_is_missing() -> None:
    found = check_package("no_such_package_xyz", "pip install xyz", _no_problem)
    assert (found.status, found.fix, found.works) == ("missing", "pip install xyz", False)


def test_package_that_is_broken() -> None:
    found = check_package("cv2", "pip install splite-deploy", lambda module: "ImportError: libGL")
    assert found.status == "failed"
    assert "libGL" in found.detail
    assert found.fix == "pip install --force-reinstall opencv-python-headless"


def test_all_is_well() -> None:
    found = diagnose(probe=_no_problem)
    assert _stage(found, "run with ort").works is True
    assert found.can_run
    assert [stage.name for stage in found.stages][-3:] == ["run --view", "export", "export to TFLite"]
    assert [check.name for check in found.machine] == ["temporary folder", "processor", "threads", "int8"]


def test_missing_packages_give_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {module for backend in all_backends().values() for module in backend.modules if backend.computes}
    absent = {*runs, "torch", "uvicorn"}
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name in absent else object())
    found = diagnose(probe=_no_problem)
    assert _stage(found, "run with ort").fixes == ("pip install 'splite-deploy[ort]'",)
    assert _stage(found, "export").fixes == ("pip install 'splite-deploy[export]'",)
    assert _stage(found, "run --view").fixes == ("pip install 'splite-deploy[view]'",)
    assert _stage(found, "run with replay").works
    assert not found.can_run


def test_broken_opencv_breaks_everything_but_the_diagnosis() -> None:
    found = diagnose(probe=lambda module: "ImportError: libGL" if module == "cv2" else "")
    names = ["run with any backend", "run --view", "export", "export to TFLite"]
    assert [stage.name for stage in found.stages] == names
    assert not any(stage.works for stage in found.stages)
    assert not found.can_run


def test_each_package_is_tried_once() -> None:
    tried: list[str] = []

    def probe(module: str) -> str:
        tried.append(module)
        return ""

    diagnose(probe=probe)
    assert len(tried) == len(set(tried))
    assert {"numpy", "cv2", "onnxruntime"} <= set(tried)


def test_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_temporary_folder(tmp_path, needed_mib=0).status == "ok"
    missing = check_temporary_folder(tmp_path / "none")
    assert (missing.status, missing.works) == ("failed", False)
    assert "TMPDIR" in missing.fix
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10 << 20))
    full = check_temporary_folder(tmp_path)
    assert full.status == "warning"
    assert "10 MiB free" in full.detail


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no CPU affinity")
def test_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    assert check_threads({}, tmp_path) == Check("threads", "ok", "4 cores can be used")
    assert check_threads({"OMP_NUM_THREADS": "4"}, tmp_path).status == "ok"
    for wrong in ("5", "0", "four"):
        found = check_threads({"OMP_NUM_THREADS": wrong}, tmp_path)
        assert found.status == "warning"
        assert "from 1 to 4" in found.fix


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no CPU affinity")
def test_threads_in_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    limit = tmp_path / "sys/fs/cgroup/cpu.max"
    limit.parent.mkdir(parents=True)
    limit.write_text("150000 100000\n")
    found = check_threads({}, tmp_path)
    assert found.status == "warning"
    assert "--threads 2" in found.fix
    limit.write_text("max 100000\n")
    assert check_threads({}, tmp_path).status == "ok"


def test_table_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == "onnxruntime" else object())
    console = Console(width=200)
    with console.capture() as captured:
        console.print(diagnosis_tables(diagnose(probe=_no_problem)))
    text = captured.get()
    assert "pip install 'splite-deploy[ort]'" in text
    assert "run with ort" in text
    assert "temporary folder" in text


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        (
            "flags\t\t: fpu sse2 avx2 fma avx512f avx512_vnni amx_int8",
            "ok",
            "amx_int8, avx512_vnni: int8 in ONNX Runtime",
        ),
        ("flags\t\t: fpu sse2 avx2 avx_vnni", "ok", "avx_vnni: int8 in ONNX Runtime is exact, and faster"),
        ("flags\t\t: fpu sse2 avx2 fma", "warning", "neither VNNI nor AMX: ONNX Runtime adds int8 products in 16 bits"),
        (
            "Features\t: fp asimd evtstrm crc32 asimdhp asimddp",
            "ok",
            "asimddp: int8 in ONNX Runtime is exact, and faster",
        ),
        ("Features\t: fp asimd evtstrm crc32", "ok", "no dot product (asimddp): int8 in ONNX Runtime is exact, but"),
        ("processor\t: 0", "ok", "the CPU does not tell its instructions"),
        (None, "ok", "the CPU does not tell its instructions"),
    ],
)
def test_int8_instructions(tmp_path: Path, line: str | None, status: str, said: str) -> None:
    if line is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc" / "cpuinfo").write_text(f"model name\t: a CPU\n{line}\nbugs\t: avx_vnni\n")
    found = check_int8(tmp_path)
    assert (found.name, found.status) == ("int8", status) and found.detail.startswith(said)
    assert ("--reduce-range" in found.fix) == (status == "warning") and found.works


def test_a_cpu_on_which_onnxruntime_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text("flags\t\t: fpu avx512_vnni amx_int8\n")
    found = check_int8(tmp_path, "1.23.0")
    assert found.status == "warning" and found.detail == (
        "amx_int8: ONNX Runtime 1.23.0 computes int8 layers of 17 to 31 channels wrongly on such CPUs"
    )
    assert found.fix == "pip install 'onnxruntime>=1.25' (on Python 3.10, which has none, take fp32)"
    assert check_int8(tmp_path, "1.25.1").status == "ok"


def test_an_emulated_processor_is_told(tmp_path: Path) -> None:
    assert check_emulator(tmp_path, "aarch64") == Check("processor", "ok", "aarch64")
    (tmp_path / "proc/thread-self").mkdir(parents=True)
    (tmp_path / "qemu-aarch64").write_bytes(b"\x7fELF\x02\x01" + bytes(12) + b"\x3e\0" + bytes(9))
    (tmp_path / "proc/thread-self/exe").symlink_to(tmp_path / "qemu-aarch64")
    found = check_emulator(tmp_path, "aarch64")
    assert found.status == "warning" and found.works
    assert found.detail.startswith("aarch64, emulated by qemu-aarch64: what it computes is right")
    assert "Time on a device" in found.fix
    assert check_emulator(tmp_path, "x86_64").status == "ok"


def test_a_version_is_found_by_the_module_that_a_distribution_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"engine_gpu": ("RECORD", "engine/__init__.py,,\n"), "cv_of_a_board": ("top_level.txt", "cv\n")}
    told["shared"] = ("RECORD", "native.cpython-311-x86_64-linux-gnu.so,,\n")
    for name, (file, text) in told.items():
        folder = tmp_path / f"{name}-1.2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n", encoding="utf-8")
        (folder / file).write_text(text, encoding="utf-8")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert version_of("engine", "engine") == "1.2 (engine_gpu)"
    assert version_of("cv", "opencv-python-headless") == "1.2 (cv_of_a_board)"
    assert version_of("native", "native") == "1.2 (shared)"
    assert version_of("engin", "engin") == "version unknown"
    assert version_of("shared", "shared") == "1.2"
