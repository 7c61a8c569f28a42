"""The cold start: what an artifact costs a new process in time and memory. And which cores this process may use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from splite_deploy import children
from splite_deploy.bench import cold_start_child
from splite_deploy.bench.result import Memory, Startup
from splite_deploy.errors import BackendError, UsageError
from splite_deploy.runtime.backends.base import Backend, BackendOptions
from splite_deploy.spec import Precision
from splite_deploy.text import command

TIMEOUT_S = 600


def cold_start(
    path: Path,
    backend: Backend,
    precision: Precision | None,
    options: BackendOptions,
    batch: int,
    sizes: Sequence[Sequence[int]] = (),
) -> tuple[Startup, Memory | None]:
    """Imports, loads and runs an artifact in a process of its own, on an input of zeros.

    In this process everything is imported already, and its memory is the application's.

    Args:
        path: A bundle, or a file where ``precision`` is None.
        backend: Which backend.
        precision: Which artifact of the bundle.
        options: How the backend works: as in the measurement that the figures stand beside.
        batch: Crops of the input where the artifact leaves it open.
        sizes: Of each input of a file that leaves more than that open, the batch included. A size that the file fixes
            is the file's: one of four crops is run on four.

    Returns:
        Its times, and its memory where the system tells that (Linux).

    Raises:
        BackendError: The process did not end well.
    """
    job = {
        "path": str(path),
        "backend": backend.name,
        "precision": precision or "",
        "options": asdict(options),
        "batch": batch,
        "sizes": [list(one) for one in sizes],
    }
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = children.run(
            [sys.executable, cold_start_child.__file__, json.dumps(job)],
            timeout_s=TIMEOUT_S,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        done.check_returncode()
        figures = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as err:
        reason = (err.stderr.strip().splitlines() or ["no message"])[-1][:300]
        raise BackendError(
            f"A new process that loads {path.name} ended with status {err.returncode}: {reason}",
            hint=_hint(path),
        ) from err
    except subprocess.TimeoutExpired as err:
        raise BackendError(
            f"A new process that loads {path.name} did not end within {TIMEOUT_S} s.",
            hint=_hint(path),
        ) from err
    startup = Startup(figures["import_ms"], figures["load_ms"], figures["first_inference_ms"])
    mib = [figures[name] for name in ("rss_before_mib", "rss_steady_mib", "rss_peak_mib")]
    return startup, None if None in mib else Memory(*mib)


def _hint(path: Path) -> str:
    """What to do where a new process cannot load a bundle or a file."""
    if path.is_dir():
        return f"See whether it runs here at all: {command('verify', path)}."
    return "'splite-deploy doctor' says what works on this machine."


@contextmanager
def bound_to(cores: Sequence[int] | None, threads: int | None) -> Iterator[None]:
    """Lets this thread, and those that it starts, use these cores only; None leaves things as they are.

    Raises:
        UsageError: The machine has no such cores or cannot do this, or the number of threads is left to the backend:
            ONNX Runtime would bind its own to other cores.
    """
    if cores is None:
        yield
        return
    if threads is None:
        raise UsageError(
            "Cores were named, but no number of threads.", hint="Add --threads, as many as cores or fewer."
        )
    if not hasattr(os, "sched_setaffinity"):
        raise UsageError("This system cannot bind a process to cores.", hint="Leave --affinity out.")
    before = os.sched_getaffinity(0)
    if not cores or not set(cores) <= before:
        usable = ",".join(map(str, sorted(before)))
        raise UsageError(
            f"The cores {','.join(map(str, cores))} are not all usable here.", hint=f"Choose from: {usable}."
        )
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
