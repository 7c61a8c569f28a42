"""What a run costs beside the network: memory, and time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import feeds_of

from splite_deploy.bench import golden_inputs
from splite_deploy.runtime import PoseEstimator
from splite_deploy.spec import PRECISIONS, Precision

FRAMES = 10_000
HOST_GROWTH_MIB = 8.0
"""Allocators of the C library and of Python keep some of what they were given back."""
TIMED_FRAMES = 2000
END_TO_END_RATIO = 1.15
OVERHEAD_MS = 0.2


def host_mib() -> float:
    """Memory of this process that is in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def device_used_mib() -> float:
    """Memory of the GPU that is in use, by whomever."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python reads the GPU's memory")
    error, free, total = runtime.cudaMemGetInfo()
    assert error == runtime.cudaError_t.cudaSuccess
    return float(total - free) / 2**20


@pytest.mark.parametrize("graph", [True, False])
def test_ten_thousand_frames_take_no_memory(
    compiled: Any, opened: Any, noted: Callable[..., None], graph: bool
) -> None:
    bundle = compiled("compacted-fused", *PRECISIONS)
    session = opened(bundle, "fp16", cuda_graph=graph)
    feeds = feeds_of(bundle, session)
    name = session.inputs[0].name

    def run(frames: int) -> None:
        for frame in range(frames):
            index = frame % len(feeds)
            session.run({name: feeds[index : index + 1]})

    run(1000)
    host_before_mib, device_before_mib = host_mib(), device_used_mib()
    run(FRAMES)
    host_growth_mib, device_growth_mib = host_mib() - host_before_mib, device_used_mib() - device_before_mib
    noted(frames=FRAMES, host_growth_mib=host_growth_mib, device_growth_mib=device_growth_mib)
    assert device_growth_mib <= 0
    assert host_growth_mib <= HOST_GROWTH_MIB


@pytest.mark.parametrize("precision", PRECISIONS)
def test_copies_are_small_beside_the_network(
    compiled: Any, opened: Any, noted: Callable[..., None], precision: Precision
) -> None:
    """By the device's clock, from the first byte to the last, with a CUDA graph and fused pre- and postprocessing."""
    bundle = compiled("compacted-fused", *PRECISIONS)
    session = opened(bundle, precision, stage_timing=True)
    feeds = feeds_of(bundle, session)
    name = session.inputs[0].name
    stages, wall_ms = [], []
    for frame in range(200 + TIMED_FRAMES):
        index = frame % len(feeds)
        began = time.perf_counter_ns()
        session.run({name: feeds[index : index + 1]})
        wall_ms.append((time.perf_counter_ns() - began) / 1e6)
        stages.append(session.stage_ms())
    assert session.replays
    kept = [stage for stage in stages[200:] if stage is not None]
    assert len(kept) == TIMED_FRAMES
    compute_ms = float(np.median([stage["compute"] for stage in kept]))
    end_to_end_ms = float(np.median([sum(stage.values()) for stage in kept]))
    noted(compute_p50_ms=compute_ms, end_to_end_p50_ms=end_to_end_ms, call_p50_ms=float(np.median(wall_ms[200:])))
    assert end_to_end_ms <= END_TO_END_RATIO * compute_ms


def test_the_estimator_adds_little(compiled: Any, opened: Any, noted: Callable[..., None]) -> None:
    bundle = compiled("compacted-fused", *PRECISIONS)
    session = opened(bundle, "fp16")
    estimator = PoseEstimator(bundle.model, session, bundle.model.input.color)
    inputs = golden_inputs(bundle)
    feeds = feeds_of(bundle, session)
    name = session.inputs[0].name
    whole_ms, bare_ms = [], []
    for frame in range(200 + TIMED_FRAMES):
        index = frame % len(inputs)
        image, box = inputs[index]
        began = time.perf_counter_ns()
        estimator(image, box)
        between = time.perf_counter_ns()
        session.run({name: feeds[index : index + 1]})
        ended = time.perf_counter_ns()
        whole_ms.append((between - began) / 1e6)
        bare_ms.append((ended - between) / 1e6)
    whole, bare = float(np.median(whole_ms[200:])), float(np.median(bare_ms[200:]))
    noted(estimator_p50_ms=whole, session_p50_ms=bare)
    assert whole - bare <= OVERHEAD_MS
