"""ONNX graph to TFLite files for phones: float32 by onnx2tf, half precision and int8 made from that.

Loading onnx2tf takes its process a while: where there is other work to do, start a `TfliteCompiler` early.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.bundle import Artifact, TensorSpec
from splite_deploy.compile.precision import INT8_RECIPES, Int8Recipe, check_precision
from splite_deploy.compile.tflite.converter import TIMEOUT_S, Converted, TfliteConverter
from splite_deploy.compile.tflite.ends import network_alone, with_decoder, with_normalisation
from splite_deploy.compile.tflite.match import axes
from splite_deploy.compile.tflite.quantise import QuantisationReport, quantise
from splite_deploy.compile.tflite.rewrite import with_half_weights
from splite_deploy.decoders import layouts_of, roles_of
from splite_deploy.errors import CompileError, UsageError
from splite_deploy.files import write_file
from splite_deploy.metrics.parity import limits_of
from splite_deploy.runtime.backends.tflite_file import Contents, FileTensor, parse_contents
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.spec import ModelSpec, Precision

MakeInt8 = Callable[[Converted], tuple[bytes, QuantisationReport]]
"""From the float32 file to an int8 one, and what that computes in."""


class TfliteCompiler:
    """A process that loads onnx2tf while the caller does something else; for one conversion.

    Args:
        log: Receives the converter's log output.

    Raises:
        MissingDependencyError: There is no environment that converts.
        CompileError: The one that is named cannot.
        OutputError: The log cannot be written.
    """

    def __init__(self, log: Path) -> None:
        self._converter = TfliteConverter(log)

    @property
    def versions(self) -> dict[str, str]:
        """Of the packages that convert, by their name."""
        return self._converter.versions

    def __enter__(self) -> TfliteCompiler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._converter.__exit__(kind, error, trace)

    def begin(
        self,
        graph: bytes,
        spec: ModelSpec,
        precisions: Sequence[Precision],
        *,
        calibration: NDArray[np.uint8] | None,
        recipe: Int8Recipe = "full-integer",
        integer_io: bool = False,
        beside: Mapping[str, str] | None = None,
    ) -> None:
        """Starts the conversion of a graph, see `compile_tflite`; `finish` waits for it.

        With ``beside`` the graph has its decoder beside the network: its outputs are those of the network, whose names
        these are, by role, and then the decoded roles. `finish` makes files of the network alone, and `fused` puts the
        decoder behind.
        """
        crops = check_options(spec, precisions, calibration, recipe, integer_io)
        tensors = Preprocessor(spec.input, spec.input.color).normalise(crops)
        self._job = _Job(spec, tuple(precisions), tensors, recipe, integer_io, beside or {})
        self._converter.begin(graph, _examples(tensors, spec), in_order=bool(beside))

    def finish(
        self,
        folder: Path,
        *,
        timeout_s: float = TIMEOUT_S,
        progress: Callable[[str], None] = lambda message: None,
    ) -> list[Artifact]:
        """Waits for the conversion that `begin` started and places the files, or none; see `compile_tflite`."""
        self.wait(timeout_s=timeout_s, progress=progress)
        artifacts: list[Artifact] = []
        try:
            for precision in self._job.precisions:
                artifacts.append(self.make(folder, precision, progress=progress))
        except BaseException:
            for artifact in artifacts:
                (folder / artifact.file).unlink(missing_ok=True)
            raise
        return artifacts

    def wait(self, *, timeout_s: float = TIMEOUT_S, progress: Callable[[str], None] = lambda message: None) -> None:
        """Waits for the conversion that `begin` started."""
        self._converted = self._converter.finish(timeout_s=timeout_s, progress=progress)

    def make(
        self,
        folder: Path,
        precision: Precision,
        *,
        make_int8: MakeInt8 | None = None,
        progress: Callable[[str], None] = lambda message: None,
    ) -> Artifact:
        """Places the file of one precision, of a conversion that was waited for.

        Args:
            folder: Where it goes.
            precision: One of those that `begin` was given.
            make_int8: Makes the int8 file, which then needs no calibration; it has to keep to the recipe.
            progress: Called with each step as it begins.
        """
        job, file = self._job, f"model.{precision}.tflite"
        converted = _network(self._converted, job.beside) if job.beside else self._converted
        progress(f"making {file}")
        content, floats = job.make(precision, converted, make_int8)
        contents = parse_contents(content, file)
        check_precision(contents, precision, job.recipe, file, floats)
        dtype = "int8" if job.integer_io and precision == "int8" else "float32"
        made = _Made(file, content, contents, converted.layouts, dtype)
        artifact = _artifact(made, precision, job.spec, job.recipe)
        write_file(folder / file, content)
        return artifact

    def fused(self, content: bytes, artifact: Artifact, *, normalises: bool) -> tuple[bytes, Artifact]:
        """A file that `finish` made with its ends inside, and what is to be said of it.

        Args:
            content: The file, with float32 inputs and outputs.
            artifact: What `finish` says of it.
            normalises: Makes it take uint8 crops. With ``beside`` of `begin` it gives keypoints, too.
        """
        spec, layouts = self._job.spec, dict(self._converted.layouts)
        if self._job.beside:
            joints = {name: role for role, name in self._job.beside.items()}
            content = with_decoder(content, self._converted.content, joints, roles_of(spec, decoded=True))
        if normalises:
            planes_first = layouts["image"] == "NCHW"
            content = with_normalisation(content, spec.input.mean, spec.input.std, planes_first=planes_first)
            layouts["image"] = "NHWC"
        contents = parse_contents(content, artifact.file)

        def tensors(found: Mapping[str, FileTensor]) -> tuple[TensorSpec, ...]:
            said = {name: _as_read(layouts[name], name, spec) for name in found}
            return tuple(TensorSpec(name, one.shape, one.dtype, said[name], name) for name, one in found.items())

        digest = hashlib.sha256(content).hexdigest()
        inputs, outputs = tensors(contents.inputs), tensors(contents.outputs)
        return content, replace(artifact, sha256=digest, inputs=inputs, outputs=outputs)


def _examples(tensors: FloatArray, spec: ModelSpec) -> FloatArray:
    """What outputs are recognised by: a crop; two heads may be equally sure of that, and noise tells them apart."""
    if not spec.heads:
        return tensors[:1]
    noise = np.random.default_rng(0).integers(0, 256, (1, spec.input.height, spec.input.width, spec.input.channels))
    made = Preprocessor(spec.input, spec.input.color).normalise(noise.astype(np.uint8))
    return np.concatenate([tensors[:1], made])


def _network(converted: Converted, beside: Mapping[str, str]) -> Converted:
    """A network without the decoder beside it."""
    layouts = {role: converted.layouts[name] for role, name in {"image": "image", **beside}.items()}
    return Converted(network_alone(converted.content, beside), layouts)


@dataclass(frozen=True)
class _Job:
    """The files to make."""

    spec: ModelSpec
    precisions: tuple[Precision, ...]
    tensors: FloatArray
    recipe: Int8Recipe
    integer_io: bool
    beside: Mapping[str, str]

    def make(
        self, precision: Precision, converted: Converted, make_int8: MakeInt8 | None
    ) -> tuple[bytes, frozenset[str]]:
        """The file of a precision, and the operators of an int8 one that stay in float, by their first result."""
        if precision == "fp32":
            return converted.content, frozenset()
        if precision == "fp16":
            return with_half_weights(converted.content), frozenset()
        if make_int8 is not None:
            content, report = make_int8(converted)
        else:
            inputs = np.ascontiguousarray(self.tensors.transpose(axes("NCHW", converted.layouts["image"])))
            content, report = quantise(converted.content, inputs, self.recipe, self.integer_io)
        return content, frozenset(one.name for one in (*report.islands, *report.excluded))


@dataclass(frozen=True)
class _Made:
    """A file in the making: what it holds, the layouts of its tensors by name, and the type of its ends."""

    name: str
    data: bytes
    contents: Contents
    layouts: Mapping[str, str]
    dtype: str


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
        graph: Simplified fp32 ONNX with input ``image`` (1, C, h, w) and outputs named by their role; a dynamic batch
            becomes 1.
        spec: The model.
        folder: Where the files go; all of them or none.
        precisions: ``fp32``, ``fp16`` (weights; the arithmetic is the device's choice), ``int8``.
        calibration: (N, h, w, C) uint8 crops in the spec's colour order, from which int8 learns the range of values.
            Without int8 the first serves to recognise outputs, or noise where there are none.
        recipe: How int8 is done. ``full-integer``: weights per channel and activations; ``dynamic-range``: weights
            alone, activations on the fly.
        integer_io: Makes inputs and outputs of full-integer files int8 too; otherwise they stay float32.
        log: Receives the converter's log output.
        timeout_s: After this many seconds the conversion is stopped.
        progress: Called with each step as it begins.

    Returns:
        One artifact for each precision, in their order; ``target`` names the recipe of int8.

    Raises:
        UsageError: The options do not fit together.
        MissingDependencyError: There is no environment that converts.
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
    size = (spec.input.height, spec.input.width, spec.input.channels)
    if calibration is None or len(calibration) == 0:
        if full_integer:
            raise UsageError("int8 needs images to calibrate with.", hint="Name a folder of them.")
        calibration = np.random.default_rng(0).integers(0, 256, (1, *size), np.uint8)
    if calibration.dtype != np.uint8 or calibration.shape[1:] != size:
        raise UsageError(
            f"The calibration crops are {calibration.dtype} of shape {calibration.shape}, not uint8 (N, {size[0]}, "
            f"{size[1]}, {size[2]}).",
            hint="Cut them with splite_deploy.runtime.preprocess.Preprocessor.crop.",
        )
    return calibration if full_integer else calibration[:1]


def _as_read(layout: str, role: str, spec: ModelSpec) -> str:
    """A layout of two or three axes that are in the decoder's order by the decoder's letters."""
    known = {**layouts_of(spec.decoder), **layouts_of(spec.decoder, decoded=True)}
    return known.get(role, layout) if layout in ("NKC", "NK") else layout


def _artifact(made: _Made, precision: Precision, spec: ModelSpec, recipe: Int8Recipe) -> Artifact:
    contents = made.contents
    tensors = {**contents.inputs, **contents.outputs}
    if set(contents.inputs) != {"image"} or set(contents.outputs) != set(roles_of(spec)):
        raise CompileError(
            f"{made.name} has the tensors {', '.join(tensors)}, not image, {', '.join(roles_of(spec))}.",
            hint="Report this with the graph.",
        )
    if any(found.dtype != made.dtype for found in tensors.values()):
        raise CompileError(
            f"{made.name} has tensors of {', '.join(found.dtype for found in tensors.values())}, not {made.dtype}.",
            hint="Report this with the graph.",
        )

    def tensor(role: str, found: FileTensor) -> TensorSpec:
        return TensorSpec(role, found.shape, found.dtype, _as_read(made.layouts[role], role, spec), role)

    return Artifact(
        format="tflite",
        backend="tflite",
        precision=precision,
        file=made.name,
        sha256=hashlib.sha256(made.data).hexdigest(),
        inputs=(tensor("image", contents.inputs["image"]),),
        outputs=tuple(tensor(role, contents.outputs[role]) for role in roles_of(spec)),
        limits=limits_of(precision, spec),
        target={"recipe": recipe} if precision == "int8" else {},
    )
