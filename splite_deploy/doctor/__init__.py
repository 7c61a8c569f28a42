"""What works on this machine, what is missing, and what to type. Imports nothing that may be broken.

Every package is imported in a child process with a time limit: a library that is built for another processor kills
that child, not the diagnosis.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from splite_deploy.doctor.checks import Check, Probe, check_package, import_in_child
from splite_deploy.doctor.machine import check_temporary_folder, check_threads
from splite_deploy.doctor.nvidia import TENSORRT_MODULES, check_nvidia
from splite_deploy.version import __version__

__all__ = ["Check", "Diagnosis", "Stage", "diagnose", "table"]

BASE_INSTALL = "pip install splite-deploy"
EXPORT_INSTALL = "pip install 'splite-deploy[export]'"

_BASE = ("numpy", "cv2")
_EXPORT = ("torch", "onnx", "onnxruntime", "onnxsim", "onnxscript", "safetensors")


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
        return tuple(dict.fromkeys(check.fix for check in self.checks if not check.works and check.fix))


@dataclass(frozen=True)
class Diagnosis:
    """What was found on this machine.

    Attributes:
        splite_deploy: Version of this package.
        python: Version of Python.
        stages: What can be done here.
        machine: Checks of the machine itself.
        nvidia: What a Jetson or an NVIDIA GPU can do here; one row where there is neither.
    """

    splite_deploy: str
    python: str
    stages: tuple[Stage, ...]
    machine: tuple[Check, ...]
    nvidia: tuple[Check, ...]

    @property
    def can_run(self) -> bool:
        """Whether a network can be run here by at least one backend; ``replay`` runs none."""
        runs = [stage for stage in self.stages if stage.name.startswith("run with")]
        return any(stage.works for stage in runs if stage.name != "run with replay")


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

    nvidia = check_nvidia(try_import)

    def needs(module: str, install: str) -> tuple[Check, ...]:
        if module in TENSORRT_MODULES:  # one of several names, and no use without a GPU
            return nvidia
        return (package(module, install),) if module else ()

    base = tuple(package(module, BASE_INSTALL) for module in _BASE)
    if all(check.works for check in base):
        stages = [Stage(f"run with {name}", (*base, *needs(module, install))) for name, module, install in _backends()]
    else:
        stages = [Stage("run with any backend", base)]
    export = tuple(package(module, EXPORT_INSTALL) for module in _EXPORT)
    stages.append(Stage("export", (*base, *export)))
    return Diagnosis(
        splite_deploy=__version__,
        python=".".join(str(part) for part in sys.version_info[:3]),
        stages=tuple(stages),
        machine=(check_temporary_folder(Path(tempfile.gettempdir())), check_threads(os.environ)),
        nvidia=nvidia,
    )


def _backends() -> list[tuple[str, str, str]]:
    """Name, needed module (empty if none) and install command of every backend."""
    # Not at the top: the runtime imports OpenCV, which is what may be broken.
    from splite_deploy.runtime.session import BACKENDS

    return [(name, backend.module, backend.install) for name, backend in BACKENDS.items()]


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
    tried = [check for stage in diagnosis.stages for check in stage.checks if check not in diagnosis.nvidia]
    for check in {check.name: check for check in (*tried, *diagnosis.machine, *diagnosis.nvidia)}.values():
        details.add_row(check.name, check.status, escape(check.detail), escape(check.fix))
    return Group(stages, details)
