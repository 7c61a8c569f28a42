"""The doctor on Jetsons, on PCs with an NVIDIA GPU, and without: file trees as Jetson Linux writes them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from splite_deploy import doctor
from splite_deploy.doctor import checks, diagnose, nvidia
from splite_deploy.doctor.checks import Answer, Check
from splite_deploy.doctor.nvidia import ask_gpu_in_child, check_nvidia
from splite_deploy.runtime import backends
from splite_deploy.runtime.backends import find_backend

XAVIER = (
    "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\n",
    "NVIDIA Jetson Xavier NX Developer Kit\0",
)
ORIN = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
    "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n",
    "NVIDIA Jetson Orin Nano Developer Kit\0",
)
NANO = (
    "# R32 (release), REVISION: 7.1, GCID: 29689809, BOARD: t210ref, EABI: aarch64\n",
    "NVIDIA Jetson Nano Developer Kit\0",
)
GPU = {
    "name": "Orin",
    "compute_capability": [8, 7],
    "memory_mib": 7620,
    "integrated": True,
    "cuda": "12.6",
    "driver": None,
}
XAVIER_GPU = {**GPU, "name": "Xavier", "compute_capability": [7, 2], "cuda": "11.4"}


def answers(gpu: object) -> Callable[[], Answer]:
    return lambda: Answer(json.dumps(gpu), "")


def device(folder: Path, files: tuple[str, str]) -> Path:
    for name, text in zip(("etc/nv_tegra_release", "proc/device-tree/model"), files, strict=True):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Modules that can be found; empty at first."""
    names: set[str] = set()
    for module in (nvidia, checks):
        monkeypatch.setattr(module, "find_spec", lambda name: name if name.partition(".")[0] in names else None)
    return names


def probe_of(installed: set[str], problems: dict[str, str] | None = None) -> Callable[[str], str]:
    def probe(module: str) -> str:
        if module.partition(".")[0] not in installed:
            return f"ModuleNotFoundError: No module named '{module}'"
        return (problems or {}).get(module, "")

    return probe


def named(rows: tuple[Check, ...]) -> dict[str, Check]:
    return {row.name: row for row in rows}


def test_a_machine_without_nvidia_says_so_in_one_row(installed: set[str], tmp_path: Path) -> None:
    (row,) = check_nvidia(probe_of(installed), root=tmp_path, ask_gpu=answers(None))
    assert row == Check("NVIDIA", "missing", "no Jetson and no NVIDIA GPU; only TensorRT needs one")


@pytest.mark.parametrize("there", [True, False])
def test_running_with_tensorrt_needs_a_gpu_too(
    there: bool, installed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed |= {"numpy", "cv2", "tensorrt", "cuda"}
    trt = find_backend("trt")
    monkeypatch.setattr(backends, "all_backends", lambda: {"trt": trt})
    rows = check_nvidia(probe_of(installed), root=Path("/nowhere"), ask_gpu=answers(GPU if there else None))
    monkeypatch.setattr(doctor, "check_nvidia", lambda probe: rows)
    found = diagnose(probe=probe_of(installed))
    assert (found.stages[0].name, found.stages[0].works, found.can_run) == ("run with trt", there, there)
    assert found.stages[0].fixes == (() if there else ("Install NVIDIA's driver to run engines.",))


def test_orin_with_all_it_needs(installed: set[str], tmp_path: Path) -> None:
    installed |= {"tensorrt", "cuda"}
    root = device(tmp_path, ORIN)
    rows = named(check_nvidia(probe_of(installed), root=root, ask_gpu=answers(GPU), python=(3, 10)))
    assert rows["Jetson Linux (L4T)"].detail == "36.4.3, NVIDIA Jetson Orin Nano Developer Kit"
    assert rows["JetPack"].detail.startswith("6.1, 6.2 for Orin: TensorRT 10.3, CUDA 12.6, Python 3.10")
    assert rows["GPU"].detail == "Orin, compute capability 8.7, CUDA up to 12.6"
    assert rows["TensorRT"].status == "ok"
    assert rows["GPU memory"].detail.startswith("cuda-bindings")
    assert rows["TensorRT engines"].fix == "splite-deploy compile BUNDLE -b trt -p fp16"
    assert all(row.status == "ok" for row in rows.values())


def test_orin_where_all_is_missing_says_what_to_type(installed: set[str], tmp_path: Path) -> None:
    root = device(tmp_path, ORIN)
    rows = named(check_nvidia(probe_of(installed), root=root, ask_gpu=answers(None), python=(3, 10)))
    assert rows["GPU"].fix == "In a container: add --runtime nvidia."
    assert rows["TensorRT"].fix == "sudo apt install python3-libnvinfer"
    assert rows["GPU memory"].fix == "pip install 'cuda-python==12.*'"
    assert "TensorRT engines" not in rows


def test_a_virtual_environment_that_hides_the_systems_tensorrt(installed: set[str], tmp_path: Path) -> None:
    root = device(tmp_path, ORIN)
    (root / "usr/lib/python3.10/dist-packages/tensorrt").mkdir(parents=True)
    rows = named(check_nvidia(probe_of(installed), root=root, ask_gpu=answers(GPU), python=(3, 10)))
    assert "hidden from this environment" in rows["TensorRT"].detail
    assert rows["TensorRT"].fix == "/usr/bin/python3 -m venv --system-site-packages .venv"


def test_a_python_that_tensorrt_is_not_built_for(installed: set[str], tmp_path: Path) -> None:
    root = device(tmp_path, ORIN)
    rows = named(check_nvidia(probe_of(installed), root=root, ask_gpu=answers(GPU), python=(3, 11)))
    assert rows["TensorRT"].detail == "its module is for Python 3.10, this is 3.11"
    assert "--system-site-packages" in rows["TensorRT"].fix


def test_xavier_is_told_of_the_image_that_compiles_the_module(installed: set[str], tmp_path: Path) -> None:
    root = device(tmp_path, XAVIER)
    rows = named(check_nvidia(probe_of(installed), root=root, ask_gpu=answers(XAVIER_GPU), python=(3, 10)))
    assert list(rows) == ["Jetson Linux (L4T)", "JetPack", "GPU", "TensorRT"]
    assert rows["JetPack"].status == "warning"
    assert rows["JetPack"].fix == rows["TensorRT"].fix
    assert rows["JetPack"].fix == (
        "Its TensorRT module needs Python 3.8, splite-deploy 3.10. "
        "Build the repository's docker/jetson/Dockerfile.jp5, which compiles the module for Python 3.10, "
        "and start it with --runtime nvidia. Without: pip install 'splite-deploy[ort]', on the CPU."
    )
    assert rows["TensorRT"].detail == "its module is for Python 3.8 only"


def test_xavier_in_that_image(installed: set[str], tmp_path: Path) -> None:
    installed |= {"tensorrt", "cuda"}
    root = device(tmp_path, XAVIER)
    rows = named(check_nvidia(probe_of(installed), root=root, ask_gpu=answers(XAVIER_GPU), python=(3, 10)))
    assert all(row.status == "ok" for row in rows.values())
    assert rows["JetPack"].detail.endswith("Python 3.8; engines are weakly typed")
    assert rows["TensorRT engines"].fix == "splite-deploy compile BUNDLE -b trt -p fp16"


def test_xavier_in_that_image_without_the_gpus_libraries(installed: set[str], tmp_path: Path) -> None:
    installed |= {"tensorrt", "cuda"}
    probe = probe_of(installed, {"tensorrt": "ImportError: libnvdla_compiler.so: cannot open shared object file"})
    root = device(tmp_path, XAVIER)
    rows = named(check_nvidia(probe, root=root, ask_gpu=answers(None), python=(3, 10)))
    assert rows["GPU"].fix == "In a container: add --runtime nvidia."
    assert rows["TensorRT"].status == "failed"
    assert rows["TensorRT"].fix.startswith("Build the repository's docker/jetson/Dockerfile.jp5")
    assert rows["TensorRT"].fix.endswith("start it with --runtime nvidia.")


def test_a_jetpack_that_is_not_known(installed: set[str], tmp_path: Path) -> None:
    rows = named(check_nvidia(probe_of(installed), root=device(tmp_path, NANO), ask_gpu=answers(GPU)))
    assert rows["JetPack"].status == "warning"
    assert rows["JetPack"].detail == "unknown to this version of splite-deploy (it knows JetPack 5.1 to 7.2)"
    assert rows["TensorRT"].status == "missing"


def test_a_broken_tensorrt_of_jetpack_is_reinstalled_by_apt(installed: set[str], tmp_path: Path) -> None:
    installed |= {"tensorrt", "pycuda"}
    probe = probe_of(installed, {"tensorrt": "ImportError: libnvdla_compiler.so: cannot open shared object file"})
    rows = named(check_nvidia(probe, root=device(tmp_path, ORIN), ask_gpu=answers(GPU), python=(3, 10)))
    assert rows["TensorRT"].status == "failed"
    assert "libnvdla_compiler.so" in rows["TensorRT"].detail
    assert rows["TensorRT"].fix == "sudo apt install --reinstall python3-libnvinfer"
    assert rows["GPU memory"].detail.startswith("pycuda")


def test_memory_that_is_installed_but_broken(installed: set[str], tmp_path: Path) -> None:
    installed |= {"tensorrt", "pycuda"}
    probe = probe_of(installed, {"pycuda.driver": "ImportError: libcuda.so.1: cannot open shared object file"})
    rows = named(check_nvidia(probe, root=tmp_path, ask_gpu=answers(GPU)))
    assert rows["GPU memory"].status == "failed"
    assert "pycuda: ImportError: libcuda.so.1" in rows["GPU memory"].detail


def test_tensorrt_rtx_without_a_gpu_builds(installed: set[str], tmp_path: Path) -> None:
    installed.add("tensorrt_rtx_bindings")
    rows = check_nvidia(probe_of(installed), root=tmp_path, ask_gpu=answers(None))
    assert [(row.name, row.status) for row in rows] == [("GPU", "missing"), ("TensorRT-RTX", "ok")]


def test_a_pc_with_a_gpu_and_nothing_else(installed: set[str], tmp_path: Path) -> None:
    gpu = {**GPU, "name": "NVIDIA H200", "compute_capability": [9, 0], "driver": "580.95.05"}
    rows = named(check_nvidia(probe_of(installed), root=tmp_path, ask_gpu=answers(gpu)))
    assert rows["GPU"].detail == "NVIDIA H200, compute capability 9.0, CUDA up to 12.6, driver 580.95.05"
    assert rows["TensorRT"].fix == "pip install tensorrt"
    assert rows["GPU memory"].fix == "pip install cuda-python"


def test_the_driver_is_asked_and_may_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is installed to make a driver with")
    (tmp_path / "driver.c").write_text("#include <stdlib.h>\nint cuInit(unsigned flags) { abort(); }\n")
    library = tmp_path / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", tmp_path / "driver.c", "-o", library], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", os.fspath(tmp_path))
    assert ask_gpu_in_child().problem.startswith("asking the driver crashed Python (SIGABRT)")
    row = named(diagnose(probe=lambda module: "").nvidia)["GPU"]
    assert (row.status, row.fix) == ("failed", "Reboot, then reinstall NVIDIA's driver.")


def test_the_answer_has_the_fields_that_are_read() -> None:
    answer = ask_gpu_in_child()
    assert answer.problem == ""
    found = json.loads(answer.output)
    assert found is None or set(found) == set(GPU)
