"""What works on this machine, what is missing, and the command that installs it. Imports nothing that may be broken.

Every package is imported in a child process with a time limit: a library that is built for another processor kills
that child, not the diagnosis.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from splite_deploy.doctor.checks import Check, Probe, check_package, import_in_child, run_self_test, version_of
from splite_deploy.doctor.converter import check_converter
from splite_deploy.doctor.machine import check_emulator, check_int8, check_temporary_folder, check_threads
from splite_deploy.doctor.nvidia import check_nvidia
from splite_deploy.version import __version__

if TYPE_CHECKING:
    from splite_deploy.runtime.backends.base import Backend

__all__ = ["Check", "Diagnosis", "Stage", "diagnose"]

BASE_INSTALL = "pip install splite-deploy"
EXPORT_INSTALL = "pip install 'splite-deploy[export]'"
TFLITE_INSTALL = "pip install 'splite-deploy[tflite]'"
VIEW_INSTALL = "pip install 'splite-deploy[view]'"

_BASE = ("numpy", "cv2")
_EXPORT = ("torch", "onnx", "onnx_ir", "onnxruntime", "onnxsim", "onnxscript", "safetensors")
_TFLITE = ("ai_edge_litert", "ai_edge_quantizer")
_VIEW = ("starlette", "uvicorn")


@dataclass(frozen=True)
class Stage:
    """One thing that splite-deploy can do, with all that it needs.

    Attributes:
        name: For example ``run with ort``.
        checks: Its packages.
        computes: Whether a network is run by it.
    """

    name: str
    checks: tuple[Check, ...]
    computes: bool = False

    @property
    def works(self) -> bool:
        """Whether it can be done here."""
        return all(check.works for check in self.checks)

    @property
    def fixes(self) -> tuple[str, ...]:
        """Commands that fix it, each once."""
        return tuple(dict.fromkeys(check.fix for check in self.checks if not check.works and check.fix))


@dataclass(frozen=True)
class Diagnosis:
    """What was found on this machine.

    Attributes:
        splite_deploy: Version of this package.
        python: Version of Python.
        stages: What can be done here.
        machine: Checks of the machine itself.
        nvidia: Checks of a Jetson or an NVIDIA GPU; one row where there is neither.
    """

    splite_deploy: str
    python: str
    stages: tuple[Stage, ...]
    machine: tuple[Check, ...]
    nvidia: tuple[Check, ...]

    @property
    def can_run(self) -> bool:
        """Whether a network can be run here by at least one backend; ``replay`` runs none."""
        return any(stage.works for stage in self.stages if stage.computes)


def diagnose(*, probe: Probe | None = None, exporting: bool = True) -> Diagnosis:
    """Checks everything; takes seconds, because it imports every package once.

    Args:
        probe: How a package is tried; `import_in_child` if None.
        exporting: Whether what only export and the page of ``run --view`` need is tried, too.
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

    def needs(backend: Backend) -> tuple[Check, ...]:
        if backend.problem:
            return (Check(backend.name, "failed", backend.problem, "Upgrade or remove the package that brings it."),)
        if backend.needs_nvidia:
            return nvidia
        module = next((name for name in backend.modules if find_spec(name) is not None), "".join(backend.modules[:1]))
        found = (package(module, backend.install),) if module else ()
        tested = (run_self_test(backend),) if backend.self_test and all(check.works for check in found) else ()
        return *found, *tested

    base = tuple(package(module, BASE_INSTALL) for module in _BASE)
    if all(check.works for check in base):
        stages = [
            Stage(f"run with {backend.name}", (*base, *needs(backend)), computes=backend.computes)
            for backend in _backends()
        ]
    else:
        stages = [Stage("run with any backend", base)]
    stages += _of_a_desk(base, package) if exporting else []
    return Diagnosis(
        splite_deploy=__version__,
        python=".".join(str(part) for part in sys.version_info[:3]),
        stages=tuple(stages),
        machine=(
            check_temporary_folder(Path(tempfile.gettempdir())),
            check_emulator(),
            check_threads(os.environ),
            check_int8(onnxruntime=version_of("onnxruntime", "onnxruntime") if find_spec("onnxruntime") else ""),
        ),
        nvidia=nvidia,
    )


def _of_a_desk(base: tuple[Check, ...], package: Callable[[str, str], Check]) -> list[Stage]:
    """What a machine may do besides running networks."""
    view = tuple(package(module, VIEW_INSTALL) for module in _VIEW)
    export = tuple(package(module, EXPORT_INSTALL) for module in _EXPORT)
    to_tflite = (*(package(module, TFLITE_INSTALL) for module in _TFLITE), check_converter())
    return [
        Stage("run --view", (*base, *view)),
        Stage("export", (*base, *export)),
        Stage("export to TFLite", (*base, *export, *to_tflite)),
    ]


def _backends() -> list[Backend]:
    # Not at the top: what a plug-in imports may be broken by what is broken here.
    from splite_deploy.runtime.backends import all_backends

    return list(all_backends().values())
