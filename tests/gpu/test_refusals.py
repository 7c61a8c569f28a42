"""Files that TensorRT must not see, through the command line."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from splite_deploy.bundle import MANIFEST, Bundle
from splite_deploy.files import sha256_of

Edit = Callable[[Path], None]


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def copied(bundle: Bundle, folder: Path) -> Path:
    return Path(shutil.copytree(bundle.path, folder / "hand.splite"))


def described_anew(path: Path, **facts: str) -> None:
    """Makes the manifest fit the file that lies there now, with other facts."""
    manifest = Bundle.open(path, rebuilding=["trt fp16"]).manifest
    artifacts = [
        dataclasses.replace(a, sha256=sha256_of(path / a.file), target={**a.target, **facts})
        if a.backend == "trt"
        else a
        for a in manifest.artifacts
    ]
    changed = dataclasses.replace(manifest, artifacts=tuple(artifacts))
    (path / MANIFEST).write_text(changed.to_json(), encoding="utf-8")


def refused(splite: Callable[..., Result], path: Path, message: str) -> None:
    done = splite("verify", path, "-b", "trt")
    text = " ".join(done.output.split())
    assert done.exit_code == 1 and message in text, done.output
    assert f"splite-deploy compile {path} -b trt -p fp16" in text


@pytest.fixture
def path(compiled: Any, tmp_path: Path) -> Path:
    """A bundle with a good engine, to be spoilt."""
    return copied(compiled("compacted", "fp16"), tmp_path)


def test_a_good_one_passes(splite: Callable[..., Result], path: Path) -> None:
    done = splite("verify", path, "-b", "trt")
    assert done.exit_code == 0, done.output


def test_a_flipped_byte(splite: Callable[..., Result], path: Path) -> None:
    flip_a_byte(path / "model.fp16.engine")
    refused(splite, path, "its SHA-256 differs")


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty."), (None, "is an ONNX graph"), (b"something", "is not a TensorRT engine")]
)
def test_no_engine(splite: Callable[..., Result], path: Path, content: bytes | None, message: str) -> None:
    (path / "model.fp16.engine").write_bytes((path / "model.onnx").read_bytes() if content is None else content)
    described_anew(path)
    refused(splite, path, message)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"tensorrt": "7.1.3.4"}, "7.1.3.4; here is"),
        ({"platform": "linux-riscv64"}, "was built for linux-riscv64"),
        ({"flavour": "tensorrt", "tensorrt": "7.1.3.4"}, "was built by TensorRT 7.1.3.4; here is"),
    ],
)
def test_an_engine_of_elsewhere(splite: Callable[..., Result], path: Path, facts: dict[str, str], message: str) -> None:
    described_anew(path, **facts)
    refused(splite, path, message)


def test_an_engine_for_another_gpu(splite: Callable[..., Result], path: Path) -> None:
    if Bundle.open(path).find("trt").target["flavour"] == "rtx":
        pytest.skip("an RTX engine is finished on the GPU that runs it")
    described_anew(path, compute_capability="5.3", gpu="Tegra X1")
    refused(splite, path, "was built for Tegra X1 (compute capability 5.3); this is")


def test_what_tensorrt_itself_refuses_is_told(splite: Callable[..., Result], path: Path) -> None:
    """Its sum fits, its inside does not: TensorRT's own words come through, and the process lives."""
    file = path / "model.fp16.engine"
    file.write_bytes(file.read_bytes()[:4096])
    described_anew(path)
    refused(splite, path, "cannot load model.fp16.engine: ")
