"""Input crops: the user's images, or those of the model's own renderer where none are given."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import OutputError, SpecError, UsageError
from splite_deploy.export.source.symbol import load_symbol
from splite_deploy.files import cache_folder, is_file, is_folder, is_pattern, sha256_of, write_file
from splite_deploy.metrics.labels import BoxedImage, check_images, prefer_split, read_boxes
from splite_deploy.metrics.turned_boxes import Turn
from splite_deploy.runtime.crops import Boxed, Crops, Example, crops_from_images, crops_of, cut, no_images, read_boxed
from splite_deploy.runtime.io.images import boxed_images, folder_name, whole_images
from splite_deploy.runtime.io.npz import read_npz
from splite_deploy.spec import HostSpec, InputSpec
from splite_deploy.spec.plain import to_plain

File = tuple[Path, NDArray[np.float64] | None]

GOLDEN_CROPS = 8
"""A bundle keeps so many crops at most, unless told otherwise."""
_SEED = 0  # the calibration renders with another: what is calibrated on is not what is compared
HELD_OUT = 4
"""One image in so many is compared on and not calibrated on, where the source is not divided already."""


def make_crops(
    images: Path | None,
    count: int,
    spec: InputSpec,
    host: HostSpec,
    *,
    calibration: Path | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Crops:
    """At most ``count`` crops to compare conversions on.

    Args:
        images: Folder of images or labels file.
        count: How many.
        spec: The input.
        host: Names the renderer, which is used where there are no images.
        calibration: What is calibrated on. Without ``images`` the rest of that source is taken, see `divide`: int8
            that saw photographs says little about what was rendered.
        progress: Called where images have to be rendered.

    Raises:
        UsageError: See `crops_from_images` and `crops_from_renderer`.
        SpecError: See `crops_from_renderer`.
    """
    if images is not None:
        return crops_from_images(images, count, spec)
    if calibration is not None and calibration.suffix != ".npz":
        _, rest, part = divide(calibration, spec.turn)
        rest = whole_images(rest) if spec.letterbox else rest
        if rest:
            picked = [rest[i] for i in evenly(len(rest), count)]
            name = folder_name(calibration)
            return crops_of(read_boxed(picked), "bgr", spec, f"{len(picked)} images of {name}, {part}")
    return crops_from_renderer(host, count, spec, cache=cache_folder(), progress=progress)


def divide(source: Path, turn: Turn | None = None, option: str = "--calibration") -> tuple[list[File], list[File], str]:
    """Images to calibrate on, the rest to compare on, and what the rest is in words.

    A labels file that has the splits ``train`` and ``val`` is divided so; of any other source every `HELD_OUT`-th
    image is the rest, and none of a source of fewer than twice that.

    Args:
        source: A folder of images or labels.
        turn: For a network whose crops are turned; see `boxed_images`.
        option: Of the command line, that names the source.

    Raises:
        UsageError: There are no images, or the labels are malformed.
    """
    check_source(source, option)
    if source.suffix == ".json" or is_file(source / "labels.json"):
        samples, has_train = prefer_split(read_boxes, source, "train")
        compared, has_val = prefer_split(read_boxes, source, "val")
        check_images((one.path for one in (*samples, *compared)), source)
        if has_train and has_val:
            return _files(samples, turn), _files(compared, turn), "split 'val'"
        files = _files(samples, turn)
    else:
        files, _ = boxed_images(source, option=option)
    images = list(dict.fromkeys(file for file, _ in files))
    if len(images) < 2 * HELD_OUT:
        return files, [], ""
    spare = set(images[HELD_OUT - 1 :: HELD_OUT])  # an image with all its boxes
    return [one for one in files if one[0] not in spare], [one for one in files if one[0] in spare], "held out"


def check_source(path: Path, option: str = "--calibration") -> None:
    """Raises `UsageError` unless this is a folder, a pattern of images, or a JSON file by its name."""
    if not (path.suffix == ".json" or is_folder(path) or is_pattern(path)):
        raise UsageError(
            f"{path} is not a folder of images, a labels.json or an .npz.",
            hint=f"Name one, for example with {option}.",
        )


def _files(samples: list[BoxedImage], turn: Turn | None) -> list[File]:
    return [(sample.path, sample.placed(turn)) for sample in samples]


def crops_from_renderer(
    host: HostSpec,
    count: int,
    spec: InputSpec,
    *,
    cache: Path | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Crops:
    """Crops of the images that ``samples`` of model.toml yields.

    Args:
        host: Names the renderer.
        count: How many.
        spec: The input.
        cache: See `Renderer`.
        progress: See `Renderer`.

    Raises:
        UsageError: The model has no ``samples``, or it yields nothing.
        SpecError: It cannot be imported, or fails.
    """
    if not host.samples:
        raise UsageError(
            "There are no images on which to compare the conversions.",
            hint="Give some with --images DIR, or name a generator as samples in model.toml.",
        )
    origin = f"{count} synthetic images of {host.samples.partition(':')[0]}"
    pixels = Renderer(host, spec, _SEED, "comparison", cache, progress).crops(count)
    for image, box in rendered(host, 1, seed=_SEED):
        return Crops(pixels, origin, Example(image, "rgb", box))
    raise no_images()


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
    except (Exception, SystemExit) as err:  # the user's file can raise anything
        raise SpecError(
            f"{host.samples} fails: {type(err).__name__}: {err}",
            hint="It takes (count, seed) and yields pairs of an RGB image and an xyxy box.",
        ) from err


@dataclass(frozen=True)
class Renderer:
    """The crops of the model's own renderer, with a cache: a hundred hands take some seconds.

    Attributes:
        host: Names the renderer.
        spec: The input.
        seed: What the renderer begins with.
        purpose: What the images are for, as text.
        cache: Folder of rendered crops, see `splite_deploy.files.cache_folder`; None keeps none.
        progress: Called where images have to be rendered.
    """

    host: HostSpec
    spec: InputSpec
    seed: int
    purpose: str
    cache: Path | None
    progress: Callable[[str], None]

    @property
    def name(self) -> str:
        """The file of the renderer; empty if the model has none."""
        return self.host.samples.partition(":")[0]

    def crops(self, count: int) -> NDArray[np.uint8]:
        """(count, h, w, C), fewer where the renderer ends early.

        Raises:
            SpecError: See `rendered`.
        """
        file = None if self.cache is None else self.cache / f"rendered-{self._key(count)}.npz"
        stored = None if file is None else _stored(file, (count, self.spec.height, self.spec.width, self.spec.channels))
        if stored is not None:
            return stored
        self.progress(f"rendering {count} images for the {self.purpose}")
        pixels = cut(rendered(self.host, count, seed=self.seed), "rgb", self.spec)
        if file is not None:
            with suppress(OSError, OutputError):  # a cache that cannot be written costs time, not the export
                _store(file, pixels)
        return pixels

    def _key(self, count: int) -> str:
        """Of everything that the pictures depend on: the Python files of its folder, since one imports another."""
        requested: dict[str, Any] = {"samples": self.host.samples, "count": count, "seed": self.seed}
        made_by = {"numpy": np.__version__, "opencv": cv2.__version__, "input": to_plain(self.spec)}
        folder = (self.host.folder / self.name).parent
        sources = {file.name: sha256_of(file) for file in sorted(folder.glob("*.py")) if is_file(file)}
        return hashlib.sha256(json.dumps([requested, made_by, sources]).encode()).hexdigest()


def _stored(file: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The pixels of a cache file; None if it is missing or damaged (every member of an .npz has a checksum)."""
    with suppress(UsageError):
        pixels = read_npz(file).get("pixels")
        if pixels is not None and pixels.shape == shape and pixels.dtype == np.uint8:
            return pixels
    return None


def _store(file: Path, pixels: NDArray[np.uint8]) -> None:
    """Writes a cache file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    archive = io.BytesIO()
    np.savez(archive, pixels=pixels)
    write_file(file, archive.getvalue())
