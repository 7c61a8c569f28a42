"""SIGTERM, SIGHUP and Ctrl-C in the program: all three end it in the same way, with partial work removed.

A signal raises `Interrupted` in the main thread, so that every block that is open ends its children and removes what it
has not finished. A thread looks after that: where the main thread does not react, since it is inside of native code, or
does not come to an end, the thread removes the partial work and ends the process; a second signal ends it at once.

Only the program takes signals; whoever uses the package as a library keeps theirs. Standard library only, and little of
it: this is imported before anything else.
"""

from __future__ import annotations

import _thread
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

REACTS_WITHIN_S = 3.0
"""How long the main thread may take to notice a signal: native code cannot be interrupted."""
ENDS_WITHIN_S = 8.0
"""How long it may take from then on, to end children and remove folders."""
_SAME_S = 0.3  # who ends a process and then its group, as timeout(1) does, sends the signal twice
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_LOST, _REACTED, _SETTLED = 253, 254, 255  # beside the numbers of signals
_ELSEWHERE_WITHIN_S = 0.05  # the main thread has left the place where nothing can be raised
_SHOW_CURSOR = "\x1b[?25h"


class Interrupted(KeyboardInterrupt):
    """Somebody wants this process to end."""


class Interruption:
    """The signals of this process while it is the program."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._again = False
        self._undivided, self._late = 0, False
        self._last_acts: list[Callable[[], AbstractContextManager[None]]] = []
        self._ended = ExitStack()
        self._said = False
        self._before: dict[int, Any] = {}
        self._write: int | None = None
        self._wakeup_before = -1
        self._hook_before = sys.unraisablehook

    @property
    def came(self) -> bool:
        """Whether a signal came that nothing has settled."""
        return self._number is not None

    def take(self) -> bool:
        """Takes the signals that are not ignored: what `nohup` lets a process ignore stays ignored.

        Returns:
            Whether they were taken just now: not again, nor outside of the main thread.
        """
        if self._write is not None or threading.current_thread() is not threading.main_thread():
            return False
        read, self._write = map(_beside_standard_streams, os.pipe())
        os.set_blocking(self._write, False)
        self._number, self._said, self._again = None, False, False
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._hook_before, sys.unraisablehook = sys.unraisablehook, self._unraisable
        threading.Thread(target=self._watch, args=(read, set(self._before)), name="signals", daemon=True).start()
        return True

    def give_back(self) -> None:
        """Gives the signals to whom they were taken from."""
        if self._write is None:
            return
        sys.unraisablehook = self._hook_before
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        self._number = None
        write, self._write = self._write, None
        os.close(write)  # the thread ends
        self._ended.close()

    def at_end(self, act: Callable[[], AbstractContextManager[None]]) -> None:
        """Has this entered before the program ends because of a signal, perhaps in another thread than the main one.

        It is left where the process lives on, since somebody called the program as a function.
        """
        self._last_acts.append(act)

    def settle(self) -> None:
        """The work ends as it should where somebody stops it; another signal is the first one again."""
        self._number = None
        self._tell(_SETTLED)

    def end(self) -> NoReturn:
        """Says why the program ends, and leaves it; the thread looks after that."""
        self._clean_up()  # a signal may have come just when a block removed its work
        number = self._number or signal.SIGINT
        self._say(number)
        sys.exit(_status(number))

    def let_go(self) -> None:
        """What remains is Python's own end, which a signal may cut short, without a traceback."""
        if self._number is None:
            for number in self._before:
                signal.signal(number, signal.SIG_DFL)

    def forget(self) -> None:
        """In a fork of this process, which is no program of ours and ends as forks do."""
        if self._write is not None:
            signal.set_wakeup_fd(-1)
            for number in self._before:
                signal.signal(number, signal.SIG_DFL)
            self._before.clear()
            self._write = None

    @contextmanager
    def undivided(self) -> Iterator[None]:
        """A signal that comes while this short block runs is raised when it ends.

        For what is made and noted down in two steps: between them nobody would know of it.
        """
        if threading.current_thread() is not threading.main_thread():  # where signals raise nothing
            yield
            return
        self._undivided += 1
        try:
            yield
        finally:
            self._undivided -= 1
            if self._late and not self._undivided:
                self._late = False
                raise Interrupted

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._number is not None and not self._again:
            return  # the thread decides what a second one means
        self._again = False
        self._number = number
        self._tell(_REACTED)
        if self._undivided:
            self._late = True
            return
        raise Interrupted

    def _unraisable(self, unraisable: Any) -> None:
        """Has it raised once more where it came up in a place that nothing can be raised from, as a destructor."""
        if self._number is not None and isinstance(unraisable.exc_value, Interrupted):
            self._tell(_LOST)
        else:
            self._hook_before(unraisable)

    def _tell(self, what: int) -> None:
        if self._write is not None:
            with suppress(OSError):
                os.write(self._write, bytes([what]))

    def _watch(self, read: int, taken: set[int]) -> None:
        first, began_s, until_s, own = 0, 0.0, None, 0
        with open(read, "rb", buffering=0) as told:
            while True:
                wait_s = None if until_s is None else max(0.0, until_s - time.monotonic())
                if not select.select([told], [], [], wait_s)[0]:
                    self._leave(first)
                what, now_s = told.read(1), time.monotonic()
                if not what:
                    return
                if what[0] == _SETTLED:
                    first, until_s = 0, None
                elif what[0] == _REACTED:
                    until_s = now_s + ENDS_WITHIN_S
                elif what[0] == _LOST:
                    time.sleep(_ELSEWHERE_WITHIN_S)
                    self._again, own = True, own + 1
                    _thread.interrupt_main(signal.Signals(first))
                elif what[0] in taken and own:
                    own -= 1
                elif what[0] in taken and not first:
                    first, began_s, until_s = what[0], now_s, now_s + REACTS_WITHIN_S
                elif what[0] in taken and now_s - began_s > _SAME_S:
                    os._exit(_status(first))  # children end with this process, and the next run removes what is left

    def _leave(self, number: int) -> NoReturn:
        self._clean_up()
        self._say(number)
        os._exit(_status(number))

    def _clean_up(self) -> None:
        for act in self._last_acts:
            self._ended.enter_context(act())

    def _say(self, number: int) -> None:
        if self._said:
            return
        self._said = True
        who = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        with suppress(OSError, ValueError, AttributeError):  # the terminal may be gone
            show = _SHOW_CURSOR if sys.stderr.isatty() else ""
            sys.stderr.write(f"{show}Stopped by {who}; unfinished work was removed.\n")
            sys.stderr.flush()


def _status(number: int) -> int:
    """Of a process that a signal ended, as shells have it."""
    return 128 + number


def _beside_standard_streams(handle: int) -> int:
    """The same file under a number that is none of theirs, even where one of them was closed."""
    if os.name != "posix" or handle > 2:
        return handle
    import fcntl

    try:
        return fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(handle)


current = Interruption()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=current.forget)


@contextmanager
def taken() -> Iterator[None]:
    """The signals are the program's until the block ends, unless they are already."""
    if not current.take():
        yield
        return
    try:
        yield
    finally:
        current.give_back()
