"""The TensorRT and the device that an engine was built for: it runs nowhere else."""

from __future__ import annotations

from pathlib import Path

from splite_deploy.device.cuda_driver import Gpu
from splite_deploy.device.jetson import jetpack_of, read_l4t
from splite_deploy.runtime.backends.trt.compatibility import this_platform
from splite_deploy.runtime.backends.trt.module import TensorRt


def facts_of(tensorrt: TensorRt, gpu: Gpu | None, root: Path = Path("/")) -> dict[str, str]:
    """TensorRT, platform, GPU, driver and JetPack, for `Artifact.target`; unknown facts are left out.

    Args:
        tensorrt: The TensorRT that builds.
        gpu: The GPU that it builds on, if any.
        root: Where the files of the operating system are looked up; tests give a folder.
    """
    facts: dict[str, str] = {
        "flavour": tensorrt.flavour,
        "tensorrt": tensorrt.version,
        "platform": this_platform(),
    }
    if gpu is not None:
        facts |= {"gpu": gpu.name, "compute_capability": "{}.{}".format(*gpu.compute_capability), "cuda": gpu.cuda}
        if gpu.driver is not None:
            facts["driver"] = gpu.driver
    l4t = read_l4t(root)
    if l4t is not None:
        facts["l4t"] = l4t
        generation = jetpack_of(l4t)
        if generation is not None:
            facts["jetpack"] = generation.name
    return facts
