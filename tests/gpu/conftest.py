"""Engines for the tests on a GPU. Without a GPU, or TensorRT, or what handles memory, all of them are skipped."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from engines import build_on_gpu

from splite_deploy.bundle import Bundle
from splite_deploy.device.cuda_driver import gpu
from splite_deploy.errors import SpliteError
from splite_deploy.runtime.backends import find_backend
from splite_deploy.runtime.backends.trt import TrtOptions
from splite_deploy.runtime.cuda.memory import open_cuda
from splite_deploy.runtime.session import open_session
from splite_deploy.spec import Precision

BATCH = (1, 1, 8)
REPORT = os.environ.get("SPLITE_GPU_REPORT")
"""Where each test appends one JSON line: its name, outcome and figures."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Writes the line of a test."""
    if REPORT is None or (report.when != "call" and not report.skipped and not report.failed):
        return
    line = {
        "test": report.nodeid,
        "outcome": report.outcome,
        "duration_s": round(report.duration, 3),
        "figures": dict(report.user_properties),
        "reason": _reason(report.longrepr),
    }
    with Path(REPORT).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def missing() -> str:
    """Why nothing can be run here; empty if it can."""
    if gpu() is None:
        return "the NVIDIA driver offers no GPU here"
    if not find_backend("trt").installed:
        return "TensorRT is not installed"
    try:
        open_cuda().close()
    except SpliteError as err:
        return err.message
    folder = os.environ.get("SPLITE_GPU_BUNDLES", "")
    if not Path(folder, "compacted.splite").is_dir():
        return "SPLITE_GPU_BUNDLES names no folder of benchmarks/gpu_bundles.py"
    return ""


@pytest.fixture(scope="session", autouse=True)
def a_gpu() -> None:
    """Skips with a reason."""
    if reason := missing():
        pytest.skip(reason)


def _reason(found: Any) -> str:
    """Why a test was skipped or failed, in one line."""
    if isinstance(found, tuple):
        return str(found[2])
    crash = getattr(found, "reprcrash", None)
    return " ".join((str(found or "") if crash is None else crash.message).split())[:500]


Compile = Callable[..., Bundle]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Builds engines of a bundle of `benchmarks/gpu_bundles.py`, each once: ``compiled("compacted", "fp16")``."""
    made: dict[tuple[str, Sequence[Precision], tuple[int, int, int]], Bundle] = {}
    skipped: dict[str, str] = {}  # a build that fails takes as long as one that does not

    def build(name: str, *precisions: Precision, batch: tuple[int, int, int] = BATCH) -> Bundle:
        if name in skipped:
            pytest.skip(skipped[name])
        key = (name, precisions, batch)
        if key not in made:
            path = tmp_path_factory.mktemp("engines") / f"{name}.splite"
            shutil.copytree(Path(os.environ["SPLITE_GPU_BUNDLES"]) / path.name, path)
            try:
                build_on_gpu(Bundle.open(path), precisions, batch=batch)
            except pytest.skip.Exception as err:
                skipped[name] = str(err)
                raise
            made[key] = Bundle.open(path)
        return made[key]

    return build


@pytest.fixture
def opened() -> Iterator[Callable[..., Any]]:
    """Opens sessions and closes them after the test."""
    sessions = []

    def open_one(bundle: Bundle, precision: Precision, **options: Any) -> Any:
        sessions.append(open_session(bundle, "trt", precision, options=TrtOptions(**options)))
        return sessions[-1]

    yield open_one
    for session in sessions:
        session.close()


@pytest.fixture
def noted(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Keeps figures in the report of the run, whether the test passes or not."""

    def note(**figures: object) -> None:
        for name, value in figures.items():
            record_property(name, value)

    return note
