"""A cluster on paper: the real search and driver, in virtual time. It tells where more machines stop to help."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from splite_deploy.errors import SpliteError
from splite_deploy.fit.driver import Ended
from splite_deploy.fit.steps import Needs, Step
from splite_deploy.fit.work import Made


@dataclass(frozen=True)
class Machine:
    """One of the cluster.

    Attributes:
        cpus: Its cores.
        gpus: Its GPUs.
        devices: Machines that it reaches to measure on; each does one step at a time.
        dies_s: When it goes away, seconds after the beginning; None for never.
    """

    cpus: int
    gpus: float = 0
    devices: frozenset[str] = frozenset()
    dies_s: float | None = None


@dataclass
class _Room:
    """What is free on a machine."""

    machine: Machine
    cpus: float
    gpus: float
    devices: set[str] = field(default_factory=set)

    def has(self, needs: Needs) -> bool:
        device = needs.device is None or needs.device in self.devices
        return device and self.cpus >= needs.cpus and self.gpus >= needs.gpus

    def take(self, needs: Needs, sign: int) -> None:
        self.cpus -= sign * needs.cpus
        self.gpus -= sign * needs.gpus
        if needs.device is not None:
            (self.devices.discard if sign > 0 else self.devices.add)(needs.device)


class Simulated:
    """See `splite_deploy.fit.driver.Workers`; steps begin in the order of their submission, where there is room.

    Args:
        machines: The cluster.
        does: What a step makes, with the seconds that it takes.
        submit_s: What submitting a step takes of the driver's time, seconds.
        result_s: What a result takes of it, seconds.

    Attributes:
        now_s: The driver's clock.
        busy_s: Seconds of cores in use, of all machines together.
    """

    def __init__(
        self,
        machines: Sequence[Machine],
        does: Callable[[Step], Made | SpliteError],
        *,
        submit_s: float = 0.0,
        result_s: float = 0.0,
    ) -> None:
        self._rooms = [_Room(one, one.cpus, one.gpus, set(one.devices)) for one in machines]
        self._does, self._submit_s, self._result_s = does, submit_s, result_s
        self._queued: dict[Needs, deque[tuple[Step, frozenset[str]]]] = {}
        self._full_below: dict[Needs, int] = {}  # machines before this one have no room for such a step
        self._events: list[tuple[float, int, Ended, int]] = []
        self._arrived: deque[Ended] = deque()
        self._count = 0
        self.now_s = self.busy_s = 0.0

    def submit(self, step: Step, avoid: Collection[str]) -> None:
        """See `Workers.submit`."""
        self.now_s += self._submit_s
        self._pass_until(self.now_s)
        self._queued.setdefault(step.needs, deque()).append((step, frozenset(avoid)))
        self._begin(self.now_s)

    def wait(self) -> Sequence[Ended]:
        """See `Workers.wait`; the clock goes on to when the next one ends."""
        self._pass_until(self.now_s)
        if not self._arrived:
            if not self._events:
                raise AssertionError(f"nobody can do {[step for queue in self._queued.values() for step, _ in queue]}")
            self.now_s = max(self.now_s, self._events[0][0])
            self._pass_until(self.now_s)
        self.now_s += self._result_s
        return [self._arrived.popleft()]

    def _pass_until(self, now_s: float) -> None:
        while self._events and self._events[0][0] <= now_s:
            end_s, _, ended, index = heapq.heappop(self._events)
            self._rooms[index].take(ended.step.needs, -1)
            self._full_below = {needs: min(below, index) for needs, below in self._full_below.items()}
            self._arrived.append(ended)
            self._begin(end_s)

    def _begin(self, now_s: float) -> None:
        """Begins what there is room for."""
        for needs, queue in self._queued.items():
            while queue and (index := self._room_for(needs, queue[0][1], now_s)) is not None:
                self._do(queue.popleft()[0], index, now_s)

    def _room_for(self, needs: Needs, avoid: Collection[str], now_s: float) -> int | None:
        """A machine with room, another one than those to avoid where there is one."""
        other = None
        for index in range(self._full_below.get(needs, 0), len(self._rooms)):
            room = self._rooms[index]
            if not room.has(needs) or (room.machine.dies_s is not None and room.machine.dies_s <= now_s):
                continue
            if str(index) not in avoid:
                if not avoid:
                    self._full_below[needs] = index
                return index
            other = index if other is None else other
        if other is None:
            self._full_below[needs] = len(self._rooms)
        return other

    def _do(self, step: Step, index: int, now_s: float) -> None:
        room, node = self._rooms[index], str(index)
        made = self._does(step)
        ended = Ended(step, node, error=made) if isinstance(made, SpliteError) else Ended(step, node, made=made)
        end_s = now_s + (0.0 if isinstance(made, SpliteError) else made.seconds)
        dies_s = room.machine.dies_s
        if dies_s is not None and end_s > dies_s:
            end_s, ended = dies_s, Ended(step, node, error=SpliteError(f"Machine {node} went away."), lost=True)
        room.take(step.needs, 1)
        self.busy_s += (end_s - now_s) * step.needs.cpus
        self._count += 1
        heapq.heappush(self._events, (end_s, self._count, ended, index))
