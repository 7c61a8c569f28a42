"""An estimator that changes between the artifacts of real bundles, some of which are made to wait."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnxruntime")

from splite_deploy import BoxTracker, PoseEstimator, TopDown
from splite_deploy.bundle.packaged import HAND, PACKAGED, PALM, PICTURE
from splite_deploy.errors import BackendError, BundleError, SpliteError, UsageError
from splite_deploy.runtime import adaptive
from splite_deploy.runtime.adaptive import AdaptiveEstimator, Variant, variants_of
from splite_deploy.runtime.governor import Switch
from splite_deploy.runtime.session import Session

BUNDLE = PACKAGED / HAND
BOX = (300, 100, 620, 480)
WINDOW = 20
Open = Callable[..., AdaptiveEstimator]


class Waiting:
    """A session that takes longer, or fails."""

    def __init__(self, session: Session, wait: Callable[[], float]) -> None:
        self._session, self._wait = session, wait

    def run(self, feeds: Any) -> Any:
        time.sleep(self._wait())
        return self._session.run(feeds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    return cv2.imread(str(PACKAGED / PICTURE))  # type: ignore[return-value]


@pytest.fixture
def waits_s(monkeypatch: pytest.MonkeyPatch) -> dict[str | None, float]:
    """Seconds that each precision waits in an inference; a negative number fails."""
    waits: dict[str | None, float] = {}
    opened = adaptive._opened

    def waiting(variant: Variant, *arguments: Any) -> PoseEstimator:
        estimator = opened(variant, *arguments)

        def wait() -> float:
            if waits.get(variant.precision, 0) < 0:
                raise BackendError("The device is gone.")
            return waits.get(variant.precision, 0)

        estimator.session = Waiting(estimator.session, wait)  # type: ignore[assignment]
        return estimator

    monkeypatch.setattr(adaptive, "_opened", waiting)
    return waits


def go(estimator: AdaptiveEstimator, picture: NDArray[np.uint8], until: Callable[[], bool], most_s: float = 90) -> int:
    """Runs frames until something is so; returns how many."""
    end_s, frames = time.monotonic() + most_s, 0
    while not until():
        assert time.monotonic() < end_s, (estimator.switches, estimator.loaded, estimator.failed)
        pose = estimator(picture, BOX)
        assert pose.keypoints.shape == (21, 2)
        assert len(estimator.loaded) <= 2
        frames += 1
    return frames


def test_the_artifacts_of_a_bundle_are_its_variants() -> None:
    assert variants_of(BUNDLE) == [Variant(BUNDLE, "ort", "fp32"), Variant(BUNDLE, "ort", "int8")]
    assert [one.label for one in variants_of(BUNDLE)] == ["hand.splite ort fp32", "hand.splite ort int8"]
    assert Variant("a/b.splite").label == "b.splite"


def test_it_finds_what_the_variant_that_runs_finds(picture: NDArray[np.uint8]) -> None:
    with PoseEstimator.open(BUNDLE, "ort", "fp32") as alone, AdaptiveEstimator(BUNDLE, 1000) as estimator:
        assert estimator.take_times().inference_ms == 0  # not that of the warm-up
        assert estimator.active.precision == "fp32" and estimator.spec == alone.spec
        assert estimator.color == "bgr" and not estimator.finds_people and estimator.takes_several
        assert estimator(picture, BOX) == alone(picture, BOX)
        assert estimator.batch(picture, iter([BOX, BOX])) == alone.batch(picture, [BOX, BOX])
        assert estimator.at_any_angle(picture, BOX) == alone.at_any_angle(picture, BOX)
        times = estimator.take_times()
        assert times.inference_ms > 0 and estimator.take_times().inference_ms == 0
        with pytest.raises(UsageError, match="finds one hand or person in each box"):
            estimator.detect(picture)
        with pytest.raises(UsageError, match="is no list of boxes"):
            estimator.batch(picture, 5)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="needs both the intrinsics and a bone length"):
            estimator.check_options(np.eye(3))


def test_who_fails_to_listen_costs_no_frame(
    picture: NDArray[np.uint8], waits_s: dict[str | None, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda error: shown.append(error.exc_value))

    def fails(switch: Switch) -> None:
        raise RuntimeError(f"no display for {switch.why}")

    waits_s["fp32"] = 0.15
    with AdaptiveEstimator(BUNDLE, 100, window=WINDOW, rest_s=0.2, on_switch=fails) as estimator:
        go(estimator, picture, lambda: estimator.active.precision == "int8")
        assert [str(one) for one in shown] == [f"no display for {one.why}" for one in estimator.switches]
        assert estimator(picture, BOX).keypoints.shape == (21, 2)


def test_late_frames_bring_the_faster_variant_and_room_the_other(
    picture: NDArray[np.uint8], waits_s: dict[str | None, float]
) -> None:
    told: list[Switch] = []
    options: Any = {"window": WINDOW, "rest_s": 0.2, "on_switch": told.append}
    waits_s |= {"fp32": 0.1, "int8": 0.02}
    with AdaptiveEstimator(BUNDLE, 400, **options) as estimator:
        go(estimator, picture, lambda: len(estimator.loaded) == 2 and estimator._loading is None)
        waits_s |= {"fp32": 0.5, "int8": 0.1}  # as under a load: five times as long each
        assert go(estimator, picture, lambda: estimator.active.precision == "int8") <= 5
        waits_s |= {"fp32": 0.1, "int8": 0.02}
        go(estimator, picture, lambda: estimator.active.precision == "fp32")
        assert [(one.before, one.after, one.why) for one in estimator.switches] == [(0, 1, "late"), (1, 0, "room")]
        assert told == list(estimator.switches) and told[0].p95_ms is not None and told[0].p95_ms > 400


def test_opening_a_variant_keeps_no_frame_waiting(picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    opened, threads = adaptive._opened, []

    def slowly(variant: Variant, *arguments: Any) -> PoseEstimator:
        threads.append(adaptive.time.monotonic())
        time.sleep(0.5 if variant.precision == "int8" else 0)
        return opened(variant, *arguments)

    monkeypatch.setattr(adaptive, "_opened", slowly)
    with AdaptiveEstimator(BUNDLE, 1000) as estimator:
        taken_s = []
        while len(estimator._loaded) < 2:
            began_s = time.perf_counter()
            estimator(picture, BOX)
            taken_s.append(time.perf_counter() - began_s)
    assert len(threads) == 2 and len(taken_s) > 5 and np.median(taken_s) < 0.1


def test_a_frame_that_a_variant_fails_on_is_run_by_another(
    picture: NDArray[np.uint8], waits_s: dict[str | None, float]
) -> None:
    with AdaptiveEstimator(BUNDLE, 1000, window=WINDOW) as estimator:
        go(estimator, picture, lambda: len(estimator.loaded) == 2 and estimator._loading is None)
        waits_s["fp32"] = -1
        estimator(picture, BOX)
        assert estimator.active.precision == "int8" and [one.why for one in estimator.switches] == ["failed"]
        assert "The device is gone." in str(estimator.failed[0])
        assert go(estimator, picture, lambda: len(estimator.loaded) == 1) <= 2  # it is not opened again
        waits_s["int8"] = -1
        with pytest.raises(BackendError, match=r"The device is gone\."):
            estimator(picture, BOX)


def test_one_that_fails_to_open_in_an_unforeseen_way_costs_no_frame(
    picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = adaptive._opened

    def short_of_memory(variant: Variant, *arguments: Any) -> PoseEstimator:
        if variant.precision == "int8":
            raise MemoryError("no room")
        return opened(variant, *arguments)

    monkeypatch.setattr(adaptive, "_opened", short_of_memory)
    with AdaptiveEstimator(BUNDLE, 1000) as estimator:
        go(estimator, picture, lambda: bool(estimator.failed))
        assert repr(estimator.failed[1]) == "MemoryError('no room')"
        assert estimator(picture, BOX).keypoints.shape == (21, 2) and len(estimator.loaded) == 1


def test_one_that_fails_in_its_warm_up_does_not_stay_in_memory(
    picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Session] = []
    opened = adaptive.open_session

    def failing(bundle: Any, backend: Any, precision: Any, **options: Any) -> Any:
        made.append(opened(bundle, backend, precision, **options))
        return Waiting(made[-1], lambda: 0) if precision == "fp32" else Failing(made[-1], lambda: 0)

    class Failing(Waiting):
        def run(self, feeds: Any) -> Any:
            raise BackendError("No kernel for it.")

    monkeypatch.setattr(adaptive, "open_session", failing)
    with AdaptiveEstimator(BUNDLE, 1000) as estimator:
        go(estimator, picture, lambda: bool(estimator.failed))
        with pytest.raises(BackendError, match="closed"):
            made[1].run({})


def test_the_times_of_one_that_is_gone_count(picture: NDArray[np.uint8], waits_s: dict[str | None, float]) -> None:
    with AdaptiveEstimator(BUNDLE, 1000, window=WINDOW) as estimator:
        waits_s["fp32"] = 0.2
        go(estimator, picture, lambda: len(estimator._loaded) == 2)
        waits_s["fp32"] = -1
        estimator(picture, BOX)
        assert len(estimator.loaded) == 1 and estimator.take_times().inference_ms > 200
        assert estimator.take_times().inference_ms == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_can_close_it(picture: NDArray[np.uint8]) -> None:
    with AdaptiveEstimator(BUNDLE, np.float32(1000), window=np.int64(20)) as estimator:  # type: ignore[arg-type]
        child = os.fork()
        if child == 0:
            estimator.close()
            os._exit(3)
        assert os.waitpid(child, 0)[1] == 3 << 8
        assert estimator(picture, BOX).keypoints.shape == (21, 2)


def test_a_variant_that_cannot_be_opened_is_left_out(picture: NDArray[np.uint8], tmp_path: Path) -> None:
    other = tmp_path / "other.splite"
    shutil.copytree(BUNDLE, other)
    missing = Variant(other, "replay", "fp16")  # the bundle has none
    with AdaptiveEstimator([Variant(BUNDLE, "ort", "fp32"), missing], 1000) as estimator:
        go(estimator, picture, lambda: bool(estimator.failed))
        assert isinstance(estimator.failed[1], SpliteError) and "fp16" in str(estimator.failed[1])
        assert [one.label for one in estimator.loaded] == ["hand.splite ort fp32"]
    with pytest.raises(SpliteError, match="fp16"):
        AdaptiveEstimator([missing, Variant(BUNDLE)], 1000)


def test_it_takes_the_place_of_an_estimator(picture: NDArray[np.uint8]) -> None:
    with TopDown(PoseEstimator.open(PACKAGED / PALM), AdaptiveEstimator(BUNDLE, 1000)) as hands:
        assert len(hands.detect(picture)) == 2
        assert len(hands(picture)) == 2
    with AdaptiveEstimator(BUNDLE, 1000) as estimator:
        track = BoxTracker(estimator, BOX)
        track(picture)
        assert track.found


def test_after_its_end_it_finds_nothing(picture: NDArray[np.uint8]) -> None:
    estimator = AdaptiveEstimator(BUNDLE, 1000)
    estimator(picture, BOX)  # one is being opened
    estimator.close()
    assert estimator.loaded == []
    estimator.close()
    with pytest.raises(BackendError, match=r"The estimator is closed\."):
        estimator(picture, BOX)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"budget_ms": 0}, "budget_ms is 0."),
        ({"budget_ms": float("nan")}, "budget_ms is nan."),
        ({"rest_s": -1}, "rest_s is -1."),
        ({"window": 5}, "The window has 5 frames."),
        ({"max_loaded": 1}, "max_loaded is 1."),
        ({"rest_s": "1"}, "rest_s is '1'."),
        ({"variants": []}, "There is no variant to choose from."),
        ({"variants": None}, "A variant is of type NoneType, and neither a Variant nor the path of a bundle."),
        ({"variants": [3]}, "A variant is of type int, and neither a Variant nor the path of a bundle."),
        ({"variants": [BUNDLE, PACKAGED / PALM]}, "find different things"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    options = {"variants": BUNDLE, "budget_ms": 10, **given}
    with pytest.raises(UsageError) as err:
        AdaptiveEstimator(**options)
    assert message in err.value.message and err.value.hint


def test_a_missing_bundle_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none\.splite"):
        AdaptiveEstimator([BUNDLE, tmp_path / "none.splite"], 10)
