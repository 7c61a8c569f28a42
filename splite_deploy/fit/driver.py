"""Brings steps, the store and workers together: what is known is not done again, and what fails is tried again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from splite_deploy.errors import SpliteError
from splite_deploy.fit.steps import Result, Step
from splite_deploy.fit.store import Store
from splite_deploy.fit.work import Made

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
Flow = Generator[Step, Result, T]
"""A part of a search that asks for steps, one after the other, and is given what came of them."""
LOST_TRIES = 3
"""How often a step is begun whose machine goes away before it is given up."""


@dataclass(frozen=True)
class Ended:
    """A step that came to an end.

    Attributes:
        step: The step.
        node: The machine that did it, as text.
        made: What it made; None where it failed.
        error: Why it failed.
        lost: Whether its machine went away, which says nothing about the step.
    """

    step: Step
    node: str
    made: Made | None = None
    error: SpliteError | None = None
    lost: bool = False


class Workers(Protocol):
    """Who does steps."""

    def submit(self, step: Step, avoid: Collection[str]) -> None:
        """Takes a step, to be done when there is room for it.

        Args:
            step: The step; the workers get its inputs from the store.
            avoid: Machines on which it failed: another one does it, where there is another.
        """

    def wait(self) -> Sequence[Ended]:
        """Waits until one of the submitted steps ends, or more."""


@dataclass(frozen=True)
class FailedTry:
    """A step that failed once.

    Attributes:
        step: What and for whom.
        node: Where.
        error: What it said.
        again: Whether it was tried again.
    """

    step: str
    node: str
    error: str
    again: bool


class Driver:
    """Does what flows ask for, all of them at once.

    Args:
        store: Knows what was done before, and keeps what is done.
        workers: Do the rest.
        retries: How often a step is done again that fails.
        tell: Called with a step and what happens to it: ``waits``, ``found``, ``done``, ``failed``.
    """

    def __init__(
        self,
        store: Store,
        workers: Workers,
        *,
        retries: int = 1,
        tell: Callable[[Step, str], None] = lambda step, what: None,
    ) -> None:
        self.store = store
        self._workers, self._retries, self._tell = workers, retries, tell
        self.done: Counter[str] = Counter()
        self.found: Counter[str] = Counter()
        self.failed: list[FailedTry] = []

    def together(self, flows: Mapping[K, Flow[T]]) -> dict[K, T | SpliteError]:
        """Lets flows go on until all of them have ended. Two that ask for the same step share it.

        Returns:
            What each gave, in their order; the error of one that failed.

        Raises:
            OutputError: The store cannot be written: what was kept so far is found again.
        """
        given: dict[K, T | SpliteError] = {}
        waiting: defaultdict[str, list[K]] = defaultdict(list)
        tries: Counter[str] = Counter()
        avoid: defaultdict[str, set[str]] = defaultdict(set)

        def go_on(name: K, result: Result | SpliteError | None) -> None:
            flow = flows[name]
            try:
                while True:
                    step = flow.throw(result) if isinstance(result, SpliteError) else flow.send(result)  # type: ignore[arg-type]
                    result = self.store.find(step)
                    if result is None:
                        break
                    self.found[step.kind] += 1
                    self._tell(step, "found")
            except StopIteration as end:
                given[name] = end.value
            except SpliteError as err:
                given[name] = err
            else:
                waiting[step.key].append(name)
                if len(waiting[step.key]) == 1:
                    self._tell(step, "waits")
                    self._workers.submit(step, ())

        for name in flows:
            go_on(name, None)
        while waiting:
            for ended in self._workers.wait():
                step = ended.step
                tries[step.key] += 1
                result = self._judged(ended, tries[step.key])
                if result is None:
                    avoid[step.key].add(ended.node)
                    self._workers.submit(step, avoid[step.key])
                    continue
                for name in waiting.pop(step.key):
                    go_on(name, result)
        return {name: given[name] for name in flows}

    def _judged(self, ended: Ended, tries: int) -> Result | SpliteError | None:
        """What to give to who asked for it; None where it is to be done again."""
        step, made = ended.step, ended.made
        if made is not None:
            result = self.store.keep(step, made.files, made.facts, made.seconds, ended.node)
            self.done[step.kind] += 1
            self._tell(step, "done")
            return result
        assert ended.error is not None
        again = tries < (LOST_TRIES if ended.lost else 1 + self._retries)
        self.failed.append(FailedTry(str(step), ended.node, ended.error.message, again))
        if again:
            return None
        self._tell(step, "failed")
        return ended.error


def succeeded(given: Mapping[K, T | SpliteError]) -> dict[K, T]:
    """Those that did not fail."""
    return {name: one for name, one in given.items() if not isinstance(one, SpliteError)}


def errors_of(given: Mapping[K, Any]) -> dict[K, SpliteError]:
    """Those that failed."""
    return {name: one for name, one in given.items() if isinstance(one, SpliteError)}
