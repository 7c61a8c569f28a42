"""Checks of Jetsons and NVIDIA GPUs: JetPack, the driver, TensorRT, GPU memory from Python."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import splite_deploy
from splite_deploy.device.jetson import JETPACKS, PYTHON_FROM, JetPack, dotted, jetpack_of, read_board, read_l4t
from splite_deploy.doctor.checks import Answer, Check, Probe, check_package, run_in_child, version_of
from splite_deploy.runtime.backends.trt import MODULES

MEMORY_MODULES = {
    "cuda.bindings.runtime": ("cuda", "cuda-bindings"),
    "cuda.cudart": ("cuda", "cuda-python"),
    "pycuda.driver": ("pycuda", "pycuda"),
}
"""Packages for GPU memory, in the order of preference: top-level module and distribution of each."""

GPU_TIMEOUT_S = 30.0

_SYSTEM_VENV = "/usr/bin/python3 -m venv --system-site-packages .venv"
# By its file: its package imports OpenCV, which may be broken.
_CUDA_DRIVER = Path(splite_deploy.__file__).parent / "device" / "cuda_driver.py"
_ASK = """
import dataclasses, json, runpy
found = runpy.run_path(sys.argv[1])["gpu"]()
print(json.dumps(found and dataclasses.asdict(found)))
"""

AskGpu = Callable[[], Answer]
"""Asks for the GPU in another process: the fields of `splite_deploy.device.cuda_driver.Gpu` as JSON, or ``null``."""


def ask_gpu_in_child() -> Answer:
    """Asks the driver in a process of its own: a driver that does not match its kernel module may hang or crash."""
    return run_in_child(_ASK, str(_CUDA_DRIVER), "asking the driver", GPU_TIMEOUT_S)


def check_nvidia(
    probe: Probe,
    *,
    root: Path = Path("/"),
    ask_gpu: AskGpu = ask_gpu_in_child,
    python: tuple[int, int] = sys.version_info[:2],
) -> tuple[Check, ...]:
    """Everything that TensorRT needs; a single row where there is nothing of NVIDIA's.

    Args:
        probe: How a package is tried.
        root: Where the files of the operating system are looked up.
        ask_gpu: How the driver is queried.
        python: Version of the running Python, (major, minor).
    """
    l4t = read_l4t(root)
    gpu = _check_gpu(ask_gpu(), jetson=l4t is not None)
    if l4t is None and gpu.status == "missing" and not any(map(find_spec, MODULES)):
        return (Check("NVIDIA", "missing", "no Jetson and no NVIDIA GPU; only TensorRT needs one"),)
    jetpack = jetpack_of(l4t) if l4t is not None else None
    tensorrt = _check_tensorrt(probe, jetpack, root, python)
    if l4t is None and gpu.status == "missing":
        return gpu, tensorrt
    jetson = _check_jetson(l4t, jetpack, read_board(root), tensorrt) if l4t is not None else ()
    if not tensorrt.works and jetpack is not None and not jetpack.brings_module:
        return (*jetson, gpu, tensorrt)
    memory = _check_memory(probe, jetpack)
    if not all(check.works for check in (gpu, tensorrt, memory)):
        return (*jetson, gpu, tensorrt, memory)
    command = "splite-deploy compile BUNDLE -b trt -p fp16"
    return (*jetson, gpu, tensorrt, memory, Check("TensorRT engines", "ok", "can be built and run here", command))


def _check_jetson(l4t: str, jetpack: JetPack | None, board: str | None, tensorrt: Check) -> tuple[Check, Check]:
    linux = Check("Jetson Linux (L4T)", "ok", f"{l4t}, {board or 'board unknown'}")
    if jetpack is None:
        newest, oldest = JETPACKS[-1], JETPACKS[0]
        detail = f"unknown to this version of splite-deploy (it knows JetPack {oldest.name} to {newest.name})"
        return linux, Check("JetPack", "warning", detail, "TensorRT may still work; see the rows below.")
    if jetpack.brings_module or tensorrt.works:
        return linux, Check("JetPack", "ok", f"{jetpack}; engines are {jetpack.typing}")
    return linux, Check("JetPack", "warning", str(jetpack), _too_old(jetpack))


def _too_old(jetpack: JetPack) -> str:
    needs = f"Its TensorRT module needs Python {dotted(jetpack.python)}, splite-deploy {dotted(PYTHON_FROM)}."
    return f"{needs} {_image(jetpack)} Without: pip install 'splite-deploy[ort]', on the CPU."


def _image(jetpack: JetPack) -> str:
    compiled = f"which compiles the module for Python {dotted(PYTHON_FROM)}"
    return f"Build the repository's {jetpack.dockerfile}, {compiled}, and start it with --runtime nvidia."


def _check_gpu(answer: Answer, *, jetson: bool) -> Check:
    if answer.problem:
        return Check("GPU", "failed", answer.problem, "Reboot, then reinstall NVIDIA's driver.")
    found: dict[str, Any] | None = json.loads(answer.output)
    if found is None:
        fix = "In a container: add --runtime nvidia." if jetson else "Install NVIDIA's driver to run engines."
        return Check("GPU", "missing", "no CUDA driver, or no GPU that this process may use", fix)
    capability = dotted(tuple(found["compute_capability"]))
    driver = f", driver {found['driver']}" if found["driver"] else ""
    return Check("GPU", "ok", f"{found['name']}, compute capability {capability}, CUDA up to {found['cuda']}{driver}")


def _check_tensorrt(probe: Probe, jetpack: JetPack | None, root: Path, python: tuple[int, int]) -> Check:
    module = next((name for name in MODULES if find_spec(name) is not None), None)
    if module is not None:
        found = replace(check_package(module, "", probe), name=MODULES[module])
        if found.works or jetpack is None:
            return found
        own = jetpack.brings_module
        return replace(found, fix="sudo apt install --reinstall python3-libnvinfer" if own else _image(jetpack))
    if jetpack is None:
        return Check("TensorRT", "missing", "not installed", "pip install tensorrt")
    if not jetpack.brings_module:
        return Check(
            "TensorRT", "missing", f"its module is for Python {dotted(jetpack.python)} only", _too_old(jetpack)
        )
    if python != jetpack.python:
        detail = f"its module is for Python {dotted(jetpack.python)}, this is {dotted(python)}"
        return Check("TensorRT", "missing", detail, _SYSTEM_VENV)
    if any((root / "usr/lib").glob("python3*/dist-packages/tensorrt")):
        return Check("TensorRT", "missing", "installed with the system, hidden from this environment", _SYSTEM_VENV)
    return Check("TensorRT", "missing", "not installed", "sudo apt install python3-libnvinfer")


def _check_memory(probe: Probe, jetpack: JetPack | None) -> Check:
    problems = {}
    for module, (top, distribution) in MEMORY_MODULES.items():
        problem = probe(module)
        if not problem:
            return Check("GPU memory", "ok", f"{distribution} {version_of(top, distribution)}")
        if find_spec(top) is not None and "ModuleNotFoundError" not in problem:
            problems[distribution] = problem
    fix = jetpack.cuda_python if jetpack is not None else "pip install cuda-python"
    if problems:
        return Check("GPU memory", "failed", "; ".join(f"{name}: {text}" for name, text in problems.items()), fix)
    return Check("GPU memory", "missing", "neither cuda-python nor pycuda is installed", fix)
