"""What a loop over frames found last, and how long it took: the loop writes it, the server's thread reads it."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from splite_deploy.decoders import HEADS
from splite_deploy.runtime.estimator import Estimator, StageTimes
from splite_deploy.runtime.io.draw import overlay
from splite_deploy.runtime.pose import Pose
from splite_deploy.runtime.preprocess import Image
from splite_deploy.spec import SkeletonSpec
from splite_deploy.text import shown

LATEST = 300
"""So many frames tell the times: the last ten seconds of a camera."""
RATE_OVER_S = 2.0
"""Frames per second are those of the last seconds."""
MOST_SIDE_PX = 1280
"""Larger pictures are made smaller: the page shows them, and nobody measures in it."""
JPEG_QUALITY = 80


@dataclass(frozen=True)
class Found:
    """A frame, and what was found in it.

    Attributes:
        index: Number of the frame, from 0.
        frame: (H, W, 3) uint8 BGR, as the camera gave it.
        poses: In pixels of the frame.
        found: Whether they show a hand or person; else it was lost, and the poses tell the score of what is there.
        ready_s: When they were known, by `time.perf_counter`.
    """

    index: int
    frame: Image
    poses: Sequence[Pose]
    found: bool
    ready_s: float


@dataclass(frozen=True)
class _Times:
    arrived_s: float
    ready_s: float
    between_s: float | None
    stages: tuple[StageTimes, ...]


class Board:
    """The last frame of a loop with its poses, and the times of the last frames.

    The loop hands over what it has anyway, by reference, and waits for nobody: no picture is drawn, encoded or kept
    in a queue until somebody asks for one.

    Attributes:
        run: Tells this run from others at the same address.
        ended: Why there will be no further frame; None while there may be.

    Args:
        model: The model's name.
        source: Name of the camera or video.
        skeleton: Of the poses.
        estimators: Whose times are told, each by the name that is put before its stages; empty for the only one.
    """

    def __init__(self, model: str, source: str, skeleton: SkeletonSpec, estimators: Mapping[str, Estimator]) -> None:
        self.run = secrets.token_hex(8)
        self.ended: str | None = None
        self._about = {"run": self.run, "model": shown(model), "source": shown(source)}
        self._skeleton, self._estimators = skeleton, dict(estimators)
        self._lock = threading.Lock()
        self._last: Found | None = None
        self._times: deque[_Times] = deque(maxlen=LATEST)

    def show(self, frame: Image, poses: Sequence[Pose], found: bool, arrived_s: float) -> None:
        """Takes a frame when its poses are known; it must not be changed afterwards.

        Args:
            frame: (H, W, 3) uint8 BGR.
            poses: What was found.
            found: See `Found`.
            arrived_s: When the frame came from the camera, by `time.perf_counter`.
        """
        ready_s, last = time.perf_counter(), self._last
        stages = tuple(one.take_times() for one in self._estimators.values())
        between_s = None if last is None else arrived_s - last.ready_s
        with self._lock:
            self._last = Found(0 if last is None else last.index + 1, frame, poses, found, ready_s)
            self._times.append(_Times(arrived_s, ready_s, between_s, stages))

    def end(self, why: str) -> None:
        """No further frame comes; the first reason is kept."""
        if self.ended is None:
            self.ended = shown(why)

    @property
    def newest(self) -> int:
        """Number of the last frame; -1 where there is none yet."""
        return -1 if self._last is None else self._last.index

    def last(self) -> Found | None:
        """The last frame."""
        return self._last

    def picture(self, found: Found) -> bytes:
        """A frame as JPEG, with what was found drawn into it."""
        drawn = overlay(found.frame, found.poses if found.found else [], self._skeleton)
        longer_px = max(drawn.shape[:2])
        if longer_px > MOST_SIDE_PX:
            scale = MOST_SIDE_PX / longer_px
            drawn = cv2.resize(drawn, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        return bytes(cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1])

    def state(self, found: Found | None) -> dict[str, Any]:
        """What is known of a frame, without its times, as plain data."""
        state: dict[str, Any] = {**self._about, "frame": -1, "ended": self.ended}
        if found is not None:
            height, width = found.frame.shape[:2]
            state |= {"frame": found.index, "width": width, "height": height, "found": found.found}
            state |= {"age_s": round(time.perf_counter() - found.ready_s, 2), "poses": [*map(_facts, found.poses)]}
        return state

    def figures(self) -> dict[str, Any]:
        """Frames per second, and means and percentiles of the times of the last frames, as plain data.

        ``latency`` is from the frame's arrival to its poses, ``stages`` are parts of it, and ``between`` is from there
        to the next frame: results are written, and the camera is waited for. Each has ``mean_ms``, ``p50_ms`` and
        ``p90_ms``. Only the means of the parts add up: a detector, for example, does not run in every frame.
        """
        with self._lock:
            times = list(self._times)
        if not times:
            return {}
        arrivals_s = [one.arrived_s for one in times if one.arrived_s >= times[-1].arrived_s - RATE_OVER_S]
        took_s = arrivals_s[-1] - arrivals_s[0]
        latency_ms = [1000 * (one.ready_s - one.arrived_s) for one in times]
        stages: dict[str, list[float]] = {}
        for number, name in enumerate(self._estimators):
            of = f"{name}: " if name else ""
            stages[f"{of}preprocess"] = [one.stages[number].preprocess_ms for one in times]
            stages[f"{of}inference"] = [one.stages[number].inference_ms for one in times]
            stages[f"{of}decode"] = [one.stages[number].decode_ms for one in times]
        stages["rest"] = [
            max(0.0, all_ms - sum(parts)) for all_ms, *parts in zip(latency_ms, *stages.values(), strict=True)
        ]
        return {
            "fps": round((len(arrivals_s) - 1) / took_s, 2) if took_s > 0 else None,
            "frames": len(times),
            "latency": _spread(latency_ms),
            "stages": [{"name": name, **_spread(values)} for name, values in stages.items()],
            "between": _spread(1000 * one.between_s for one in times if one.between_s is not None),
        }


def _facts(pose: Pose) -> dict[str, Any]:
    facts: dict[str, float | None] = {"score": float(pose.scores.mean()) if pose.scores.size else None}
    facts |= {name: getattr(pose, name) for name in ("id", "box_score", *HEADS)}
    return {name: round(value, 3) for name, value in facts.items() if value is not None}


def _spread(values_ms: Iterable[float]) -> dict[str, float | None]:
    values = list(values_ms)
    if not values:
        return {"mean_ms": None, "p50_ms": None, "p90_ms": None}
    p50_ms, p90_ms = np.percentile(values, [50, 90])
    figures = {"mean_ms": np.mean(values), "p50_ms": p50_ms, "p90_ms": p90_ms}
    return {name: round(float(value), 3) for name, value in figures.items()}
