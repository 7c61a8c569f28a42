"""An estimator that keeps a latency budget by changing between variants of a network."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from os import PathLike, fspath
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from splite_deploy.arrays import is_count, is_number
from splite_deploy.bundle import Bundle
from splite_deploy.errors import BackendError, SpliteError, UsageError
from splite_deploy.runtime.backends.base import OneAtATime
from splite_deploy.runtime.delegating import DelegatingEstimator, shielded
from splite_deploy.runtime.estimator import PoseEstimator, StageTimes
from splite_deploy.runtime.governor import REST_S, WINDOW, Governor, Switch
from splite_deploy.runtime.selection import pick_artifacts
from splite_deploy.runtime.session import OptionSet, open_session
from splite_deploy.spec import PRECISIONS, Color, ModelSpec, Precision

_WARM_UP = 2  # inferences before a variant serves: the first allocates and chooses kernels
_KEPT = 1000  # switches
_STAYS_S = 5.0  # what was opened to be ready, unless frames are late
_T = TypeVar("_T")


@dataclass(frozen=True)
class Variant:
    """One of the networks, or one artifact of a bundle, among which `AdaptiveEstimator` chooses.

    Attributes:
        path: The bundle's folder.
        backend: See `PoseEstimator.open`.
        precision: See `PoseEstimator.open`.
    """

    path: str | PathLike[str]
    backend: str = "auto"
    precision: Precision | None = None

    @property
    def label(self) -> str:
        """For example ``hand.splite ort int8``."""
        backend = "" if self.backend == "auto" else self.backend
        return " ".join(filter(None, (Path(self.path).name, backend, self.precision)))


def variants_of(path: str | PathLike[str]) -> list[Variant]:
    """What a bundle holds that runs here, fp32 first, then fp16, then int8.

    Args:
        path: The bundle's folder.

    Raises:
        BundleError: The bundle is missing or damaged.
        MissingDependencyError: Nothing of it runs here.
    """
    return _of_bundle(path, Bundle.open(path))


def _of_bundle(path: str | PathLike[str], bundle: Bundle) -> list[Variant]:
    """The same of a bundle that is open."""
    left_out: list[SpliteError] = []
    chosen = pick_artifacts(bundle, absent=lambda _artifact, err: left_out.append(err))
    if not chosen:
        raise left_out[0]
    ordered = sorted(chosen, key=lambda one: PRECISIONS.index(one[1].precision))
    return [Variant(path, backend.name, artifact.precision) for backend, artifact in ordered]


class AdaptiveEstimator(DelegatingEstimator):
    """Finds keypoints as a `PoseEstimator` does, by the most accurate variant that keeps a latency budget.

        with AdaptiveEstimator(["large.splite", "small.splite"], budget_ms=15) as estimator:
            for frame in camera:
                pose = estimator(frame, box)

    The 95th percentile of the last frames is kept within the budget: where other work or heat makes frames late, a
    faster variant goes on, and a more accurate one again where that is predicted to keep the budget; `Governor` says
    when. Variants are opened and closed in a thread of their own, so that a frame waits for none, and no frame is lost:
    one that a variant fails on is run again by another. Now and then a frame is run by a variant that is ready, to
    learn what it takes.

    It takes the place of an estimator in `TopDown` and `BoxTracker`. One serves one thread.

    Attributes:
        switches: The last thousand changes, the oldest first; their numbers are positions in ``variants``.
        failed: Why variants are out of the choice, by their position.

    Args:
        variants: From the most accurate to the fastest; a path stands for all artifacts of that bundle, see
            `variants_of`. All find the same keypoints; sizes of their inputs may differ.
        budget_ms: What a frame may take, from its pixels to keypoints.
        window: Frames whose 95th percentile is looked at.
        rest_s: The least time between two changes, seconds.
        max_loaded: So many variants at most are in memory at any time, the one that runs and those that may come next.
        threads: See `PoseEstimator.open`.
        color: See `PoseEstimator.open`.
        options: See `PoseEstimator.open`.
        on_switch: Is called with every change, in the thread of the frame. An exception of it costs no frame: it is
            shown by `threading.excepthook`.

    Raises:
        UsageError: A value is out of its range, or the variants find different keypoints.
        BundleError: A bundle is missing or damaged.
        SpliteError: The first variant cannot be opened.
    """

    def __init__(
        self,
        variants: Iterable[Variant | str | PathLike[str]] | Variant | str | PathLike[str],
        budget_ms: float,
        *,
        window: int = WINDOW,
        rest_s: float = REST_S,
        max_loaded: int = 2,
        threads: int | None = None,
        color: Color = "bgr",
        options: OptionSet = (),
        on_switch: Callable[[Switch], object] = lambda switch: None,
    ) -> None:
        _check_limits(budget_ms, window, rest_s, max_loaded)
        self.variants, self._bundles = _expanded(variants)
        self.switches: deque[Switch] = deque(maxlen=_KEPT)
        self.failed: dict[int, Exception] = {}
        _check_same_task({fspath(path): bundle.model for path, bundle in self._bundles.items()})
        self._open: Callable[[int], PoseEstimator] = lambda index: _opened(
            self.variants[index], self._bundles[self.variants[index].path], threads, color, options
        )
        self._most, self._on_switch = max_loaded, on_switch
        self._governor = Governor(len(self.variants), float(budget_ms), int(window), float(rest_s))
        self._guard = OneAtATime("estimator")
        self._loaded: dict[int, PoseEstimator] = {0: self._open(0)}
        self._active = self._loaded[0]
        self._opened_s = float("-inf")
        self._times_before = StageTimes(0, 0, 0)
        self._loading: tuple[int, Future[PoseEstimator]] | None = None
        self._closing: list[Future[None]] = []
        self._worker = ThreadPoolExecutor(1, "adaptive")

    @property
    def _current(self) -> PoseEstimator:
        return self._active

    def take_times(self) -> StageTimes:
        """See `PoseEstimator.take_times`; of all variants together."""
        each, self._times_before = [self._times_before], StageTimes(0, 0, 0)
        each += [estimator.take_times() for estimator in self._loaded.values()]
        return _sum(each)

    @property
    def active(self) -> Variant:
        """The variant that frames are run by."""
        return self.variants[self._governor.active]

    @property
    def loaded(self) -> list[Variant]:
        """The variants in memory, with one that is being opened."""
        opening = [] if self._loading is None else [self._loading[0]]
        return [self.variants[index] for index in sorted({*self._loaded, *opening})]

    def close(self) -> None:
        """Frees all variants, and waits for one that is being opened.

        Raises:
            BackendError: Another thread uses it.
        """
        if not self._guard.forked:  # else the thread is the parent's
            with self._guard:
                if self._loading is not None:
                    index, future = self._loading
                    self._loading = None
                    if not future.cancel() and future.exception() is None:
                        self._loaded[index] = future.result()
                self._worker.shutdown()
        for estimator in self._loaded.values():
            estimator.close()
        self._loaded.clear()

    def _answer(self, run: Callable[[PoseEstimator], _T]) -> _T:
        """Runs a frame by the variant whose turn it is, and by another where that fails."""
        with self._guard:
            if not self._loaded:
                raise BackendError("The estimator is closed.", hint="Open it again, or close it after its last frame.")
            self._tidy()
            while True:
                index, switch = self._governor.choose(time.monotonic(), self._loaded)
                if switch is not None:
                    self._active = self._loaded[index]
                    self.switches.append(switch)
                    shielded(lambda switch=switch: self._on_switch(switch))  # type: ignore[misc]
                began_s = time.perf_counter()
                try:
                    found = run(self._loaded[index])
                except BackendError as err:
                    if len(self._loaded) == 1:
                        raise
                    self.failed[index] = err
                    self._let_go(index)
                    continue
                self._governor.note(index, 1000 * (time.perf_counter() - began_s))
                return found

    def _tidy(self) -> None:
        """Takes over what has been opened, lets go of what is not wanted, and has the next one opened."""
        self._closing = [one for one in self._closing if not one.done()]
        if self._loading is not None and self._loading[1].done():
            index, future = self._loading
            self._loading = None
            err = future.exception()
            self._opened_s = time.monotonic()
            if err is None:
                self._loaded[index] = future.result()
            elif isinstance(err, Exception):  # of whatever kind, such as MemoryError: frames go on
                self.failed[index] = err
            else:
                raise err
        if self._loading is not None or self._closing:
            return
        wanted = [one for one in self._governor.wanted(len(self.variants)) if one not in self.failed][: self._most]
        missing = [one for one in wanted if one not in self._loaded]
        if not missing:
            return
        spare = [one for one in self._loaded if one not in wanted]
        if len(self._loaded) < self._most:
            self._loading = missing[0], self._worker.submit(self._open, missing[0])
        elif self._governor.is_late or time.monotonic() - self._opened_s > _STAYS_S:
            self._let_go(spare[-1])

    def _let_go(self, index: int) -> None:
        """Has a variant closed."""
        estimator = self._loaded.pop(index)
        self._times_before = _sum([self._times_before, estimator.take_times()])
        self._closing.append(self._worker.submit(estimator.close))


def _sum(times: Iterable[StageTimes]) -> StageTimes:
    several = list(times)
    return StageTimes(*(sum(getattr(one, part.name) for one in several) for part in fields(StageTimes)))


def _check_limits(budget_ms: float, window: int, rest_s: float, max_loaded: int) -> None:
    """Raises `UsageError` for a value that is out of its range."""
    for what, value in (("budget_ms", budget_ms), ("rest_s", rest_s)):
        if not (is_number(value) and 0 < value < float("inf")):
            raise UsageError(f"{what} is {value!r}.", hint="Pass a number above 0.")
    if not is_count(window, 20):
        raise UsageError(f"The window has {window!r} frames.", hint="Pass a whole number of 20 or more; 60 is usual.")
    if not is_count(max_loaded, 2):
        raise UsageError(
            f"max_loaded is {max_loaded!r}.",
            hint="Pass 2 or more: the next variant is opened while the present one runs.",
        )


def _expanded(
    variants: Iterable[Variant | str | PathLike[str]] | Variant | str | PathLike[str],
) -> tuple[list[Variant], dict[str | PathLike[str], Bundle]]:
    """Every artifact of a bundle in the place of its path; and the bundles by their paths, each opened once."""
    made: list[Variant] = []
    bundles: dict[str | PathLike[str], Bundle] = {}
    several = isinstance(variants, Iterable) and not isinstance(variants, (Variant, str, PathLike))
    for one in cast("Iterable[Variant | str | PathLike[str]]", variants if several else [variants]):
        if not isinstance(one, (Variant, str, PathLike)):
            raise UsageError(
                f"A variant is of type {type(one).__name__}, and neither a Variant nor the path of a bundle.",
                hint="Name bundles, the most accurate first; variants_of(PATH) lists those of one.",
            )
        path = one.path if isinstance(one, Variant) else one
        if path not in bundles:
            bundles[path] = Bundle.open(path)
        made += [one] if isinstance(one, Variant) else _of_bundle(path, bundles[path])
    if not made:
        raise UsageError("There is no variant to choose from.", hint="Name bundles, the most accurate first.")
    return made, bundles


def _check_same_task(models: Mapping[str, ModelSpec]) -> None:
    """Raises `UsageError` where one variant cannot take another's place; see `ModelSpec.task`."""
    (first, model), *others = models.items()
    for other, its in others:
        if its.task != model.task:
            raise UsageError(
                f"{first} and {other} find different things, or their depths have different units.",
                hint="Name variants of one network: the same keypoints in the same order, the same heads.",
            )


def _opened(variant: Variant, bundle: Bundle, threads: int | None, color: Color, options: OptionSet) -> PoseEstimator:
    """An estimator that has run before its first frame."""
    session = open_session(bundle, variant.backend, variant.precision, threads=threads, options=options)
    estimator = PoseEstimator(bundle.model, session, color)
    shape = (bundle.model.input.height, bundle.model.input.width, 3)
    try:
        for _ in range(_WARM_UP):
            estimator(np.zeros(shape, np.uint8))
    except BaseException:
        estimator.close()
        raise
    estimator.take_times()  # which are those of frames
    return estimator
