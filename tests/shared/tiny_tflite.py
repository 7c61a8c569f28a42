"""The TFLite files of tests/vectors, and what a manifest would say of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from splite_deploy.bundle import Artifact, TensorSpec
from splite_deploy.files import sha256_of
from splite_deploy.spec import LimitSpec, Precision

VECTORS = Path(__file__).parents[1] / "vectors"


def tflite_artifact(file: Path, precision: Precision) -> Artifact:
    """Describes a file of tests/vectors/make_tflite.py, as LiteRT finds it."""
    signature = Interpreter(model_path=str(file)).get_signature_runner()
    found = {**signature.get_input_details(), **signature.get_output_details()}
    tensors = [
        TensorSpec(role, tuple(map(int, found[role]["shape"])), np.dtype(found[role]["dtype"]).name, "NHWC", role)
        for role in ("image", "heatmap", "depth")
    ]
    limits = LimitSpec() if precision == "fp32" else LimitSpec(shift_p95_px=0.5, shift_max_px=2.0, depth_p95=0.1)
    return Artifact(
        "tflite", "tflite", precision, file.name, sha256_of(file), (tensors[0],), tuple(tensors[1:]), limits, {}
    )
