"""Crops as the runtime makes them, of the user's images: what conversions and kernels are compared on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import CalibrationError, UsageError
from splite_deploy.metrics.turned_boxes import corners_of
from splite_deploy.runtime.io.images import boxed_images, read_image
from splite_deploy.runtime.preprocess import (
    Image,
    Matrix,
    Preprocessor,
    check_box,
    check_image,
    invert,
    transform_points,
)
from splite_deploy.spec import Color, InputSpec

Boxed = tuple[Image, NDArray[np.floating[Any]] | None]
_GRIDS = (3, 7, 17, 41)
"""Cells along a side of the layers of a random picture, the coarsest first and strongest."""


@dataclass(frozen=True)
class Example:
    """An image that a crop was cut of.

    Attributes:
        image: (H, W, 3) uint8.
        color: Channel order of ``image``.
        box: (4,) xyxy in pixels of the image, or (5,) with an angle; None is the whole image.
    """

    image: Image
    color: Color
    box: NDArray[np.floating[Any]] | None


@dataclass(frozen=True)
class Crops:
    """Crops as the runtime makes them.

    Attributes:
        pixels: (N, h, w, C) uint8, channels in the order of the input spec.
        origin: Where they came from, as text.
        example: What the first one was cut of.
    """

    pixels: NDArray[np.uint8]
    origin: str
    example: Example


def crops_from_images(path: Path, count: int, spec: InputSpec) -> Crops:
    """Crops of a folder of images (each one whole), or of a labels file (by its boxes), evenly picked.

    Raises:
        UsageError: There are no images, or one of them cannot be read.
    """
    items, origin = boxed_images(path, count, whole=spec.letterbox is not None, turn=spec.turn)
    return crops_of(read_boxed(items), "bgr", spec, origin)


def crops_without_images(count: int, spec: InputSpec) -> Crops:
    """Crops of random pictures, where there are no photographs.

    They exercise every kernel of a network and show nothing that it was trained for: two runtimes can be compared on
    them, while two precisions differ on them by what nobody will see in use.

    Args:
        count: How many.
        spec: The input.
    """
    pictures = random_pictures(count, max(spec.height, spec.width))
    return crops_of(((picture, None) for picture in pictures), "bgr", spec, f"{count} random pictures")


def random_pictures(count: int, size: int) -> list[Image]:
    """Clouds of colours, always the same ones.

    Args:
        count: How many.
        size: Side in pixels.
    """
    rng, made = np.random.default_rng(0), []
    for _ in range(count):
        picture = np.zeros((size, size, 3), np.float32)
        for layer, cells in enumerate(_GRIDS):
            coarse = rng.normal(0, 70 / (layer + 1), (cells, cells, 3)).astype(np.float32)
            picture += cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
        made.append(np.clip(picture + 128, 0, 255).astype(np.uint8))
    return made


def read_boxed(files: Iterable[tuple[Path, NDArray[np.float64] | None]]) -> Iterator[Boxed]:
    """Image files with their boxes, read one by one as BGR."""
    return ((read_image(file), box) for file, box in files)


def cut(boxed: Iterable[Boxed], color: Color, spec: InputSpec) -> NDArray[np.uint8]:
    """Crops as the runtime makes them, (N, h, w, C); N may be 0.

    Args:
        boxed: Images with their boxes; None is the whole image, as is every box for a network that finds people itself.
        color: Channel order of the images.
        spec: The input.
    """
    preprocessor = Preprocessor(spec, color)
    crops = []
    for image, box in boxed:
        image = check_image(image)
        box = None if spec.letterbox else box
        crops.append(preprocessor.crop(image, check_box(box, image.shape[0], image.shape[1]))[0])
    return np.array(crops, np.uint8).reshape(-1, spec.height, spec.width, spec.channels)


def seen_part(matrix: Matrix, height: int, width: int, spec: InputSpec) -> tuple[slice, slice]:
    """Rows and columns of a crop that show the image and none of the padding around it, at least one of each.

    Args:
        matrix: (2, 3), image pixels to crop pixels, of `Preprocessor.crop`.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        spec: The input.
    """
    if spec.rotate_by is not None:
        return _seen_in_turned(matrix, height, width, spec)
    (left, top), (right, bottom) = transform_points(np.array([[0.0, 0.0], [width, height]]), matrix).tolist()
    return _inside(top, bottom, spec.height), _inside(left, right, spec.width)


def _seen_in_turned(matrix: Matrix, height: int, width: int, spec: InputSpec) -> tuple[slice, slice]:
    """The same of a crop that may be turned: the largest part about its middle, of its aspect, by hundredths."""
    size, back = np.array([spec.width, spec.height]), invert(matrix)
    for share in np.arange(100, 0, -1) / 100:
        low, high = size / 2 * (1 - share), size / 2 * (1 + share)
        corners = transform_points(corners_of(np.concatenate([low, high])), back)
        if (corners >= 0).all() and (corners <= (width, height)).all():
            break
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    return _inside(top, bottom, spec.height), _inside(left, right, spec.width)


def _inside(begin: float, end: float, size: int) -> slice:
    first = min(max(math.ceil(begin), 0), size - 1)
    return slice(first, max(min(math.floor(end), size), first + 1))


MOST_UNREADABLE = 0.1
"""Share of a set to calibrate on that may be unreadable: one picture of thousands does not lose a long run."""


class Unreadable:
    """Pictures of a set to calibrate on that cannot be read: few are left out and counted, many are an error.

    Args:
        total: How many there are in all.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._errors: list[UsageError] = []

    def add(self, err: UsageError) -> None:
        """Counts one.

        Raises:
            CalibrationError: They are more than `MOST_UNREADABLE` of all.
        """
        self._errors.append(err)
        if len(self._errors) > MOST_UNREADABLE * self._total:
            raise CalibrationError(
                f"More than {len(self._errors) - 1} of {self._total} calibration images cannot be read. "
                f"{self._errors[0].message}",
                hint=self._errors[0].hint,
            )

    def warnings(self) -> tuple[str, ...]:
        """What to say of them, if there are any."""
        if not self._errors:
            return ()
        first = self._errors[0].message.rstrip(".")
        return (f"{len(self._errors)} of {self._total} calibration images were left out: {first}",)


def crops_of(boxed: Iterator[Boxed], color: Color, spec: InputSpec, origin: str) -> Crops:
    """Crops of images.

    Args:
        boxed: Images with their boxes; None is the whole image.
        color: Channel order of the images.
        spec: The input.
        origin: Where they come from, as text.

    Raises:
        UsageError: There is none.
    """
    first = next(boxed, None)
    if first is None:
        raise no_images()
    image, box = first
    pixels = cut(chain([(image, box)], boxed), color, spec)
    return Crops(pixels, origin, Example(image, color, None if spec.letterbox else box))


def no_images() -> UsageError:
    """What to say where there are none."""
    return UsageError("There are no images on which to compare the conversions.", hint="Give some with --images DIR.")
