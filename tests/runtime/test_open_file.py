"""Files without their bundle."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from splite_deploy.bundle import Bundle
from splite_deploy.errors import BackendError, MissingDependencyError, UsageError
from splite_deploy.runtime import session as session_module
from splite_deploy.runtime.backends import all_backends, find_backend
from splite_deploy.runtime.backends.base import Backend
from splite_deploy.runtime.session import backend_of, open_file, open_session

VECTORS = Path(__file__).parents[1] / "vectors"


def test_a_graph_tells_its_own_inputs_and_outputs(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    alone, bundled = open_file(tiny_bundle / "model.onnx", threads=1), open_session(bundle, "ort", threads=1)
    expected_tensors = [(spec.name, spec.shape, spec.dtype) for spec in (*bundled.inputs, *bundled.outputs)]
    assert [(spec.name, spec.shape, spec.dtype) for spec in (*alone.inputs, *alone.outputs)] == expected_tensors
    (image,) = alone.inputs
    feeds = {image.name: np.random.default_rng(0).random(image.shape).astype(np.float32)}
    expected = bundled.run(feeds)
    for name, array in alone.run(feeds).items():
        np.testing.assert_array_equal(array, expected[name])
    with pytest.raises(BackendError, match="float64"):
        alone.run({image.name: feeds[image.name].astype(np.float64)})
    alone.close()
    with pytest.raises(BackendError, match="closed"):
        alone.run(feeds)


def test_sizes_that_none_can_be_are_none_too(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    ends = [onnx.helper.make_tensor_value_info(name, 1, size) for name, size in (("x", [1, -3]), ("y", [1, -3]))]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with open_file(tmp_path / "a.onnx") as session:
        assert session.inputs[0].shape == (1, None)


def test_sizes_that_a_graph_leaves_open_are_none(tiny_dynamic_bundle: Path) -> None:
    session = open_file(tiny_dynamic_bundle / "model.onnx")
    assert session.inputs[0].shape[0] is None
    assert all(isinstance(size, int) for size in session.inputs[0].shape[1:])


@pytest.mark.parametrize("name", ["tiny.fp32", "tiny.fp16", "tiny.int8", "tiny.int8-ends"])
def test_a_tflite_file_keeps_its_layout_and_the_session_quantises(name: str) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    session = open_file(VECTORS / f"{name}.tflite", threads=1)
    (image,) = session.inputs
    assert image.dtype == "float32"
    assert image.shape[-1] == 3  # NHWC, as in the file
    outputs = session.run({image.name: np.random.default_rng(0).random(image.shape).astype(np.float32)})
    assert set(outputs) == {spec.name for spec in session.outputs}
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in outputs.values())


def test_what_is_no_file_of_a_backend(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a bundle nor a file") as caught:
        backend_of(tmp_path / "model.pt")
    assert ".onnx, .tflite" in caught.value.hint
    with pytest.raises(UsageError, match="There is no file"):
        backend_of(tmp_path / "model.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nonsense")
    with pytest.raises(BackendError, match=r"broken\.onnx is no ONNX graph"):
        open_file(broken)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> Backend:
    """A further backend for .onnx that comes first, but is not installed."""
    backend = dataclasses.replace(
        find_backend("ort"), name="absent", modules=("no_such_module_xyz",), install="pip install xyz"
    )
    found = {"absent": backend, **all_backends()}
    monkeypatch.setattr(session_module, "all_backends", lambda: found)
    monkeypatch.setattr(session_module, "find_backend", found.__getitem__)
    return backend


def test_a_backend_that_is_not_installed(tmp_path: Path, absent: Backend) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    with pytest.raises(MissingDependencyError, match=r"model\.onnx needs the backend 'absent', which is not") as caught:
        open_file(file, "absent")
    assert caught.value.hint == "Install it: pip install xyz."


def test_of_several_backends_with_a_suffix_the_first_installed_runs_the_file(tmp_path: Path, absent: Backend) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    assert backend_of(file).name == "ort"
    assert backend_of(file, "ort").name == "ort"


def test_a_backend_that_runs_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"The backend 'tflite' does not run model\.onnx") as caught:
        open_file(tmp_path / "model.onnx", "tflite")
    assert caught.value.hint == "Files end in .tflite."
    with pytest.raises(UsageError, match="The backend 'replay' does not run") as caught:
        open_file(tmp_path / "model.onnx", "replay")
    assert caught.value.hint == "It runs bundles alone."
    with pytest.raises(UsageError, match="There is no backend 'npu'"):
        open_file(tmp_path / "model.onnx", "npu")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")

    def refused(path: Path, flags: int) -> int:  # the tests may be root, whom nothing is refused
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(UsageError, match=r"model\.onnx cannot be read: Permission denied"):
        open_file(file)
