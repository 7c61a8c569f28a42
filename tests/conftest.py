"""Fixtures that several test files share."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
TINY = Path(__file__).parent / "tiny"


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of tests/tiny as safetensors."""
    pytest.importorskip("torch")
    safetensors_torch = pytest.importorskip("safetensors.torch")
    from splite_deploy.export.source.checkpoint import load_symbol

    build = load_symbol("arch.py:build", TINY)  # by its path: the models have an arch.py too
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    safetensors_torch.save_file(build().state_dict(), path)
    return path


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The model spec of tests/tiny."""
    return TINY / "model.toml"


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of tests/tiny with a batch of one. Read only: copy it before changing it."""
    from splite_deploy.export import ExportOptions, export_bundle

    path = tmp_path_factory.mktemp("bundle") / "tiny.splite"
    return export_bundle(tiny_checkpoint, path, model=tiny_model, options=ExportOptions(crops=12)).path


@pytest.fixture(scope="session")
def tiny_dynamic_bundle(tiny_checkpoint: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a dynamic batch."""
    from splite_deploy.export import ExportOptions, export_bundle

    path = tmp_path_factory.mktemp("bundle") / "tiny-dynamic.splite"
    options = ExportOptions(crops=4, dynamic_batch=True)
    return export_bundle(tiny_checkpoint, path, model=tiny_model, options=options).path


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


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks of a few channels are slower on several threads, by far where other work runs beside them."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
