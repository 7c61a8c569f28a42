"""Is this engine safe to load here? Asked before TensorRT sees it: an engine is native code.

Neither TensorRT nor a GPU is needed to refuse one.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from splite_deploy.bundle import Artifact, Bundle, compile_command
from splite_deploy.device.cuda_driver import Gpu
from splite_deploy.errors import BackendError
from splite_deploy.runtime.backends.trt.module import FLAVOURS

_MAGIC = b"trt"  # after a letter for the kind: vtrt in engines of RTX 1.7; its library also names ftrt and ptrt
_ONNX = b"\x08"  # the field ir_version, which every ONNX writer puts first


@dataclass(frozen=True)
class EngineFile:
    """An engine's file, and what to do where it is no good.

    Attributes:
        path: The file.
        command: What to type to build it anew, for other batches (``min,opt,max``) if given; None without a bundle.
    """

    path: Path
    command: Callable[[str | None], str] | None = None

    @classmethod
    def of(cls, bundle: Path, artifact: Artifact) -> EngineFile:
        """An engine of a bundle, by the bundle's folder."""
        return cls(bundle / artifact.file, partial(compile_command, bundle, artifact))

    @property
    def name(self) -> str:
        """As messages have it."""
        return self.path.name

    def build_hint(self, batch: str | None = None) -> str:
        """The hint to build it anew, for other batches (``min,opt,max``) if given."""
        if self.command is not None:
            return f"Build it here: {self.command(batch)}."
        profile = "" if batch is None else f", for batches (smallest, usual, largest) of {batch}"
        return f"Build the engine on this machine, with the TensorRT that is installed here{profile}."

    def failed_hint(self) -> str:
        """The hint where TensorRT failed on it."""
        if self.command is not None:
            return f"Run 'splite-deploy verify'; if it fails too: {self.command(None)}."
        return self.build_hint()


def this_platform() -> str:
    """For example ``linux-aarch64``; engines do not move to another one."""
    return f"{sys.platform}-{platform.machine().lower()}"


def read_engine(file: EngineFile, sha256: str | None) -> bytes:
    """The engine, read once, so that what was checked is what is loaded.

    Args:
        file: Its file.
        sha256: What the manifest says of it; None without a bundle.

    Raises:
        BackendError: It is empty or missing, not an engine, or not the file that the manifest describes.
    """
    path, hint = file.path, file.build_hint()
    try:
        data = path.read_bytes()
    except OSError as err:
        raise BackendError(f"{path} cannot be read: {err.strerror or err}.", hint=hint) from err
    if not data:
        raise BackendError(f"{path} is empty.", hint=hint)
    if data.startswith(_ONNX):
        raise BackendError(f"{path} is an ONNX graph, not a TensorRT engine.", hint=hint)
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise BackendError(f"{path} is not the file that the manifest describes (its SHA-256 differs).", hint=hint)
    if data[1:4] != _MAGIC:
        raise BackendError(f"{path} is no TensorRT engine.", hint=hint)
    return data


def check_software(bundle: Bundle, artifact: Artifact, flavour: str, version: str) -> None:
    """Compares what an engine was built with and for with what is here.

    Args:
        bundle: The bundle.
        artifact: The engine.
        flavour: Of the TensorRT that is here: ``tensorrt`` or ``rtx``.
        version: Of it, for example ``10.3.0``.

    Raises:
        BackendError: It was built by another TensorRT, or for another platform.
    """
    target, hint = artifact.target, _hint(bundle, artifact)
    built_by = _fact(bundle, artifact, "flavour"), _fact(bundle, artifact, "tensorrt")
    if built_by[0] != flavour or not _same_version(built_by[1], version):
        raise BackendError(
            f"{artifact.file} was built by {_label(*built_by)}; here is {_label(flavour, version)}.", hint=hint
        )
    if _fact(bundle, artifact, "platform") != this_platform():
        raise BackendError(f"{artifact.file} was built for {target['platform']}; this is {this_platform()}.", hint=hint)


def check_gpu(bundle: Bundle, artifact: Artifact, gpu: Gpu | None) -> None:
    """Compares what an engine was built for with the GPU.

    Args:
        bundle: The bundle.
        artifact: The engine.
        gpu: Of `splite_deploy.device.cuda_driver.gpu`.

    Raises:
        BackendError: There is none, or the engine was built for another one.
    """
    gpu = check_any_gpu(artifact.file, gpu, "Without a GPU, run another backend: -b ort.")
    # An RTX engine is finished on the GPU that runs it, and RTX itself refuses what it does not support.
    if _fact(bundle, artifact, "flavour") == "rtx":
        return
    built_for, here = _fact(bundle, artifact, "compute_capability"), "{}.{}".format(*gpu.compute_capability)
    if built_for != here:
        raise BackendError(
            f"{artifact.file} was built for {artifact.target.get('gpu', 'a GPU')} (compute capability {built_for}); "
            f"this is {gpu.name} ({here}).",
            hint=_hint(bundle, artifact),
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


def _hint(bundle: Bundle, artifact: Artifact) -> str:
    return EngineFile.of(bundle.path, artifact).build_hint()


def _fact(bundle: Bundle, artifact: Artifact, name: str) -> str:
    target: Mapping[str, str] = artifact.target
    if name not in target:
        raise BackendError(
            f"The manifest does not say for which {name} {artifact.file} was built.",
            hint=_hint(bundle, artifact),
        )
    return target[name]


def _label(flavour: str, version: str) -> str:
    return f"{FLAVOURS.get(flavour, flavour)} {version}"


def _same_version(one: str, other: str) -> bool:
    """Whether two versions agree in the numbers that both have, of which there are three at least."""
    numbers, others = one.split("."), other.split(".")
    shared = min(len(numbers), len(others))
    return shared >= 3 and numbers[:shared] == others[:shared]
