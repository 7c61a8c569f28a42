"""What a fresh process pays for an artifact in time and memory, and which cores this one may use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from splite_deploy.bench import cold_start_child as _fresh
from splite_deploy.bench.result import Memory, Startup
from splite_deploy.errors import BackendError, UsageError
from splite_deploy.spec import Precision

TIMEOUT_S = 600


def fresh_process(
    path: Path, backend: str, precision: Precision | None, threads: int | None, batch: int
) -> tuple[Startup, Memory | None]:
    """Imports, loads and runs an artifact in a process of its own, on an input of zeros.

    In this process everything is imported already, and its memory is the application's.

    Args:
        path: A bundle, or a file where ``precision`` is None.
        backend: Which backend.
        precision: Which artifact of the bundle.
        threads: CPU threads; None is the backend's default.
        batch: Crops of the input where the artifact leaves it open.

    Returns:
        Its times, and its memory where the system tells that (Linux).

    Raises:
        BackendError: The process did not end well.
    """
    options = {"path": str(path), "backend": backend, "precision": precision or "", "threads": threads, "batch": batch}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            [sys.executable, _fresh.__file__, json.dumps(options)],
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=True,
        )
        figures = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as err:
        reason = (err.stderr.strip().splitlines() or ["no message"])[-1][:300]
        raise BackendError(
            f"A fresh process that loads {path.name} ended with status {err.returncode}: {reason}",
            hint="Run 'splite-deploy verify' on this machine.",
        ) from err
    except subprocess.TimeoutExpired as err:
        raise BackendError(
            f"A fresh process that loads {path.name} did not end within {TIMEOUT_S} s.",
            hint="Run 'splite-deploy verify' on this machine.",
        ) from err
    startup = Startup(figures["import_ms"], figures["load_ms"], figures["first_inference_ms"])
    sizes = [figures[name] for name in ("rss_before_mib", "rss_steady_mib", "rss_peak_mib")]
    return startup, None if None in sizes else Memory(*sizes)


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
