"""The bundle, a folder ``NAME.splite/``: the interface between the stages, and all that a runtime needs.

    manifest.json   model spec, source, artifacts with their hashes, measured parity
    model.onnx      the graph; further artifacts beside it
    golden.npz      a few input crops with the reference outputs, to check any artifact on any machine

A bundle appears whole or not at all, every file is bound by its SHA-256, and the manifest by its own checksum.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from splite_deploy.bundle.report import BudgetSearch, Calibration, Layer, Verdict
from splite_deploy.bundle.report import Parity as Parity
from splite_deploy.bundle.report import Percentiles as Percentiles
from splite_deploy.errors import BundleError, OutputError, SpecError, UsageError
from splite_deploy.files import sha256_of, sync, writing
from splite_deploy.spec import LimitSpec, ModelSpec, Precision
from splite_deploy.spec.plain import structure, to_plain

Typing = Literal["weak", "strong"]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
_OPTIONAL = ("calibration", "budget", "verdict", "graphs", "layers")  # left out where empty: older readers refuse them
_REEXPORT = "Copy the bundle again, or make it anew with 'splite-deploy export'."


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of an artifact, as the file has it.

    Attributes:
        name: Its name in the graph.
        shape: Its sizes; None for a dynamic batch.
        dtype: numpy name of its type.
        layout: For example ``NCHW``.
        role: What it is to the decoder: ``image``, ``heatmap``, ``depth`` or ``coordinates``; where the graph decodes
            ``keypoints``, ``scores`` and, one number each, ``depth``.
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
        checkpoint_sha256: Its hash.
        notes: What was done to it while loading, for example which wrapper was taken off.
        tool_version: Version of splite-deploy.
        versions: Versions of the libraries that took part.
        opset: ONNX operator set of the graph.
    """

    checkpoint: str
    checkpoint_sha256: str
    notes: tuple[str, ...]
    tool_version: str
    versions: Mapping[str, str]
    opset: int


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``.

    Attributes:
        format_version: Of this structure.
        model: The model spec.
        source: Where the bundle comes from.
        artifacts: What it holds; the first is what a runtime takes that is not told which.
        parity: How far each step of the conversion moved the keypoints.
        golden_sha256: Hash of ``golden.npz``.
        calibration: What fp16 and int8 were calibrated on; None where nothing was.
        budget: The search for layers that int8 must leave in float; None where no budget was given.
        verdict: The artifacts side by side; None where there is one alone.
        graphs: What engines are built of; empty where none were asked for.
        layers: What each artifact is made of as it runs, by its label, in the order of execution; those of ``ort`` and
            ``tflite`` as `splite_deploy.bench.profile` finds them on the machine that exported.
    """

    format_version: int
    model: ModelSpec
    source: Source
    artifacts: tuple[Artifact, ...]
    parity: tuple[Parity, ...]
    golden_sha256: str
    calibration: Calibration | None = None
    budget: BudgetSearch | None = None
    verdict: Verdict | None = None
    graphs: tuple[Graph, ...] = ()
    layers: Mapping[str, tuple[Layer, ...]] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text of ``manifest.json``, with its own checksum."""
        plain = {**to_plain(self), "model": self.model.to_dict()}
        data = {key: value for key, value in plain.items() if value or key not in _OPTIONAL}
        return json.dumps({**data, "checksum": _checksum(data)}, indent=1) + "\n"


@dataclass(frozen=True)
class Golden:
    """Reference inputs and outputs.

    Attributes:
        crops: (N, h, w, 3) uint8, channels in the order of the input spec.
        outputs: fp32 outputs of the original network by role, N first.
    """

    crops: NDArray[np.uint8]
    outputs: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Bundle:
    """An opened bundle whose files have been checked.

    Attributes:
        path: Its folder.
        manifest: Its manifest.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, rebuilding: Collection[str] = ()) -> Bundle:
        """Opens a bundle and checks every hash.

        Args:
            path: Its folder.
            rebuilding: Labels of artifacts that are about to be replaced: their files may be missing or damaged.

        Raises:
            BundleError: It is missing, incomplete, damaged, or of another format version.
        """
        folder = Path(path)
        manifest = _read_manifest(folder)
        expected = {artifact.file: artifact.sha256 for artifact in manifest.artifacts}
        expected |= {graph.file: graph.sha256 for graph in manifest.graphs}
        built = {
            artifact.file: f"Build it here: {compile_command(folder, artifact)}."
            for artifact in manifest.artifacts
            if artifact.backend == "trt"
        }
        replaced = {artifact.file for artifact in manifest.artifacts if artifact.label in rebuilding}
        for name, digest in {**expected, GOLDEN: manifest.golden_sha256}.items():
            file = folder / name
            if name in replaced and Path(name).name == name:
                continue
            if Path(name).name != name or not file.is_file():
                raise BundleError(f"The bundle {folder} lacks its file {name}.", hint=built.get(name, _REEXPORT))
            if sha256_of(file) != digest:
                raise BundleError(
                    f"{file} is not the file that the manifest describes (its SHA-256 differs).",
                    hint=built.get(name, _REEXPORT),
                )
        return cls(folder, manifest)

    @property
    def model(self) -> ModelSpec:
        """The model spec."""
        return self.manifest.model

    def find(self, backend: str | None = None, precision: Precision | None = None) -> Artifact:
        """The first artifact of this backend and precision; None stands for any.

        Raises:
            UsageError: The bundle holds none; the hint lists what it holds.
        """
        for artifact in self.manifest.artifacts:
            if backend in (None, artifact.backend) and precision in (None, artifact.precision):
                return artifact
        wanted = " ".join(filter(None, (backend, precision)))
        held = ", ".join(artifact.label for artifact in self.manifest.artifacts)
        raise UsageError(f"The bundle {self.path} holds no {wanted} artifact.", hint=f"It holds: {held}.")

    def golden(self) -> Golden:
        """Reads the reference inputs and outputs."""
        with np.load(self.path / GOLDEN, allow_pickle=False) as stored:
            arrays = dict(stored)
        return Golden(arrays.pop("crops"), arrays)


def compile_command(bundle: Path, engine: Artifact, batch: str | None = None) -> str:
    """What to type to build a TensorRT engine anew.

    Args:
        bundle: The bundle's folder.
        engine: The engine.
        batch: ``min,opt,max``; None takes that of the engine.
    """
    batch = batch or engine.target.get("batch", "1,1,1")
    command = f"splite-deploy compile {shlex.quote(str(bundle))} -b trt -p {engine.precision}"
    if "calibrator" in engine.target:  # the images themselves are known by their origin alone
        command += f" --calibrator {engine.target['calibrator']} --calibration IMAGES"
    return command if batch == "1,1,1" else f"{command} --batch {batch}"


def _checksum(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _read_manifest(folder: Path) -> Manifest:
    file = folder / MANIFEST
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as err:
        if folder.is_dir():
            raise BundleError(f"{folder} holds no {MANIFEST}, so it is no bundle.", hint=_REEXPORT) from err
        what = "is a file, not a bundle folder" if folder.exists() else "does not exist"
        raise BundleError(
            f"{folder} {what}.", hint="Make a bundle with 'splite-deploy export CHECKPOINT -o NAME.splite'."
        ) from err
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as err:
        raise BundleError(f"{file} cannot be read: {err}.", hint=_REEXPORT) from err
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        raise BundleError(
            f"{file} has format version {version}; this version of splite-deploy reads {FORMAT_VERSION}.",
            hint="Upgrade splite-deploy on this machine." if newer else _REEXPORT,
        )
    checksum = data.pop("checksum", None)
    if checksum != _checksum(data):
        raise BundleError(f"{file} was changed after it was written (its checksum differs).", hint=_REEXPORT)
    try:
        model = ModelSpec.from_dict(data.get("model", {}))
        return structure(Manifest, {**data, "model": model}, "")
    except SpecError as err:
        raise BundleError(f"{file} is malformed: {err.message}", hint=_REEXPORT) from err


def write_golden(path: Path, golden: Golden) -> None:
    """Writes reference inputs and outputs as ``.npz``."""
    arrays: dict[str, Any] = {"crops": golden.crops, **golden.outputs}
    np.savez_compressed(path, **arrays)


@contextmanager
def new_bundle(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty folder that becomes the bundle ``path`` when the block ends, and vanishes if it fails.

    Raises:
        OutputError: The place is taken (and ``overwrite`` is false) or cannot be written to.
    """
    with writing(path):
        if path.exists() and not (overwrite and (path / MANIFEST).is_file()):
            hint = "Name another place with --output." if overwrite else "Add --overwrite, or name another place."
            what = "exists and is no bundle" if overwrite else "exists already"
            raise OutputError(f"{path} {what}.", hint=hint)
        made = [parent for parent in path.parents if not parent.exists()]  # deepest first
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        with writing(path):
            yield folder
            for file in folder.iterdir():
                sync(file)
            sync(folder)
            folder.chmod(0o755)
            retired = folder.with_name(folder.name + ".old")
            if path.exists():
                path.rename(retired)
            try:
                folder.rename(path)
            except BaseException:
                if retired.exists():
                    retired.rename(path)
                raise
            shutil.rmtree(retired, ignore_errors=True)
            sync(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made if not path.exists() else ():
            with suppress(OSError):  # something else may have come to lie there
                parent.rmdir()
