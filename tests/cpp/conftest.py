"""The C++ runtime, compiled once for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cpp_driver import DRIVER, SANITIZERS, Answers, ask, compile_cpp

MadeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def driver(made_once: MadeOnce, request: pytest.FixtureRequest) -> Path:
    """The program that runs cases, see ``driver.cpp``.

    ``SPLITE_TESTS_CPP`` names one that is compiled already, or says 'sanitized'.
    """
    ready = os.environ.get("SPLITE_TESTS_CPP")
    if ready == "sanitized":
        return Path(request.getfixturevalue("sanitized"))
    if ready:
        return Path(ready)
    return made_once("cpp", lambda folder: compile_cpp(DRIVER, folder / "driver", "-O1")) / "driver"


@pytest.fixture(scope="session")
def sanitized(made_once: MadeOnce) -> Path:
    """The same, where the sanitizers of addresses and of undefined behaviour end it at the first finding."""
    return made_once("cpp-sanitized", lambda folder: compile_cpp(DRIVER, folder / "driver", *SANITIZERS)) / "driver"


@pytest.fixture
def answers(driver: Path, tmp_path: Path) -> Answers:
    """See `ask`."""
    return lambda cases: ask(driver, tmp_path, cases)
