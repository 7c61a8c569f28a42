"""Reading recorded results: JSON lines, of several kinds and machines."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from splite_deploy.bench.bootstrap import Ratio
from splite_deploy.bench.result import upgraded

Record = dict[str, Any]
RESULT = "result"
"""The kind of a plain result, as matrix.py and 'splite-deploy bench --json' append them."""


def kind_of(record: Record) -> str | None:
    """What a record is; results that stand by themselves do not say it."""
    return RESULT if "artifact_sha256" in record else record.get("kind")


def read_records(folder: Path, kind: str | None) -> dict[str, list[Record]]:
    """The records of one kind in the files of a folder, in the order in which they were written.

    Results of earlier schema versions, and those within a record, have the words of the present one.
    """
    found: dict[str, list[Record]] = {}
    for file in sorted(folder.glob("*.jsonl")):
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        if chosen := [_in_present_words(record) for record in lines if kind_of(record) == kind]:
            found[file.stem] = chosen
    return found


def _in_present_words(record: Record) -> Record:
    if kind_of(record) == RESULT:
        return upgraded(record)
    return {**record, "bench": upgraded(record["bench"])} if "bench" in record else record


def newest_run(found: list[Record]) -> list[Record]:
    """The records with the latest date: they were timed in one run, side by side."""
    latest = max(record["date_utc"] for record in found)
    return [record for record in found if record["date_utc"] == latest]


def newest_of_each(table: Callable[[Record], list[str]]) -> Callable[[dict[str, list[Record]]], list[str]]:
    """Of the lines of a table of one record, those of the newest record of each file, an empty one between tables."""

    @wraps(table)
    def block(files: dict[str, list[Record]]) -> list[str]:
        tables = [table(newest_run(found)[-1]) for found in files.values()]
        return [line for lines in tables for line in (*lines, "")][:-1]

    return block


def accuracy_cells(accuracy: Record) -> str:
    """Error, PCK and PA-MPJPE as cells of a table."""
    return f"{accuracy['mean_error_box_pct']:.2f} | {accuracy['pck_05']:.3f} | {accuracy['pa_mpjpe_mm']:.2f}"


def ratio_cell(ratio: Record) -> str:
    """A ratio with its interval."""
    return str(Ratio(**ratio))


def machine(environment: Record) -> str:
    """A machine as text."""
    return str(environment["board"] or f"{environment['cpu_model']}, {environment['logical_cores']} cores")
