"""The environments of TFLite's converter that tests run with: without TensorFlow, and through it."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from splite_deploy.compile.tflite.environment import SETTING, ConverterEnvironment, look_at
from splite_deploy.errors import CompileError

ROOT = Path(__file__).parents[2]
PYTHONS = "SPLITE_TESTS_TFLITE"
"""Environment variable: the Pythons of environments to test with, as in PATH; those of `make test` without it."""
DIRECT, TENSORFLOW = "direct", "tensorflow"


@cache
def converters() -> dict[str, ConverterEnvironment]:
    """The environments that are there, by how they convert."""
    named = [Path(name) for name in os.environ.get(PYTHONS, "").split(os.pathsep) if name]
    found = {}
    for python in named or sorted(ROOT.glob(".venv-tflite*/bin/python")):
        try:
            environment = look_at(python, "made for the tests")
        except CompileError:
            continue
        found.setdefault(DIRECT if environment.direct else TENSORFLOW, environment)
    return found


def use_converter(way: str, patch: pytest.MonkeyPatch) -> ConverterEnvironment:
    """Has the product convert with one of them; skips the test where it is missing."""
    environment = converters().get(way)
    if environment is None:
        pytest.skip(f"no environment converts {way!r} here: 'make test' makes them, or name them in {PYTHONS}")
    patch.setenv(SETTING, str(environment.python))
    return environment


def use_any_converter(patch: pytest.MonkeyPatch) -> ConverterEnvironment:
    """Likewise with the fastest that is there."""
    return use_converter(next(iter(sorted(converters())), DIRECT), patch)
