"""The golden file: inputs and what the original network made of them, raw tensors that any language reads.

Little-endian, C order, one tensor after the other, each at a multiple of 16 bytes; the manifest says which lies where.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.bundle.manifest import GoldenFile, GoldenTensor, ImageFacts
from splite_deploy.decoders import Decoded, People
from splite_deploy.errors import BundleError
from splite_deploy.spec import Color

GOLDEN = "golden.bin"
ALIGNMENT = 16
_OUTPUT = "output."
_PEOPLE = "people."


@dataclass(frozen=True)
class GoldenImage:
    """An image with a box, and what the reference made of it.

    Attributes:
        pixels: (H, W, 3) uint8; tensor ``image``.
        color: Channel order of ``pixels``.
        box: (4,) float64 x0, y0, x1, y1 in pixels of the image.
        crop: (h, w, C) uint8, as the machine that exported cut it, channels in the order of the input spec; tensor
            ``image.crop``.
        keypoints: (K, 2) float32 of the reference on that crop, in pixels of the image; tensor ``image.keypoints``.
        scores: (K,) float32; tensor ``image.scores``.
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
class Golden:
    """Reference inputs and outputs of N crops.

    Attributes:
        crops: (N, h, w, C) uint8, channels in the order of the input spec; tensor ``crops``.
        outputs: fp32 outputs of the original network by role, N first; tensors ``output.ROLE``.
        decoded: What they decode to, in pixels of the crop; tensors ``keypoints``, ``scores`` and, where there is one,
            ``depth``; of several people also ``people.crops``, ``people.boxes`` and ``people.scores``.
        image: An image for the comparison of preprocessing.
        reference: What computed the outputs: ``torch``, or ``onnx`` or ``tflite`` where a file was the source.
    """

    crops: NDArray[np.uint8]
    outputs: Mapping[str, FloatArray]
    decoded: Decoded
    image: GoldenImage
    reference: str = "torch"


def write_golden(path: Path, golden: Golden) -> GoldenFile:
    """Writes the golden file, and says what the manifest has to say of it."""
    people = golden.decoded.people
    found = {} if people is None else {"crops": people.crops, "boxes": people.boxes, "scores": people.scores}
    tensors: dict[str, NDArray[Any]] = {
        "crops": golden.crops,
        **{_OUTPUT + role: values for role, values in golden.outputs.items()},
        **golden.decoded.by_role(),
        **{_PEOPLE + name: values.astype(np.float32) for name, values in found.items()},
        "image": golden.image.pixels,
        "image.crop": golden.image.crop,
        "image.keypoints": golden.image.keypoints,
        "image.scores": golden.image.scores,
    }
    x0, y0, x1, y1 = golden.image.box.tolist()
    facts = ImageFacts(golden.image.color, (x0, y0, x1, y1), golden.image.opencv)
    content, described = bytearray(), {}
    for name, values in tensors.items():
        content += bytes(-len(content) % ALIGNMENT)
        exact = np.dtype(values.dtype).newbyteorder("<")
        described[name] = GoldenTensor(values.dtype.name, values.shape, len(content))  # type: ignore[arg-type]
        content += values.astype(exact, order="C", copy=False).tobytes()
    path.write_bytes(content)
    return GoldenFile(path.name, hashlib.sha256(content).hexdigest(), golden.reference, described, facts)


def read_golden(content: bytes, file: GoldenFile) -> Golden:
    """Takes the golden file apart.

    Args:
        content: Its bytes.
        file: What the manifest says of it.

    Raises:
        BundleError: A tensor is missing, or lies outside the file.
    """

    def tensor(name: str) -> NDArray[Any]:
        if name not in file.tensors:
            raise BundleError(f"The golden file has no tensor '{name}'.", hint="Export the bundle again.")
        at = file.tensors[name]
        dtype = np.dtype(at.dtype).newbyteorder("<")
        count = int(np.prod(at.shape, dtype=np.int64))
        if min((*at.shape, at.offset)) < 0 or at.offset + count * dtype.itemsize > len(content):
            raise BundleError(f"The golden tensor '{name}' lies outside its file.", hint="Export the bundle again.")
        return np.frombuffer(content, dtype, count, at.offset).reshape(at.shape)

    return Golden(
        crops=tensor("crops"),
        outputs={name.removeprefix(_OUTPUT): tensor(name) for name in file.tensors if name.startswith(_OUTPUT)},
        decoded=Decoded(
            keypoints=tensor("keypoints"),
            scores=tensor("scores"),
            depth=tensor("depth") if "depth" in file.tensors else None,
            people=None if f"{_PEOPLE}crops" not in file.tensors else _people(tensor),
        ),
        image=GoldenImage(
            pixels=tensor("image"),
            color=file.image.color,
            box=np.array(file.image.box),
            crop=tensor("image.crop"),
            keypoints=tensor("image.keypoints"),
            scores=tensor("image.scores"),
            opencv=file.image.opencv,
        ),
        reference=file.reference,
    )


def _people(tensor: Callable[[str], NDArray[Any]]) -> People:
    crops, boxes, scores = (tensor(_PEOPLE + name) for name in ("crops", "boxes", "scores"))
    return People(crops.astype(np.intp), boxes, scores)
