"""The check of TFLite's converter, which has an environment of its own."""

from __future__ import annotations

from splite_deploy.compile.tflite.environment import SETUP, find_environment
from splite_deploy.doctor.checks import Check
from splite_deploy.errors import CompileError, MissingDependencyError

NAME = "onnx2tf"


def check_converter() -> Check:
    """Whether there is an environment that converts to TFLite, and which."""
    try:
        found = find_environment()
    except MissingDependencyError:
        return Check(NAME, "missing", "no environment has it", SETUP)
    except CompileError as err:
        return Check(NAME, "failed", err.message, err.hint)
    return Check(NAME, "ok", f"{found.label}; {found.origin}: {found.python}")
