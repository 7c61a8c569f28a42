"""What tests of the C++ runtime build on: it is compiled, asked, and given bundles with another manifest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Case = dict[str, Any]
Answers = Callable[[Sequence[Case]], list[dict[str, Any]]]
TESTS = Path(__file__).parents[1]
CPP = TESTS.parent / "splite_deploy/cpp"
DRIVER = TESTS / "cpp/driver.cpp"
SANITIZERS = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
FLAGS = [
    "-std=c++17",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Werror",
    f"-I{CPP}/include",
    "-isystem",
    f"{CPP}/third_party",
]


def compile_cpp(source: Path, program: Path, *more: str, compiler: str = "g++") -> None:
    """Compiles one file with the runtime.

    Args:
        source: The file.
        program: What it becomes.
        more: Further options of the compiler, such as ``-O1``.
        compiler: Its name.
    """
    found = shutil.which(compiler) or (shutil.which("clang++") if compiler == "g++" else None)
    if found is None:
        pytest.skip(f"there is no C++ compiler (apt install {compiler})")
    command = [found, *FLAGS, *more, str(source), "-o", str(program), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def onnxruntime_library() -> str:
    """What ``SPLITE_ONNXRUNTIME`` names, else the library in the wheel of onnxruntime."""
    if named := os.environ.get("SPLITE_ONNXRUNTIME"):
        return named
    ort = pytest.importorskip("onnxruntime")
    found = sorted((Path(ort.__file__).parent / "capi").glob("libonnxruntime.so*"))
    if not found:
        pytest.skip(f"the wheel of onnxruntime {ort.__version__} has no library of its own")
    return str(found[0])


def ask(
    driver: Path, folder: Path, cases: Sequence[Case], variables: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """The answers of the driver to cases, in their order; arrays in them are written to a file of their own.

    Args:
        driver: The program.
        folder: Where these files are written.
        cases: See ``driver.cpp``.
        variables: Of its environment, besides those that are set.
    """
    content = bytearray()

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            values: NDArray[Any] = value if value.dtype == np.uint8 else value.astype("<f4")
            content.extend(bytes(-len(content) % 16))
            offset = len(content)
            content.extend(np.ascontiguousarray(values).tobytes())
            return {"shape": list(values.shape), "offset": offset}
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    (folder / "cases.json").write_text(json.dumps(plain(list(cases))), encoding="utf-8")
    (folder / "arrays.bin").write_bytes(content)
    program = [str(driver), str(folder / "cases.json"), str(folder / "arrays.bin")]
    if any(case["do"] in ("crops", "estimate", "track", "time", "frames") for case in cases):
        program.append(onnxruntime_library())
    environment = {**os.environ, **(variables or {})}
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-4000:]}"
    return [json.loads(line) for line in done.stdout.splitlines()]


def sign(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a manifest, and gives it its checksum."""
    data = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del data["checksum"]
    change(data)
    text = json.dumps(data)[:-1] + ", "
    checksum = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(f'{text}"checksum": "{checksum}"}}', encoding="utf-8")
