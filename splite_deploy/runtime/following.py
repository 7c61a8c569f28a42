"""An estimator that follows a store: it goes on with what is installed there, and back where that fails."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import TypeVar

from splite_deploy.bundle import Bundle
from splite_deploy.errors import OutputError, SpliteError, UpdateError, UsageError, first_line
from splite_deploy.runtime.backends.base import OneAtATime
from splite_deploy.runtime.delegating import DelegatingEstimator, shielded, show_error
from splite_deploy.runtime.estimator import PoseEstimator, StageTimes
from splite_deploy.text import command
from splite_deploy.updates import Slot, Store

PROVING_FRAMES = 30
LOOK_EVERY_S = 1.0
MOST_STARTS = 3
"""How many programs may die of a bundle that proved itself in none: it may end them without an exception."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Loaded:
    """A bundle that can run.

    Attributes:
        number: Of its slot.
        estimator: Opened.
        proven: See `Slot.proven`.
        trial: Open while it is not proven; see `Store.trying`.
    """

    number: int
    estimator: PoseEstimator
    proven: bool
    trial: ExitStack

    def close(self) -> None:
        """Frees the session, and ends the trial."""
        self.estimator.close()
        self.trial.close()


class FollowingEstimator(DelegatingEstimator):
    """An estimator of what is installed in a store now: `PoseEstimator.follow` opens it.

    A thread looks into the store now and then, loads what was installed, and runs its golden image once; the next call
    after that is the first one of the new bundle, and no call waits. Until the new one has proven itself in some calls
    the old one stays loaded: where a call fails, or gives what is not finite, the same call is answered by the old one,
    the store goes back to the other bundle, and the new one counts as failed. So does a bundle that cannot be loaded
    where the other one can, and one that several programs died of before it was proven. A store that cannot be written
    to stays as it is, and this estimator alone goes back.

    A `UsageError`, such as of an empty image, is nobody's failure and is raised. So is every error of a bundle that has
    proven itself.

    Args:
        store: With an installed bundle.
        load: Opens an estimator of a bundle.
        proving_frames: See `PoseEstimator.follow`.
        look_every_s: See `PoseEstimator.follow`.
        told: See `PoseEstimator.follow`.

    Raises:
        SpliteError: See `PoseEstimator.follow`.
    """

    def __init__(
        self,
        store: Store,
        load: Callable[[Bundle], PoseEstimator],
        proving_frames: int,
        look_every_s: float,
        told: Callable[[str], None],
    ) -> None:
        self.store = store
        self._load, self._told = load, told
        self._proving_frames, self._look_every_s = proving_frames, look_every_s
        self._failed: set[int] = set()
        self._before: _Loaded | None = None
        self._ready: _Loaded | None = None
        self._swapping = Lock()
        self._guard = OneAtATime("estimator")
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._now = self._first()
        self._left = 0 if self._now.proven else proving_frames
        self._watcher = Thread(target=self._watch, name="splite-deploy store", daemon=True)
        self._watcher.start()

    @property
    def slot(self) -> int:
        """The number of the slot whose bundle answers now: 7 of ``7.splite``."""
        return self._now.number

    def take_times(self) -> StageTimes:
        """See `PoseEstimator.take_times`; of the bundle that answers now."""
        return self._now.estimator.take_times()

    def close(self) -> None:
        """Frees the sessions, and ends the thread.

        Raises:
            BackendError: Another thread uses it.
        """
        if not self._guard.forked:
            with self._guard:
                self._left = 0  # a call of a closed one is no failure of its bundle
                self._work.put(None)
                self._watcher.join()
        for one in (self._ready, self._before, self._now):
            if one is not None:
                (one.estimator if self._guard.forked else one).close()  # a trial is the parent's
        self._ready = self._before = None

    @property
    def _current(self) -> PoseEstimator:
        return self._now.estimator

    def _answer(self, run: Callable[[PoseEstimator], _T]) -> _T:
        with self._guard:
            self._take_ready()
            while True:
                try:
                    found = run(self._now.estimator)
                except UsageError:
                    raise
                except Exception as err:
                    if not (self._left and self._go_back(first_line(err, named=True))):
                        raise
                else:
                    self._count()
                    return found

    def _take_ready(self) -> None:
        """Goes on with what was loaded, once the bundle before it has proven itself, or if the new one has."""
        with self._swapping:
            new = self._ready
            if new is None or (self._left and not new.proven):
                return
            self._ready = None
            self._retire()
            self._before, self._now = self._now, new
        self._left = 0 if new.proven else self._proving_frames
        self._say(f"Goes on with the bundle {self.store.path / f'{new.number}.splite'}.")
        if new.proven:
            self._retire()

    def _count(self) -> None:
        """Counts a call that was all right; what takes time is left to the thread."""
        if self._left:
            self._left -= 1
            if not self._left:
                now = self._now
                self._work.put(lambda: self.store.note_proven(now.number))
                self._work.put(now.trial.close)
                self._retire()

    def _retire(self) -> None:
        if (before := self._before) is not None:
            self._before = None
            self._work.put(before.close)

    def _go_back(self, reason: str) -> bool:
        """Answers with the bundle before; whether there is one."""
        bad, why = self._now, f"a call failed: {reason}"
        self._failed.add(bad.number)
        if self._before is not None:
            back, self._before = self._before, None
        else:  # this program began with it
            try:
                back = self._other()
            except SpliteError:
                return False
        self._now = back
        self._left = 0
        self._work.put(lambda: self.store.roll_back(why, of=bad.number))
        self._work.put(bad.close)
        self._say(f"Goes back to the bundle {back.number}.splite of {self.store.path}: {why}")
        return True

    def _other(self) -> _Loaded:
        """What to go on with instead of a bundle that failed.

        It is loaded before the store goes back to it: what fails there too is the fault of the caller's options, or of
        this machine.

        Raises:
            SpliteError: There is nothing.
        """
        state = self.store.read()
        for slot in (state.current, state.other):
            if slot is not None and slot.number not in self._failed and not slot.failed:
                return self._loaded(slot)
        raise UpdateError(f"{self.store.path} holds no other bundle.", hint="Install one that works.")

    def _first(self) -> _Loaded:
        """The current bundle, or the other one where that cannot be loaded.

        Raises:
            SpliteError: Neither can.
        """
        slot = self.store.read().current
        try:
            return self._loaded(slot)
        except SpliteError as err:
            if slot.proven:
                raise
            self._failed.add(slot.number)
            try:
                other = self._other()
            except SpliteError:
                raise err from None
            with suppress(OutputError):  # somebody else's store
                self.store.roll_back(first_line(err, named=True), of=slot.number)
            self._say(f"Begins with the bundle {other.number}.splite of {self.store.path}: {err.message}")
            return other

    def _loaded(self, slot: Slot) -> _Loaded:
        """Opens the bundle of a slot, and runs its golden image once.

        Raises:
            UpdateError: Too many programs died of it.
            SpliteError: It cannot be opened, or does not run.
        """
        with ExitStack() as opened:
            trial = opened.enter_context(ExitStack())
            if not slot.proven:
                self._try(slot, trial)
            bundle = Bundle.open(self.store.folder(slot))
            estimator = self._load(bundle)
            opened.callback(estimator.close)
            golden = bundle.golden().image
            estimator(golden.pixels, golden.box)
            estimator.take_times()  # which are those of calls
            opened.pop_all()
        return _Loaded(slot.number, estimator, slot.proven, trial)

    def _try(self, slot: Slot, trial: ExitStack) -> None:
        """Counts a program that begins with a bundle that is not proven.

        Raises:
            UpdateError: Too many died of it.
        """
        try:
            died = trial.enter_context(self.store.trying(slot.number))
        except OutputError:  # somebody else's store
            return

        def end() -> None:
            """Of a program that closes nothing at its end, which is no death."""
            if not self._guard.forked:
                trial.close()

        atexit.register(end)
        trial.callback(atexit.unregister, end)
        if died >= MOST_STARTS:
            raise UpdateError(
                f"{slot.number}.splite of {self.store.path} was started {died} times, and never came to "
                f"{self._proving_frames} results.",
                hint=f"Install one that works: {command('install', self.store.path, 'NAME.splite')}.",
            )

    def _say(self, message: str) -> None:
        """Has something told by the thread: no call waits for who is told, or fails with them."""
        self._work.put(lambda: shielded(lambda: self._told(message)))

    def _watch(self) -> None:
        """What the thread does: looks into the store, and what `_work` holds."""
        trouble = ""
        while True:
            try:
                work = self._work.get(timeout=self._look_every_s)
            except Empty:
                work = self._look
            if work is None:
                return
            try:
                work()
            except SpliteError as err:  # the store cannot be read or written to, or there is nothing to go back to
                if err.message != trouble:  # which may last
                    self._say(err.message)
                trouble = err.message
            except Exception:  # our own: the store is followed on
                show_error()
            else:
                trouble = "" if work == self._look else trouble

    def _look(self) -> None:
        """Loads the current bundle where it is another one than that which answers, or will with the next call."""
        slot = self.store.read().current
        with self._swapping:
            unused = None
            if self._ready is not None and self._ready.number != slot.number:  # somebody went back in the meantime
                unused, self._ready = self._ready, None
            known = {self._now.number, *self._failed, *([self._ready.number] if self._ready else [])}
        if unused is not None:
            unused.close()
        if slot.number in known:
            return
        try:
            new = self._loaded(slot)
        except Exception as err:
            if self.store.read().current.number != slot.number:
                return  # it was removed while it was loaded
            self._failed.add(slot.number)
            why = f"it cannot be loaded: {first_line(err, named=True)}"
            self._say(f"Stays with the bundle {self._now.number}.splite of {self.store.path}: {why}")
            self.store.roll_back(why, of=slot.number)
            return
        with self._swapping:
            self._ready = new
