"""Ranges of activations in a file: measured once on photographs, they travel with the checkpoint.

They are those of exactly these weights behind exactly this preprocessing; for anything else reading them is an error.
Tensors are not stored by name or by place: those change with the versions of torch and onnxsim, with the operator set
and with the order of the nodes. Each is known by what it holds on fixed input, see `fingerprints`, and found by that in
whatever graph the weights have become. What is not found, as the inside of a norm that another version writes in other
operators, is measured on the crops at hand.

The file is JSON, and holds neither pixels nor names of files. Its fields are those of `StoredRanges`, with the
``sha256`` of all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.errors import CalibrationError, SpecError
from splite_deploy.export.graph.walk import ExposedGraph, activations
from splite_deploy.export.quant.calibration import CalibrationSet, Kind
from splite_deploy.export.quant.ranges import Method, Ranges, calibrate, padding_of, without
from splite_deploy.files import write_file
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.spec import InputSpec
from splite_deploy.spec.plain import compact_json, structure, to_plain
from splite_deploy.spec.reading import MissingError, ReadError, check_file, read_json
from splite_deploy.version import __version__

RANGES_VERSION = 1
TOLERANCE = 1e-3
"""How far two fingerprints of one tensor may lie apart, as a share of its largest value: other versions fold constants
in another order, which moves it by 1e-6, while two tensors of a network are seldom within a tenth."""
MISSING_SHARE = 0.25
"""Above this share of tensors that are not found the graph is taken for another network's."""
_NAMED = 4
_TINY = 1e-30
_HEAD_BYTES = 1 << 16
_MARKS = (b'"splite_ranges"', b'"images_sha256"', b'"fingerprint"')
_LABELS = (b'"samples"', b'"annotations"')
_PROBES = 2
_GRID = 8  # cells of a probe along each side


@dataclass(frozen=True)
class StoredTensor:
    """One activation.

    Attributes:
        made_by: Operator that makes it; empty for the input.
        shape: Its shape for one crop, without the batch.
        fingerprint: See `fingerprints`.
        limits: See `splite_deploy.export.quant.ranges.Ranges`, as the following.
        magnitude: Of ``magnitudes``.
        extremes: Its smallest and largest value.
        means: Of each channel; empty unless it has four axes.
    """

    made_by: str
    shape: tuple[int, ...]
    fingerprint: tuple[tuple[float, float, float, float], ...]
    limits: tuple[float, float]
    magnitude: float
    extremes: tuple[float, float]
    means: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("limits", "extremes"):
            low, high = getattr(self, name)
            if not low <= high:
                raise SpecError(f"{name} of a tensor run from {low:g} to {high:g}.", hint="Measure them again.")
        if self.magnitude < 0 or min(self.shape, default=1) < 1:
            raise SpecError("A tensor has a negative magnitude or size.", hint="Measure them again.")


@dataclass(frozen=True)
class StoredRanges:
    """The content of a file of ranges.

    Attributes:
        splite_ranges: Version of this structure: 1.
        made_by: Version of splite-deploy.
        weights: Hex key of the weights, see `splite_deploy.export.source.weights.weights_key`.
        input: The preprocessing.
        kind: What the images were.
        images: How many they were.
        images_sha256: Hex key of what the network saw: the pixels, their order, and the normalisation.
        method: How ``limits`` were chosen.
        tensors: The activations, in topological order.
    """

    splite_ranges: int
    made_by: str
    weights: str
    input: InputSpec
    kind: Kind
    images: int
    images_sha256: str
    method: Method
    tensors: tuple[StoredTensor, ...]

    @property
    def origin(self) -> str:
        """Where they come from, for people."""
        return f"ranges measured on {self.images} {self.kind}, stored with the checkpoint"

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the content."""
        return _digest(to_plain(self))

    def check_input(self, spec: InputSpec, file: Path, again: str) -> None:
        """Compares the preprocessing behind which they were measured with that behind which they are to be used.

        Args:
            spec: The latter.
            file: Where the ranges lie.
            again: What makes them again, as a hint.

        Raises:
            CalibrationError: They differ; the message says in what.
        """
        changed = [
            f"input.{field.name} was {before} and is {now}"
            for field in fields(InputSpec)
            if (before := getattr(self.input, field.name)) != (now := getattr(spec, field.name))
        ]
        if changed:
            raise CalibrationError(
                f"The ranges of {file} were measured behind another preprocessing: {', '.join(changed)}.", hint=again
            )

    def write(self, path: Path) -> None:
        """Writes the file whole or not at all.

        Raises:
            OutputError: It cannot be written.
        """
        plain = to_plain(self)
        version = plain.pop("splite_ranges")
        ordered = {"splite_ranges": version, "sha256": self.sha256, **plain}
        write_file(path, compact_json(ordered).encode())


def is_ranges_file(path: Path) -> bool:
    """Whether a file is meant to be ranges, also where it is damaged: by its name, or by words of its beginning."""
    if path.name.endswith(".ranges.json"):
        return True
    try:
        check_file(path)
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except (OSError, ReadError):
        return False
    return any(word in head for word in _MARKS) and not any(word in head for word in _LABELS)


def read_ranges(path: Path, again: str) -> StoredRanges:
    """Reads a file of ranges.

    Args:
        path: The file.
        again: What makes it again, as a hint.

    Raises:
        SpecError: There is no such file.
        CalibrationError: It is damaged, or of a later version than this one reads.
    """
    try:
        data = read_json(path)
    except MissingError as err:
        raise SpecError(f"There is no file of ranges at {path}.", hint=again) from err
    except ReadError as err:
        raise CalibrationError(f"{path} is not a whole file of ranges: {err.reason}.", hint=again) from err
    version = data.get("splite_ranges") if isinstance(data, dict) else None
    if type(version) is not int:
        raise CalibrationError(f"{path} is not a file of ranges.", hint=again)
    if version > RANGES_VERSION:
        raise CalibrationError(
            f"{path} holds ranges of version {version}; this version of splite-deploy reads {RANGES_VERSION}.",
            hint="Upgrade splite-deploy on this machine.",
        )
    digest = data.pop("sha256", None)
    try:
        stored = structure(StoredRanges, data, "")
    except SpecError as err:
        raise CalibrationError(f"{path} is damaged: {err.message}", hint=again) from err
    if _digest(data) != digest:  # of what the file says: later versions may have more fields, which are absent in it
        raise CalibrationError(f"{path} is damaged: its content is not that of its sha256.", hint=again)
    return stored


def _digest(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def store(model: ir.Model, ranges: Ranges, calibration: CalibrationSet, weights: str, spec: InputSpec) -> StoredRanges:
    """Ranges as they are stored.

    Args:
        model: float32 graph that they were measured on.
        ranges: Of its activations.
        calibration: What they were measured on.
        weights: Key of its weights, see `splite_deploy.export.source.weights.weights_key`.
        spec: Its preprocessing.
    """
    marks, flowing = fingerprints(model, spec), activations(model.graph)
    tensors = []
    for name, mark in marks.items():
        if name not in ranges.limits:
            continue
        tensors.append(
            StoredTensor(
                made_by=_made_by(flowing[name]),
                shape=mark.shape,
                fingerprint=tuple((_short(a), _short(b), _short(c), _short(d)) for a, b, c, d in mark.figures),
                limits=_pair(ranges.limits[name]),
                magnitude=_short(ranges.magnitudes[name]),
                extremes=_pair(ranges.extremes[name]),
                means=tuple(_short(mean, 5) for mean in ranges.means.get(name, ())),
            )
        )
    return StoredRanges(
        splite_ranges=RANGES_VERSION,
        made_by=__version__,
        weights=weights,
        input=spec,
        kind=calibration.kind,
        images=len(calibration.pixels),
        images_sha256=calibration.sha256,
        method=ranges.method,
        tensors=tuple(tensors),
    )


def restore(
    stored: StoredRanges, model: ir.Model, spec: InputSpec, crops: FloatArray, file: Path, again: str
) -> tuple[Ranges, tuple[str, ...]]:
    """The ranges of a graph that was made of the weights that they were measured for.

    Args:
        stored: Of these weights behind this preprocessing.
        model: float32 graph.
        spec: Its preprocessing.
        crops: (N, 3, h, w) float32, normalised: what has no stored range is measured on them.
        file: Where the ranges lie.
        again: What makes them again, as a hint.

    Returns:
        The ranges, and what is worth knowing about them, as text.

    Raises:
        CalibrationError: Too much of the graph is not in the file.
    """
    flowing, found = activations(model.graph), {}
    marks = fingerprints(model, spec)
    for name, mark in marks.items():
        if (tensor := _nearest(mark, _made_by(flowing[name]), stored.tensors)) is not None:
            found[name] = tensor
    missing = [name for name in marks if name not in found]
    if len(missing) > MISSING_SHARE * len(marks):
        raise CalibrationError(
            f"{len(missing)} of the graph's {len(marks)} activations are not among the ranges of {file}: it computes "
            "something else than what they were measured on.",
            hint=again,
        )
    ranges = Ranges(
        method=stored.method,
        crops=stored.images,
        limits={name: one.limits for name, one in found.items()},
        magnitudes={name: one.magnitude for name, one in found.items()},
        extremes={name: one.extremes for name, one in found.items()},
        means={
            name: np.array(one.means)
            for name, one in found.items()
            if len(marks[name].shape) == 3 and len(one.means) == marks[name].shape[0]
        },
        shapes={name: marks[name].shape for name in found},
    )
    if not missing:
        return ranges, ()
    note = f"{len(missing)} of {len(marks)} activations are not in {file.name} and were measured on {len(crops)} crops"
    return ranges.with_missing(calibrate(model, crops, stored.method)), (f"{note}: {', '.join(missing[:_NAMED])}",)


@dataclass(frozen=True)
class Fingerprint:
    """What the values of a tensor are on the probes, whatever their order.

    Attributes:
        shape: For one crop, without the batch.
        figures: (probes, 4): smallest, largest, mean, and root of the mean square.
    """

    shape: tuple[int, ...]
    figures: NDArray[np.float64]


def fingerprints(model: ir.Model, spec: InputSpec) -> dict[str, Fingerprint]:
    """The fingerprint of every float activation, in topological order.

    Args:
        model: float32 graph, of one crop or of an open batch.
        spec: Its preprocessing.
    """
    flowing = activations(model.graph)
    rows: dict[str, list[tuple[float, ...]]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    exposed, padding = ExposedGraph(model, flowing), padding_of(flowing)
    for probe in probes(spec):
        for values in exposed.run(probe[None]):
            for name, value in values.items():
                if value.dtype == np.float32 and value.size:
                    shapes[name] = value.shape[1:]
                    kept = without(value, padding[name]) if name in padding else value
                    wide = kept.astype(np.float64) if kept.size else np.zeros(1)
                    figures = (wide.min(), wide.max(), wide.mean(), np.sqrt(np.square(wide).mean()))
                    rows.setdefault(name, []).append(tuple(map(float, figures)))
    return {name: Fingerprint(shapes[name], np.array(figures)) for name, figures in rows.items()}


def probes(spec: InputSpec) -> FloatArray:
    """(2, C, h, w) normalised patches of colour with some noise, which no version of numpy makes differently.

    The stream of ``RandomState`` is frozen. Patches excite a network more than noise alone does.
    """
    random = np.random.RandomState(0)
    coarse = random.randint(0, 256, (_PROBES, _GRID, _GRID, spec.channels))
    noise = random.randint(-16, 17, (_PROBES, spec.height, spec.width, spec.channels))
    rows, columns = (np.arange(size) * _GRID // size for size in (spec.height, spec.width))
    pixels = np.clip(coarse[:, rows][:, :, columns] + noise, 0, 255).astype(np.uint8)
    return Preprocessor(spec, spec.color).normalise(pixels)


def _nearest(mark: Fingerprint, made_by: str, tensors: Iterable[StoredTensor]) -> StoredTensor | None:
    """The stored tensor of these values; of several, as a value and its ReLU may be on the probes, the most alike."""
    best: tuple[tuple[bool, bool, float], StoredTensor] | None = None
    count = prod(mark.shape)
    for one in tensors:
        figures = np.array(one.fingerprint)
        if prod(one.shape) != count or figures.shape != mark.figures.shape:
            continue
        scale = max(float(np.abs(mark.figures).max()), float(np.abs(figures).max()), _TINY)
        distance = float(np.abs(mark.figures - figures).max()) / scale
        key = (one.made_by != made_by, one.shape != mark.shape, distance)
        if distance <= TOLERANCE and (best is None or key < best[0]):
            best = key, one
    return None if best is None else best[1]


def _made_by(value: ir.Value) -> str:
    """The operator that makes a value; empty for an input of the graph."""
    producer = value.producer()
    return "" if producer is None else producer.op_type


def _pair(values: tuple[float, float]) -> tuple[float, float]:
    return _short(values[0]), _short(values[1])


def _short(value: float, digits: int = 8) -> float:
    """A figure with no more digits than that; float32 has eight."""
    return float(f"{value:.{digits}g}")
