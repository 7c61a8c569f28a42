"""Image files in and out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import OutputError, UsageError
from splite_deploy.files import write_file
from splite_deploy.metrics.labels import prefer_split, read_boxes
from splite_deploy.runtime.preprocess import AnyImage, Image, check_image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def read_image(path: Path) -> Image:
    """Reads an image file as (H, W, 3) uint8 BGR.

    Raises:
        UsageError: The file is missing or is no image that OpenCV can read.
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as err:
        raise UsageError(f"Cannot read {path}: {err.strerror}.", hint="Name an image file.") from err
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise UsageError(f"{path} is not an image that can be read.", hint="Use a JPEG, PNG, BMP, WebP or TIFF file.")
    return image  # type: ignore[return-value]


def write_image(path: Path, image: AnyImage) -> None:
    """Writes an (H, W, 3) uint8 BGR image in the format of the file's suffix.

    Raises:
        UsageError: The suffix names no format, or this is no such image.
        OutputError: The file cannot be written.
    """
    image = check_image(image)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UsageError(f"{path} has no image suffix.", hint=f"Use one of {', '.join(IMAGE_SUFFIXES)}.")
    done, data = cv2.imencode(path.suffix, image)
    if not done:
        raise OutputError(f"Cannot encode {path}.", hint="Save it as .png.")
    write_file(path, data.tobytes())


def boxed_images(
    path: Path,
    count: int | None = None,
    *,
    split: str | None = None,
    option: str = "--images",
    whole: bool = False,
) -> tuple[list[tuple[Path, NDArray[np.float64] | None]], str]:
    """Image files with their boxes: of a labels file its boxes, of a folder each image whole.

    Args:
        path: A folder of images, a ``labels.json``, or a folder that holds one.
        count: At most so many, picked evenly over the whole list, which is often sorted by class.
        split: Split of the labels that is taken alone where they have it.
        option: What the command line calls the path.
        whole: Whether images are whole, each once, for a network that finds people in them itself.

    Returns:
        (file, xyxy box or None) of each image, and where they come from, as text.

    Raises:
        UsageError: There are no images.
    """
    items: list[tuple[Path, NDArray[np.float64] | None]]
    part = ""
    if path.suffix == ".json" or (is_folder(path) and (path / "labels.json").is_file()):
        samples, alone = (read_boxes(path), False) if split is None else prefer_split(read_boxes, path, split)
        items, kind = [(item.path, item.box) for item in samples], "labelled images"
        part = f", split '{split}'" if alone else ""
    elif is_folder(path):
        items, kind = [(file, None) for file in image_files(path)], "images"
    else:
        raise UsageError(f"{path} is neither a folder of images nor a labels.json.", hint=f"Name one with {option}.")
    if whole:
        items = whole_images(items)
    if count is not None and count < len(items):
        items = [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]
    return items, f"{len(items)} {kind} of {folder_name(path)}{part}"


def whole_images(items: Iterable[tuple[Path, object]]) -> list[tuple[Path, NDArray[np.float64] | None]]:
    """The image files of such a list, each once and without a box."""
    return [(file, None) for file in dict.fromkeys(file for file, _ in items)]


def folder_name(path: Path) -> str:
    """What the folder of a labels file, or a folder itself, is called, whatever it is reached from."""
    return (path.parent if path.suffix == ".json" else path).resolve().name


def is_folder(path: Path) -> bool:
    """Whether this is a folder; a name that the operating system refuses, for example as too long, is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def image_files(folder: Path) -> list[Path]:
    """The image files directly in a folder, by name.

    Raises:
        UsageError: There is none.
    """
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    except OSError as err:
        raise UsageError(f"Cannot read {folder}: {err.strerror}.", hint="Check the permissions of the folder.") from err
    if not files:
        raise UsageError(f"{folder} holds no image.", hint=f"Images end in {', '.join(IMAGE_SUFFIXES)}.")
    return files
