"""What NVIDIA's ``tegrastats`` prints on a Jetson. Standard library only.

Fields after the page "tegrastats Utility" of NVIDIA's Jetson Linux Developer Guide. Power is the present value over the
mean since the start, in milliwatts, which newer releases spell out (``VDD_IN 5251mW/8535mW``). Without root some
releases leave power out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_POWER = re.compile(r"(?<![\w/])([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/(\d+)(?:mW)?(?![\w/])")
_TEMPERATURE = re.compile(r"(?<!\S)([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C(?!\S)")
_CPU = re.compile(r"\bCPU \[([^\]]*)\]")
_CLOCK = re.compile(r"\b(EMC|GR3D)_FREQ \d+%@\[?(\d+)")
_CLOCK_NAMES = {"EMC": "memory", "GR3D": "gpu"}
_NO_RAIL = "NC"
"""Channels of a power monitor to which nothing is connected."""
DUMMY_ZONES = {"PMIC", "PMIC-Die"}
"""Zones with a constant in the place of a reading."""
_OFF_C = -200
"""A sensor whose part of the chip is off reads -256."""


@dataclass(frozen=True)
class Reading:
    """Sensors at one moment.

    Attributes:
        power_mw: Milliwatts by rail.
        temperatures_c: Degrees Celsius by zone.
        clocks_mhz: MHz by unit: ``cpu`` (of the fastest core), ``gpu``, ``memory``.
    """

    power_mw: Mapping[str, float] = field(default_factory=dict)
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)


def parse(line: str) -> Reading:
    """Reads a line of ``tegrastats``; what it does not hold is left out."""
    temperatures = {name: float(value) for name, value in _TEMPERATURE.findall(line) if name not in DUMMY_ZONES}
    clocks = {_CLOCK_NAMES[name]: float(value) for name, value in _CLOCK.findall(line)}
    cores = _CPU.search(line)
    running = re.findall(r"%@(\d+)", cores[1]) if cores else []
    if running:
        clocks["cpu"] = float(max(map(int, running)))
    return Reading(
        {name: float(now) for name, now, _ in _POWER.findall(line) if name != _NO_RAIL},
        {name: value for name, value in temperatures.items() if value > _OFF_C},
        clocks,
    )
