"""The C++ runtime, compiled once for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cpp_driver import TESTS, Answers, ask, compile_cpp


@pytest.fixture(scope="session")
def driver(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """The program that runs cases, see ``driver.cpp``; ``SPLITE_TESTS_CPP`` names one that is compiled already."""
    if ready := os.environ.get("SPLITE_TESTS_CPP"):
        return Path(ready)

    def make(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        compile_cpp(TESTS / "cpp/driver.cpp", folder / "driver", "-O1")

    return made_once("cpp", make) / "driver"


@pytest.fixture
def answers(driver: Path, tmp_path: Path) -> Answers:
    """See `ask`."""
    return lambda cases: ask(driver, tmp_path, cases)
