"""Sensors: tegrastats in the forms of several boards, the kernel's files, and what a run makes of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from splite_deploy.device import sysfs, tegrastats
from splite_deploy.device.sensors import recording, summarise
from splite_deploy.device.tegrastats import Reading

LOGS = Path(__file__).parent / "tegrastats"

EXPECTED = {
    "nano-jetpack-4": Reading(
        {"POM_5V_IN": 1750, "POM_5V_GPU": 0, "POM_5V_CPU": 366},
        {"PLL": 37, "CPU": 40.5, "GPU": 40, "AO": 45, "thermal": 40},
        {"memory": 1600, "gpu": 76, "cpu": 1479},
    ),
    "agx-xavier-jetpack-4": Reading(
        {"GPU": 310, "CPU": 216, "SOC": 864, "CV": 0, "VDDRQ": 144, "SYS5V": 1889},
        {"AO": 32.5, "GPU": 32, "Tboard": 32, "Tdiode": 34.75, "AUX": 31.5, "CPU": 33.5, "thermal": 32.9},
        {"memory": 2133, "gpu": 1377, "cpu": 2265},
    ),
    "xavier-nx-jetpack-5": Reading(
        {"VDD_IN": 2763, "VDD_CPU_GPU_CV": 650, "VDD_SOC": 655},
        {"AUX": 45, "CPU": 46.5, "thermal": 45.6, "AO": 45, "GPU": 45.5},
        {"memory": 204, "gpu": 114, "cpu": 1397},
    ),
    "orin-nano-jetpack-6": Reading(
        {"VDD_IN": 5251, "VDD_CPU_GPU_CV": 512, "VDD_SOC": 2720},
        {"cpu": 48.562, "soc2": 46.593, "soc0": 48.625, "gpu": 49.625, "tj": 49.312, "soc1": 47.937},
        {"memory": 204, "gpu": 305, "cpu": 1497},
    ),
    "agx-orin-jetpack-6": Reading(
        {"VDD_GPU_SOC": 2340, "VDD_CPU_CV": 390, "VIN_SYS_5V0": 4025, "VDDQ_VDD2_1V8AO": 301},
        {"CPU": 44.562, "Tboard": 32, "SOC2": 40.093, "Tdiode": 33, "SOC0": 41.093, "tj": 44.343, "SOC1": 41.25},
        {"memory": 2133, "gpu": 407, "cpu": 2201},
    ),
}


def lines(board: str) -> list[str]:
    return [line for line in (LOGS / f"{board}.txt").read_text().splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("board", EXPECTED)
def test_tegrastats(board: str) -> None:
    assert tegrastats.parse(lines(board)[0]) == EXPECTED[board]


def test_every_recorded_board_is_tested() -> None:
    assert {file.stem for file in LOGS.glob("*.txt")} == set(EXPECTED)


@pytest.mark.parametrize("line", ["", "tegrastats: command failed", "RAM 1/2MB VDD_IN 5251mW CPU@warm [%@]"])
def test_a_line_without_sensors_is_an_empty_reading(line: str) -> None:
    assert tegrastats.parse(line) == Reading()


def write(root: Path, files: Mapping[str, object]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return root


ORIN_NANO = {
    "sys/class/hwmon/hwmon0/name": "pwmfan",
    "sys/class/hwmon/hwmon1/name": "ina3221",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN",
    "sys/class/hwmon/hwmon1/in1_input": 5000,
    "sys/class/hwmon/hwmon1/curr1_input": 1040,
    "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV",
    "sys/class/hwmon/hwmon1/in2_input": 5000,
    "sys/class/hwmon/hwmon1/curr2_input": 200,
    "sys/class/hwmon/hwmon1/in3_label": "NC",
    "sys/class/hwmon/hwmon1/in3_input": 0,
    "sys/class/hwmon/hwmon1/curr3_input": 0,
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": 48562,
    "sys/class/thermal/thermal_zone1/type": "cv0-thermal",
    "sys/class/thermal/thermal_zone1/temp": -256000,
    "sys/class/thermal/thermal_zone2/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone2/temp": 50000,
    "sys/class/devfreq/17000000.gpu/cur_freq": 305000000,
    "sys/class/devfreq/15340000.vic/cur_freq": 115200000,
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": 1497600,
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": 729600,
}


def test_files_of_the_kernel(tmp_path: Path) -> None:
    assert sysfs.read_sensors(write(tmp_path, ORIN_NANO)) == Reading(
        {"VDD_IN": 5200.0, "VDD_CPU_GPU_CV": 1000.0},
        {"cpu-thermal": 48.562, "cpu-thermal 2": 50.0},
        {"cpu": 1497.6, "gpu": 305.0},
    )


def test_power_monitors_of_older_releases(tmp_path: Path) -> None:
    folder = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    files = {
        f"{folder}/rail_name_0": "POM_5V_IN",
        f"{folder}/in_power0_input": 1750,
        f"{folder}/rail_name_1": "POM_5V_GPU",
        f"{folder}/in_power1_input": 40,
    }
    assert sysfs.read_sensors(write(tmp_path, files)).power_mw == {"POM_5V_IN": 1750.0, "POM_5V_GPU": 40.0}


def test_a_machine_without_sensors(tmp_path: Path) -> None:
    assert sysfs.read_sensors(tmp_path) == Reading()
    assert sysfs.energy_counters(tmp_path) == []


RAPL = {
    "sys/class/powercap/intel-rapl:0/name": "package-0",
    "sys/class/powercap/intel-rapl:0/energy_uj": 900,
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": 1000,
    "sys/class/powercap/intel-rapl:0:0/name": "core",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": 1,
    "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj": 1000,
    "sys/class/powercap/intel-rapl-mmio:0/name": "package-0",
    "sys/class/powercap/intel-rapl-mmio:0/energy_uj": 900,
    "sys/class/powercap/intel-rapl-mmio:0/max_energy_range_uj": 1000,
}


def test_energy_counters_are_those_of_whole_packages_and_run_over(tmp_path: Path) -> None:
    (counter,) = sysfs.energy_counters(write(tmp_path, RAPL))
    assert (counter.name, counter.read_uj()) == ("package-0", 900.0)
    assert counter.spent_uj(900, 950) == 50
    assert counter.spent_uj(900, 100) == 200
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()  # as for anyone but root
    assert sysfs.energy_counters(tmp_path) == []


PSYS = {
    "sys/class/powercap/intel-rapl:1/name": "psys",
    "sys/class/powercap/intel-rapl:1/energy_uj": 500,
    "sys/class/powercap/intel-rapl:1/max_energy_range_uj": 1000,
}


def test_the_platform_contains_the_packages_and_is_never_added_to_them(tmp_path: Path) -> None:
    counters = sysfs.energy_counters(write(tmp_path, {**RAPL, **PSYS}))
    assert [counter.name for counter in counters] == ["package-0", "psys"]
    spent = {"package-0": 3000.0, "package-1": 2000.0, "psys": 9000.0}
    found = summarise([], spent, 2.0, 10, "files")
    assert (found.energy_rail, found.energy_mj_per_frame) == ("package-0 + package-1", 5000.0 * 2.0 / 10)
    assert found.mean_power_mw == spent  # all are shown
    alone = summarise([], {"psys": 9000.0}, 2.0, 10, "files")
    assert (alone.energy_rail, alone.energy_mj_per_frame) == ("psys", 9000.0 * 2.0 / 10)


def test_energy_of_a_run_from_the_input_rail() -> None:
    readings = [tegrastats.parse(line) for line in lines("nano-jetpack-4")]
    found = summarise(list(zip((0.0, 0.5), readings, strict=True)), {}, 2.0, 100, "tegrastats")
    assert found.power_mw["POM_5V_IN"] == (1750.0, 6250.0)
    assert found.mean_power_mw["POM_5V_IN"] == 4000.0
    assert (found.energy_rail, found.energy_mj_per_frame) == ("POM_5V_IN", 4000.0 * 2.0 / 100)
    assert found.clocks_mhz["gpu"] == (76.0, 921.0)
    assert (found.seconds, found.source, found.absent) == ((0.0, 0.5), "tegrastats", ())


def test_energy_of_a_board_with_three_rails_counts_none_twice() -> None:
    reading = tegrastats.parse(lines("agx-orin-jetpack-6")[0])
    found = summarise([(0.0, reading)], {}, 1.0, 10, "tegrastats")
    assert found.energy_rail == "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"
    assert found.energy_mj_per_frame == pytest.approx((2340 + 390 + 4025) / 10)


def test_without_a_rail_for_the_whole_board_energy_is_not_guessed() -> None:
    reading = tegrastats.parse(lines("agx-xavier-jetpack-4")[0])
    found = summarise([(0.0, reading)], {}, 1.0, 10, "tegrastats")
    assert (found.energy_rail, found.energy_mj_per_frame) == (None, None)
    assert found.absent == ("power of the whole board (no rail feeds all of it)",)
    assert summarise([], {}, 1.0, 10, "files").absent == ("power", "temperatures", "clocks")


def test_a_reading_that_fails_in_between_is_none() -> None:
    taken = [(0.0, Reading({"VDD_IN": 4000.0})), (0.5, Reading()), (1.0, Reading({"VDD_IN": 5000.0}))]
    found = summarise(taken, {}, 1.0, 10, "files")
    assert found.power_mw == {"VDD_IN": (4000.0, None, 5000.0)}
    assert found.mean_power_mw == {"VDD_IN": 4500.0}


def test_files_are_read_while_a_block_runs(tmp_path: Path) -> None:
    write(tmp_path, ORIN_NANO)
    with recording(tmp_path, interval_s=0.01) as finish:
        time.sleep(0.1)
        write(tmp_path, {"sys/class/hwmon/hwmon1/curr1_input": 2080})
        time.sleep(0.1)
        found = finish(50)
    assert found.source == "files of the kernel"
    assert {5200.0, 10400.0} == set(found.power_mw["VDD_IN"])
    assert len(found.seconds) >= 4 and list(found.seconds) == sorted(found.seconds)
    assert found.energy_mj_per_frame is not None and 0.2 * 5200 / 50 <= found.energy_mj_per_frame < 10400
    assert found.absent == ()


def test_tegrastats_is_read_where_the_files_show_no_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "tegrastats"
    program.parent.mkdir()
    log = LOGS / "orin-nano-jetpack-6.txt"
    program.write_text(f'#!/bin/sh\ntest "$1" = --interval || exit 1\nwhile :; do cat "{log}"; sleep 0.02; done\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    with recording(tmp_path / "nothing", interval_s=0.05) as finish:
        time.sleep(0.4)
        found = finish(10)
    assert found.source == "tegrastats"
    assert found.mean_power_mw["VDD_IN"] == pytest.approx(5251)
    assert found.energy_rail == "VDD_IN"
    assert set(found.temperatures_c["tj"]) <= {None, 49.312}


def test_energy_counters_stand_in_for_rails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    write(tmp_path, RAPL)
    with recording(tmp_path, interval_s=0.01) as finish:
        time.sleep(0.05)
        write(tmp_path, {"sys/class/powercap/intel-rapl:0/energy_uj": 100})
        found = finish(4)
    assert found.energy_rail == "package-0"
    assert found.energy_mj_per_frame == pytest.approx(0.2 / 4)  # 200 uJ: the counter has run over
    assert found.source == "files of the kernel and RAPL"
    assert found.power_mw == {}
