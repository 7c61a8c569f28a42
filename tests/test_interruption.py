"""SIGTERM, SIGHUP and Ctrl-C end the program in the same way: a sentence, a status, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from splite_deploy import files, interruption

pytestmark = pytest.mark.usefixtures("hangups_end_processes")

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
PROGRAM = """
import sys, time
from pathlib import Path
from splite_deploy import interruption
from splite_deploy.cli.app import main
from splite_deploy.children import Child
from splite_deploy.files import part_folder, whole_file

interruption.REACTS_WITHIN_S = interruption.ENDS_WITHIN_S = 1.0

@main.command()
def work():
    with part_folder(Path("bundle")) as folder, whole_file(Path("result")) as part, Child(["sleep", "600"]) as child:
        (folder / "file").write_text("half")
        part.write_text("half")
        Path("started").write_text(str(child.process.pid))
        Path("started").rename("running")
        BODY

interruption.current.take()
main(["work"])
"""
SLEEPS = "time.sleep(600)"
NATIVE = """
        import ctypes
        mutex = ctypes.create_string_buffer(256)
        library = ctypes.CDLL(None)
        library.pthread_mutex_lock(mutex)
        library.pthread_mutex_lock(mutex)  # waits forever, and no signal interrupts it
"""
NEVER_ENDS = """
        try:
            time.sleep(600)
        finally:
            while True:
                time.sleep(1)
"""
SWALLOWED = """
        class Odd:
            def __del__(self):
                time.sleep(5)
        odd = Odd()
        del odd
        time.sleep(600)
"""
MISTAKEN = """
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            raise ImportError("numpy.core.multiarray failed to import")
"""

WHILE_IT_REMOVES = """
        import os, shutil, signal
        rmtree = shutil.rmtree
        def interrupted(path, **options):
            shutil.rmtree = rmtree
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(600)
        shutil.rmtree = interrupted
        sys.exit(1)
"""

WHILE_IT_MAKES = """
        import os, signal
        from splite_deploy import files
        make_file = files._make_file
        def interrupted(path):
            handle = make_file(path)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
            return handle
        files._make_file = interrupted
        with whole_file(Path("another")):
            time.sleep(600)
"""


def start(folder: Path, body: str, *prefix: str) -> subprocess.Popen[str]:
    (folder / "program.py").write_text(PROGRAM.replace("BODY", body))
    process = subprocess.Popen(
        [*prefix, sys.executable, "program.py"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 20
    while not (folder / "running").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert (folder / "running").exists()
    return process


def left(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir() if one.name not in ("program.py", "running", "__pycache__"))


def lives(process: Path) -> bool:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ended(folder: Path, process: subprocess.Popen[str], number: int) -> None:
    output, errors = process.communicate(timeout=15)
    assert (output, errors) == ("", f"Stopped by {NAMES[signal.Signals(number)]}; unfinished work was removed.\n")
    assert process.returncode == STATUS[signal.Signals(number)]
    assert left(folder) == []
    keeper = Path("/proc") / (folder / "running").read_text()
    end = time.monotonic() + 2
    while lives(keeper) and time.monotonic() < end:
        time.sleep(0.02)
    assert not lives(keeper)


@pytest.mark.parametrize("number", STATUS)
def test_it_ends_quietly_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    process = start(tmp_path, SLEEPS)
    process.send_signal(number)
    ended(tmp_path, process, number)


@pytest.mark.parametrize("body", [NATIVE, NEVER_ENDS, SWALLOWED, MISTAKEN], ids=["native", "never", "lost", "mistaken"])
def test_it_ends_wherever_the_main_thread_is(tmp_path: Path, body: str) -> None:
    process = start(tmp_path, body)
    process.send_signal(signal.SIGTERM)
    ended(tmp_path, process, signal.SIGTERM)


@pytest.mark.parametrize("body", [WHILE_IT_MAKES, WHILE_IT_REMOVES], ids=["makes", "removes"])
def test_it_leaves_nothing_where_it_comes_as_a_file_is_made_or_removed(tmp_path: Path, body: str) -> None:
    ended(tmp_path, start(tmp_path, body), signal.SIGTERM)


def test_the_same_signal_to_it_and_its_group_is_one(tmp_path: Path) -> None:
    process = start(tmp_path, SLEEPS)
    process.send_signal(signal.SIGTERM)
    os.killpg(process.pid, signal.SIGTERM)
    ended(tmp_path, process, signal.SIGTERM)


def test_a_second_signal_ends_it_at_once_and_the_next_run_cleans_up(tmp_path: Path) -> None:
    process = start(tmp_path, NEVER_ENDS)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=15)
    assert time.monotonic() - began < 0.5
    assert (process.returncode, errors) == (143, "")
    assert len(left(tmp_path)) == 2
    files.remove_leftovers(tmp_path)
    assert left(tmp_path) == []


def test_a_hangup_that_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    process = start(tmp_path, "time.sleep(1.5); print('done')", "nohup")
    process.send_signal(signal.SIGHUP)
    output, errors = process.communicate(timeout=15)
    assert (process.returncode, output) == (0, "done\n"), errors


def test_every_command_ends_so_while_it_imports(tmp_path: Path) -> None:
    for delay_s in (0.15, 0.4, 0.8):
        process = subprocess.Popen(
            [sys.executable, "-m", "splite_deploy", "doctor"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(delay_s)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=15)
        assert "Traceback" not in errors
        assert process.returncode in (143, -signal.SIGTERM)  # the latter before Python runs our first line


def test_the_library_takes_no_signals(tiny_bundle: Path) -> None:
    from splite_deploy import PoseEstimator

    before = [signal.getsignal(number) for number in STATUS]
    with PoseEstimator.open(tiny_bundle):
        assert [signal.getsignal(number) for number in STATUS] == before
    assert before[1:] == [signal.SIG_DFL, signal.SIG_DFL]


def test_the_command_line_gives_them_back(splite: Callable[..., Result]) -> None:
    before = [signal.getsignal(number) for number in STATUS]
    assert splite("--version").exit_code == 0
    assert [signal.getsignal(number) for number in STATUS] == before
    assert not interruption.current.came


AS_A_FUNCTION = """
import os, signal, sys, time
from pathlib import Path
from splite_deploy.cli.app import main
from splite_deploy.files import exchange, part_folder, write_file

@main.command()
def work():
    with part_folder(Path("bundle")) as folder:
        (folder / "file").write_text("half")
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(600)

for _ in range(2):
    try:
        main(["work"])
    except SystemExit as err:
        print(err.code, os.listdir())
for name in ("one", "other"):
    write_file(Path(name), name.encode())
exchange(Path("one"), Path("other"))
print(Path("one").read_text())
"""


def test_who_calls_the_command_line_as_a_function_writes_files_afterwards(tmp_path: Path) -> None:
    words = [sys.executable, "-c", AS_A_FUNCTION]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.returncode) == ("130 []\n130 []\nother\n", 0)
    assert done.stderr == 2 * "Stopped by Ctrl-C; unfinished work was removed.\n"


def test_a_fork_ends_as_forks_do(tmp_path: Path) -> None:
    body = (
        "import os\n        child = os.fork()\n        if child == 0:\n            time.sleep(600)\n"
        "        time.sleep(0.2)\n        os.kill(child, 15)\n        print(os.waitpid(child, 0)[1])\n"
        "        sys.exit(0)"
    )
    process = start(tmp_path, body)
    output, errors = process.communicate(timeout=15)
    assert (output, errors, process.returncode) == ("15\n", "", 0)
