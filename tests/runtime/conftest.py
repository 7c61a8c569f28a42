"""Bundles for the backends that the tests' own export does not make."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from splite_deploy.bundle import MANIFEST, Bundle


@pytest.fixture(scope="session")
def tiny_tflite_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of tests/tiny with TFLite files alone: fp32, fp16, int8. Read only."""
    pytest.importorskip("ai_edge_litert")
    from tiny_tflite import VECTORS, tflite_artifact

    path = tmp_path_factory.mktemp("bundle") / "tiny-tflite.splite"
    shutil.copytree(tiny_bundle, path)
    artifacts = []
    for precision in ("fp32", "fp16", "int8"):
        file = shutil.copy(VECTORS / f"tiny.{precision}.tflite", path / f"model.{precision}.tflite")
        artifacts.append(tflite_artifact(Path(file), precision))
    manifest = dataclasses.replace(Bundle.open(tiny_bundle).manifest, artifacts=tuple(artifacts))
    (path / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return path
