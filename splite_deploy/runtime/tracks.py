"""Who is who from frame to frame: ids of several hands or people."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from splite_deploy.arrays import DoubleArray
from splite_deploy.errors import UsageError
from splite_deploy.runtime.pose import Pose, size_px
from splite_deploy.runtime.smoothing import OneEuro, Smoother

_LEAST_SIDE_PX = 1.0


@dataclass
class _Track:
    """A hand or person.

    Attributes:
        pose: As it was found when it was last seen, not smoothed.
        smoother: What smooths it; None where nothing does.
        missed: Frames since it was seen.
    """

    pose: Pose
    smoother: Smoother | None
    missed: int = 0


class Tracker:
    """Gives the poses of each frame the ids that they had in the frame before.

    Alone it follows what a network finds that finds people itself; `TopDown` has one for everybody else:

        tracker = Tracker(max_people=4)
        for frame in camera:
            for pose in tracker(network.detect(frame)):
                print(pose.id, pose.box)

    A pose has the id of the nearest one of the frame before: the mean distance of their keypoints (of the corners of
    their boxes, where a network gives no keypoints), as a share of the size, has to be below ``reach``. The nearest
    pairs are taken first (greedily, as in CenterTrack, Zhou et al. 2020, arXiv 2004.01177), which never gives up the
    surest pair for the sum of all: between two frames what is the same lies much closer than what is not. An id is
    never given to another one later.

    One serves one thread.

    Args:
        max_people: At most so many are followed, those that are followed already before new ones; None is any number.
        reach: How far somebody may have moved since last seen, in sizes: the longer side of what just holds the
            keypoints, or of the box that the network found.
        remember: For so many frames a hand or person that is gone is known: one that comes back within reach has its id
            again.
        smoothing: How much keypoints are smoothed, for example ``OneEuro()``; None leaves them as they are.

    Raises:
        UsageError: A value is out of its range.
    """

    def __init__(
        self,
        max_people: int | None = None,
        *,
        reach: float = 1.0,
        remember: int = 30,
        smoothing: OneEuro | None = None,
    ) -> None:
        if max_people is not None and max_people < 1:
            raise UsageError(f"At most {max_people} people would be followed.", hint="Follow one at least.")
        if not (0 < reach < math.inf and 0 <= remember < math.inf):
            raise UsageError(
                f"A reach of {reach} or a memory of {remember} frames cannot be used.",
                hint="The reach is a positive share of the size, such as 1.0; the memory is a number of frames.",
            )
        self.max_people = max_people
        self._reach, self._remember, self._smoothing = reach, remember, smoothing
        self._tracks: dict[int, _Track] = {}
        self._last_id = 0

    def __call__(
        self, poses: Sequence[Pose], time_s: float | None = None, *, ids: Sequence[int | None] = ()
    ) -> list[Pose]:
        """The poses of the next frame with their ids, by rising id, smoothed.

        Args:
            poses: Of the frame, the surest first; of more than ``max_people`` new ones the last are left out.
            time_s: When the frame was taken, in seconds from any moment; None is now. Smoothing needs it alone.
            ids: Of each pose the id that it is known to have, of those in `followed`, or None; empty where none is
                known.

        Raises:
            UsageError: The time is no finite number.
        """
        if time_s is None:
            time_s = time.monotonic()
        if not math.isfinite(time_s):
            raise UsageError(f"The time of a frame is {time_s}.", hint="Pass seconds, or None for now.")
        found = self._named(poses, ids or [None] * len(poses))
        for number in [number for number in self._tracks if number not in found]:
            track = self._tracks[number]
            track.missed += 1
            track.smoother = None
            if track.missed > self._remember:
                del self._tracks[number]
        return [self._seen(number, found[number], time_s) for number in sorted(found)]

    @property
    def followed(self) -> Mapping[int, Pose]:
        """The poses of the last frame by id, as they were found."""
        return MappingProxyType({number: one.pose for number, one in self._tracks.items() if one.missed == 0})

    @property
    def full(self) -> bool:
        """Whether as many are followed as may be."""
        return self.max_people is not None and len(self.followed) >= self.max_people

    @property
    def misses(self) -> bool:
        """Whether one is gone that is still known."""
        return any(track.missed for track in self._tracks.values())

    def reset(self) -> None:
        """Forgets everybody, as for another video; ids go on."""
        self._tracks = {}

    def _named(self, poses: Sequence[Pose], ids: Sequence[int | None]) -> dict[int, Pose]:
        """The poses by id, not more than may be followed."""
        found = {number: pose for pose, number in zip(poses, ids, strict=True) if number is not None}
        fresh = [pose for pose, number in zip(poses, ids, strict=True) if number is None]
        open_ids = [number for number in self._tracks if number not in found]
        apart = distances([self._tracks[number].pose for number in open_ids], fresh)
        again = {new: open_ids[old] for old, new in nearest(apart, self._reach)}
        found |= {number: fresh[new] for new, number in again.items()}
        for index, pose in enumerate(fresh):
            if index not in again and (self.max_people is None or len(found) < self.max_people):
                self._last_id += 1
                found[self._last_id] = pose
        if self.max_people is not None and len(found) > self.max_people:  # some came back when others had their place
            first = sorted(found, key=lambda number: self._missed(number))
            found = {number: found[number] for number in first[: self.max_people]}
        return found

    def _missed(self, number: int) -> float:
        track = self._tracks.get(number)
        return math.inf if track is None else track.missed

    def _seen(self, number: int, pose: Pose, time_s: float) -> Pose:
        track = self._tracks.setdefault(number, _Track(pose, None))
        track.pose, track.missed = pose, 0
        if self._smoothing is not None:
            track.smoother = track.smoother or Smoother(self._smoothing)
            pose = track.smoother(pose, time_s)
        return replace(pose, id=number)


def nearest(apart: DoubleArray, reach: float) -> Iterator[tuple[int, int]]:
    """Pairs of a row and a column, each once, the nearest first.

    Args:
        apart: (P, Q) distances.
        reach: Pairs further apart are none.
    """
    left_rows, left_columns = set(range(apart.shape[0])), set(range(apart.shape[1]))
    for flat in np.argsort(apart, axis=None, kind="stable"):
        row, column = divmod(int(flat), apart.shape[1])
        if not apart[row, column] <= reach:
            return
        if row in left_rows and column in left_columns:
            left_rows.remove(row)
            left_columns.remove(column)
            yield row, column


def distances(first: Sequence[Pose], second: Sequence[Pose]) -> DoubleArray:
    """(P, Q) mean distances of the keypoints of poses of one network, in sizes of the first ones; see `Tracker`."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    one, other = (np.stack([_points(pose) for pose in poses]) for poses in (first, second))
    sizes = [max(size_px(pose), _LEAST_SIDE_PX) for pose in first]
    apart_px = np.linalg.norm(one[:, None] - other[None], axis=-1).mean(axis=-1)
    shares: DoubleArray = apart_px / np.array(sizes)[:, None]
    return shares


def _points(pose: Pose) -> DoubleArray:
    """The keypoints, or the corners of the box where there are none."""
    points = pose.keypoints if len(pose.keypoints) else pose.box.reshape(2, 2)
    return points.astype(np.float64)
