"""Files: where what can be made again is kept, how they are written, exchanged and locked."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from splite_deploy.errors import OutputError
from splite_deploy.files import cache_folder, exchange, locked, write_file


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


@pytest.mark.parametrize("at_once", [True, False])
def test_two_folders_trade_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at_once: bool) -> None:
    if not at_once:
        monkeypatch.setattr("splite_deploy.files._exchange_at_once", lambda one, other: False)
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
