"""Who is who from frame to frame: ids of several hands or people."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from splite_deploy.arrays import DoubleArray, is_count, is_number
from splite_deploy.errors import UsageError
from splite_deploy.runtime.backends.base import OneAtATime
from splite_deploy.runtime.pose import Pose, size_px
from splite_deploy.runtime.smoothing import OneEuro, Smoother, check_smoothing

_LEAST_SIDE_PX = 1.0
_SHRINKS = 0.95
"""Of a hand that is being lost the keypoints may fall together, within a few frames: it is still as large."""
_AT_ONCE = 1 << 16
"""So many coordinates are subtracted at once: of hundreds of people all would take memory, and more time."""


@dataclass(frozen=True)
class _Track:
    """A hand or person.

    Attributes:
        pose: As it was found when it was last seen, not smoothed.
        smoother: What smooths it; None where nothing does.
        size_px: Its size, which shrinks by no more than `_SHRINKS` in a frame.
        missed: Frames since it was seen.
    """

    pose: Pose
    smoother: Smoother | None
    size_px: float
    missed: int = 0


class Tracker:
    """Gives the poses of each frame the ids that they had in the frame before.

    Alone it follows what a network finds that finds people itself; `TopDown` has one for everybody else:

        tracker = Tracker(max_people=4)
        for frame in camera:
            for pose in tracker(network.detect(frame)):
                print(pose.id, pose.box)

    A pose has the id of the nearest one of the frame before: the mean distance of their keypoints (of the corners of
    their boxes, where a network gives no keypoints), as a share of the size that it had, has to be below ``reach``. The
    nearest pairs are taken first (greedily, as in CenterTrack, Zhou et al. 2020, arXiv 2004.01177), which never gives
    up the surest pair for the sum of all: between two frames what is the same lies much closer than what is not. An id
    is never given to another one later.

    One serves one thread: a call while one of another thread runs is a `BackendError`. It sees no frames: where their
    size changes, `reset` makes it forget who was where.

    Args:
        max_people: At most so many are followed, those that are followed already before new ones; None is any number.
        reach: How far somebody may have moved since last seen, in sizes: the longer side of what just holds the
            keypoints, or of the box that the network found. From frame to frame it shrinks by no more than a twentieth.
        remember: For so many frames a hand or person that is gone is known: one that comes back within reach has its id
            again.
        smoothing: How much keypoints are smoothed, for example ``OneEuro()``; None leaves them as they are. Boxes
            without keypoints cannot be smoothed.

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
        if max_people is not None and not is_count(max_people, 1):
            raise UsageError(
                f"At most {max_people} people would be followed.", hint="Pass a whole number from 1 on, or None."
            )
        if not (is_number(reach) and 0 < reach < math.inf and is_count(remember, 0)):
            raise UsageError(
                f"A reach of {reach} or a memory of {remember} frames cannot be used.",
                hint="The reach is a positive share of the size, such as 1.0; the memory is a whole number of frames.",
            )
        check_smoothing(smoothing)
        self.max_people: int | None = max_people
        self._reach, self._remember, self._smoothing = reach, remember, smoothing
        self._tracks: dict[int, _Track] = {}  # made anew for each frame: another thread may read who is followed
        self._last_id = 0
        self._guard = OneAtATime("tracker", engine=False)

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
            UsageError: The time is no finite number, an id is not known or given twice, or the poses are of another
                network than those before, or have no keypoints that could be smoothed.
            BackendError: Another thread uses this.
        """
        with self._guard:
            time_s = moment_s(time_s)
            self._check(poses, ids)
            found = self._named(poses, ids or [None] * len(poses))
            tracks = {
                number: _Track(track.pose, None, track.size_px, track.missed + 1)
                for number, track in self._tracks.items()
                if number not in found and track.missed < self._remember
            }
            shown = []
            for number, pose in sorted(found.items()):
                smoother, before = self._smoother(number), self._tracks.get(number)
                least_px = _LEAST_SIDE_PX if before is None else _SHRINKS * before.size_px
                tracks[number] = _Track(pose, smoother, max(size_px(pose), least_px))
                shown.append(replace(pose if smoother is None else smoother(pose, time_s), id=number))
            self._tracks = tracks
            return shown

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
        """Forgets everybody, as for another video; ids go on.

        Raises:
            BackendError: Another thread uses this.
        """
        with self._guard:
            self._tracks = {}

    def _check(self, poses: Sequence[Pose], ids: Sequence[int | None]) -> None:
        counts = {len(pose.keypoints) for pose in poses} | {len(one.pose.keypoints) for one in self._tracks.values()}
        if len(counts) > 1:
            raise UsageError(
                f"Poses of {' and '.join(map(str, sorted(counts)))} keypoints are of several networks.",
                hint="Make a Tracker for each network, or call reset() between them.",
            )
        if self._smoothing is not None and counts == {0}:
            raise UsageError("Boxes without keypoints cannot be smoothed.", hint="Make the Tracker without smoothing.")
        known = [number for number in ids if number is not None]
        if (ids and len(ids) != len(poses)) or len({*known}) < len(known) or not {*known} <= self._tracks.keys():
            raise UsageError(
                f"The ids {[*ids]} are not those of {len(poses)} poses: known are {[*self._tracks]}.",
                hint="Give each pose an id of `followed` that no other one has, or None.",
            )

    def _named(self, poses: Sequence[Pose], ids: Sequence[int | None]) -> dict[int, Pose]:
        """The poses by id, not more than may be followed."""
        found = {number: pose for pose, number in zip(poses, ids, strict=True) if number is not None}
        fresh = [pose for pose, number in zip(poses, ids, strict=True) if number is None]
        open_ids = [number for number in self._tracks if number not in found]
        tracks = [self._tracks[number] for number in open_ids]
        apart = distances([one.pose for one in tracks], fresh, [one.size_px for one in tracks])
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

    def _smoother(self, number: int) -> Smoother | None:
        """That which has smoothed somebody until now, or a new one."""
        track = self._tracks.get(number)
        if self._smoothing is None or (track is not None and track.smoother is not None):
            return None if track is None else track.smoother
        return Smoother(self._smoothing)


def moment_s(time_s: float | None) -> float:
    """The time of a frame in seconds, of any moment; None is now.

    Raises:
        UsageError: It is no finite number.
    """
    if time_s is None:
        return time.monotonic()
    if not (is_number(time_s) and math.isfinite(time_s)):
        raise UsageError(f"The time of a frame is {time_s}.", hint="Pass seconds, or None for now.")
    return float(time_s)


def nearest(apart: DoubleArray, reach: float) -> Iterator[tuple[int, int]]:
    """Pairs of a row and a column, each once, the nearest first.

    Args:
        apart: (P, Q) distances.
        reach: Pairs further apart are none.
    """
    rows, columns = np.nonzero(apart <= reach)
    order = np.argsort(apart[rows, columns], kind="stable")
    left_rows, left_columns = set(rows.tolist()), set(columns.tolist())
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row in left_rows and column in left_columns:
            left_rows.remove(row)
            left_columns.remove(column)
            yield row, column


def distances(first: Sequence[Pose], second: Sequence[Pose], sizes_px: Sequence[float] | None = None) -> DoubleArray:
    """(P, Q) mean distances of the keypoints of poses of one network, in sizes of the first ones; see `Tracker`.

    Args:
        first: P poses.
        second: Q poses.
        sizes_px: Sizes of the first ones, where it is not what they have now.
    """
    if not first or not second:
        return np.zeros((len(first), len(second)))
    one, other = (np.stack([_points(pose) for pose in poses]) for poses in (first, second))
    sizes = [max(size_px(pose), _LEAST_SIDE_PX) for pose in first] if sizes_px is None else sizes_px
    rows = max(1, _AT_ONCE // max(other.size, 1))
    blocks = (one[start : start + rows, None] - other for start in range(0, len(one), rows))
    apart_px = np.concatenate([np.linalg.norm(block, axis=-1).mean(axis=-1) for block in blocks])
    shares: DoubleArray = apart_px / np.array(sizes)[:, None]
    return shares


def _points(pose: Pose) -> DoubleArray:
    """The keypoints, or the corners of the box where there are none."""
    points = pose.keypoints if len(pose.keypoints) else pose.box.reshape(2, 2)
    return points.astype(np.float64)
