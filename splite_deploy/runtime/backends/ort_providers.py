"""The execution providers of ONNX Runtime by the names that ``--provider`` takes, and how each is set up."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from splite_deploy.errors import BackendError
from splite_deploy.runtime.backends.base import module_is_found
from splite_deploy.spec import Precision

if TYPE_CHECKING:
    import onnxruntime as ort

CPU = "CPUExecutionProvider"
_LOGGED = re.compile(r"\[E:onnxruntime:[^\]]*\] (?P<said>.*)")
_PLACES = re.compile(r"^/?\S+\.(?:cc|h):\d+ .*?(?:\[ERROR\] |FAIL : |\) (?=[A-Z]))")
"""Where in its source ONNX Runtime fails, and in which function."""
Settings = Callable[[Precision, "int | None"], Mapping[str, str]]
"""Options of a provider by the precision of the file and the number of CPU threads.

They ask for the numbers that the file was made with: left to themselves some compute in rougher ones.
"""


@dataclass(frozen=True)
class Provider:
    """An execution provider.

    Attributes:
        name: As ONNX Runtime calls it.
        install: What to do where the ONNX Runtime of this environment lacks it.
        settings: What it is given.
        plug_in: The package that brings it along for any ONNX Runtime; empty where it is part of one.
    """

    name: str
    install: str
    settings: Settings = lambda precision, threads: {}
    plug_in: str = ""

    def available(self) -> bool:
        """Whether the ONNX Runtime of this environment has it, or a package for it is installed."""
        import onnxruntime

        return self.name in onnxruntime.get_available_providers() or self._brought()

    def _brought(self) -> bool:
        import onnxruntime

        able = hasattr(onnxruntime, "register_execution_provider_library")
        return bool(self.plug_in) and able and module_is_found(self.plug_in)

    def add_to(self, settings: ort.SessionOptions, precision: Precision, threads: int | None) -> dict[str, Any]:
        """Has a session run what it can on this provider.

        Args:
            settings: Of the session.
            precision: Of the file.
            threads: CPU threads; None is the provider's default.

        Returns:
            What the session takes besides ``settings``.
        """
        chosen = dict(self.settings(precision, threads))
        if not self._brought():
            return {"providers": [(self.name, chosen), CPU], "enable_fallback": 0}
        _register(self.name, self.plug_in)
        import onnxruntime

        settings.add_provider_for_devices(
            [device for device in onnxruntime.get_ep_devices() if device.ep_name == self.name], chosen
        )
        return {}


def _openvino(precision: Precision, threads: int | None) -> dict[str, str]:
    """float32 for whatever the file is, as with `-b openvino`: by default it takes bfloat16 where the CPU has it."""
    return {"device_type": "CPU", "precision": "FP32", **({"num_of_threads": str(threads)} if threads else {})}


def _tensorrt(precision: Precision, threads: int | None) -> dict[str, str]:
    return {"trt_fp16_enable": str(int(precision == "fp16")), "trt_int8_enable": str(int(precision == "int8"))}


def _xnnpack(precision: Precision, threads: int | None) -> dict[str, str]:
    return {"intra_op_num_threads": str(threads)} if threads else {}


_GPU_WHEEL = "pip install onnxruntime-gpu, without onnxruntime beside it"
PROVIDERS: Mapping[str, Provider] = {
    "cuda": Provider("CUDAExecutionProvider", _GPU_WHEEL, lambda precision, threads: {"use_tf32": "0"}),
    "tensorrt": Provider("TensorrtExecutionProvider", f"{_GPU_WHEEL}, and TensorRT", _tensorrt),
    "openvino": Provider(
        "OpenVINOExecutionProvider",
        "pip install onnxruntime-openvino, without onnxruntime beside it",
        _openvino,
    ),
    "xnnpack": Provider(
        "XnnpackExecutionProvider", "build ONNX Runtime with --use_xnnpack, since no wheel on PyPI has it", _xnnpack
    ),
    "qnn": Provider(
        "QNNExecutionProvider",
        "pip install onnxruntime-qnn",
        lambda precision, threads: {"backend_type": "htp", "enable_htp_fp16_precision": "0"},  # of float32, that is
        plug_in="onnxruntime_qnn",
    ),
    "coreml": Provider(
        "CoreMLExecutionProvider",
        "pip install onnxruntime on macOS, whose wheel has it",
        lambda precision, threads: {"ModelFormat": "MLProgram"},  # the older format computes in float16
    ),
    "dml": Provider(
        "DmlExecutionProvider", "pip install onnxruntime-directml on Windows, without onnxruntime beside it"
    ),
}


def find_provider(name: str) -> Provider:
    """A provider that the ONNX Runtime of this environment has.

    Raises:
        BackendError: There is none of this name, or this ONNX Runtime lacks it.
    """
    import onnxruntime

    found = PROVIDERS.get(name)
    if found is None:
        raise BackendError(f"There is no execution provider '{name}'.", hint=f"Choose one of: {', '.join(PROVIDERS)}.")
    if not found.available():
        has = ", ".join(onnxruntime.get_available_providers())
        raise BackendError(
            f"ONNX Runtime {onnxruntime.__version__} has no provider '{name}' ({found.name}) here; it has {has}.",
            hint=f"Install it: {found.install}.",
        )
    return found


def reason_of(lines: list[str]) -> str:
    """Why a provider could not be started, by what ONNX Runtime wrote to standard error; empty if it does not say."""
    for line in lines:
        if logged := _LOGGED.search(line):
            said = _PLACES.sub("", logged["said"])
            return re.sub(r"\x1b\[[\d;]*m", "", said).strip()[:300]
    return ""


@cache
def _register(name: str, plug_in: str) -> None:
    """Loads the library of a package into ONNX Runtime, which takes it once in a process."""
    import onnxruntime

    onnxruntime.register_execution_provider_library(name, import_module(plug_in).get_library_path())
