"""Which backend runs which artifact, and with which options."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from splite_deploy.bundle import Artifact, Bundle
from splite_deploy.errors import BackendError, MissingDependencyError, UsageError
from splite_deploy.runtime import PoseEstimator, open_bytes, session
from splite_deploy.runtime.backends import BUILT_IN, all_backends, find_backend
from splite_deploy.runtime.backends.base import Backend, BackendOptions
from splite_deploy.runtime.backends.litert import TfliteOptions
from splite_deploy.runtime.backends.ort import OrtOptions
from splite_deploy.runtime.backends.trt import TrtOptions
from splite_deploy.runtime.session import configured, pick_artifact
from splite_deploy.spec import Precision

Holding = Callable[..., Bundle]


@pytest.fixture
def holding(tiny_bundle: Path) -> Holding:
    """A bundle of artifacts given as ``backend format precision``; their files are those of the tiny one."""
    bundle = Bundle.open(tiny_bundle)

    def make(*described: str) -> Bundle:
        artifacts = []
        for text in described:
            backend, held, precision = text.split()
            changes = {"backend": backend, "format": held, "precision": precision}
            artifacts.append(dataclasses.replace(bundle.find(), **changes))  # type: ignore[arg-type]
        return Bundle(bundle.path, dataclasses.replace(bundle.manifest, artifacts=tuple(artifacts)))

    return make


def installed(backend: Backend) -> Backend:
    return dataclasses.replace(backend, modules=())


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, Backend]:
    """Backends that count as installed, with a plug-in ``npu`` that reads ONNX; tests may change them."""
    found = {name: installed(backend) for name, backend in all_backends().items()}
    found["npu"] = dataclasses.replace(found["ort"], name="npu", suffixes={})
    monkeypatch.setattr(session, "BUILT_IN", tuple(found[one.name] for one in BUILT_IN))
    monkeypatch.setattr(session, "all_backends", lambda: found)
    monkeypatch.setattr(session, "find_backend", lambda name: found[name])
    return found


def picked(bundle: Bundle, backend: str = "auto", precision: Precision | None = None) -> str:
    chosen, artifact = pick_artifact(bundle, backend, precision)
    return f"{chosen.name} <- {artifact.label}"


@pytest.mark.parametrize(
    ("backend", "precision", "expected"),
    [
        ("ort", None, "ort <- ort fp16"),  # the manifest's order
        ("ort", "fp32", "ort <- ort fp32"),
        ("ort", "int8", "ort <- npu int8"),  # nothing else fits
        ("npu", None, "npu <- npu int8"),  # its own, though int8
        ("npu", "fp32", "npu <- ort fp32"),
        ("replay", None, "replay <- trt fp16"),  # whose place it takes is no matter
        ("trt", None, "trt <- trt fp16"),
        ("auto", None, "npu <- npu int8"),  # artifacts made for a plug-in are wanted
        ("auto", "fp32", "ort <- ort fp32"),
        ("auto", "fp16", "trt <- trt fp16"),
    ],
)
@pytest.mark.usefixtures("known")
def test_what_is_picked(holding: Holding, backend: str, precision: Precision | None, expected: str) -> None:
    bundle = holding("trt engine fp16", "ort onnx fp16", "npu onnx int8", "ort onnx fp32")
    assert picked(bundle, backend, precision) == expected


@pytest.mark.usefixtures("known")
def test_int8_of_another_backend_comes_last(holding: Holding) -> None:
    assert picked(holding("ort onnx int8", "ort onnx fp32"), "npu") == "npu <- ort fp32"
    assert picked(holding("ort onnx int8"), "npu") == "npu <- ort int8"
    assert picked(holding("cpu onnx int8", "cpu onnx fp32")) == "ort <- cpu fp32", "the same with auto"


@pytest.mark.usefixtures("known")
def test_graphs_of_an_unknown_backend_run_in_one_that_reads_them(holding: Holding) -> None:
    assert picked(holding("cpu onnx fp32")) == "ort <- cpu fp32", "a built-in one before a plug-in"


def test_the_first_installed_is_taken(holding: Holding, known: dict[str, Backend]) -> None:
    bundle = holding("trt engine fp16", "ort onnx fp32")
    known["trt"] = dataclasses.replace(known["trt"], modules=("no_such_module_xyz",))
    assert picked(bundle) == "ort <- ort fp32"
    with pytest.raises(MissingDependencyError, match="'trt' needs no_such_module_xyz, which is not installed"):
        picked(bundle, "trt")
    with pytest.raises(MissingDependencyError, match="'trt' needs no_such_module_xyz"):
        picked(holding("trt engine fp16"))


@pytest.mark.usefixtures("known")
def test_a_precision_is_never_another_one(holding: Holding) -> None:
    for backend in ("ort", "npu", "auto"):
        with pytest.raises(UsageError, match=r"holds no .*fp16 artifact"):
            picked(holding("ort onnx fp32", "npu onnx int8"), backend, "fp16")


@pytest.mark.usefixtures("known")
def test_a_format_that_the_backend_does_not_read(holding: Holding, tiny_bundle: Path) -> None:
    with pytest.raises(UsageError, match="holds no tflite artifact"):
        picked(holding("ort onnx fp32"), "tflite")
    with pytest.raises(UsageError, match="The backend 'tflite' reads no artifact of the bundle") as caught:
        picked(holding("tflite onnx fp32"), "tflite")
    assert caught.value.hint == "It reads: tflite. The bundle holds: tflite (onnx)."
    artifact: Artifact = Bundle.open(tiny_bundle).find()
    with pytest.raises(UsageError, match="The backend 'tflite' reads no artifact of the format 'onnx'"):
        open_bytes(b"", artifact, backend="tflite")


# --- options ---


def test_options_of_the_chosen_backend_are_used() -> None:
    ort, trt, replay = (find_backend(name) for name in ("ort", "trt", "replay"))
    several = (TrtOptions(cuda_graph=False), OrtOptions(threads=2), TfliteOptions(threads=3))
    assert configured(ort, several) == OrtOptions(threads=2)
    assert configured(trt, several, threads=4) == TrtOptions(cuda_graph=False), "it computes elsewhere"
    assert configured(trt, (), stage_timing=True) == TrtOptions(stage_timing=True)
    assert configured(ort, (), threads=4, stage_timing=True) == OrtOptions(threads=4)
    assert configured(replay, several) == BackendOptions()
    assert configured(ort, OrtOptions(threads=2), threads=2) == OrtOptions(threads=2)


def test_options_that_do_not_fit(tiny_bundle: Path) -> None:
    ort = find_backend("ort")
    with pytest.raises(UsageError, match="TrtOptions is for another backend than 'ort', which takes OrtOptions"):
        configured(ort, TrtOptions())
    with pytest.raises(UsageError, match="The backend 'ort' got options twice"):
        configured(ort, [OrtOptions(), OrtOptions(threads=1)])
    with pytest.raises(UsageError, match="Both 1 and 2 threads were requested"):
        configured(ort, OrtOptions(threads=1), threads=2)
    for threads in (0, -1):
        with pytest.raises(UsageError, match=f"{threads} is not a number of threads"):
            configured(ort, OrtOptions(threads=threads))
    with pytest.raises(UsageError, match="TrtOptions is for another backend than 'replay'"):
        PoseEstimator.open(tiny_bundle, "replay", options=TrtOptions())


def test_a_broken_plug_in_is_never_picked(holding: Holding, known: dict[str, Backend]) -> None:
    known["npu"] = dataclasses.replace(known["npu"], problem="npu:BACKEND: ImportError: libnpu.so", formats=())
    assert picked(holding("npu onnx fp32")) == "ort <- npu fp32"
    with pytest.raises(BackendError, match=r"The backend 'npu' cannot be loaded: npu:BACKEND: ImportError: libnpu\.so"):
        known["npu"].require()
