"""The TensorRT session on a machine without a GPU: its own logic, on numpy in the place of CUDA and of an engine.

What TensorRT and CUDA themselves do is tested in `tests/gpu`.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy_cuda import NumpyCuda
from trt_stand_in import StandInEngine, tensorrt

from splite_deploy.bundle import Artifact, TensorSpec, compile_command
from splite_deploy.errors import BackendError, BundleError, UsageError
from splite_deploy.runtime.backends.base import ModelFile
from splite_deploy.runtime.backends.trt import TrtOptions
from splite_deploy.runtime.backends.trt import module as trt_module
from splite_deploy.runtime.backends.trt import session as trt_session
from splite_deploy.runtime.backends.trt.compatibility import EngineFile
from splite_deploy.runtime.backends.trt.session import TrtSession
from splite_deploy.runtime.session import StageTimed
from splite_deploy.spec import LimitSpec

BUNDLE = Path("hand.splite")
COMMAND = "splite-deploy compile hand.splite -b trt -p fp16"
SIZES = (3, 4, 5)


def compute(feeds: Mapping[str, Any]) -> Mapping[str, Any]:
    """Two outputs that depend on every value of their crop, and on nothing else."""
    image = feeds["image"].astype(np.float64)
    total = image.sum(axis=(1, 2, 3))
    return {"heatmap": total[:, None] + np.arange(4), "depth": -total[:, None]}


def artifact(batch: int | None, dtype: str = "float32") -> Artifact:
    image = (
        TensorSpec("image", (batch, 4, 5, 3), dtype, "NHWC", "image")
        if dtype == "uint8"
        else TensorSpec("image", (batch, *SIZES), dtype, "NCHW", "image")
    )
    outputs = (
        TensorSpec("heatmap", (batch, 4), "float32", "NK", "heatmap"),
        TensorSpec("depth", (batch, 1), "float16", "NK", "depth"),
    )
    return Artifact("engine", "trt", "fp16", "model.fp16.engine", "0" * 64, (image,), outputs, LimitSpec(1, 1, 1), {})


def engine_file(described: Artifact) -> EngineFile:
    """The artifact's file, in a bundle of which nothing but the place is asked."""
    bundle: Any = SimpleNamespace(path=BUNDLE)
    return EngineFile.of(ModelFile(b"", described.file, described.format, described, bundle))


def engine_of(described: Artifact, cuda: NumpyCuda, batches: tuple[int, int] = (1, 1), **options: Any) -> StandInEngine:
    def tensors(specs: tuple[TensorSpec, ...]) -> dict[str, tuple[tuple[int, ...], str]]:
        return {s.name: (tuple(-1 if size is None else size for size in s.shape), s.dtype) for s in specs}

    return StandInEngine(cuda, tensors(described.inputs), tensors(described.outputs), compute, batches, **options)


def opened(
    cuda: NumpyCuda,
    *,
    batches: tuple[int, int] | None = None,
    dtype: str = "float32",
    options: TrtOptions | None = None,
    fails: set[str] | None = None,
) -> TrtSession:
    """A session on a stand-in; with batches its batch is dynamic."""
    described = artifact(None if batches else 1, dtype)
    engine = engine_of(described, cuda, batches or (1, 1), fails=fails or set())
    return TrtSession(
        SimpleNamespace(), engine, tensorrt(), cuda, described, options or TrtOptions(), engine_file(described)
    )


def crops(count: int, seed: int = 0, dtype: str = "float32") -> Any:
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return rng.integers(0, 256, (count, 4, 5, 3), np.uint8)
    return rng.normal(size=(count, *SIZES)).astype(np.float32)


@pytest.fixture
def cuda() -> Iterator[NumpyCuda]:
    """A device, which has to be left empty."""
    device = NumpyCuda()
    yield device
    assert device.live == [] and device.memory == {} and device.users == 0


def same(found: Mapping[str, Any], feed: Any) -> None:
    expected = compute({"image": feed})
    assert list(found) == ["heatmap", "depth"]
    for name, values in found.items():
        assert values.dtype == np.float32 and values.flags.owndata
        np.testing.assert_allclose(values, expected[name], rtol=2e-3)  # depth passes through float16


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("graph", [None, True, False])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_every_way_gives_the_same_results(cuda: NumpyCuda, mapped: bool, graph: bool | None, dtype: str) -> None:
    session = opened(cuda, dtype=dtype, options=TrtOptions(cuda_graph=graph, mapped_memory=mapped))
    assert session.inputs[0].dtype == dtype and all(spec.dtype == "float32" for spec in session.outputs)
    for frame in range(5):
        feed = crops(1, frame, dtype)
        same(session.run({"image": feed}), feed)
        assert session.replays == (graph is not False and frame > 0)
    assert ("copy_to_device" in cuda.calls) is not mapped
    session.close()
    session.close()
    assert cuda.closed


def test_nothing_is_made_per_run_and_a_graph_is_one_launch(cuda: NumpyCuda) -> None:
    session = opened(cuda)
    for _ in range(2):
        session.run({"image": crops(1)})
    cuda.calls.clear()
    live = len(cuda.live)
    for frame in range(100):
        session.run({"image": crops(1, frame)})
    assert cuda.calls == ["launch", "synchronise"] * 100 and len(cuda.live) == live
    session.close()


def test_results_outlive_the_next_run_and_the_session(cuda: NumpyCuda) -> None:
    session = opened(cuda)
    first = session.run({"image": crops(1)})
    session.run({"image": crops(1, 1)})
    session.close()
    same(first, crops(1))


def test_batches_within_the_profile(cuda: NumpyCuda) -> None:
    session = opened(cuda, batches=(2, 8))
    for frame, count in enumerate((2, 8, 8, 8, 3, 3, 2, 8, 8)):
        feed = crops(count, frame)
        same(session.run({"image": feed}), feed)
    assert cuda.calls.count("end_capture") == cuda.calls.count("destroy_graph") + 1 == 3
    session.close()


@pytest.mark.parametrize(("count", "batch"), [(1, "1,1,8"), (9, "2,9,9"), (0, "1,1,8")])
def test_batches_outside_the_profile(cuda: NumpyCuda, count: int, batch: str) -> None:
    session = opened(cuda, batches=(2, 8))
    with pytest.raises(BackendError, match=rf"takes batches of 2 to 8; the inputs hold 'image' {count}\.") as caught:
        session.run({"image": crops(count)})
    assert caught.value.hint == f"Build it here: {COMMAND} --batch {batch}."
    same(session.run({"image": crops(4)}), crops(4))
    session.close()


def test_the_command_keeps_the_batch_of_the_engine() -> None:
    engine = dataclasses.replace(artifact(None), target={"batch": "1,4,8"})
    assert compile_command(BUNDLE, engine) == f"{COMMAND} --batch 1,4,8"
    assert compile_command(BUNDLE, engine, "1,9,9") == f"{COMMAND} --batch 1,9,9"
    assert compile_command(BUNDLE, artifact(1)) == COMMAND


def test_the_command_calibrates_again_where_the_engine_was_calibrated() -> None:
    """With what images the user has to say: the manifest names their folder, not its place."""
    engine = dataclasses.replace(artifact(None), target={"batch": "1,4,8", "calibrator": "minmax"})
    assert compile_command(BUNDLE, engine) == f"{COMMAND} --calibrator minmax --calibration IMAGES --batch 1,4,8"


def test_a_dynamic_engine_whose_batch_can_be_but_one(cuda: NumpyCuda) -> None:
    """Its profile is 3,3,3, so the manifest names a batch; the engine wants to be told it nevertheless."""
    engine = engine_of(artifact(None), cuda, (3, 3))
    described = artifact(3)
    file = engine_file(described)
    session = TrtSession(SimpleNamespace(), engine, tensorrt(), cuda, described, TrtOptions(), file)
    for frame in range(3):
        same(session.run({"image": crops(3, frame)}), crops(3, frame))
    with pytest.raises(BackendError, match=r"of shape \(2, 3, 4, 5\); the network takes float32 3x3x4x5"):
        session.run({"image": crops(2)})
    session.close()


def test_alternating_batches_record_nothing(cuda: NumpyCuda) -> None:
    session = opened(cuda, batches=(1, 8))
    for frame in range(6):
        session.run({"image": crops(1 + frame % 2, frame)})
    assert "begin_capture" not in cuda.calls
    session.close()


@pytest.mark.parametrize("graph", [None, False])
def test_stages_are_timed_by_the_device(cuda: NumpyCuda, graph: bool | None) -> None:
    session = opened(cuda, options=TrtOptions(cuda_graph=graph, stage_timing=True))
    assert isinstance(session, StageTimed) and session.stage_ms() is None
    for frame in range(3):
        session.run({"image": crops(1, frame)})
        assert session.stage_ms() == {"h2d": 0.0, "compute": 2.0, "d2h": 0.0}
    session.close()
    assert session.stage_ms() is None


def test_stages_are_not_timed_unasked(cuda: NumpyCuda) -> None:
    session = opened(cuda)
    session.run({"image": crops(1)})
    assert session.stage_ms() is None and "create_event" not in cuda.calls
    session.close()


def test_an_engine_that_cannot_be_recorded(cuda: NumpyCuda) -> None:
    session = opened(cuda, fails={"capture"})
    for frame in range(3):
        same(session.run({"image": crops(1, frame)}), crops(1, frame))
    assert not session.replays and cuda.calls.count("abandon_capture") == 1
    session.close()


def test_a_graph_that_was_asked_for_and_cannot_be_had(cuda: NumpyCuda) -> None:
    session = opened(cuda, options=TrtOptions(cuda_graph=True), fails={"capture"})
    session.run({"image": crops(1)})
    with pytest.raises(BackendError, match=r"cannot be recorded as a CUDA graph: TensorRT 10\.3\.0 failed") as caught:
        session.run({"image": crops(1)})
    assert "cuda_graph=None" in caught.value.hint
    session.close()


def test_a_memory_backend_without_graphs() -> None:
    cuda = NumpyCuda(can_capture=False)
    with pytest.raises(UsageError, match="The memory backend numpy does not support CUDA graphs") as caught:
        opened(cuda, options=TrtOptions(cuda_graph=True))
    assert "pip install cuda-python" in caught.value.hint and cuda.live == []
    session = opened(cuda)
    for frame in range(3):
        same(session.run({"image": crops(1, frame)}), crops(1, frame))
    assert not session.replays
    session.close()


@pytest.mark.parametrize("call", ["create_execution_context", "set_tensor_address", "execute_async_v3"])
def test_what_tensorrt_says_is_told(cuda: NumpyCuda, call: str) -> None:
    failing = {call}
    module = tensorrt()
    described = artifact(1)
    logger = trt_module.collecting_logger(module.module)
    engine = engine_of(described, cuda, fails=failing, logger=logger)
    logger.log(1, "what went wrong in an earlier call")
    sessions: list[TrtSession] = []

    def open_and_run() -> None:
        file = engine_file(described)
        sessions.append(TrtSession(SimpleNamespace(), engine, module, cuda, described, TrtOptions(), file))
        sessions[0].run({"image": crops(1)})

    with pytest.raises(BackendError) as caught:
        open_and_run()
    assert caught.value.message == f"TensorRT 10.3.0 failed in {call}: Error Code 2: OutOfMemory (no memory)."
    assert COMMAND in caught.value.hint
    failing.clear()
    for session in sessions:
        same(session.run({"image": crops(1)}), crops(1))
        session.close()


def test_errors_of_another_thread_are_not_told(cuda: NumpyCuda) -> None:
    """TensorRT takes one logger for all its runtimes, so two sessions that fail at once share it."""
    other = NumpyCuda()
    module = tensorrt()
    logger = trt_module.collecting_logger(module.module)
    described = artifact(1)
    sessions, engines = [], []
    for device, said in ((cuda, "Error Code 1: of the one"), (other, "Error Code 2: of the other")):
        engines.append(engine_of(described, device, logger=logger, says=said))
        sessions.append(
            TrtSession(SimpleNamespace(), engines[-1], module, device, described, TrtOptions(), engine_file(described))
        )
    both_failed = threading.Barrier(2)
    messages: dict[int, set[str]] = {0: set(), 1: set()}

    def work(number: int) -> None:
        engine, session = engines[number], sessions[number]
        engine.fails.add("execute_async_v3")
        engine.after_logging = both_failed.wait  # neither asks for its errors before both have logged theirs
        for _ in range(20):
            with pytest.raises(BackendError) as caught:
                session.run({"image": crops(1)})
            messages[number].add(caught.value.message)

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert messages[0] == {"TensorRT 10.3.0 failed in execute_async_v3: Error Code 1: of the one."}
    assert messages[1] == {"TensorRT 10.3.0 failed in execute_async_v3: Error Code 2: of the other."}
    for session in sessions:
        session.close()
    assert other.live == [] and other.closed


@pytest.mark.parametrize("failing", ["synchronise", "free", "destroy_stream"])
def test_the_device_is_let_go_of_also_where_freeing_fails(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = NumpyCuda()
    session = opened(cuda)

    def fault(*arguments: object) -> None:
        raise BackendError(f"CUDA failed: {failing} returned cudaErrorIllegalAddress.", hint="Restart the program.")

    monkeypatch.setattr(cuda, failing, fault)
    session.close()
    assert cuda.closed
    freed = {"free", "free_host", "destroy_stream"} - {failing}
    assert freed <= set(cuda.calls), "what can be freed is freed"


def test_the_device_is_let_go_of_where_the_session_does_not_come_about(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = NumpyCuda()
    engine = engine_of(artifact(1), cuda, fails={"create_execution_context"})

    def fault(*arguments: object) -> None:
        raise BackendError("CUDA failed: cudaFree returned cudaErrorIllegalAddress.", hint="Restart the program.")

    monkeypatch.setattr(cuda, "free", fault)
    monkeypatch.setattr(trt_session, "open_cuda", lambda choice: cuda)
    monkeypatch.setattr(trt_session, "load_tensorrt", lambda flavour: tensorrt(engine))
    monkeypatch.setattr(trt_session, "check_any_gpu", lambda *arguments: None)
    with pytest.raises(BackendError):
        TrtSession.open(ModelFile(b"vtrt" + bytes(16), "net.engine", "engine"), TrtOptions())
    assert cuda.closed


def test_too_little_memory_leaves_nothing_behind(cuda: NumpyCuda) -> None:
    cuda.memory_bytes = 100_000
    with pytest.raises(BackendError, match="The GPU's memory is full"):
        opened(cuda, batches=(1, 10_000))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": {"heatmap": ((1, 4), "float32")}}, "has the tensors image .*; the manifest says .*depth"),
        ({"inputs": {"image": ((1, *SIZES), "float16")}}, "image .input float16 1x3x4x5.*says image .input float32"),
        ({"inputs": {"image": ((2, *SIZES), "float32")}}, "image .input float32 2x3x4x5"),
    ],
)
def test_an_engine_that_the_manifest_does_not_describe(cuda: NumpyCuda, change: dict[str, Any], message: str) -> None:
    described = artifact(1)
    engine = engine_of(described, cuda)
    for name, value in change.items():
        setattr(engine, name, value)
    file = engine_file(described)
    with pytest.raises(BundleError, match=message) as caught:
        TrtSession(SimpleNamespace(), engine, tensorrt(), cuda, described, TrtOptions(), file)
    assert caught.value.hint == f"Build it here: {COMMAND}."


def test_a_type_that_no_session_takes(cuda: NumpyCuda) -> None:
    described = artifact(1, "int32")
    engine, file = engine_of(described, cuda), engine_file(described)
    with pytest.raises(BackendError, match="has 'image' in int32, which no session supports") as caught:
        TrtSession(SimpleNamespace(), engine, tensorrt(), cuda, described, TrtOptions(), file)
    assert caught.value.hint == f"Build it here: {COMMAND}."


def test_sessions_of_one_process_and_threads_in_turn(cuda: NumpyCuda) -> None:
    other = NumpyCuda()
    one, two = opened(cuda), opened(other)
    failures: list[BaseException] = []

    def work(session: TrtSession, first: int) -> None:
        try:
            for frame in range(first, first + 50):
                same(session.run({"image": crops(1, frame)}), crops(1, frame))
        except BaseException as err:
            failures.append(err)

    threads = [threading.Thread(target=work, args=(session, first)) for session, first in ((one, 0), (two, 100))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    later = threading.Thread(target=work, args=(one, 200))
    later.start()
    later.join()
    assert failures == []
    one.close()
    same(two.run({"image": crops(1)}), crops(1))
    two.close()
    assert other.live == []
