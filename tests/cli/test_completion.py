"""The completion of shells, typed into the shells themselves."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

SHELLS = {
    "bash": (["--norc", "-i"], 'eval "$(splite-deploy completion bash)"'),
    "zsh": (["-f", "-i"], 'autoload -U compinit; compinit -u -D; eval "$(splite-deploy completion zsh)"'),
    "fish": (["-i"], "splite-deploy completion fish > $HOME/.config/fish/completions/splite-deploy.fish"),
}
PROGRAM = Path(sys.executable).with_name("splite-deploy")
_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][A-Z0-9]|[=>])|[\r\x07]")
_WITHIN_S = 45.0


class Terminal:
    """A shell in a terminal of its own.

    Args:
        command: The shell and its options.
        home: Its home, and the folder it is in.
    """

    def __init__(self, command: list[str], home: Path) -> None:
        self.seen = ""
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            os.chdir(home)
            path = f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"
            own = {"HOME": str(home), "PATH": path, "TERM": "dumb", "PS1": "> ", "XDG_CONFIG_HOME": f"{home}/.config"}
            os.execvpe(command[0], command, {**os.environ, **own})

    def type(self, text: str) -> None:
        os.write(self.file, text.encode())

    def wait_for(self, expected: str) -> None:
        """Reads until a text is there; what was seen before counts no longer."""
        until_s = time.monotonic() + _WITHIN_S
        while expected not in self.seen:
            left_s = until_s - time.monotonic()
            assert left_s > 0, f"{expected!r} did not come: {self.seen!r}"
            if select.select([self.file], [], [], left_s)[0]:
                text = os.read(self.file, 4096).decode(errors="replace")
                if "\x1b[c" in text:  # fish asks what terminal this is, and waits
                    self.type("\x1b[?1;2c")
                self.seen += _CONTROL.sub("", text)
        self.seen = self.seen.partition(expected)[2]

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.close(self.file)
        os.waitpid(self.pid, 0)


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
def test_the_tab_key_completes_commands_options_values_and_files(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    if not PROGRAM.is_file():
        pytest.skip("the program is not installed beside this Python")
    (tmp_path / ".config" / "fish" / "completions").mkdir(parents=True)
    (tmp_path / "photograph.jpg").touch()
    options, begin = SHELLS[shell]
    terminal = Terminal([shell, *options], tmp_path)
    try:
        terminal.type(f"{begin}; echo be''gun\n")
        terminal.wait_for("begun")
        for typed, completed in (
            ("splite-deploy calib", "rate"),
            ("splite-deploy calibrate --cou", "nt"),
            ("splite-deploy run --precision fp1", "6"),
            ("splite-deploy run hand.splite photo", "graph.jpg"),
        ):
            terminal.type(f"{typed}\t")
            terminal.wait_for(typed)
            terminal.wait_for(completed)
            terminal.type("\x15")  # Ctrl-U: an empty line
    finally:
        terminal.close()


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_calls_the_program(shell: str, splite: Callable[..., Result]) -> None:
    done = splite("completion", shell, "-q")
    assert done.exit_code == 0 and done.stderr == ""
    assert f"_SPLITE_DEPLOY_COMPLETE={shell}_complete" in done.stdout and "splite-deploy" in done.stdout


def test_a_shell_that_it_does_not_know(splite: Callable[..., Result]) -> None:
    done = splite("completion", "csh")
    assert done.exit_code == 2 and "'csh' is not one of 'bash', 'zsh', 'fish'" in done.stderr


def test_half_a_line_is_completed_whatever_is_wrong_with_it(splite: Callable[..., Result]) -> None:
    """What is being typed is not refused: an option given twice, a number that is none."""
    from click.testing import CliRunner

    from splite_deploy.cli import main

    for line in ("splite-deploy bench a -p fp32 -p fp", "splite-deploy bench a --duration nan -p fp"):
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
        environment = {"_SPLITE_DEPLOY_COMPLETE": "bash_complete", **words}
        done = CliRunner().invoke(main, [], env=environment, prog_name="splite-deploy")
        assert done.stdout.split() == ["plain,fp32", "plain,fp16"], done.output
