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

SMALL_DISK = 'mount -t tmpfs -o size=64k none "$TMPDIR" && exec "$@"'
FILL = """
from splite_deploy.files import work_folder
with work_folder("tflite") as folder:
    try:
        (folder / "model").write_bytes(bytes(1 << 20))
    except OSError as err:
        raise ValueError("what another package makes of it") from err
"""


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
        ("export", "{bundle}/model.onnx", "--model", "{model}", "--crops", "2", "-o", "{out}"),
        ("bench", "{bundle}", "--frames", "10", "--warmup", "0", "--html", "{out}"),
    ],
)
def test_what_onnx_runtime_could_not_write(
    tiny_model: Path, tiny_bundle: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """A limit on the size of files cuts them as a full disk does, without a word of ONNX Runtime."""
    if command[0] == "export":
        pytest.importorskip("torch")
    places = {"model": tiny_model, "bundle": tiny_bundle, "out": tmp_path / "new"}
    done = subprocess.run(
        [sys.executable, "-m", "splite_deploy", *(part.format(**places) for part in command)],
        env={**os.environ, "COLUMNS": "500"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and "error: What ONNX Runtime measured of each node is cut: " in done.stderr, (
        done.stderr
    )
    assert "hint:  Free some space there, or name another folder: TMPDIR=FOLDER splite-deploy ..." in done.stderr


def test_a_full_disk_of_temporary_files(tmp_path: Path) -> None:
    def run(*command: str) -> subprocess.CompletedProcess[str]:
        line = ["unshare", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK, "sh", *command]
        env = {**os.environ, "TMPDIR": str(tmp_path)}
        return subprocess.run(line, env=env, capture_output=True, text=True, timeout=120)

    if shutil.which("unshare") is None or run("true").returncode:
        pytest.skip("no disk can be mounted here")
    said = run(sys.executable, "-c", FILL).stderr.splitlines()
    assert f"splite_deploy.errors.OutputError: The disk of the folder for temporary files is full: {tmp_path}." in said
    assert said[-1] == "Free some space there, or name another folder: TMPDIR=FOLDER splite-deploy ..."


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
