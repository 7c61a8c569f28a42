"""The images that INT8 quantisation measures the ranges of activations on: where they come from, and that they are fit.

Nothing is chosen silently: `CalibrationSet.origin` and its warnings say what was selected, and what `calibration_lint`
finds wrong is an error. Of an ``.npz`` archive neither range nor layout nor channel order is taken on trust.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import CalibrationError, SpecError, UsageError, naming
from splite_deploy.export.crops import File, Renderer, check_source, divide, evenly
from splite_deploy.export.quant import calibration_lint as lint
from splite_deploy.files import is_file, is_folder, is_pattern, sha256_of
from splite_deploy.metrics.labels import check_images, prefer_split, read_boxes
from splite_deploy.runtime.crops import Unreadable, seen_part
from splite_deploy.runtime.io.images import boxed_images, folder_name, read_image, whole_images
from splite_deploy.runtime.io.npz import read_npz
from splite_deploy.runtime.preprocess import Preprocessor, check_box
from splite_deploy.spec import HostSpec, InputColor, InputSpec, ModelSpec

Pixels = NDArray[np.uint8]
Progress = Callable[[str], None]
Kind = Literal["photographs", "crops", "rendered images", "random noise"]

SEED = 1  # parity renders with 0: what is calibrated on is not what is compared
_REFERENCE = 32


@dataclass(frozen=True)
class CalibrationSet:
    """Crops to calibrate on, checked.

    Attributes:
        pixels: (N, h, w, C) uint8 crops of the network's input size, channels in the order of the input spec.
        kind: What they show; of an archive's ``crops`` nothing more is known.
        origin: Where they come from, for people.
        sha256: Hex key of what the network sees: the pixels, their order, and the normalisation.
        checked: What was checked about the set, as text.
        warnings: What is weak about it; empty if nothing.
    """

    pixels: Pixels
    kind: Kind
    origin: str
    sha256: str
    checked: tuple[str, ...]
    warnings: tuple[str, ...]

    def tensors(self, spec: InputSpec) -> NDArray[np.float32]:
        """(N, 3, h, w) float32, normalised by the code that the runtime uses."""
        return Preprocessor(spec, spec.color).normalise(self.pixels)


@dataclass(frozen=True)
class _Selected:
    """Crops of one source, unchecked; ``files`` and ``parts`` are one per crop, or empty where they are of no files."""

    pixels: Pixels
    kind: Kind
    origin: str
    warnings: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    parts: tuple[lint.Part, ...] = ()
    order_known: bool = True


def load_calibration(
    source: Path | None,
    spec: ModelSpec,
    host: HostSpec,
    *,
    count: int = 128,
    allow_random: bool = False,
    hold_out: bool = False,
    evaluation: Path | None = None,
    comparison: Path | None = None,
    scorer: lint.Scorer | None = None,
    cache: Path | None = None,
    progress: Progress = lambda message: None,
    option: str = "--calibration",
) -> CalibrationSet:
    """Takes the calibration images and checks them.

    Args:
        source: A folder of images (each one whole); a ``labels.json`` or its folder (by its boxes, of the split
            ``train`` if there is one); an ``.npz`` of crops (see `read_crops`); None is the model's
            own renderer.
        spec: The model.
        host: Names the renderer.
        count: At most so many, picked evenly.
        allow_random: Takes random noise where there is neither a source nor a renderer.
        hold_out: Leaves out what `splite_deploy.export.crops.divide` keeps for the comparison.
        evaluation: Folder or labels file of the evaluation; of its split ``val``, or of all of it where there is none,
            no image should be calibrated on.
        comparison: Folder or labels file that conversions are compared on, where accuracy is not measured.
        scorer: Runs the fp32 network, (N, C, h, w) to outputs by role; it tells the channel order of an archive that
            does not name it.
        cache: Folder of rendered images, see `splite_deploy.files.cache_folder`; None keeps none.
        progress: Called with each step as it begins.
        option: What the command line calls the source.

    Raises:
        UsageError: There is no source, or it cannot be read.
        SpecError: The renderer cannot be imported, or fails.
        CalibrationError: The images are unfit; see `calibration_lint`.
    """
    if source is not None and source.suffix != ".npz":
        check_source(source, option)
    renderer = Renderer(host, spec.input, SEED, "calibration", cache, progress)
    selected = _select(source, spec.input, renderer, count, allow_random, hold_out, progress)
    warnings = [*selected.warnings, *lint.check_count(selected.pixels, option)]
    warnings += lint.check_flat(selected.pixels, selected.parts) + lint.check_repeats(selected.pixels, option)
    checked = ["number", "flat images", "repeats"]
    if not selected.order_known and spec.input.color != "gray":
        if scorer is None or len(selected.pixels) < lint.MIN_SCORED:
            warnings.append("the channel order of the crops was not tested; save color='rgb' or 'bgr' beside them")
        else:
            progress("testing the channel order of the calibration images")
            lint.check_channel_order(selected.pixels, spec, scorer)
            checked.append("channel order")
    if source is not None and host.samples:
        try:
            warnings += lint.check_statistics(selected.pixels, renderer.crops(_REFERENCE))
            checked.append("brightness and spread beside those of rendered images")
        except SpecError as err:  # nothing depends on this comparison
            warnings.append(f"the calibration images were not compared with rendered ones: {err.message}")
    if evaluation is not None:
        progress("comparing the calibration images with those of the evaluation")
        warnings += lint.check_overlap(_seen(selected, evaluation, spec.input))
        checked.append("overlap with the evaluation")
    elif comparison is not None:
        progress("comparing the calibration images with those of the comparison")
        warnings += lint.check_overlap(_seen(selected, comparison, spec.input), compared=True)
        checked.append("overlap with the images that conversions are compared on")
    key = content_key(selected.pixels, spec.input)
    return CalibrationSet(selected.pixels, selected.kind, selected.origin, key, tuple(checked), tuple(warnings))


def content_key(pixels: Pixels, spec: InputSpec) -> str:
    """Hex SHA-256 of what the network sees. Padding is not in it: it has left its mark on the pixels already."""
    seen = {"shape": pixels.shape, "color": spec.color, "mean": spec.mean, "std": spec.std}
    digest = hashlib.sha256(json.dumps(seen).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def no_images() -> UsageError:
    """The error where nothing was named to calibrate on."""
    return UsageError(
        "There are no images for the calibration.",
        hint="Give some with --calibration (a folder, a labels.json or an .npz), or name a generator as samples in "
        "model.toml.",
    )


def _select(
    source: Path | None,
    spec: InputSpec,
    renderer: Renderer,
    count: int,
    allow_random: bool,
    hold_out: bool,
    progress: Progress,
) -> _Selected:
    """The requested source; never another one, except random noise where that is allowed."""
    if source is None and renderer.name:
        pixels = renderer.crops(count)
        warning = "calibrated on rendered images; give real ones with --calibration"
        return _Selected(pixels, "rendered images", f"rendered by {renderer.name} ({len(pixels)})", (warning,))
    if source is None and allow_random:
        pixels = np.random.default_rng(SEED).integers(0, 256, (count, spec.height, spec.width, spec.channels), np.uint8)
        warning = "calibrated on random noise, which excites a network as no image does: expect wrong keypoints"
        return _Selected(pixels, "random noise", f"random noise ({count})", (warning,))
    if source is None:
        raise no_images()
    progress("reading the calibration images")
    if source.suffix == ".npz":
        archive = read_crops(source, count, spec)
        origin = f"crops of {source.name} ({len(archive.pixels)}" + (f", {archive.note})" if archive.note else ")")
        return _Selected(archive.pixels, "crops", origin, order_known=archive.declared)
    files, origin = _files(source, spec, "train", count, hold_out=hold_out)
    cut, unreadable = _crop_files(files, spec)
    whole = 0 if spec.letterbox else sum(box is None for _, box in files)
    warning = f"{whole} calibration images have no box and were taken whole; a labels.json beside them gives boxes"
    weak = (*unreadable.warnings(), *((warning,) if whole else ()))
    pixels = _stacked([one.pixels for one in cut], spec)
    if len(cut) < len(files):
        origin = origin.replace(f"({len(files)} images)", f"({len(cut)} of {len(files)} images)")
    files_read, parts = tuple(one.file for one in cut), tuple(one.part for one in cut)
    return _Selected(pixels, "photographs", origin, weak, files_read, parts)


def _files(
    path: Path, spec: InputSpec, split: str, count: int | None = None, *, hold_out: bool = False
) -> tuple[list[File], str]:
    """Image files with their boxes, of one split where the labels have it, and where they come from, as text."""
    check_source(path)
    name = folder_name(path)
    if is_pattern(path) or (is_folder(path) and not is_file(path / "labels.json")):
        found, _ = boxed_images(path)
        part = ""
    else:
        samples, has_split = prefer_split(read_boxes, path, split)
        found = [(one.path, one.placed(spec.turn)) for one in samples]
        check_images((file for file, _ in found), path)
        part = f", split '{split}'" if has_split else f", no split '{split}' there"
    if hold_out:
        spare = {file for file, _ in divide(path)[1]}
        found = [(file, box) for file, box in found if file not in spare]
    if spec.letterbox:
        found = whole_images(found)
    picked = [found[i] for i in evenly(len(found), len(found) if count is None else count)]
    return picked, f"photos of {name}{part} ({len(picked)} images)"


@dataclass(frozen=True)
class _Cut:
    """A crop, (h, w, C) uint8, with its file and the part of it that shows the picture."""

    pixels: Pixels
    file: Path
    part: lint.Part


def _crop_files(files: Sequence[File], spec: InputSpec) -> tuple[list[_Cut], Unreadable]:
    """The crops of those files that can be read, as the runtime makes them.

    Raises:
        CalibrationError: Too many cannot.
    """
    preprocessor, cut, unreadable = Preprocessor(spec, "bgr"), [], Unreadable(len(files))
    for file, box in files:
        try:
            image = read_image(file)
        except UsageError as err:
            unreadable.add(err)
            continue
        height, width = image.shape[:2]
        with naming(file):
            pixels, matrix = preprocessor.crop(image, check_box(None if spec.letterbox else box, height, width))
        cut.append(_Cut(pixels, file, seen_part(matrix, height, width, spec)))
    return cut, unreadable


def _stacked(crops: list[Pixels], spec: InputSpec) -> Pixels:
    return np.array(crops, np.uint8).reshape(-1, spec.height, spec.width, spec.channels)


def _seen(selected: _Selected, evaluation: Path, spec: InputSpec) -> NDArray[np.bool_]:
    """(N,) which crops the evaluation has too: the same file, whatever its box, or much the same crop."""
    cut, _ = _crop_files(_files(evaluation, spec, "val")[0], spec)
    pixels = _stacked([one.pixels for one in cut], spec)
    same: NDArray[np.bool_] = lint.alike(lint.signatures(selected.pixels), lint.signatures(pixels)).any(axis=1)
    if selected.files:
        known = {sha256_of(file) for file in dict.fromkeys(one.file for one in cut)}
        same |= np.array([sha256_of(file) in known for file in selected.files])
    return same


NAMES = ("crops", "images")
COLOR = "color"
# A float16 near 2 times a std of 64 is off by up to 0.06 grey levels; other scales miss whole levels by more than this.
_ROUNDING_LEVELS = 0.1


@dataclass(frozen=True)
class Archive:
    """Crops of an archive.

    Attributes:
        pixels: (N, h, w, C) uint8, channels in the order of the input spec, as far as the archive can be trusted.
        declared: Whether the archive names its channel order.
        note: What was done to them, for people; empty if nothing.
    """

    pixels: NDArray[np.uint8]
    declared: bool
    note: str


def read_crops(path: Path, count: int, spec: InputSpec) -> Archive:
    """At most ``count`` crops of an archive, evenly picked.

    The archive holds (N, h, w, C) or (N, C, h, w) of the network's input size as ``crops``, ``images`` or the only
    array, and, optionally, ``color`` (``rgb``, ``bgr`` or ``gray``). uint8 is 0-255 pixels. A floating type is the
    network's input as it is, so it is taken only where it is exactly what the spec's mean and std make of 8-bit pixels.

    Raises:
        UsageError: The archive cannot be read, or has another content.
        CalibrationError: The pixels have another range than the spec says.
    """
    stored = read_npz(path)
    color = _color(path, stored.pop(COLOR, None))
    name, array = _only_array(path, stored)
    what = f"'{name}' of {path.name}"
    array = _channels_last(what, array, spec)
    if color is not None and (color == "gray") != (spec.color == "gray"):
        raise UsageError(
            f"{what} is of the color {color}; the network's input is {spec.color}.",
            hint="Save crops with the channels of the network's input.",
        )
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
    return Archive(pixels, color is not None, f"converted from {color} to {spec.color}" if swap else "")


def _color(path: Path, stored: NDArray[Any] | None) -> InputColor | None:
    if stored is None:
        return None
    text = stored.item() if stored.size == 1 else stored.tolist()
    text = text.decode("latin-1") if isinstance(text, bytes) else text
    colors: tuple[InputColor, ...] = get_args(InputColor)
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
    named_arrays = ", ".join(f"{name} {array.shape}" for name, array in stored.items()) or "nothing"
    raise UsageError(
        f"{path} does not tell which array holds the crops; it holds {named_arrays}.",
        hint=f"Name one of them '{NAMES[0]}'.",
    )


def _channels_last(what: str, array: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise UsageError(f"{what} is of type {array.dtype}.", hint="Save it as uint8, 0-255.")
    if array.shape[1:] == (spec.height, spec.width, spec.channels):
        return array
    if array.shape[1:] == spec.planes:
        return array.transpose(0, 2, 3, 1)
    raise UsageError(
        f"{what} has shape {array.shape}; the network takes (N, {spec.height}, {spec.width}, {spec.channels}).",
        hint="Give a folder of images or a labels.json instead: they are cropped here as in the runtime.",
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
