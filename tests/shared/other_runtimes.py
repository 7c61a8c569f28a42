"""The Pythons whose ONNX Runtime has other execution providers: two of these cannot be installed in one environment."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHONS = "SPLITE_TESTS_ORT"
"""Environment variable: the Pythons of environments to test with, as in PATH; those of `make providers` without it."""
_ASK = (
    "import importlib.metadata as m, json;"
    "print(json.dumps([d.metadata['Name'] for d in m.distributions() if d.metadata['Name'].startswith('onnxruntime')]))"
)


@cache
def pythons() -> dict[str, Path]:
    """Pythons by the distribution of ONNX Runtime, or of a provider for it, that they have."""
    named = [Path(name) for name in os.environ.get(PYTHONS, "").split(os.pathsep) if name]
    found: dict[str, Path] = {}
    for python in named or sorted(ROOT.glob(".venv-ort-*/bin/python")):
        asked = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, check=True)
        for distribution in json.loads(asked.stdout):
            found.setdefault(distribution, python)
    return found


def run_with(distribution: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a command of this checkout where that distribution is; skips the test where there is no such Python."""
    python = pythons().get(distribution)
    if python is None:
        pytest.skip(f"no Python here has {distribution}: 'make providers' makes one, or name it in {PYTHONS}")
    return subprocess.run(
        [python, "-m", "splite_deploy", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
