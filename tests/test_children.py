"""Programs that are started never outlive who started them, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from splite_deploy.children import Child, python_command, run

pytestmark = pytest.mark.usefixtures("hangups_end_processes")

SLEEPER = (
    "import os, pathlib, subprocess, sys, time\n"
    "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "pathlib.Path('new').write_text(f'{os.getpid()} {inner.pid}')\n"
    "pathlib.Path('new').rename('pids')\ntime.sleep(600)\n"
)
OWNER = (
    "import sys, time\nfrom splite_deploy.children import Child\n"
    "with Child([sys.executable, '-c', sys.argv[1]]) as child:\n    print(child.process.pid, flush=True)\n    {then}\n"
)


def within(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def started(folder: Path) -> list[int]:
    assert within((folder / "pids").exists, 20)
    return [int(pid) for pid in (folder / "pids").read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGABRT])
def test_it_ends_with_its_parent(tmp_path: Path, number: int) -> None:
    code = OWNER.format(then="time.sleep(600)")
    owner = subprocess.Popen([sys.executable, "-c", code, SLEEPER], cwd=tmp_path, stdout=subprocess.PIPE)
    pids = started(tmp_path)
    assert owner.stdout is not None
    keeper = int(owner.stdout.readline())
    owner.send_signal(number)
    owner.wait()
    owner.stdout.close()
    assert within(lambda: not any(map(lives, [keeper, *pids])), 2)


def test_it_ends_with_a_parent_whose_own_children_hold_the_pipe(tmp_path: Path) -> None:
    code = OWNER.format(then="import os; (os.fork() == 0) and time.sleep(30); time.sleep(600)")
    owner = subprocess.Popen([sys.executable, "-c", code, SLEEPER], cwd=tmp_path, stdout=subprocess.DEVNULL)
    pids = started(tmp_path)
    time.sleep(0.3)  # it forks
    owner.kill()
    owner.wait()
    assert within(lambda: not any(map(lives, pids)), 2)


def test_it_ends_with_its_keeper_and_so_does_what_it_started(tmp_path: Path) -> None:
    """Ray kills the children of a process that it ends, and nothing that these have started."""
    with Child([sys.executable, "-c", SLEEPER], cwd=tmp_path) as child:
        pids = started(tmp_path)
        os.kill(child.process.pid, signal.SIGKILL)
        assert within(lambda: not any(map(lives, pids)), 2)


def test_leaving_the_context_ends_it_with_what_it_started(tmp_path: Path) -> None:
    with Child([sys.executable, "-c", SLEEPER], cwd=tmp_path):
        pids = started(tmp_path)
    assert within(lambda: not any(map(lives, pids)), 2)


def test_what_it_started_ends_with_it(tmp_path: Path) -> None:
    code = SLEEPER.replace("time.sleep(600)\n", "os._exit(5)\n")
    done = run([sys.executable, "-c", code], timeout_s=20, cwd=tmp_path)
    assert done.returncode == 5
    assert within(lambda: not any(map(lives, started(tmp_path))), 2)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM])
def test_how_it_ended_is_told(number: int) -> None:
    done = run([sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(number)})"], timeout_s=20)
    assert done.returncode == -number


def test_it_reads_and_writes_as_any_program() -> None:
    code = (
        "import sys; read = sys.stdin.buffer.read(); sys.stdout.buffer.write(read[::-1]); print('x', file=sys.stderr)"
    )
    data = bytes(range(256)) * 4096
    done = run([sys.executable, "-c", code], timeout_s=20, given=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (done.returncode, done.stdout, done.stderr) == (0, data[::-1], b"x\n")


def test_it_takes_too_long() -> None:
    begun = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        run([sys.executable, "-c", "import time; time.sleep(600)"], timeout_s=0.3)
    assert time.monotonic() - begun < 10


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    done = run([tmp_path / "none"], timeout_s=20, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (127, f"{tmp_path / 'none'}: No such file or directory\n")


def test_a_program_with_python_inside_has_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/robot/app")
    assert python_command("-m", "x") == []
    with Child(["sleep", "600"]) as child:
        pid = child.process.pid
    assert not lives(pid)


def test_it_ignores_no_signal_that_this_process_does_not_ignore() -> None:
    command = ["grep", "SigIgn", "/proc/self/status"]
    plain = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    assert run(command, timeout_s=20, stdout=subprocess.PIPE).stdout == plain.stdout
