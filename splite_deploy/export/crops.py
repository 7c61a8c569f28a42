"""Input crops for parity: the user's images, or the model's own renderer where none are given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import SpecError, UsageError
from splite_deploy.export.source.checkpoint import load_symbol
from splite_deploy.metrics.labels import LabelledImage, prefer_split
from splite_deploy.runtime.io.images import boxed_images, is_folder, read_image
from splite_deploy.runtime.preprocess import Image, Preprocessor, check_box, check_image
from splite_deploy.spec import Color, HostSpec, InputSpec

Boxed = tuple[Image, NDArray[np.floating[Any]] | None]
File = tuple[Path, NDArray[np.float64] | None]

HELD_OUT = 4
"""One image in so many is compared on and not calibrated on, where the source is not divided already."""


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
        pixels: (N, h, w, 3) uint8, channels in the order of the input spec.
        origin: Where they came from, as text.
        example: What the first one was cut of.
    """

    pixels: NDArray[np.uint8]
    origin: str
    example: Example


def make_crops(
    images: Path | None, count: int, spec: InputSpec, host: HostSpec, *, calibration: Path | None = None
) -> Crops:
    """At most ``count`` crops to compare conversions on.

    Args:
        images: Folder of images or labels file.
        count: How many.
        spec: The input.
        host: Names the renderer, which is used where there are no images.
        calibration: What is calibrated on. Without ``images`` the rest of that source is taken, see `divide`: int8
            that saw photographs says little about what was rendered.

    Raises:
        UsageError: See `crops_from_images` and `crops_from_renderer`.
        SpecError: See `crops_from_renderer`.
    """
    if images is not None:
        return crops_from_images(images, count, spec)
    if calibration is not None and calibration.suffix != ".npz":
        _, rest, part = divide(calibration)
        if rest:
            picked = [rest[i] for i in evenly(len(rest), count)]
            name = calibration.parent.name if calibration.suffix == ".json" else calibration.name
            return _crops(_read(picked), "bgr", spec, f"{len(picked)} images of {name}, {part}")
    return crops_from_renderer(host, count, spec)


def divide(source: Path) -> tuple[list[File], list[File], str]:
    """Images to calibrate on, the rest to compare on, and what the rest is in words.

    A labels file that has the splits ``train`` and ``val`` is divided so; of any other source every `HELD_OUT`-th
    image is the rest, and none of a source of fewer than twice that.

    Raises:
        UsageError: There are no images, or the labels are malformed.
    """
    check_source(source)
    if source.suffix == ".json" or (source / "labels.json").is_file():
        samples, has_train = prefer_split(source, "train")
        compared, has_val = prefer_split(source, "val")
        if has_train and has_val:
            return _files(samples), _files(compared), "split 'val'"
        files = _files(samples)
    else:
        files, _ = boxed_images(source)
    if len(files) < 2 * HELD_OUT:
        return files, [], ""
    rest = files[HELD_OUT - 1 :: HELD_OUT]
    return [file for index, file in enumerate(files, 1) if index % HELD_OUT], rest, "held out"


def check_source(path: Path) -> None:
    """Raises `UsageError` unless this is a folder, or a JSON file by its name."""
    if not (path.suffix == ".json" or is_folder(path)):
        raise UsageError(
            f"{path} is not a folder of images, a labels.json or an .npz.",
            hint="Name one, for example with --calibration.",
        )


def _files(samples: list[LabelledImage]) -> list[File]:
    return [(sample.path, sample.box) for sample in samples]


def _read(files: Iterable[File]) -> Iterator[Boxed]:
    return ((read_image(file), box) for file, box in files)


def crops_from_images(path: Path, count: int, spec: InputSpec) -> Crops:
    """Crops of a folder of images (each one whole), or of a labels file (by its boxes), evenly picked.

    Raises:
        UsageError: There are no images, or one of them cannot be read.
    """
    items, origin = boxed_images(path, count)
    return _crops(_read(items), "bgr", spec, origin)


def crops_from_renderer(host: HostSpec, count: int, spec: InputSpec) -> Crops:
    """Crops of the images that ``samples`` of model.toml yields.

    Raises:
        UsageError: The model has no ``samples``.
        SpecError: It cannot be imported, or fails.
    """
    if not host.samples:
        raise UsageError(
            "There are no images on which to compare the conversions.",
            hint="Give some with --images DIR, or name a generator as samples in model.toml.",
        )
    origin = f"{count} synthetic images of {host.samples.partition(':')[0]}"
    return _crops(rendered(host, count, seed=0), "rgb", spec, origin)


def evenly(total: int, count: int) -> NDArray[np.int64]:
    """Indices of at most ``count`` of ``total`` items, spread over all: sets are often sorted by class."""
    return np.linspace(0, total - 1, min(total, count)).round().astype(np.int64)


def rendered(host: HostSpec, count: int, *, seed: int) -> Iterator[Boxed]:
    """The images that ``samples`` of model.toml yields, at most ``count``.

    Raises:
        SpecError: It cannot be imported, or fails.
    """
    samples = load_symbol(host.samples, host.folder)
    try:
        for image, box in islice(samples(count, seed), count):  # noqa: UP028 - what is no pair has to fail here
            yield image, box
    except Exception as err:  # the user's file can raise anything
        raise SpecError(
            f"{host.samples} fails: {type(err).__name__}: {err}",
            hint="It takes (count, seed) and yields pairs of an RGB image and an xyxy box.",
        ) from err


def cut(boxed: Iterable[Boxed], color: Color, spec: InputSpec) -> NDArray[np.uint8]:
    """Crops as the runtime makes them, (N, h, w, 3); N may be 0.

    Args:
        boxed: Images with their boxes; None is the whole image.
        color: Channel order of the images.
        spec: The input.
    """
    preprocessor = Preprocessor(spec, color)
    crops = []
    for image, box in boxed:
        image = check_image(image)
        crops.append(preprocessor.crop(image, check_box(box, image.shape[0], image.shape[1]))[0])
    return np.array(crops, np.uint8).reshape(-1, spec.height, spec.width, 3)


def _crops(boxed: Iterator[Boxed], color: Color, spec: InputSpec, origin: str) -> Crops:
    first = next(boxed, None)
    if first is None:
        raise UsageError(
            "There are no images on which to compare the conversions.", hint="Give some with --images DIR."
        )
    image, box = first
    pixels = cut(chain([(image, box)], boxed), color, spec)
    return Crops(pixels, origin, Example(image, color, box))
