"""The typing mode of the installed TensorRT, and the features of its builder, found by the names in its module.

weak    versions 8.5 to 10: flags let the builder choose float16, and int8 where the graph has Q/DQ pairs; they can also
        calibrate a float graph themselves
strong  version 11 and TensorRT-RTX: the types in the graph decide; there are no such flags
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from splite_deploy.bundle import Typing
from splite_deploy.compile.tensorrt.job import Calibrator
from splite_deploy.runtime.backends.trt.module import Flavour
from splite_deploy.spec import Precision

_PRECISION_FLAGS: Mapping[Precision, tuple[str, ...]] = {"fp32": (), "fp16": ("FP16",), "int8": ("FP16", "INT8")}
CALIBRATORS: Mapping[Calibrator, str] = {"entropy": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}
"""Names of the classes that TensorRT calls to calibrate."""
_EXTERNAL_TACTICS = ("CUBLAS", "CUBLAS_LT", "CUDNN")  # libraries that use hundreds of MB

_INTERNAL_TACTICS = "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805"


@dataclass(frozen=True)
class TypingMode:
    """How a version of TensorRT decides on types, and what its builder offers.

    Attributes:
        typing: ``weak`` or ``strong``.
        network_flags: Names of the flags that its network needs.
        external_tactics: Names of the external libraries that its builder tries by default.
        internal_tactics: Name of the preview feature with which its core loads none of them (8.5 and 8.6); empty
            without. What it fuses beyond convolutions, as a decode in the graph, needs cuBLAS all the same.
        optimization_levels: Whether the builder has them (8.6 and later).
        progress: Whether it reports progress (10.0 and later).
        timing_cache: Whether a build can reuse the timings of another.
        calibrators: The calibrators it has (8.5 to 10).
    """

    typing: Typing
    network_flags: tuple[str, ...]
    external_tactics: tuple[str, ...]
    internal_tactics: str
    optimization_levels: bool
    progress: bool
    timing_cache: bool
    calibrators: tuple[Calibrator, ...]

    def builder_flags(self, precision: Precision, dla: bool, calibrated: bool = False) -> tuple[str, ...]:
        """Names of the flags to set for a precision; a calibrated graph has layers that must stay in float32."""
        chosen = _PRECISION_FLAGS[precision] if self.typing == "weak" else ()
        if calibrated:
            chosen = (*chosen, "PREFER_PRECISION_CONSTRAINTS")
        return (*chosen, "GPU_FALLBACK") if dla else chosen


def typing_mode_of(trt: Any, flavour: Flavour) -> TypingMode:
    """The typing mode and features of a module of TensorRT, by the names that it has.

    Args:
        trt: The module; only names are looked up in it.
        flavour: TensorRT-RTX times no kernels; the timing cache in its interface has no effect.
    """
    weak = hasattr(trt.BuilderFlag, "FP16")
    wanted = "EXPLICIT_BATCH" if weak else "STRONGLY_TYPED"
    tactics = getattr(trt, "TacticSource", None)
    previews = getattr(trt, "PreviewFeature", None)
    return TypingMode(
        typing="weak" if weak else "strong",
        network_flags=(wanted,) if hasattr(trt.NetworkDefinitionCreationFlag, wanted) else (),
        external_tactics=tuple(name for name in _EXTERNAL_TACTICS if hasattr(tactics, name)),
        internal_tactics=_INTERNAL_TACTICS if hasattr(previews, _INTERNAL_TACTICS) else "",
        optimization_levels=hasattr(trt.IBuilderConfig, "builder_optimization_level"),
        progress=hasattr(trt, "IProgressMonitor") and hasattr(trt.IBuilderConfig, "progress_monitor"),
        timing_cache=flavour == "tensorrt" and hasattr(trt.IBuilderConfig, "create_timing_cache"),
        calibrators=tuple(name for name, kind in CALIBRATORS.items() if weak and hasattr(trt, kind)),
    )
