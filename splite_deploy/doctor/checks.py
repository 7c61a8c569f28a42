"""A single check: every package is imported in a process of its own, with a time limit."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from splite_deploy import children
from splite_deploy.errors import how_it_ended

if TYPE_CHECKING:
    from splite_deploy.runtime.backends.base import Backend

Status = Literal["ok", "warning", "missing", "failed"]

CHILD_TIMEOUT_S = 120.0

_DISTRIBUTIONS: Mapping[str, str] = {"cv2": "opencv-python-headless"}
"""Where the distribution is not named like its module."""

_IMPORT = "__import__(sys.argv[1])"
_SELF_TEST = """
import importlib
module, _, function = sys.argv[1].partition(":")
print(getattr(importlib.import_module(module), function)() or "")
"""


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    Attributes:
        name: What was tried.
        status: ``ok``; ``warning``: works, but see the fix; ``missing``: not installed; ``failed``: there, but broken.
        detail: What was found.
        fix: What to type or do; empty where nothing is to be done.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""

    @property
    def works(self) -> bool:
        """Whether it can be used."""
        return self.status in ("ok", "warning")


Probe = Callable[[str], str]
"""Imports a module in another process; returns what went wrong, or an empty text."""


@dataclass(frozen=True)
class Answer:
    """The answer of a child process.

    Attributes:
        output: Its standard output.
        problem: What went wrong, in one line; empty if nothing did.
    """

    output: str
    problem: str


def import_in_child(module: str, timeout_s: float = CHILD_TIMEOUT_S) -> str:
    """Imports a module in a process of its own.

    Args:
        module: Its name; found on the same path as in this process.
        timeout_s: Seconds after which it is stopped.

    Returns:
        What went wrong, in one line; empty if it could be imported.
    """
    return run_in_child(_IMPORT, module, "importing it", timeout_s).problem


def run_in_child(code: str, argument: str, doing: str, timeout_s: float) -> Answer:
    """Runs Python in a process of its own; returns even if that process crashes or hangs.

    Args:
        code: The program; modules are found on the same path as in this process.
        argument: Its ``sys.argv[1]``; ``sys`` is imported.
        doing: The action, for messages.
        timeout_s: Seconds after which it is stopped.
    """
    command = [sys.executable, "-c", f"import sys; sys.path[:] = sys.argv[2:]\n{code}", argument, *sys.path]
    try:
        child = children.run(command, timeout_s=timeout_s, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except subprocess.TimeoutExpired:
        return Answer("", f"{doing} took more than {timeout_s:g} s")
    except OSError as err:
        return Answer("", f"Python cannot start a process: {err.strerror or err}")
    if child.returncode == 0:
        return Answer(child.stdout.decode("utf-8", "replace"), "")
    if child.returncode < 0:
        return Answer("", f"{doing} crashed Python ({how_it_ended(child.returncode)}); is it built for this processor?")
    lines = child.stderr.decode("utf-8", "replace").strip().splitlines()
    return Answer("", lines[-1][:300] if lines else f"{doing} ended Python with status {child.returncode}")


def run_self_test(backend: Backend, timeout_s: float = CHILD_TIMEOUT_S) -> Check:
    """Whether the device that a backend needs is there, as the backend itself finds in a process of its own."""
    answer = run_in_child(_SELF_TEST, backend.self_test, "testing it", timeout_s)
    problem = answer.problem or answer.output.strip()
    if problem:
        return Check(f"{backend.name} device", "failed", problem, f"See what {backend.label} says of its devices.")
    return Check(f"{backend.name} device", "ok", "works")


def check_package(module: str, install: str, probe: Probe) -> Check:
    """Whether a package is installed and can be imported.

    Args:
        module: Top-level module.
        install: The command that installs it.
        probe: How it is tried.
    """
    distribution = _DISTRIBUTIONS.get(module, module)
    if find_spec(module) is None:
        return Check(distribution, "missing", "not installed", install)
    version = version_of(module, distribution)
    problem = probe(module)
    if problem:
        fix = f"pip install --force-reinstall {distribution}"
        return Check(distribution, "failed", f"{version}: {problem}", fix)
    return Check(distribution, "ok", version)


def version_of(module: str, distribution: str) -> str:
    """The version of an installed distribution, or of another one that holds this top-level module."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        pass
    # Some modules have several distributions, for example onnxruntime-gpu; a Jetson's own OpenCV has none at all.
    # metadata.packages_distributions() makes a path of every file that is installed, and takes a second for it.
    held = re.compile(rf"^{re.escape(module)}(/|\.\w+,|\.[\w.-]+\.so,)", re.MULTILINE)
    for one in metadata.distributions():
        if module in (one.read_text("top_level.txt") or "").split() or held.search(one.read_text("RECORD") or ""):
            return f"{one.version} ({one.metadata['Name']})"
    return "version unknown"
