"""What runs on this machine of the measurements on an emulated one; `make test-arm64` runs the rest."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import arm64_instructions
import numpy as np
import pytest
from arm64.check import KEPT
from arm64.machine import CPUS, Machine, UnavailableError, machine
from arm64_deviations import broken, in_int8_alone, measured, unlike
from arm64_instructions import HERE, compiled, counted
from arm64_tables import deviations_block, instructions_block, share_of_fp32

from splite_deploy.bundle import Bundle
from splite_deploy.bundle.packaged import PALM, packaged

VECTORS = Path(__file__).parents[1] / "vectors"


def _program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


def test_without_qemu_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match=r"qemu-aarch64 is not installed \(apt install qemu-user\)"):
        machine(tmp_path)


def test_without_apt_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    _program(tmp_path, "qemu-aarch64", "echo qemu-aarch64 version 7.2.22")
    with pytest.raises(UnavailableError, match="come from Debian's apt, which this system does not have"):
        machine(tmp_path)
    assert not (tmp_path / "machine").exists()


def test_sources_without_arm64_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("apt-get", "apt-cache", "dpkg"):
        _program(tmp_path, name, "exit 0")
    _program(tmp_path, "qemu-aarch64", "echo qemu-aarch64 version 7.2.22")
    with pytest.raises(UnavailableError, match="package sources of this machine have no packages for arm64"):
        machine(tmp_path)
    assert not (tmp_path / "machine" / "made").exists()


def test_children_run_on_the_same_cpu(tmp_path: Path) -> None:
    emulated = Machine(tmp_path, "3.11")
    for name, cpu in CPUS.items():
        command = list(map(str, emulated.command(cpu, "-plugin", "p.so")))
        assert command[:3] == ["qemu-aarch64", "-cpu", cpu.qemu]
        assert command[command.index("-0") + 1] == str(emulated.program(cpu))  # which is sys.executable there
        assert emulated.program(cpu).name == f"python-{name}"  # whose name begins as that of a Python
        assert command[-3:-1] == ["-plugin", "p.so"]
        assert f"PYTHONPYCACHEPREFIX={tmp_path / 'bytecode'}" in command  # to compile modules takes longer than tests


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_plugin_compiles_without_a_warning(tmp_path: Path) -> None:
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    done = subprocess.run(["cc", *flags, str(HERE / "executed.c")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert compiled(tmp_path).stat().st_size > 0


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["0", "300", "620"], "ort fp32 on max: 3 inferences take 300 instructions, twice as many 620"),
        (["0", "300"], "a.splite on max was not counted"),
    ],
)
def test_counts_that_do_not_agree_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], said: str
) -> None:
    artifact: Any = SimpleNamespace(backend="ort", precision="fp32", label="ort fp32")
    _program(tmp_path, "qemu", 'for word in "$@"; do case "$word" in *,out=*) out=${word#*,out=};; esac; done\n' +
             "\n".join(f"echo '{{\"all\": {count}}}' >>\"$out\"" for count in lines))  # fmt: skip
    monkeypatch.setattr("arm64.machine.QEMU", str(tmp_path / "qemu"))
    with pytest.raises(UnavailableError, match=said):
        counted(Machine(tmp_path, "3.11"), CPUS["max"], Path("p.so"), Path("a.splite"), [artifact], 3)


def test_the_mark_is_the_same_in_both_languages() -> None:
    from arm64.inferences import MARK

    assert f"#define MARK {MARK:#x}" in (HERE / "executed.c").read_text(encoding="utf-8")
    assert all(f'{{"{kind}"' in (HERE / "executed.c").read_text(encoding="utf-8") for kind in arm64_instructions.KINDS)


def test_bits_that_differ_are_counted() -> None:
    here = {"tflite int8/heatmap": np.float32([0.0, 1.0, 2.0]), "ort fp32/heatmap": np.float32([9.0])}
    there = {"tflite int8/heatmap": np.float32([-0.0, 1.0, 2.5]), "ort fp32/heatmap": np.float32([9.0])}
    assert unlike("tflite int8", here, there) == {"values": 3, "differing": 2, "most": 0.5}
    assert unlike("ort fp32", here, there) == {"values": 1, "differing": 0, "most": 0.0}


@pytest.mark.parametrize(("file", "alone"), [("tiny.int8.tflite", True), ("foreign.float32.tflite", False)])
def test_which_files_have_to_give_the_same_bits(file: str, alone: bool) -> None:
    bundle: Any = SimpleNamespace(read=lambda artifact: (VECTORS / file).read_bytes())
    for backend, precision in (("tflite", "int8"), ("tflite", "fp32"), ("ort", "int8")):
        artifact: Any = SimpleNamespace(backend=backend, precision=precision)
        assert in_int8_alone(bundle, artifact) == (alone and (backend, precision) == ("tflite", "int8"))


def test_machines_are_compared_with_this_one() -> None:
    python: list[str | Path] = [sys.executable]
    ((path, found),) = measured([packaged(PALM)], {"x86": python, "the same": python})
    assert path == packaged(PALM) and list(found) == ["x86", "the same"]
    for label in ("ort fp32", "ort int8"):
        assert found["the same"][label]["violations"] == found["x86"][label]["violations"]
        assert found["the same"][label]["unlike_x86"]["differing"] == 0
        assert "unlike_x86" not in found["x86"][label]
    values = [found["the same"][label]["unlike_x86"]["values"] for label in ("ort fp32", "ort int8")]
    crops = len(Bundle.open(packaged(PALM)).golden().crops)
    assert values[1] * KEPT == values[0] * crops > 0  # int8 gives the bits of all crops


def test_a_machine_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"none.splite failed on max:\n(?s:.+)none.splite does not exist"):
        next(measured([tmp_path / "none.splite"], {"max": [sys.executable]}))


def test_what_is_wrong_is_said_with_its_cpu() -> None:
    artifact: Any = SimpleNamespace(backend="tflite", precision="int8", label="tflite int8")
    content = (VECTORS / "tiny.int8.tflite").read_bytes()
    bundle: Any = SimpleNamespace(read=lambda one: content, manifest=SimpleNamespace(artifacts=[artifact]))
    good = {"violations": [], "unlike_x86": {"differing": 0}}
    bad = {"violations": ["keypoint deviation max 9 px (limit 3)"], "unlike_x86": {"differing": 7}}
    found = {"x86": {"tflite int8": {"violations": []}}, "cortex-a72": {"tflite int8": good}}
    assert broken(bundle, found) == []
    assert broken(bundle, {**found, "max": {"tflite int8": bad}}) == [
        "tflite int8 on max: keypoint deviation max 9 px (limit 3).",
        "tflite int8 on max: 7 values are not those of x86, bit by bit.",
    ]


def test_tables() -> None:
    environment = {"versions": {"onnxruntime": "1.23.0"}}
    common = {"network": "hand", "qemu": "7.2.22", "environment": environment}
    counts = {"ort fp32": {"all": 4e6}, "ort int8": {"all": 1e6}, "tflite int8": {"all": 2e6}}
    assert share_of_fp32("ort int8", counts) == 0.25 and share_of_fp32("tflite int8", counts) is None
    old, new = ({**common, "cpus": {"max": found}} for found in ({"ort fp32": {"all": 9e6}}, counts))
    other = {**common, "network": "body", "cpus": {"max": counts}}
    lines = instructions_block({"a": [old, other], "b": [new]})
    assert lines[:5] == [
        "| hand | max, million | of fp32 |",
        "|---|---|---|",
        "| ort fp32 | 4.00 | 1.00 |",
        "| ort int8 | 1.00 | 0.25 |",
        "| tflite int8 | 2.00 | - |",
    ]
    assert "| body | max, million | of fp32 |" in lines
    assert lines[-1].startswith("Emulated by qemu 7.2.22, onnxruntime 1.23.0")
    moved = {"deviation_px": {"p95": 0.012, "max": 0.5}, "depth": None, "depth_unit": ""}
    there = {
        **moved,
        "depth": {"p95": 1.25},
        "depth_unit": "mm",
        "unlike_x86": {"values": 9, "differing": 1, "most": 0.1},
    }
    record = {**common, "x86": {"ort fp32": moved}, "cpus": {"max": {"ort fp32": there}}}
    assert deviations_block({"a": [record]})[2:4] == [
        "| ort fp32 | x86 | 0.012 | 0.5 | - |  |  |",
        "| ort fp32 | max | 0.012 | 0.5 | 1.2 mm | 1 of 9 | 0.1 |",
    ]
