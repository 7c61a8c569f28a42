"""A file of a backend without its bundle: what it takes and gives is read from the file itself."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from splite_deploy.errors import MissingDependencyError, UsageError
from splite_deploy.runtime.session import BACKENDS, DEFAULT_GPU, GpuOptions, Session

SUFFIXES: Mapping[str, str] = {
    ".onnx": "ort",
    ".tflite": "tflite",
    ".engine": "trt",
    ".plan": "trt",
    ".trt": "trt",
}
"""Which backend runs which file."""


def backend_of(path: Path) -> str:
    """The backend that runs a file, by its suffix.

    Raises:
        UsageError: There is none, or the file does not exist.
        MissingDependencyError: Its package is not installed.
    """
    backend = SUFFIXES.get(path.suffix.lower())
    if backend is None or backend not in BACKENDS:
        known = ", ".join(suffix for suffix, name in SUFFIXES.items() if name in BACKENDS)
        raise UsageError(f"{path} is neither a bundle nor a file that a backend runs.", hint=f"Files end in {known}.")
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", hint="Name a bundle or a file of a backend.")
    if not BACKENDS[backend].installed:
        raise MissingDependencyError(
            f"{path.name} needs the backend '{backend}', which is not installed.",
            hint=f"Install it: {BACKENDS[backend].install}.",
        )
    return backend


def open_file(path: Path, *, threads: int | None = None, gpu: GpuOptions = DEFAULT_GPU) -> Session:
    """Loads a file into its backend.

    Its inputs and outputs have the file's own layout. Types are those at the seam: where the file takes integers for
    quantised numbers, the session takes float32 and quantises.

    Args:
        path: The file; its suffix tells the backend.
        threads: CPU threads; None is the backend's default.
        gpu: How a backend that runs on a GPU works.

    Raises:
        UsageError: No backend runs such a file, or it does not exist.
        MissingDependencyError: The backend's package is not installed.
        BackendError: The backend cannot load the file.
    """
    module, _, symbol = BACKENDS[backend_of(path)].factory.partition(":")
    session: Session = getattr(importlib.import_module(module), symbol).open_file(path, threads, gpu)
    return session
