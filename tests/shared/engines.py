"""Bundles with TensorRT engines, real where TensorRT-RTX is installed: it builds without a GPU."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from splite_deploy.bundle import MANIFEST, Artifact, Bundle
from splite_deploy.compile.tensorrt.engines import EngineOptions, compile_trt
from splite_deploy.errors import CompileError
from splite_deploy.files import sha256_of
from splite_deploy.runtime.backends.trt.compatibility import this_platform
from splite_deploy.runtime.backends.trt.module import TensorRt, load_tensorrt
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.session import Session
from splite_deploy.spec import Precision

LOW_MEMORY = bool(os.environ.get("SPLITE_GPU_LOW_MEMORY"))
"""Whether engines on a GPU are built without cuBLAS and cuDNN, for machines where these are missing."""
LEVEL = int(os.environ["SPLITE_GPU_LEVEL"]) if os.environ.get("SPLITE_GPU_LEVEL") else None
"""Optimization level of engines on a GPU; 0 builds them in the least time."""
NO_ENGINE = b"vtrt" + bytes(range(256))
"""Begins like an engine; for what is refused before anybody looks further."""


def build_on_gpu(bundle: Bundle, precisions: Sequence[Precision], **options: Any) -> Sequence[Artifact]:
    """Builds engines of a bundle of `benchmarks/gpu_bundles.py`, as the environment says.

    Skips where the decode in a graph lacks cuBLAS: TensorRT's own kernels have none for that.
    """
    chosen = EngineOptions(low_memory=LOW_MEMORY, optimization_level=LEVEL, **options)
    try:
        return compile_trt(bundle, precisions, chosen)
    except CompileError as err:
        decoded = any(spec.role == "keypoints" for spec in bundle.find("ort", "fp32").outputs)
        if not decoded or "since cuBLAS or cuDNN does not work here" not in err.message:
            raise
        pytest.skip(err.message)


def tensorrt_rtx() -> TensorRt:
    """TensorRT-RTX; skips where it is not installed."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    return load_tensorrt("rtx")


def build_engine(trt: Any, graph: Path) -> bytes:
    """An engine of an ONNX graph, by the shortest way."""
    logger = trt.Logger(trt.Logger.Severity.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(graph)), [str(parser.get_error(index)) for index in range(parser.num_errors)]
    return bytes(builder.build_serialized_network(network, builder.create_builder_config()))


def feeds_of(bundle: Bundle, session: Session) -> NDArray[Any]:
    """The golden crops as a session takes them."""
    spec = bundle.model.input
    return Preprocessor(spec, spec.color).feed(bundle.golden().crops, session.inputs[0])


def engine_bundle(source: Path, target: Path, engine: bytes = NO_ENGINE, **facts: str) -> Path:
    """A copy of a bundle whose only artifact is this engine.

    Args:
        source: A bundle with one fp32 graph.
        target: Where the copy goes.
        engine: Content of the engine's file.
        facts: What the manifest says that it was built for, beside what fits here.
    """
    shutil.copytree(source, target)
    bundle = Bundle.open(target)
    file = target / "model.fp16.engine"
    file.write_bytes(engine)
    fitting = {"flavour": "rtx", "tensorrt": "1.7.1.116", "platform": this_platform(), "compute_capability": "8.7"}
    artifact = dataclasses.replace(
        bundle.find("ort", "fp32"),
        format="engine",
        backend="trt",
        precision="fp16",
        file=file.name,
        sha256=sha256_of(file),
        target={key: value for key, value in {**fitting, **facts}.items() if value},
    )
    manifest = dataclasses.replace(bundle.manifest, artifacts=(artifact,))
    (target / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return target
