"""Two machines at once: this one, and an emulated aarch64 machine, which ``make test-two-machines`` makes and asks for.

It takes minutes, so that the rest of the tests leave it out.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from ssh_server import Devices

from splite_deploy.bundle.packaged import HAND, PACKAGED

CPU = "cortex-a76"


@pytest.fixture
def phone(root: Path) -> Path:
    """The Python of the emulated machine."""
    python = root / os.environ.get("SPLITE_TESTS_ARM64", "missing") / "machine" / "bin" / f"python-{CPU}"
    if not python.exists():
        pytest.skip("no emulated machine is named: 'make test-two-machines' makes one")
    return python


def test_one_report_tells_two_machines_apart(phone: Path, devices: Devices, splite: Callable[..., Result]) -> None:
    devices("desk")
    desk = Path("devices.toml").read_text(encoding="utf-8")
    devices("phone", python=phone)
    with Path("devices.toml").open("a", encoding="utf-8") as table:
        table.write(desk)
    chosen = ("--device", "desk", "--device", "phone", "-b", "ort", "-p", "fp32", "--threads", 1)
    measured = ("--frames", 10, "--json", "both.jsonl", "--html", "both.html")
    done = splite("bench", PACKAGED / HAND, *chosen, *measured)
    assert done.exit_code == 0, done.output
    results = [json.loads(line) for line in Path("both.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(one["device"], one["backend"], one["precision"]) for one in results] == [
        ("desk", "ort", "fp32"),
        ("phone", "ort", "fp32"),
    ]
    here, there = (one["environment"] for one in results)
    assert here["architecture"] == platform.machine() and there["architecture"] == "aarch64"
    assert there["emulator"] and "emulator" not in here
    desk_ms, phone_ms = (one["stages"]["end_to_end"]["min_ms"] for one in results)
    assert phone_ms > desk_ms
    page = re.sub(r"<[^>]*>", " ", Path("both.html").read_text(encoding="utf-8"))
    assert "desk" in page and "phone" in page and "aarch64" in page
    assert "emulat" in done.output


def test_it_verifies_there(phone: Path, devices: Devices, splite: Callable[..., Result]) -> None:
    devices("phone", python=phone)
    done = splite("verify", PACKAGED / HAND, "--device", "phone", "-b", "ort", "-p", "fp32", "--json", "checks.json")
    assert done.exit_code == 0, done.output
    (found,) = json.loads(Path("checks.json").read_text(encoding="utf-8"))
    assert found["device"] == "phone"
    (result,) = found["results"]
    assert result["violations"] == []
