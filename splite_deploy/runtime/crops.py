"""Crops as the runtime makes them, of the user's images: what conversions and kernels are compared on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import UsageError
from splite_deploy.runtime.io.images import boxed_images, read_image
from splite_deploy.runtime.preprocess import Image, Preprocessor, check_box, check_image
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
        box: (4,) xyxy in pixels of the image; None is the whole image.
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
    items, origin = boxed_images(path, count, whole=spec.letterbox is not None)
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
