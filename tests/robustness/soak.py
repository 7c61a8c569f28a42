"""Runs an estimator for a million frames and judges what that leaves behind: memory, descriptors, threads, results.

    python tests/robustness/soak.py --backend ort --bundle hand.splite --people figures.splite --log soak-ort.jsonl
    python tests/robustness/soak.py --judge soak-ort.jsonl

`make soak` does so for ONNX Runtime and LiteRT. The frames are a fixed cycle: boxes in images of many sizes, a
`BoxTracker` that follows one, and a network that finds people. Their poses are computed first, by estimators of their
own; each later one has to be the same, bit for bit. Between the cycles come calls that are refused, since errors must
not leave anything behind either. Every few seconds a sample goes to the log as a line of JSON, which can be looked at,
and judged, while the run goes on; the process itself keeps none, so that it does not measure its own notes.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.bundle import Bundle
from splite_deploy.errors import SpliteError, UsageError
from splite_deploy.files import write_file
from splite_deploy.runtime import Pose, PoseEstimator
from splite_deploy.runtime.tracker import BoxTracker

SINGLE, TRACKED, PEOPLE = 72, 17, 8
"""How many frames of a cycle go each way: 97 in all."""
GROWING = ("rss_bytes", "anonymous_bytes", "python_blocks")
"""What must not grow, by its slope. CPython keeps up to 2,000 tuples of each length for reuse (tupleobject.c): blocks
rise by that until some 25,000 frames have run."""
COUNTED = ("descriptors", "threads", "uncollectable")
"""What must never be more than at the end of the warm-up."""
BLOCKS = 20
LEAST_SAMPLES = 3 * BLOCKS
TOLD = 10
PACKAGES = ("numpy", "opencv-python-headless", "onnxruntime", "ai-edge-litert")

Step = Callable[[], "Pose | list[Pose]"]


@dataclass(frozen=True)
class Slope:
    """How a quantity changes, in its unit for each thousand frames.

    Attributes:
        slope: Of the least-squares line.
        newey_west_error: Its standard error where what is beside the line is noise with a memory: Newey and West
            (Econometrica 55, 1987), Bartlett's weights, the lag of their rule of 1994, 4 (n / 100)^(2/9).
        block_error: Its standard error where the quantity moves in steps that stay, as resident memory does when an
            allocator takes pages: that of the mean increment between the means of `BLOCKS` blocks, each longer than
            the memory of the noise (Flyvbjerg and Petersen, J. Chem. Phys. 91, 1989). The line alone takes a single
            step for growth without end.
    """

    slope: float
    newey_west_error: float
    block_error: float

    @property
    def error(self) -> float:
        """The larger one."""
        return max(self.newey_west_error, self.block_error)

    @property
    def grows(self) -> bool:
        """Whether the slope lies above 0 by more than two standard errors."""
        return self.slope - 2 * self.error > 0


def fit(frames: NDArray[np.float64], values: NDArray[np.float64]) -> Slope:
    """The slope of samples over the frames at which they were taken; see `Slope`.

    Args:
        frames: (n,) rising.
        values: (n,) of them.
    """
    count = len(frames)
    x = (frames - frames.mean()) / 1000
    spread = float(x @ x)
    risen = values - values[0]  # exactly 0 throughout where nothing changes
    slope = float(x @ risen) / spread
    scores = x * (risen - risen.mean() - slope * x)
    lag = math.floor(4 * (count / 100) ** (2 / 9))
    variance = float(scores @ scores)
    variance += 2 * sum((1 - k / (lag + 1)) * float(scores[k:] @ scores[:-k]) for k in range(1, lag + 1))
    newey_west = math.sqrt(max(0.0, variance) * count / (count - 2)) / spread
    parts = np.array_split(np.arange(count), BLOCKS)
    middles, means = (np.array([part[one].mean() for one in parts]) for part in (x, values))
    increments = np.diff(means) / np.diff(middles)
    return Slope(slope, newey_west, float(increments.std(ddof=1)) / math.sqrt(len(increments)))


def sample() -> dict[str, int]:
    """What this process holds now; Linux's /proc/[pid]/smaps_rollup, see proc(5)."""
    kilobytes = {}
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        name, _, rest = line.partition(":")
        kilobytes[name] = int(rest.split()[0])
    stats = gc.get_stats()
    return {
        "rss_bytes": 1024 * kilobytes["Rss"],
        "pss_bytes": 1024 * kilobytes["Pss"],
        "anonymous_bytes": 1024 * kilobytes["Anonymous"],
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "threads": len(os.listdir("/proc/self/task")),  # noqa: PTH208
        "python_blocks": sys.getallocatedblocks(),
        "collections": sum(one["collections"] for one in stats),
        "uncollectable": sum(one["uncollectable"] for one in stats),
    }


def bits(found: Pose | list[Pose]) -> bytes:
    """All that a frame gave, bit for bit."""
    parts = []
    for pose in found if isinstance(found, list) else [found]:
        arrays = pose.keypoints, pose.scores, pose.box, pose.keypoints_3d
        parts += [b"none" if array is None else array.tobytes() for array in arrays]
        parts.append(repr((pose.unit, pose.origin, pose.box_score)).encode())
    return b"|".join(parts)


def scenes(crops: NDArray[np.uint8], count: int) -> list[tuple[NDArray[np.uint8], NDArray[np.float64]]]:
    """Images of many sizes, each with a crop somewhere in it, and a box around it that may leave the image.

    Args:
        crops: (N, h, w, C) that the model was exported with.
        count: How many.
    """
    made = []
    for index in range(count):
        rng = np.random.default_rng([97, index])
        height, width = (int(side) for side in rng.integers(120, 480, 2))
        noise = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        image = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        side = int(rng.integers(60, min(height, width)))
        x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
        image[y : y + side, x : x + side] = cv2.resize(_three(crops[index % len(crops)]), (side, side))
        box = np.array([x, y, x + side, y + side]) + rng.uniform(-0.2, 0.2, 4) * side
        made.append((image[..., ::-1] if index % 5 == 0 else image, box))  # some do not lie in one piece
    return made


def _three(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(crop, 3, axis=2) if crop.shape[2] == 1 else crop


def steps_of(
    estimator: PoseEstimator, crops: NDArray[np.uint8], people: PoseEstimator | None, people_crops: NDArray[np.uint8]
) -> list[Step]:
    """The frames of a cycle as calls. They have to be made in this order: the tracker goes from one to the next."""
    steps: list[Step] = []
    camera = {"intrinsics": np.array([[500.0, 0, 240], [0, 500, 240], [0, 0, 1]]), "bone_length_mm": 90.0}
    for index, (image, box) in enumerate(scenes(crops, SINGLE)):
        options: Mapping[str, Any] = camera if index % 3 == 0 and estimator.spec.decoder.depth is not None else {}
        where = None if index % 8 == 0 else box
        steps.append(lambda image=image, where=where, options=options: estimator(image, where, **options))  # type: ignore[misc]
    still, start = scenes(crops, 1)[0]
    moved = [np.roll(still, (2 * index, 3 * index), (0, 1)) for index in range(TRACKED)]
    trackers: list[BoxTracker] = []

    def follow(index: int) -> Pose:
        if index == 0:
            trackers[:] = [BoxTracker(estimator, start)]
        return trackers[0](moved[index])

    steps += [lambda index=index: follow(index) for index in range(TRACKED)]  # type: ignore[misc]
    if people is not None:
        shown = [image for image, _ in scenes(people_crops, PEOPLE - 2)] + [_three(one) for one in people_crops[:2]]
        steps += [lambda image=image: people.detect(image) for image in shown]  # type: ignore[misc]
    return steps


def refused(estimator: PoseEstimator) -> int:
    """How many of three bad calls were not refused."""
    image = np.zeros((40, 40, 3), np.uint8)
    accepted = 0
    for bad, box in ((None, None), (image, (0, 0, float("nan"), 9)), (image, (100, 100, 120, 120))):
        try:
            estimator(bad, box)  # type: ignore[arg-type]
            accepted += 1
        except UsageError:
            pass
    return accepted


def soak(
    steps: Sequence[Step],
    expected: Sequence[bytes],
    frames: int,
    tell: Callable[[dict[str, Any]], None],
    *,
    between: Callable[[], int] = lambda: 0,
    every_s: float = 2.0,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Runs the cycle again and again.

    Args:
        steps: The frames of a cycle, as calls.
        expected: What each has to give, by `bits`.
        frames: How many in all.
        tell: Is given a sample as often as ``every_s`` says, and after the last frame.
        between: Is called after each cycle; what it gives counts as differing results.
        every_s: Seconds between two samples.
        clock: Monotonic seconds.
    """
    began = clock()
    due, differing, cycle = began + every_s, 0, len(steps)
    where: list[list[int]] = []
    for frame in range(frames):
        step = frame % cycle
        if bits(steps[step]()) != expected[step]:
            differing += 1
            if len(where) < TOLD:
                where.append([frame, step])
        if step == cycle - 1:
            differing += between()
        now = clock()
        if now >= due or frame == frames - 1:
            due = now + every_s
            done = {"frames": frame + 1, "seconds": round(now - began, 3), "differing": differing, "where": where}
            tell({"kind": "sample", **done, **sample()})


@dataclass(frozen=True)
class Verdict:
    """What a run showed.

    Attributes:
        frames: How many ran.
        seconds: In how long.
        samples: How many samples after the warm-up.
        differing: How many results differed.
        slopes: By quantity, for each thousand frames after the warm-up.
        first: What there was at the end of the warm-up.
        last: What there was at the end.
        failures: What is wrong, in sentences; empty for a run that passes.
    """

    frames: int
    seconds: float
    samples: int
    differing: int
    slopes: dict[str, Slope]
    first: dict[str, int]
    last: dict[str, int]
    failures: list[str]


def judge(lines: Sequence[str], warmup: float = 0.1) -> Verdict:
    """Judges the log of a run, finished or not.

    Args:
        lines: Of the log.
        warmup: This part of the frames comes before what is judged: allocators and caches fill.

    Raises:
        UsageError: It is too short.
    """
    samples = [one for one in map(json.loads, lines) if one["kind"] == "sample"]
    done = samples[-1] if samples else {"frames": 0}
    kept = [one for one in samples if one["frames"] >= warmup * done["frames"]]
    if len(kept) < LEAST_SAMPLES:
        raise UsageError(
            f"{len(kept)} samples after the warm-up tell no slope; {LEAST_SAMPLES} do.",
            hint="Run more frames, or take samples more often with --every.",
        )
    frames = np.array([one["frames"] for one in kept], float)
    slopes = {name: fit(frames, np.array([one[name] for one in kept], float)) for name in GROWING}
    failures = [f"{done['differing']} results differ, first at (frame, step) {done['where']}"] * bool(done["differing"])
    for name, found in slopes.items():
        if found.grows:
            failures.append(f"{name} grow by {found.slope:.1f} +- {found.error:.1f} in each thousand frames")
    for name in COUNTED:
        most = max(one[name] for one in kept)
        if most > kept[0][name]:
            failures.append(f"{name}: {kept[0][name]} after the warm-up, {most} later")
    ends = [{name: one[name] for name in sample()} for one in (kept[0], kept[-1])]
    return Verdict(done["frames"], done["seconds"], len(kept), done["differing"], slopes, *ends, failures)


def describe(verdict: Verdict) -> str:
    """The verdict in lines for a person."""
    rate = verdict.frames / verdict.seconds
    lines = [f"{verdict.frames:,} frames in {verdict.seconds:,.0f} s ({rate:,.0f} a second), {verdict.samples} samples"]
    lines.append(f"differing results: {verdict.differing}")
    for name, one in verdict.slopes.items():
        errors = f"Newey-West {one.newey_west_error:.2f}, blocks {one.block_error:.2f}"
        ends = f"{verdict.first[name]:,} -> {verdict.last[name]:,}"
        lines.append(f"{name}: {ends}; slope {one.slope:+.2f} +- {one.error:.2f} a thousand frames ({errors})")
    lines += [f"{name}: {verdict.first[name]} -> {verdict.last[name]}" for name in COUNTED]
    return "\n".join(lines + [f"FAILED: {one}" for one in verdict.failures] + ["passed"] * (not verdict.failures))


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def progress(options: argparse.Namespace, record: Mapping[str, Any]) -> None:
    """One line on standard error, over the last where that is a terminal."""
    rate, left = record["frames"] / record["seconds"], options.frames - record["frames"]
    line = (
        f"{options.backend}: {record['frames']:,} of {options.frames:,} frames, {rate:,.0f} a second, "
        f"{left / rate / 60:.1f} min left, {record['rss_bytes'] / 2**20:.1f} MiB, {record['differing']} differ"
    )
    terminal = sys.stderr.isatty()
    print(f"\r{line} " if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> None:
    """Runs, and writes the log.

    Raises:
        SpliteError: A bundle cannot be opened, or a frame failed.
    """
    cv2.setNumThreads(options.threads)
    paths = [path for path in (options.bundle, options.people) if path is not None]
    crops = [Bundle.open(path).golden().crops for path in paths]

    def opened(stack: ExitStack) -> list[PoseEstimator]:
        each = (PoseEstimator.open(path, options.backend, threads=options.threads) for path in paths)
        return [stack.enter_context(one) for one in each]

    def cycle(estimators: list[PoseEstimator]) -> list[Step]:
        return steps_of(estimators[0], crops[0], estimators[1] if estimators[1:] else None, crops[-1])

    with ExitStack() as stack:
        expected = [bits(step()) for step in cycle(opened(stack))]
    with ExitStack() as stack, options.log.open("w", encoding="utf-8") as log:

        def tell(record: dict[str, Any]) -> None:
            log.write(json.dumps(record) + "\n")
            log.flush()
            if record["kind"] == "sample":
                progress(options, record)

        estimators = opened(stack)
        settings = {name: getattr(options, name) for name in ("backend", "frames", "threads")}
        tell({"kind": "start", **settings, "cycle": len(expected), "versions": _versions()})
        between = lambda: refused(estimators[0])  # noqa: E731
        soak(cycle(estimators), expected, options.frames, tell, between=between, every_s=options.every)
    if sys.stderr.isatty():
        print(file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="ort", help="what runs the network: ort, litert (default: ort)")
    parser.add_argument("--bundle", type=Path, help="a bundle with one hand or person in each box")
    parser.add_argument("--people", type=Path, help="a bundle that finds people; without it that part is left out")
    parser.add_argument("--frames", type=int, default=1_000_000, help="how many (default: 1000000)")
    parser.add_argument("--threads", type=int, default=1, help="of the backend (default: 1)")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two samples (default: 2)")
    parser.add_argument("--log", type=Path, help="JSON lines of the samples, written anew")
    parser.add_argument("--judge", type=Path, metavar="LOG", help="judge this log, finished or not, and run nothing")
    parser.add_argument("--json", metavar="FILE", help="write the verdict as JSON; - is standard output")
    options = parser.parse_args(arguments)
    if options.judge is None and (options.bundle is None or options.log is None):
        parser.error("name --bundle and --log, or --judge LOG")
    try:
        if options.judge is None:
            run(options)
        verdict = judge((options.judge or options.log).read_text(encoding="utf-8").splitlines())
    except SpliteError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    if options.json:
        text = json.dumps(asdict(verdict), indent=2) + "\n"
        sys.stdout.write(text) if options.json == "-" else write_file(Path(options.json), text.encode())
    if options.json != "-":
        print(describe(verdict))
    return int(bool(verdict.failures))


if __name__ == "__main__":
    sys.exit(main())
