"""What the process that builds an engine is told, and what it tells: plain data, in files of the folder it works in."""

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

Asked = Literal["float16", "int8"]
Calibrator = Literal["entropy", "minmax"]


@dataclass(frozen=True)
class CalibrationInputs:
    """What a calibrator of TensorRT measures the ranges of activations on.

    Attributes:
        calibrator: Which one.
        file: Path of the inputs, an ``.npy``: (N, ...) as the graph takes them.
        origin: Where they come from, in words.
    """

    calibrator: Calibrator
    file: str
    origin: str


@dataclass(frozen=True)
class Job:
    """One engine to build.

    Attributes:
        precision: Of the engine.
        graphs: Path of the graph, by whom it is for; the TensorRT that is found decides which is taken.
        batch: (min, opt, max) of a graph with a dynamic batch.
        workspace_mib: What kernels may use beside weights and activations, MiB; None leaves it to TensorRT.
        low_memory: Builds with as little memory as possible.
        optimization_level: 0 to 5; None leaves it to TensorRT.
        dla: DLA core that runs what it can; None runs all on the GPU.
        timing_cache: File of timings, ``off``, or None for the user's cache folder.
        calibration: Has TensorRT find the scales of int8 itself, in a float graph; None goes by those in the graph.
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
        """Leaves it for the process that works in the folder."""
        (folder / JOB).write_text(json.dumps(to_plain(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Job:
        """Reads what `write` has left."""
        return structure(cls, json.loads((folder / JOB).read_text(encoding="utf-8")), "")


@dataclass(frozen=True)
class Built:
    """An engine that was built.

    Attributes:
        typing: Which road was taken.
        asked: Layers that were to compute in float16 or int8: as the graph says, or with flags all that have weights.
        inspected: Whether the engine could be looked into, for which a GPU is needed.
        target: See `Artifact.target`.
    """

    typing: Typing
    asked: Mapping[str, Asked]
    inspected: bool
    target: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Leaves it in the folder."""
        (folder / BUILT).write_text(json.dumps(to_plain(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Built:
        """Reads what `write` has left."""
        return structure(cls, json.loads((folder / BUILT).read_text(encoding="utf-8")), "")


def write_error(folder: Path, err: SpliteError) -> None:
    """Leaves an expected error in the folder."""
    kind = next((name for name, known in _ERRORS.items() if isinstance(err, known)), CompileError.__name__)
    found = {"kind": kind, "message": err.message, "hint": err.hint}
    (folder / ERROR).write_text(json.dumps(found), encoding="utf-8")


def read_error(folder: Path) -> SpliteError | None:
    """The error that `write_error` has left, if any."""
    try:
        found = json.loads((folder / ERROR).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return _ERRORS[found["kind"]](found["message"], hint=found["hint"])
