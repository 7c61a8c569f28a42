"""A ready ``.tflite`` file to a bundle: the file stays as it is, and its view goes into the manifest.

Imports neither torch nor onnx nor TensorFlow. Nothing is converted, so that nothing is compared with an original unless
one is given. What the file means LiteRT's reference kernels say: theirs are the golden outputs, with which every
machine compares its own. A float file of the same network in their place proves what quantisation costs.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_lowercase

import numpy as np
from numpy.typing import NDArray

from splite_deploy import __version__
from splite_deploy.bench.profile import profile_file
from splite_deploy.bundle import (
    FORMAT_VERSION,
    GOLDEN,
    MANIFEST,
    REPORT,
    REPORT_VERSION,
    Artifact,
    Bundle,
    Manifest,
    Nobody,
    Report,
    Source,
    TensorSpec,
    new_bundle,
    write_golden,
)
from splite_deploy.bundle.report import Layer, Parity
from splite_deploy.errors import ExportError, UsageError
from splite_deploy.export.crops import crops_from_renderer
from splite_deploy.export.failures import Failures, PartialExportError
from splite_deploy.export.golden import PreparedImage, make_golden, prepare_image, with_room_on_golden
from splite_deploy.export.reference import Reference
from splite_deploy.files import cache_folder, writing
from splite_deploy.metrics.parity import Outputs, limits_of
from splite_deploy.runtime.backends import find_backend
from splite_deploy.runtime.backends.base import Backend
from splite_deploy.runtime.crops import Crops, crops_from_images, crops_without_images
from splite_deploy.runtime.network_file import NetworkFile
from splite_deploy.runtime.nobody import nobody_by
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.scores import COMPARED, check_candidates, check_scores
from splite_deploy.runtime.session import backend_of, open_bytes, open_model_file
from splite_deploy.runtime.verify import run_each
from splite_deploy.spec import PRECISIONS, Precision
from splite_deploy.spec.reading import ReadError, check_file
from splite_deploy.text import command

_IDENTIFIER = b"TFL3"
_LIBRARIES = ("ai-edge-litert", "onnxruntime", "numpy", "opencv-python-headless")
_RANDOM = 24
_Shapes = dict[str, tuple[int | None, ...]]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class AdoptOptions:
    """How a bundle is made of a file.

    Attributes:
        images: Folder of images or labels file to compare on; None takes the renderer that ``model.toml`` names, or
            random pictures.
        crops: Number of crops that are compared.
        also: Further files of the same network, in other precisions, for the same bundle.
        reference: File of the same network whose outputs are the golden ones; None takes the most precise one given.
        reference_model: Its model spec; None takes that of the file.
        overwrite: Replaces an existing bundle.
        all_or_nothing: Writes nothing where one file fails, instead of the others.
    """

    images: Path | None = None
    crops: int = 64
    also: tuple[Path, ...] = ()
    reference: Path | None = None
    reference_model: Path | None = None
    overwrite: bool = False
    all_or_nothing: bool = False


def is_ready_file(path: Path) -> bool:
    """Whether a source is a TFLite file, which is not converted: by its name, or by how it begins."""
    if path.suffix.lower() == ".tflite":
        return True
    try:
        check_file(path)  # a pipe would be waited for
        with path.open("rb") as stream:
            return stream.read(8)[4:] == _IDENTIFIER
    except (OSError, ReadError):
        return False


def adopt_file(
    path: Path,
    output: Path,
    *,
    model: Path | None = None,
    options: AdoptOptions | None = None,
    progress: Progress = lambda message: None,
) -> Bundle:
    """Makes a bundle of a TFLite file, and compares it with its reference kernels or with another file.

    Args:
        path: The file.
        output: Folder to make, by custom ``NAME.splite``.
        model: ``model.toml``; None is the one beside the file.
        options: How.
        progress: Called with each step as it begins.

    Returns:
        The new bundle, opened and checked.

    Raises:
        SpliteError: Everything that can be wrong with the files, and how far the file lies from its reference where
            that is beyond its limits; nothing is left behind then.
        PartialExportError: Some of the files failed; the bundle is written and holds the others.
    """
    options = options or AdoptOptions()
    with new_bundle(output, overwrite=options.overwrite) as folder, writing(output):
        manifest, failures = _fill(folder, path, model, options, progress)
    bundle = Bundle(output, manifest)
    if failures.found:
        raise PartialExportError(bundle, failures.found)
    return bundle


def _fill(
    folder: Path, path: Path, model: Path | None, options: AdoptOptions, progress: Progress
) -> tuple[Manifest, Failures]:
    """Writes the files of the new bundle to a folder."""
    progress("reading the file")
    first = NetworkFile.read(path, model, "tflite")
    files = [first, *(NetworkFile(other, first.spec, first.host) for other in options.also)]
    _check_precisions(files)
    reference = _reference(files, options)
    backend, failures, spec = find_backend("tflite"), Failures(options.all_or_nothing), first.spec
    progress("cropping images for the comparison")
    crops = _crops(first, reference, files, options, progress)
    image = prepare_image(crops.example, spec.input)

    progress(f"running the reference, {reference.path.name}")
    golden, outputs, nobody = _reference_outputs(reference, crops, image)
    compared = Reference(reference.facts.format, spec, crops.pixels, outputs, crops.origin, nobody)
    compared.check_finite(reference.path.name, outputs, "Check mean and std in model.toml, and the view of its ends.")
    check_scores(outputs, spec, COMPARED, ExportError)
    check_candidates(outputs, spec, ExportError)
    with ExitStack() as stack:
        made: list[tuple[Artifact, Parity, tuple[Layer, ...]]] = []
        for file in files:
            progress(f"comparing {file.path.name}")
            with failures.kept(f"tflite {file.facts.precision}"):
                content = file.content(backend)
                artifact = _artifact(file, content.data, backend)
                hint = _hint(file, reference)
                session = stack.enter_context(open_bytes(content.data, artifact, threads=1, model=spec))
                parity = compared.compare(artifact.label, compared.run(session), artifact.limits, hint).parity
                compared.check_session(artifact.label, session, artifact.limits)
                artifact = with_room_on_golden(artifact, session, compared)
                (folder / artifact.file).write_bytes(content.data)
                made.append((artifact, parity, profile_file(backend, content, spec, crops.pixels[:1], runs=1)))
        if not made:
            failures.raise_first()
        progress("writing the bundle")
        described = write_golden(folder / GOLDEN, make_golden(compared, image, golden))
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            model=spec,
            source=Source(path.name, hashlib.sha256(first.data).hexdigest(), __version__),
            artifacts=tuple(artifact for artifact, _, _ in made),
            golden=described,
        )
        report = Report(
            report_version=REPORT_VERSION,
            opset=None,
            versions=_versions(),
            notes=tuple(_notes(files, reference, crops)),
            parity=tuple(parity for _, parity, _ in made),
            layers={artifact.label: layers for artifact, _, layers in made},
            failures=tuple(failures.found),
        )
        (folder / REPORT).write_text(report.to_json(), encoding="utf-8")
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest, failures


def _check_precisions(files: Sequence[NetworkFile]) -> None:
    """Refuses two files of one precision: a bundle tells its artifacts by that."""
    found: dict[Precision, str] = {}
    for file in files:
        if file.facts.format != "tflite":
            raise UsageError(
                f"{file.path.name} is no .tflite file, and a bundle of ready files holds those alone.",
                hint="Name it with --reference, or export it to a bundle of its own.",
            )
        precision, name = file.facts.precision, file.path.name
        if precision in found:
            raise UsageError(
                f"{found[precision]} and {name} are both {precision}: {file.facts.numbers}.",
                hint="Give one file of each precision.",
            )
        found[precision] = name


def _reference(files: Sequence[NetworkFile], options: AdoptOptions) -> NetworkFile:
    """What everything is compared with: the file that was named, or the most precise one.

    Raises:
        UsageError: It is read in another way than the files are.
    """
    if options.reference is None:
        return min(files, key=lambda file: PRECISIONS.index(file.facts.precision))
    first = files[0]
    if options.reference_model is None:
        return NetworkFile(options.reference, first.spec, first.host)
    named = NetworkFile.read(options.reference, options.reference_model, option="--reference-model")
    ours, theirs = (
        (spec.decoder, spec.keypoint_count, spec.input.planes, spec.input.box_padding, spec.input.turn)
        for spec in (first.spec, named.spec)
    )
    if ours != theirs:
        raise UsageError(
            f"{options.reference_model} has another decoder, other keypoints or another input than the file's "
            "model.toml: golden outputs would be no outputs of this file.",
            hint=f"Compare them: {command('verify', first.path, '--reference', named.path)}.",
        )
    return named


def _crops(
    first: NetworkFile, reference: NetworkFile, files: Sequence[NetworkFile], options: AdoptOptions, progress: Progress
) -> Crops:
    """What is compared on: the user's images, the model's renderer, or random pictures.

    Raises:
        UsageError: Files of different precision are to be compared on random pictures.
    """
    spec = first.spec.input
    if options.images is not None:
        return crops_from_images(options.images, options.crops, spec)
    if first.host.samples:
        return crops_from_renderer(first.host, options.crops, spec, cache=cache_folder(), progress=progress)
    rougher = [file for file in files if file.facts.precision != reference.facts.precision]
    if rougher:
        raise UsageError(
            f"How far {rougher[0].path.name} lies from {reference.path.name} can only be seen on what the network is "
            "made for.",
            hint="Name photographs with --images: a folder, or a labels.json with boxes.",
        )
    return crops_without_images(min(options.crops, _RANDOM), spec)


def _reference_outputs(
    reference: NetworkFile, crops: Crops, image: PreparedImage
) -> tuple[Outputs, Outputs, Nobody | None]:
    """What the reference makes of the golden image's crop, of the others, and of nobody, by plain kernels if any.

    Raises:
        UsageError: See `Session`.
        BackendError: It cannot be loaded or run, or is not what ``model.toml`` says.
    """
    backend = backend_of(reference.path)
    with reference.open(backend, reference=bool(backend.reference)) as session:
        preprocessor = Preprocessor(reference.spec.input, reference.spec.input.picture_color)

        def run(pixels: NDArray[np.uint8]) -> Outputs:
            return run_each(session, preprocessor.feed(pixels, session.inputs[0]), reference.spec)

        outputs = run(np.concatenate([crops.pixels, image.crop[None]]))
        nobody = nobody_by(run, reference.spec)
    last = {role: values[-1:] for role, values in outputs.items()}
    return last, {role: values[:-1] for role, values in outputs.items()}, nobody


def _artifact(file: NetworkFile, data: bytes, backend: Backend) -> Artifact:
    """What the manifest says of a file: its own names and axes; the view tells what they are."""
    facts, spec = file.facts, file.spec
    with file.open(backend) as session:  # raises where the view does not fit
        batch = session.inputs[0].shape[0]
    dtypes = {tensor.name: tensor.dtype for tensor in (*facts.inputs, *facts.outputs)}
    inputs, outputs = (
        tuple(TensorSpec(name, shape, dtypes[name], ascii_lowercase[: len(shape)], "") for name, shape in side.items())
        for side in _ends(file, backend, batch)
    )
    return Artifact(
        format="tflite",
        backend=backend.name,
        precision=facts.precision,
        file=f"model.{facts.precision}.tflite",
        sha256=hashlib.sha256(data).hexdigest(),
        inputs=inputs,
        outputs=outputs,
        limits=limits_of(facts.precision, spec),
        target={},
        view=file.host.view,
    )


def _ends(file: NetworkFile, backend: Backend, batch: int | None) -> tuple[_Shapes, _Shapes]:
    """Shapes of the inputs and of the outputs by name, as the file has them for images of the model's size."""
    shape = file.image_shape
    with open_model_file(backend, replace(file.content(backend), view=None, model=None)) as session:
        (image,) = session.inputs
        given = session.run({image.name: np.zeros((batch or 1, *shape), image.dtype)})

    def with_batch(sizes: tuple[int, ...]) -> tuple[int | None, ...]:
        return (None, *sizes[1:]) if batch is None and sizes[:1] == (1,) else sizes

    return {image.name: (batch, *shape)}, {name: with_batch(values.shape) for name, values in given.items()}


def _hint(file: NetworkFile, reference: NetworkFile) -> str:
    """What to do about a file that moves keypoints too far."""
    if file.path == reference.path:
        return "Another version of ai-edge-litert may compute it right; if the deviation is acceptable raise [limits]."
    return (
        "Convert the network again with other calibration images, or leave layers in float; if the deviation is "
        "acceptable, raise [limits] in model.toml."
    )


def _notes(files: Sequence[NetworkFile], reference: NetworkFile, crops: Crops) -> Iterator[str]:
    """What is worth knowing of where the bundle comes from."""
    for file in files:
        yield f"{file.path.name} is in the bundle as it is: {file.facts.precision}, {file.facts.numbers}"
    kernels = backend_of(reference.path).reference
    yield f"the golden outputs are those of {reference.path.name}" + (f" by {kernels}" if kernels else "")
    if len(files) == 1 and reference.path == files[0].path:
        yield "no other file was given: nothing says how far it lies from the network that it was made from"
    if "random" in crops.origin:
        yield "compared on random pictures, which tell kernels apart and show nothing that the network is made for"


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):  # for example another build of OpenCV
            found[name] = importlib.metadata.version(name)
    return found
