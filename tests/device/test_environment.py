"""The environment from fake root folders, in the form in which Linux and Jetson Linux write these files."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from splite_deploy.device.environment import Environment, installed_versions, package_version, read_environment

LAPTOP = {
    "proc/cpuinfo": "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: 11th Gen Intel(R) Core(TM) i7-1165G7 @ "
    "2.80GHz\ncpu MHz\t\t: 1200.000\n"
    "flags\t\t: fpu sse2 avx2 avx512f avx512_vnni\n\nprocessor\t: 1\nmodel name\t: another\n",
    "proc/meminfo": "MemTotal:       16067164 kB\nMemFree:         1067164 kB\n",
    "proc/loadavg": "0.52 0.58 0.59 1/1234 56789\n",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04.1 LTS"\n',
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "4700000\n",
    "sys/devices/system/cpu/cpu1/cpufreq/cpuinfo_max_freq": "4500000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "2800000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "not a core\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1200000\n",
    "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp\n",
    "sys/class/thermal/thermal_zone0/temp": "51500\n",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  560.35.03  Fri Aug 16 21:39:15 UTC "
    "2024\nGCC version:  gcc version 12.3.0\n",
    "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA GeForce RTX 3050\nIRQ:   \t\t 164\n",
}

JETSON = {
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\nBogoMIPS\t: 62.50\n"
    "Features\t: fp asimd evtstrm aes asimdhp asimddp\n"
    "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd42\nCPU revision\t: 1\n",
    "proc/meminfo": "MemTotal:        7802916 kB\n",
    "proc/loadavg": "1.00 0.75 0.50 2/600 4321\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed "
    "Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu4/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1510400\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1510400\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "1510400\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "624750000\n",
    "sys/fs/cgroup/cpu.max": "150000 100000\n",
    "var/lib/nvpmodel/status": "pmode:0001\n",
    "etc/nvpmodel.conf": "# comment\n< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=7W >\n"
    "< PM_CONFIG DEFAULT=0 >\n",
    "var/lib/dpkg/status": "Package: nvidia-jetpack-dev\nVersion: 1\n\nPackage: nvidia-jetpack\nStatus: install ok "
    "installed\nArchitecture: arm64\nVersion: 6.2+b77\nDepends: x\n\nPackage: zlib1g\nVersion: 9\n",
}


def _root(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def _file_readings(environment: Environment) -> list[object]:
    return [
        environment.cpu_model,
        environment.cpu_quota_cores,
        environment.governor,
        environment.max_clock_mhz,
        environment.allowed_clock_mhz,
        environment.memory_total_mib,
        environment.os,
        environment.board,
        environment.l4t,
        environment.load_average_1min,
        environment.current_clock_mhz,
        environment.gpu_driver,
        environment.jetpack,
        environment.nvpmodel,
        environment.jetson_clocks,
    ]


def test_laptop(tmp_path: Path) -> None:
    found = read_environment(_root(tmp_path, LAPTOP))
    assert found.cpu_model == "11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz"
    assert found.instructions == ("avx2", "avx512f", "avx512_vnni")
    assert found.memory_total_mib == 15691
    assert found.os == "Ubuntu 24.04.1 LTS"
    assert found.governor == "powersave"
    assert (found.max_clock_mhz, found.allowed_clock_mhz) == (4700.0, 2800.0)
    assert found.load_average_1min == 0.52
    assert found.board is None
    assert found.l4t is None
    assert found.cpu_quota_cores is None
    assert found.current_clock_mhz == 1200.0
    assert (found.gpus, found.gpu_driver) == (("NVIDIA GeForce RTX 3050",), "560.35.03")
    assert found.temperatures_c == {"x86_pkg_temp": 51.5}
    assert (found.jetpack, found.nvpmodel, found.jetson_clocks) == (None, None, None)
    rows = dict(found.rows())
    assert rows["GPU"] == "NVIDIA GeForce RTX 3050"
    assert rows["Temperatures"] == "x86_pkg_temp 51.5 °C"


def test_jetson(tmp_path: Path) -> None:
    found = read_environment(_root(tmp_path, JETSON))
    assert found.board == "NVIDIA Jetson Orin Nano Developer Kit"
    assert found.l4t == "36.4.3"
    assert found.cpu_model == "ARMv8 Processor rev 1 (v8l), implementer 0x41, part 0xd42"
    assert found.instructions == ("asimd", "asimdhp", "asimddp")
    assert found.governor == "performance, schedutil"
    assert found.max_clock_mhz == pytest.approx(1510.4)
    assert found.cpu_quota_cores == 1.5
    assert (found.jetpack, found.nvpmodel, found.jetson_clocks) == ("6.2+b77", "7W", False)
    rows = dict(found.rows())
    assert rows["Power mode (nvpmodel)"] == "7W"
    assert rows["Clocks fixed (jetson_clocks)"] == "no"


def test_jetson_clocks_fixes_cores_and_gpu(tmp_path: Path) -> None:
    root = _root(tmp_path, {**JETSON, "sys/class/devfreq/17000000.gpu/min_freq": "624750000\n"})
    assert read_environment(root).jetson_clocks is True
    (root / "sys/class/devfreq/17000000.gpu/min_freq").unlink()
    assert read_environment(root).jetson_clocks is None


def test_a_power_mode_without_a_name_is_told_by_its_number(tmp_path: Path) -> None:
    root = _root(tmp_path, {"var/lib/nvpmodel/status": "pmode:0008 fmode:fanNull\n"})
    assert read_environment(root).nvpmodel == "mode 8"


def test_arm_without_a_name(tmp_path: Path) -> None:
    root = _root(tmp_path, {"proc/cpuinfo": "processor: 0\nCPU implementer: 0x41\nCPU part: 0xd08\n"})
    assert read_environment(root).cpu_model == "implementer 0x41, part 0xd08"


def test_missing_files_are_not_available(tmp_path: Path) -> None:
    found = read_environment(tmp_path)
    assert _file_readings(found) == [None] * 15
    rows = dict(found.rows())
    assert rows["Processor"] == "not available"
    assert rows["Highest clock"] == "not available"
    assert rows["Jetson Linux (L4T)"] == "not available"


def test_unreadable_files_are_not_available(tmp_path: Path) -> None:
    """Folders in the place of files cannot be read, not even by root."""
    for name in {**LAPTOP, **JETSON}:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    assert _file_readings(read_environment(tmp_path)) == [None] * 15


def test_nonsense_is_not_available(tmp_path: Path) -> None:
    root = _root(tmp_path, {**dict.fromkeys({**LAPTOP, **JETSON}, "")})
    (root / "proc/cpuinfo").write_bytes(b"\xff\xfe\x00: \xff")
    (root / "proc/loadavg").write_text("many\n")
    (root / "proc/meminfo").write_text("MemTotal: plenty kB\n")
    (root / "sys/fs/cgroup/cpu.max").write_text("max 100000\n")
    (root / "etc/nv_tegra_release").write_text("R? unknown\n")
    assert _file_readings(read_environment(root)) == [None] * 15


def test_process_readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("GOMP_CPU_AFFINITY", "/home/someone/secret")
    found = read_environment(tmp_path)
    assert found.architecture == platform.machine()
    assert found.python.endswith(platform.python_version())
    assert found.logical_cores == os.cpu_count()
    assert found.usable_cores is None or found.usable_cores >= 1
    assert found.thread_variables["OMP_NUM_THREADS"] == "2"
    assert found.thread_variables["GOMP_CPU_AFFINITY"] == "(not shown)"


def test_nothing_private_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "canary-host")
    for name in ("USER", "LOGNAME", "HOME", "HOSTNAME", "PWD"):
        monkeypatch.setenv(name, f"/canary-{name}")
    shown = repr(read_environment())
    assert "canary" not in shown
    assert socket.gethostname() not in shown.replace("'", " ").split()


def test_versions() -> None:
    versions = installed_versions()
    assert versions["splite-deploy"]
    assert versions["numpy"] == package_version("numpy")
    assert package_version("no-such-distribution-xyz") is None
