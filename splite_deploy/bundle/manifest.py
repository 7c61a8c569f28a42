"""``manifest.json``: what a bundle holds and how it is run. Small, checked by its own checksum, format version 2.

`docs/bundle-format.md` describes the file for readers in other languages. Standard library only.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from splite_deploy.errors import BundleError, SpecError
from splite_deploy.spec import Color, LimitSpec, ModelSpec, Precision, View
from splite_deploy.spec.plain import compact_json, structure, to_plain
from splite_deploy.spec.reading import MissingError, ReadError, parse_json, read_bytes

Typing = Literal["weak", "strong"]

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
REEXPORT = "Copy the bundle again, or make it anew with 'splite-deploy export'."
_CHECKSUM = b'"checksum"'
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
            ``keypoints``, ``scores`` and, one number each, ``depth``. Empty where a view says it.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    layout: str
    role: str


@dataclass(frozen=True)
class Artifact:
    """One runnable file of a bundle.

    Attributes:
        format: What kind of file it is: ``onnx``, ``tflite`` or ``engine``. A backend reads some formats.
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

    @property
    def label(self) -> str:
        """For example ``ort fp32``."""
        return f"{self.backend} {self.precision}"


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
    """

    color: Color
    box: tuple[float, float, float, float]
    opencv: str


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
    def files(self) -> tuple[Artifact | Graph | GoldenFile, ...]:
        """Everything that names a file of the bundle."""
        return (*self.artifacts, *self.graphs, self.golden)

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
    try:
        content = read_bytes(file)
        data = parse_json(content, str(file), mark=False)
    except MissingError as err:
        if os.path.isdir(folder):  # noqa: PTH112 - pathlib's raises where the folder cannot be read
            raise BundleError(f"{folder} holds no {MANIFEST}, so it is not a bundle.", hint=REEXPORT) from err
        what = "is a file, not a bundle folder" if os.path.lexists(folder) else "does not exist"
        raise BundleError(
            f"{folder} {what}.", hint="Make a bundle with 'splite-deploy export CHECKPOINT -o NAME.splite'."
        ) from err
    except ReadError as err:
        raise BundleError(f"{file} cannot be read: {err.reason}.", hint=REEXPORT) from err
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
        return structure(Manifest, {**data, "model": model}, "", unknown="ignore")
    except SpecError as err:
        raise BundleError(f"{file} is malformed: {err.message}", hint=REEXPORT) from err


def _other_version(folder: Path, version: object, data: Any) -> str:
    """What to do about a manifest of another format version."""
    if type(version) is not int:
        return REEXPORT
    if version > FORMAT_VERSION:
        return "Upgrade splite-deploy on this machine."
    source = data.get("source")
    checkpoint = source.get("checkpoint") if isinstance(source, dict) else None
    name = shlex.quote(checkpoint) if isinstance(checkpoint, str) and checkpoint else "CHECKPOINT"
    return f"Make it anew: splite-deploy export {name} -o {shlex.quote(str(folder))} --overwrite"
