"""Run as a file, in a process of its own, by `splite_deploy.children`: a program, kept until whoever wants it is gone.

The program leads a group of processes. When it ends, or when the other end of a pipe is closed (which the system does
for a process that dies, however it dies), what is left of the group is killed.
"""

from __future__ import annotations

import _thread
import os
import select
import signal
import sys
from contextlib import suppress

_FAILED_TO_START = 127  # as of a shell
_LOOK_EVERY_S = 0.5


def main() -> None:
    """Starts ``sys.argv[2:]`` and ends as it ends; ``sys.argv[1]`` is the descriptor of the pipe."""
    life, command, keeper = int(sys.argv[1]), sys.argv[2:], os.getpid()
    program = os.fork()
    if program == 0:
        _become(command, keeper)
    with suppress(OSError):  # as the program does itself, whoever comes first
        os.setpgid(program, program)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # of the program alone: its readers see when it closes them
        os.dup2(nothing, stream)
    guard, leave = _guard(program)
    _thread.start_new_thread(_watch, (life, program))
    _, status = os.waitpid(program, 0)
    _kill_group(program)
    with suppress(OSError):  # somebody killed the guard
        os.write(leave, b".")
    os.waitpid(guard, 0)
    if not os.WIFSIGNALED(status):
        os._exit(os.WEXITSTATUS(status))
    _end_by(os.WTERMSIG(status))


def end_with_parent(parent: int) -> None:
    """Lets this process be killed when its parent dies; where the system cannot do that (not Linux) nothing happens.

    Args:
        parent: The parent's number. It may be dead already.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _become(command: list[str], keeper: int) -> None:
    try:
        os.setpgid(0, 0)
        end_with_parent(keeper)
        for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(ignored_by_python, signal.SIG_DFL)
        os.execvp(command[0], command)
    except OSError as err:
        os.write(2, f"{command[0]}: {err.strerror}\n".encode(errors="surrogateescape"))
    finally:
        os._exit(_FAILED_TO_START)


def _guard(program: int) -> tuple[int, int]:
    """Starts a process that kills the group where this one is killed, as Ray does with the children of its own.

    Returns:
        Its number, and a descriptor: what is written there ends it.
    """
    told, leave = os.pipe()
    guard = os.fork()
    if guard == 0:
        os.close(leave)
        if not os.read(told, 1):
            _kill_group(program)
        os._exit(0)
    os.close(told)
    return guard, leave


def _watch(life: int, program: int) -> None:
    """Waits until the pipe is closed, or, where a process forked by the owner holds it still, the owner is gone."""
    owner = os.getppid()
    while os.getppid() == owner and not select.select([life], [], [], _LOOK_EVERY_S)[0]:
        pass
    _kill_group(program)


def _kill_group(program: int) -> None:
    with suppress(OSError):  # it is empty
        os.killpg(program, signal.SIGKILL)


def _end_by(number: int) -> None:
    """Ends as the program ended, without a core file of its own."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


if __name__ == "__main__":
    main()
