"""Bundles for the backends that the tests' own export does not make."""

from __future__ import annotations

from pathlib import Path

import pytest

from splite_deploy.device.cuda_driver import gpu
from splite_deploy.runtime.backends import find_backend


@pytest.fixture(scope="session")
def tiny_trt_bundle(tiny_checkpoint: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of tests/tiny with an fp32 engine, where there is a GPU. Read only."""
    if gpu() is None or not find_backend("trt").installed:
        pytest.skip("an engine runs with TensorRT on a GPU alone")
    from splite_deploy.compile.tensorrt.engines import compile_trt
    from splite_deploy.export import ExportOptions, export_bundle

    path = tmp_path_factory.mktemp("bundle") / "tiny-trt.splite"
    options = ExportOptions(crops=12, backends=("ort", "trt"))
    bundle = export_bundle(tiny_checkpoint, path, model=tiny_model, options=options)
    compile_trt(bundle, ["fp32"])
    return path
