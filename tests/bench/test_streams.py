"""Several estimators at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy.bench.streams import run_streams
from splite_deploy.bundle import TensorSpec
from splite_deploy.decoders import Coordinates
from splite_deploy.errors import BackendError
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.spec import InputSpec, ModelSpec, SkeletonSpec

SPEC = ModelSpec(
    name="sleeper",
    input=InputSpec(8, 8, "rgb", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), 1.0, 0),
    decoder=Coordinates(scale="unit"),
    skeleton=SkeletonSpec(("a", "b"), ((0, 1),)),
)


class Sleeper:
    """A network that waits 10 ms, as for a device, and allows one thread alone."""

    inputs = (TensorSpec("image", (None, 3, 8, 8), "float32", "NCHW", "image"),)
    outputs = (TensorSpec("points", (None, 2, 2), "float32", "NC", "coordinates"),)

    def __init__(self, lock: Any = None) -> None:
        self.threads: set[int] = set()
        self.greys: list[int] = []
        self.closed = False
        self.lock = lock

    def run(self, feeds: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        self.threads.add(threading.get_ident())
        self.greys.append(round(255 * float(feeds["image"][0, 0, 4, 4])))
        if self.lock is None:
            time.sleep(0.01)
        else:
            with self.lock:
                time.sleep(0.01)
        return {"points": np.full((len(feeds["image"]), 2, 2), 0.5, np.float32)}

    def close(self) -> None:
        self.closed = True


def _run(count: int, lock: Any = None) -> tuple[Any, list[Sleeper]]:
    opened: list[Sleeper] = []

    def open_estimator() -> PoseEstimator:
        opened.append(Sleeper(lock))
        return PoseEstimator(SPEC, opened[-1], "rgb")

    inputs = [(np.full((8, 8, 3), i, np.uint8), None) for i in range(3)]
    return run_streams(open_estimator, inputs, count, seconds=0.5), opened


def test_streams_that_wait_run_side_by_side() -> None:
    found, opened = _run(3)
    assert (found.count, len(opened)) == (3, 3)
    assert found.speed_up > 1.8
    assert 0 < found.frames_per_second <= 300
    assert found.frames == found.latency.count
    assert found.latency.min_ms >= 10
    assert all(session.closed for session in opened)


def test_each_stream_has_its_session_and_its_own_order_of_images() -> None:
    _, opened = _run(2)
    assert [session.greys[:4] for session in opened] == [[0, 1, 2, 0], [1, 2, 0, 1]]
    here = {threading.get_ident()}  # where the warm-up runs
    assert len(opened[1].threads - here) == 1


def test_streams_that_wait_for_each_other_gain_nothing() -> None:
    found, _ = _run(2, lock=threading.Lock())
    assert found.speed_up < 1.6


def test_a_stream_that_fails_is_the_failure_of_all() -> None:
    def open_estimator() -> PoseEstimator:
        session = Sleeper()
        estimator = PoseEstimator(SPEC, session, "rgb")
        began = time.monotonic()
        plain = session.run

        def fail_later(feeds: Any) -> Any:
            if time.monotonic() - began > 0.3:
                raise BackendError("The device is gone.", hint="Plug it in.")
            return plain(feeds)

        session.run = fail_later  # type: ignore[method-assign]
        return estimator

    with pytest.raises(BackendError, match="The device is gone"):
        run_streams(open_estimator, [(np.zeros((8, 8, 3), np.uint8), None)], 2, seconds=0.4)
