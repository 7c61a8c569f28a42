"""What an estimator is that has each call answered by one of several others."""

from __future__ import annotations

import sys
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from numpy.typing import ArrayLike

from splite_deploy.runtime.closing import Closing
from splite_deploy.runtime.estimator import PoseEstimator, StageTimes
from splite_deploy.runtime.pose import Pose
from splite_deploy.runtime.preprocess import AnyImage
from splite_deploy.spec import Color, ModelSpec

_T = TypeVar("_T")


def shielded(told: Callable[[], object]) -> None:
    """Calls who wants to be told of a change. An exception is shown, and costs no frame."""
    try:
        told()
    except Exception:
        show_error()


def show_error() -> None:
    """Shows the exception that is being handled as one that ends a thread."""
    threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))


class DelegatingEstimator(Closing):
    """Takes the place of a `PoseEstimator` wherever an `Estimator` is taken; who answers may change between calls."""

    @property
    @abstractmethod
    def _current(self) -> PoseEstimator:
        """Who answers now."""

    @abstractmethod
    def _answer(self, run: Callable[[PoseEstimator], _T]) -> _T:
        """Has one call answered.

        Args:
            run: The call, of any of the estimators; it may be made several times.
        """

    @abstractmethod
    def take_times(self) -> StageTimes:
        """See `PoseEstimator.take_times`."""

    def __call__(
        self,
        image: AnyImage,
        box: ArrayLike | None = None,
        *,
        intrinsics: ArrayLike | None = None,
        bone_length_mm: float | None = None,
    ) -> Pose:
        """See `PoseEstimator.__call__`."""
        options: Any = {"intrinsics": intrinsics, "bone_length_mm": bone_length_mm}
        return self._answer(lambda estimator: estimator(image, box, **options))

    def at_any_angle(self, image: AnyImage, box: ArrayLike | None = None, **options: Any) -> Pose:
        """See `PoseEstimator.at_any_angle`."""
        return self._answer(lambda estimator: estimator.at_any_angle(image, box, **options))

    def batch(
        self,
        image: AnyImage,
        boxes: Iterable[ArrayLike | None],
        *,
        intrinsics: ArrayLike | None = None,
        bone_length_mm: float | None = None,
    ) -> list[Pose]:
        """See `PoseEstimator.batch`."""
        options: Any = {"intrinsics": intrinsics, "bone_length_mm": bone_length_mm}
        several = list(boxes) if isinstance(boxes, Iterable) else boxes  # a call may be made twice
        return self._answer(lambda estimator: estimator.batch(image, several, **options))

    def detect(self, image: AnyImage, box: ArrayLike | None = None) -> list[Pose]:
        """See `PoseEstimator.detect`."""
        return self._answer(lambda estimator: estimator.detect(image, box))

    def check_options(self, intrinsics: ArrayLike | None = None, bone_length_mm: float | None = None) -> None:
        """See `PoseEstimator.check_options`."""
        self._current.check_options(intrinsics, bone_length_mm)

    @property
    def spec(self) -> ModelSpec:
        """The model of who answers now."""
        return self._current.spec

    @property
    def color(self) -> Color:
        """Channel order of the images."""
        return self._current.color

    @property
    def finds_people(self) -> bool:
        """See `PoseEstimator.finds_people`."""
        return self._current.finds_people

    @property
    def takes_several(self) -> bool:
        """Whether one inference of who answers now takes several crops."""
        return self._current.takes_several
