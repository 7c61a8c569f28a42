"""The names that the TensorRT session uses, held against the real bindings of TensorRT-RTX."""

from __future__ import annotations

import threading
from types import ModuleType

import pytest
from engines import tensorrt_rtx
from numpy_cuda import NumpyCuda
from trt_stand_in import TRT_TYPES, StandInContext, StandInEngine

from splite_deploy.errors import BackendError
from splite_deploy.runtime.backends.trt import module as trt_module
from splite_deploy.runtime.backends.trt.io_binding import _DTYPES
from splite_deploy.runtime.backends.trt.module import collecting_logger, forget_errors, load_tensorrt, logged_errors


def test_the_stand_in_has_no_names_of_its_own() -> None:
    trt = tensorrt_rtx().module
    own = {"cuda", "inputs", "outputs", "compute", "batches", "compute_ms", "fails", "formats"}
    own |= {"failing", "logger", "says", "after_logging"}
    own |= {"engine", "addresses", "shapes"}
    for stand_in, real in ((StandInEngine, trt.ICudaEngine), (StandInContext, trt.IExecutionContext)):
        names = {name for name in dir(stand_in) if not name.startswith("_")} - own
        assert len(names) >= 4 and {name for name in names if not hasattr(real, name)} == set()


def test_types_and_directions_have_their_names() -> None:
    trt = tensorrt_rtx().module
    assert set(_DTYPES) | set(TRT_TYPES.values()) <= set(trt.DataType.__members__)
    assert {mode.lower() for mode in trt.TensorIOMode.__members__} >= {"input", "output"}
    assert {_DTYPES[name] for name in _DTYPES} <= set(TRT_TYPES) and all(TRT_TYPES[_DTYPES[n]] == n for n in _DTYPES)
    assert hasattr(trt.Runtime, "deserialize_cuda_engine") and "LINEAR" in trt.TensorFormat.__members__


def test_the_module_tells_its_flavour() -> None:
    found = tensorrt_rtx()
    assert found.flavour == "rtx" and found.label.startswith("TensorRT-RTX 1.")
    assert load_tensorrt("no such flavour").version


def test_what_it_logs_is_kept() -> None:
    trt = tensorrt_rtx().module
    logger = collecting_logger(trt)
    logged_errors(trt)
    assert logger is collecting_logger(trt)
    network = trt.Builder(logger).create_network(0)
    assert not trt.OnnxParser(network, logger).parse(b"no graph")
    said = logged_errors(trt)
    assert "ModelImporter" in said or "parse" in said.lower()
    assert logged_errors(trt) == "it gave no reason"


def test_what_it_logs_belongs_to_the_thread_that_called() -> None:
    trt = tensorrt_rtx().module
    logger = collecting_logger(trt)
    logged_errors(trt)
    said = []

    def fail() -> None:
        network = trt.Builder(logger).create_network(0)
        assert not trt.OnnxParser(network, logger).parse(b"no graph")
        if len(said) == 1:
            forget_errors(trt)
        said.append(logged_errors(trt))

    for _ in range(2):
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    assert said[0] != "it gave no reason" and said[1] == "it gave no reason"
    assert logged_errors(trt) == "it gave no reason", "this thread has called nothing"


def test_a_package_that_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise ImportError("libcublas.so.11: cannot open shared object file: No such file or directory\nmore")

    monkeypatch.setattr(trt_module, "find_spec", lambda name: name)
    monkeypatch.setattr(trt_module.importlib, "import_module", load)
    with pytest.raises(
        BackendError, match=r"tensorrt is installed but cannot be imported: libcublas\.so\.11"
    ) as caught:
        load_tensorrt()
    assert "doctor" in caught.value.hint


def module_of(name: str) -> ModuleType:
    module = ModuleType(name)
    module.Logger = type("Logger", (), {"__module__": name})  # type: ignore[attr-defined]
    module.__version__ = "1.2.3"  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(
    ("asked", "works", "found"),
    [
        (None, {"tensorrt", "tensorrt_rtx"}, "tensorrt"),
        ("rtx", {"tensorrt", "tensorrt_rtx"}, "rtx"),
        ("tensorrt", {"tensorrt", "tensorrt_rtx"}, "tensorrt"),
        ("tensorrt", {"tensorrt_rtx"}, "broken"),
        ("rtx", {"tensorrt_rtx"}, "rtx"),
        (None, {"tensorrt_rtx"}, "rtx"),
        ("rtx", {"tensorrt"}, "broken"),
    ],
)
def test_one_of_two(monkeypatch: pytest.MonkeyPatch, asked: str | None, works: set[str], found: str) -> None:
    def load(name: str) -> ModuleType:
        if name not in works:
            raise ImportError(f"lib{name}.so: cannot open")
        return module_of(name)

    monkeypatch.setattr(trt_module, "find_spec", lambda name: name in ("tensorrt", "tensorrt_rtx") or None)
    monkeypatch.setattr(trt_module.importlib, "import_module", load)
    if found == "broken":
        with pytest.raises(BackendError, match=r"is installed but cannot be imported: lib\w+\.so"):
            load_tensorrt(asked)
    else:
        assert load_tensorrt(asked).flavour == found


def test_none_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_module, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs tensorrt, which is not installed"):
        load_tensorrt()


def test_the_stand_in_works_like_an_engine() -> None:
    """It is itself held to the rule that matters: nothing happens before the stream is waited for."""
    cuda = NumpyCuda()
    engine = StandInEngine(cuda, {"x": ((1, 2), "float32")}, {"y": ((1, 2), "float32")}, lambda f: {"y": f["x"] * 2})
    context = engine.create_execution_context()
    assert context is not None
    with cuda.use():
        stream, memory, host = cuda.create_stream(), cuda.allocate(16), cuda.allocate_host(8, mapped=False)
        host.array.view("float32")[:] = [3, 4]
        context.set_tensor_address("x", memory.pointer)
        result = cuda.allocate(8)
        context.set_tensor_address("y", result.pointer)
        cuda.copy_to_device(memory, host, 8, stream)
        assert context.execute_async_v3(stream.pointer)
        cuda.copy_to_host(host, result, 8, stream)
        assert host.array.view("float32").tolist() == [3, 4]
        cuda.synchronise(stream)
        assert host.array.view("float32").tolist() == [6, 8]
