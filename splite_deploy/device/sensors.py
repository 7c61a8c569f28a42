"""Power, temperatures and clocks while something runs, read beside it by a thread of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from splite_deploy.children import Child
from splite_deploy.device import sysfs, tegrastats
from splite_deploy.device.tegrastats import Reading

INTERVAL_S = 0.5
BOARD_RAILS = (("VDD_IN",), ("POM_5V_IN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))
"""Rails that together feed a whole module: on AGX Orin those three, of which the last contains VDDQ_VDD2_1V8AO (Jetson
Linux Developer Guide, "Software-Based Power Consumption Modeling"); elsewhere the input rail."""


@dataclass(frozen=True)
class Sensors:
    """Power, temperatures and clocks over a sustained run. A series has one value for each of ``seconds``.

    Attributes:
        source: What was read, as text.
        seconds: When it was read, seconds since the start of the run.
        power_mw: Of each rail, milliwatts.
        temperatures_c: Of each zone, degrees Celsius.
        clocks_mhz: Of each unit, MHz.
        mean_power_mw: Mean over the run of each rail, milliwatts.
        energy_rail: The rail that feeds the whole board, or the energy counters of the processor's packages; None
            where there is neither. The counter of the platform, ``psys``, contains the packages: it is never added to
            them, and serves alone where no package can be read.
        energy_mj_per_frame: Its energy by the frames of the run, millijoules; idle consumption is contained.
        absent: What could not be read, as text.
    """

    source: str
    seconds: tuple[float, ...]
    power_mw: Mapping[str, tuple[float | None, ...]]
    temperatures_c: Mapping[str, tuple[float | None, ...]]
    clocks_mhz: Mapping[str, tuple[float | None, ...]]
    mean_power_mw: Mapping[str, float]
    energy_rail: str | None
    energy_mj_per_frame: float | None
    absent: tuple[str, ...]


class Recorder:
    """Reads the sensors of this machine until it is stopped.

    The files of the kernel come first, then ``tegrastats`` where these show no power, then the energy counters of the
    processor. Readings are rare, so that they do not disturb what runs.

    Args:
        root: Where the files of the operating system are looked up; tests give a folder.
        interval_s: Between two readings.
    """

    def __init__(self, root: Path = Path("/"), interval_s: float = INTERVAL_S) -> None:
        self._root = root
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._began = time.perf_counter()
        self._readings: list[tuple[float, Reading]] = []
        self._counters = [(counter, counter.read_uj()) for counter in sysfs.energy_counters(root)]
        self._child = None if sysfs.read_sensors(root).power_mw else _start_tegrastats(interval_s)
        work = self._read_files if self._child is None else self._read_child
        self._thread = threading.Thread(target=work, name="sensors", daemon=True)
        self._thread.start()

    def finish(self, frames: int) -> Sensors:
        """Stops, and sums up a run of so many frames."""
        seconds = time.perf_counter() - self._began
        spent = [
            (counter, before, counter.read_uj()) for counter, before in self._counters if not self._power_is_read()
        ]
        self.close()
        energy_mw = {
            counter.name: counter.spent_uj(before, after) / 1e3 / seconds
            for counter, before, after in spent
            if before is not None and after is not None
        }
        source = "tegrastats" if self._child is not None else "files of the kernel"
        return summarise(self._readings, energy_mw, seconds, frames, source)

    def close(self) -> None:
        """Stops; what was read stays."""
        self._stop.set()
        if self._child is not None:
            self._child.stop()
        self._thread.join()

    def _power_is_read(self) -> bool:
        return any(reading.power_mw for _, reading in self._readings)

    def _add(self, reading: Reading) -> None:
        self._readings.append((time.perf_counter() - self._began, reading))

    def _read_files(self) -> None:
        while True:
            self._add(sysfs.read_sensors(self._root))
            if self._stop.wait(self._interval_s):
                return

    def _read_child(self) -> None:
        assert self._child is not None and self._child.process.stdout is not None
        with self._child.process.stdout as lines:
            for line in lines:
                self._add(tegrastats.parse(line))


@contextmanager
def recording(root: Path = Path("/"), interval_s: float = INTERVAL_S) -> Iterator[Callable[[int], Sensors]]:
    """Reads the sensors within the block; yields what stops that and sums up a run of so many frames."""
    recorder = Recorder(root, interval_s)
    try:
        yield recorder.finish
    finally:
        recorder.close()


def _start_tegrastats(interval_s: float) -> Child | None:
    """``tegrastats``, where there is one."""
    program = shutil.which("tegrastats")
    if program is None:
        return None
    with suppress(OSError):
        return Child(
            [program, "--interval", str(round(1e3 * interval_s))],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    return None


def summarise(
    readings: Sequence[tuple[float, Reading]],
    energy_mw: Mapping[str, float],
    seconds: float,
    frames: int,
    source: str,
) -> Sensors:
    """Readings as series, with what they come to for each frame.

    Args:
        readings: Seconds since the start, and what was read then.
        energy_mw: Mean power by energy counter, where rails were not read; milliwatts.
        seconds: Length of the run.
        frames: Its frames.
        source: What was read.
    """
    times = tuple(round(at, 3) for at, _ in readings)
    power = _series([reading.power_mw for _, reading in readings])
    temperatures = _series([reading.temperatures_c for _, reading in readings])
    clocks = _series([reading.clocks_mhz for _, reading in readings])
    mean_mw = {**{rail: _mean(values) for rail, values in power.items()}, **energy_mw}
    packages = tuple(name for name in energy_mw if name != sysfs.PLATFORM)
    fed = next((rails for rails in BOARD_RAILS if set(rails) <= set(mean_mw)), packages or tuple(energy_mw))
    total_mw = sum(mean_mw[rail] for rail in fed)
    absent = {"power": mean_mw, "temperatures": temperatures, "clocks": clocks}
    if mean_mw and not fed:
        absent["power of the whole board (no rail feeds all of it)"] = {}
    return Sensors(
        source=f"{source} and RAPL" if energy_mw else source,
        seconds=times,
        power_mw=power,
        temperatures_c=temperatures,
        clocks_mhz=clocks,
        mean_power_mw=mean_mw,
        energy_rail=" + ".join(fed) or None,
        energy_mj_per_frame=total_mw * seconds / frames if fed and frames else None,
        absent=tuple(name for name, found in absent.items() if not found),
    )


def _series(readings: Sequence[Mapping[str, float]]) -> dict[str, tuple[float | None, ...]]:
    names = dict.fromkeys(name for reading in readings for name in reading)
    return {name: tuple(reading.get(name) for reading in readings) for name in names}


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)
