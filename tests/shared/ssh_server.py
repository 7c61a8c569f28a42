"""A real sshd of this machine on a port of its own, with its own keys and configuration, as an ordinary process."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_CLIENT = shutil.which("ssh")
Devices = Callable[..., None]
"""Writes a ``devices.toml``; a fixture of tests/remote."""


@dataclass(frozen=True)
class Server:
    """It runs.

    Attributes:
        folder: With its files; the home folder's cache of who logs in is in ``cache``.
        port: On 127.0.0.1.
        pid: Of its process.
    """

    folder: Path
    port: int
    pid: int

    @property
    def address(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def cache(self) -> Path:
        return self.folder / "cache" / "remote"


def needs_sshd() -> str:
    """The server's path; skips the test where there is none."""
    found = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None or _CLIENT is None or shutil.which("ssh-keygen") is None:
        pytest.skip("there is no sshd here: apt-get install --no-install-recommends openssh-server")
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def running(folder: Path, variables: Mapping[str, str]) -> Iterator[Server]:
    """Runs one until the block ends.

    Args:
        folder: For its keys, configuration and log; gets ``bin/ssh``, which is ssh with the user's side of it.
        variables: Of who logs in.
    """
    program, port = needs_sshd(), free_port()
    for name in ("host", "user", "stranger"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(make, check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    host = (folder / "host.pub").read_text(encoding="utf-8").split()[:2]
    (folder / "known").write_text(f"[127.0.0.1]:{port} {' '.join(host)}\n", encoding="utf-8")
    given = " ".join(f'"{name}={value}"' for name, value in {"SPLITE_CACHE": folder / "cache", **variables}.items())
    server = f"""
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PidFile {folder}/pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PubkeyAuthentication yes
PermitRootLogin prohibit-password
SetEnv {given}
"""
    client = f"""
IdentityFile {folder}/user
IdentitiesOnly yes
UserKnownHostsFile {folder}/known
GlobalKnownHostsFile none
StrictHostKeyChecking yes
"""
    (folder / "sshd_config").write_text(server, encoding="utf-8")
    (folder / "ssh_config").write_text(client, encoding="utf-8")
    write_client(folder)
    with (folder / "log").open("wb") as log:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where a server of root separates its privileges
        process = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.skip(f"sshd does not start here: {(folder / 'log').read_text(encoding='utf-8')[-300:]}")
                time.sleep(0.05)
        yield Server(folder, port, process.pid)
    finally:
        process.terminate()
        process.wait(10)


def write_client(folder: Path, options: str = "") -> Path:
    """A program ``ssh`` that is the system's, with our side's files in the place of the user's.

    Returns:
        Its folder, for PATH.
    """
    place = folder / "bin" / "ssh"
    place.parent.mkdir(exist_ok=True)
    place.write_text(
        f'#!/bin/sh\nexec {_CLIENT} -F {shlex.quote(str(folder / "ssh_config"))} {options} "$@"\n', "utf-8"
    )
    place.chmod(0o755)
    return place.parent
