r"""From camera to hands: `TopDown` beside MediaPipe's `solutions.hands` on clips whose truth is known, frame by frame.

In an environment of its own, since mediapipe's dependencies need not get along with those of the export:

    python -m venv mp && mp/bin/pip install '.[ort]' ai-edge-litert mediapipe==0.10.21 'numpy<2'
    mp/bin/python benchmarks/pipeline.py --bundle hand.splite --detector palm.splite --data HANDS_VARIED \
        --out benchmarks/results/pipeline.jsonl

The clips are those of `composed_clips.py`: a hand that rests, one, two and four that move, one of two that leaves and
comes back, and two that cross. Nobody is told where a hand is. All run on one core, every clip by each in turn, in an
order that changes at random; each is told how many hands there are at most. Without mediapipe ours run alone
(``--alone``). Appends one JSON line. Then `python benchmarks/make_tables.py` writes the tables anew.

A hand is *found* where a pose lies on it: the mean distance of the keypoints is at most 30 % of the longer side of its
box; *error* is that of what is found. It counts in frames in which nearly all of it lies in the picture. MediaPipe's
solution has no ids: it is given those of our `Tracker`, and so is told apart by the same rule.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from composed_clips import FRAMES, HANDS, HEIGHT_PX, KINDS, RATE_HZ, WIDTH_PX, Clip, Frame, Kind, Points, compose
from mediapipe_solution import BLANKS, GREY, MediaPipe
from numpy.typing import NDArray
from rich.console import Console
from side_by_side import pipeline_block

from splite_deploy import OneEuro, Pose, PoseEstimator, TopDown, Tracker
from splite_deploy.bench import append_record, read_environment
from splite_deploy.bench.loop import garbage_collector_off
from splite_deploy.bundle import Artifact, Bundle
from splite_deploy.errors import SpliteError, UsageError
from splite_deploy.metrics.accuracy import box_side
from splite_deploy.runtime.preprocess import Image
from splite_deploy.runtime.smoothing import Smoother
from splite_deploy.runtime.tracks import nearest
from splite_deploy.spec.plain import to_plain

KIND = "pipeline"
FOUND, CLOSE = 0.3, 0.15
"""Mean distance of keypoints, in sides of the box, up to which a hand is found, and up to which it is found well."""
INSIDE, GONE = 0.9, 0.5
"""Share of its keypoints in the picture from which a hand has to be found, and below which it is gone."""
SETTLE = 10
"""Frames of a clip whose trembling does not count."""


class Contestant(Protocol):
    """What finds and follows hands."""

    def start(self, most: int) -> None:
        """Told before a clip how many hands it has; nothing is known of the clip before."""

    def see(self, frame: Image) -> object:
        """What the frame has to become before it is given; not timed."""

    def __call__(self, frame: object, time_s: float) -> object:
        """Takes the next frame; what is timed."""

    def hands(self, found: object) -> list[Pose]:
        """The hands in what the call returned, with their ids; not timed."""

    def stages(self) -> dict[str, float]:
        """Where the time of the last frame went, in ms, as far as that is known."""


class Ours:
    """Our pipeline.

    Args:
        detector: Opened for BGR.
        estimator: Likewise.
    """

    def __init__(self, detector: PoseEstimator, estimator: PoseEstimator) -> None:
        self._parts = detector, estimator
        self._follow = TopDown(*self._parts)

    def start(self, most: int) -> None:
        """Begins anew."""
        self._follow = TopDown(*self._parts, Tracker(most))
        self.stages()

    def see(self, frame: Image) -> object:
        """The frame as it is."""
        return frame

    def __call__(self, frame: object, time_s: float) -> object:
        """The poses."""
        return self._follow(frame, time_s)  # type: ignore[arg-type]

    def hands(self, found: object) -> list[Pose]:
        """The poses as they are."""
        return found  # type: ignore[return-value]

    def stages(self) -> dict[str, float]:
        """Of both networks, all that surrounds an inference with it."""
        parts = zip(("detect", "estimate"), (part.take_times() for part in self._parts), strict=True)
        return {name: spent.preprocess_ms + spent.inference_ms + spent.decode_ms for name, spent in parts}


class Solution:
    """MediaPipe's solution, with ids of our `Tracker`.

    Args:
        complexity: 0 for its lite network, 1 for the full one.
    """

    def __init__(self, complexity: int) -> None:
        self._by_most = {most: MediaPipe(complexity, most) for most in sorted(set(HANDS.values()))}
        self._hands, self._ids = self._by_most[1], Tracker()

    def start(self, most: int) -> None:
        """Takes the one that was made for so many hands, and has it forget those that it followed."""
        self._hands, self._ids = self._by_most[most], Tracker(most)
        for _ in range(BLANKS):
            self._hands(np.full((HEIGHT_PX, WIDTH_PX, 3), GREY, np.uint8))

    def see(self, frame: Image) -> object:
        """RGB, which it wants."""
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def __call__(self, frame: object, time_s: float) -> object:
        """What the solution returns."""
        return self._hands(frame)  # type: ignore[arg-type]

    def hands(self, found: object) -> list[Pose]:
        """Its landmarks in pixels."""
        poses = []
        for one in self._hands.hands(found):
            points = one.keypoints.astype(np.float32)
            box = np.concatenate([points.min(axis=0), points.max(axis=0)])
            poses.append(Pose(points, np.ones(len(points), np.float32), box))
        return self._ids(poses)

    def stages(self) -> dict[str, float]:
        """It does not tell."""
        return {}

    def close(self) -> None:
        """Ends their threads."""
        for one in self._by_most.values():
            one.close()


@dataclass
class Taken:
    """What one contestant made of one clip.

    Attributes:
        poses: Of each frame.
        times_ms: Of each frame.
        stages_ms: Of each frame, by stage.
    """

    poses: list[list[Pose]] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)
    stages_ms: list[dict[str, float]] = field(default_factory=list)


def take(contestant: Contestant, frames: Sequence[Frame], most: int) -> Taken:
    """Shows a clip."""
    taken = Taken()
    contestant.start(most)
    for frame in frames:
        seen = contestant.see(frame.image)
        began = time.perf_counter_ns()
        found = contestant(seen, frame.time_s)
        taken.times_ms.append((time.perf_counter_ns() - began) / 1e6)
        taken.stages_ms.append(contestant.stages())
        taken.poses.append(contestant.hands(found))
    return taken


@dataclass
class Score:
    """What is counted over clips.

    Attributes:
        shown: Hands in frames that have to be found.
        found: How many of them were.
        close: How many of them well.
        wrong: Poses on no hand.
        frames: All of them.
        switches: How often the id of a hand changed that did not leave.
        left: Hands that left the picture.
        again: How many of them had their id again.
        lose_frames: After how many frames each was declared lost.
        errors: Mean error of each that was found, in sides of the box.
        still_px: Standard deviations of keypoints over the frames of a clip in which nothing moves, px.
        shake_px: Accelerations of what was found against the truth in clips that move, px per frame and frame.
        behind_ms: How late what was found follows, of hands that move.
    """

    shown: int = 0
    found: int = 0
    close: int = 0
    wrong: int = 0
    frames: int = 0
    switches: int = 0
    left: int = 0
    again: int = 0
    lose_frames: list[int] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    still_px: list[float] = field(default_factory=list)
    shake_px: list[float] = field(default_factory=list)
    behind_ms: list[float] = field(default_factory=list)

    def add(self, kind: Kind, frames: Sequence[Frame], poses: Sequence[Sequence[Pose]]) -> None:
        """Counts a clip."""
        on = [matches(frame, found) for frame, found in zip(frames, poses, strict=True)]
        self.frames += len(frames)
        self.wrong += sum(len(found) - len(matched) for found, matched in zip(poses, on, strict=True))
        for number in frames[0].hands:
            inside = [share_inside(frame.hands[number]) for frame in frames]
            self._follow([matched.get(number) for matched in on], inside, frames, poses, number)
            self._tremble(kind, [matched.get(number) for matched in on], [frame.hands[number] for frame in frames])

    def _follow(
        self,
        found: Sequence[Pose | None],
        inside: Sequence[float],
        frames: Sequence[Frame],
        poses: Sequence[Sequence[Pose]],
        number: int,
    ) -> None:
        last_id: int | None = None
        gone_at: int | None = None
        for index, (pose, share) in enumerate(zip(found, inside, strict=True)):
            if share >= INSIDE:
                self.shown += 1
                self.found += pose is not None
            if share < GONE and gone_at is None:
                gone_at = index
                self.left += 1
                ids = ({one.id for one in later} for later in poses[index:])
                self.lose_frames.append(
                    next((after for after, known in enumerate(ids) if last_id not in known), FRAMES)
                )
            if pose is None:
                continue
            truth = frames[index].hands[number]
            error = away(pose, truth)
            if share >= INSIDE:
                self.errors.append(error)
                self.close += error <= CLOSE
            if gone_at is not None and share >= INSIDE:
                self.again += pose.id == last_id
                gone_at = None
            elif last_id is not None and pose.id != last_id and gone_at is None:
                self.switches += 1
            if gone_at is None:
                last_id = pose.id

    def _tremble(self, kind: Kind, found: Sequence[Pose | None], truth: Sequence[Points]) -> None:
        points = np.full((len(found), *truth[0].shape), np.nan)
        for index, pose in enumerate(found):
            if pose is not None and index >= SETTLE:
                points[index] = pose.keypoints
        if kind == "still":
            there = points[np.isfinite(points).all(axis=(1, 2))]
            if len(there) > SETTLE:
                self.still_px.append(float(there.std(axis=0).mean()))
            return
        off = points - np.stack(truth)
        bends = np.linalg.norm(np.diff(off, 2, axis=0), axis=-1).mean(axis=1)
        self.shake_px += bends[np.isfinite(bends)].tolist()
        speed = np.gradient(np.stack(truth), 1 / RATE_HZ, axis=0)
        known = np.isfinite(off).all(axis=(1, 2))
        if known.sum() > SETTLE and (speed[known] != 0).any():
            late_s = -(off[known] * speed[known]).sum() / (speed[known] ** 2).sum()
            self.behind_ms.append(float(1000 * late_s))

    def summary(self) -> dict[str, Any]:
        """What is recorded; None where nothing was measured."""

        def mean(values: Sequence[float], factor: float = 1.0) -> float | None:
            return factor * float(np.mean(values)) if len(values) else None

        return {
            "shown": self.shown,
            "found_pct": 100 * self.found / max(self.shown, 1),
            "close_pct": 100 * self.close / max(self.shown, 1),
            "wrong_per_100_frames": 100 * self.wrong / max(self.frames, 1),
            "switches": self.switches,
            "left": self.left,
            "id_again": self.again,
            "lose_frames_most": max(self.lose_frames, default=None),
            "error_box_pct": mean(self.errors, 100),
            "still_px": mean(self.still_px),
            "shake_px": mean(self.shake_px),
            "behind_ms": mean(self.behind_ms),
        }


def share_inside(points: Points) -> float:
    """Share of keypoints that lie in the picture."""
    return float(((points >= 0) & (points < (WIDTH_PX, HEIGHT_PX))).all(axis=1).mean())


def away(pose: Pose, truth: Points) -> float:
    """Mean distance of keypoints, in sides of the box of the truth."""
    return float(np.linalg.norm(pose.keypoints - truth, axis=1).mean() / box_side(truth[None])[0])


def matches(frame: Frame, poses: Sequence[Pose]) -> dict[int, Pose]:
    """Which pose lies on which hand, the nearest first; see `FOUND`."""
    numbers = list(frame.hands)
    apart = np.array([[away(pose, frame.hands[number]) for pose in poses] for number in numbers])
    pairs = nearest(apart.reshape(len(numbers), len(poses)), FOUND)
    return {numbers[row]: poses[column] for row, column in pairs}


def smoothed(frames: Sequence[Frame], poses: Sequence[Sequence[Pose]], how: OneEuro) -> list[list[Pose]]:
    """What a `Tracker` with smoothing would have given."""
    filters: dict[int | None, Smoother] = {}
    made = []
    for frame, found in zip(frames, poses, strict=True):
        filters = {pose.id: filters.get(pose.id) or Smoother(how) for pose in found}
        made.append([filters[pose.id](pose, frame.time_s) for pose in found])
    return made


def times_of(taken: Sequence[Taken]) -> dict[str, Any]:
    """Latency in ms over the frames of clips: of all, of those in which the detector looked, and of the others."""
    every = np.concatenate([one.times_ms for one in taken])
    record = {"count": len(every), **_stats(every)}
    stages = [stage for one in taken for stage in one.stages_ms]
    if stages and stages[0]:
        looked = np.array([stage["detect"] > 0 for stage in stages])
        for name, which in (("following", ~looked), ("detecting", looked)):
            if which.any():
                record[name] = {"count": int(which.sum()), **_stats(every[which])}
        for name in ("detect", "estimate"):
            spent = np.array([stage[name] for stage in stages])
            if (spent > 0).any():
                record[f"{name}_stage"] = {"count": int((spent > 0).sum()), **_stats(spent[spent > 0])}
    return record


def _stats(values_ms: NDArray[np.float64]) -> dict[str, float]:
    quantiles = dict(zip(("p50_ms", "p90_ms", "p99_ms"), np.percentile(values_ms, (50, 90, 99)).tolist(), strict=True))
    return {"minimum_ms": float(values_ms.min()), **quantiles, "mean_ms": float(values_ms.mean())}


def race(contestants: Mapping[str, Contestant], clips: Iterator[Clip], say: Any = None) -> dict[str, Any]:
    """Shows all clips to all of them, and judges what they found, as it is and smoothed."""
    how, order = OneEuro(), np.random.default_rng(0)
    scores = {name: {smooth: {kind: Score() for kind in KINDS} for smooth in (False, True)} for name in contestants}
    taken: dict[str, dict[Kind, list[Taken]]] = {name: {kind: [] for kind in KINDS} for name in contestants}
    with garbage_collector_off():
        for clip in clips:
            frames = list(clip.frames())
            for name in order.permutation(list(contestants)):
                one = take(contestants[name], frames, HANDS[clip.kind])
                taken[name][clip.kind].append(one)
                scores[name][False][clip.kind].add(clip.kind, frames, one.poses)
                scores[name][True][clip.kind].add(clip.kind, frames, smoothed(frames, one.poses, how))
            if say is not None:
                say(f"{clip.kind}, clip {clip.number + 1}")
    shown = [kind for kind in KINDS if any(scores[name][False][kind].frames for name in contestants)]
    return {
        "clips": {kind: len(taken[next(iter(contestants))][kind]) for kind in shown},
        "latency": {name: {kind: times_of(taken[name][kind]) for kind in shown} for name in contestants},
        "found": {name: {kind: scores[name][False][kind].summary() for kind in shown} for name in contestants},
        "smoothed": {name: {kind: scores[name][True][kind].summary() for kind in shown} for name in contestants},
    }


def ours(bundle: Bundle, detector: Path, stack: ExitStack) -> Iterator[tuple[str, Contestant]]:
    """Every artifact of the bundle that a CPU runs, with the detector's of the same kind, or its first."""
    for artifact in bundle.manifest.artifacts:
        if artifact.backend in ("ort", "tflite"):
            estimator = PoseEstimator.open(bundle.path, artifact.backend, artifact.precision, threads=1)
            stack.callback(estimator.close)
            looks = _detector(detector, artifact)
            stack.callback(looks.close)
            yield f"splite, {artifact.label}", Ours(looks, estimator)


def _detector(path: Path, artifact: Artifact) -> PoseEstimator:
    if path.suffix != ".splite" and path.is_file():
        return PoseEstimator.open_file(path, threads=1)
    try:
        return PoseEstimator.open(path, artifact.backend, artifact.precision, threads=1)
    except UsageError:
        return PoseEstimator.open(path, threads=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="NAME.splite of the hand network")
    parser.add_argument(
        "--detector", type=Path, required=True, help="bundle of a detector, or a file beside its model.toml"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of hands-varied (labels.json, scenes.json)")
    parser.add_argument("--split", default="val", help="of the labels (default: val)")
    parser.add_argument("--clips", type=int, default=6, help="of each kind (default: 6)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of clips (default: all)")
    parser.add_argument("--alone", action="store_true", help="without MediaPipe")
    parser.add_argument("--core", type=int, default=0, help="the core that all of them run on (default: 0)")
    parser.add_argument("--out", type=Path, help="JSON lines file to append to")
    options = parser.parse_args()
    log = Console(stderr=True)
    os.sched_setaffinity(0, {options.core})  # MediaPipe starts threads of its own; with one core nobody gains by that
    cv2.setNumThreads(1)
    try:
        bundle = Bundle.open(options.bundle)
        environment, date_utc = read_environment(), datetime.now(timezone.utc).isoformat(timespec="seconds")
        with ExitStack() as stack, log.status("starting") as status:
            contestants = dict(ours(bundle, options.detector, stack))
            if not options.alone:
                from importlib.metadata import version

                for complexity, network in enumerate(("lite", "full")):
                    solution = Solution(complexity)
                    stack.callback(solution.close)
                    contestants[f"solutions.hands, {network}"] = solution
            every = (
                clip for kind in options.kinds for clip in compose(options.data, kind, options.clips, options.split)
            )
            record = {
                "kind": KIND,
                "record_version": 1,
                "date_utc": date_utc,
                "checkpoint": bundle.manifest.source.checkpoint,
                "checkpoint_sha256": bundle.manifest.source.checkpoint_sha256,
                "detector": options.detector.name,
                "mediapipe": None if options.alone else version("mediapipe"),
                "split": options.split,
                "frame_px": [WIDTH_PX, HEIGHT_PX],
                **race(contestants, every, status.update),
                "environment": to_plain(environment),
            }
        if options.out is not None:
            append_record(options.out, record)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    print("\n".join(pipeline_block({"": [record]})))
    if options.out is not None:
        log.print(f"appended to {options.out}")


if __name__ == "__main__":
    main()
