"""A file that this tool did not make is loaded and run once in a process of its own, before it is loaded in this one.

Inference engines are native code, which some damaged files end instead of raising an error. What has passed once is
remembered in the user's cache, by its hash and the engine's version, and passes at once from then on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splite_deploy import children
from splite_deploy.device.emulator import read_emulator
from splite_deploy.errors import BackendError, OutputError, how_it_ended
from splite_deploy.files import cache_folder, write_file
from splite_deploy.runtime.backends import all_backends

if TYPE_CHECKING:
    from splite_deploy.runtime.backends.base import Backend, ModelFile

TIME_LIMIT = "SPLITE_FIRST_LOAD_S"
"""Environment variable: how many seconds a file may take to be loaded and run once."""
_TIME_LIMIT_S, _EMULATED_LIMIT_S = 18.0, 300.0
"""Without it. Emulated processors are ten times as slow and more: importing a backend alone takes them 20 seconds."""
_CHILD = "splite_deploy.runtime.first_load_child"
_PACKAGES = Path(__file__).resolve().parents[2]
_passed: set[str] = set()


def first_load(backend: Backend, file: ModelFile, *, reference: bool = False, quick: bool = False) -> None:
    """Loads a file and runs it once in a process of its own, unless it has passed before.

    Args:
        backend: What is to run it.
        file: Its bytes, which are handed to that process: it opens nothing by its name.
        reference: Whether with the backend's plainest kernels.
        quick: Whether all that matters is that the process lives; what else is wrong is somebody else's to say.

    Raises:
        BackendError: It ended the process, took too long or too much memory; or, unless ``quick``, it cannot be loaded.
        MissingDependencyError: The backend is not installed.
    """
    if backend.needs_nvidia or not backend.computes or all_backends().get(backend.name) is not backend:
        return
    backend.require()
    name = _stamp(backend, file, reference)
    if name in _passed:
        return
    folder = cache_folder()
    stamp = None if folder is None or not backend.distributions else folder / "first-load" / name
    if stamp is not None and stamp.is_file():
        _passed.add(name)
        return
    command = children.python_command("-m", _CHILD)
    if not command:
        warnings.warn(
            f"{file.name} is loaded without having been tried in a process of its own: sys.executable is "
            f"{sys.executable!r}, which is no Python.",
            RuntimeWarning,
            stacklevel=2,
        )
        return
    answer = _ask(command, backend, file, reference)
    problem = answer.get("problem")
    if problem is None:
        _passed.add(name)
        if stamp is not None:
            _remember(stamp)
    elif answer.get("memory") or not quick:
        raise BackendError(problem, hint=answer.get("hint", ""))


def _stamp(backend: Backend, file: ModelFile, reference: bool) -> str:
    """The name under which it is remembered that a file passed: its hash, and what it passed with."""
    versions = []
    for held in backend.distributions.values():
        for one in held:
            try:
                versions.append(f"{one}-{metadata.version(one)}")
                break
            except metadata.PackageNotFoundError:
                continue
    with_what = [backend.name, *versions, platform.machine(), *(["reference"] if reference else [])]
    return "-".join([hashlib.sha256(file.data).hexdigest(), *with_what])


def _remember(stamp: Path) -> None:
    try:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        write_file(stamp, b"")
    except (OSError, OutputError):
        pass  # a cache that cannot be written costs the next process a moment, and no more


def _ask(command: list[str], backend: Backend, file: ModelFile, reference: bool) -> dict[str, Any]:
    """What the process says of the file.

    Raises:
        BackendError: It says nothing.
    """
    limit_s = _time_limit_s()
    asked = {
        "backend": backend.name,
        "name": file.name,
        "format": file.format,
        "reference": reference,
        "cpu_s": math.ceil(limit_s),
    }
    request = json.dumps(asked).encode() + b"\n" + file.data
    # In the folder of this package, so that it is the one that is found there, and not one of the user's folder.
    searched = [os.path.abspath(place) for place in sys.path if place]  # noqa: PTH100 - resolves no links
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(searched)}
    try:
        child = children.run(
            command,
            timeout_s=limit_s,
            given=request,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=_PACKAGES,
            env=environment,
        )
    except subprocess.TimeoutExpired as err:
        raise BackendError(
            f"Loading {file.name} and running it once took {backend.label} more than {limit_s:g} s.",
            hint=f"If it is a large network, allow more: {TIME_LIMIT}=300 in the environment; else copy or convert it "
            "again.",
        ) from err
    except OSError as err:
        warnings.warn(
            f"{file.name} is loaded without having been tried in a process of its own, which cannot be started: "
            f"{err.strerror or err}.",
            RuntimeWarning,
            stacklevel=4,
        )
        return {"problem": None}
    lines = child.stdout.decode("utf-8", "replace").splitlines()
    said: list[dict[str, Any]] = [json.loads(line) for line in lines if line.startswith('{"')]
    if said and "step" not in said[-1]:
        return said[-1]
    doing = "Running" if said else "Loading"
    raise BackendError(
        f"{doing} {file.name} crashed {backend.label} ({how_it_ended(child.returncode)}).",
        hint=f"The file is damaged, or has something that this version of {backend.label} cannot take: copy or convert "
        f"it again, or upgrade {backend.label}.",
    )


def _time_limit_s() -> float:
    try:
        given = float(os.environ.get(TIME_LIMIT, ""))
    except ValueError:
        given = 0.0
    if 0 < given < 1e6:
        return given
    return _TIME_LIMIT_S if read_emulator() is None else _EMULATED_LIMIT_S
