"""Files of results: one line of JSON for each, appended and read."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from splite_deploy.bench.result import BenchResult
from splite_deploy.errors import OutputError, UsageError
from splite_deploy.files import appending, descriptor_of, write_all, writing
from splite_deploy.spec.plain import json_text
from splite_deploy.spec.reading import MIB, ReadError, parse_json, read_bytes

_MOST_BYTES = 256 * MIB  # of some ten thousand results
_WRITTEN_BY = "Name a file that 'splite-deploy bench BUNDLE --json FILE' wrote."


def append_result(path: str | PathLike[str], result: BenchResult) -> None:
    """Appends a result to a file of JSON lines; see `append_record`."""
    append_record(path, result.to_dict())


def append_record(path: str | PathLike[str], record: Mapping[str, Any]) -> None:
    """Appends a line to a file of JSON lines, by a single write, whole or not at all; makes a file where is none.

    Where the last line has no end, since what wrote it was killed, the new one does not become a part of it.

    Raises:
        OutputError: The file cannot be written, or a figure is not finite: no reader would take it.
    """
    text, lost = json_text(record)
    if lost:
        raise OutputError(
            f"Nothing was appended to {fspath(path)}: {lost[0]} is not a finite number.",
            hint="Measure it again, without --json if it stays so: the table shows which figure it is.",
        )
    line = text.encode() + b"\n"
    if descriptor_of(Path(path)) is not None:
        with writing(path), appending(Path(path)) as stream:
            write_all(stream, line)
        return
    with writing(path), Path(path).open("ab", buffering=0) as stream:
        start = stream.seek(0, os.SEEK_END) if stream.seekable() else 0
        try:
            if start and not _ends_a_line(path):
                line = b"\n" + line
            if stream.write(line) != len(line):  # the disk filled up in the middle
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except BaseException:
            with suppress(OSError):  # a device has no length
                stream.truncate(start)  # half a line would spoil the file
            raise


def _ends_a_line(path: str | PathLike[str]) -> bool:
    with Path(path).open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"


def read_results(path: str | PathLike[str], line: int | None = None) -> list[BenchResult]:
    """Reads a file of JSON lines; empty lines are skipped.

    Args:
        path: The file.
        line: The number of the only line to read, from 1; None reads all.

    Raises:
        UsageError: The file cannot be read or holds no result, or has no such line. Or a line is no result; the message
            names it.
    """
    try:
        lines = read_bytes(Path(path), most_bytes=_MOST_BYTES).split(b"\n")
    except ReadError as err:
        raise UsageError(f"Cannot read the results {path}: {err.reason}.", hint=_WRITTEN_BY) from err
    held = {number: text for number, text in enumerate(lines, 1) if text.strip()}
    if not held:
        raise UsageError(f"{path} holds no result.", hint=_WRITTEN_BY)
    if line is not None:
        if line not in held:
            there = ", ".join(map(str, list(held)[:20]))
            raise UsageError(f"{path} holds no result in line {line}.", hint=f"There are results in lines: {there}.")
        held = {line: held[line]}
    return [parse_result(text, f"{path}, line {number}") for number, text in held.items()]


def parse_result(line: bytes, where: str) -> BenchResult:
    """Reads a line.

    Args:
        line: The line.
        where: Which one it is, for messages.

    Raises:
        UsageError: It is no result, is cut off, or is of another version.
    """
    try:
        data = parse_json(line, where)
    except ReadError as err:
        if line.lstrip().startswith(b"{") and not line.rstrip().endswith(b"}"):
            message = f"{where} is cut off: what wrote it was ended, or the disk was full."
            raise UsageError(message, hint="Remove that line; the others are whole.") from err
        raise UsageError(err.message, hint="Remove that line.") from err
    if not isinstance(data, dict):
        raise UsageError(f"{where} is not a benchmark result.", hint="Remove that line.")
    try:
        return BenchResult.from_dict(data)
    except UsageError as err:
        raise UsageError(f"{where}: {err.message}", hint=err.hint) from err
