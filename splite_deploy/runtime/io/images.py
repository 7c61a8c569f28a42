"""Image files in and out."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import InputError, OptionError, OutputError, UsageError, naming, reading_hint
from splite_deploy.files import is_file, is_folder, is_pattern, matched, write_file
from splite_deploy.metrics.labels import check_images, prefer_split, read_boxes
from splite_deploy.metrics.turned_boxes import Turn
from splite_deploy.runtime.io.container import camera_meant
from splite_deploy.runtime.io.native_log import quiet
from splite_deploy.runtime.io.native_output import own_output
from splite_deploy.runtime.io.notes import note
from splite_deploy.runtime.io.picture_header import Header, begins_as, read_header
from splite_deploy.runtime.preprocess import AnyImage, Image, check_image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


MOST_PIXELS = 1 << 28
"""Of a picture that is decoded: 268 million, 800 MB. A file of some hundred bytes may state many more."""

_MOST_BYTES = 1 << 31
_TWELVE_BITS = 4095
_TURNS: dict[int, tuple[int | None, int | None]] = {
    1: (None, None),
    2: (None, 1),
    3: (cv2.ROTATE_180, None),
    4: (None, 0),
    5: (cv2.ROTATE_90_CLOCKWISE, 1),
    6: (cv2.ROTATE_90_CLOCKWISE, None),
    7: (cv2.ROTATE_90_CLOCKWISE, 0),
    8: (cv2.ROTATE_90_COUNTERCLOCKWISE, None),
}
"""By EXIF's orientation: how to turn a picture, and what to mirror then, as `cv2.rotate` and `cv2.flip` name it."""

_DAMAGED = re.compile(r"[Cc]orrupt (JPEG )?data(?!: \d extraneous)|[Pp]remature end|Invalid SOS|bad Huffman")
"""What the decoders of JPEG say of a picture that they fill up; some cameras write a few bytes too many, harmlessly."""

DAMAGED = "damaged pictures, of which parts may be wrong"
"""The note on a picture that its decoder has filled up."""
_FORMATS = "Use a JPEG, PNG, BMP, WebP or TIFF file."


def read_image(path: Path) -> Image:
    """Reads an image file as (H, W, 3) uint8 BGR, upright, the same under every OpenCV.

    * It is turned as its EXIF orientation says (JPEG, PNG, WebP, TIFF).
    * Of 16 bits a sample the upper 8 are taken. Where no sample is above 4095 they are 12 bits, as industrial and
      depth cameras write them, and bits 4 to 11 are taken; or as many as the file says are in use (PNG's ``sBIT``,
      TIFF's ``MaxSampleValue``). A note tells of it.
    * Grey and palettes become colours; transparency is left out, and the colours below it are seen.
    * Of several pages, or an animated PNG, the first is taken, with a note; animated WebP and GIF are refused.

    Raises:
        UsageError: The file is missing, is no file, is no image that can be read, is cut, or has more than
            `MOST_PIXELS`.
    """
    data = _bytes_of(path)
    header = read_header(data)
    if header is None:
        raise _broken(path, begins_as(data))
    if header.height * header.width > MOST_PIXELS:
        raise InputError(
            f"{path} states {header.width} x {header.height} pixels; at most {MOST_PIXELS:,} are read.",
            hint="Make it smaller, or cut out what the network shall see.",
        )
    if not header.whole:
        raise InputError(f"{path} is cut: its end is missing.", hint="Copy it again from where it was taken.")
    if header.floating or header.bits > 16:
        kind = "floating-point" if header.floating else f"{header.bits}-bit"
        raise InputError(f"{path} has {kind} samples.", hint="Save it with 8 or 16 bits.")
    if header.pictures > 1 and header.format == "WebP":
        raise InputError(f"{path} is animated.", hint="Save the picture that you mean, or make a video (.mp4) of it.")
    image = _decoded(path, data, header)
    if header.pictures > 1:
        note("several pictures in a file: only the first was read", path)
    turn, mirror = _TURNS[header.turn if header.format != "TIFF" else 1]
    if turn is not None:
        image = cv2.rotate(image, turn)  # type: ignore[assignment]
    return image if mirror is None else cv2.flip(image, mirror)  # type: ignore[return-value]


def _broken(path: Path, form: str) -> InputError:
    """What is said of a file that cannot be decoded.

    Args:
        path: The file.
        form: The format that it begins as; empty where it is none.
    """
    if not form:
        return InputError(f"{path} is not an image that can be read.", hint=_FORMATS)
    return InputError(
        f"{path} is a {form} file that is cut or damaged.", hint=f"Copy it again from where it was taken. {_FORMATS}"
    )


def _bytes_of(path: Path) -> bytes:
    """The content of a regular file: a pipe would be waited for, and a device has no end."""
    try:
        with open(path, "rb", opener=_without_waiting) as stream:
            state = os.fstat(stream.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise InputError(f"{path} is no file.", hint=camera_meant(path) or "Name an image file.")
            if state.st_size > _MOST_BYTES:
                raise InputError(f"{path} is larger than 2 GiB.", hint="Make it smaller.")
            return stream.read(min(state.st_size + 1, _MOST_BYTES))  # room is made for as much as is asked for
    except OSError as err:
        hint = camera_meant(path) or "Name an image file."
        raise InputError(f"Cannot read {path}: {err.strerror or err}.", hint=reading_hint(err, hint)) from err
    except ValueError as err:  # of a name with a NUL
        raise InputError(f"Cannot read {path}: {err}.", hint="Name an image file.") from err


def _without_waiting(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def _decoded(path: Path, data: bytes, header: Header) -> Image:
    """(H, W, 3) uint8, not turned unless it is a TIFF, which OpenCV turns with either flag."""
    flags = cv2.IMREAD_COLOR if header.format == "TIFF" else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    if header.bits == 16:
        flags |= cv2.IMREAD_ANYDEPTH
    image: AnyImage = None
    with own_output() as said:
        with suppress(cv2.error, MemoryError), quiet():
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        damaged = any(_DAMAGED.search(line) for line in said.lines())
    if image is not None and damaged:
        note(DAMAGED, path)
    if image is None:
        raise _broken(path, header.format)
    if image.dtype == np.uint16:
        bits, largest = 16, int(image.max())
        if header.significant_bits is not None and 8 <= header.significant_bits < 16:
            bits = header.significant_bits if largest < 1 << header.significant_bits else 16
        elif largest <= _TWELVE_BITS:
            bits = 12
        if bits != 16:
            note(f"16 bits a sample, of which only {bits} are in use: read as pictures of {bits} bits", path)
        image = (image >> (bits - 8)).astype(np.uint8)
    with naming(path):
        return check_image(image)


def write_image(path: Path, image: AnyImage) -> None:
    """Writes an (H, W, 3) uint8 BGR image in the format of the file's suffix.

    Raises:
        UsageError: The suffix names no format, or this is no such image.
        OutputError: The file cannot be written.
    """
    write_file(path, encode_image(path, image))


def encode_image(path: Path, image: AnyImage) -> bytes:
    """What a file of this name would hold.

    Raises:
        UsageError: The suffix names no format, or this is no (H, W, 3) uint8 image.
        OutputError: The format cannot hold it.
    """
    image = check_image(image)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise OptionError(f"{path} has no image suffix.", hint=f"Use one of {', '.join(IMAGE_SUFFIXES)}.")
    try:
        with quiet():
            done, data = cv2.imencode(path.suffix, image)
    except cv2.error:  # for example of more than 16,383 pixels a side, which WebP cannot hold
        done = False
    if not done:
        raise OutputError(f"Cannot encode {path}.", hint="Save it as .png.")
    return data.tobytes()


def boxed_images(
    path: Path,
    count: int | None = None,
    *,
    split: str | None = None,
    option: str = "--images",
    whole: bool = False,
    turn: Turn | None = None,
) -> tuple[list[tuple[Path, NDArray[np.float64] | None]], str]:
    """Image files with their boxes: of a labels file its boxes, of a folder each image whole.

    Args:
        path: A folder of images, a pattern such as ``photos/*.jpg``, a ``labels.json``, or a folder that holds one.
        count: At most so many, picked evenly over the whole list, which is often sorted by class.
        split: Split of the labels that is taken alone where they have it.
        option: What the command line calls the path.
        whole: Whether images are whole, each once, for a network that finds people in them itself.
        turn: For a network whose crops are turned: which keypoints of the labels tell the angle of a box.

    Returns:
        (file, xyxy box or None) of each image, and where they come from, as text. Where crops are turned a box of
        labels is (5,), with its angle.

    Raises:
        UsageError: There are no images.
    """
    items: list[tuple[Path, NDArray[np.float64] | None]]
    part = ""
    if path.suffix == ".json" or (is_folder(path) and is_file(path / "labels.json")):
        samples, alone = (read_boxes(path), False) if split is None else prefer_split(read_boxes, path, split)
        items, kind = [(item.path, item.placed(turn)) for item in samples], "labelled images"
        part = f", split '{split}'" if alone else ""
        check_images((file for file, _ in items), path)
    elif is_folder(path) or is_pattern(path):
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


def _is_shown(file: Path) -> bool:
    """Whether a file of a folder is a picture by its name: hidden ones, such as macOS's ``._a.jpg``, are none."""
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and not is_folder(file)


def _elsewhere(folder: Path) -> str:
    """Where images may be, of a folder that holds none itself."""
    ends = f"Images end in {', '.join(IMAGE_SUFFIXES)}."
    if is_file(folder / "labels.json"):
        return f"Name the labels in it: {folder / 'labels.json'}. {ends}"
    inside = next((one for one in sorted(folder.iterdir()) if is_folder(one) and not one.name.startswith(".")), None)
    return ends if inside is None else f"Folders in it are not searched: name one of them, for example {inside}. {ends}"


def named_images(paths: Iterable[Path]) -> list[Path]:
    """The images that paths name, each once: those of folders and patterns, see `image_files`, and files as they are.

    Raises:
        UsageError: A folder holds no image, or a pattern matches none.
    """
    found: dict[Path, None] = {}
    for path in paths:
        found |= dict.fromkeys(image_files(path) if is_folder(path) or is_pattern(path) else [path])
    return list(found)


def image_files(folder: Path) -> list[Path]:
    """The image files directly in a folder, or those that a pattern matches, by name; hidden files are passed over.

    Args:
        folder: The folder, or a pattern such as ``photos/*.jpg``.

    Raises:
        UsageError: There is none.
    """
    if is_pattern(folder):
        found = [file for file in matched(folder) if _is_shown(file)]
        if not found:
            raise UsageError(f"No image matches {folder}.", hint=f"Images end in {', '.join(IMAGE_SUFFIXES)}.")
        return found
    try:
        files = sorted(file for file in folder.iterdir() if _is_shown(file))
    except OSError as err:
        raise UsageError(f"Cannot read {folder}: {err.strerror}.", hint="Check the permissions of the folder.") from err
    if not files:
        raise UsageError(f"{folder} holds no image.", hint=_elsewhere(folder))
    return files
