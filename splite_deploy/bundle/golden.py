"""The golden file: inputs and what the original network made of them, raw tensors that any language reads.

Little-endian, C order, one tensor after the other, each at a multiple of 16 bytes; the manifest says which lies where.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.bundle.manifest import GoldenFile, GoldenTensor, ImageFacts
from splite_deploy.decoders import Decoded, People, PeopleDecoder, check_shapes
from splite_deploy.decoders.people import CORNERS
from splite_deploy.errors import BundleError
from splite_deploy.spec import Color, ModelSpec

GOLDEN = "golden.bin"
ALIGNMENT = 16
_AXES = 8
_LONGEST_BOX_PX = 1e6
_AGAIN = "Copy the bundle again, or export it again."
_OUTPUT = "output."
_PEOPLE = "people."
_NOBODY = "nobody."


@dataclass(frozen=True)
class GoldenImage:
    """An image with a box, and what the reference made of it.

    Attributes:
        pixels: (H, W, 3) uint8; tensor ``image``.
        color: Channel order of ``pixels``.
        box: (4,) float64 x0, y0, x1, y1 in pixels of the image, or (5,) with an angle in degrees.
        crop: (h, w, C) uint8, as the machine that exported cut it, channels in the order of the input spec; tensor
            ``image.crop``.
        keypoints: (K, 2) float32 of the reference on that crop, in pixels of the image; tensor ``image.keypoints``.
            Without keypoints the upper left and the lower right corner of the best box, (2, 2).
        scores: (K,) float32, or (2,); tensor ``image.scores``.
        opencv: Version of OpenCV that cut the crop.
    """

    pixels: NDArray[np.uint8]
    color: Color
    box: NDArray[np.float64]
    crop: NDArray[np.uint8]
    keypoints: FloatArray
    scores: FloatArray
    opencv: str


@dataclass(frozen=True)
class Nobody:
    """Crops that show nobody, and how sure the reference is of the contrary.

    Attributes:
        crops: (M, h, w, C) uint8, channels in the order of the input spec; tensor ``nobody.crops``.
        presence: (M,) float32 in [0, 1]; tensor ``nobody.presence``, (M, 1).
    """

    crops: NDArray[np.uint8]
    presence: FloatArray


@dataclass(frozen=True)
class Golden:
    """Reference inputs and outputs of N crops.

    Attributes:
        crops: (N, h, w, C) uint8, channels in the order of the input spec; tensor ``crops``.
        outputs: fp32 outputs of the original network by role, N first; tensors ``output.ROLE``.
        decoded: What they decode to, in pixels of the crop; tensors ``keypoints``, ``scores`` and, where there is one,
            ``depth``; of several people also ``people.crops``, ``people.boxes`` and ``people.scores``. Each head, such
            as ``presence``, is a tensor (N, 1) by its name.
        image: An image for the comparison of preprocessing.
        reference: What computed the outputs: ``torch``, or ``onnx`` or ``tflite`` where a file was the source.
        nobody: Only of models with ``presence``, and not in bundles of earlier versions.
    """

    crops: NDArray[np.uint8]
    outputs: Mapping[str, FloatArray]
    decoded: Decoded
    image: GoldenImage
    reference: str = "torch"
    nobody: Nobody | None = None


def write_golden(path: Path, golden: Golden) -> GoldenFile:
    """Writes the golden file, and says what the manifest has to say of it."""
    people = golden.decoded.people
    found = {} if people is None else {"crops": people.crops, "boxes": people.boxes, "scores": people.scores}
    nobody = golden.nobody
    empty: dict[str, NDArray[Any]]
    empty = {} if nobody is None else {"crops": nobody.crops, "presence": nobody.presence[:, None]}
    tensors: dict[str, NDArray[Any]] = {
        "crops": golden.crops,
        **{_OUTPUT + role: values for role, values in golden.outputs.items()},
        **golden.decoded.by_role(),
        **{_PEOPLE + name: values.astype(np.float32) for name, values in found.items()},
        **{_NOBODY + name: values for name, values in empty.items()},
        "image": golden.image.pixels,
        "image.crop": golden.image.crop,
        "image.keypoints": golden.image.keypoints,
        "image.scores": golden.image.scores,
    }
    x0, y0, x1, y1, *angle = golden.image.box.tolist()
    facts = ImageFacts(golden.image.color, (x0, y0, x1, y1), golden.image.opencv, *angle)
    content, described = bytearray(), {}
    for name, values in tensors.items():
        content += bytes(-len(content) % ALIGNMENT)
        exact = np.dtype(values.dtype).newbyteorder("<")
        described[name] = GoldenTensor(values.dtype.name, values.shape, len(content))  # type: ignore[arg-type]
        content += values.astype(exact, order="C", copy=False).tobytes()
    path.write_bytes(content)
    return GoldenFile(path.name, hashlib.sha256(content).hexdigest(), golden.reference, described, facts)


def read_golden(content: bytes, file: GoldenFile, model: ModelSpec) -> Golden:
    """Takes the golden file apart.

    Args:
        content: Its bytes.
        file: What the manifest says of it.
        model: What it is the golden data of.

    Raises:
        BundleError: A tensor is missing, lies outside the file, does not fit the model, or is not finite.
    """

    def tensor(name: str) -> NDArray[Any]:
        if name not in file.tensors:
            raise BundleError(f"The golden file has no tensor '{name}'.", hint=_AGAIN)
        at = file.tensors[name]
        dtype = np.dtype(at.dtype).newbyteorder("<")
        count = math.prod(at.shape)
        immense = max(at.shape, default=0) > len(content)  # beside a 0, too
        if immense or min((*at.shape, at.offset)) < 0 or at.offset + count * dtype.itemsize > len(content):
            raise BundleError(f"The golden tensor '{name}' lies outside its file.", hint=_AGAIN)
        if len(at.shape) > _AXES:
            raise BundleError(f"The golden tensor '{name}' has {len(at.shape)} axes, and {_AXES} at most.", hint=_AGAIN)
        values = np.frombuffer(content, dtype, count, at.offset).reshape(at.shape)
        if dtype.kind == "f" and not np.isfinite(values).all():
            raise BundleError(f"The golden tensor '{name}' is not finite (NaN or infinity).", hint=_AGAIN)
        return values

    golden = Golden(
        crops=tensor("crops"),
        outputs={name.removeprefix(_OUTPUT): tensor(name) for name in file.tensors if name.startswith(_OUTPUT)},
        decoded=Decoded(
            keypoints=tensor("keypoints"),
            scores=tensor("scores"),
            depth=tensor("depth") if "depth" in file.tensors else None,
            people=None if f"{_PEOPLE}crops" not in file.tensors else _people(tensor),
            heads={head: _head(head, tensor(head)) for head in model.heads} or None,
        ),
        image=GoldenImage(
            pixels=tensor("image"),
            color=file.image.color,
            box=np.array([*file.image.box, *([file.image.angle_deg] if file.image.angle_deg else [])]),
            crop=tensor("image.crop"),
            keypoints=tensor("image.keypoints"),
            scores=tensor("image.scores"),
            opencv=file.image.opencv,
        ),
        reference=file.reference,
        nobody=_nobody(tensor) if f"{_NOBODY}presence" in file.tensors and "presence" in model.heads else None,
    )
    _check(golden, model)
    return golden


def _check(golden: Golden, model: ModelSpec) -> None:
    """Compares the tensors with the model and with each other."""
    count, points = len(golden.crops) if golden.crops.ndim else 0, model.keypoint_count
    planes = model.input.height, model.input.width, model.input.channels
    decoded, image, people = golden.decoded, golden.image, golden.decoded.people
    if count == 0:
        raise BundleError("The golden file holds no crop.", hint=_AGAIN)
    if (people is not None) != isinstance(model.decoder, PeopleDecoder):
        raise BundleError("The golden file does not fit the decoder, by whether it holds people.", hint=_AGAIN)
    if (decoded.depth is not None) != (model.decoder.depth is not None):
        raise BundleError("The golden file does not fit the decoder, by whether it holds a depth.", hint=_AGAIN)
    found = count if people is None else len(people.crops)
    _fits("crops", golden.crops, "uint8", (count, *planes))
    _fits("keypoints", decoded.keypoints, "float32", (found, points, 2), may_hold_nothing=points == 0)
    _fits("scores", decoded.scores, "float32", (found, points), may_hold_nothing=points == 0)
    if decoded.depth is not None:
        _fits("depth", decoded.depth, "float32", (found, points))
    for head, values in (decoded.heads or {}).items():
        _fits(head, values, "float32", (count,))
    if (nobody := golden.nobody) is not None:
        empty = len(nobody.presence)
        if empty == 0:
            raise BundleError("The golden tensor 'nobody.presence' holds nothing.", hint=_AGAIN)
        _fits("nobody.crops", nobody.crops, "uint8", (empty, *planes))
        _fits("nobody.presence", nobody.presence, "float32", (empty,))
        if not 0 <= nobody.presence.min() <= nobody.presence.max() <= 1:
            raise BundleError("The golden tensor 'nobody.presence' is not in 0 to 1.", hint=_AGAIN)
    if people is not None:
        _fits("people.boxes", people.boxes, "float32", (found, 4))
        _fits("people.scores", people.scores, "float32", (found,))
        if people.crops.shape != (found,) or (found and not 0 <= people.crops.min() <= people.crops.max() < count):
            raise BundleError(f"The golden tensor 'people.crops' names no crop of {count}.", hint=_AGAIN)
    _fits("image", image.pixels, "uint8", (*image.pixels.shape[:2], 3))
    _fits("image.crop", image.crop, "uint8", planes)
    marks = points or CORNERS
    _fits("image.keypoints", image.keypoints, "float32", (marks, 2))
    _fits("image.scores", image.scores, "float32", (marks,))
    rows, columns = image.pixels.shape[:2]
    x0, y0, x1, y1 = image.box.tolist()[:4]
    if image.box.size > 4 and model.input.turn is None:
        raise BundleError("The box of the golden image has an angle; the model turns no crops.", hint=_AGAIN)
    if not (max(x0, 0) < min(x1, columns) and max(y0, 0) < min(y1, rows) and max(x1 - x0, y1 - y0) < _LONGEST_BOX_PX):
        raise BundleError(f"The box of the golden image lies outside its {columns} x {rows} pixels.", hint=_AGAIN)
    for role, values in golden.outputs.items():
        if values.dtype != np.float32:
            raise BundleError(f"The golden tensor '{_OUTPUT}{role}' is {values.dtype}, not float32.", hint=_AGAIN)
    try:
        shapes = {role: values.shape for role, values in golden.outputs.items()}
        check_shapes(shapes, model, crops=count, error=BundleError)
    except BundleError as err:
        raise BundleError(f"The golden file does not fit the model: {err.message}", hint=_AGAIN) from err


def _fits(
    name: str, values: NDArray[Any], dtype: str, shape: tuple[int, ...], *, may_hold_nothing: bool = False
) -> None:
    nothing = 0 in values.shape[1:] and not may_hold_nothing
    if values.dtype.name != dtype or values.shape != shape or nothing:
        raise BundleError(
            f"The golden tensor '{name}' is {values.dtype.name} {values.shape}; the model has {dtype} {shape}.",
            hint=_AGAIN,
        )


def _head(name: str, values: NDArray[Any]) -> FloatArray:
    if values.ndim != 2 or values.shape[1] != 1:
        raise BundleError(f"The golden tensor '{name}' is {values.shape}, not one number for each crop.", hint=_AGAIN)
    return values[:, 0]


def _nobody(tensor: Callable[[str], NDArray[Any]]) -> Nobody:
    name = f"{_NOBODY}presence"
    return Nobody(tensor(f"{_NOBODY}crops"), _head(name, tensor(name)))


def _people(tensor: Callable[[str], NDArray[Any]]) -> People:
    crops, boxes, scores = (tensor(_PEOPLE + name) for name in ("crops", "boxes", "scores"))
    if crops.ndim != 1:
        raise BundleError("The golden tensor 'people.crops' is no list of crops.", hint=_AGAIN)
    return People(crops.astype(np.intp), boxes, scores)
