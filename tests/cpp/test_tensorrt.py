"""The C++ runtime with TensorRT, compiled against whatever headers of it are here; without a GPU nothing runs them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from cpp_driver import compile_cpp

PLACES = ("/usr/include/x86_64-linux-gnu", "/usr/include/aarch64-linux-gnu", "/usr/include", "/usr/local/cuda/include")
OPENED = """
#include <splite/splite.hpp>
#include <splite/tensorrt.hpp>
std::unique_ptr<splite::Session> opened(const splite::Bundle& bundle) {
  return splite::open_tensorrt(bundle, "fp16", {1});
}
"""
VERSIONS = """
#include <splite/tensorrt.hpp>
#include <iostream>
int main() {
  for (const int said : {8503, 8601, 9300, 100300, 110100}) std::cout << splite::detail::tensorrt_version(said) << " ";
  for (const char* built : {"10.3.0", "10.3.0.26", "10.3.1", "10.3", "10.30.0", ""}) {
    std::cout << splite::detail::same_version(built, "10.3.0");
  }
}
"""


@pytest.fixture(scope="module")
def headers() -> list[str]:
    """Options of the compiler: the folders in ``SPLITE_TENSORRT_INCLUDE``, else where systems have the headers."""
    named = os.environ.get("SPLITE_TENSORRT_INCLUDE")
    folders = [Path(one) for one in (named.split(os.pathsep) if named else PLACES)]
    for header in ("NvInferRuntime.h", "cuda_runtime_api.h"):
        if not any((folder / header).is_file() for folder in folders):
            pytest.skip(f"there is no {header} of TensorRT and CUDA here; name folders in SPLITE_TENSORRT_INCLUDE")
    return [part for folder in folders for part in ("-isystem", str(folder))]


def test_it_compiles(headers: list[str], tmp_path: Path) -> None:
    source = tmp_path / "opened.cpp"
    source.write_text(OPENED, encoding="utf-8")
    compile_cpp(source, tmp_path / "opened.o", "-c", *headers)
    assert b"createInferRuntime_INTERNAL" in (tmp_path / "opened.o").read_bytes()


def test_versions_are_those_of_the_manifest(headers: list[str], tmp_path: Path) -> None:
    source = tmp_path / "versions.cpp"
    source.write_text(VERSIONS, encoding="utf-8")
    compile_cpp(source, tmp_path / "versions", "-O1", *headers)
    done = subprocess.run([tmp_path / "versions"], capture_output=True, text=True, check=True)
    assert done.stdout == "8.5.3 8.6.1 9.3.0 10.3.0 11.1.0 110000"
