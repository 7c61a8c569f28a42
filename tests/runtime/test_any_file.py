"""Files without their bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from splite_deploy.bundle import Bundle
from splite_deploy.errors import BackendError, MissingDependencyError, UsageError
from splite_deploy.runtime import any_file
from splite_deploy.runtime.any_file import backend_of, open_file
from splite_deploy.runtime.session import BACKENDS, open_session

VECTORS = Path(__file__).parents[1] / "vectors"


def test_a_graph_tells_its_own_ends(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    alone, bundled = open_file(tiny_bundle / "model.onnx", threads=1), open_session(bundle, "ort", threads=1)
    ends = [(spec.name, spec.shape, spec.dtype) for spec in (*bundled.inputs, *bundled.outputs)]
    assert [(spec.name, spec.shape, spec.dtype) for spec in (*alone.inputs, *alone.outputs)] == ends
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


def test_sizes_that_a_graph_leaves_open_are_none(tiny_dynamic_bundle: Path) -> None:
    session = open_file(tiny_dynamic_bundle / "model.onnx")
    assert session.inputs[0].shape[0] is None
    assert all(isinstance(size, int) for size in session.inputs[0].shape[1:])


@pytest.mark.parametrize("name", ["tiny.fp32", "tiny.fp16", "tiny.int8", "tiny.int8-ends"])
def test_a_tflite_file_keeps_its_layout_and_quantises_at_the_seam(name: str) -> None:
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
    with pytest.raises(BackendError, match=r"cannot load broken\.onnx"):
        open_file(broken)


def test_a_backend_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    monkeypatch.setitem(any_file.SUFFIXES, ".onnx", "absent")  # type: ignore[index]
    backend = type(BACKENDS["ort"])("nowhere:Nothing", "no_such_module_xyz", "pip install xyz")
    monkeypatch.setitem(BACKENDS, "absent", backend)  # type: ignore[index]
    with pytest.raises(MissingDependencyError, match="is not installed") as caught:
        open_file(file)
    assert caught.value.hint == "Install it: pip install xyz."
