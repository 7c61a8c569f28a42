"""Times a whole road: from a picture to the keypoints of everybody in it, detector and estimator together."""

from __future__ import annotations

from collections.abc import Sequence

from splite_deploy.bench.loop import Clock, Measurement, Options, Progress, measure
from splite_deploy.errors import UsageError
from splite_deploy.runtime.pose import Pose
from splite_deploy.runtime.preprocess import Image
from splite_deploy.runtime.topdown import TopDown

WHOLE_PICTURE = "whole_picture"
"""The stage: all of `TopDown.detect`. Reading and decoding of files is no part of it."""


class WholePictures:
    """A detector with its estimator, on whole pictures.

    Args:
        network: Open.
        pictures: (H, W, 3) uint8, used in turn.

    Raises:
        UsageError: There are no pictures.
    """

    stages: tuple[str, ...] = (WHOLE_PICTURE,)
    headline = WHOLE_PICTURE

    def __init__(self, network: TopDown, pictures: Sequence[Image]) -> None:
        if not pictures:
            raise UsageError("There are no pictures to measure with.", hint="Give at least one.")
        self._network, self._pictures = network, pictures

    def run(self, index: int) -> list[Pose]:
        """One picture."""
        return self._network.detect(self._pictures[index % len(self._pictures)])

    def time_block(
        self, frames: range, clock: Clock, durations_ns: dict[str, list[float]], *, model_first: bool
    ) -> None:
        """Times each of these pictures."""
        for index in frames:
            began = clock()
            self.run(index)
            durations_ns[WHOLE_PICTURE].append(clock() - began)


def time_pictures(
    network: TopDown, pictures: Sequence[Image], options: Options, progress: Progress | None = None
) -> Measurement:
    """Times `TopDown.detect` until the figures are steady, see `measure`.

    Args:
        network: Open.
        pictures: (H, W, 3) uint8, used in turn.
        options: How to measure.
        progress: Called with the progress.

    Raises:
        UsageError: There are no pictures, or one cannot be used.
        BackendError: A backend failed.
    """
    return measure(WholePictures(network, pictures), options, progress=progress)
