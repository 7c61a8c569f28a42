"""Is this engine safe to load here? Asked before TensorRT sees it: an engine is native code.

Neither TensorRT nor a GPU is needed to refuse one.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from splite_deploy.bundle import Artifact, compile_command
from splite_deploy.device.cuda_driver import Gpu
from splite_deploy.errors import BackendError
from splite_deploy.runtime.backends.base import ModelFile
from splite_deploy.runtime.backends.trt.module import FLAVOURS

_MAGIC = b"trt"  # after a letter for the kind: vtrt in engines of RTX 1.7; its library also names ftrt and ptrt
_ONNX = b"\x08"  # the field ir_version, which every ONNX writer puts first


@dataclass(frozen=True)
class EngineFile:
    """An engine's file as messages call it, and what to do where it is no good.

    Attributes:
        name: The file's name.
        command: What to type to build it anew, for other batches (``min,opt,max``) if given; None without a bundle.
    """

    name: str
    command: Callable[[str | None], str] | None = None

    @classmethod
    def of(cls, file: ModelFile) -> EngineFile:
        """Of a file that a backend is given."""
        if file.bundle is None or file.artifact is None:
            return cls(file.name)
        return cls(file.name, partial(compile_command, file.bundle.path, file.artifact))

    def build_hint(self, batch: str | None = None) -> str:
        """The hint to build it anew, for other batches (``min,opt,max``) if given."""
        if self.command is not None:
            return f"Build it here: {self.command(batch)}."
        profile = "" if batch is None else f", for batches (smallest, usual, largest) of {batch}"
        return f"Build the engine on this machine, with the TensorRT that is installed here{profile}."

    def failed_hint(self) -> str:
        """The hint where TensorRT failed on it."""
        if self.command is not None:
            return f"Build it anew: {self.command(None)}. 'splite-deploy doctor' says what works on this machine."
        return self.build_hint()


def this_platform() -> str:
    """For example ``linux-aarch64``; engines do not move to another one."""
    return f"{sys.platform}-{platform.machine().lower()}"


def check_content(data: bytes, file: EngineFile) -> None:
    """Looks at the first bytes of what is said to be an engine.

    Args:
        data: The bytes.
        file: Where they come from.

    Raises:
        BackendError: They are no engine.
    """
    if not data:
        raise BackendError(f"{file.name} is empty.", hint=file.build_hint())
    if data.startswith(_ONNX):
        raise BackendError(f"{file.name} is an ONNX graph, not a TensorRT engine.", hint=file.build_hint())
    if data[1:4] != _MAGIC:
        raise BackendError(f"{file.name} is not a TensorRT engine.", hint=file.build_hint())


def check_software(artifact: Artifact, file: EngineFile, flavour: str, version: str) -> None:
    """Compares what an engine was built with and for with what is here.

    Args:
        artifact: The engine.
        file: Its file.
        flavour: Of the TensorRT that is here: ``tensorrt`` or ``rtx``.
        version: Of it, for example ``10.3.0``.

    Raises:
        BackendError: It was built by another TensorRT, or for another platform.
    """
    target, hint = artifact.target, file.build_hint()
    built_by = _fact(artifact, file, "flavour"), _fact(artifact, file, "tensorrt")
    if built_by[0] != flavour or not _same_version(built_by[1], version):
        raise BackendError(
            f"{artifact.file} was built by {_label(*built_by)}; here is {_label(flavour, version)}.", hint=hint
        )
    if _fact(artifact, file, "platform") != this_platform():
        raise BackendError(f"{artifact.file} was built for {target['platform']}; this is {this_platform()}.", hint=hint)


def check_gpu(artifact: Artifact, file: EngineFile, gpu: Gpu | None) -> None:
    """Compares what an engine was built for with the GPU.

    Args:
        artifact: The engine.
        file: Its file.
        gpu: Of `splite_deploy.device.cuda_driver.gpu`.

    Raises:
        BackendError: There is none, or the engine was built for another one.
    """
    gpu = check_any_gpu(artifact.file, gpu, "Without a GPU, run another backend: -b ort.")
    # An RTX engine is finished on the GPU that runs it, and RTX itself refuses what it does not support.
    if _fact(artifact, file, "flavour") == "rtx":
        return
    built_for, here = _fact(artifact, file, "compute_capability"), "{}.{}".format(*gpu.compute_capability)
    if built_for != here:
        raise BackendError(
            f"{artifact.file} was built for {artifact.target.get('gpu', 'a GPU')} (compute capability {built_for}); "
            f"this is {gpu.name} ({here}).",
            hint=file.build_hint(),
        )


def check_any_gpu(name: str, gpu: Gpu | None, otherwise: str) -> Gpu:
    """The GPU that is here.

    Args:
        name: Of the engine.
        gpu: Of `splite_deploy.device.cuda_driver.gpu`.
        otherwise: What to do without one, as the hint's last sentence.

    Raises:
        BackendError: There is none.
    """
    if gpu is None:
        raise BackendError(
            f"{name} needs an NVIDIA GPU; the driver offers none here.",
            hint="Run 'splite-deploy doctor', and in a container start it with '--gpus all' or '--runtime nvidia'. "
            f"{otherwise}",
        )
    return gpu


def _fact(artifact: Artifact, file: EngineFile, name: str) -> str:
    target: Mapping[str, str] = artifact.target
    if name not in target:
        raise BackendError(
            f"The manifest does not say for which {name} {artifact.file} was built.",
            hint=file.build_hint(),
        )
    return target[name]


def _label(flavour: str, version: str) -> str:
    return f"{FLAVOURS.get(flavour, flavour)} {version}"


def _same_version(one: str, other: str) -> bool:
    """Whether two versions agree in the numbers that both have, of which there are three at least."""
    numbers, others = one.split("."), other.split(".")
    shared = min(len(numbers), len(others))
    return shared >= 3 and numbers[:shared] == others[:shared]
