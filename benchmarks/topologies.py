"""Which of twelve topologies can be exported to what: every backend in every precision, and TensorRT-RTX's builds.

    python benchmarks/topologies.py --out benchmarks/results/topologies.jsonl

Each cell is the command line's own work, as a user gets it: `export`, for an engine `compile` too. A cell works where
the artifact keeps its limits, and shows how far it moves keypoints (p95, pixels of the input); else it shows the reason
that the user reads. The networks are those of networks/zoo.py, compared on pictures of their own. Cells that need a
package which is missing here show that. Engines are built without a GPU, which only TensorRT-RTX can.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from splite_deploy.bench import append_record, read_environment
from splite_deploy.bundle import Bundle
from splite_deploy.errors import SpliteError
from splite_deploy.spec.plain import to_plain

sys.path.insert(0, str(Path(__file__).parent / "networks"))
from zoo import TOPOLOGIES, VARIANTS, write

CELLS = {"ort": ("fp32", "fp16", "int8"), "tflite": ("fp32", "fp16", "int8"), "trt": ("fp16", "int8")}
CROPS = 16
TIMEOUT_S = 900
_INDENT = re.compile(r"\s+")


@dataclass(frozen=True)
class Cell:
    """One artifact of one topology.

    Attributes:
        topology: Its key in the zoo.
        backend: What runs it.
        precision: In what.
        p95_px: How far it moves the keypoints, pixels of the input; None where it does not work, or is an engine.
        reason: Why it does not work, as the user reads it; empty where it does.
    """

    topology: str
    backend: str
    precision: str
    p95_px: float | None
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"no: {self.reason}"
        return "builds" if self.p95_px is None else f"{self.p95_px:.3f} px"


@dataclass(frozen=True)
class Run:
    """What a command gave.

    Attributes:
        status: Its exit status.
        reason: The error that it told, in one line; empty without one.
    """

    status: int
    reason: str


def splite(*arguments: object) -> Run:
    """Runs the command line in a process of its own, as a user does."""
    command = [sys.executable, "-m", "splite_deploy", *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Run(124, f"took longer than {TIMEOUT_S} s.")
    _, found, told = done.stderr.partition("error: ")
    if "Traceback" in done.stderr:
        told = f"crashed: {done.stderr.strip().splitlines()[-1]}"
    elif done.returncode and not found:
        told = f"exit status {done.returncode}: {done.stderr.strip()[-200:]}"
    return Run(done.returncode, _INDENT.sub(" ", told).strip())


def cells_of(name: str, backends: Sequence[str], folder: Path, extra: Sequence[str], *, alone: bool) -> Iterator[Cell]:
    """The cells of one topology: all precisions of a backend in one run, or each alone."""
    checkpoint = write(name, folder / name)
    for backend in backends:
        for precisions in ((one,) for one in CELLS[backend]) if alone else (CELLS[backend],):
            output = folder / f"{backend}-{'-'.join(precisions)}.splite"
            yield from _exported(name, checkpoint, backend, precisions, output, extra)


def _exported(
    name: str, checkpoint: Path, backend: str, precisions: Sequence[str], output: Path, extra: Sequence[str]
) -> Iterator[Cell]:
    asked = [part for precision in precisions for part in ("-p", precision)]
    run = splite("export", checkpoint, "-o", output, "-b", backend, *asked, "--crops", CROPS, *extra)
    if not output.exists():
        yield from (Cell(name, backend, precision, None, run.reason) for precision in precisions)
        return
    bundle = Bundle.open(output)
    for precision in precisions:
        if backend == "trt":
            built = splite("compile", output, "-p", precision)
            yield Cell(name, backend, precision, None, built.reason)
            continue
        label = f"{backend} {precision}"
        kept = any(artifact.label == label for artifact in bundle.manifest.artifacts)
        measured = {one.stage: one.deviation_px.p95 for one in bundle.report().parity}
        p95_px = measured.get(label, measured["simplified"])
        yield Cell(name, backend, precision, p95_px) if kept else Cell(name, backend, precision, None, run.reason)


def table(cells: Sequence[Cell]) -> list[str]:
    """Markdown: a row for each topology, a column for each artifact."""
    columns = list(dict.fromkeys((cell.backend, cell.precision) for cell in cells))
    found = {(cell.topology, cell.backend, cell.precision): cell for cell in cells}
    lines = [f"| topology | {' | '.join(map(' '.join, columns))} |", f"|---|{'---|' * len(columns)}"]
    for name in dict.fromkeys(cell.topology for cell in cells):
        shown = []
        for column in columns:
            cell = found.get((name, *column))
            shown.append("" if cell is None else "no" if cell.reason else str(cell))
        lines.append(f"| {({**TOPOLOGIES, **VARIANTS})[name].name} | {' | '.join(shown)} |")
    return lines


def count(cells: Sequence[Cell]) -> str:
    """How many work."""
    return f"{sum(not cell.reason for cell in cells)} of {len(cells)} cells work"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="TOPOLOGY", help=f"of {', '.join({**TOPOLOGIES, **VARIANTS})}")
    parser.add_argument("--backends", nargs="+", choices=tuple(CELLS), default=tuple(CELLS))
    parser.add_argument("--calibration", help="calibrate and compare on this folder of images")
    parser.add_argument("--alone", action="store_true", help="export every artifact by itself")
    parser.add_argument("--json", type=Path, help="write the cells as JSON")
    parser.add_argument("--out", type=Path, help="JSON lines file to append a record to")
    options = parser.parse_args()
    extra = ["--calibration", options.calibration] if options.calibration else []
    cells: list[Cell] = []
    began = time.perf_counter()
    try:
        for name in options.names or TOPOLOGIES:
            with tempfile.TemporaryDirectory() as folder:
                for cell in cells_of(name, options.backends, Path(folder), extra, alone=options.alone):
                    cells.append(cell)
                    print(f"{cell.topology} {cell.backend} {cell.precision}: {cell}", file=sys.stderr, flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=1) + "\n", encoding="utf-8")
        if options.out is not None:
            append_record(options.out, record(cells))
    except (SpliteError, OSError) as err:
        sys.exit(f"error: {err}")
    print("\n".join([*table(cells), "", f"{count(cells)}; {time.perf_counter() - began:.0f} s."]))
    for cell in cells:
        if cell.reason:
            print(f"\n{cell.topology} {cell.backend} {cell.precision}: {cell.reason}")


def record(cells: Sequence[Cell]) -> dict[str, object]:
    """What is kept of a run."""
    return {
        "kind": "topologies",
        "record_version": 1,
        "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cells": [asdict(cell) for cell in cells],
        "environment": to_plain(read_environment()),
    }


if __name__ == "__main__":
    main()
