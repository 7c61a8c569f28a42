"""Which TensorRT is installed, and what it logs. Nothing here makes a TensorRT object, so nothing needs a GPU."""

from __future__ import annotations

import importlib
import threading
from collections import deque
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

from splite_deploy.errors import BackendError, MissingDependencyError, first_line
from splite_deploy.runtime.backends.trt import INSTALL, MODULES

Flavour = Literal["tensorrt", "rtx"]

FLAVOURS: dict[str, str] = {"tensorrt": "TensorRT", "rtx": "TensorRT-RTX"}
"""Their names for people."""
ERRORS_KEPT = 8


@dataclass(frozen=True)
class TensorRt:
    """An imported TensorRT.

    Attributes:
        module: Its Python API.
        flavour: ``tensorrt``, or ``rtx`` for TensorRT-RTX; neither runs the engines of the other.
        version: For example ``10.3.0``.
    """

    module: Any
    flavour: Flavour
    version: str

    @property
    def label(self) -> str:
        """For example ``TensorRT 10.3.0``."""
        return f"{FLAVOURS[self.flavour]} {self.version}"


def load_tensorrt(flavour: str | None = None) -> TensorRt:
    """Imports TensorRT.

    Args:
        flavour: Which one is wanted where both are installed; None, or one that is not installed, takes the first that
            works.

    Raises:
        MissingDependencyError: There is none.
        BackendError: It is installed but cannot be imported.
    """
    found: list[TensorRt] = []
    broken: BackendError | None = None
    for name in MODULES:
        if find_spec(name) is None:
            continue
        try:
            module = importlib.import_module(name)
        except ImportError as err:
            broken = broken or BackendError(
                f"{name} is installed but cannot be imported: {first_line(err)}.",
                hint="Install the libraries of the same version, or run 'splite-deploy doctor'.",
            )
            continue
        # Asked of a class, since RTX may be installed under the other's name.
        found.append(TensorRt(module, "rtx" if "rtx" in module.Logger.__module__ else "tensorrt", module.__version__))
    fitting = [trt for trt in found if trt.flavour == flavour]
    if not fitting and broken is not None and (flavour is not None or not found):
        raise broken
    if not found:
        raise MissingDependencyError(
            f"This needs {next(iter(MODULES))}, which is not installed.", hint=f"Install it: {INSTALL}."
        )
    return (fitting or found)[0]


@cache
def collecting_logger(trt: Any) -> Any:
    """A logger that keeps what TensorRT says instead of printing it; see `logged_errors`.

    One for the whole process and never freed: TensorRT holds on to the first logger that it is given, and ignores those
    of later runtimes. Each thread has its errors to itself all the same: TensorRT logs in the thread that called it.

    Args:
        trt: The module.
    """

    class Collector(trt.ILogger):  # type: ignore[misc]
        """Keeps the last errors of each thread."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._threads = threading.local()

        @property
        def errors(self) -> deque[str]:
            """Those of the calling thread."""
            if not hasattr(self._threads, "errors"):
                self._threads.errors = deque(maxlen=ERRORS_KEPT)
            kept: deque[str] = self._threads.errors
            return kept

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.errors.append(message)

    return Collector()


def forget_errors(trt: Any) -> None:
    """Forgets what this thread's earlier calls have logged, which another session may have made."""
    collecting_logger(trt).errors.clear()


def logged_errors(trt: Any) -> str:
    """What TensorRT has logged in this thread since `forget_errors`, in one line; it is forgotten then."""
    kept = collecting_logger(trt).errors
    errors = [" ".join(message.split()) for message in kept]
    kept.clear()
    return "; ".join(dict.fromkeys(errors))[:600] or "it gave no reason"
