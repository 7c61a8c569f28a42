"""A converter in a process of its own: however it ends, the caller gets one line and the name of the log."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from splite_deploy.compile.child_process import Child, ChildFailed, module_command
from splite_deploy.errors import CompileError, OutputError


def run(folder: Path, code: str, *, timeout_s: float = 60.0, log: Path | None = None) -> list[str]:
    """Runs the code as a module; returns what it told as progress."""
    (folder / "converter.py").write_text(code)
    told: list[str] = []
    with Child(module_command("converter"), folder, log=log or folder / "log", environment={"A": "b"}) as child:
        child.finish(timeout_s=timeout_s, progress=told.append)
    return told


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("it did not come to that")


def test_its_output_is_progress_and_its_errors_are_log(tmp_path: Path) -> None:
    code = "import os, sys\nprint('one')\nprint('two', os.environ['A'], os.getcwd())\nprint('chatter', file=sys.stderr)"
    assert run(tmp_path, code) == ["one", f"two b {tmp_path}"]
    assert (tmp_path / "log").read_text() == "chatter\n"


def test_an_exception(tmp_path: Path) -> None:
    code = "import sys\nprint('one')\nsys.stderr.write('Error: chatter\\n')\nraise KeyError('Swish')"
    with pytest.raises(CompileError) as caught:
        run(tmp_path, code)
    assert caught.value.message == "The conversion failed: KeyError: 'Swish'"
    assert caught.value.hint == f"Its log is {tmp_path / 'log'}."


def test_the_reason_is_found_where_more_is_printed_after_it(tmp_path: Path) -> None:
    red = "\\x1b[31mERROR:\\x1b[0m onnx_op_name: /neck/Swish"
    code = f"import sys\nsys.stderr.write('{red}\\nread this\\n\\n')\nsys.exit(1)"
    with pytest.raises(CompileError, match=r"^The conversion failed: ERROR: onnx_op_name: /neck/Swish\n"):
        run(tmp_path, code)


def test_an_exit_without_a_word(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="failed: it printed nothing"):
        run(tmp_path, "import os\nos._exit(3)")


def test_it_is_killed(tmp_path: Path) -> None:
    code = "import os, signal\nprint('one', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(CompileError, match="ended by SIGKILL, which the system sends where memory runs out") as caught:
        run(tmp_path, code)
    assert str(tmp_path / "log") in caught.value.hint


def test_it_crashes(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match=r"The conversion was ended by SIGABRT\.") as caught:
        run(tmp_path, "import os\nos.abort()")
    assert caught.value.status == -signal.SIGABRT


def test_it_takes_too_long_and_ends_with_all_it_started(tmp_path: Path) -> None:
    code = (
        "import pathlib, subprocess, sys, time\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "pathlib.Path('new').write_text(str(inner.pid))\npathlib.Path('new').rename('pid')\ntime.sleep(600)"
    )
    (tmp_path / "converter.py").write_text(code)
    with Child(module_command("converter"), tmp_path, log=tmp_path / "log", environment={}) as child:
        wait_for((tmp_path / "pid").exists)
        with pytest.raises(CompileError, match=r"took longer than 0\.1 s and was stopped") as caught:
            child.finish(timeout_s=0.1, progress=lambda line: None)
    assert str(tmp_path / "log") in caught.value.hint
    inner = Path("/proc") / (tmp_path / "pid").read_text() / "stat"
    wait_for(lambda: not inner.exists() or inner.read_text().rpartition(")")[2].split()[0] == "Z")


def test_the_caller_is_interrupted(tmp_path: Path) -> None:
    (tmp_path / "converter.py").write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)")
    pids: list[int] = []

    def interrupt(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        Child(module_command("converter"), tmp_path, log=tmp_path / "log", environment={}) as child,
    ):
        child.finish(timeout_s=60, progress=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_it_waits_until_it_may_begin(tmp_path: Path) -> None:
    code = "import sys\nprint('ready', flush=True)\nsys.stdin.read()\nopen('begun', 'w').close()\nprint('done')"
    (tmp_path / "converter.py").write_text(code)
    told: list[str] = []
    with Child(module_command("converter"), tmp_path, log=tmp_path / "log", environment={}) as child:
        assert not (tmp_path / "begun").exists()
        child.finish(timeout_s=60, progress=told.append)
    assert told == ["ready", "done"] and (tmp_path / "begun").exists()


def test_one_that_is_not_needed_any_more_is_ended(tmp_path: Path) -> None:
    (tmp_path / "converter.py").write_text("import sys, os\nsys.stdin.read()\nopen('begun', 'w').close()")
    with Child(module_command("converter"), tmp_path, log=tmp_path / "log", environment={}):
        pass
    assert not (tmp_path / "begun").exists()


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Cannot write"):
        run(tmp_path, "", log=tmp_path / "missing" / "log")
