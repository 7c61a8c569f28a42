"""Sensors as Linux shows them in files. Standard library only; what cannot be read is left out, and nothing raises.

Files after the kernel's documentation: ``hwmon/ina3221.rst`` (volts and amperes of INA3221 power monitors),
``power/powercap/powercap.rst`` (RAPL), ``driver-api/thermal/sysfs-api.rst`` and ``admin-guide/pm/cpufreq.rst``. Jetson
Linux up to release 32 shows its INA3221 through the iio subsystem instead, in milliwatts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from splite_deploy.device.tegrastats import DUMMY_ZONES, Reading


def read_text(path: Path) -> str:
    """The text of a small file; empty where it is missing or cannot be read."""
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def number(digits: str) -> float | None:
    """A number without a sign, or None."""
    return float(digits) if re.fullmatch(r"\d+(\.\d+)?", digits.strip()) else None


def matching(root: Path, pattern: str) -> list[Path]:
    """Files and folders below a folder whose path matches, sorted; none where that cannot be read."""
    try:
        return sorted(root.glob(pattern))
    except OSError:
        return []


def read_sensors(root: Path = Path("/")) -> Reading:
    """All sensors of this moment but RAPL, which counts energy.

    Args:
        root: Where the files are looked up; tests give a folder.
    """
    return Reading(dict(_ina_power_mw(root)), temperatures_c(root), dict(_clocks_mhz(root)))


def temperatures_c(root: Path = Path("/")) -> dict[str, float]:
    """Degrees Celsius of every thermal zone that is on, by its type; zones of the same type are numbered."""
    found: dict[str, float] = {}
    seen: Counter[str] = Counter()
    for zone in matching(root / "sys/class/thermal", "thermal_zone*"):
        name, value = read_text(zone / "type").strip(), number(read_text(zone / "temp"))
        if name and value is not None and name not in DUMMY_ZONES:
            seen[name] += 1
            found[name if seen[name] == 1 else f"{name} {seen[name]}"] = value / 1e3
    return found


def gpu_clock_folders(root: Path = Path("/")) -> list[Path]:
    """Where the clock of a Jetson's GPU is shown; its name ends in that of its chip or in ``gpu``."""
    found = matching(root / "sys/class/devfreq", "*")
    return [folder for folder in found if re.search(r"\.(gpu|g[a-z]\d+b)$", folder.name)]


def core_clocks_mhz(root: Path, name: str) -> list[float]:
    """A file of the frequency driver, of each core that has it, MHz."""
    cores = matching(root / "sys/devices/system/cpu", "cpu[0-9]*")
    khz = [number(read_text(core / "cpufreq" / name)) for core in cores]
    return [value / 1e3 for value in khz if value is not None]


def _clocks_mhz(root: Path) -> Iterator[tuple[str, float]]:
    cores = core_clocks_mhz(root, "scaling_cur_freq")
    if cores:
        yield "cpu", max(cores)
    for folder in gpu_clock_folders(root):
        hz = number(read_text(folder / "cur_freq"))
        if hz is not None:
            yield "gpu", hz / 1e6


def _ina_power_mw(root: Path) -> Iterator[tuple[str, float]]:
    for monitor in matching(root / "sys/class/hwmon", "hwmon*"):
        if read_text(monitor / "name").strip() != "ina3221":
            continue
        for channel in (1, 2, 3):
            label = read_text(monitor / f"in{channel}_label").strip()
            millivolts = number(read_text(monitor / f"in{channel}_input"))
            milliamperes = number(read_text(monitor / f"curr{channel}_input"))
            if label and label != "NC" and millivolts is not None and milliamperes is not None:
                yield label, millivolts * milliamperes / 1e3
    for monitor in matching(root / "sys/bus/i2c/drivers/ina3221x", "*/iio:device*"):
        for channel in (0, 1, 2):
            label = read_text(monitor / f"rail_name_{channel}").strip()
            milliwatts = number(read_text(monitor / f"in_power{channel}_input"))
            if label and milliwatts is not None:
                yield label, milliwatts


PLATFORM = "psys"
"""The energy counter of everything on the board that the processor's power controller sees, every package included."""


@dataclass(frozen=True)
class EnergyCounter:
    """An energy counter (RAPL): of one package, or of the whole platform (`PLATFORM`).

    Attributes:
        name: For example ``package-0``.
        file: Where its microjoules are read.
        range_uj: Where it starts again at 0.
    """

    name: str
    file: Path
    range_uj: float

    def read_uj(self) -> float | None:
        """Microjoules so far."""
        return number(read_text(self.file))

    def spent_uj(self, before: float, after: float) -> float:
        """Microjoules between two readings, less than one range apart."""
        return after - before if after >= before else after + self.range_uj - before


def energy_counters(root: Path = Path("/")) -> list[EnergyCounter]:
    """The counters of whole packages and of the platform, of Intel and AMD; most systems let root alone read them."""
    found = []
    for zone in matching(root / "sys/class/powercap", "intel-rapl:*"):
        name, top = read_text(zone / "name").strip(), zone.name.count(":") == 1
        limit = number(read_text(zone / "max_energy_range_uj"))
        counter = EnergyCounter(name, zone / "energy_uj", limit or 0.0)
        if top and name and limit and counter.read_uj() is not None:
            found.append(counter)
    return found
