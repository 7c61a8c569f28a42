"""Plain data in files of others, JSON and TOML: the only code that reads it.

Whatever lies there, a reader gets data of at most so many bytes and levels, whose texts can be shown and written again,
or a `ReadError` that says why not. What the data has to be is for `splite_deploy.spec.plain` to say. Standard library
only.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from splite_deploy.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MIB = 1 << 20
MOST_BYTES = 64 * MIB
"""Of a file where nothing else is said; a manifest has some kilobytes, the ranges of a large network some megabytes."""
MOST_LEVELS = 64
"""How deep lists and tables may lie in each other; no file of ours goes beyond ten. Python's own limit depends on where
it is reached, and what walks the data later needs some room."""
_READ_BYTES = MIB  # at once: Python makes room for all that it is asked to read
_WALKED_BYTES = 16 * MIB  # a walk over more takes seconds; the parser's own limit of a thousand levels holds there
_STREAMS = ("/dev/fd/", "/dev/stdin", "/proc/")


class ReadError(UsageError):
    """A file of plain data cannot be read.

    Attributes:
        reason: Why, a clause without its subject's name and without a full stop.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"Cannot read {name}: {reason}.", hint="Name another file, or copy it again.")
        self.reason = reason


class MissingError(ReadError):
    """There is no such file."""


class MalformedError(ReadError):
    """What a file holds is no text, or no text of its format."""


def read_bytes(path: Path, *, most_bytes: int = MOST_BYTES) -> bytes:
    """The content of a file; no more of it is read than is allowed.

    A named pipe would be waited for without an end, and a device gives no end; those of the shell, ``<(command)`` and
    ``/dev/stdin``, are read.

    Raises:
        MissingError: There is no such file.
        ReadError: It is no file, is too large, or may not be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError) as err:
        raise MissingError(str(path), err.strerror or str(err)) from err
    except OSError as err:
        raise ReadError(str(path), err.strerror or str(err)) from err
    except ValueError as err:  # a name with NUL, or with half of a character
        raise ReadError(repr(str(path)), f"no file has such a name ({err})") from err
    try:
        with os.fdopen(handle, "rb") as stream:
            mode = os.fstat(handle).st_mode
            if stat.S_ISFIFO(mode) and os.fspath(path).startswith(_STREAMS):
                os.set_blocking(handle, True)
            elif not stat.S_ISREG(mode):
                raise ReadError(str(path), "it is a device, not a file")
            parts, left = [], most_bytes + 1
            if os.fstat(handle).st_size <= most_bytes:
                while left and (part := stream.read(min(left, max(_READ_BYTES, os.fstat(handle).st_size)))):
                    parts.append(part)
                    left -= len(part)
            content = parts[0] if len(parts) == 1 else b"".join(parts)
            if len(content) > most_bytes or os.fstat(handle).st_size > most_bytes:
                raise ReadError(str(path), f"it is larger than {most_bytes // MIB} MiB, the most that is read")
            return content
    except OSError as err:
        raise ReadError(str(path), err.strerror or str(err)) from err
    except MemoryError as err:
        raise ReadError(str(path), "there is not enough memory for it") from err


def check_file(path: Path) -> None:
    """Refuses what is no file, before it is opened by code that would wait for a pipe or read a device without an end.

    Raises:
        MissingError: There is no such file.
        ReadError: It is a folder, a pipe or a device, or may not be looked at.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as err:
        raise MissingError(str(path), err.strerror or str(err)) from err
    except OSError as err:
        raise ReadError(str(path), err.strerror or str(err)) from err
    except ValueError as err:
        raise ReadError(repr(str(path)), f"no file has such a name ({err})") from err
    if stat.S_ISDIR(mode):
        raise ReadError(str(path), "Is a directory")
    if not stat.S_ISREG(mode):
        raise ReadError(str(path), "it is a device, not a file")


def refuse_stand_in(head: bytes, name: str) -> None:
    """Refuses what downloads leave in the place of a file: a page, a message, or a pointer of Git LFS.

    The pointer's first line: github.com/git-lfs/git-lfs, docs/spec.md.

    Args:
        head: Its first bytes.
        name: What it is called in messages.

    Raises:
        StandInError: It is one of them.
    """
    begin = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if begin.startswith(b"version https://git-lfs"[: max(len(begin), 9)]):
        raise StandInError(
            f"{name} is a pointer of Git LFS, not the file that it stands for.", hint="Run 'git lfs pull' there."
        )
    if begin.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")):
        raise StandInError(
            f"{name} is a web page, as a failed download leaves it.", hint="Open it in a browser, and download anew."
        )


class StandInError(UsageError):
    """Something else lies in the place of a file."""


def read_json(path: Path, *, most_bytes: int = MOST_BYTES) -> Any:
    """The JSON of a file, which may begin with a byte-order mark.

    Raises:
        MissingError: There is no such file.
        ReadError: See `read_bytes` and `parse_json`.
    """
    return parse_json(read_bytes(path, most_bytes=most_bytes), str(path))


def parse_json(content: bytes | str, name: str, *, mark: bool = True) -> Any:
    """The data that a text of JSON holds.

    Args:
        content: The text; bytes are UTF-8.
        name: What it is called in messages.
        mark: Whether it may begin with a byte-order mark.

    Raises:
        MalformedError: It is no JSON, is nested too deeply, has a number of too many digits, or a text that cannot be
            written again. NaN and infinity are read as Python writes them: what takes no such number says where it is.
    """
    text = _decoded(content, name, mark)
    data = _parsed(lambda: json.loads(text), "JSON", name)
    if len(text) <= _WALKED_BYTES:
        _check_depth(data, name)
    lower = text.lower() if "\\u" in text else ""
    if "\\u0000" in lower:
        raise MalformedError(name, "a text in it holds the character NUL")
    if "\\ud" in lower:
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except UnicodeEncodeError as err:
            raise MalformedError(name, "a text in it holds half of a character (a lone surrogate)") from err
    return data


def read_toml(path: Path, *, most_bytes: int = 4 * MIB) -> dict[str, Any]:
    """The TOML of a file, which may begin with a byte-order mark.

    Raises:
        MissingError: There is no such file.
        ReadError: See `read_bytes` and `parse_toml`.
    """
    return parse_toml(read_bytes(path, most_bytes=most_bytes), str(path))


def parse_toml(content: bytes | str, name: str) -> dict[str, Any]:
    """The data that a text of TOML holds; see `parse_json`.

    Raises:
        MalformedError: It is no TOML, is nested too deeply, has a number of too many digits, or a text with NUL.
    """
    text = _decoded(content, name)
    data: dict[str, Any] = _parsed(lambda: tomllib.loads(text), "TOML", name)
    _check_depth(data, name)
    if "\\u0000" in text or "\\U00000000" in text:
        raise MalformedError(name, "a text in it holds the character NUL")
    return data


def _decoded(content: bytes | str, name: str, mark: bool = True) -> str:
    if isinstance(content, str):
        return content
    try:
        return content.decode("utf-8-sig" if mark else "utf-8")  # editors on Windows begin a file with a mark
    except UnicodeDecodeError as err:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise MalformedError(name, "it is UTF-16 text; save it as UTF-8") from err
        raise MalformedError(name, f"it is no UTF-8 text (byte {err.start})") from err


def _parsed(parse: Callable[[], Any], kind: str, name: str) -> Any:
    """What a parser makes of a text, whatever it stumbles over."""
    try:
        return parse()
    except RecursionError as err:
        raise MalformedError(name, "it is nested too deeply") from err
    except MemoryError as err:
        raise ReadError(name, "there is not enough memory for it") from err
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as err:
        raise MalformedError(name, f"it is not valid {kind}: {err}") from err
    except ValueError as err:  # Python's limit of digits, a date that no calendar has
        if "integer string conversion" in str(err):
            raise MalformedError(name, "it has a number of too many digits") from err
        raise MalformedError(name, f"it is not valid {kind}: {err}") from err


def _check_depth(data: Any, name: str) -> None:
    level = [data]
    for _ in range(MOST_LEVELS + 1):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict | list):
                inner += one.values() if isinstance(one, dict) else one
        if not inner:
            return
        level = inner
    raise MalformedError(name, "it is nested too deeply")
