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
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from side_by_side import cell_count, cell_table, cell_text

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
        name: As the tables write it.
        backend: What runs it.
        precision: In what.
        p95_px: How far it (or the graph of an engine) moves keypoints, pixels of the input; None if it does not work.
        reason: Why it does not work, as the user reads it; empty where it does.
        floats: How many layers of an int8 artifact went back to float so that it keeps its limits.
        layers: Of so many that int8 can run; None where all of them stayed.
    """

    topology: str
    name: str
    backend: str
    precision: str
    p95_px: float | None
    reason: str = ""
    floats: int = 0
    layers: int | None = None

    def __str__(self) -> str:
        if self.reason:
            return f"no: {self.reason}"
        return cell_text(asdict(self))


@dataclass(frozen=True)
class Run:
    """What a command gave.

    Attributes:
        status: Its exit status.
        reason: The error that it told, in one line; empty without one.
        seconds: Of the processor, all its processes together.
    """

    status: int
    reason: str
    seconds: float


def splite(*arguments: object) -> Run:
    """Runs the command line in a process of its own, as a user does."""
    command, before = [sys.executable, "-m", "splite_deploy", *map(str, arguments)], _children_s()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Run(124, f"took longer than {TIMEOUT_S} s.", _children_s() - before)
    _, found, told = done.stderr.partition("error: ")
    if "Traceback" in done.stderr:
        told = f"crashed: {done.stderr.strip().splitlines()[-1]}"
    elif done.returncode and not found:
        told = f"exit status {done.returncode}: {done.stderr.strip()[-200:]}"
    return Run(done.returncode, _INDENT.sub(" ", told).strip(), _children_s() - before)


def _children_s() -> float:
    """Seconds of the processor that all processes took which were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cells_of(name: str, backends: Sequence[str], folder: Path, extra: Sequence[str], *, alone: bool) -> Iterator[Cell]:
    """The cells of one topology: all precisions of a backend in one run, or each alone."""
    checkpoint = write(name, folder / name)
    titles = {key: topology.name for key, topology in {**TOPOLOGIES, **VARIANTS}.items()}
    for backend in backends:
        for precisions in ((one,) for one in CELLS[backend]) if alone else (CELLS[backend],):
            output = folder / f"{backend}-{'-'.join(precisions)}.splite"
            for cell in _exported(name, checkpoint, backend, precisions, output, extra):
                yield replace(cell, name=titles[name])


def _exported(
    name: str, checkpoint: Path, backend: str, precisions: Sequence[str], output: Path, extra: Sequence[str]
) -> Iterator[Cell]:
    asked = [part for precision in precisions for part in ("-p", precision)]
    run = splite("export", checkpoint, "-o", output, "-b", backend, *asked, "--crops", CROPS, *extra)
    if not output.exists():
        yield from (Cell(name, "", backend, precision, None, run.reason) for precision in precisions)
        return
    bundle = Bundle.open(output)
    report = bundle.report()
    failed = {
        one.artifact: f"{one.message} {one.hint}" for one in getattr(report, "failures", ())
    }  # not in old reports
    measured = {one.stage: one.deviation_px.p95 for one in report.parity}
    searches = getattr(report, "searches", ())
    for precision in precisions:
        label = f"{backend} {precision}"
        reason = next((why for artifact, why in failed.items() if artifact.startswith(label)), "")
        cell = Cell(name, "", backend, precision, None, reason)
        for search in searches:
            if search.artifact.startswith(label):
                cell = replace(cell, floats=len(search.excluded), layers=search.layers)
        if backend == "trt":
            p95_px = measured.get(f"{label} graph (strongly typed)", measured.get(f"ort {precision}"))
            told = reason or splite("compile", output, "-p", precision).reason
            yield replace(cell, reason=told, p95_px=None if told else p95_px)
        elif any(artifact.label == label for artifact in bundle.manifest.artifacts):
            yield replace(cell, p95_px=measured.get(label, measured["simplified"]))
        else:
            yield replace(cell, reason=reason or run.reason)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="TOPOLOGY", help=f"of {', '.join({**TOPOLOGIES, **VARIANTS})}")
    parser.add_argument("--backends", nargs="+", choices=tuple(CELLS), default=tuple(CELLS))
    parser.add_argument("--calibration", help="calibrate and compare on this folder of images")
    parser.add_argument("--alone", action="store_true", help="export every artifact by itself")
    parser.add_argument("--label", default="", help="what was measured, for the table")
    parser.add_argument("--json", type=Path, help="write the cells as JSON")
    parser.add_argument("--out", type=Path, help="JSON lines file to append a record to")
    options = parser.parse_args()
    for name in options.names:
        if name not in {**TOPOLOGIES, **VARIANTS}:
            parser.error(f"no network is called {name}.")
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
            append_record(options.out, record(cells, options.label))
    except (SpliteError, OSError) as err:
        sys.exit(f"error: {err}")
    shown = [asdict(cell) for cell in cells]
    print("\n".join([*cell_table(shown), "", f"{cell_count(shown)}; {time.perf_counter() - began:.0f} s."]))
    for cell in cells:
        if cell.reason:
            print(f"\n{cell.topology} {cell.backend} {cell.precision}: {cell.reason}")


def record(cells: Sequence[Cell], label: str) -> dict[str, object]:
    """What is kept of a run."""
    return {
        "kind": "topologies",
        "record_version": 1,
        "label": label,
        "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cells": [asdict(cell) for cell in cells],
        "environment": to_plain(read_environment()),
    }


if __name__ == "__main__":
    main()
