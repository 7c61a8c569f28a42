"""One machine, by the system's own ssh, with the user's keys and configuration, and the agent that runs over there.

What it answers is read with limits: lines of so many bytes, plain data of so many levels, and never a wait without an
end for a machine that says nothing.
"""

from __future__ import annotations

import json
import queue
import secrets
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import resources
from types import TracebackType
from typing import IO, Any, BinaryIO

from splite_deploy.children import Child
from splite_deploy.errors import MissingDependencyError, RemoteError
from splite_deploy.remote.devices import Device
from splite_deploy.spec.reading import ReadError, parse_json

OLDEST_PYTHON = (3, 10)
SILENT_S = 60.0
"""So long a machine may say nothing: while a command runs there it gives a sign of life every few seconds."""
_CONNECTS_WITHIN_S = 20
_STORES_WITHIN_S = 600.0  # a large file, on the card of a small board
_TELL_EVERY_S = 10.0
_ENDS_WITHIN_S = 5.0
_MOST_LINE_BYTES = 1 << 20
_MOST_NOISE_BYTES = 1 << 16
_MOST_ERRORS_BYTES = 1 << 14
_BLOCK_BYTES = 1 << 16
_OPTIONS = {
    "BatchMode": "yes",  # several machines cannot ask for a password at once
    "ConnectTimeout": str(_CONNECTS_WITHIN_S),
    "ServerAliveInterval": "10",
    "ServerAliveCountMax": "3",
    "ForwardAgent": "no",  # nothing over there has a use for what the user's configuration may open for people
    "ForwardX11": "no",
    "ClearAllForwardings": "yes",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
}
_SAID: Mapping[str, tuple[str, str]] = {
    "Host key verification failed": (
        "its host key is not known here, or is another than it was",
        "Connect once by hand and compare the key that it shows: {ssh}.",
    ),
    "Permission denied": (
        "it refused your key",
        "Have it accept one of your keys (ssh-copy-id), load the key into ssh-agent if it has a passphrase, and try it "
        "by hand: {ssh}.",
    ),
    "Could not resolve hostname": ("no machine of that name is known", "Correct the address, or try by hand: {ssh}."),
    "Connection refused": ("nothing answers at that port", "Start its ssh server, or correct the port: {ssh}."),
    "timed out": ("it does not answer", "See that it is on and in this network: {ssh}."),
    "No route to host": ("no way leads there", "See that it is on and in this network: {ssh}."),
}
"""What ssh says, what that means, and what to do."""
_NO_PYTHON = "not found", "No such file", "not recognized", "Permission denied"


class Connection:
    """A connection to a machine and the agent on it; leaving the context ends both.

    Args:
        device: The machine.

    Raises:
        MissingDependencyError: There is no ssh here.
        RemoteError: It cannot be reached, or has no Python that serves.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._doing = "it was connected"
        mark = secrets.token_hex(8)
        agent = resources.files("splite_deploy.remote").joinpath("agent.py").read_bytes() + b"\nmain()\n"
        start = (
            f'import sys;print("{mark} %d %d"%sys.version_info[:2],flush=True);'
            f'exec(compile(sys.stdin.buffer.read({len(agent)}),"agent","exec"))'
        )
        if shutil.which("ssh") is None:
            raise MissingDependencyError(
                "There is no ssh here, the client of OpenSSH.", hint="Install it: apt install openssh-client."
            )
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self._child = Child(ssh_command(device, f"exec {_python(device.python)} -I -c '{start}'"), **pipes)
        process = self._child.process
        self._chunks: queue.Queue[bytes] = queue.Queue(maxsize=64)
        self._rest, self._errors, self._over = b"", b"", threading.Event()
        self._writing = threading.Lock()
        self._listeners = [
            threading.Thread(target=self._listen, args=(process.stdout,), daemon=True),
            threading.Thread(target=self._listen_to_errors, args=(process.stderr,), daemon=True),
        ]
        for one in self._listeners:
            one.start()
        try:
            self._greet(mark, agent)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:  # the agent ends where nothing more comes, and removes its folder before ssh ends
            with suppress(OSError, subprocess.TimeoutExpired), self._writing:
                if (stream := self._child.process.stdin) is not None:
                    stream.close()
                self._child.process.wait(_ENDS_WITHIN_S)
        self.stop()

    def stop(self) -> None:
        """Ends the connection, from any thread; what runs over there ends with it."""
        self._over.set()
        self._child.stop()
        with suppress(queue.Full):
            self._chunks.put_nowait(b"")  # to who waits for an answer
        for one in self._listeners:
            one.join(2.0)
        process = self._child.process
        for stream in filter(None, (process.stdin, process.stdout, process.stderr)):
            with suppress(OSError):  # what is left to be written to a dead process
                stream.close()

    def _greet(self, mark: str, agent: bytes) -> None:
        """Waits for Python, behind whatever the user's own start files print, and sends the agent."""
        seen = 0
        while not (line := self._line(2 * SILENT_S)).startswith(f"{mark} ".encode()):
            seen += len(line)
            if seen > _MOST_NOISE_BYTES:
                raise self.wrong("prints without an end before anything is asked")
        found = tuple(map(int, line.split()[1:]))
        if found < OLDEST_PYTHON:
            name, oldest = self.device.name, ".".join(map(str, OLDEST_PYTHON))
            raise RemoteError(
                f"{name}: {self.device.python} is Python {'.'.join(map(str, found))} there; {oldest} is the oldest "
                "that serves.",
                hint=f"Install a newer one there, and name it in devices.toml: [{name}] python = ...",
            )
        self._write(agent)
        self.answer("ready", wait_s=2 * SILENT_S)
        self._listeners.append(threading.Thread(target=self._tell, daemon=True))  # not before: it would be agent's text
        self._listeners[-1].start()

    def request(self, do: str, doing: str, **values: Any) -> None:
        """Sends a request.

        Args:
            do: What the agent shall do.
            doing: The same for people, as a sentence that may follow 'while'.
            values: Of the request.

        Raises:
            RemoteError: The connection is lost.
        """
        self._doing = doing
        self._write(json.dumps({"do": do, **values}).encode() + b"\n")

    def send(self, source: BinaryIO, size: int) -> None:
        """Sends the bytes that follow a request, filled up with zeros where there are fewer by now.

        Raises:
            RemoteError: The connection is lost.
        """
        while size:
            block = source.read(min(size, _BLOCK_BYTES)) or bytes(min(size, _BLOCK_BYTES))
            self._write(block)
            size -= len(block)

    def answer(self, *keys: str, wait_s: float = SILENT_S) -> dict[str, Any]:
        """The next message that has one of these keys; signs of life are passed over.

        Args:
            keys: Which messages are right now.
            wait_s: How long nothing at all may be said.

        Raises:
            RemoteError: It says why it cannot do what was asked, says something else, or nothing.
        """
        while True:
            line = self._line(wait_s)
            try:
                message = parse_json(line, "the answer", mark=False)
            except ReadError as err:
                raise self.wrong(f"answers what is no message: {err.reason}") from err
            if not isinstance(message, dict):
                raise self.wrong("answers what is no message")
            if "failed" in message:
                raise self._failed(message)
            if any(key in message for key in keys):
                return message
            if set(message) != {"alive"}:
                raise self.wrong("answers what nobody asked")

    def stored(self) -> dict[str, Any]:
        """The answer to a file that was sent; likewise."""
        return self.answer("stored", wait_s=_STORES_WITHIN_S)

    def receive(self, size: int, take: Callable[[bytes], object]) -> None:
        """Takes so many bytes, block by block.

        Raises:
            RemoteError: The connection is lost.
        """
        while size:
            data = self._rest or self._chunk(SILENT_S)
            block, self._rest = data[:size], data[size:]
            take(block)
            size -= len(block)

    def _line(self, wait_s: float) -> bytes:
        parts = [self._rest]
        while b"\n" not in parts[-1]:
            if sum(map(len, parts)) > _MOST_LINE_BYTES:
                raise self.wrong("answers a line without an end")
            parts.append(self._chunk(wait_s))
        line, _, self._rest = b"".join(parts).partition(b"\n")
        return line

    def _chunk(self, wait_s: float) -> bytes:
        """What comes next, at least a byte."""
        try:
            block = self._chunks.get(timeout=wait_s)
        except queue.Empty:
            message = f"{self.device.name}: it gave no sign of life for {wait_s:g} s while {self._doing}."
            raise RemoteError(
                message, hint="See that it is on and not overloaded, then run the command again."
            ) from None
        if not block:
            raise self._lost()
        return block

    def _write(self, data: bytes) -> None:
        stream = self._child.process.stdin
        assert stream is not None
        try:
            with self._writing:
                stream.write(data)
                stream.flush()
        except (OSError, ValueError) as err:  # it is closed, by who is there or by us
            raise self._lost() from err

    def _tell(self) -> None:
        """Has the agent know that we are here still."""
        while not self._over.wait(_TELL_EVERY_S):
            with suppress(RemoteError):
                self._write(b"\n")

    def _listen(self, stream: IO[bytes]) -> None:
        block = b" "
        while block and not self._over.is_set():
            try:
                block = stream.read1(_BLOCK_BYTES)  # type: ignore[attr-defined]
            except (OSError, ValueError):
                block = b""
            while not self._over.is_set():
                with suppress(queue.Full):
                    self._chunks.put(block, timeout=1.0)
                    break

    def _listen_to_errors(self, stream: IO[bytes]) -> None:
        with suppress(OSError, ValueError):
            while block := stream.read1(_BLOCK_BYTES):  # type: ignore[attr-defined]
                self._errors = (self._errors + block)[-_MOST_ERRORS_BYTES:]

    def _failed(self, message: Mapping[str, Any]) -> RemoteError:
        name, said = self.device.name, str(message["failed"])[:500]
        if message.get("full") is True:
            return RemoteError(f"{name}: its disk is full ({said}).", hint="Free some space over there.")
        return RemoteError(
            f"{name}: it failed while {self._doing}: {said}.",
            hint="The message is of that machine: see what it says of the file that it names.",
        )

    def wrong(self, what: str) -> RemoteError:
        """The error about an answer that cannot be right, of a clause whose subject is the machine."""
        return RemoteError(
            f"{self.device.name}: it {what}.",
            hint="Something else than the agent of splite-deploy answers there; nothing of it was kept.",
        )

    def _lost(self) -> RemoteError:
        """Why ssh ended, as it says itself."""
        with suppress(subprocess.TimeoutExpired):
            self._child.process.wait(2.0)
        self._listeners[1].join(2.0)
        name, said = self.device.name, self._errors.decode("utf-8", "replace").strip()
        last = (said.splitlines() or [""])[-1].strip()[:300]
        by_hand = shlex.join(ssh_command(self.device, batch=False))
        if self._child.process.returncode == 255:  # of ssh itself
            for words, (reason, hint) in _SAID.items():
                if words in said:
                    return RemoteError(f"{name}: {reason} (ssh: {last}).", hint=hint.format(ssh=by_hand))
        elif self._doing == "it was connected":
            why = f": {last}" if last else ""
            advice = "Install Python 3.10 or newer there, or name the one to use in devices.toml: "
            if any(words in said for words in _NO_PYTHON) or "SyntaxError" in said:
                message = f"{name}: there is no Python 3 called {self.device.python}{why}."
                return RemoteError(message, hint=f"{advice}[{name}] python = ...")
            return RemoteError(f"{name}: {self.device.python} did not start there{why}.", hint=f"Try it: {by_hand}.")
        why = f" (ssh: {last})" if last else ""
        return RemoteError(
            f"{name}: the connection was lost while {self._doing}{why}.",
            hint="What ran there ends by itself; run the command again.",
        )


def ssh_command(device: Device, *remote: str, batch: bool = True) -> list[str]:
    """The command that logs in to a machine.

    Args:
        device: The machine.
        remote: What its shell shall run; nothing for people.
        batch: Whether it is for this program, with all options, or to be typed.
    """
    address = device.address
    port = [] if address.port is None else ["-p", str(address.port)]
    user = [] if address.user is None else ["-l", address.user]
    if not batch:
        return ["ssh", *port, *user, address.host]
    options = (part for name, value in _OPTIONS.items() for part in ("-o", f"{name}={value}"))
    return ["ssh", "-T", *options, *port, *user, "--", address.host, *remote]


def _python(path: str) -> str:
    """A Python as the shell over there takes it, which knows where home is."""
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") else shlex.quote(path)
