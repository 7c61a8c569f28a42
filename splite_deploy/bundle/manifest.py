"""``manifest.json``: what a bundle holds and how it is run. Small, checked by its own checksum, format version 2.

`docs/bundle-format.md` describes the file for readers in other languages. Standard library only.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from splite_deploy.bundle.links import refuse_link_out
from splite_deploy.decoders import check_shapes, layouts_of
from splite_deploy.errors import BundleError, SpecError, reading_hint
from splite_deploy.files import is_file
from splite_deploy.spec import Color, LimitSpec, ModelSpec, Precision, View
from splite_deploy.spec.plain import OPTIONAL, compact_json, structure, to_plain
from splite_deploy.spec.reading import MissingError, ReadError, parse_json, read_bytes
from splite_deploy.text import command

Typing = Literal["weak", "strong"]

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
STORE = "store.json"
"""Of the folder into which bundles are installed; see `splite_deploy.updates`."""
MOST_PARTS = 64
"""Files of one artifact."""
REEXPORT = "Copy the bundle again, or make it anew with 'splite-deploy export'."
_CHECKSUM = b'"checksum"'
_SHA256 = re.compile(r"[0-9a-f]{64}")
_UNFIT = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]|[. ]$')
"""What the name of a file in a bundle has not: bundles are copied to every system, and a name is never a path."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_LONGEST_NAME = 200
_MOST_AXES, _LARGEST_SIZE = 8, 1 << 31
_DTYPES = {
    "bool",
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
}
_END = re.compile(rb'"checksum"\s*:\s*"([0-9a-f]{64})"\s*}\s*')


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of an artifact, as the file has it.

    Attributes:
        name: Its name in the graph.
        shape: Its sizes; None for a dynamic batch.
        dtype: numpy name of its type.
        layout: For example ``NCHW``.
        role: What it is to the decoder: ``image``, ``heatmap``, ``depth`` or ``coordinates``; where the graph decodes
            ``keypoints``, ``scores`` and, one number each, ``depth``. ``presence`` and ``handedness`` lie beside
            either. Empty where a view says it.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    layout: str
    role: str


@dataclass(frozen=True)
class Part:
    """One of the files of an artifact that is loaded part by part.

    Attributes:
        file: Its name inside the bundle.
        sha256: Its hash.
        inputs: Names of the tensors that it takes: inputs of the artifact, and what earlier parts give.
        outputs: Names of those that it gives: outputs of the artifact, and what later parts take.
    """

    file: str
    sha256: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Artifact:
    """One runnable file of a bundle, or several that run one after the other.

    Attributes:
        format: What kind of file it is: ``onnx``, ``onnx-parts``, ``tflite`` or ``engine``. A backend reads some
            formats.
        backend: The backend that it was made for and measured with: ``ort``, ``tflite`` or ``trt``.
        precision: What the file was built for and has been checked to be.
        file: Its name inside the bundle.
        sha256: Its hash.
        inputs: Its input tensors.
        outputs: Its output tensors, in the graph's order.
        limits: How far its keypoints may lie from the reference.
        target: What it was built for (GPU, versions); empty for a portable file.
        view: How its tensors become what preprocessing makes and the decoder reads, where the file was not made by
            export and stays as it is; the roles of its tensors are empty then. None where they are that already.
        parts: Its files in the order in which they run, of the format ``onnx-parts``; ``file`` is the first of them.
            None of an artifact of one file.
    """

    format: str
    backend: str
    precision: Precision
    file: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    limits: LimitSpec
    target: Mapping[str, str]
    view: View | None = None
    parts: tuple[Part, ...] = field(default=(), metadata=OPTIONAL)

    @property
    def label(self) -> str:
        """For example ``ort fp32``."""
        return f"{self.backend} {self.precision}"

    @property
    def files(self) -> tuple[Artifact | Part, ...]:
        """Everything that names a file of it."""
        return self.parts or (self,)

    @property
    def files_text(self) -> str:
        """Its file, or the first of several and how many there are besides."""
        return f"{self.file} and {len(self.parts) - 1} more" if self.parts else self.file

    @property
    def content_sha256(self) -> str:
        """Hex SHA-256 that tells it from any other: of its file, or of the hashes of its parts one behind the other."""
        return (
            hashlib.sha256("".join(one.sha256 for one in self.parts).encode()).hexdigest()
            if self.parts
            else self.sha256
        )


@dataclass(frozen=True)
class Graph:
    """A file that TensorRT engines are built of, on the device that runs them.

    Attributes:
        precision: Of the engine.
        typing: Whom it is for. ``weak``: versions up to 10, whose precision flags choose types. ``strong``: where the
            types in the graph decide, as in version 11.
        file: Its name inside the bundle; several graphs and artifacts may share a file.
        sha256: Its hash.
        inputs: Its input tensors.
        outputs: Its output tensors, in the graph's order.
        limits: How far the engine's keypoints may lie from the reference.
    """

    precision: Precision
    typing: Typing
    file: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    limits: LimitSpec


@dataclass(frozen=True)
class Source:
    """Where a bundle comes from.

    Attributes:
        checkpoint: File name of the checkpoint.
        checkpoint_sha256: Hex SHA-256 of the checkpoint.
        tool_version: Version of splite-deploy that made the bundle.
    """

    checkpoint: str
    checkpoint_sha256: str
    tool_version: str


@dataclass(frozen=True)
class GoldenTensor:
    """Where a tensor lies in the golden file: C order, little-endian.

    Attributes:
        dtype: ``uint8`` or ``float32``.
        shape: Its sizes.
        offset: Of its first byte in the file, a multiple of 16.
    """

    dtype: Literal["uint8", "float32"]
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class ImageFacts:
    """What is known of the golden image beside its tensors.

    Attributes:
        color: Channel order of the image. The crop is in that of the model's input.
        box: x0, y0, x1, y1 of what is cropped, in pixels of the image.
        opencv: Version of OpenCV that cut the crop.
        angle_deg: By how much the box is turned about its centre, clockwise, in degrees; left out where it is not.
    """

    color: Color
    box: tuple[float, float, float, float]
    opencv: str
    angle_deg: float = field(default=0.0, metadata=OPTIONAL)


@dataclass(frozen=True)
class GoldenFile:
    """The golden file: inputs, and what the original network made of them.

    Attributes:
        file: Its name inside the bundle.
        sha256: Hex SHA-256 of the file.
        reference: What computed the outputs: ``torch``, or ``onnx`` or ``tflite`` where a file was the source.
        tensors: Where each tensor lies, by its name; see `splite_deploy.bundle.golden.Golden` for the names.
        image: What is known of the golden image.
    """

    file: str
    sha256: str
    reference: str
    tensors: Mapping[str, GoldenTensor]
    image: ImageFacts


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``.

    Attributes:
        format_version: Of this structure: 2.
        model: The model spec.
        source: Where the bundle comes from.
        artifacts: The artifacts; a runtime uses the first by default.
        golden: Reference inputs and outputs, to check any artifact on any machine.
        graphs: The graphs of which TensorRT engines are built; empty where none were requested.
    """

    format_version: int
    model: ModelSpec
    source: Source
    artifacts: tuple[Artifact, ...]
    golden: GoldenFile
    graphs: tuple[Graph, ...] = ()

    @property
    def files(self) -> tuple[Artifact | Part | Graph | GoldenFile, ...]:
        """Everything that names a file of the bundle."""
        return (*(held for one in self.artifacts for held in one.files), *self.graphs, self.golden)

    def to_json(self) -> str:
        """The text of ``manifest.json``: an entry a line, its own checksum last."""
        data = {**to_plain(self), "model": self.model.to_dict()}
        text = compact_json(data).removesuffix("\n}\n") + ",\n "
        return f'{text}"checksum": "{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n'


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a bundle; keys that it does not know are ignored.

    Raises:
        BundleError: It is missing, damaged, changed, or of another format version.
    """
    file = folder / MANIFEST
    refuse_link_out(file)
    try:
        content = read_bytes(file)
        data = parse_json(content, str(file), mark=False)
    except MissingError as err:
        if is_file(folder / STORE):
            raise BundleError(
                f"{folder} is a store, which holds bundles, and not one of them.",
                hint=f"{command('install', folder)} says which is the current one: name that. "
                "In Python PoseEstimator.follow runs what a store holds.",
            ) from err
        if os.path.isdir(folder):  # noqa: PTH112 - pathlib's raises where the folder cannot be read
            raise BundleError(f"{folder} holds no {MANIFEST}, so it is not a bundle.", hint=REEXPORT) from err
        what = "is a file, not a bundle folder" if os.path.lexists(folder) else "does not exist"
        raise BundleError(
            f"{folder} {what}.", hint="Make a bundle with 'splite-deploy export CHECKPOINT -o NAME.splite'."
        ) from err
    except ReadError as err:
        raise BundleError(f"{file} cannot be read: {err.reason}.", hint=reading_hint(err, REEXPORT)) from err
    version = data.get("format_version") if isinstance(data, dict) else None
    if type(version) is not int or version != FORMAT_VERSION:
        raise BundleError(
            f"{file} has format version {version}; this version of splite-deploy reads {FORMAT_VERSION}.",
            hint=_other_version(folder, version, data),
        )
    start = content.rfind(_CHECKSUM)
    end = _END.fullmatch(content, start) if start >= 0 else None
    if end is None or end[1].decode() != hashlib.sha256(content[:start]).hexdigest():
        raise BundleError(f"{file} was changed after it was written (its checksum differs).", hint=REEXPORT)
    try:
        model = ModelSpec.from_dict(data.get("model", {}), unknown="ignore")
        manifest = structure(Manifest, {**data, "model": model}, "", unknown="ignore")
        _check(manifest)
    except (SpecError, BundleError) as err:
        raise BundleError(f"{file} is malformed: {err.message}", hint=REEXPORT) from err
    return manifest


def is_plain_name(name: str) -> bool:
    """Whether a file of this name can lie in a bundle on every system, and nowhere else."""
    usable = 0 < len(name.encode("utf-8", "surrogatepass")) <= _LONGEST_NAME and not _UNFIT.search(name)
    return usable and not _RESERVED.fullmatch(name)


def _check(manifest: Manifest) -> None:
    """What fields say together, each of which has the right type.

    Raises:
        BundleError: They contradict each other, or name no file of a bundle.
    """
    labels = [artifact.label for artifact in manifest.artifacts]
    for label in labels:
        _hold(labels.count(label) == 1, f"it has the artifact '{label}' twice")
    for held in manifest.files:
        _hold(is_plain_name(held.file), f"{held.file!r} is no name of a file in a bundle")
        _hold(held.file not in (MANIFEST, "report.json"), f"{held.file} is no artifact")
        _hold(_SHA256.fullmatch(held.sha256) is not None, f"the sha256 of {held.file} is none")
    for artifact in manifest.artifacts:
        _check_parts(artifact)
    runnable: tuple[Artifact | Graph, ...] = (*manifest.artifacts, *manifest.graphs)
    for one in runnable:
        for which, tensors in (("inputs", one.inputs), ("outputs", one.outputs)):
            _hold(len(tensors) > 0, f"{one.file} has no {which}")
            names = [tensor.name for tensor in tensors]
            _hold(
                len(set(names)) == len(names) and "" not in names,
                f"the {which} of {one.file} have no names of their own",
            )
            for tensor in tensors:
                _check_tensor(tensor, f"the tensor '{tensor.name}' of {one.file}")
        if isinstance(one, Graph) or one.view is None:
            _check_roles(one, manifest.model)


def _check_parts(artifact: Artifact) -> None:
    """What parts take has to be there when they run."""
    parts, label = artifact.parts, artifact.label
    _hold(bool(parts) == (artifact.format == "onnx-parts"), f"{label} is {artifact.format} of {len(parts)} parts")
    if not parts:
        return
    _hold(1 < len(parts) <= MOST_PARTS, f"{label} has {len(parts)} parts")
    _hold((parts[0].file, parts[0].sha256) == (artifact.file, artifact.sha256), f"{label} begins with another part")
    _hold(len({one.file for one in parts}) == len(parts), f"{label} has a part twice")
    there = {tensor.name for tensor in artifact.inputs}
    for one in parts:
        lacking = [name for name in one.inputs if name not in there]
        _hold(not lacking, f"{one.file} takes '{''.join(lacking[:1])}', which no part before it gives")
        _hold(
            bool(one.outputs) and there.isdisjoint(one.outputs), f"{one.file} gives nothing, or what is there already"
        )
        there.update(one.outputs)
    lacking = [tensor.name for tensor in artifact.outputs if tensor.name not in there]
    _hold(not lacking, f"no part of {label} gives its output '{''.join(lacking[:1])}'")


def _check_tensor(tensor: TensorSpec, what: str) -> None:
    fits = all(1 <= size < _LARGEST_SIZE for size in tensor.shape if size is not None)
    _hold(1 <= len(tensor.shape) <= _MOST_AXES and fits, f"{what} has the shape {list(tensor.shape)}")
    _hold(None not in tensor.shape[1:], f"{what} leaves open more than its batch")
    _hold(tensor.dtype in _DTYPES, f"{what} has the type {tensor.dtype!r}")
    letters = len(set(tensor.layout)) == len(tensor.layout) == len(tensor.shape)
    _hold(letters, f"{what} has {len(tensor.shape)} axes and the layout {tensor.layout!r}")


def _check_roles(held: Artifact | Graph, model: ModelSpec) -> None:
    """Compares what a network takes and gives with the model: its image, and what the decoder reads."""
    _hold(len(held.inputs) == 1 and held.inputs[0].role == "image", f"{held.file} takes another input than one image")
    image = _in_order(held.inputs[0], "NCHW")
    planes = (model.input.channels, model.input.height, model.input.width)
    _hold(image[1:] == planes, f"the image of {held.file} is {image[1:]}, that of the model {planes}")
    by_role = {tensor.role: tensor for tensor in held.outputs}
    layouts = layouts_of(model.decoder, decoded=model.decoder.decodes(by_role))
    shapes = {role: _in_order(one, layouts[role]) for role, one in by_role.items() if role in layouts}
    check_shapes(shapes, model, error=BundleError)


def _in_order(tensor: TensorSpec, layout: str) -> tuple[int | None, ...]:
    """The shape of a tensor with its axes in this order."""
    same = sorted(tensor.layout) == sorted(layout)
    _hold(same, f"the tensor '{tensor.name}' has the layout {tensor.layout!r}, its role {layout!r}")
    return tuple(tensor.shape[tensor.layout.index(letter)] for letter in layout)


def _hold(condition: bool, said: str) -> None:
    if not condition:
        raise BundleError(f"{said}.", hint=REEXPORT)


def _other_version(folder: Path, version: object, data: Any) -> str:
    """What to do about a manifest of another format version."""
    if type(version) is not int:
        return REEXPORT
    if version > FORMAT_VERSION:
        return "Upgrade splite-deploy on this machine."
    source = data.get("source")
    checkpoint = source.get("checkpoint") if isinstance(source, dict) else None
    name = Path(checkpoint) if isinstance(checkpoint, str) and checkpoint else "CHECKPOINT"
    return f"Make it anew: {command('export', name, '-o', folder, '--overwrite')}"
