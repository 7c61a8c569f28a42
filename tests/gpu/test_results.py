"""Engines on a GPU give the right results, in every way that they can be run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from engines import feeds_of
from numpy.typing import NDArray

from splite_deploy.errors import MissingDependencyError
from splite_deploy.metrics.parity import limits_of
from splite_deploy.runtime import open_file
from splite_deploy.runtime.verify import check, verify
from splite_deploy.spec import PRECISIONS, Precision

FP16_P95_PX = 0.1
FUSED = pytest.mark.parametrize("name", ["compacted", "compacted-fused"])


def outputs(session: Any, feed: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    return dict(session.run({session.inputs[0].name: feed}))


def assert_same(one: dict[str, Any], other: dict[str, Any], **tolerance: float) -> None:
    assert list(one) == list(other)
    for key, values in one.items():
        if tolerance:
            np.testing.assert_allclose(other[key], values, **tolerance)
        else:
            np.testing.assert_array_equal(other[key], values)


@FUSED
@pytest.mark.parametrize("precision", PRECISIONS)
def test_parity(compiled: Any, noted: Callable[..., None], name: str, precision: Precision) -> None:
    bundle = compiled(name, *PRECISIONS)
    (result,) = results = verify(bundle, "trt", precision)
    shift, depth = result.parity.deviation_px, result.parity.depth
    noted(shift_p50_px=shift.p50, shift_p95_px=shift.p95, shift_max_px=shift.max, crops=result.parity.crops)
    if depth is not None:
        noted(depth_p95=depth.p95, depth_max=depth.max, depth_unit=result.parity.depth_unit)
    check(results)
    if precision == "fp16":
        assert shift.p95 <= FP16_P95_PX
    if precision == "int8":
        assert shift.p95 <= limits_of("int8", bundle.model).shift_p95_px  # 0.5 % of the box


@FUSED
@pytest.mark.parametrize("options", [{"cuda_graph": True}, {"mapped_memory": True}, {"stage_timing": True}])
def test_every_way_gives_the_same_results(compiled: Any, opened: Any, name: str, options: dict[str, bool]) -> None:
    bundle = compiled(name, *PRECISIONS)
    plain = opened(bundle, "fp16", cuda_graph=False)
    other = opened(bundle, "fp16", **options)
    feeds = feeds_of(bundle, plain)
    for index in range(len(feeds)):
        assert_same(outputs(plain, feeds[index : index + 1]), outputs(other, feeds[index : index + 1]))
    assert other.replays and not plain.replays


@pytest.mark.parametrize("memory_backend", ["cuda-python", "pycuda"])
def test_memory_backends(compiled: Any, opened: Any, memory_backend: str) -> None:
    bundle = compiled("compacted", *PRECISIONS)
    plain = opened(bundle, "fp16")
    try:
        other = opened(bundle, "fp16", memory_backend=memory_backend, stage_timing=True)
    except MissingDependencyError as err:
        pytest.skip(err.message)
    feeds = feeds_of(bundle, plain)
    for index in range(4):
        assert_same(outputs(plain, feeds[index : index + 1]), outputs(other, feeds[index : index + 1]))
        assert other.stage_ms()["compute"] > 0


@FUSED
def test_an_engine_without_its_bundle(compiled: Any, opened: Any, name: str) -> None:
    bundle = compiled(name, *PRECISIONS)
    bundled = opened(bundle, "fp16")
    alone = open_file(bundle.path / bundle.find("trt", "fp16").file)
    try:
        ends = [{spec.name: (spec.shape, spec.dtype) for spec in s} for s in (bundled.inputs, bundled.outputs)]
        assert [{spec.name: (spec.shape, spec.dtype) for spec in s} for s in (alone.inputs, alone.outputs)] == ends
        feeds = feeds_of(bundle, bundled)
        for index in range(4):
            expected, found = (outputs(session, feeds[index : index + 1]) for session in (bundled, alone))
            assert_same(expected, {key: found[key] for key in expected})
    finally:
        alone.close()


@FUSED
def test_batches(compiled: Any, opened: Any, name: str) -> None:
    bundle = compiled(name, *PRECISIONS)
    session = opened(bundle, "fp32")
    feeds = feeds_of(bundle, session)
    alone = [outputs(session, feeds[index : index + 1]) for index in range(8)]
    for count in (8, 8, 8, 3, 3, 3, 1, 1, 8):
        together = outputs(session, feeds[:count])
        for index in range(count):
            one = {key: values[index : index + 1] for key, values in together.items()}
            assert_same(alone[index], one, rtol=1e-3, atol=2e-3)  # kernels differ between batch sizes


def test_threads_with_a_session_each(compiled: Any, opened: Any) -> None:
    bundle = compiled("compacted-fused", *PRECISIONS)
    reference = opened(bundle, "fp16")
    feeds = feeds_of(bundle, reference)
    expected = [outputs(reference, feeds[index : index + 1]) for index in range(len(feeds))]
    failures: list[BaseException] = []

    def work(session: Any, first: int) -> None:
        try:
            for frame in range(first, first + 500):
                index = frame % len(feeds)
                assert_same(expected[index], outputs(session, feeds[index : index + 1]))
        except BaseException as err:
            failures.append(err)

    sessions = [opened(bundle, "fp16") for _ in range(4)]
    threads = [threading.Thread(target=work, args=(session, 7 * n)) for n, session in enumerate(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_torch_in_the_same_process(compiled: Any, opened: Any) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    held = torch.arange(1 << 20, device="cuda", dtype=torch.float32)
    bundle = compiled("compacted", *PRECISIONS)
    session = opened(bundle, "fp16")
    feeds = feeds_of(bundle, session)
    first = outputs(session, feeds[:1])
    for _ in range(20):
        product = (held * 2).sum()
        assert_same(first, outputs(session, feeds[:1]))
    session.close()
    assert torch.equal(held.cpu(), torch.arange(1 << 20, dtype=torch.float32)) and float(product) > 0


def test_opening_and_closing(compiled: Any, opened: Any) -> None:
    bundle = compiled("compacted-fused", *PRECISIONS)
    kept = opened(bundle, "fp16")
    feeds = feeds_of(bundle, kept)
    first = outputs(kept, feeds[:1])
    for _ in range(10):
        session = opened(bundle, "fp16")
        assert_same(first, outputs(session, feeds[:1]))
        session.close()
    assert_same(first, outputs(kept, feeds[:1]))
