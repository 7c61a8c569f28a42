"""Engines that are refused before TensorRT sees them, each with the command that builds a right one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from engines import build_engine, engine_bundle, tensorrt_rtx

from splite_deploy.bundle import Bundle
from splite_deploy.device.cuda_driver import Gpu, gpu
from splite_deploy.errors import BackendError, BundleError
from splite_deploy.files import sha256_of
from splite_deploy.runtime.backends.base import ModelFile
from splite_deploy.runtime.backends.trt import session as backend
from splite_deploy.runtime.backends.trt.compatibility import (
    EngineFile,
    check_gpu,
    check_software,
    this_platform,
)
from splite_deploy.runtime.session import open_session

ORIN = Gpu("Orin", (8, 7), 30000, True, "12.6", None)


def refused(path: Path, message: str, call: Callable[..., Any], *arguments: Any) -> None:
    with pytest.raises((BackendError, BundleError)) as caught:
        call(*arguments)
    assert message in caught.value.message
    assert caught.value.hint == f"Build it here: splite-deploy compile {path} -b trt -p fp16."


def file_of(bundle: Bundle) -> EngineFile:
    artifact = bundle.find()
    return EngineFile.of(ModelFile(b"", artifact.file, artifact.format, artifact, bundle))


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where TensorRT is asked for, let alone given anything."""

    def load(*arguments: object) -> None:
        raise AssertionError("TensorRT was asked")

    monkeypatch.setattr(backend, "load_tensorrt", load)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty."),
        (b"\x08\x08\x12\x07pytorch", "is an ONNX graph, not a TensorRT"),
        (b"MZ", "is not a TensorRT"),
    ],
)
@pytest.mark.usefixtures("never_loaded")
def test_files_that_are_no_engines(tiny_bundle: Path, tmp_path: Path, content: bytes, message: str) -> None:
    path = engine_bundle(tiny_bundle, tmp_path / "x.splite", content)
    bundle = Bundle.open(path)
    refused(path, message, open_session, bundle)


@pytest.mark.usefixtures("never_loaded")
def test_a_real_graph_under_the_name_of_an_engine(tiny_bundle: Path, tmp_path: Path) -> None:
    path = engine_bundle(tiny_bundle, tmp_path / "x.splite", (tiny_bundle / "model.onnx").read_bytes())
    bundle = Bundle.open(path)
    refused(path, "model.fp16.engine is an ONNX graph", open_session, bundle)


@pytest.mark.usefixtures("never_loaded")
def test_a_file_that_changes_after_the_bundle_was_opened(tiny_bundle: Path, tmp_path: Path) -> None:
    path = engine_bundle(tiny_bundle, tmp_path / "x.splite")
    bundle = Bundle.open(path)
    flip_a_byte(path / "model.fp16.engine")
    refused(path, "its SHA-256 differs", open_session, bundle)
    (path / "model.fp16.engine").unlink()
    refused(path, "its SHA-256 differs", open_session, bundle)  # a bundle keeps open what it has checked
    refused(path, "lacks its file model.fp16.engine", Bundle.open, path)


@pytest.mark.parametrize("change", [flip_a_byte, Path.unlink])
def test_a_damaged_engine_in_a_bundle(
    tiny_bundle: Path, tmp_path: Path, splite: Callable[..., Result], change: Callable[[Path], None]
) -> None:
    path = engine_bundle(tiny_bundle, tmp_path / "hand one.splite")
    change(path / "model.fp16.engine")
    with pytest.raises(BundleError) as caught:
        Bundle.open(path)
    assert caught.value.hint == f"Build it here: splite-deploy compile '{path}' -b trt -p fp16."
    Bundle.open(path, rebuilding=["trt fp16"])  # so that the hint leads somewhere
    for command in (("verify",), ("bench", "--frames", "10")):
        done = splite(*command, path, "-b", "trt")
        assert done.exit_code == 1 and "Traceback" not in done.output
        assert "splite-deploy compile" in done.output and "-b trt -p fp16" in done.output


def test_another_tensorrt(tiny_bundle: Path, tmp_path: Path) -> None:
    path = engine_bundle(tiny_bundle, tmp_path / "x.splite", flavour="tensorrt", tensorrt="10.3.0")
    bundle = Bundle.open(path)
    artifact = bundle.find()
    check_software(artifact, file_of(bundle), "tensorrt", "10.3.0")
    check_software(artifact, file_of(bundle), "tensorrt", "10.3.0.30")
    for flavour, version, label in (
        ("tensorrt", "10.16.2", "TensorRT 10.16.2"),
        ("tensorrt", "10.3.1", "TensorRT 10.3.1"),
        ("tensorrt", "10.3", "TensorRT 10.3"),
        ("rtx", "10.3.0", "TensorRT-RTX 10.3.0"),
    ):
        message = f"model.fp16.engine was built by TensorRT 10.3.0; here is {label}."
        refused(path, message, check_software, artifact, file_of(bundle), flavour, version)


def test_another_platform(tiny_bundle: Path, tmp_path: Path) -> None:
    path = engine_bundle(tiny_bundle, tmp_path / "x.splite", platform="linux-riscv64")
    bundle = Bundle.open(path)
    message = f"model.fp16.engine was built for linux-riscv64; this is {this_platform()}."
    refused(path, message, check_software, bundle.find(), file_of(bundle), "rtx", "1.7.1.116")


def test_another_gpu(tiny_bundle: Path, tmp_path: Path) -> None:
    facts = {"flavour": "tensorrt", "tensorrt": "10.3.0", "gpu": "Xavier", "compute_capability": "7.2"}
    path = engine_bundle(tiny_bundle, tmp_path / "x.splite", **facts)
    bundle = Bundle.open(path)
    check_gpu(bundle.find(), file_of(bundle), Gpu("another Xavier", (7, 2), 8000, True, "12.6", None))
    message = "model.fp16.engine was built for Xavier (compute capability 7.2); this is Orin (8.7)."
    refused(path, message, check_gpu, bundle.find(), file_of(bundle), ORIN)


def test_rtx_judges_gpus_itself(tiny_bundle: Path, tmp_path: Path) -> None:
    path = engine_bundle(tiny_bundle, tmp_path / "x.splite", compute_capability="")
    bundle = Bundle.open(path)
    check_gpu(bundle.find(), file_of(bundle), ORIN)


@pytest.mark.parametrize("fact", ["flavour", "tensorrt", "platform", "compute_capability"])
def test_a_manifest_that_says_too_little(tiny_bundle: Path, tmp_path: Path, fact: str) -> None:
    facts = {"flavour": "tensorrt", "tensorrt": "10.3.0", fact: ""}
    path = engine_bundle(tiny_bundle, tmp_path / "x.splite", **facts)
    bundle = Bundle.open(path)

    def checks() -> None:
        check_software(bundle.find(), file_of(bundle), "tensorrt", "10.3.0")
        check_gpu(bundle.find(), file_of(bundle), ORIN)

    refused(path, f"does not say for which {fact} model.fp16.engine was built", checks)


# --- real engines ---


@pytest.fixture(scope="module")
def real_engine(tiny_bundle: Path) -> bytes:
    """An engine of the tiny network."""
    trt = tensorrt_rtx()
    return build_engine(trt.module, tiny_bundle / "model.onnx")


def test_a_real_engine_passes_until_the_gpu_is_asked_for(
    tiny_bundle: Path, tmp_path: Path, real_engine: bytes, splite: Callable[..., Result]
) -> None:
    if gpu() is not None:
        pytest.skip("there is a GPU here; tests/gpu runs engines")
    path = engine_bundle(tiny_bundle, tmp_path / "x.splite", real_engine, tensorrt=tensorrt_rtx().version)
    done = splite("verify", path, "-b", "trt")
    assert done.exit_code == 1
    assert "error: model.fp16.engine needs an NVIDIA GPU; the driver offers none here." in done.output
    assert "splite-deploy doctor" in done.output


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"tensorrt": "1.6.0.40"}, "was built by TensorRT-RTX 1.6.0.40; here is TensorRT-RTX"),
        ({"flavour": "tensorrt", "tensorrt": "10.3.0"}, "was built by TensorRT 10.3.0; here is TensorRT-RTX"),
        ({"platform": "linux-riscv64"}, "was built for linux-riscv64"),
    ],
)
def test_a_real_engine_of_elsewhere(
    tiny_bundle: Path,
    tmp_path: Path,
    real_engine: bytes,
    splite: Callable[..., Result],
    facts: dict[str, str],
    message: str,
) -> None:
    here = {"tensorrt": tensorrt_rtx().version, **facts}
    path = engine_bundle(tiny_bundle, tmp_path / "x.splite", real_engine, **here)
    done = splite("verify", path, "-b", "trt")
    text = " ".join(done.output.split())
    assert done.exit_code == 1 and message in text
    assert f"splite-deploy compile {path} -b trt -p fp16." in text


def test_a_real_engine_with_a_flipped_byte(tiny_bundle: Path, tmp_path: Path, real_engine: bytes) -> None:
    path = engine_bundle(tiny_bundle, tmp_path / "x.splite", real_engine)
    whole = sha256_of(path / "model.fp16.engine")
    bundle = Bundle.open(path)
    flip_a_byte(path / "model.fp16.engine")
    assert sha256_of(path / "model.fp16.engine") != whole
    refused(path, "its SHA-256 differs", open_session, bundle)


@pytest.mark.parametrize("content", [b"", b"\x08\x08 a graph", b"no engine"])
def test_the_command_line_refuses_other_files(
    tiny_bundle: Path, tmp_path: Path, splite: Callable[..., Result], content: bytes
) -> None:
    tensorrt_rtx()
    path = engine_bundle(tiny_bundle, tmp_path / "x.splite", content)
    done = splite("verify", path, "-b", "trt")
    assert done.exit_code == 1 and "Traceback" not in done.output
    assert f"splite-deploy compile {path} -b trt -p fp16." in " ".join(done.output.split())
