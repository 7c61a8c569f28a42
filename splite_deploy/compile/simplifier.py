"""onnxsim, made to give the same in all its releases. Imports onnxsim and onnx_ir."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import onnxsim
from onnx_ir.passes.common import LiftConstantsToInitializersPass

_SKIPPED = ["fuse_preceding_mul_into_conv"]
"""A step of onnxsim 0.8 that takes the half of a GELU into the convolution behind it: neither ONNX Runtime nor a
converter for TFLite knows the rest for one. Releases without this step pass over its name."""


def lift_constants(model: ir.Model) -> None:
    """Turns the nodes Constant into initializers, in place; to be called before `run_onnxsim`.

    onnxsim 0.8 leaves them, and 0.4 fails where their value is an attribute other than a tensor.
    """
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def run_onnxsim(model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
    """A copy with constants folded and without nodes that do nothing, and whether onnxsim could validate it."""
    simplified: onnx.ModelProto
    simplified, valid = onnxsim.simplify(model, skipped_optimizers=_SKIPPED)
    return simplified, valid
