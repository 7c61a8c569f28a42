"""Which JetPack a Jetson runs, and what that means here. Standard library only, so that it works on any machine.

Where the table comes from. Jetson Linux (L4T) to JetPack: NVIDIA's release pages as jetson_stats and jetson-containers
collect them. TensorRT and CUDA of 6.0 to 6.2: jetson-containers, pytorch/TensorRT pull request 3453; of 7.1: NVIDIA's
archive page of JetPack 7.1; of 7.2: roboflow/inference pull request 2478, read off a device. From memory: that 7.0
has the versions of 7.1, and that later releases of 35 and 36 stay in their rows. No row was tried on its device.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from splite_deploy.device.sysfs import read_text

PYTHON_FROM = (3, 10)
"""The oldest Python that splite-deploy runs on."""


@dataclass(frozen=True)
class JetPack:
    """One generation of NVIDIA's software for Jetson.

    Attributes:
        name: JetPack versions, for example ``6.1, 6.2``.
        l4t: First release of Jetson Linux with it, (major, minor).
        boards: Modules that it runs on.
        tensorrt: Version of its TensorRT, (major, minor).
        cuda: Version of its CUDA, (major, minor).
        python: The Python that its TensorRT module is built for.
    """

    name: str
    l4t: tuple[int, int]
    boards: str
    tensorrt: tuple[int, int]
    cuda: tuple[int, int]
    python: tuple[int, int]

    @property
    def brings_module(self) -> bool:
        """Whether its TensorRT module is for a Python that splite-deploy runs on; else `dockerfile` compiles one."""
        return self.python >= PYTHON_FROM

    @property
    def dockerfile(self) -> str:
        """The image of its major version, by its path in the repository."""
        return f"docker/jetson/Dockerfile.jp{self.name.partition('.')[0]}"

    @property
    def typing(self) -> str:
        """How its TensorRT learns types: ``weakly`` typed by precision flags, ``strongly`` by the graph's own types."""
        return "weakly or strongly typed" if self.tensorrt >= (10, 0) else "weakly typed"

    @property
    def cuda_python(self) -> str:
        """What to type for GPU memory from Python: the bindings of this CUDA major."""
        return f"pip install 'cuda-python=={self.cuda[0]}.*'"

    def __str__(self) -> str:
        return (
            f"{self.name} for {self.boards}: TensorRT {dotted(self.tensorrt)}, CUDA {dotted(self.cuda)}, "
            f"Python {dotted(self.python)}"
        )


JETPACKS = (
    JetPack("5.1", (35, 2), "Xavier and Orin", (8, 5), (11, 4), (3, 8)),
    JetPack("6.0", (36, 2), "Orin", (8, 6), (12, 2), (3, 10)),
    JetPack("6.1, 6.2", (36, 4), "Orin", (10, 3), (12, 6), (3, 10)),
    JetPack("7.0, 7.1", (38, 2), "Thor", (10, 13), (13, 0), (3, 12)),
    JetPack("7.2", (39, 2), "Orin and Thor", (10, 16), (13, 2), (3, 12)),
)
"""Oldest first. A row holds until the next one begins, within its major release of Jetson Linux."""


def jetpack_of(l4t: str) -> JetPack | None:
    """The generation of a release of Jetson Linux.

    Args:
        l4t: For example ``36.4.3``.

    Returns:
        None for a release that is older, newer, or between the known ones.
    """
    numbers = re.match(r"(\d+)\.(\d+)", l4t)
    if numbers is None:
        return None
    release = (int(numbers[1]), int(numbers[2]))
    fitting = [jetpack for jetpack in JETPACKS if jetpack.l4t[0] == release[0] and jetpack.l4t <= release]
    return fitting[-1] if fitting else None


def read_l4t(root: Path = Path("/")) -> str | None:
    """The release of Jetson Linux, ``36.4.3`` from ``# R36 (release), REVISION: 4.3, GCID: ...``; None elsewhere."""
    match = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", read_text(root / "etc/nv_tegra_release"))
    return f"{match[1]}.{match[2]}" if match else None


def read_board(root: Path = Path("/")) -> str | None:
    """Name of the board from the device tree, for example ``NVIDIA Jetson Orin Nano Developer Kit``."""
    return read_text(root / "proc/device-tree/model").strip("\0 \n") or None


def dotted(version: tuple[int, ...]) -> str:
    """``10.3`` of (10, 3)."""
    return ".".join(map(str, version))
