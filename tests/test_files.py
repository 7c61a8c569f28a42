"""Files: where what can be made again is kept, how they are written, exchanged and locked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from splite_deploy import files
from splite_deploy.errors import OutputError
from splite_deploy.files import (
    cache_folder,
    check_writable,
    exchange,
    hidden_name,
    is_pattern,
    locked,
    matched,
    part_file,
    part_folder,
    remove_leftovers,
    rename_to_new,
    whole_file,
    work_folder,
    write_beside,
    write_file,
)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SPLITE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "splite-deploy"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to ignore
    assert cache_folder() == tmp_path / ".cache" / "splite-deploy"
    monkeypatch.setenv("XDG_CACHE_HOME", "/shared")
    assert cache_folder() == Path("/shared/splite-deploy")
    monkeypatch.setenv("SPLITE_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"


def test_a_file_is_replaced_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "timings"
    write_file(file, b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_file(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_goes_beside_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    assert write_beside(file, b"one") == file
    assert write_beside(file, b"one") == file  # it is there already
    assert write_beside(file, b"two") == tmp_path / "a-2.txt"
    (tmp_path / "a-3.txt").mkdir()
    (tmp_path / "a-4.txt").symlink_to("nowhere")
    assert write_beside(file, b"six") == tmp_path / "a-5.txt"
    contents = {one.name: one.read_bytes() for one in tmp_path.iterdir() if one.is_file()}
    assert contents == {"a.txt": b"one", "a-2.txt": b"two", "a-5.txt": b"six"}
    with pytest.raises(OutputError, match=r"Cannot write .*none/a\.txt: No such file or directory"):
        write_beside(tmp_path / "none" / "a.txt", b"one")


def test_a_name_that_is_taken_in_the_meantime_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, renamed = tmp_path / "a.txt", files.rename_to_new

    def later(one: Path, other: Path) -> None:
        if other == file and not file.exists():
            file.write_bytes(b"of another")
        renamed(one, other)

    monkeypatch.setattr(files, "rename_to_new", later)
    assert write_beside(file, b"ours") == tmp_path / "a-2.txt"
    assert file.read_bytes() == b"of another"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a-2.txt", "a.txt"]


@pytest.mark.parametrize("at_once", [True, False])
def test_two_folders_trade_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at_once: bool) -> None:
    if not at_once:
        monkeypatch.setattr("splite_deploy.files._rename_at_once", lambda one, other, way: False)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "b").is_file() and (tmp_path / "b" / "a").is_file()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b"]
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "c")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b"]


def test_a_lock_is_of_the_folder_that_has_the_name_in_the_end(tmp_path: Path) -> None:
    folder, other = tmp_path / "a", tmp_path / "b"
    folder.mkdir()
    other.mkdir()
    (other / "new").touch()
    seen: list[bool] = []

    def wait() -> None:
        with locked(folder):
            seen.append((folder / "new").exists())

    with locked(folder):
        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(timeout=0.2)
        assert waiting.is_alive() and seen == []
        exchange(folder, other)
        with locked(folder):  # the new one is free
            pass
    waiting.join(timeout=10)
    assert seen == [True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_keeps_no_lock(tmp_path: Path) -> None:
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            time.sleep(10)
            os._exit(0)
    began = time.monotonic()
    with locked(tmp_path):
        assert time.monotonic() - began < 5
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_what_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"Cannot write .*missing: No such file"), locked(tmp_path / "missing"):
        pass


def test_a_written_file_is_whole_or_the_one_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file, link = tmp_path / "a.json", tmp_path / "link.json"
    write_file(file, b"old")
    link.symlink_to(file)

    def interrupted(stream: object, data: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("splite_deploy.files.write_all", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_file(file, b"new")
    assert file.read_bytes() == b"old" and sorted(tmp_path.iterdir()) == [file, link]
    write_file(link, b"new")
    assert file.read_bytes() == b"new" and link.is_symlink() and sorted(tmp_path.iterdir()) == [file, link]


# --- what is not whole yet, and what is left of it ---

KILLED = """
import os, pathlib, signal, sys
from splite_deploy.files import {name}
with {name}(pathlib.Path(sys.argv[1])) as part:
    print(part, flush=True)
    {work}
"""


def killed(name: str, path: Path) -> Path:
    """What a process left that was killed in the midst of its work."""
    code = KILLED.format(name=name, work="os.kill(os.getpid(), signal.SIGKILL)")
    done = subprocess.run([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    left = Path(done.stdout.strip())
    assert left.exists() and left.name.startswith(f".{path.stem}.splite-")
    return left


@pytest.mark.parametrize("name", ["whole_file", "part_file", "part_folder"])
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path, name: str) -> None:
    left = killed(name, tmp_path / "a.splite")
    write_file(tmp_path / "other.json", b"x")
    assert not left.exists() and [file.name for file in tmp_path.iterdir()] == ["other.json"]


@pytest.mark.parametrize("name", ["whole_file", "part_file", "part_folder"])
def test_what_a_living_process_makes_stays(tmp_path: Path, name: str) -> None:
    code = KILLED.format(name=name, work="sys.stdin.read(); (part / 'x' if part.is_dir() else part).write_text('x')")
    command = [sys.executable, "-c", code, str(tmp_path / "a.json")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None and writer.stdin is not None
        part = Path(writer.stdout.readline().strip())
        remove_leftovers(tmp_path)
        assert part.exists()
        writer.stdin.close()
        assert writer.wait(20) == 0
    assert (tmp_path / "a.json").exists() == (name == "whole_file") and not part.exists()


def test_a_process_number_that_lives_again_tells_nothing(tmp_path: Path) -> None:
    """As in a container, where each run has the number 1: only the lock tells who lives."""
    left = hidden_name(tmp_path / "a.json")
    left.write_text("half", encoding="utf-8")
    folder = hidden_name(tmp_path / "b.splite")
    (folder / "deep").mkdir(parents=True)
    with part_file(tmp_path / "a.json") as part:
        assert part.read_bytes() == b"" and {*tmp_path.iterdir()} == {part}


def test_only_our_names_are_leftovers(tmp_path: Path) -> None:
    mine = ["a.part", ".a.part", ".a.12.part.mp4", ".a.splite-12.part.x.y", ".splite-12.part", "a.splite-12.part.json"]
    for name in mine:
        (tmp_path / name).write_text("mine", encoding="utf-8")
    (tmp_path / ".a.splite-12.part.json").symlink_to(tmp_path / "a.part")
    os.mkfifo(tmp_path / ".b.splite-12.part.json")
    remove_leftovers(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {*mine, ".a.splite-12.part.json", ".b.splite-12.part.json"}
    remove_leftovers(tmp_path / "missing")
    remove_leftovers(tmp_path / "a.part")


def test_a_link_inside_a_leftover_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").touch()
    left = tmp_path / ".a.splite-12.part"
    left.mkdir()
    (left / "link").symlink_to(tmp_path / "mine")
    remove_leftovers(tmp_path)
    assert (tmp_path / "mine" / "photo.jpg").exists() and not left.exists()


def test_a_bundle_that_gave_way_when_the_process_died_comes_back(tmp_path: Path) -> None:
    old, back = tmp_path / ".hand.splite-12.old.splite", tmp_path / "hand.splite"
    old.mkdir()
    (old / "manifest.json").touch()
    remove_leftovers(tmp_path)
    assert (back / "manifest.json").is_file() and not old.exists()
    old.mkdir()
    remove_leftovers(tmp_path)
    assert (back / "manifest.json").is_file() and not old.exists()
    assert hidden_name(tmp_path / "a b.c.splite", "old").name == f".a b.c.splite-{os.getpid()}.old.splite"
    hidden_name(tmp_path / "a b.c.splite", "old").mkdir()
    remove_leftovers(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"hand.splite", "a b.c.splite"}


@pytest.mark.parametrize("name", ["x" * 250 + ".json", "\u00e4" * 125 + ".json", "..json", "line\nbreak.json"])
def test_every_name_that_can_be_written_has_a_hidden_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with whole_file(path) as part:
        part.write_bytes(b"x")
        assert part.parent == tmp_path and len(os.fsencode(part.name)) <= 255
    assert path.read_bytes() == b"x"
    path.unlink()
    left = hidden_name(path)
    left.write_bytes(b"x")
    remove_leftovers(tmp_path)
    assert not left.exists()


def test_no_hidden_name_is_used_twice(tmp_path: Path) -> None:
    """A process that was about to remove the old bundle of this name removed the new one of the next run."""
    names = []
    for _ in range(3):
        with part_folder(tmp_path / "a.splite") as folder:
            names.append(folder)
    assert len(set(names)) == 3 and list(tmp_path.iterdir()) == []


def test_two_threads_write_one_file(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a.json") as one, whole_file(tmp_path / "a.json") as other:
        assert one != other
        one.write_bytes(b"one")
        other.write_bytes(b"other")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"one"]


def test_a_work_folder_goes_and_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = killed("part_folder", tmp_path / "engines")
    with work_folder("trace") as folder:
        assert folder.stat().st_mode & 0o777 == 0o700 and not left.exists()
        (folder / "x").touch()
    assert list(tmp_path.iterdir()) == []


def test_what_a_pattern_matches(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", ".hidden.png", "x[1].png", "in/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [file.name for file in matched(tmp_path / "*.png")] == ["a.png", "b.png", "x[1].png"]
    assert [file.name for file in matched(tmp_path / "**" / "*.png")] == ["a.png", "b.png", "c.png", "x[1].png"]
    assert matched(tmp_path / "none*") == [] and is_pattern(tmp_path / "none*")
    for path in (tmp_path / "x[1].png", tmp_path / "none.png", tmp_path):  # what is there, or has no wildcard
        assert matched(path) == [path] and not is_pattern(path)
    assert matched(Path("a\0b/*.png")) == []


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_rename_never_replaces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at_once: bool, kind: str) -> None:
    if not at_once:
        monkeypatch.setattr("splite_deploy.files._rename_at_once", lambda one, other, way: False)
    one, other = tmp_path / "a", tmp_path / "b"
    make: Callable[[Path], None] = Path.touch if kind == "file" else Path.mkdir
    make(one)
    taken: list[tuple[Callable[[], None], Callable[[], None]]] = [
        (other.touch, other.unlink),
        (other.mkdir, other.rmdir),
        (lambda: other.symlink_to("nowhere"), other.unlink),
    ]
    for lay, clear in taken:
        lay()
        with pytest.raises(FileExistsError):
            rename_to_new(one, other)
        assert sorted(tmp_path.iterdir()) == [one, other]
        clear()
    rename_to_new(one, other)
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o666])
def test_what_is_replaced_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    file, link = tmp_path / "result.json", tmp_path / "link.json"
    file.touch()
    file.chmod(mode)
    link.symlink_to(file)
    for path in (file, link):
        with whole_file(path) as partial:
            assert partial.stat().st_mode & 0o077 == mode & 0o077  # nobody reads it before it is whole
            partial.write_bytes(b"new")
        assert file.read_bytes() == b"new" and file.stat().st_mode & 0o777 == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_is_replaced_keeps_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.touch()
    os.chown(file, 1234, 4321)
    write_file(file, b"new")
    assert (file.stat().st_uid, file.stat().st_gid) == (1234, 4321)


TO_DESCRIPTOR = """
import sys
from pathlib import Path
from splite_deploy.files import appending, write_all, write_file
for name in sys.argv[1:]:
    write_file(Path(name), b"one\\n")
    with appending(Path(name)) as stream:
        write_all(stream, b"two\\n")
    print("three", flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux")
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/thread-self/fd/1", "link"])
@pytest.mark.parametrize("shell", [">>", ">"])
def test_a_descriptor_is_written_to_where_it_stands(tmp_path: Path, name: str, shell: str) -> None:
    log, before = tmp_path / "log", "before\n" if shell == ">>" else ""
    log.write_text("before\n", encoding="utf-8")
    inode = log.stat().st_ino
    (tmp_path / "link").symlink_to("/dev/stdout")
    name = str(tmp_path / name)  # an absolute one stays as it is
    with log.open("ab" if shell == ">>" else "wb") as stream:
        subprocess.run([sys.executable, "-c", TO_DESCRIPTOR, name, name], stdout=stream, check=True)
    assert log.read_text(encoding="utf-8") == before + "one\ntwo\nthree\n" * 2
    assert log.stat().st_ino == inode and sorted(tmp_path.iterdir()) == [tmp_path / "link", log]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux")
def test_a_descriptor_of_another_process_is_appended_to(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n", encoding="utf-8")
    with log.open("ab") as stream:
        name = f"/proc/{os.getpid()}/fd/{stream.fileno()}"
        subprocess.run([sys.executable, "-c", TO_DESCRIPTOR, name], stdout=subprocess.DEVNULL, check=True)
    assert log.read_text(encoding="utf-8") == "before\none\ntwo\n"


def test_what_cannot_be_replaced_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, mounts = tmp_path / "a result.json", tmp_path / "mountinfo"
    mine.write_bytes(b"mine")
    name = str(mine).replace(" ", r"\040")
    mounts.write_text(f"22 28 0:21 / /sys rw - sysfs sysfs rw\n36 28 0:22 /x {name} rw - ext4 /dev/x rw\n")
    check_writable(mine)
    monkeypatch.setattr(files, "_MOUNTS", mounts)
    with pytest.raises(OutputError, match=r"Cannot write .*a result\.json: ") as caught, files.writing(mine):
        check_writable(mine)
    assert caught.value.hint.startswith("It is mounted on its own, or in use: mount the folder")
    check_writable(mine, appends=True)
    check_writable(tmp_path / "new.json")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_be_written_in_a_folder_that_may_not(tmp_path: Path) -> None:
    mine = tmp_path / "shut" / "a.json"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    mine.parent.chmod(0o555)
    with pytest.raises(PermissionError):
        check_writable(mine)
    check_writable(mine, appends=True)
    mine.parent.chmod(0o755)
