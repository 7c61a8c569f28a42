"""TensorRT and TensorRT-RTX on an NVIDIA GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from splite_deploy.runtime.backends.base import Backend, BackendOptions, ModelFile, option
from splite_deploy.runtime.cuda.memory import MEMORY_BACKENDS

if TYPE_CHECKING:
    from splite_deploy.runtime.backends.trt.session import TrtSession

MODULES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX", "tensorrt_rtx_bindings": "TensorRT-RTX"}
"""Where TensorRT's Python API may be, in the order in which it is looked for, with the flavour that it is. The last is
TensorRT-RTX without the package that renames it."""
INSTALL = "pip install tensorrt 'splite-deploy[trt]' (on a Jetson, TensorRT comes with JetPack)"


@dataclass(frozen=True)
class TrtOptions(BackendOptions):
    """How engines are run.

    Attributes:
        memory_backend: Which package handles the GPU's memory, of `MEMORY_BACKENDS`; ``auto`` is the first installed.
        cuda_graph: Whether an inference is recorded once and replayed; None where memory backend and engine can.
        mapped_memory: Whether the GPU reads and writes the host's memory in place of copies, which is faster where both
            share it (a Jetson) and slower elsewhere.
        stage_timing: Whether the stages of an inference are timed.
    """

    memory_backend: str = option(
        "auto", "what handles the GPU's memory.", flag="--memory-backend", choices=MEMORY_BACKENDS
    )
    cuda_graph: bool | None = option(None, "launch every kernel anew.", flag="--no-cuda-graph", sets=False)
    mapped_memory: bool = option(False, "let the GPU use the host's memory in place.")
    stage_timing: bool = option(False, "time copies and computing apart.")


def _load() -> None:
    from splite_deploy.runtime.backends.trt.module import load_tensorrt

    load_tensorrt()


def _open(file: ModelFile, options: TrtOptions) -> TrtSession:
    from splite_deploy.runtime.backends.trt.session import TrtSession

    return TrtSession.open(file, options)


BACKEND = Backend(
    name="trt",
    label="TensorRT",
    open=_open,
    formats=("engine",),
    options=TrtOptions,
    suffixes=dict.fromkeys((".engine", ".plan", ".trt"), "engine"),
    modules=tuple(MODULES),
    install=INSTALL,
    load=_load,
    layers_from="as the engine's inspector lists them.",
    export="trt",
    distributions={"tensorrt": ("tensorrt",), "tensorrt-rtx": ("tensorrt-rtx",)},
    needs_nvidia=True,
)
