"""A file without a bundle is first loaded in a process of its own: a crash there is an error here.

What crashes is a backend of another package, which does to its process what a file tells it to.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from splite_deploy.bundle import Bundle
from splite_deploy.errors import BackendError
from splite_deploy.runtime import backends, first_load
from splite_deploy.runtime.session import open_file
from splite_deploy.runtime.verify import verify

WRECKER = """
import os, signal, time
import numpy as np
from splite_deploy.bundle import TensorSpec
from splite_deploy.runtime.backends.base import Backend, BackendOptions, BaseSession, IoSignature


class Session(BaseSession):
    def __init__(self, file, options):
        tensor = TensorSpec("x", (1, 2), "float32", "", "")
        super().__init__(file.artifact or IoSignature((tensor,), (tensor,)))
        self._does, _, self._when = file.data.decode().partition(" ")
        if os.environ.get("WRECKER_LOG"):
            with open(os.environ["WRECKER_LOG"], "a") as log:
                log.write(f"{os.getpid()}\\n")
        if not self._when:
            self._act()

    def _act(self):
        if self._does.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, self._does))
        if self._does == "exit":
            os._exit(7)
        if self._does == "hang":
            time.sleep(100)
        if self._does == "memory":
            self.kept = [np.ones(1 << 27) for _ in range(1000)]
        if self._does == "shout":
            os.write(1, b'{"problem": "not an answer"}\\n' * 3)

    def _infer(self, feeds):
        self._act()
        return {"x": feeds["x"]}

    def _release(self):
        pass


BACKEND = Backend(
    name="wrecker", label="Wrecker", open=Session, formats=("wreck",), options=BackendOptions,
    suffixes={".wreck": "wreck"}, distributions={"wrecker": ("wrecker",)},
)
"""


@pytest.fixture
def wrecker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Writes a file of that backend, which is installed."""
    packages = tmp_path / "packages"
    described = packages / "wrecker-1.0.dist-info"
    described.mkdir(parents=True)
    (packages / "wrecker.py").write_text(WRECKER)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: wrecker\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text("[splite_deploy.backends]\nwrecker = wrecker:BACKEND\n")
    monkeypatch.syspath_prepend(packages)
    monkeypatch.setenv("SPLITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(first_load, "_passed", set())
    backends.all_backends.cache_clear()

    def write(content: str) -> Path:
        file = tmp_path / "net.wreck"
        file.write_text(content)
        return file

    yield write
    sys.modules.pop("wrecker", None)
    backends.all_backends.cache_clear()


@pytest.mark.parametrize("how", ["SIGSEGV", "SIGBUS", "SIGKILL"])
def test_a_file_that_crashes_its_backend(wrecker: Callable[[str], Path], how: str) -> None:
    with pytest.raises(BackendError, match=rf"^Loading net\.wreck crashed Wrecker \({how}") as caught:
        open_file(wrecker(how))
    assert "copy or convert it again" in caught.value.hint
    with pytest.raises(BackendError, match=rf"^Running net\.wreck crashed Wrecker \({how}"):
        open_file(wrecker(f"{how} later"))


def test_a_file_that_ends_its_process(wrecker: Callable[[str], Path]) -> None:
    with pytest.raises(BackendError, match=r"Loading net\.wreck crashed Wrecker \(its process ended with status 7\)"):
        open_file(wrecker("exit"))


def test_a_file_that_takes_for_ever(wrecker: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(first_load.TIME_LIMIT, "1.5")
    with pytest.raises(BackendError, match=r"running it once took Wrecker more than 1\.5 s") as caught:
        open_file(wrecker("hang"))
    assert f"{first_load.TIME_LIMIT}=300" in caught.value.hint


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory has no such limit")
def test_a_file_that_takes_all_memory(wrecker: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(first_load.TIME_LIMIT, "90")  # it takes a busy machine longer to fill the memory
    with pytest.raises(BackendError, match=r"net\.wreck needs more memory than a file of its size may"):
        open_file(wrecker("memory"))


def test_what_native_code_prints_is_no_answer(wrecker: Callable[[str], Path]) -> None:
    with open_file(wrecker("shout later")) as session:
        assert [spec.name for spec in session.inputs] == ["x"]


def test_what_passed_once_passes(
    wrecker: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("WRECKER_LOG", str(log))
    file = wrecker("nothing")
    for _ in range(2):
        open_file(file).close()
    assert len(set(log.read_text().split())) == 2, "once in a process of its own, then in this one"
    monkeypatch.setattr(first_load, "_passed", set())  # as in a new process
    open_file(file).close()
    assert len(set(log.read_text().split())) == 2
    began = time.perf_counter()
    open_file(file).close()
    assert time.perf_counter() - began < 0.1
    open_file(wrecker("nothing else")).close()
    assert len(set(log.read_text().split())) == 3
    (one, other) = sorted(one.name for one in (tmp_path / "cache" / "first-load").iterdir())
    assert one.split("-", 1)[1] == other.split("-", 1)[1] and "wrecker-1.0" in one


def test_a_cache_that_cannot_be_written(
    wrecker: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPLITE_CACHE", str(tmp_path / "file"))
    open_file(wrecker("nothing")).close()


@pytest.mark.parametrize("executable", ["", "/usr/bin/robot", None])
def test_a_program_with_python_inside(
    wrecker: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, executable: str | None
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.warns(RuntimeWarning, match=r"net\.wreck is loaded without having been tried in a process of its own"):
        open_file(wrecker("nothing")).close()


def test_a_folder_with_a_package_of_the_same_name(
    wrecker: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process runs this package, not what lies in the folder from which it is started."""
    (tmp_path / "splite_deploy").mkdir()
    (tmp_path / "splite_deploy" / "__init__.py").write_text(f"open({str(tmp_path / 'was run')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    open_file(wrecker("nothing")).close()
    assert not (tmp_path / "was run").exists()


def test_the_command_line_says_it_in_two_lines(wrecker: Callable[[str], Path], splite: Callable[..., Result]) -> None:
    done = splite("inspect", wrecker("SIGSEGV"))
    assert done.exit_code == 1 and "Loading net.wreck crashed Wrecker (SIGSEGV)." in done.stderr.replace("\n", " ")


def test_verify_judges_a_bundle_that_somebody_has_signed_again(
    wrecker: Callable[[str], Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    """Its hashes are right; opening it for use costs no process."""
    bundle = tmp_path / "stranger.splite"
    shutil.copytree(tiny_bundle, bundle)
    opened = Bundle.open(bundle)
    content = b"SIGBUS"
    artifact = dataclasses.replace(
        opened.find(), format="wreck", backend="wrecker", sha256=hashlib.sha256(content).hexdigest()
    )
    (bundle / artifact.file).write_bytes(content)
    opened = dataclasses.replace(opened, manifest=dataclasses.replace(opened.manifest, artifacts=(artifact,)))
    with pytest.raises(BackendError, match=r"Loading .*\.onnx crashed Wrecker \(SIGBUS\)"):
        verify(opened)


@pytest.mark.parametrize(
    ("given", "emulator", "limit_s"),
    [("", None, 18), ("", "qemu-aarch64", 300), ("7", "qemu-aarch64", 7), ("never", None, 18), ("-1", None, 18)],
)
def test_an_emulated_processor_has_more_time(
    monkeypatch: pytest.MonkeyPatch, given: str, emulator: str | None, limit_s: float
) -> None:
    monkeypatch.setenv(first_load.TIME_LIMIT, given)
    monkeypatch.setattr(first_load, "read_emulator", lambda: emulator)
    assert first_load._time_limit_s() == limit_s
