"""What works on this machine, what is missing, and what to type. Imports nothing that may be broken.

Every package is imported in a child process with a time limit: a library that is built for another processor kills
that child, not the diagnosis.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from rich.console import Group
from rich.markup import escape
from rich.table import Table

import splite_deploy
from splite_deploy.container import cpu_quota_cores

Status = Literal["ok", "warning", "missing", "failed"]

PROBE_TIMEOUT_S = 120.0
FREE_SPACE_MIB = 500
"""Below this the temporary folder is reported: an export keeps several copies of the graph there."""

BASE_INSTALL = "pip install splite-deploy"
EXPORT_INSTALL = "pip install 'splite-deploy[export]'"

_BASE = ("numpy", "cv2")
_EXPORT = ("torch", "onnx", "onnxruntime", "onnxsim", "onnxscript", "safetensors")
_DISTRIBUTIONS: Mapping[str, str] = {"cv2": "opencv-python-headless"}
"""Where the distribution is not named like its module."""

_CHILD = "import sys; sys.path[:] = sys.argv[2:]; __import__(sys.argv[1])"


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


@dataclass(frozen=True)
class Stage:
    """One thing that splite-deploy can do, with all that it needs.

    Attributes:
        name: For example ``run with ort``.
        checks: Its packages.
    """

    name: str
    checks: tuple[Check, ...]

    @property
    def works(self) -> bool:
        """Whether it can be done here."""
        return all(check.works for check in self.checks)

    @property
    def fixes(self) -> tuple[str, ...]:
        """What to type, each once."""
        return tuple(dict.fromkeys(check.fix for check in self.checks if not check.works))


@dataclass(frozen=True)
class Diagnosis:
    """What was found on this machine.

    Attributes:
        splite_deploy: Version of this package.
        python: Version of Python.
        stages: What can be done here.
        machine: Checks of the machine itself.
    """

    splite_deploy: str
    python: str
    stages: tuple[Stage, ...]
    machine: tuple[Check, ...]

    @property
    def can_run(self) -> bool:
        """Whether a network can be run here by at least one backend; ``replay`` runs none."""
        runs = [stage for stage in self.stages if stage.name.startswith("run with")]
        return any(stage.works for stage in runs if stage.name != "run with replay")


Probe = Callable[[str], str]
"""Imports a module elsewhere; returns what went wrong, or an empty text."""


def diagnose(*, probe: Probe | None = None) -> Diagnosis:
    """Looks at everything; takes seconds, since it imports every package once.

    Args:
        probe: How a package is tried; `import_in_child` if None.
    """
    try_import = probe or import_in_child
    tried: dict[str, Check] = {}

    def package(module: str, install: str) -> Check:
        if module not in tried:
            tried[module] = check_package(module, install, try_import)
        found = tried[module]
        # A package of several stages is installed with the extra of the stage that asks.
        return Check(found.name, "missing", found.detail, install) if found.status == "missing" else found

    base = tuple(package(module, BASE_INSTALL) for module in _BASE)
    if all(check.works for check in base):
        stages = [
            Stage(f"run with {name}", (*base, *(package(module, install) for module in modules)))
            for name, modules, install in _backends()
        ]
    else:
        stages = [Stage("run with any backend", base)]
    export = tuple(package(module, EXPORT_INSTALL) for module in _EXPORT)
    stages.append(Stage("export", (*base, *export)))
    return Diagnosis(
        splite_deploy=splite_deploy.__version__,
        python=".".join(str(part) for part in sys.version_info[:3]),
        stages=tuple(stages),
        machine=(check_temporary_folder(Path(tempfile.gettempdir())), check_threads(os.environ)),
    )


def _backends() -> list[tuple[str, tuple[str, ...], str]]:
    """Name, needed modules and install command of every backend."""
    # Not at the top: the runtime imports OpenCV, which is what may be broken.
    from splite_deploy.runtime.session import BACKENDS

    return [(name, (backend.module,) if backend.module else (), backend.install) for name, backend in BACKENDS.items()]


def check_package(module: str, install: str, probe: Probe) -> Check:
    """Whether a package is installed and can be imported.

    Args:
        module: Top-level module.
        install: What to type where it is missing.
        probe: How it is tried.
    """
    distribution = _DISTRIBUTIONS.get(module, module)
    if find_spec(module) is None:
        return Check(distribution, "missing", "not installed", install)
    version = _version(module, distribution)
    problem = probe(module)
    if problem:
        fix = f"pip install --force-reinstall {distribution}"
        return Check(distribution, "failed", f"{version}: {problem}", fix)
    return Check(distribution, "ok", version)


def _version(module: str, distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        pass
    # Some modules have several distributions, for example onnxruntime-gpu; a Jetson's own OpenCV has none at all.
    others = metadata.packages_distributions().get(module)
    return f"{metadata.version(others[0])} ({others[0]})" if others else "version unknown"


def import_in_child(module: str, timeout_s: float = PROBE_TIMEOUT_S) -> str:
    """Imports a module in a process of its own.

    Args:
        module: Its name; found on the same path as in this process.
        timeout_s: Seconds after which it is given up.

    Returns:
        What went wrong, in one line; empty if it could be imported.
    """
    command = [sys.executable, "-c", _CHILD, module, *sys.path]
    try:
        child = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return f"importing it took more than {timeout_s:g} s"
    except OSError as err:
        return f"Python cannot start a process: {err.strerror or err}"
    if child.returncode == 0:
        return ""
    if child.returncode < 0:
        return f"importing it crashed Python ({_signal_name(-child.returncode)}); is it built for this processor?"
    lines = child.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else f"importing it ended Python with status {child.returncode}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def check_temporary_folder(folder: Path, needed_mib: int = FREE_SPACE_MIB) -> Check:
    """Whether files can be written to ``folder``, and enough of them."""
    name, fix = "temporary folder", "Set the environment variable TMPDIR to a folder with space that you may write to."
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"splite-deploy")
        free_mib = shutil.disk_usage(folder).free >> 20
    except OSError as err:
        return Check(name, "failed", f"{folder} cannot be written to: {err.strerror or err}", fix)
    detail = f"{folder}, {free_mib} MiB free"
    if free_mib < needed_mib:
        return Check(name, "warning", f"{detail}; an export may need {needed_mib} MiB", fix)
    return Check(name, "ok", detail)


def check_threads(variables: Mapping[str, str], root: Path = Path("/")) -> Check:
    """Whether backends will start as many threads as there are cores for them.

    Args:
        variables: Environment variables.
        root: Where the control group of a container is looked up.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota_cores = cpu_quota_cores(root)
    usable = cores if quota_cores is None else min(cores, math.ceil(quota_cores))
    detail = f"{usable} cores can be used"
    asked = variables.get("OMP_NUM_THREADS", "")
    if asked and not (asked.isdecimal() and 1 <= int(asked) <= usable):
        fix = f"Set OMP_NUM_THREADS to a number from 1 to {usable}, or unset it."
        return Check("threads", "warning", f"{detail}; OMP_NUM_THREADS is '{asked}'", fix)
    if usable < cores:
        fix = f"Give --threads {usable}: backends count the cores of the machine, not those of the container."
        return Check("threads", "warning", f"{detail} of {cores} (limit of the container)", fix)
    return Check("threads", "ok", detail)


def table(diagnosis: Diagnosis) -> Group:
    """The diagnosis for the terminal: what can be done, then what was found."""
    stages = Table(title=f"splite-deploy {diagnosis.splite_deploy}, Python {diagnosis.python}")
    for header in ("Stage", "Works here", "What to do"):
        stages.add_column(header)
    for stage in diagnosis.stages:
        stages.add_row(stage.name, "yes" if stage.works else "no", escape("\n".join(stage.fixes)))
    details = Table(title="Checks")
    for header in ("Check", "Status", "Found", "What to do"):
        details.add_column(header)
    packages = {check.name: check for stage in diagnosis.stages for check in stage.checks}
    for check in (*packages.values(), *diagnosis.machine):
        details.add_row(check.name, check.status, escape(check.detail), escape(check.fix))
    return Group(stages, details)
