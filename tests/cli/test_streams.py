"""Streams that cannot be written to: the exit status says whether the result arrived, and nothing is a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from splite_deploy.cli import main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a line of bash in which ``$S`` is the program."""
    program = f"{sys.executable} -m splite_deploy"
    settings = {**os.environ, "S": program, "SPLITE_BENCH_MIN_SECONDS": "0.05", **environment}
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        cwd=folder,
        env=settings,
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    return done


@pytest.fixture
def place(tmp_path: Path, tiny_bundle: Path) -> Path:
    (tmp_path / "tiny.splite").symlink_to(tiny_bundle)
    cv2.imwrite(str(tmp_path / "hand.png"), np.full((48, 64, 3), 90, np.uint8))
    return tmp_path


RESULTS = ("--help", "inspect tiny.splite", "verify tiny.splite", "run tiny.splite hand.png")


@pytest.mark.slow
@pytest.mark.parametrize("command", RESULTS)
def test_a_result_that_does_not_arrive_is_an_error(place: Path, command: str) -> None:
    for where, why in ((">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")):
        done = shell(f"$S {command} {where}", place)
        assert done.returncode == 1
        assert f"error: Cannot write to standard output: {why}.\n" in done.stderr
        assert "hint:  Send it elsewhere" in done.stderr
    closed = shell(f"$S {command} | true", place)
    assert closed.returncode == 141 and "error" not in closed.stderr


@pytest.mark.slow
def test_messages_that_do_not_arrive_are_no_error(place: Path) -> None:
    for where in ("2>&-", "2>/dev/full", "<&-"):
        done = shell(f"$S verify tiny.splite {where}", place)
        assert done.returncode == 0 and "tiny: difference to the torch network" in done.stdout
    assert shell("$S verify nowhere.splite 2>/dev/full", place).returncode == 1
    assert shell("$S verify --nothing 2>&-", place).returncode == 2


def test_a_closed_stream_is_not_taken_for_a_file(place: Path) -> None:
    done = shell("$S run tiny.splite hand.png --json found.json >&- 2>&- <&-", place)
    assert done.returncode == 0
    assert json.loads((place / "found.json").read_text())["image"] == "hand.png"


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--json", "--csv", "--markdown", "--html"])
def test_a_full_device_is_an_error_for_every_file(place: Path, option: str) -> None:
    done = shell(f"$S bench tiny.splite --frames 10 --warmup 0 {option} /dev/full", place)
    assert done.returncode == 1
    assert "error: Cannot write /dev/full: No space left on device.\n" in done.stderr
    assert "hint:  Free some space" in done.stderr


@pytest.mark.slow
def test_terminals_that_have_no_letters_but_ascii(place: Path) -> None:
    (place / "tiny.splite").rename(place / "Händchen.splite")
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "20"}
    done = shell("$S verify Händchen.splite", place, **ascii_only)
    assert done.returncode == 0 and done.stdout.isascii() and "| ok |" in done.stdout
    lost = shell("$S verify Hände.splite", place, **ascii_only)
    assert lost.returncode == 1 and lost.stderr.startswith("error: H\\xe4nde.splite does not exist.")
    found = shell("$S run Händchen.splite hand.png --json -", place, **ascii_only)
    assert json.loads(found.stdout)["image"] == "hand.png"


def test_nobody_waits_for_a_pipe(
    place: Path, tiny_checkpoint: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    for name in ("a.pt", "a.onnx", "a.npz", "a.png", "a.json"):
        os.mkfifo(place / name)
    spec = ("--model", str(tiny_model))
    for words in (
        ("export", "a.pt", *spec, "-o", "out.splite"),
        ("export", "a.onnx", *spec, "-o", "out.splite"),
        ("calibrate", str(tiny_checkpoint), *spec, "--images", "a.npz", "-o", "out.json"),
        ("run", "tiny.splite", "a.png"),
        ("run", "tiny.splite", "a.json"),
        ("bench", "--compare", "a.json", "a.json"),
    ):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 1 and isinstance(result.exception, SystemExit), (words, result.exception)
        assert "\nhint:  " in f"\n{result.stderr}" and not (place / "out.splite").exists()
