"""ONNX graph to TFLite files for phones. `onnx2tf_child` does the heavy part in a process of its own.

Loading TensorFlow takes that process a while: where there is other work to do, start a `TfliteCompiler` early.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from splite_deploy.bundle import Artifact, TensorSpec
from splite_deploy.compile.child_process import Child
from splite_deploy.compile.precision import INT8_RECIPES, Int8Recipe, check_precision
from splite_deploy.errors import CompileError, MissingDependencyError, UsageError
from splite_deploy.files import sha256_of, write_file
from splite_deploy.metrics.parity import limits_of
from splite_deploy.runtime.backends.tflite_file import Contents, FileTensor, read_contents
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.spec import ModelSpec, Precision

TIMEOUT_S = 3600.0
_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}  # the conversion runs on the CPU


class TfliteCompiler:
    """A process that loads TensorFlow while the caller does something else; for one conversion.

    Args:
        log: Receives the converters' log output.

    Raises:
        MissingDependencyError: TensorFlow or onnx2tf is not installed.
        OutputError: The log cannot be written.
    """

    def __init__(self, log: Path) -> None:
        for module in ("tensorflow", "onnx2tf"):
            if find_spec(module) is None:
                raise MissingDependencyError(
                    f"TFLite files are made with {module}, which is not installed.",
                    hint="Install it, on Python 3.10 or 3.11: pip install 'splite-deploy[tflite]'.",
                )
        with ExitStack() as stack:
            self._work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="splite-tflite-")))
            child = Child("splite_deploy.compile.tflite.onnx2tf_child", self._work, log=log, environment=_ENVIRONMENT)
            self._child = stack.enter_context(child)
            self._stack = stack.pop_all()

    def __enter__(self) -> TfliteCompiler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def begin(
        self,
        graph: bytes,
        spec: ModelSpec,
        precisions: Sequence[Precision],
        *,
        calibration: NDArray[np.uint8] | None,
        recipe: Int8Recipe = "full-integer",
        integer_io: bool = False,
    ) -> None:
        """Starts the conversion of a graph, see `compile_tflite`; `finish` waits for it."""
        crops = check_options(spec, precisions, calibration, recipe, integer_io)
        (self._work / "model.onnx").write_bytes(graph)
        tensors = Preprocessor(spec.input, spec.input.color).normalise(crops)
        np.save(self._work / "inputs.npy", np.ascontiguousarray(tensors.transpose(0, 2, 3, 1)))
        self._job = _Job(spec, tuple(precisions), recipe, integer_io)
        job = {"roles": spec.decoder.roles, "files": self._job.options()}
        (self._work / "job.json").write_text(json.dumps(job), encoding="utf-8")
        self._child.begin()

    def finish(
        self, folder: Path, *, timeout_s: float = TIMEOUT_S, progress: Callable[[str], None] = lambda message: None
    ) -> list[Artifact]:
        """Waits for the conversion that `begin` started and places the files; see `compile_tflite`."""
        job = self._job
        self._child.finish(timeout_s=timeout_s, progress=progress)
        layouts = json.loads((self._work / "layouts.json").read_text(encoding="utf-8"))
        artifacts = []
        for precision in job.precisions:
            file = self._work / _file(precision)
            contents = read_contents(file)
            check_precision(contents, precision, job.recipe, file.name)
            dtype = "int8" if job.integer_io and precision == "int8" else "float32"
            artifacts.append(_artifact(file, precision, contents, layouts, dtype, job.spec, job.recipe))
        _place(self._work, folder, [artifact.file for artifact in artifacts])
        return artifacts


@dataclass(frozen=True)
class _Job:
    """The files to make."""

    spec: ModelSpec
    precisions: tuple[Precision, ...]
    recipe: Int8Recipe
    integer_io: bool

    def options(self) -> dict[str, dict[str, str | bool]]:
        """The options of every file."""
        shared = {"recipe": self.recipe, "integer_io": self.integer_io}
        return {_file(precision): {"precision": precision, **shared} for precision in self.precisions}


def _file(precision: Precision) -> str:
    return f"model.{precision}.tflite"


def compile_tflite(
    graph: Path,
    spec: ModelSpec,
    folder: Path,
    precisions: Sequence[Precision],
    *,
    calibration: NDArray[np.uint8] | None,
    recipe: Int8Recipe = "full-integer",
    integer_io: bool = False,
    log: Path,
    timeout_s: float = TIMEOUT_S,
    progress: Callable[[str], None] = lambda message: None,
) -> list[Artifact]:
    """Makes ``model.PRECISION.tflite`` files of a graph.

    The inputs and outputs of a file are named by their role, in its signature too; they are NHWC. Outputs are
    recognised by their values: the graph and the converted network run on one crop and have to agree. The precision is
    read back from the file. The caller measures how far the keypoints move, with a session and
    `splite_deploy.metrics.parity.compare`; a file's `Artifact.limits` say how far they may.

    Args:
        graph: Simplified fp32 ONNX with input ``image`` (1, 3, h, w) and outputs named by their role; a dynamic batch
            becomes 1.
        spec: The model.
        folder: Where the files go; all of them or none.
        precisions: ``fp32``, ``fp16`` (weights; the arithmetic is the device's choice), ``int8``.
        calibration: (N, h, w, 3) uint8 crops in the spec's colour order, from which int8 learns the range of values.
            Without int8 the first serves to recognise outputs, or noise where there are none.
        recipe: How int8 is done. ``full-integer``: weights per channel and activations; ``dynamic-range``: weights
            alone, activations on the fly.
        integer_io: Makes inputs and outputs of full-integer files int8 too; otherwise they stay float32.
        log: Receives the converters' log output.
        timeout_s: After this many seconds the conversion is stopped.
        progress: Called with each step as it begins.

    Returns:
        One artifact for each precision, in their order; ``target`` names the recipe of int8.

    Raises:
        UsageError: The options do not fit together.
        MissingDependencyError: TensorFlow or onnx2tf is not installed.
        CompileError: The conversion failed, or a file is not what was requested.
        OutputError: A file cannot be written.
    """
    check_options(spec, precisions, calibration, recipe, integer_io)
    with TfliteCompiler(log) as compiler:
        compiler.begin(
            graph.read_bytes(), spec, precisions, calibration=calibration, recipe=recipe, integer_io=integer_io
        )
        return compiler.finish(folder, timeout_s=timeout_s, progress=progress)


def check_options(
    spec: ModelSpec,
    precisions: Sequence[Precision],
    calibration: NDArray[np.uint8] | None,
    recipe: Int8Recipe,
    integer_io: bool,
) -> NDArray[np.uint8]:
    """Checks the options of `compile_tflite`; returns the crops to work with.

    Raises:
        UsageError: They do not fit together.
    """
    if not precisions or len(set(precisions)) != len(precisions):
        raise UsageError(f"The precisions are {list(precisions)}.", hint="Name each precision once, and at least one.")
    if recipe not in INT8_RECIPES:
        raise UsageError(f"There is no int8 recipe '{recipe}'.", hint=f"Choose one of: {', '.join(INT8_RECIPES)}.")
    full_integer = "int8" in precisions and recipe == "full-integer"
    if integer_io and not full_integer:
        raise UsageError(
            "Only full-integer int8 has integer inputs and outputs.", hint="Leave them out, or add full-integer int8."
        )
    size = (spec.input.height, spec.input.width, 3)
    if calibration is None or len(calibration) == 0:
        if full_integer:
            raise UsageError("int8 needs images to calibrate with.", hint="Name a folder of them.")
        calibration = np.random.default_rng(0).integers(0, 256, (1, *size), np.uint8)
    if calibration.dtype != np.uint8 or calibration.shape[1:] != size:
        raise UsageError(
            f"The calibration crops are {calibration.dtype} of shape {calibration.shape}, not uint8 (N, {size[0]}, "
            f"{size[1]}, 3).",
            hint="Cut them with splite_deploy.runtime.preprocess.Preprocessor.crop.",
        )
    return calibration if full_integer else calibration[:1]


def _artifact(
    path: Path,
    precision: Precision,
    contents: Contents,
    layouts: Mapping[str, str],
    dtype: str,
    spec: ModelSpec,
    recipe: Int8Recipe,
) -> Artifact:
    tensors = {**contents.inputs, **contents.outputs}
    if set(contents.inputs) != {"image"} or set(contents.outputs) != set(spec.decoder.roles):
        raise CompileError(
            f"{path.name} has the tensors {', '.join(tensors)}, not image, {', '.join(spec.decoder.roles)}.",
            hint="Install the versions of tensorflow and onnx2tf that the extra 'tflite' names.",
        )
    if any(found.dtype != dtype for found in tensors.values()):
        raise CompileError(
            f"{path.name} has tensors of {', '.join(found.dtype for found in tensors.values())}, not {dtype}.",
            hint="Install the versions of tensorflow and onnx2tf that the extra 'tflite' names.",
        )

    def tensor(role: str, found: FileTensor, layout: str) -> TensorSpec:
        return TensorSpec(role, found.shape, found.dtype, layout, role)

    return Artifact(
        format="tflite",
        backend="tflite",
        precision=precision,
        file=path.name,
        sha256=sha256_of(path),
        inputs=(tensor("image", contents.inputs["image"], "NHWC"),),
        outputs=tuple(tensor(role, contents.outputs[role], layouts[role]) for role in spec.decoder.roles),
        limits=limits_of(precision, spec),
        target={"recipe": recipe} if precision == "int8" else {},
    )


def _place(work: Path, folder: Path, files: Sequence[str]) -> None:
    """Copies the files into the folder, or none of them."""
    try:
        for file in files:
            write_file(folder / file, (work / file).read_bytes())
    except BaseException:
        for file in files:
            (folder / file).unlink(missing_ok=True)
        raise
