"""Run as a file, in a process of its own, by `process.py`: nothing is imported before its clock starts."""

from __future__ import annotations

import time

_BEGAN = time.perf_counter()

import json  # noqa: E402
import re  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

RUNS = 20


def main(
    path: str, backend: str, precision: str, options: dict[str, Any], batch: int, sizes: list[list[int]]
) -> dict[str, float | None]:
    """Imports, loads and runs an artifact, or a file where ``precision`` is empty; milliseconds and MiB.

    Args:
        path: The bundle, or the file.
        backend: The backend's name.
        precision: Which artifact of the bundle.
        options: The fields of the backend's options.
        batch: Crops of the input where the artifact leaves it open.
        sizes: Of each input of a file that leaves more than that open, for what it leaves open; none where it does not.
    """
    import numpy as np

    from splite_deploy.bundle import Bundle
    from splite_deploy.runtime.backends import find_backend
    from splite_deploy.runtime.session import open_file, open_session

    found = find_backend(backend)
    found.load()
    settings = found.options(**options)
    imported, before = time.perf_counter(), _resident_mib("VmRSS")
    if precision:
        session = open_session(Bundle.open(path), backend, precision, options=settings)  # type: ignore[arg-type]
    else:
        session = open_file(Path(path), backend, options=settings)
    loaded = time.perf_counter()
    asked = sizes or [[batch] * len(spec.shape) for spec in session.inputs]
    shapes = [
        [want if size is None else size for size, want in zip(spec.shape, wants, strict=True)]
        for spec, wants in zip(session.inputs, asked, strict=True)
    ]
    feeds = {spec.name: np.zeros(shape, spec.dtype) for spec, shape in zip(session.inputs, shapes, strict=True)}
    started = time.perf_counter()
    session.run(feeds)
    first = time.perf_counter()
    for _ in range(RUNS):
        session.run(feeds)
    return {
        "import_ms": 1e3 * (imported - _BEGAN),
        "load_ms": 1e3 * (loaded - imported),
        "first_inference_ms": 1e3 * (first - started),
        "rss_before_mib": before,
        "rss_steady_mib": _resident_mib("VmRSS"),
        "rss_peak_mib": _resident_mib("VmHWM"),
    }


def _resident_mib(field: str) -> float | None:
    """A field of Linux's ``/proc/self/status``."""
    status = Path("/proc/self/status")
    match = re.search(rf"^{field}:\s+(\d+) kB", status.read_text() if status.is_file() else "", re.MULTILINE)
    return int(match[1]) / 1024 if match else None


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file is no place to import from
    from splite_deploy.errors import SpliteError

    try:
        print(json.dumps(main(**json.loads(sys.argv[1]))))
    except SpliteError as err:
        sys.exit(err.message)
