"""A server that the tests of this folder log in to."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ssh_server import Devices, Server, running, write_client


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    variables = {"OMP_NUM_THREADS": "1", "SPLITE_BENCH_MIN_SECONDS": "0.1"}
    with running(tmp_path_factory.mktemp("sshd"), variables) as made:
        yield made


@pytest.fixture
def ssh(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """The server, where ``ssh`` logs in to it; the working folder is an empty one."""
    monkeypatch.setenv("PATH", f"{server.folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield server
    write_client(server.folder)
    sessions, deadline = server.cache / "sessions", time.monotonic() + 20
    while sessions.is_dir() and any(sessions.iterdir()):
        assert time.monotonic() < deadline, "every session removes its folder"
        time.sleep(0.1)


@pytest.fixture
def devices(ssh: Server) -> Devices:
    """Writes ``devices.toml`` in the working folder: the server by each of these names, with this Python or another."""

    def write(*names: str, python: Path | str = sys.executable, more: str = "") -> None:
        tables = (f'[{name}]\naddress = "{ssh.address}"\npython = "{python}"\n{more}\n' for name in names)
        Path("devices.toml").write_text("\n".join(tables), encoding="utf-8")

    return write


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that may be changed."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "own.splite"))
