"""--quiet and --verbose: what is left out and what is added, in every command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from click.testing import Result

from splite_deploy.cli import main
from splite_deploy.cli.console import working
from splite_deploy.text import Part

Run = Callable[..., Result]
QUICK = ("--frames", "10", "--warmup", "0")


def test_every_command_and_the_program_have_both() -> None:
    for command in (main, *main.commands.values()):
        flags = {name: one for one in command.params for name in one.opts}
        for name in ("--quiet", "-q", "--verbose", "-v"):
            option = flags[name]
            assert isinstance(option, click.Option) and option.is_flag, command.name


@pytest.mark.parametrize(
    "arguments",
    [("verify", "{bundle}"), ("inspect", "{bundle}"), ("bench", "{bundle}", *QUICK)],
    ids=lambda one: one[0],
)
def test_quiet_prints_nothing_where_nothing_is_wrong(
    arguments: tuple[str, ...], tiny_bundle: Path, tmp_path: Path, splite: Run
) -> None:
    command, *rest = (one.format(bundle=tiny_bundle) for one in arguments)
    for typed in ((command, *rest, "--quiet"), ("-q", command, *rest)):
        done = splite(*typed, "--json", tmp_path / "a.json")
        assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "a.json").stat().st_size > 0
    told = splite(command, *rest, "--quiet", "--json", "-")
    assert json.loads(told.stdout) and told.stderr == ""
    assert splite(command, *rest).stdout, "the next call speaks again"


def test_quiet_leaves_what_a_command_is_for(tiny_bundle: Path, tmp_path: Path, splite: Run) -> None:
    image = tmp_path / "a.png"
    cv2.imwrite(str(image), np.zeros((64, 64, 3), np.uint8))
    saved = tmp_path / "b.png"
    done = splite("run", tiny_bundle, image, "-q", "--save", saved)
    assert json.loads(done.stdout)["image"] == "a.png" and done.stderr == "" and saved.is_file()


def test_quiet_leaves_errors_and_warnings(tiny_bundle: Path, tmp_path: Path, splite: Run) -> None:
    done = splite("verify", tmp_path / "none.splite", "--quiet")
    assert done.exit_code == 1 and done.stdout == ""
    assert [line[:7] for line in done.stderr.splitlines()] == ["error: ", "hint:  "]
    limit = splite("bench", tiny_bundle, *QUICK, "-q", "--fail-if", "p50_ms>0.000001")
    assert limit.exit_code == 1 and limit.stderr.startswith("error: p50_ms is ") and limit.stdout == ""


def test_verbose_tells_where_an_error_comes_from(tmp_path: Path, splite: Run) -> None:
    said = splite("verify", tmp_path / "none.splite")
    more = splite("verify", tmp_path / "none.splite", "--verbose")
    assert "Traceback" not in said.stderr and more.stderr.endswith(said.stderr)
    trace = more.stderr.removesuffix(said.stderr)
    assert trace.startswith("Traceback (most recent call last):") and "in read_manifest" in trace


@pytest.mark.parametrize("verbose", [False, True])
def test_parts_of_a_step_leave_lines_only_where_they_are_wanted(verbose: bool, splite: Run, tmp_path: Path) -> None:
    @main.command("parts")
    def parts() -> None:
        with working("parts") as progress:
            progress("a step")
            progress(Part("half of it"))
            progress("another")

    try:
        lines = [line.split("  ")[-1] for line in splite("parts", *["-v"][:verbose]).stderr.splitlines()]
    finally:
        del main.commands["parts"]
    assert [line.rpartition(" s")[0].rpartition(" ")[0].lstrip("✓ok ") or line for line in lines] == [
        *(["half of it"] if verbose else []),
        "a step",
        "another",
    ]


def test_verbose_shows_what_native_code_writes(tmp_path: Path, tiny_bundle: Path) -> None:
    """libjpeg tells what it fills up of a picture that was cut."""
    rng = np.random.default_rng(0)
    whole = cv2.imencode(".jpg", rng.integers(0, 256, (64, 64, 3), np.uint8))[1].tobytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    told = {}
    for option in ("--verbose", "--quiet"):
        command = [sys.executable, "-m", "splite_deploy", "run", tiny_bundle, tmp_path / "cut.jpg", option]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 1 and "cut.jpg can be read, but is damaged" in done.stderr
        told[option] = done.stderr
    assert "remature end" in told["--verbose"] and "remature end" not in told["--quiet"]


def test_both_at_once_are_refused(splite: Run) -> None:
    for typed in (("doctor", "-q", "-v"), ("--quiet", "doctor", "--verbose")):
        done = splite(*typed)
        assert done.exit_code == 2 and done.stdout == ""
        assert done.stderr == ("error: --quiet and --verbose contradict each other.\nhint:  Leave one of them out.\n")
