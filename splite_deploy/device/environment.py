"""What a latency was measured on. Standard library only; every reading is optional, and nothing raises.

What cannot be read is None and is shown as 'not available': it is never guessed. Results are made to be
published, so neither host name, user name nor any path is read.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from splite_deploy.device.cgroup import cpu_quota_cores
from splite_deploy.device.emulator import read_emulator
from splite_deploy.device.int8 import INT8_INSTRUCTIONS
from splite_deploy.device.jetson import read_board, read_l4t
from splite_deploy.device.sysfs import (
    core_clocks_mhz,
    gpu_clock_folders,
    matching,
    number,
    read_text,
    temperatures_c,
)
from splite_deploy.version import __version__

NOT_AVAILABLE = "not available"

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "numpy": ("numpy",),
}
"""Package as it is named in results, with the distributions that provide it: what runs without any backend. Backends
bring theirs along."""

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_PROC_BIND",
    "OMP_PLACES",
    "OMP_WAIT_POLICY",
    "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)
INSTRUCTIONS = ("avx2", "avx512f", "avx512_fp16", "asimd", "asimdhp", "sve", *INT8_INSTRUCTIONS)
"""Of vectors, by which networks are fast, as Linux names them."""
_LATER = {"optional": True}
"""Metadata of fields that results of earlier versions lack: `splite_deploy.spec.plain` leaves them out."""
_PLAIN_VALUE = re.compile(r"[\w .,:;{}()=+-]{1,80}")


@dataclass(frozen=True)
class Environment:
    """The machine and its software at the start of a measurement. None: not available.

    Attributes:
        cpu_model: Name of the processor; on ARM with implementer and part number, which tell the core.
        logical_cores: Logical cores of the machine.
        usable_cores: Logical cores that this process may use (CPU affinity).
        cpu_quota_cores: Processor time that the control group of the process (cgroup) allows, in cores.
        governor: Frequency governor; several, joined by commas, where cores differ.
        max_clock_mhz: Highest clock of the fastest core.
        allowed_clock_mhz: Highest clock that the power mode allows the fastest core.
        memory_total_mib: Memory in MiB (2**20 bytes).
        os: Name and version of the operating system.
        kernel: Name and release of the kernel.
        architecture: Machine architecture, for example ``aarch64``.
        python: Implementation and version.
        versions: Versions of splite-deploy and of the requested packages that are installed.
        board: Name of the board from the device tree (Jetson, Raspberry Pi).
        l4t: Release of Jetson Linux, for example ``36.4.3``.
        thread_variables: Environment variables that set numbers of threads, as far as they are set.
        load_average_1min: Processes that wanted a core during the last minute, on average.
        current_clock_mhz: Clock of the fastest core at that moment.
        gpus: Names of the NVIDIA GPUs that have a card's driver; a Jetson's own is told by its board.
        gpu_driver: Version of the NVIDIA driver.
        jetpack: Version of JetPack, where its package is installed.
        nvpmodel: Power mode of a Jetson, for example ``MAXN``.
        jetson_clocks: Whether a Jetson's cores and GPU are fixed at one clock each, as ``jetson_clocks`` does.
        temperatures_c: Degrees Celsius of each thermal zone.
        instructions: Vector instructions of the processor that networks are fast by; see `INSTRUCTIONS`; left out
            where they are not known, and by earlier versions.
        emulator: The program that emulates this machine for this process, for example ``qemu-aarch64``; left out where
            there is none, and by earlier versions.
    """

    cpu_model: str | None
    logical_cores: int | None
    usable_cores: int | None
    cpu_quota_cores: float | None
    governor: str | None
    max_clock_mhz: float | None
    allowed_clock_mhz: float | None
    memory_total_mib: int | None
    os: str | None
    kernel: str | None
    architecture: str | None
    python: str
    versions: Mapping[str, str]
    board: str | None
    l4t: str | None
    thread_variables: Mapping[str, str]
    load_average_1min: float | None
    current_clock_mhz: float | None = None
    gpus: tuple[str, ...] = ()
    gpu_driver: str | None = None
    jetpack: str | None = None
    nvpmodel: str | None = None
    jetson_clocks: bool | None = None
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    instructions: tuple[str, ...] | None = field(default=None, metadata=_LATER)
    emulator: str | None = field(default=None, metadata=_LATER)

    @property
    def multiplies_int8(self) -> bool | None:
        """Whether the processor has instructions for products of int8; without them int8 is seldom faster than fp32."""
        return None if self.instructions is None else bool(set(INT8_INSTRUCTIONS) & set(self.instructions))

    def rows(self) -> list[tuple[str, str]]:
        """Every reading as (label, text) for people."""
        return [
            ("Board", _shown(self.board)),
            ("Processor", _shown(self.cpu_model)),
            ("Vector instructions", NOT_AVAILABLE if self.instructions is None else ", ".join(self.instructions)),
            ("Logical cores", _shown(self.logical_cores)),
            ("Cores this process may use", _shown(self.usable_cores)),
            ("CPU quota (cgroup)", _shown(self.cpu_quota_cores, "cores")),
            ("Frequency governor", _shown(self.governor)),
            ("Highest clock", _shown(self.max_clock_mhz, "MHz")),
            ("Highest clock allowed now", _shown(self.allowed_clock_mhz, "MHz")),
            ("Clock at the start", _shown(self.current_clock_mhz, "MHz")),
            ("GPU", ", ".join(self.gpus) or NOT_AVAILABLE),
            ("GPU driver", _shown(self.gpu_driver)),
            ("Temperatures", self._temperatures() or NOT_AVAILABLE),
            ("Memory", _shown(self.memory_total_mib, "MiB")),
            ("Operating system", _shown(self.os)),
            ("Kernel", _shown(self.kernel)),
            ("Architecture", _shown(self.architecture)),
            ("Emulated by", self.emulator or "no emulator that is known of"),
            ("Jetson Linux (L4T)", _shown(self.l4t)),
            ("JetPack", _shown(self.jetpack)),
            ("Power mode (nvpmodel)", _shown(self.nvpmodel)),
            ("Clocks fixed (jetson_clocks)", {True: "yes", False: "no", None: NOT_AVAILABLE}[self.jetson_clocks]),
            ("Python", self.python),
            *((name, version) for name, version in self.versions.items()),
            ("Thread variables", _joined(self.thread_variables) or "none set"),
            ("Load average, 1 min", _shown(self.load_average_1min)),
        ]

    def _temperatures(self) -> str:
        return ", ".join(f"{zone} {value:g} °C" for zone, value in self.temperatures_c.items())


def read_environment(root: Path = Path("/"), packages: Mapping[str, tuple[str, ...]] = PACKAGES) -> Environment:
    """Reads the environment; never raises.

    Args:
        root: Where the files of the operating system are looked up; tests give a folder. Cores, kernel, architecture,
            Python, versions and environment variables always come from the running process.
        packages: Whose versions to read; see `PACKAGES`.
    """
    cpu = _fields(read_text(root / "proc/cpuinfo"))
    l4t = read_l4t(root)
    jetson = l4t is not None
    return Environment(
        cpu_model=_cpu_model(cpu),
        logical_cores=os.cpu_count(),
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        cpu_quota_cores=cpu_quota_cores(root),
        governor=_governors(root),
        max_clock_mhz=_fastest_mhz(root, "cpuinfo_max_freq"),
        allowed_clock_mhz=_fastest_mhz(root, "scaling_max_freq"),
        memory_total_mib=_memory_mib(root),
        os=_fields(read_text(root / "etc/os-release"), "=").get("PRETTY_NAME", "").strip("\"'") or None,
        kernel=f"{platform.system()} {platform.release()}".strip() or None,
        architecture=platform.machine() or None,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        versions=installed_versions(packages),
        board=read_board(root),
        l4t=l4t,
        thread_variables=_thread_variables(os.environ),
        load_average_1min=number(read_text(root / "proc/loadavg").split(" ")[0]),
        current_clock_mhz=_fastest_mhz(root, "scaling_cur_freq"),
        gpus=_gpus(root),
        gpu_driver=_gpu_driver(read_text(root / "proc/driver/nvidia/version")),
        jetpack=_jetpack(read_text(root / "var/lib/dpkg/status")) if jetson else None,
        nvpmodel=_nvpmodel(root),
        jetson_clocks=_jetson_clocks(root) if jetson else None,
        temperatures_c=temperatures_c(root),
        instructions=_instructions(cpu),
        emulator=read_emulator(root),
    )


def installed_versions(packages: Mapping[str, tuple[str, ...]] = PACKAGES) -> dict[str, str]:
    """Versions of splite-deploy and of the packages it runs with; nothing is imported.

    They come from the metadata of what is installed. OpenCV itself is asked for its version where it is loaded: it has
    several distributions, and a Jetson's own has no metadata.
    """
    versions = {"splite-deploy": __version__}
    opencv = getattr(sys.modules.get("cv2"), "__version__", None)
    if isinstance(opencv, str):
        versions["opencv"] = opencv
    for name, distributions in packages.items():
        for distribution in distributions:
            version = package_version(distribution)
            if version is not None:
                versions[name] = version if distribution == name else f"{version} ({distribution})"
                break
    return versions


def package_version(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except (metadata.PackageNotFoundError, OSError, KeyError, ValueError):  # damaged metadata counts as none
        return None


def _fields(content: str, separator: str = ":") -> dict[str, str]:
    """The first value of each key of a ``key : value`` file."""
    found: dict[str, str] = {}
    for line in content.splitlines():
        key, _, value = line.partition(separator)
        found.setdefault(key.strip(), value.strip())
    return found


def _cpu_model(cpu: Mapping[str, str]) -> str | None:
    # On ARM "model name" is missing or generic.
    implementer, part = cpu.get("CPU implementer"), cpu.get("CPU part")
    number = f"implementer {implementer}, part {part}" if implementer and part else ""
    return ", ".join(filter(None, (cpu.get("model name"), number))) or None


def _instructions(cpu: Mapping[str, str]) -> tuple[str, ...] | None:
    flags = cpu.get("flags") or cpu.get("Features")  # of x86 and of ARM
    return None if flags is None else tuple(name for name in INSTRUCTIONS if name in flags.split())


def _governors(root: Path) -> str | None:
    cores = matching(root / "sys/devices/system/cpu", "cpu[0-9]*")
    found = {read_text(core / "cpufreq" / "scaling_governor").strip() for core in cores} - {""}
    return ", ".join(sorted(found)) or None


def _fastest_mhz(root: Path, name: str) -> float | None:
    return max(core_clocks_mhz(root, name), default=None)


def _memory_mib(root: Path) -> int | None:
    total, _, unit = _fields(read_text(root / "proc/meminfo")).get("MemTotal", "").partition(" ")
    kib = number(total)
    return round(kib / 1024) if kib is not None and unit == "kB" else None


def _gpus(root: Path) -> tuple[str, ...]:
    cards = matching(root / "proc/driver/nvidia/gpus", "*/information")
    return tuple(model for card in cards if (model := _fields(read_text(card)).get("Model")))


def _gpu_driver(version: str) -> str | None:
    """``560.35.03`` from ``NVRM version: NVIDIA UNIX x86_64 Kernel Module  560.35.03  ...``."""
    match = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)\s", version)
    return match[1] if match else None


def _jetpack(packages: str) -> str | None:
    """The version of the package ``nvidia-jetpack`` in dpkg's status file."""
    match = re.search(r"^Package: nvidia-jetpack\n(?:.+\n)*?Version: (\S+)", packages, re.MULTILINE)
    return match[1] if match else None


def _nvpmodel(root: Path) -> str | None:
    """The power mode that nvpmodel has stored, by its name in nvpmodel's own table."""
    stored = re.search(r"pmode:0*(\d+)", read_text(root / "var/lib/nvpmodel/status"))
    if stored is None:
        return None
    table = read_text(root / "etc/nvpmodel.conf")
    name = re.search(rf"^<\s*POWER_MODEL\s+ID={stored[1]}\s+NAME=(\S+)\s*>", table, re.MULTILINE)
    return name[1] if name else f"mode {stored[1]}"


def _jetson_clocks(root: Path) -> bool | None:
    lowest, highest = (core_clocks_mhz(root, f"scaling_{end}_freq") for end in ("min", "max"))
    for gpu in gpu_clock_folders(root):
        limits = [number(read_text(gpu / f"{end}_freq")) for end in ("min", "max")]
        if not lowest or None in limits:
            return None
        return lowest == highest and limits[0] == limits[1]
    return None


def _thread_variables(variables: Mapping[str, str]) -> dict[str, str]:
    # Anything but numbers and keywords does not belong there, and might be private.
    return {
        name: variables[name] if _PLAIN_VALUE.fullmatch(variables[name]) else "(not shown)"
        for name in THREAD_VARIABLES
        if variables.get(name)
    }


def _shown(value: object, unit: str = "") -> str:
    if value is None:
        return NOT_AVAILABLE
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{text} {unit}".strip()


def _joined(variables: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in variables.items())
