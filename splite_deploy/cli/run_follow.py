"""The part of ``run`` that says who is followed: by a detector, by what a network finds itself, or from one box."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from numpy.typing import ArrayLike

from splite_deploy.cli.app import BundlePath, CommandFunction
from splite_deploy.cli.network_file import is_network_file
from splite_deploy.errors import OptionError, UsageError
from splite_deploy.spec import Precision

if TYPE_CHECKING:
    from splite_deploy.runtime import Pose, PoseEstimator
    from splite_deploy.runtime.backends.base import BackendOptions
    from splite_deploy.runtime.preprocess import Image
    from splite_deploy.runtime.topdown import TopDown
    from splite_deploy.runtime.tracks import Tracker

Follow = Callable[["Image", float], tuple[list["Pose"], bool]]
"""Of a frame and its time in seconds: the poses, and whether they are hands or people."""
MOST = 1000


@dataclass(frozen=True)
class Following:
    """What the options say.

    Attributes:
        detector: A bundle, or a file of a network; None where there is none.
        max_hands: How many are followed at most; None is any number.
        detect_every: In frames; None is the default of `TopDown`.
        smooth: Whether keypoints are smoothed.
    """

    detector: Path | None
    max_hands: int | None
    detect_every: int | None
    smooth: bool

    def check(self, *, video: bool, boxes: Collection[object]) -> None:
        """Refuses what contradicts the rest of the command, whatever the files hold.

        Args:
            video: Whether frames follow each other; else they are pictures.
            boxes: Those of ``--box``.

        Raises:
            OptionError: Options do not go together.
        """
        if self.detector is not None and boxes:
            raise OptionError("--detector finds boxes, and --box was given.", hint="Leave out --box.")
        if self.detect_every is not None and self.detector is None:
            raise OptionError(
                "--detect-every is for a detector, and none was given.",
                hint="Name one with --detector, or leave it out.",
            )
        for name, given in (("--detect-every", self.detect_every is not None), ("--smooth", self.smooth)):
            if given and not video:
                raise OptionError(f"{name} is for a video or a camera, not for pictures.", hint=f"Leave out {name}.")

    def network(
        self,
        estimator: PoseEstimator,
        backend: str | None,
        precision: Precision | None,
        threads: int | None,
        tuning: tuple[BackendOptions, ...],
    ) -> PoseEstimator | TopDown:
        """What finds hands or people: the estimator alone, or with the detector. Where this fails all is closed.

        Args:
            estimator: Opened.
            backend: Of the detector's bundle. A file alone is run by the first backend that is installed and reads it.
            precision: Of the detector's bundle.
            threads: See `PoseEstimator.open`.
            tuning: See `PoseEstimator.open`.

        Raises:
            SpliteError: The detector cannot be opened, or cannot be one; see `PoseEstimator.open` and `TopDown`.
        """
        from splite_deploy.runtime import PoseEstimator

        with ExitStack() as stack:
            stack.callback(estimator.close)
            network: PoseEstimator | TopDown = estimator
            if self.detector is not None:
                from splite_deploy.runtime.network_file import NetworkFile
                from splite_deploy.runtime.topdown import DETECT_EVERY, TopDown

                if is_network_file(self.detector):
                    file = NetworkFile.read(self.detector, option=None)  # --model is the estimator's
                    detector = PoseEstimator.of_file(file, threads=threads, options=tuning)
                else:
                    detector = PoseEstimator.open(self.detector, backend or "auto", precision, threads, options=tuning)
                stack.callback(detector.close)
                every = self.detect_every or DETECT_EVERY
                network = TopDown(detector, estimator, self.tracker(), detect_every=every)
            elif self.max_hands is not None and not estimator.finds_people:
                name = estimator.spec.name
                raise UsageError(
                    f"The model '{name}' finds one hand or person in each box, and --max-hands was given.",
                    hint="Name a detector with --detector, which finds the boxes, or leave out --max-hands.",
                )
            if self.smooth and estimator.spec.keypoint_count == 0:
                raise UsageError(
                    f"The model '{estimator.spec.name}' finds boxes alone, and --smooth was given.",
                    hint="Leave out --smooth: it calms keypoints.",
                )
            stack.pop_all()
            return network

    def tracker(self) -> Tracker:
        """A new `Tracker`."""
        from splite_deploy.runtime.smoothing import OneEuro
        from splite_deploy.runtime.tracks import Tracker

        return Tracker(self.max_hands, smoothing=OneEuro() if self.smooth else None)


def follow_options(command: CommandFunction) -> CommandFunction:
    """``--detector``, ``--max-hands``, ``--detect-every`` and ``--smooth``, passed on by these names."""
    for option in (
        click.option(
            "--smooth",
            is_flag=True,
            help="Calm the keypoints of a video, by a one-euro filter; they lag a little then.",
        ),
        click.option(
            "--detect-every",
            type=click.IntRange(1, 1_000_000),
            help="Have the detector look for new hands in every such frame of a video; 5 without it. It looks in every "
            "frame while nobody is followed, and after a loss.",
        ),
        click.option(
            "--max-hands",
            type=click.IntRange(1, MOST),
            help="Find and follow at most so many hands or people; all of them without it.",
        ),
        click.option(
            "--detector",
            metavar="BUNDLE|FILE",
            type=BundlePath,
            help="Find the hands or people by this network, and their keypoints by BUNDLE, without a box: any bundle "
            "of a network that finds boxes, or a file beside its model.toml. -b and -p hold for its bundle, too.",
        ),
    ):
        command = option(command)
    return command


def follower(
    network: PoseEstimator | TopDown, start: ArrayLike | None, options: dict[str, Any], following: Following
) -> Follow:
    """What follows hands or people through a video, each with an id.

    Args:
        network: Of `Following.network`.
        start: The box in which to look first, or, where a network finds people itself, always; None is all.
        options: Of `PoseEstimator.__call__`, without ``box``.
        following: How.
    """
    from splite_deploy.runtime.topdown import TopDown
    from splite_deploy.runtime.tracker import BoxTracker

    if isinstance(network, TopDown):

        def by_detector(frame: Image, time_s: float) -> tuple[list[Pose], bool]:
            poses = network(frame, time_s, **options)
            return poses, bool(poses)

        return by_detector
    tracker, size = following.tracker(), (0, 0)

    def named(poses: list[Pose], frame: Image, time_s: float) -> list[Pose]:
        nonlocal size
        if frame.shape[:2] != size:  # nobody is where somebody was
            tracker.reset()
            size = frame.shape[0], frame.shape[1]
        return tracker(poses, time_s)

    def by_itself(frame: Image, time_s: float) -> tuple[list[Pose], bool]:
        poses = named(network.detect(frame, start), frame, time_s)
        return poses, bool(poses)

    if network.finds_people:
        return by_itself
    track = BoxTracker(network, start)

    def from_box(frame: Image, time_s: float) -> tuple[list[Pose], bool]:
        pose = track(frame, **options)
        poses = named([pose] if track.found else [], frame, time_s)
        return poses or [pose], track.found

    return from_box
