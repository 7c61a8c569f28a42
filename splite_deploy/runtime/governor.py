"""Which of several variants a frame should run, so that nearly all frames keep a latency budget.

Time comes in as an argument and nothing is loaded or run here: a simulation decides as an application does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from statistics import median

WINDOW = 60
"""Frames whose 95th percentile has to keep the budget: two seconds of a camera."""
REST_S = 2.0
"""The least time between two changes."""
_SHARE = 0.95  # of the frames of a window that keep the budget
_IN_A_ROW = 3  # late frames that are no accident
_ROOM = 0.85  # of the budget, which what is more accurate must be predicted to keep
_TIGHT, _WIDE = 0.7, 0.5  # of the budget: above the one something faster is kept ready, until it is below the other
_CHEAPER = 0.95  # of what a frame takes, below which something is faster
_PROBES = 3  # of what is more accurate, before it is taken
_REMEMBERED = 5
_LONGEST_PATIENCE_S, _REGRET_S = 60.0, 10.0


@dataclass(frozen=True)
class Switch:
    """A change from one variant to another.

    Attributes:
        at_s: When, on the caller's clock.
        before: The variant until then, as a position in the order of accuracy.
        after: The variant from then on.
        p95_ms: Of the last frames before it; None where there were none.
        why: ``late`` where the budget was broken, ``room`` where a more accurate one keeps it, ``failed`` where the one
            before could not go on.
    """

    at_s: float
    before: int
    after: int
    p95_ms: float | None
    why: str


class Governor:
    """Chooses by what frames took, and by probes: now and then one frame is run by a variant that is ready.

    It goes to something faster when more than 5 % of the last frames were late, or three in a row, and to the most
    accurate one that is predicted to keep the budget. Nothing is gone to that was not probed, since it may be slower.
    It goes back when that keeps 85 % of the budget for a while, which doubles each time that this was regretted within
    ten seconds. What one variant takes of the time of another is the median of such probes, each over the median of the
    frames around it, so that it holds under any load.

    Attributes:
        active: The variant that frames are run by, as a position in the order of accuracy, the most accurate first.
        budget_ms: What the 95th percentile of a window is to keep.

    Args:
        count: Number of variants.
        budget_ms: See above.
        window: Frames.
        rest_s: The least time between two changes.
    """

    def __init__(self, count: int, budget_ms: float, window: int = WINDOW, rest_s: float = REST_S) -> None:
        self.active, self.budget_ms = 0, budget_ms
        self._window, self._rest_s = window, rest_s
        self._recent_ms: deque[float] = deque(maxlen=window)
        self._costs: list[deque[float]] = [deque(maxlen=_REMEMBERED) for _ in range(count)]
        self._costs[0].append(1.0)
        self._since_probe = 0
        self._changed_s = self._rose_s = float("-inf")
        self._room_since_s: float | None = None
        self._is_tight = True
        self._patience_s = rest_s

    def choose(self, now_s: float, ready: Collection[int]) -> tuple[int, Switch | None]:
        """The variant for the next frame, and the change that was made for it, if one was.

        Args:
            now_s: A clock that never goes back.
            ready: The variants that can run at once; not empty.
        """
        self._since_probe += 1
        if self.active not in ready:
            nearest = min(ready, key=lambda one: (one < self.active, abs(one - self.active)))
            switch = self._change(now_s, nearest, "failed")
            if not self._costs[nearest]:  # all that is known compares with what is gone
                for costs in self._costs:
                    costs.clear()
                self._costs[nearest].append(1.0)
            return nearest, switch
        rested = now_s - self._changed_s >= self._rest_s
        if self.is_late:
            self._room_since_s = None
            target = self._that_keeps_budget(ready) if rested else None
            if target is not None:
                return target, self._change(now_s, target, "late")
            return self._probe_while_late(ready), None
        target = self._with_room(ready)
        if target is None:
            self._room_since_s = None
        elif self._room_since_s is None:
            self._room_since_s = now_s
        elif rested and now_s - self._room_since_s >= self._patience_s:
            return target, self._change(now_s, target, "room")
        return self._probe(ready), None

    def note(self, variant: int, took_ms: float) -> None:
        """What a frame took that was run by ``variant``."""
        if variant == self.active:
            self._recent_ms.append(took_ms)
            return
        self._since_probe = 0
        if not self._recent_ms or not took_ms:
            return
        self._costs[variant].append(self._cost(self.active) * took_ms / median(self._recent_ms))

    def wanted(self, most: int) -> list[int]:
        """The variants that should be ready, the active one first, at most so many."""
        p95_ms = self._p95_ms()
        faster = [one for one in range(self.active + 1, len(self._costs)) if self._may_be_faster(one)]
        better = [one for one in range(self.active - 1, -1, -1) if self._may_fit(one)]
        if p95_ms is not None:
            self._is_tight = p95_ms > (_WIDE if self._is_tight else _TIGHT) * self.budget_ms
        # Of either kind one at first: what is wanted next lies beside what runs
        first, second = (faster, better) if self._is_tight else (better, faster)
        ordered = [*first[:1], *second[:1], *first[1:], *second[1:]]
        return [self.active, *ordered][:most]

    def _change(self, now_s: float, after: int, why: str) -> Switch:
        made = Switch(now_s, self.active, after, self._p95_ms(), why)
        if why == "room":
            self._rose_s = now_s
        elif now_s - self._rose_s < _REGRET_S:
            self._patience_s = min(2 * self._patience_s, _LONGEST_PATIENCE_S)
        else:
            self._patience_s = self._rest_s
        self.active, self._changed_s, self._room_since_s = after, now_s, None
        self._recent_ms.clear()
        return made

    @property
    def is_late(self) -> bool:
        """Whether more of the last frames were late than may be."""
        late = [took_ms > self.budget_ms for took_ms in self._recent_ms]
        allowed = self._window - int(_SHARE * self._window)
        return sum(late) > allowed or (len(late) >= _IN_A_ROW and all(late[-_IN_A_ROW:]))

    def _that_keeps_budget(self, ready: Collection[int]) -> int | None:
        """The most accurate that is predicted to keep the budget, else the fastest."""
        others = [one for one in sorted(ready) if one != self.active]
        for one in others:
            predicted_ms = self._predicted_ms(one)
            if predicted_ms is not None and predicted_ms <= self.budget_ms:
                return one
        faster = [one for one in others if self._ratio(one) is not None and self._may_be_faster(one)]
        return min(faster, key=self._cost, default=None)

    def _with_room(self, ready: Collection[int]) -> int | None:
        """The most accurate that is known to keep part of the budget, where a whole window has been seen."""
        if len(self._recent_ms) < self._window:
            return None
        for one in sorted(ready):
            if one < self.active and len(self._costs[one]) >= _PROBES and self._may_fit(one):
                return one
        return None

    def _probe_while_late(self, ready: Collection[int]) -> int:
        """What may be faster and is hardly known, at once; else whatever is known least, once in a window."""
        others = sorted((one for one in ready if one != self.active), key=lambda one: len(self._costs[one]))
        for one in others:
            ratio = self._ratio(one)
            if one > self.active and (ratio is None or (ratio > _CHEAPER and len(self._costs[one]) < _PROBES)):
                return one
        return others[0] if others and self._since_probe >= self._window else self.active

    def _probe(self, ready: Collection[int]) -> int:
        """A variant of which more should be known, once in a window; else the active one."""
        if self._since_probe < self._window or len(self._recent_ms) < self._window // 2:
            return self.active
        return next(self._unsure(ready), self.active)

    def _unsure(self, ready: Collection[int]) -> Iterator[int]:
        """Variants that have been probed too rarely: faster ones, and those more accurate that may fit."""
        for one in sorted(ready, key=lambda one: (one < self.active, abs(one - self.active))):
            if one == self.active or len(self._costs[one]) >= _PROBES:
                continue
            if self._may_be_faster(one) if one > self.active else self._may_fit(one):
                yield one

    def _may_be_faster(self, one: int) -> bool:
        ratio = self._ratio(one)
        return one > self.active if ratio is None else ratio <= _CHEAPER

    def _may_fit(self, one: int) -> bool:
        """Whether it is predicted to keep part of the budget; of one that is hardly known, whether what runs does."""
        p95_ms, ratio = self._p95_ms(), self._ratio(one)
        known = ratio if len(self._costs[one]) >= _PROBES else None
        return p95_ms is not None and p95_ms * (1 if known is None else known) <= _ROOM * self.budget_ms

    def _predicted_ms(self, one: int) -> float | None:
        p95_ms, ratio = self._p95_ms(), self._ratio(one)
        return None if p95_ms is None or ratio is None else p95_ms * ratio

    def _ratio(self, one: int) -> float | None:
        """What it takes of the time of the active one; None where that is not known."""
        return self._cost(one) / self._cost(self.active) if self._costs[one] else None

    def _cost(self, one: int) -> float:
        return median(self._costs[one])

    def _p95_ms(self) -> float | None:
        if not self._recent_ms:
            return None
        ordered = sorted(self._recent_ms)
        return ordered[min(int(_SHARE * len(ordered)), len(ordered) - 1)]
