"""A run without a pause: what the first second promises, and what is left of it when the machine is warm."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splite_deploy.bench.loop import Clock, Subject, garbage_collector_off
from splite_deploy.bench.result import CurvePoint, Sustained, ThrottlingState
from splite_deploy.device.sensors import Sensors, recording

SLOWER = 1.1
"""The end counts as slower from this ratio to the beginning on."""
CLOCK_FELL = 0.95
"""A clock counts as fallen below this ratio."""
LEAST_POINTS = 10
PART = 5
"""Beginning and end are this part of the run each."""


def sustain(
    subject: Subject,
    duration_s: float,
    *,
    clock: Clock = time.perf_counter_ns,
    progress: Callable[[int, int], None] = lambda done, total: None,
    root: Path = Path("/"),
) -> Sustained:
    """Runs frames one after the other for a time, with the sensors read beside them.

    Args:
        subject: What runs.
        duration_s: For how long, seconds.
        clock: Monotonic nanoseconds.
        progress: Called with (seconds done, seconds in all) once a second.
        root: Where sensors are looked up.

    Raises:
        BackendError: The backend failed.
    """
    ended_ns: list[int] = []
    with garbage_collector_off(), recording(root) as finish:
        began = clock()
        end, told = began + round(1e9 * duration_s), 0
        while not ended_ns or ended_ns[-1] < end:
            subject.run(len(ended_ns))
            ended_ns.append(clock())
            second = (ended_ns[-1] - began) // 1_000_000_000
            if second > told:
                told = second
                progress(min(second, int(duration_s)), int(duration_s))
        sensors = finish(len(ended_ns))
    seconds = (ended_ns[-1] - began) / 1e9
    # The frame that was running when the time was up belongs to the last whole second.
    ended_s = np.minimum((np.array(ended_ns) - began) / 1e9, np.nextafter(duration_s, 0))
    points = curve(np.diff([began, *ended_ns]) / 1e6, ended_s)
    state, reason = throttling(points, sensors)
    return Sustained(
        seconds=seconds,
        frames=len(ended_ns),
        frames_per_second=len(ended_ns) / seconds,
        curve=points,
        state=state,
        reason=reason,
        sensors=sensors if sensors.mean_power_mw or sensors.temperatures_c or sensors.clocks_mhz else None,
    )


def curve(durations_ms: NDArray[np.float64], ended_s: NDArray[np.float64]) -> tuple[CurvePoint, ...]:
    """What frames took, second by second of their end."""
    seconds = ended_s.astype(int)
    points = []
    for second in np.unique(seconds):
        chosen = durations_ms[seconds == second]
        points.append(CurvePoint(int(second), len(chosen), float(np.median(chosen)), float(chosen.max())))
    return tuple(points)


def throttling(points: Sequence[CurvePoint], sensors: Sensors | None) -> tuple[ThrottlingState, str]:
    """Compares the last fifth of a run with its first, in latency and in what clocks were read."""
    part = len(points) // PART
    if len(points) < LEAST_POINTS:
        seconds = f"{len(points)} second{'s'[: len(points) != 1]}"
        return "too short", f"{seconds} with frames; {LEAST_POINTS} or more tell whether it slows down"
    first = float(np.median([point.p50_ms for point in points[:part]]))
    last = float(np.median([point.p50_ms for point in points[-part:]]))
    change = f"p50 {first:.3f} ms in the first {part} s, {last:.3f} ms in the last"
    if last < SLOWER * first:
        return "steady", change
    fell = fallen_clocks(sensors.seconds, sensors.clocks_mhz) if sensors is not None else {}
    if fell:
        clocks = ", ".join(f"{name} {before:.0f} to {after:.0f} MHz" for name, (before, after) in fell.items())
        return "throttled", f"{change}; meanwhile the clock fell: {clocks}"
    read = "no clock that was read fell" if sensors is not None and sensors.clocks_mhz else "no clock could be read"
    return "slowed", f"{change}; {read}"


def fallen_clocks(
    seconds: Sequence[float], clocks_mhz: Mapping[str, Sequence[float | None]]
) -> dict[str, tuple[float, float]]:
    """Clocks whose median of the last fifth lies below that of the first: (before, after) in MHz."""
    part = max(1, len(seconds) // PART)
    found = {}
    for name, values in clocks_mhz.items():
        first, last = ([v for v in span if v is not None] for span in (values[:part], values[-part:]))
        if first and last and np.median(last) < CLOCK_FELL * np.median(first):
            found[name] = (float(np.median(first)), float(np.median(last)))
    return found
