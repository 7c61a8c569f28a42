"""The driver's own answer, with a driver that was compiled for the test: none of this needs a GPU."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from splite_deploy.device.cuda_driver import Gpu, gpu

DRIVER = """
#include <stddef.h>
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGet(int *device, int ordinal) { *device = 7; return 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strcpy(name, device == 7 ? "Orin" : "?"); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 7ull << 30; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : attribute == 18;
    return 0;
}
"""


def driver(folder: Path, status: int) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is installed to make a driver with")
    (folder / "driver.c").write_text(DRIVER)
    library = folder / "libdriver.so"
    command = [compiler, "-shared", "-fPIC", f"-DINIT={status}", folder / "driver.c", "-o", library]
    subprocess.run(command, check=True)
    return str(library)


def test_what_the_driver_says(tmp_path: Path) -> None:
    found = gpu(("libmissing.so", driver(tmp_path, 0)))
    assert found is not None
    assert (found.name, found.compute_capability, found.sm) == ("Orin", (8, 7), "sm_87")
    assert (found.memory_mib, found.integrated, found.cuda) == (7168, True, "12.6")


def test_a_driver_without_a_gpu(tmp_path: Path) -> None:
    assert gpu((driver(tmp_path, 100),)) is None  # CUDA_ERROR_NO_DEVICE


def test_no_driver_and_one_that_is_none() -> None:
    assert gpu(("libmissing.so",)) is None
    assert gpu(("libc.so.6",)) is None


def test_here() -> None:
    assert isinstance(gpu(), Gpu | None)
