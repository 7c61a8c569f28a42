"""Is there an NVIDIA GPU? Asked of the driver itself, by ctypes; nothing here raises.

TensorRT cannot answer that: without a GPU some of its versions end the process instead of failing.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path

LIBRARIES = ("libcuda.so.1", "libcuda.so")
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")

# CUdevice_attribute of cuda.h
_INTEGRATED = 18
_CAPABILITY_MAJOR = 75
_CAPABILITY_MINOR = 76


@dataclass(frozen=True)
class Gpu:
    """The first GPU that the driver offers.

    Attributes:
        name: For example ``Orin``.
        compute_capability: (major, minor).
        memory_mib: Its memory in MiB; on a Jetson that of the machine.
        integrated: Whether it shares the machine's memory, as on a Jetson.
        cuda: Newest version of CUDA that the driver runs, for example ``12.6``.
        driver: Version of the driver, for example ``580.95.05``; None where the system does not tell, as on a Jetson.
    """

    name: str
    compute_capability: tuple[int, int]
    memory_mib: int
    integrated: bool
    cuda: str
    driver: str | None

    @property
    def sm(self) -> str:
        """For example ``sm_87``."""
        return "sm_{}{}".format(*self.compute_capability)


def gpu(libraries: tuple[str, ...] = LIBRARIES) -> Gpu | None:
    """Asks the driver for its first GPU; makes no CUDA context.

    Args:
        libraries: Names under which the driver's library is looked for, in this order.

    Returns:
        None where there is no driver, or no GPU that this process may use.
    """
    cuda = _load(libraries)
    if cuda is None:
        return None
    try:
        return _first(cuda)
    except AttributeError:  # a library of that name that is no driver
        return None


def _load(libraries: tuple[str, ...]) -> ctypes.CDLL | None:
    for library in libraries:
        try:
            return ctypes.CDLL(library)
        except OSError:
            continue
    return None


def _first(cuda: ctypes.CDLL) -> Gpu | None:
    device, version, memory_bytes = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    failed = (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), 0)
        or cuda.cuDriverGetVersion(ctypes.byref(version))
        or cuda.cuDeviceGetName(name, len(name), device)
        or cuda.cuDeviceTotalMem_v2(ctypes.byref(memory_bytes), device)
    )
    if failed:
        return None

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        return 0 if cuda.cuDeviceGetAttribute(ctypes.byref(value), number, device) else value.value

    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=(attribute(_CAPABILITY_MAJOR), attribute(_CAPABILITY_MINOR)),
        memory_mib=memory_bytes.value >> 20,
        integrated=bool(attribute(_INTEGRATED)),
        cuda=f"{version.value // 1000}.{version.value % 1000 // 10}",
        driver=_driver_version(),
    )


def _driver_version() -> str | None:
    try:
        found = re.search(r"Kernel Module\s+(?:for \S+\s+)?([\d.]+)", _KERNEL_MODULE.read_text(errors="replace"))
    except OSError:
        return None
    return found[1] if found else None
