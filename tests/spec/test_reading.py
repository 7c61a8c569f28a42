"""Files of plain data that hold anything but it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest

from splite_deploy.spec import reading
from splite_deploy.spec.reading import (
    MalformedError,
    MissingError,
    ReadError,
    parse_json,
    parse_toml,
    read_bytes,
    read_json,
    read_toml,
)

NINES = "9" * 4_301


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not valid JSON: Expecting value"),
        (b'{"a": 1', "not valid JSON"),
        (b"\xff\xfe{\x00", "UTF-16"),
        (b'{"a": "\xff"}', "no UTF-8 text (byte 7)"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 66 + b"]" * 66, "nested too deeply"),
        (b'{"a": ' * 65 + b"1" + b"}" * 65, "nested too deeply"),
        (f"[{NINES}]".encode(), "a number of too many digits"),
        (rb'{"a": "\u0000"}', "NUL"),
        (rb'{"a": "\ud800"}', "half of a character"),
        (rb'{"\uDFFF": 1}', "half of a character"),
    ],
)
def test_json_that_nobody_can_use(content: bytes, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(MalformedError) as caught:
        read_json(file)
    assert caught.value.message.startswith(f"Cannot read {file}: ") and reason in caught.value.reason
    assert caught.value.hint == "Name another file, or copy it again."


def test_json_as_people_and_windows_write_it(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b"\xef\xbb\xbf" + rb'{"a": ["\ud83d\ude00", NaN, 1e999, ' + b"9" * 4_000 + b"]}")
    (found,) = read_json(file).values()
    assert found[0] == "😀" and found[2] == float("inf") and found[3] > 1 << 64
    with pytest.raises(MalformedError):
        parse_json(file.read_bytes(), "a", mark=False)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a = ", "not valid TOML"),
        (f"a = {NINES}", "a number of too many digits"),
        ("a = " + "[" * 2_000 + "]" * 2_000, "nested too deeply"),
        (".".join("a" * 1_200) + " = 1", "nested too deeply"),
        ("a = 2026-02-30", "not valid TOML"),
        (r'a = "\u0000"', "NUL"),
        (r'a = "\ud800"', "not valid TOML"),
    ],
)
def test_toml_that_nobody_can_use(content: str, reason: str) -> None:
    with pytest.raises(MalformedError, match=r"Cannot read model\.toml: ") as caught:
        parse_toml(content, "model.toml")
    assert reason in caught.value.reason


def test_toml_with_a_mark_and_line_breaks_of_windows(tmp_path: Path) -> None:
    file = tmp_path / "model.toml"
    file.write_bytes(b"\xef\xbb\xbfa = 1\r\nb = 2\r\n")
    assert read_toml(file) == {"a": 1, "b": 2}


def test_a_large_file_is_refused_by_its_size_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with file.open("wb") as stream:
        stream.truncate(2_000_000_000)  # without a block on the disk
    with pytest.raises(ReadError, match="it is larger than 64 MiB, the most that is read"):
        read_json(file)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a\0b", "no file has such a name"),
        ("\ud800", "no file has such a name"),
        ("x" * 300, "File name too long"),
        ("folder", "Is a directory"),
        ("folder/a/b/c", "No such file"),
        ("loop", "Too many levels of symbolic links"),
        ("pipe", "it is a device, not a file"),
        ("device", "it is a device, not a file"),
    ],
)
def test_what_is_no_file(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "device").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ReadError, match=reason) as caught:
        read_bytes(tmp_path / name)
    assert "\0" not in caught.value.message
    assert isinstance(caught.value, MissingError) == name.startswith("folder/")


def test_a_pipe_of_the_shell_is_read_to_its_end() -> None:
    out, into = os.pipe()

    def write() -> None:
        with os.fdopen(into, "wb") as stream:
            stream.write(b'{"a": "' + b"x" * 200_000)
            stream.flush()
            stream.write(b'"}')

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert len(read_json(Path(f"/dev/fd/{out}"))["a"]) == 200_000
    finally:
        writer.join()
        os.close(out)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    """By a user without rights, whom the tests become where they are root."""
    file = tmp_path / "a.json"
    file.write_text("{}")
    file.chmod(0)
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[2])\n"
        "from splite_deploy.spec.reading import ReadError, read_json\n"
        "from pathlib import Path\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setresuid(65534, 65534, 65534)\n"
        "try: read_json(Path(sys.argv[1]))\n"
        "except ReadError as err: print(err.reason)\n"
    )
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder.name.startswith("pytest-") or folder == tmp_path:
            folder.chmod(0o755)
    root = str(Path(reading.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", script, file, root], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Permission denied"


def test_only_as_much_memory_is_taken_as_a_file_has(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for content in (b"", b"{}", b"x" * 3_000_000):
        file.write_bytes(content)
        tracemalloc.start()
        try:
            assert read_bytes(file, most_bytes=1 << 31) == content
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert most < 3 * len(content) + (1 << 21)
