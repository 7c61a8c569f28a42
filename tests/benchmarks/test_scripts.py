"""Every script can be loaded: what it takes from the package is there."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

SCRIPTS = sorted(file.stem for file in (Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_loaded(script: str) -> None:
    pytest.importorskip("torch")
    module = importlib.import_module(script)
    assert module.__doc__
