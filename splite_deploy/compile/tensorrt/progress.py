"""The progress of a build, from the nested phases that TensorRT reports (10.0 and later)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_SMALLEST = 0.005
"""Least growth of the share that is reported."""


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Phases:
    """The phases that are running, and the share of the build that is done; TensorRT calls from many threads.

    Args:
        tell: Called with the phase and the share, 0 to 1, which never falls.
    """

    def __init__(self, tell: Callable[[str, float], None]) -> None:
        self._tell = tell
        self._phases: dict[str, _Phase] = {}
        self._told = 0.0
        self._lock = threading.Lock()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins, within a step of its parent."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(steps, 1))
            self._report(name)

    def step(self, name: str, step: int) -> None:
        """A step, counted from 0, is done."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = step + 1
                self._report(name)

    def finish(self, name: str) -> None:
        """A phase ends."""
        with self._lock:
            self._phases.pop(name, None)

    def _report(self, name: str) -> None:
        share, above = 0.0, name
        while above:
            phase = self._phases.get(above)
            if phase is None:  # its parent has ended before it
                return
            share = min((phase.done + share) / phase.steps, 1.0)
            above = phase.parent or ""
        if share >= self._told + _SMALLEST:
            self._told = share
            self._tell(name, share)


def progress_monitor(trt: Any, tell: Callable[[str, float], None]) -> Any:
    """A monitor for ``IBuilderConfig.progress_monitor``."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Passes everything on to `Phases`."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases = Phases(tell)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.phases.step(phase_name, step)
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            self.phases.finish(phase_name)

    return Monitor()
