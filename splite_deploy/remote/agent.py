"""What a machine runs while somebody is connected to it: a store of files by their hash, and one command at a time.

The text of this file is sent to a Python there, so that nothing has to be installed: standard library only, of Python
3.10 on a POSIX system. Requests come as lines of JSON, some with bytes behind them, and are answered in the same way.
When the connection ends, or is silent for too long, the command that runs is killed, and its folder is removed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

SILENT_S = 120.0
"""So long may whoever asked say nothing, not even a blank line."""
ALIVE_EVERY_S = 5.0
KEPT_S = 30 * 86400.0
"""So long a file stays in the store that nobody uses."""
_BLOCK_BYTES = 1 << 20
_MOST_LINE_BYTES = 16 << 20
_MOST_SAID = 500
_SPARE_BYTES = 16 << 20  # results need some room, too


class Agent:
    """Answers requests.

    Args:
        source: Where requests come from.
        sink: Where answers go.
        cache: The folder for the store.
    """

    def __init__(self, source: BinaryIO, sink: BinaryIO, cache: Path) -> None:
        self._source, self._sink, self._lock = source, sink, threading.Lock()
        self._heard_s = time.monotonic()
        self._child: Any = None
        for name in ("files", "runtimes", "sessions"):
            (cache / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._files, self._runtimes = cache / "files", cache / "runtimes"
        _forget(self._files, self._runtimes)
        with _locked(cache / "sessions"):  # else another agent takes ours for a leftover before it is locked
            _sweep(cache / "sessions")
            self._session = Path(tempfile.mkdtemp(dir=cache / "sessions"))
            self._held = os.open(self._session, os.O_RDONLY)
            fcntl.flock(self._held, fcntl.LOCK_EX)
        self._runtime = self._session

    def serve(self) -> None:
        """Answers until the connection ends, and with it this process."""
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            self._send(ready=True)
            while line := self._source.readline(_MOST_LINE_BYTES):
                self._heard_s = time.monotonic()
                if line.strip():
                    self._answer(json.loads(line))
        finally:
            self._end()

    def _answer(self, request: Mapping[str, Any]) -> None:
        if request["do"] == "job":  # requests are read meanwhile: the end of the connection is the end of the job
            threading.Thread(target=self._guarded, args=(self._job, request), daemon=True).start()
        else:
            self._guarded({"lacking": self._lacking, "put": self._put, "runtime": self._unpack}[request["do"]], request)

    def _guarded(self, act: Any, request: Mapping[str, Any]) -> None:
        try:
            act(request)
        except (BrokenPipeError, ValueError):  # nobody listens any more, or the stream is closed
            self._end()
        except OSError as err:
            full = err.errno in (errno.ENOSPC, errno.EDQUOT)
            self._send(failed=f"{err.strerror or err}: {err.filename or self._files.parent}", full=full)

    def _send(self, payload: BinaryIO | None = None, **message: Any) -> None:
        with self._lock:
            self._sink.write(json.dumps(message).encode() + b"\n")
            if payload is not None:
                shutil.copyfileobj(payload, self._sink, _BLOCK_BYTES)
            self._sink.flush()

    def _watch(self) -> None:
        while time.monotonic() - self._heard_s < SILENT_S:
            time.sleep(1.0)
        self._end()

    def _end(self) -> None:
        child = self._child
        if child is not None:
            child.stop()
        shutil.rmtree(self._session, ignore_errors=True)
        os._exit(0)  # a child that began in this moment ends with us: see splite_deploy.children

    def _lacking(self, request: Mapping[str, Any]) -> None:
        self._send(lacking=[sha256 for sha256 in request["files"] if not self._has(sha256)])

    def _has(self, sha256: str) -> bool:
        """Whether a file is here and whole; what is damaged is removed."""
        file = self._files / sha256
        try:
            whole = _sha256_of(file) == sha256
        except OSError:
            return False
        if whole:
            os.utime(file)
        else:
            file.unlink()
        return whole

    def _put(self, request: Mapping[str, Any]) -> None:
        blocks, part = self._blocks(request["size"]), self._session / "part"
        digest = hashlib.sha256()
        try:
            with part.open("wb") as stream:
                if shutil.disk_usage(self._session).free < request["size"] + _SPARE_BYTES:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._files))
                for block in blocks:
                    digest.update(block)
                    stream.write(block)
            whole = digest.hexdigest() == request["sha256"]
            if whole:
                part.replace(self._files / request["sha256"])
        finally:
            part.unlink(missing_ok=True)
            for _ in blocks:  # what is left where it failed, since requests follow
                pass
        self._send(stored=whole)

    def _blocks(self, size: int) -> Iterator[bytes]:
        """The bytes behind a request."""
        while size:
            block = self._source.read(min(size, _BLOCK_BYTES))
            if not block:
                self._end()
            self._heard_s = time.monotonic()
            size -= len(block)
            yield block

    def _unpack(self, request: Mapping[str, Any]) -> None:
        """Has the runtime of this wheel beside others, whole."""
        place = self._runtimes / request["sha256"]
        with _locked(self._runtimes), zipfile.ZipFile(self._files / request["sha256"]) as wheel:
            if not all(_is_file_of(place, one) for one in wheel.infolist()):
                made = self._session / "runtime"
                wheel.extractall(made)
                shutil.rmtree(place, ignore_errors=True)
                made.rename(place)
        os.utime(place)
        self._runtime = place
        sys.path.insert(0, str(place))
        self._send(unpacked=True)

    def _job(self, request: Mapping[str, Any]) -> None:
        folder = self._session / "job"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "out").mkdir(parents=True)
        for name, sha256 in request["files"].items():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            self._place(self._files / sha256, place, own=request["own"])
        from splite_deploy.children import Child  # of the runtime that was sent

        variables = {**os.environ, "PYTHONPATH": str(self._runtime), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", request["module"], *request["arguments"]]
        none = subprocess.DEVNULL
        with Child(command, cwd=folder, env=variables, stdin=none, stdout=none, stderr=subprocess.PIPE) as child:
            self._child = child
            for line in self._lines(child.process.stderr):
                self._send(said=line)
            status = child.process.wait()
        self._child = None
        self._send(ended=status)
        known = set(request["files"].values())
        for file in sorted(one for name in request["collect"] for one in (folder / name).rglob("*")):
            if file.is_file() and not file.is_symlink():
                name, sha256 = file.relative_to(folder).as_posix(), _sha256_of(file)
                if sha256 in known:
                    self._send(file=name, sha256=sha256, size=0, known=True)
                else:
                    with file.open("rb") as stream:
                        self._send(stream, file=name, sha256=sha256, size=file.stat().st_size, known=False)
        self._send(done=True)

    def _place(self, stored: Path, place: Path, *, own: bool) -> None:
        """A name for a stored file, or a copy where the command writes to it or the file system has no links."""
        if not own:
            with suppress(OSError):
                os.link(stored, place)
                return
        shutil.copyfile(stored, place)

    def _lines(self, stream: Any) -> Iterator[str]:
        """What the command says, line by line, and a sign of life where it says nothing."""
        handle, rest = stream.fileno(), b""
        while True:
            if not select.select([handle], [], [], ALIVE_EVERY_S)[0]:
                self._send(alive=True)
                continue
            if not (block := os.read(handle, _BLOCK_BYTES)):
                break
            *lines, rest = (rest + block).split(b"\n")
            yield from (_text(line) for line in lines)
            rest = rest[-_MOST_SAID:]
        if rest:
            yield _text(rest)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other agents that lock the same folder waiting until the block ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _text(line: bytes) -> str:
    return line[:_MOST_SAID].decode("utf-8", "replace")


def _sha256_of(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _is_file_of(folder: Path, one: zipfile.ZipInfo) -> bool:
    """Whether a member of a wheel lies unpacked in a folder, as it is."""
    try:
        content = (folder / one.filename).read_bytes()
    except OSError:
        return False
    return len(content) == one.file_size and zlib.crc32(content) == one.CRC


def _forget(files: Path, runtimes: Path) -> None:
    """Removes what nobody has used for long."""
    old_s = time.time() - KEPT_S
    for folder in (files, runtimes):
        for one in folder.iterdir():
            with suppress(OSError):
                if one.stat().st_mtime < old_s:
                    shutil.rmtree(one, ignore_errors=True) if one.is_dir() else one.unlink()


def _sweep(sessions: Path) -> None:
    """Removes the folders of sessions that ended without doing so: nobody holds their lock."""
    for folder in sessions.iterdir():
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def cache_folder() -> Path:
    """As `splite_deploy.files.cache_folder`, which is not here yet."""
    if named := os.environ.get("SPLITE_CACHE"):
        return Path(named).expanduser()
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "splite-deploy"


def main() -> None:
    """Serves standard input; what else is written to standard output goes to standard error."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        agent = Agent(sys.stdin.buffer, sink, cache_folder() / "remote")
    except (OSError, RuntimeError) as err:
        sink.write(json.dumps({"failed": f"its cache folder cannot be used: {err}"}).encode() + b"\n")
        sink.flush()
        return
    agent.serve()
