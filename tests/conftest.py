"""Fixtures that several test files share, and what makes the whole run fast."""

from __future__ import annotations

import dataclasses
import functools
import gc
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import remembered_graphs
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from splite_deploy.files import locked

ROOT = Path(__file__).parents[1]
VECTORS = Path(__file__).parent / "vectors"
TINY = Path(__file__).parent / "tiny"
MadeOnce = Callable[[str, Callable[[Path], object]], Path]

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""For this process, before torch is imported, and for those that it starts: networks of a few channels are slower on
several threads, by far where other workers keep the cores busy."""
os.environ.setdefault("SPLITE_BENCH_MIN_SECONDS", "0.2")
"""A tenth of what bench takes for frames that it does not get as ``--frames``: the tests need no steady figures."""

signal.signal(signal.SIGINT, signal.default_int_handler)
"""As in a terminal: a run in the background of a script starts with some ignored, and so would all its children."""
if sys.platform != "win32":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Has every worker begin with its share of the slow tests, so that none of them runs alone at the end.

    ``--dist worksteal`` gives each worker an equal run of neighbours and moves work from the end of the longest queue.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if not item.get_closest_marker("slow")]
    if workers == 1 or len(slow) > len(items) // workers:
        return
    dealt: list[pytest.Item] = []
    for left in range(workers, 0, -1):
        share = (len(slow) + len(quick)) // left
        first = [slow.pop(0) for _ in range(len(slow) // left)]
        dealt += [*first, *(quick.pop(0) for _ in range(share - len(first)))]
    items[:] = dealt


def pytest_collection_finish() -> None:
    """Has the garbage collector pass over the tests themselves, which are more than what most of them make."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup() -> None:
    """Has exports of this process do once what is the same for all, and time artifacts for a moment.

    Torch's exporter reads its table of operations for each export, and an export with several artifacts times them.
    """
    registration = sys.modules.get("torch.onnx._internal.exporter._registration")
    read = registration and registration.ONNXRegistry.from_torchlib
    if read and not hasattr(read, "cache_info"):
        registration.ONNXRegistry.from_torchlib = staticmethod(functools.cache(read))  # type: ignore[union-attr]
    remembered_graphs.remember_graphs()
    if (recommend := sys.modules.get("splite_deploy.export.recommend")) is not None:
        recommend.SECONDS = 0.2  # type: ignore[attr-defined]


@pytest.fixture(scope="session", autouse=True)
def cache_of_this_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps rendered images out of the user's cache; all workers share one, and the graphs that torch made."""
    base = tmp_path_factory.getbasetemp()
    of_this_run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["SPLITE_CACHE"] = str(of_this_run / "cache")
    remembered_graphs.folder = of_this_run / "graphs"


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Makes a folder once for all workers: a name and what fills the empty folder; the others wait, and read only."""
    base = tmp_path_factory.getbasetemp()
    of_this_run = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    shared = Path(os.environ.setdefault("SPLITE_TESTS_SHARED", str(of_this_run)))  # for runs within tests, too

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        made, partial = shared / name / "made", shared / name / "partial"
        made.parent.mkdir(parents=True, exist_ok=True)
        with locked(made.parent):
            if not made.exists():
                shutil.rmtree(partial, ignore_errors=True)  # of a worker that failed on the way
                partial.mkdir()
                fill(partial)
                partial.rename(made)
        return made

    return make


@pytest.fixture
def hangups_end_processes() -> Iterator[None]:
    """For processes that are started within, which inherit it: whoever runs the tests by nohup ignores SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def tiny_checkpoint(made_once: MadeOnce) -> Path:
    """Weights of tests/tiny as safetensors."""
    pytest.importorskip("torch")
    safetensors_torch = pytest.importorskip("safetensors.torch")
    from splite_deploy.export.source.symbol import load_symbol

    build = load_symbol("arch.py:build", TINY)  # by its path: the models have an arch.py too

    def fill(folder: Path) -> None:
        safetensors_torch.save_file(build().state_dict(), folder / "tiny.safetensors")

    return made_once("tiny-checkpoint", fill) / "tiny.safetensors"


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The model spec of tests/tiny."""
    return TINY / "model.toml"


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tiny_model: Path, made_once: MadeOnce) -> Path:
    """A bundle of tests/tiny with a batch of one. Read only: copy it before changing it."""
    from splite_deploy.export import ExportOptions, export_bundle

    def fill(folder: Path) -> None:
        export_bundle(tiny_checkpoint, folder / "tiny.splite", model=tiny_model, options=ExportOptions(crops=12))

    return made_once("tiny-bundle", fill) / "tiny.splite"


@pytest.fixture(scope="session")
def tiny_dynamic_bundle(tiny_checkpoint: Path, tiny_model: Path, made_once: MadeOnce) -> Path:
    """The same with a dynamic batch."""
    from splite_deploy.export import ExportOptions, export_bundle

    def fill(folder: Path) -> None:
        options = ExportOptions(crops=4, dynamic_batch=True)
        export_bundle(tiny_checkpoint, folder / "tiny-dynamic.splite", model=tiny_model, options=options)

    return made_once("tiny-dynamic-bundle", fill) / "tiny-dynamic.splite"


@pytest.fixture(scope="session")
def tiny_parts_bundle(tiny_checkpoint: Path, tiny_model: Path, made_once: MadeOnce) -> Path:
    """The same in all precisions, each graph in three parts; beside it as ``whole.splite`` in one each. Read only."""
    from splite_deploy.export import ExportOptions, export_bundle

    def fill(folder: Path) -> None:
        for name, parts in (("whole", 1), ("parts", 3)):
            options = ExportOptions(crops=4, parts=parts, precisions=("fp32", "fp16", "int8"))
            export_bundle(tiny_checkpoint, folder / f"{name}.splite", model=tiny_model, options=options)

    return made_once("tiny-parts", fill) / "parts.splite"


@pytest.fixture(scope="session")
def tiny_tflite_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of tests/tiny with TFLite files alone: fp32, fp16, int8. Read only."""
    pytest.importorskip("ai_edge_litert")
    from tiny_tflite import VECTORS, tflite_artifact

    from splite_deploy.bundle import MANIFEST, Bundle

    path = tmp_path_factory.mktemp("bundle") / "tiny-tflite.splite"
    shutil.copytree(tiny_bundle, path)
    artifacts = []
    for precision in ("fp32", "fp16", "int8"):
        file = shutil.copy(VECTORS / f"tiny.{precision}.tflite", path / f"model.{precision}.tflite")
        artifacts.append(tflite_artifact(Path(file), precision))
    manifest = dataclasses.replace(Bundle.open(tiny_bundle).manifest, artifacts=tuple(artifacts))
    (path / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_ncnn_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of tests/tiny with networks for ncnn alone: fp32, fp16. Read only."""
    from splite_deploy.bundle import MANIFEST, Bundle
    from splite_deploy.files import sha256_of
    from splite_deploy.spec import LimitSpec

    path = tmp_path_factory.mktemp("bundle") / "tiny-ncnn.splite"
    shutil.copytree(tiny_bundle, path)
    bundle, artifacts = Bundle.open(tiny_bundle), []
    for precision, limits in (("fp32", LimitSpec()), ("fp16", LimitSpec(shift_p95_px=0.05, shift_max_px=0.2))):
        name = f"model.{precision}.ncnn.zip"
        shutil.copy(VECTORS / f"tiny.{precision}.ncnn.zip", path / name)
        told = {"format": "ncnn", "backend": "ncnn", "precision": precision, "file": name, "limits": limits}
        artifacts.append(dataclasses.replace(bundle.find("ort"), **told, sha256=sha256_of(path / name)))
    manifest = dataclasses.replace(bundle.manifest, artifacts=tuple(artifacts))
    (path / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return path


@pytest.fixture
def image() -> NDArray[np.uint8]:
    """A BGR image of 120 x 160 pixels."""
    return np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)


@pytest.fixture
def splite() -> Callable[..., Result]:
    """Runs the command line in this process; an unexpected exception fails the test with its traceback."""
    from splite_deploy.cli import main

    def invoke(*arguments: Any) -> Result:
        return CliRunner().invoke(main, [os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments])

    return invoke


@pytest.fixture(scope="session")
def hand_digits() -> Path:
    """Real hand photographs with labels, where they are at hand."""
    path = Path(os.environ.get("SPLITE_HAND_DIGITS", ROOT.parent / "shared" / "data" / "hand-digits"))
    if not (path / "labels.json").is_file():
        pytest.skip("the hand-digits photographs are not here; name their folder in SPLITE_HAND_DIGITS")
    return path
