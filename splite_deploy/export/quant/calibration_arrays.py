"""Calibration crops from an ``.npz`` archive, whose range, layout and channel order are not to be taken on trust."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import CalibrationError, UsageError
from splite_deploy.spec import Color, InputSpec

NAMES = ("crops", "images")
COLOR = "color"
# A float16 near 2 times a std of 64 is off by up to 0.06 grey levels; other scales miss whole levels by more than this.
_ROUNDING_LEVELS = 0.1
_DAMAGED = (OSError, ValueError, EOFError, KeyError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Arrays:
    """Crops of an archive.

    Attributes:
        pixels: (N, h, w, 3) uint8, channels in the order of the input spec, as far as the archive can be trusted.
        declared: Whether the archive names its channel order.
        note: What was done to them, for people; empty if nothing.
    """

    pixels: NDArray[np.uint8]
    declared: bool
    note: str


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Reads all arrays of an ``.npz``; nothing is ever unpickled.

    Raises:
        UsageError: The file is missing, damaged, no ``.npz``, or holds Python objects.
    """
    try:
        with path.open("rb") as stream:  # numpy leaves a file open that it opened and could not read
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise ValueError("it holds one bare array (.npy)")
            with loaded:
                return dict(loaded)
    except _DAMAGED as err:
        reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err) or type(err).__name__
        raise UsageError(
            f"{path} is no .npz archive that can be read: {reason}.",
            hint="Write it with numpy.savez(path, crops=crops, color='rgb'), crops being uint8.",
        ) from err


def read_crops(path: Path, count: int, spec: InputSpec) -> Arrays:
    """At most ``count`` crops of an archive, evenly picked.

    The archive holds (N, h, w, 3) or (N, 3, h, w) of the network's input size as ``crops``, ``images`` or the only
    array, and, optionally, ``color`` (``rgb`` or ``bgr``). uint8 is 0-255 pixels. A floating type is the network's
    input as it is, so it is taken only where it is exactly what the spec's mean and std make of 8-bit pixels.

    Raises:
        UsageError: The archive cannot be read, or has another content.
        CalibrationError: The pixels have another range than the spec says.
    """
    stored = read_npz(path)
    color = _color(path, stored.pop(COLOR, None))
    name, array = _only_array(path, stored)
    what = f"'{name}' of {path.name}"
    array = _channels_last(what, array, spec)
    picked = array[evenly(len(array), count)]
    if picked.dtype == np.uint8:
        pixels, swap = _bytes_in_range(what, picked), color not in (None, spec.color)
    else:
        if color not in (None, spec.color):
            raise UsageError(
                f"{what} is normalised, but in the order {color}; the network's input is {spec.color}.",
                hint="Save uint8 crops, which are put in order and normalised here.",
            )
        pixels, swap = _denormalised(what, picked, spec), False
    if swap:
        pixels = np.ascontiguousarray(pixels[..., ::-1])
    return Arrays(pixels, color is not None, f"converted from {color} to {spec.color}" if swap else "")


def evenly(total: int, count: int) -> NDArray[np.int64]:
    """Indices of at most ``count`` of ``total`` items, spread over all: sets are often sorted by class."""
    return np.linspace(0, total - 1, min(total, count)).round().astype(np.int64)


def _color(path: Path, stored: NDArray[Any] | None) -> Color | None:
    if stored is None:
        return None
    text = stored.item() if stored.size == 1 else stored.tolist()
    text = text.decode("latin-1") if isinstance(text, bytes) else text
    colors: tuple[Color, ...] = get_args(Color)
    for color in colors:
        if isinstance(text, str) and text.lower() == color:
            return color
    raise UsageError(
        f"{COLOR} of {path.name} is {text!r}.", hint=f"Save {COLOR}='rgb' or {COLOR}='bgr' beside the crops."
    )


def _only_array(path: Path, stored: dict[str, NDArray[Any]]) -> tuple[str, NDArray[Any]]:
    named = [name for name in NAMES if name in stored] or list(stored)
    if len(named) == 1:
        return named[0], stored[named[0]]
    held = ", ".join(f"{name} {array.shape}" for name, array in stored.items()) or "nothing"
    raise UsageError(
        f"{path} does not tell which array holds the crops; it holds {held}.",
        hint=f"Name one of them '{NAMES[0]}'.",
    )


def _channels_last(what: str, array: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise UsageError(f"{what} is of type {array.dtype}.", hint="Save it as uint8, 0-255.")
    if array.shape[1:] == (spec.height, spec.width, 3):
        return array
    if array.shape[1:] == (3, spec.height, spec.width):
        return array.transpose(0, 2, 3, 1)
    raise UsageError(
        f"{what} has shape {array.shape}; the network sees (N, {spec.height}, {spec.width}, 3).",
        hint="Give a folder of images or a labels.json instead: they are cropped here as the runtime does it.",
    )


def _bytes_in_range(what: str, pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.size and pixels.max() == 1:  # where it is 0 the crops are black, which another rule says
        raise CalibrationError(
            f"{what} holds uint8 from {pixels.min()} to 1, not 0 to 255: images on the 0-1 scale lost their detail.",
            hint="Multiply by 255 before the conversion to uint8.",
        )
    return np.ascontiguousarray(pixels)


def _denormalised(what: str, values: NDArray[Any], spec: InputSpec) -> NDArray[np.uint8]:
    """The pixels that the spec's mean and std made ``values`` of."""
    levels = values.astype(np.float64) * spec.std + spec.mean
    nearest = levels.round().clip(0, 255)
    if levels.size and not np.abs(levels - nearest).max() <= _ROUNDING_LEVELS:  # NaN is no pixel either
        _refuse_range(what, values, spec)
    return nearest.astype(np.uint8)


def _refuse_range(what: str, values: NDArray[Any], spec: InputSpec) -> NoReturn:
    low, high = float(values.min()), float(values.max())
    ends = (np.array([[0.0], [255.0]]) - spec.mean) / spec.std
    hint = "Save uint8 crops, 0-255, which are normalised here."
    if low >= 0 and high <= 1:
        hint = "That looks like the 0-1 scale: save numpy.round(crops * 255).astype(numpy.uint8)."
    elif low >= 0 and high <= 255:
        hint = "That looks like the 0-255 scale: save numpy.round(crops).astype(numpy.uint8)."
    raise CalibrationError(
        f"{what} holds {values.dtype} from {low:.4g} to {high:.4g}, which is not what the input spec makes of 8-bit "
        f"pixels: {ends.min():.4g} to {ends.max():.4g} in steps of {1 / max(spec.std):.3g}.",
        hint=hint,
    )
