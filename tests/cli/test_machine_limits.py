"""What a user reads where the machine has no more room, or no more open files."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from splite_deploy.bundle import Bundle
from splite_deploy.cli.app import Commands
from splite_deploy.errors import BundleError, CheckpointError, InputError
from splite_deploy.runtime.io.images import read_image

SMALL_DISK = 'mount -t tmpfs -o size=4k none "$TMPDIR" && exec "$@"'


@contextmanager
def no_more_files() -> Iterator[None]:
    """Lets this process open no further file."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(lowest := os.dup(2))
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def on_a_small_disk(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command whose folder for temporary files is a disk of 4 KiB."""
    env = {**os.environ, "TMPDIR": str(folder), "COLUMNS": "500"}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK, "sh"]
        return subprocess.run([*unshare, *command], env=env, capture_output=True, text=True, timeout=120)

    if shutil.which("unshare") is None or run("true").returncode:
        pytest.skip("no disk can be mounted here")
    return run(sys.executable, "-m", "splite_deploy", *command)


HINT = "Close other files, or allow more of them: ulimit -n 4096."


def test_too_many_open_files_are_no_damage(tiny_bundle: Path, tmp_path: Path) -> None:
    (picture := tmp_path / "a.png").write_bytes(b"x")
    with no_more_files():
        with pytest.raises(BundleError, match="Too many open files") as of_bundle:
            Bundle.open(tiny_bundle)
        with pytest.raises(InputError, match="Too many open files") as of_picture:
            read_image(picture)
    assert of_bundle.value.hint == of_picture.value.hint == HINT


def test_too_many_open_files_for_a_checkpoint(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from splite_deploy.export.source.load import load_model

    (tmp_path / "a.pt").write_bytes(b"x")
    with no_more_files(), pytest.raises(CheckpointError, match="Too many open files") as caught:
        load_model(tmp_path / "a.pt", tiny_model, None)
    assert caught.value.hint == HINT


@pytest.mark.parametrize(
    "command",
    [
        ("export", "{tiny}", "--model", "{model}", "--crops", "2", "-o", "{out}"),
        ("bench", "{bundle}", "--frames", "10", "--warmup", "0", "--html", "{out}"),
    ],
)
def test_a_full_disk_of_temporary_files(
    tiny_checkpoint: Path, tiny_model: Path, tiny_bundle: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    if command[0] == "export":
        pytest.importorskip("torch")
    (tmp_path / "temporary").mkdir()
    places = {"tiny": tiny_checkpoint, "model": tiny_model, "bundle": tiny_bundle, "out": tmp_path / "new"}
    result = on_a_small_disk(tmp_path / "temporary", *(part.format(**places) for part in command))
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
    assert "hint:  Free some space there, or name another folder: TMPDIR=FOLDER splite-deploy ..." in result.stderr


def test_a_disk_that_is_full_where_nobody_looks(tmp_path: Path) -> None:
    group = Commands("splite-deploy")

    @group.command()
    def spent() -> None:
        Path("/dev/full").write_text("x")

    @group.command()
    def wrong() -> None:
        tmp_path.joinpath("missing").read_text()

    full = CliRunner().invoke(group, ["spent"])
    assert full.exit_code == 1 and "error: No space left on device: " in full.output, full.output
    assert "hint:  Free some space there" in full.output
    assert isinstance(CliRunner().invoke(group, ["wrong"]).exception, FileNotFoundError)  # a bug keeps its traceback
