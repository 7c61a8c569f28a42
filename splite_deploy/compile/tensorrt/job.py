"""The job of the process that builds an engine, and its result: plain data, in files of the folder it works in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from splite_deploy.bundle import Typing
from splite_deploy.errors import CompileError, MissingDependencyError, SpliteError, UsageError
from splite_deploy.spec import Precision
from splite_deploy.spec.plain import structure, to_plain

JOB, BUILT, ERROR = "job.json", "built.json", "error.json"
ENGINE = "engine.plan"
INSPECTED = "inspected.json"
TABLE = "calibration.table"
_ERRORS = {kind.__name__: kind for kind in (CompileError, MissingDependencyError, UsageError)}

RequestedType = Literal["float16", "int8"]
Calibrator = Literal["entropy", "minmax"]


@dataclass(frozen=True)
class CalibrationInputs:
    """The images on which a calibrator of TensorRT measures the ranges of activations.

    Attributes:
        calibrator: Which one.
        file: Path of an ``.npy`` with the inputs of the graph, (N, ...).
        origin: Where they come from, as text.
    """

    calibrator: Calibrator
    file: str
    origin: str


@dataclass(frozen=True)
class Job:
    """One engine to build.

    Attributes:
        precision: Of the engine.
        graphs: Path of the graph by typing mode; the installed TensorRT decides which one is built.
        batch: (min, opt, max) of a graph with a dynamic batch.
        workspace_mib: Memory for kernels beside weights and activations, MiB; None leaves it to TensorRT.
        low_memory: Builds with as little memory as possible.
        optimization_level: 0 to 5; None leaves it to TensorRT.
        dla: DLA core that runs the layers it supports; None runs all on the GPU.
        timing_cache: File of timings, ``off``, or None for the user's cache folder.
        calibration: Has TensorRT choose the scales of int8 itself, for a float graph; None uses those of the graph.
    """

    precision: Precision
    graphs: Mapping[str, str]
    batch: tuple[int, int, int] | None
    workspace_mib: int | None
    low_memory: bool
    optimization_level: int | None
    dla: int | None
    timing_cache: str | None
    calibration: CalibrationInputs | None = None

    def write(self, folder: Path) -> None:
        """Writes it for the process that works in the folder."""
        (folder / JOB).write_text(json.dumps(to_plain(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Job:
        """Reads what `write` wrote."""
        return structure(cls, json.loads((folder / JOB).read_text(encoding="utf-8")), "")


@dataclass(frozen=True)
class Built:
    """An engine that was built.

    Attributes:
        typing: The typing mode.
        requested: Layers that were to compute in float16 or int8: as the graph says, or with flags all with weights.
        inspected: Whether the engine could be inspected, which needs a GPU.
        target: See `Artifact.target`.
    """

    typing: Typing
    requested: Mapping[str, RequestedType]
    inspected: bool
    target: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Writes it to the folder."""
        (folder / BUILT).write_text(json.dumps(to_plain(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Built:
        """Reads what `write` wrote."""
        return structure(cls, json.loads((folder / BUILT).read_text(encoding="utf-8")), "")


def write_error(folder: Path, err: SpliteError) -> None:
    """Writes an expected error to the folder."""
    kind = next((name for name, known in _ERRORS.items() if isinstance(err, known)), CompileError.__name__)
    found = {"kind": kind, "message": err.message, "hint": err.hint}
    (folder / ERROR).write_text(json.dumps(found), encoding="utf-8")


def read_error(folder: Path) -> SpliteError | None:
    """The error that `write_error` wrote, if any."""
    try:
        found = json.loads((folder / ERROR).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return _ERRORS[found["kind"]](found["message"], hint=found["hint"])
