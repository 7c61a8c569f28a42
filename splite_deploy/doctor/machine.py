"""Checks of the machine itself: space for files, and threads."""

from __future__ import annotations

import math
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from splite_deploy.device.cgroup import cpu_quota_cores
from splite_deploy.device.emulator import read_emulator
from splite_deploy.device.int8 import RIGHT_ONNXRUNTIME, read_int8_instructions
from splite_deploy.doctor.checks import Check

FREE_SPACE_MIB = 500
"""Below this the temporary folder is reported: an export keeps several copies of the graph there."""


def check_temporary_folder(folder: Path, needed_mib: int = FREE_SPACE_MIB) -> Check:
    """Whether files can be written to ``folder``, and whether there is space for an export."""
    name, fix = "temporary folder", "Set the environment variable TMPDIR to a folder with space that you may write to."
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"splite-deploy")
        free_mib = shutil.disk_usage(folder).free >> 20
    except OSError as err:
        return Check(name, "failed", f"{folder} cannot be written to: {err.strerror or err}", fix)
    detail = f"{folder}, {free_mib} MiB free"
    if free_mib < needed_mib:
        return Check(name, "warning", f"{detail}; an export may need {needed_mib} MiB", fix)
    return Check(name, "ok", detail)


def check_threads(variables: Mapping[str, str], root: Path = Path("/")) -> Check:
    """Whether backends will start no more threads than there are cores for them.

    Args:
        variables: Environment variables.
        root: Where the cgroup of this process is looked up.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota_cores = cpu_quota_cores(root)
    usable = cores if quota_cores is None else min(cores, math.ceil(quota_cores))
    detail = f"{usable} cores can be used"
    requested = variables.get("OMP_NUM_THREADS", "")
    if requested and not (requested.isdecimal() and 1 <= int(requested) <= usable):
        fix = f"Set OMP_NUM_THREADS to a number from 1 to {usable}, or unset it."
        return Check("threads", "warning", f"{detail}; OMP_NUM_THREADS is '{requested}'", fix)
    if usable < cores:
        fix = f"Give --threads {usable}: backends count the cores of the machine, not those of the cgroup."
        return Check("threads", "warning", f"{detail} of {cores} (limit of the cgroup)", fix)
    return Check("threads", "ok", detail)


def check_emulator(root: Path = Path("/"), machine: str | None = None) -> Check:
    """Whether this machine is itself, or another program emulates it.

    Args:
        root: Where ``proc`` is looked up.
        machine: The architecture; None asks the system.
    """
    name, machine = "processor", machine or platform.machine()
    emulator = read_emulator(root, machine)
    if emulator is None:
        return Check(name, "ok", machine)
    detail = f"{machine}, emulated by {emulator}: what it computes is right, times and sensors are those of no machine"
    return Check(name, "warning", detail, "Time on a device; here 'verify' and 'run' say what it computes.")


def check_int8(root: Path = Path("/"), onnxruntime: str = "") -> Check:
    """Whether int8 graphs of ONNX Runtime compute here what they compute elsewhere, and whether they can be fast.

    Args:
        root: Where ``proc/cpuinfo`` is.
        onnxruntime: Its version; empty where it is not installed.
    """
    found = read_int8_instructions(root)
    if not found.known:
        return Check("int8", "ok", "the CPU does not tell its instructions; 'bench' tells whether int8 is faster")
    if found.saturates:
        detail = "neither VNNI nor AMX: ONNX Runtime adds int8 products in 16 bits, which can saturate"
        return Check("int8", "warning", detail, "Export int8 for this CPU with --reduce-range: weights of 7 bits.")
    if found.miscounts(onnxruntime):
        detail = f"amx_int8: ONNX Runtime {onnxruntime} computes int8 layers of 17 to 31 channels wrongly on such CPUs"
        return Check("int8", "warning", detail, RIGHT_ONNXRUNTIME)
    if not found.names:
        return Check(
            "int8", "ok", "no dot product (asimddp): int8 in ONNX Runtime is exact, but hardly faster than fp32"
        )
    return Check("int8", "ok", f"{', '.join(found.names)}: int8 in ONNX Runtime is exact, and faster than without")
