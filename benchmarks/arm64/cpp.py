"""Tests of the C++ runtime on an emulated ARM processor: decoders, crops, golden data of the bundles that come along.

    python benchmarks/arm64/cpp.py [--cpu cortex-a76]

tests/cpp/driver.cpp is compiled for aarch64 (apt install g++-aarch64-linux-gnu), runs in the emulated machine
(machine.py) with the ONNX Runtime there, and has to find what the Python runtime finds here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "shared")]

from cpp_driver import DRIVER, compile_cpp  # noqa: E402
from machine import CPUS, FOLDER, QEMU, UnavailableError, machine  # noqa: E402

COMPILER = "aarch64-linux-gnu-g++"
TESTS = ("test_decoders.py", "test_preprocess.py", "test_bundles.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the machine is made (default: build/arm64)")
    parser.add_argument("--cpu", choices=list(CPUS), default="cortex-a76")
    options = parser.parse_args()
    folder = options.folder.absolute()
    try:
        emulated = machine(folder)
    except UnavailableError as err:
        sys.exit(f"error: {err}")
    if shutil.which(COMPILER) is None:
        sys.exit(f"error: {COMPILER} is not installed (apt install g++-aarch64-linux-gnu)")
    compile_cpp(DRIVER, folder / "driver", "-O2", compiler=COMPILER)
    cpu = CPUS[options.cpu]
    program = folder / f"driver-{cpu.name}"
    command = [QEMU, "-cpu", cpu.qemu, "-L", str(emulated.folder / "cpus" / cpu.name), str(folder / "driver")]
    words = " ".join(f"'{word}'" for word in command)
    program.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    (library,) = (emulated.folder / "lib").glob("python*/site-packages/onnxruntime/capi/libonnxruntime.so.*")
    environment = {**os.environ, "SPLITE_TESTS_CPP": str(program), "SPLITE_ONNXRUNTIME": str(library)}
    tests = [str(ROOT / "tests" / "cpp" / name) for name in TESTS]
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    sys.exit(subprocess.run(pytest, cwd=ROOT, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
