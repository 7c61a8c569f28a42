"""A running estimator follows a store: no call is lost or answered wrongly, whatever is installed."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy import PoseEstimator
from splite_deploy.bundle import MANIFEST, Bundle
from splite_deploy.errors import BackendError, UpdateError, UsageError
from splite_deploy.runtime import FollowingEstimator
from splite_deploy.runtime.backends.ort import OrtSession
from splite_deploy.updates import Slot, Store

Image = NDArray[np.uint8]
BOX = (20, 10, 90, 100)
WITHIN_S = 60.0


def put(store: Store, bundle: Path, version: str) -> None:
    """Installs without verifying, which takes time and is tested elsewhere."""
    with store.adding() as folder:
        shutil.copytree(bundle, folder, dirs_exist_ok=True)
        manifest = Bundle.open(folder).manifest
        source = dataclasses.replace(manifest.source, tool_version=version)
        (folder / MANIFEST).write_text(dataclasses.replace(manifest, source=source).to_json(), encoding="utf-8")
        store.switch(folder)


@pytest.fixture
def store(tiny_bundle: Path, tmp_path: Path) -> Store:
    """With one proven bundle."""
    made = Store(tmp_path / "store")
    put(made, tiny_bundle, "1")
    made.note_proven(1)
    return made


@pytest.fixture
def follow(store: Store) -> Iterator[Callable[..., FollowingEstimator]]:
    opened: list[FollowingEstimator] = []

    def make(**options: Any) -> FollowingEstimator:
        opened.append(PoseEstimator.follow(store.path, look_every_s=0.01, **{"proving_frames": 3, **options}))
        return opened[-1]

    yield make
    for one in opened:
        one.close()
    assert not [one for one in threading.enumerate() if one.name == "splite-deploy store"]


def until(happened: Callable[[], bool], meanwhile: Callable[[], object] = lambda: None) -> None:
    end = time.monotonic() + WITHIN_S
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        meanwhile()
        time.sleep(0.002)


class Faults:
    """Has the sessions of some slots fail from their nth run on; the first one is that of the golden image."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.after: dict[int, int] = {}
        self.error: Exception | None = BackendError("no memory", hint="")
        self._made: dict[int, list[int]] = {}
        real = OrtSession._infer
        load = FollowingEstimator._loaded
        loading: list[int] = []

        def loaded(following: FollowingEstimator, slot: Any) -> Any:
            loading.append(slot.number)
            return load(following, slot)

        def infer(session: OrtSession, feeds: Any) -> Any:
            number, runs = self._made.setdefault(id(session), [loading[-1], 0])
            self._made[id(session)][1] += 1
            if runs >= self.after.get(number, 1 << 30):
                if self.error is not None:
                    raise self.error
                return {name: values * np.float32("nan") for name, values in real(session, feeds).items()}
            return real(session, feeds)

        monkeypatch.setattr(FollowingEstimator, "_loaded", loaded)
        monkeypatch.setattr(OrtSession, "_infer", infer)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(monkeypatch)


def test_it_goes_on_with_what_is_installed_and_loses_no_frame(
    follow: Callable[..., FollowingEstimator], store: Store, tiny_bundle: Path, image: Image
) -> None:
    told: list[str] = []
    estimator = follow(told=told.append)
    with PoseEstimator.open(tiny_bundle) as alone:
        wanted = alone(image, BOX).keypoints
    slots: list[int] = []

    def frame() -> None:
        assert np.array_equal(estimator(image, BOX).keypoints, wanted)
        slots.append(estimator.slot)

    frame()
    put(store, tiny_bundle, "2")
    until(lambda: estimator.slot == 2, frame)
    until(lambda: store.read().current.proven, frame)
    put(store, tiny_bundle, "3")
    until(lambda: estimator.slot == 3, frame)
    assert slots == sorted(slots) and set(slots) == {1, 2, 3}
    until(lambda: len(told) == 2)
    assert told == [f"Goes on with the bundle {store.path / f'{number}.splite'}." for number in (2, 3)]
    until(lambda: store.read().current.proven, frame)
    store.roll_back()
    until(lambda: estimator.slot == 2, frame)


@pytest.mark.parametrize("nan", [False, True])
def test_a_bundle_that_fails_in_its_first_frames_is_left(
    nan: bool,
    follow: Callable[..., FollowingEstimator],
    faults: Faults,
    store: Store,
    tiny_bundle: Path,
    image: Image,
) -> None:
    told: list[str] = []
    if nan:
        faults.error = None
    faults.after = {2: 3}  # the golden image and two frames are right
    estimator = follow(told=told.append)
    wanted = estimator(image, BOX).keypoints
    put(store, tiny_bundle, "2")
    slots: list[int] = []

    def frame() -> None:
        assert np.array_equal(estimator(image, BOX).keypoints, wanted)
        slots.append(estimator.slot)

    until(lambda: store.read().current.number == 1, frame)
    assert slots.count(2) == 2 and slots[-1] == 1
    other = store.read().other
    assert other is not None and other.number == 2
    assert other.failed.startswith("a call failed: BackendError: ")
    assert "not finite" in other.failed if nan else "no memory" in other.failed
    until(lambda: len(told) == 2)
    assert told[-1] == f"Goes back to the bundle 1.splite of {store.path}: {other.failed}"
    put(store, tiny_bundle, "3")  # one that works
    until(lambda: estimator.slot == 3, frame)


def test_an_error_of_a_proven_bundle_is_raised(
    follow: Callable[..., FollowingEstimator], faults: Faults, image: Image
) -> None:
    estimator = follow()
    faults.after = {1: 1}
    with pytest.raises(BackendError, match="no memory"):
        estimator(image, BOX)


def test_a_wrong_box_is_nobodys_failure(
    follow: Callable[..., FollowingEstimator], store: Store, tiny_bundle: Path, image: Image
) -> None:
    put(store, tiny_bundle, "2")
    estimator = follow()
    with pytest.raises(UsageError):
        estimator(image, (5, 5, 5, 5))
    assert estimator.slot == store.read().current.number == 2


def test_a_bundle_that_cannot_be_loaded_is_left(
    follow: Callable[..., FollowingEstimator], faults: Faults, store: Store, tiny_bundle: Path, image: Image
) -> None:
    faults.after = {2: 0}
    estimator = follow()
    put(store, tiny_bundle, "2")
    until(lambda: store.read().current.number == 1, lambda: estimator(image, BOX))
    other = store.read().other
    assert other is not None and other.failed == "it cannot be loaded: BackendError: no memory"
    assert estimator.slot == 1


def test_who_begins_with_a_bad_bundle_has_the_other_one(
    follow: Callable[..., FollowingEstimator], faults: Faults, store: Store, tiny_bundle: Path, image: Image
) -> None:
    put(store, tiny_bundle, "2")
    faults.after = {2: 1}  # its first frame
    estimator = follow()
    assert estimator.slot == 2
    estimator(image, BOX)
    assert estimator.slot == 1
    until(lambda: store.read().current.number == 1)

    put(store, tiny_bundle, "3")
    (store.path / "3.splite" / "golden.bin").unlink()
    assert follow().slot == store.read().current.number == 1


DIE = """
import os, sys, onnxruntime
from splite_deploy import PoseEstimator
for end in (sys.exit, os._exit, os._exit, os._exit):
    child = os.fork()
    if not child:
        following = PoseEstimator.follow(sys.argv[1])
        print(following.slot, flush=True)
        end(3)
    assert os.waitpid(child, 0)[1] == 3 << 8
"""


def test_a_bundle_that_ends_its_programs_is_left(
    follow: Callable[..., FollowingEstimator], store: Store, tiny_bundle: Path
) -> None:
    put(store, tiny_bundle, "2")
    ended = subprocess.run([sys.executable, "-c", DIE, store.path], capture_output=True, text=True, check=False)
    assert ended.stdout == "2\n2\n2\n2\n" and store.read().current == Slot(2, starts=3), ended.stderr
    told: list[str] = []
    assert follow(told=told.append).slot == 1
    until(lambda: len(told) == 1)
    assert f"2.splite of {store.path} was started 3 times, and never came to 3 results." in told[0]
    assert store.read().current.number == 1


def test_many_programs_and_short_ones_are_no_failure(
    follow: Callable[..., FollowingEstimator], store: Store, tiny_bundle: Path, image: Image
) -> None:
    several = [follow() for _ in range(3)]
    put(store, tiny_bundle, "2")
    several += [follow(), follow()]
    for one in several:
        until(lambda one=one: one.slot == 2, lambda one=one: one(image, BOX))  # type: ignore[misc]
    assert store.read().current == Slot(2, starts=5)
    for one in several[1:]:
        one.close()
    assert store.read().current == Slot(2, starts=1)
    until(lambda: store.read().current.proven, lambda: several[0](image, BOX))
    assert store.read().current == Slot(2, proven=True)
    until(lambda: not any(name.startswith(".") for name in os.listdir(store.path)))  # noqa: PTH208


def test_options_that_fit_neither_bundle_are_nobodys_failure(store: Store, tiny_bundle: Path) -> None:
    put(store, tiny_bundle, "2")
    with pytest.raises(UsageError, match=r"2\.splite holds no int8 artifact"):
        PoseEstimator.follow(store.path, precision="int8")
    assert store.read().current == Slot(2)


@pytest.mark.parametrize("error", [BrokenPipeError, lambda said: BackendError(said, hint="")])
def test_who_fails_to_listen_costs_no_call(
    follow: Callable[..., FollowingEstimator],
    store: Store,
    tiny_bundle: Path,
    image: Image,
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[str], Exception],
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda error: shown.append(str(error.exc_value)))

    def fails(message: str) -> None:
        raise error(message)

    estimator = follow(told=fails)
    for number in (2, 3):
        put(store, tiny_bundle, str(number))
        until(lambda number=number: estimator.slot == number, lambda: estimator(image, BOX))  # type: ignore[misc]
    until(lambda: len(shown) == 2)
    assert shown[1] == f"Goes on with the bundle {store.path / '3.splite'}."


def test_who_goes_back_by_hand_is_followed_at_once(
    follow: Callable[..., FollowingEstimator], store: Store, tiny_bundle: Path, image: Image
) -> None:
    estimator = follow(proving_frames=10_000)
    put(store, tiny_bundle, "2")
    until(lambda: estimator._ready is not None)
    store.roll_back()  # before a call came
    until(lambda: estimator._ready is None)
    estimator(image, BOX)
    assert estimator.slot == 1
    store.roll_back()
    until(lambda: estimator.slot == 2, lambda: estimator(image, BOX))
    store.roll_back()
    until(lambda: estimator.slot == 1, lambda: estimator(image, BOX))


def test_a_store_of_somebody_else_is_followed_and_left_as_it_is(
    follow: Callable[..., FollowingEstimator],
    faults: Faults,
    store: Store,
    tiny_bundle: Path,
    image: Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from splite_deploy.errors import OutputError

    def refuse(self: Store, state: object) -> None:
        raise OutputError("Cannot write store.json: Read-only file system.", hint="")

    faults.after = {2: 2}
    estimator = follow()
    put(store, tiny_bundle, "2")
    monkeypatch.setattr(Store, "_write", refuse)  # permissions do not stop root
    until(lambda: estimator.slot == 2, lambda: estimator(image, BOX))
    until(lambda: estimator.slot == 1, lambda: estimator(image, BOX))
    estimator(image, BOX)
    assert store.read().current.number == 2 and estimator.slot == 1


def test_a_call_of_a_closed_one_is_no_failure_of_its_bundle(
    follow: Callable[..., FollowingEstimator], store: Store, tiny_bundle: Path, image: Image
) -> None:
    put(store, tiny_bundle, "2")
    estimator = follow()
    estimator.close()
    with pytest.raises(BackendError):
        estimator(image, BOX)
    assert store.read().current.number == 2


def test_what_cannot_be_followed(tmp_path: Path, store: Store) -> None:
    with pytest.raises(UpdateError, match=r"is no store: it holds no store\.json"):
        PoseEstimator.follow(tmp_path)
    with pytest.raises(UsageError, match=r"prove itself in 0 frames") as refused:
        PoseEstimator.follow(store.path, proving_frames=0)
    assert refused.value.hint == "Pass a whole number from 1 on, and seconds above 0."
