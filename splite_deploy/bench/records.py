"""Files of results: one line of JSON for each, appended and read."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from splite_deploy.bench.result import BenchResult
from splite_deploy.errors import UsageError
from splite_deploy.files import writing
from splite_deploy.spec.reading import MIB, ReadError, parse_json, read_bytes

_MOST_BYTES = 256 * MIB  # of some ten thousand results


def append_result(path: str | PathLike[str], result: BenchResult) -> None:
    """Appends a result to a file of JSON lines; see `append_record`."""
    append_record(path, result.to_dict())


def append_record(path: str | PathLike[str], record: Mapping[str, Any]) -> None:
    """Appends a line to a file of JSON lines, by a single write; makes the file where there is none.

    Raises:
        OutputError: The file cannot be written.
    """
    line = json.dumps(record, allow_nan=False).encode() + b"\n"
    with writing(path), Path(path).open("ab", buffering=0) as stream:
        start = stream.seek(0, os.SEEK_END) if stream.seekable() else 0
        if stream.write(line) != len(line):  # the disk filled up in the middle; half a line would spoil the file
            stream.truncate(start)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_results(path: str | PathLike[str]) -> list[BenchResult]:
    """Reads a file of JSON lines; empty lines are skipped.

    Raises:
        UsageError: The file cannot be read, or a line is no result; the message names the line.
    """
    try:
        lines = read_bytes(Path(path), most_bytes=_MOST_BYTES).split(b"\n")
    except ReadError as err:
        hint = "Name a file that 'splite-deploy bench --json' wrote."
        raise UsageError(f"Cannot read the results {path}: {err.reason}.", hint=hint) from err
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _parse(line: bytes, where: str) -> BenchResult:
    try:
        data = parse_json(line, where)
    except ReadError as err:
        raise UsageError(err.message, hint="Remove that line.") from err
    if not isinstance(data, dict):
        raise UsageError(f"{where} is not a benchmark result.", hint="Remove that line.")
    try:
        return BenchResult.from_dict(data)
    except UsageError as err:
        raise UsageError(f"{where}: {err.message}", hint=err.hint) from err
