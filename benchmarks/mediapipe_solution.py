r"""The tracker of this runtime beside MediaPipe's `solutions.hands`, end to end on one core, frame by frame.

In an environment of its own, since mediapipe's dependencies need not get along with those of the export:

    python -m venv mp && mp/bin/pip install '.[ort]' ai-edge-litert mediapipe==0.10.14 'numpy<2'
    mp/bin/python benchmarks/mediapipe_solution.py --bundle hand.splite --data HAND_DIGITS \
        --out benchmarks/results/mediapipe-solution.jsonl

Every photograph becomes a short clip of VGA frames in which nothing moves, with grey frames before it. MediaPipe finds
the hand by its palm detector and then follows it; ours, which has no detector, is given the label's box at the first
frame and then follows it. The trackers take each clip in turn, in an order that changes at random. Appends one JSON
line. Then `python benchmarks/make_tables.py` writes the tables anew.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from splite_deploy.bench import append_record, read_environment
from splite_deploy.bench.bootstrap import ratio_of_medians
from splite_deploy.bench.evaluation import KeypointErrors
from splite_deploy.bench.loop import garbage_collector_off
from splite_deploy.bench.stats import LatencyStats
from splite_deploy.bundle import Bundle
from splite_deploy.errors import MissingDependencyError, SpliteError, UsageError
from splite_deploy.metrics.accuracy import box_side, keypoint_error, pa_mpjpe
from splite_deploy.metrics.labels import LabelledImage, read_labels
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.io.images import read_image
from splite_deploy.runtime.preprocess import Image
from splite_deploy.runtime.tracker import BoxTracker
from splite_deploy.spec.plain import to_plain

KIND = "mediapipe-solution"
WIDTH_PX, HEIGHT_PX = 640, 480
GREY = 128
BLANKS, SETTLE, TIMED = 2, 3, 10
"""Frames of a clip: grey ones; after the first with a hand so many that are not timed; so many that are."""

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Hand:
    """What a tracker says of a frame.

    Attributes:
        keypoints: (21, 2) pixels of the frame.
        points_3d: (21, 3) in any unit and pose.
    """

    keypoints: Points
    points_3d: Points


class Tracker(Protocol):
    """What follows a hand."""

    def start(self, box: Points) -> None:
        """Told before a clip where its hand is; who finds it without may ignore that."""

    def __call__(self, frame: Image) -> object:
        """Takes the next RGB frame; what is timed."""

    def hand(self, found: object) -> Hand | None:
        """The hand in what the call returned, if there is one."""


class Ours:
    """Our estimator with the box of the last frame."""

    def __init__(self, estimator: PoseEstimator) -> None:
        self._estimator = estimator
        self._track = BoxTracker(estimator)

    def start(self, box: Points) -> None:
        """Begins anew, in this box."""
        self._track = BoxTracker(self._estimator, start=box)

    def __call__(self, frame: Image) -> object:
        """The pose, and whether it is one."""
        return self._track(frame), self._track.found

    def hand(self, found: object) -> Hand | None:
        """The pose as it is."""
        pose, is_hand = found  # type: ignore[misc]
        return Hand(pose.keypoints, pose.keypoints_3d) if is_hand else None


class MediaPipe:
    """``mediapipe.solutions.hands``.

    Args:
        complexity: 0 for its lite network, 1 for the full one.
        most: How many hands it finds at most.

    Raises:
        MissingDependencyError: mediapipe is not installed.
    """

    def __init__(self, complexity: int, most: int = 1) -> None:
        try:
            from mediapipe.python.solutions.hands import Hands  # type: ignore[import-not-found]
        except ImportError as err:
            raise MissingDependencyError(
                f"mediapipe cannot be imported: {err}", hint="pip install mediapipe==0.10.14 'numpy<2'"
            ) from err
        self._hands = Hands(static_image_mode=False, max_num_hands=most, model_complexity=complexity)

    def start(self, box: Points) -> None:
        """It finds hands itself."""

    def __call__(self, frame: Image) -> object:
        """What the solution returns."""
        return self._hands.process(frame)

    def hand(self, found: object) -> Hand | None:
        """The first of `hands`, if there is one."""
        return next(iter(self.hands(found)), None)

    def hands(self, found: object) -> list[Hand]:
        """Landmarks in pixels, and world landmarks in millimetres, of every hand."""
        result: Any = found
        pairs = zip(result.multi_hand_landmarks or (), result.multi_hand_world_landmarks or (), strict=True)
        return [
            Hand(
                np.array([(point.x * WIDTH_PX, point.y * HEIGHT_PX) for point in flat.landmark]),
                1000 * np.array([(point.x, point.y, point.z) for point in world.landmark]),
            )
            for flat, world in pairs
        ]

    def close(self) -> None:
        """Ends its threads."""
        self._hands.close()


@dataclass(frozen=True)
class Clip:
    """A photograph in the middle of a camera's frame.

    Attributes:
        frame: (480, 640, 3) RGB.
        box: xyxy box of the hand, pixels of the frame.
        keypoints: (21, 2) of the label, pixels of the frame.
        world_mm: (21, 3) of the label.
    """

    frame: Image
    box: Points
    keypoints: Points
    world_mm: Points


def clip_of(label: LabelledImage, image: Image) -> Clip:
    """Enlarges the photograph to the frame's height; beyond its sides the frame is grey."""
    height, width = image.shape[:2]
    scale = min(HEIGHT_PX / height, WIDTH_PX / width)
    size = round(width * scale), round(height * scale)
    left, top = (WIDTH_PX - size[0]) // 2, (HEIGHT_PX - size[1]) // 2
    frame = np.full((HEIGHT_PX, WIDTH_PX, 3), GREY, np.uint8)
    frame[top : top + size[1], left : left + size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    zoom, offset = np.array([size[0] / width, size[1] / height]), np.array([left, top], np.float64)
    if label.world_mm is None:
        raise UsageError(
            f"The label of {label.path.name} has no third dimension.", hint="Use the labels of hand-digits."
        )
    return Clip(
        frame,
        (label.box.reshape(2, 2) * zoom + offset).ravel(),
        label.keypoints * zoom + offset,
        label.world_mm.astype(np.float64),
    )


@dataclass
class Timed:
    """What was measured of one tracker.

    Attributes:
        first_ms: Of the first frame of each clip.
        tracked_ms: (clips, `TIMED`) of the last frames.
        hands: The hand of the last frame of each clip.
    """

    first_ms: list[float] = field(default_factory=list)
    tracked_ms: list[list[float]] = field(default_factory=list)
    hands: list[Hand | None] = field(default_factory=list)

    def take(self, tracker: Tracker, clip: Clip, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        """Shows one clip to the tracker."""
        blank = np.full_like(clip.frame, GREY)
        for _ in range(BLANKS):
            tracker(blank)
        tracker.start(clip.box)
        times_ms: list[float] = []
        found: object = None
        for _ in range(1 + SETTLE + TIMED):
            began = clock()
            found = tracker(clip.frame)
            times_ms.append((clock() - began) / 1e6)
        self.first_ms.append(times_ms[0])
        self.tracked_ms.append(times_ms[-TIMED:])
        self.hands.append(tracker.hand(found))


def follow(
    trackers: Mapping[str, Tracker], clips: Sequence[Clip], progress: Callable[[int, int], None]
) -> dict[str, Timed]:
    """Shows all clips to all trackers."""
    timed = {name: Timed() for name in trackers}
    order = np.random.default_rng(0)
    with garbage_collector_off():
        for number, clip in enumerate(clips):
            for name in order.permutation(list(trackers)):
                timed[name].take(trackers[name], clip)
            progress(number + 1, len(clips))
    return timed


def accuracies(timed: Mapping[str, Timed], clips: Sequence[Clip]) -> dict[str, dict[str, Any]]:
    """Figures of each tracker on the clips in which all of them follow a hand, and the clips in which it does not."""
    common = [i for i in range(len(clips)) if all(one.hands[i] is not None for one in timed.values())]
    truth = np.stack([clips[i].keypoints for i in common])
    world_mm = np.stack([clips[i].world_mm for i in common])
    found = {}
    for name, one in timed.items():
        hands = [hand for i in common if (hand := one.hands[i]) is not None]
        errors = KeypointErrors(
            keypoint_error(np.stack([hand.keypoints for hand in hands]), truth) / box_side(truth)[:, None],
            pa_mpjpe(np.stack([hand.points_3d for hand in hands]), world_mm),
        )
        found[name] = {**asdict(errors.summary()), "lost": sum(hand is None for hand in one.hands)}
    return found


def record_of(timed: Mapping[str, Timed], clips: Sequence[Clip], reference: str) -> dict[str, Any]:
    """Latency, ratios of medians over ``reference``, and accuracy."""
    samples = {name: np.array(one.tracked_ms) for name, one in timed.items()}
    return {
        "clips": len(clips),
        "ours": reference,
        "latency": {name: to_plain(LatencyStats.from_samples(values)) for name, values in samples.items()},
        "first": {name: to_plain(LatencyStats.from_samples(one.first_ms)) for name, one in timed.items()},
        "ratios": {
            name: asdict(ratio_of_medians(values, samples[reference]))
            for name, values in samples.items()
            if name != reference
        },
        "accuracy": accuracies(timed, clips),
    }


def trackers_of(bundle: Bundle, stack: ExitStack) -> Iterator[tuple[str, Tracker]]:
    """Every CPU artifact that is of use here, then MediaPipe with its lite and its full network."""
    for artifact in bundle.manifest.artifacts:
        if artifact.label in ("ort fp32", "tflite int8"):
            estimator = PoseEstimator.open(bundle.path, artifact.backend, artifact.precision, threads=1, color="rgb")
            yield f"splite-hand, {artifact.label}", Ours(stack.enter_context(estimator))
    for complexity, network in enumerate(("lite", "full")):
        solution = MediaPipe(complexity)
        stack.callback(solution.close)
        yield f"solutions.hands, {network}", solution


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="NAME.splite; its int8 for LiteRT is timed too")
    parser.add_argument("--data", type=Path, required=True, help="folder of hand-digits (labels.json)")
    parser.add_argument("--clips", type=int, help="photographs of the split val (default: all)")
    parser.add_argument("--core", type=int, default=0, help="the core that all of them run on (default: 0)")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to append to")
    options = parser.parse_args()
    log = Console(stderr=True)
    os.sched_setaffinity(0, {options.core})  # MediaPipe starts threads of its own; with one core nobody gains by that
    cv2.setNumThreads(1)
    try:
        bundle = Bundle.open(options.bundle)
        environment, date_utc = read_environment(), datetime.now(timezone.utc).isoformat(timespec="seconds")
        labels = read_labels(options.data, split="val")[: options.clips]
        clips = [clip_of(one, cv2.cvtColor(read_image(one.path), cv2.COLOR_BGR2RGB)) for one in labels]  # type: ignore[arg-type]
        with ExitStack() as stack, log.status("starting") as status:
            trackers = dict(trackers_of(bundle, stack))
            timed = follow(trackers, clips, lambda done, total: status.update(f"clip {done} of {total}"))
        ours = [name for name, tracker in trackers.items() if isinstance(tracker, Ours)][-1]
        record = {
            "kind": KIND,
            "record_version": 1,
            "date_utc": date_utc,
            "checkpoint": bundle.manifest.source.checkpoint,
            "checkpoint_sha256": bundle.manifest.source.checkpoint_sha256,
            "mediapipe": version("mediapipe"),
            "frame_px": [WIDTH_PX, HEIGHT_PX],
            **record_of(timed, clips, ours),
            "environment": to_plain(environment),
        }
        append_record(options.out, record)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    for name, stats in record["latency"].items():
        accuracy = record["accuracy"][name]
        print(
            f"{name}: {stats['p50_ms']:.2f} ms, first {record['first'][name]['p50_ms']:.2f} ms, "
            f"error {accuracy['mean_error_box_pct']:.2f} %, lost {accuracy['lost']} of {record['clips']}"
        )
    log.print(f"appended to {options.out}")


if __name__ == "__main__":
    main()
