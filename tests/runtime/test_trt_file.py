"""Engines without a bundle: what they say of themselves, and what is refused before TensorRT sees it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from engines import NO_ENGINE, build_engine, tensorrt_rtx
from numpy_cuda import NumpyCuda
from trt_stand_in import StandInEngine, tensorrt

from splite_deploy.bench import Extras, run_file
from splite_deploy.bench.report.sentences import sentences
from splite_deploy.device import cuda_driver
from splite_deploy.device.cuda_driver import Gpu, gpu
from splite_deploy.errors import BackendError, MissingDependencyError
from splite_deploy.runtime.backends import base
from splite_deploy.runtime.backends.trt import TrtOptions
from splite_deploy.runtime.backends.trt import session as backend
from splite_deploy.runtime.session import open_file

ORIN = Gpu("Orin", (8, 7), 30000, True, "12.6", None)
BUILD = "Build the engine on this machine, with the TensorRT that is installed here"
TRTEXEC = "Time it with TensorRT's own trtexec."
IMAGE, HEATMAP, DEPTH = ((-1, 3, 4, 5), "float32"), ((-1, 4), "float32"), ((-1, 1), "float16")
FIXED_IMAGE = ((1, 3, 4, 5), "float32")


def compute(feeds: Mapping[str, Any]) -> Mapping[str, Any]:
    total = feeds["image"].astype(np.float64).sum(axis=(1, 2, 3))
    return {"heatmap": total[:, None] + np.arange(4), "depth": -total[:, None]}


@pytest.fixture
def cuda() -> Iterator[NumpyCuda]:
    """A device, which has to be left empty."""
    device = NumpyCuda()
    yield device
    assert device.live == [] and device.memory == {} and device.closed


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that begins like an engine."""
    path = tmp_path / "net.engine"
    path.write_bytes(NO_ENGINE)
    return path


Load = Callable[[StandInEngine | None], None]


@pytest.fixture
def load(cuda: NumpyCuda, monkeypatch: pytest.MonkeyPatch) -> Load:
    """A machine with a GPU and TensorRT, on which every file is the engine given."""
    monkeypatch.setattr(base, "find_spec", lambda module: module)
    monkeypatch.setattr(cuda_driver, "gpu", lambda: ORIN)
    monkeypatch.setattr(backend, "open_cuda", lambda choice: cuda)

    def load_engine(engine: StandInEngine | None) -> None:
        monkeypatch.setattr(backend, "load_tensorrt", lambda flavour: tensorrt(engine))

    return load_engine


def pose_engine(cuda: NumpyCuda, batches: tuple[int, int], **options: Any) -> StandInEngine:
    return StandInEngine(cuda, {"image": IMAGE}, {"heatmap": HEATMAP, "depth": DEPTH}, compute, batches, **options)


def test_an_engine_tells_its_own_ends(cuda: NumpyCuda, load: Load, file: Path) -> None:
    load(pose_engine(cuda, (2, 8)))
    alone = open_file(file)
    assert [(s.name, s.shape, s.dtype) for s in alone.inputs] == [("image", (None, 3, 4, 5), "float32")]
    assert [(s.name, s.shape, s.dtype) for s in alone.outputs] == [
        ("heatmap", (None, 4), "float32"),
        ("depth", (None, 1), "float32"),
    ]
    for batch in (2, 8, 8, 8, 3):
        feeds = {"image": np.random.default_rng(batch).normal(size=(batch, 3, 4, 5)).astype(np.float32)}
        found, expected = alone.run(feeds), compute(feeds)
        assert list(found) == ["heatmap", "depth"]
        for name, values in found.items():
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, expected[name], rtol=2e-3)  # depth passes through float16
    with pytest.raises(BackendError, match=r"takes batches of 2 to 8; the inputs hold 'image' 1\.") as caught:
        alone.run({"image": np.zeros((1, 3, 4, 5), np.float32)})
    assert caught.value.hint == f"{BUILD}, for batches (smallest, usual, largest) of 1,1,8."
    alone.close()


def test_a_batch_that_can_be_but_one_is_no_range(cuda: NumpyCuda, load: Load, file: Path) -> None:
    load(pose_engine(cuda, (3, 3)))
    alone = open_file(file)
    assert alone.inputs[0].shape == (3, 3, 4, 5) and alone.outputs[0].shape == (3, 4)
    feeds = {"image": np.ones((3, 3, 4, 5), np.float32)}
    np.testing.assert_allclose(alone.run(feeds)["heatmap"], compute(feeds)["heatmap"])
    alone.close()


def test_fixed_tensors_need_no_batch_in_front(cuda: NumpyCuda, load: Load, file: Path) -> None:
    def boxes(feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"boxes": feeds["image"].sum() + feeds["anchors"].repeat(2, axis=0)}

    inputs = {"image": ((1, 2, 2, 3), "uint8"), "anchors": ((5, 4), "float16")}
    load(StandInEngine(cuda, inputs, {"boxes": ((10, 4), "float32")}, boxes))
    alone = open_file(file)
    assert [spec.dtype for spec in alone.inputs] == ["uint8", "float32"]
    feeds = {
        "image": np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3),
        "anchors": np.arange(20, dtype=np.float32).reshape(5, 4),
    }
    for _ in range(3):
        np.testing.assert_array_equal(alone.run(feeds)["boxes"], boxes(feeds)["boxes"])
    alone.close()


@pytest.mark.parametrize(
    ("inputs", "outputs", "formats", "message"),
    [
        ({"ids": ((1, 4), "int32")}, {"y": HEATMAP}, {}, "net.engine has 'ids' in int32, which no session supports."),
        ({"x": FIXED_IMAGE}, {"y": ((1, 4), "uint8")}, {}, "net.engine has 'y' in uint8, which no session supports."),
        ({"x": ((1, 3, -1, -1), "float32")}, {"y": HEATMAP}, {}, "has 'x' with the sizes 1x3xNxN in the memory format"),
        ({"x": FIXED_IMAGE}, {"y": ((), "float32")}, {}, "has 'y' with the sizes no axes in the memory format LINEAR"),
        ({"x": FIXED_IMAGE}, {"y": HEATMAP}, {"x": "CHW32"}, "1x3x4x5 in the memory format CHW32; a session takes"),
    ],
)
def test_tensors_that_no_session_takes(
    cuda: NumpyCuda, load: Load, file: Path, inputs: Any, outputs: Any, formats: Any, message: str
) -> None:
    load(StandInEngine(cuda, inputs, outputs, compute, formats=formats))
    with pytest.raises(BackendError) as caught:
        open_file(file)
    assert message in caught.value.message
    assert caught.value.hint == TRTEXEC


def test_an_output_whose_size_depends_on_the_data(cuda: NumpyCuda, load: Load, file: Path) -> None:
    """It could be larger than its memory, so the engine never runs."""
    load(StandInEngine(cuda, {"x": FIXED_IMAGE}, {"y": HEATMAP}, compute, fails={"get_tensor_shape"}))
    alone = open_file(file)
    with pytest.raises(BackendError) as caught:
        alone.run({"x": np.zeros((1, 3, 4, 5), np.float32)})
    assert "net.engine gives 'y' in the shape (-1, 4) for a batch of 1; a session takes (1, 4)." in caught.value.message
    assert caught.value.hint == TRTEXEC and "copy_to_device" not in cuda.calls
    alone.close()


def test_an_engine_that_tensorrt_cannot_load(cuda: NumpyCuda, load: Load, file: Path) -> None:
    load(None)
    with pytest.raises(BackendError, match=r"TensorRT 10\.3\.0 cannot load net\.engine: it gave no reason\.") as caught:
        open_file(file)
    assert caught.value.hint == f"{BUILD}."


def test_an_engine_that_tensorrt_cannot_run(cuda: NumpyCuda, load: Load, file: Path) -> None:
    load(pose_engine(cuda, (1, 1), fails={"create_execution_context"}))
    with pytest.raises(BackendError, match="failed in create_execution_context") as caught:
        open_file(file)
    assert caught.value.hint == f"{BUILD}."


def test_a_benchmark_says_that_no_manifest_describes_the_engine(cuda: NumpyCuda, load: Load, file: Path) -> None:
    engine = pose_engine(cuda, (1, 4))
    load(engine)
    result = run_file(
        file, batch=4, frames=9, warmup=1, warmup_min_s=0, options=TrtOptions(cuda_graph=False), extras=Extras(False)
    )
    assert (result.backend, result.bundle, result.precision, result.batch) == ("trt", "", None, 4)
    assert list(result.stages) == ["model_only"] and "begin_capture" not in cuda.calls
    said = "No manifest describes this engine: its precision is unknown and its results are unchecked."
    assert said in sentences(result)
    assert said not in sentences(dataclasses.replace(result, bundle="hand.splite"))


# --- before TensorRT ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "net.engine is empty."),
        (b"\x08\x08\x12\x07pytorch", "is an ONNX graph, not a"),
        (b"MZ", "is not a TensorRT"),
    ],
)
def test_files_that_are_no_engines(
    file: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str, splite: Callable[..., Result]
) -> None:
    def never(flavour: str | None) -> None:
        raise AssertionError("TensorRT was asked")

    monkeypatch.setattr(base, "find_spec", lambda module: module)
    monkeypatch.setattr(backend, "load_tensorrt", never)
    file.write_bytes(content)
    with pytest.raises(BackendError) as caught:
        open_file(file)
    assert message in caught.value.message and caught.value.hint == f"{BUILD}."
    done = splite("bench", file)
    assert done.exit_code == 1 and message in " ".join(done.stderr.split())


def test_no_gpu(file: Path, load: Load, cuda: NumpyCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    load(None)
    cuda.close()  # it is never opened
    monkeypatch.setattr(cuda_driver, "gpu", lambda: None)
    with pytest.raises(BackendError, match=r"net\.engine needs an NVIDIA GPU; the driver offers none here") as caught:
        open_file(file)
    assert "doctor" in caught.value.hint and "time the .onnx" in caught.value.hint and "-b " not in caught.value.hint


def test_no_tensorrt(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "find_spec", lambda module: None)
    with pytest.raises(MissingDependencyError, match=r"net\.engine needs the backend 'trt', which is not") as caught:
        open_file(file)
    assert "pip install tensorrt" in caught.value.hint


@pytest.mark.parametrize("suffix", ["engine", "plan", "trt"])
def test_a_real_engine_passes_until_the_gpu_is_asked_for(
    tiny_bundle: Path, tmp_path: Path, splite: Callable[..., Result], suffix: str
) -> None:
    if gpu() is not None:
        pytest.skip("there is a GPU here; tests/gpu runs engines")
    path = tmp_path / f"net.{suffix}"
    path.write_bytes(build_engine(tensorrt_rtx().module, tiny_bundle / "model.onnx"))
    done = splite("bench", path)
    assert done.exit_code == 1
    assert f"error: net.{suffix} needs an NVIDIA GPU; the driver offers none here." in done.output
