"""Which package handles the GPU's memory; and that cuda-python takes our arguments, which shows without a GPU too."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from engines import engine_bundle

from splite_deploy.device.cuda_driver import gpu
from splite_deploy.errors import BackendError, MissingDependencyError, UsageError
from splite_deploy.runtime.cuda import memory as _cuda
from splite_deploy.runtime.cuda.memory import Cuda, Handle, HostBuffer, open_cuda


def test_an_unknown_choice() -> None:
    with pytest.raises(UsageError, match="There is no memory backend 'cupy'") as caught:
        open_cuda("cupy")
    assert caught.value.hint == "Choose one of: auto, cuda-python, pycuda."


@pytest.mark.parametrize("choice", ["cuda-python", "pycuda"])
def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    monkeypatch.setattr(_cuda, "find_spec", lambda module: None)
    with pytest.raises(MissingDependencyError, match=f"The memory backend '{choice}' is not installed") as caught:
        open_cuda(choice)
    assert caught.value.hint == f"Install it: pip install {choice}."


def test_neither_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(module)

    monkeypatch.setattr(_cuda, "find_spec", missing)
    with pytest.raises(MissingDependencyError, match="needs cuda-python or pycuda; neither is installed") as caught:
        open_cuda()
    assert "pip install cuda-python" in caught.value.hint and "pip install pycuda" in caught.value.hint


@pytest.mark.parametrize(
    ("choice", "installed", "expected"),
    [
        ("auto", ("cuda.bindings.runtime", "pycuda"), "cuda-python"),
        ("auto", ("cuda.cudart",), "cuda-python"),
        ("auto", ("pycuda",), "pycuda"),
        ("pycuda", ("cuda.bindings.runtime", "pycuda"), "pycuda"),
    ],
)
def test_what_is_taken(monkeypatch: pytest.MonkeyPatch, choice: str, installed: tuple[str, ...], expected: str) -> None:
    from splite_deploy.runtime.cuda import cuda_python as _cuda_python
    from splite_deploy.runtime.cuda import pycuda as _pycuda

    monkeypatch.setattr(_cuda, "find_spec", lambda module: module if module in installed else None)
    monkeypatch.setattr(_cuda_python, "CudaPython", lambda: SimpleNamespace(name="cuda-python"))
    monkeypatch.setattr(_pycuda, "PyCuda", lambda: SimpleNamespace(name="pycuda"))
    assert open_cuda(choice).name == expected


@pytest.mark.parametrize("command", ["verify", "run", "bench"])
def test_the_command_line_offers_them(splite: Callable[..., Result], command: str) -> None:
    done = splite(command, "--help")
    assert "--memory-backend [auto|cuda-python|pycuda]" in done.output and "--no-cuda-graph" in done.output


def test_the_option_reaches_the_session(
    splite: Callable[..., Result], tiny_bundle: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splite_deploy.runtime.backends import base
    from splite_deploy.runtime.backends.trt.session import TrtSession

    given = []

    def opened(file: Any, options: Any) -> None:
        given.append(options)
        raise BackendError("Enough.")

    monkeypatch.setattr(base, "find_spec", lambda module: module)
    monkeypatch.setattr(TrtSession, "open", opened)
    path = engine_bundle(tiny_bundle, tmp_path / "x.splite")
    image = tmp_path / "image.png"
    for command in (("verify", path), ("run", path, image), ("bench", path)):
        done = splite(*command, "--memory-backend", "pycuda", "--no-cuda-graph")
        assert done.exit_code == 1 and "Enough." in done.output
    assert [(options.memory_backend, options.cuda_graph) for options in given] == [("pycuda", False)] * 3
    done = splite("bench", path / "model.fp16.engine", "--memory-backend", "pycuda", "--no-cuda-graph")
    assert done.exit_code == 1 and "Enough." in done.output
    alone = given.pop()
    assert (alone.memory_backend, alone.cuda_graph) == ("pycuda", False)
    splite("verify", path)
    assert (given[3].memory_backend, given[3].cuda_graph, given[3].stage_timing) == ("auto", None, False)


# --- the real package ---


@pytest.fixture
def cuda() -> Cuda:
    """cuda-python without a GPU: it checks types and asks CUDA's own library, which says that there is none."""
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    if gpu() is not None:
        pytest.skip("there is a GPU here; tests/gpu runs on it")
    return open_cuda("cuda-python")


def handles() -> dict[str, Any]:
    from cuda.bindings import runtime

    array = np.zeros(8, np.uint8)
    return {
        "stream": Handle(0, runtime.cudaStream_t(0)),
        "event": Handle(0, runtime.cudaEvent_t(0)),
        "graph": Handle(0, runtime.cudaGraphExec_t(0)),
        "memory": Handle(0, None),
        "buffer": HostBuffer(array, 0, array.ctypes.data),
    }


CALLS: dict[str, tuple[Any, ...]] = {
    "allocate": (8,),
    "free": ("memory",),
    "free_host": ("buffer",),
    "create_stream": (),
    "destroy_stream": ("stream",),
    "synchronise": ("stream",),
    "copy_to_device": ("memory", "buffer", 8, "stream"),
    "copy_to_host": ("buffer", "memory", 8, "stream"),
    "create_event": (),
    "destroy_event": ("event",),
    "elapsed_ms": ("event", "event"),
    "begin_capture": ("stream",),
    "end_capture": ("stream",),
    "launch": ("graph", "stream"),
    "destroy_graph": ("graph",),
}


@pytest.mark.parametrize("method", CALLS)
def test_cuda_python_takes_the_arguments_and_its_errors_are_ours(cuda: Cuda, method: str) -> None:
    things = handles()
    arguments = [things.get(a, a) if isinstance(a, str) else a for a in CALLS[method]]
    with pytest.raises(BackendError, match=r"CUDA failed: cuda\w+ returned cudaErrorInsufficientDriver") as caught:
        getattr(cuda, method)(*arguments)
    assert "splite-deploy doctor" in caught.value.hint


def test_cuda_python_in_two_ways(cuda: Cuda) -> None:
    things = handles()
    for mapped in (False, True):
        with pytest.raises(BackendError, match="cudaHostAlloc returned"):
            cuda.allocate_host(8, mapped=mapped)
    for capturing in (False, True):
        with pytest.raises(BackendError, match="cudaEventRecordWithFlags returned"):
            cuda.record(things["event"], things["stream"], capturing=capturing)
    cuda.abandon_capture(things["stream"])
    with pytest.raises(BackendError, match="cudaGetDevice returned"), cuda.use():
        pass
    cuda.close()
