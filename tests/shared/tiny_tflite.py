"""The TFLite files of tests/vectors, and what a manifest would say of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from splite_deploy.bundle import Artifact, TensorSpec
from splite_deploy.files import sha256_of
from splite_deploy.spec import LimitSpec, Precision

VECTORS = Path(__file__).parents[1] / "vectors"


def pictures(height: int, width: int, count: int = 32) -> NDArray[np.uint8]:
    """Crops for calibration, (count, height, width, 3), smooth as pictures are; by numpy alone.

    OpenCV 5 warps rendered ones to values that differ by 1 from those of OpenCV 4, and int8 scales with them.
    """
    rng, cell = np.random.default_rng(0), 8
    coarse = rng.integers(0, 256, (count, height // cell, width // cell, 3))
    fine = np.kron(coarse, np.ones((1, cell, cell, 1), np.int64))
    return np.clip(fine + rng.integers(-8, 9, fine.shape), 0, 255).astype(np.uint8)


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
