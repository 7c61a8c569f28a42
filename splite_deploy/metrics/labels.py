"""Labelled image sets: a ``labels.json`` beside its images, or COCO's JSON. Standard library and numpy only.

`docs/labels.md` describes the files. A ``labels.json`` is an object with ``samples``, a list of objects with ``image``
(path relative to the file), ``keypoints`` (K pairs x, y in pixels, origin at the top-left corner of the top-left pixel;
or K triples, whose third number is 0 where the keypoint is not labelled) and, optionally, ``world_mm`` (K triples in
millimetres), ``handedness`` (``left`` or ``right``), ``split`` and anything else. The box of a sample is its ``box``
(xyxy) or the tight box of its keypoints; where boxes are enough, keypoints may be left out. A sample that says
``ignore`` need not be found, and one that says ``empty`` is a picture without any object.
`splite_deploy.metrics.coco` describes the other format.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import InputError, UsageError
from splite_deploy.files import is_folder
from splite_deploy.metrics.coco import CocoObject, image_files, is_coco, read_coco, refuse_outside
from splite_deploy.metrics.numbers import numbers, text
from splite_deploy.metrics.turned_boxes import Turn, angle_of, turned_box
from splite_deploy.spec.reading import MIB, MalformedError, ReadError, read_json

_MOST_BYTES = 1536 * MIB
"""COCO-WholeBody's training labels, the largest in use, have a gigabyte."""

_EXAMPLE = 'A sample looks like {"image": "a.jpg", "keypoints": [[x, y], ...]}.'
_NAME_ONE = "Name a labels.json or its folder, or a COCO file."
_FORMATS = 'It must be JSON with a list "samples", or COCO\'s with "images" and "annotations".'


@dataclass(frozen=True)
class LabelledImage:
    """One labelled hand or body.

    Attributes:
        path: The image file.
        keypoints: (K, 2) float64 pixels; anything where it is not labelled.
        box: (4,) float64 xyxy pixels.
        world_mm: (K, 3) float64 millimetres, or None.
        labelled: (K,) which keypoints are labelled; None where all are.
        area_px2: Area of the hand or body in the image, or None where it is not known.
        image_id: Number of the image in a COCO file, or None.
        crowd: Whether it stands for a crowd, in which nobody is told apart.
        right: Whether the label calls it a right hand; None where it does not say which it is.
    """

    path: Path
    keypoints: NDArray[np.float64]
    box: NDArray[np.float64]
    world_mm: NDArray[np.float64] | None
    labelled: NDArray[np.bool_] | None = None
    area_px2: float | None = None
    image_id: int | None = None
    crowd: bool = False
    right: bool | None = None

    def placed(self, turn: Turn | None) -> NDArray[np.float64]:
        """Where a network looks for it; see `BoxedImage.placed`."""
        return _placed(self.box, self.keypoints if self.image_id is None else None, self.labelled, turn)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(K,) which keypoints are labelled."""
        return np.ones(len(self.keypoints), bool) if self.labelled is None else self.labelled

    @property
    def side_px(self) -> float:
        """What errors are a share of: the longer side of the tight box, or of ``box`` if a keypoint is not labelled."""
        x0, y0, x1, y1 = (tight_box(self.keypoints) if self.mask.all() else self.box).tolist()
        return float(max(x1 - x0, y1 - y0))


@dataclass(frozen=True)
class BoxedImage:
    """A box in an image.

    Attributes:
        path: The image file.
        box: (4,) float64 xyxy pixels.
        score: How sure a detector was, 0 to 1; None for a label.
        image_id: Number of the image in a COCO file, or None.
        keypoints: (K, 2) float64 pixels of a ``labels.json`` that has them.
        labelled: (K,) which of them are labelled; None where all are.
    """

    path: Path
    box: NDArray[np.float64]
    score: float | None = None
    image_id: int | None = None
    keypoints: NDArray[np.float64] | None = None
    labelled: NDArray[np.bool_] | None = None

    def placed(self, turn: Turn | None) -> NDArray[np.float64]:
        """Where a network looks: the box, or for one whose crops are turned a box (5,) with the angle of the label.

        Such a box is the tight one of the labelled keypoints at that angle. Where they do not tell it, and of COCO's
        files, it is ``box`` at angle 0.

        Args:
            turn: See `splite_deploy.spec.InputSpec.turn`; None where crops are not turned.
        """
        return _placed(self.box, self.keypoints, self.labelled, turn)


@dataclass(frozen=True)
class SceneBoxes:
    """The boxes of one picture.

    Attributes:
        labelled: (G, 4) float64 xyxy pixels: what has to be found.
        ignored: (I, 4) float64 of what nobody has to find: those that say ``ignore``.
        crowds: (C, 4) float64 of COCO's crowds.
    """

    labelled: NDArray[np.float64]
    ignored: NDArray[np.float64]
    crowds: NDArray[np.float64]


@dataclass(frozen=True)
class _Sample:
    """One entry of a file: a box, which may have keypoints; ``ignored`` where nobody has to find these.

    Without a box it is a picture that shows nothing. ``part`` says what it is to a detector: the field of `SceneBoxes`.
    """

    path: Path
    boxed: BoxedImage | None
    labelled: LabelledImage | None
    split: str | None = None
    ignored: bool = False
    part: Literal["labelled", "ignored", "crowds"] = "labelled"


def _placed(
    box: NDArray[np.float64],
    keypoints: NDArray[np.float64] | None,
    labelled: NDArray[np.bool_] | None,
    turn: Turn | None,
) -> NDArray[np.float64]:
    if turn is None:
        return box
    if keypoints is not None and max(turn) < len(keypoints):
        known = keypoints if labelled is None else np.where(labelled[:, None], keypoints, np.nan)
        angle_deg = angle_of(known, turn)
        if angle_deg is not None:
            return turned_box(known[np.isfinite(known).all(axis=1)], angle_deg)
    return np.append(box, 0.0)


def check_images(files: Iterable[Path], source: Path) -> None:
    """Sees that the images of labels are there, before work that takes minutes.

    Args:
        files: The images, each of which may be named several times.
        source: The labels.

    Raises:
        UsageError: Some are missing, or are no files.
    """
    distinct = dict.fromkeys(files)
    missing = [file for file in distinct if not os.path.isfile(file)]  # noqa: PTH113 - pathlib's raises on long names
    if missing:
        what = "no file" if os.path.exists(missing[0]) else "missing"  # noqa: PTH110
        raise InputError(
            f"{len(missing)} of the {len(distinct)} images that {source} names are not there: the first, "
            f"{missing[0]}, is {what}.",
            hint="Copy them to where the labels say, or take them out of the labels.",
        )


def tight_box(keypoints: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The xyxy box that just holds (K, 2) keypoints."""
    box: NDArray[np.float64] = np.concatenate([keypoints.min(axis=0), keypoints.max(axis=0)]).astype(np.float64)
    return box


def read_labels(path: Path, *, split: str | None = None) -> list[LabelledImage]:
    """Reads the labelled keypoints of a labels file, without crowds and objects of which no keypoint is labelled.

    Args:
        path: ``labels.json``, a COCO file, or a folder that holds a ``labels.json``.
        split: Keeps the samples whose ``split`` is this; all of them where None.

    Raises:
        UsageError: The file is missing or malformed, or no sample is left.
    """
    file, samples = _of_split(path, split)
    labelled = [one.labelled for one in samples if one.labelled is not None and not one.ignored]
    if not labelled:
        raise InputError(
            f"{file} holds boxes without keypoints.", hint="Accuracy needs keypoints; boxes alone serve --calibration."
        )
    return labelled


def read_ignored(path: Path) -> list[LabelledImage]:
    """The objects of a COCO file that nobody has to find: crowds, and those without labelled keypoints.

    Raises:
        UsageError: The file is missing or malformed.
    """
    return [one.labelled for one in _of_split(path, None)[1] if one.ignored and one.labelled is not None]


def read_images(path: Path) -> dict[Path, int | None]:
    """All images of a labels file with their COCO number, also those in which nothing is labelled, or crowds alone.

    Raises:
        UsageError: The file is missing or malformed.
    """
    file = path / "labels.json" if is_folder(path) else path
    samples = _read(file)
    data = _load(file)
    found: dict[Path, int | None] = {}
    if is_coco(data):
        found = {image: image_id for image_id, image in image_files(data, file).items()}
    for one in samples:
        found.setdefault(one.path, None if one.boxed is None else one.boxed.image_id)
    return found


def read_scenes(path: Path, *, split: str | None = None) -> dict[Path, SceneBoxes]:
    """The boxes of every picture of a labels file, also of those that show nothing.

    Args:
        path: See `read_labels`.
        split: Keeps the samples whose ``split`` is this; all of them where None.

    Raises:
        UsageError: The file is missing or malformed, or no sample is left.
    """
    file, samples = _of_split(path, split)
    data = _load(file)
    found: dict[Path, dict[str, list[NDArray[np.float64]]]] = {}
    for image in image_files(data, file).values() if is_coco(data) and split is None else ():
        found[image] = {}
    for one in samples:
        boxes = found.setdefault(one.path, {})
        if one.boxed is not None:
            boxes.setdefault(one.part, []).append(one.boxed.box)
    names = [each.name for each in fields(SceneBoxes)]
    return {
        image: SceneBoxes(**{name: np.reshape(boxes.get(name, []), (-1, 4)) for name in names})
        for image, boxes in found.items()
    }


def read_boxes(path: Path, *, split: str | None = None) -> list[BoxedImage]:
    """The same boxes, and those that have no keypoints at all, such as a detector's.

    Raises:
        UsageError: The file is missing or malformed, or no sample is left.
    """
    file, samples = _of_split(path, split)
    boxes = [one.boxed for one in samples if one.boxed is not None and not one.ignored]
    if not boxes:
        raise InputError(f"{file} holds no box that is no crowd.", hint=_EXAMPLE)
    return boxes


def _of_split(path: Path, split: str | None) -> tuple[Path, list[_Sample]]:
    file = path / "labels.json" if is_folder(path) else path
    samples = [one for one in _read(file) if split in (None, one.split)]
    if not samples:
        which = f" in split '{split}'" if split is not None else ""
        raise InputError(f"{file} holds no sample{which}.", hint=_EXAMPLE)
    return file, samples


def _read(file: Path) -> tuple[_Sample, ...]:
    """All samples; a file that was read before and has not changed is not read again."""
    try:
        state = file.stat()
    except (OSError, ValueError) as err:  # a name with NUL is a ValueError
        reason = getattr(err, "strerror", None) or err
        raise InputError(f"Cannot read {file}: {reason}.", hint=_NAME_ONE) from err
    return _parse(file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _parse(file: Path, _mtime_ns: int, _size: int) -> tuple[_Sample, ...]:
    data = _load(file)
    if is_coco(data):
        return tuple(map(_from_coco, read_coco(data, file)))
    samples = data.get("samples") if isinstance(data, dict) else None
    if not isinstance(samples, list):
        reason = "its samples are no list" if samples is not None else "it has no samples"
        raise InputError(f"{file} is not a labels file: {reason}.", hint=_FORMATS)
    refuse_outside([sample.get("image") for sample in samples if isinstance(sample, dict)], file)
    found = []
    for index, sample in enumerate(samples):
        try:
            found.append(_sample(sample, file.parent))
        except KeyError as err:
            raise InputError(f"{file}: sample {index} is malformed: it has no {err}.", hint=_EXAMPLE) from err
        except ValueError as err:
            raise InputError(f"{file}: sample {index} is malformed: {err}.", hint=_EXAMPLE) from err
    return tuple(found)


def _load(file: Path) -> Any:
    """The JSON of a file, which may begin with a byte-order mark."""
    try:
        return read_json(file, most_bytes=_MOST_BYTES)
    except MalformedError as err:
        raise InputError(f"{file} is not a labels file: {err.reason}.", hint=_FORMATS) from err
    except ReadError as err:
        raise InputError(err.message, hint=_NAME_ONE) from err


_LARGEST_SIDE_PX = 1 << 28


def _sample(sample: Any, folder: Path) -> _Sample:
    if not isinstance(sample, dict):
        raise ValueError("it is not an object")
    path, split = folder / text(sample["image"], "image"), sample.get("split")
    for name in ("width", "height"):
        if (size := sample.get(name)) is not None and not (type(size) is int and 0 < size <= _LARGEST_SIDE_PX):
            raise ValueError(f"{name} is no number of pixels")
    if not isinstance(sample.get("subject"), (str, int, type(None))):
        raise ValueError("subject is neither a text nor a number")
    if split is not None and not isinstance(split, str):
        raise ValueError("split is not a text")
    ignored, empty = (_flag(sample, name) for name in ("ignore", "empty"))
    part: Literal["labelled", "ignored"] = "ignored" if ignored else "labelled"
    if empty:
        if more := [name for name in ("keypoints", "box", "world_mm", "handedness") if name in sample]:
            raise ValueError(f"it says empty, and has {more[0]}")
        return _Sample(path, None, None, split)
    if "keypoints" not in sample and "box" in sample:
        return _Sample(path, BoxedImage(path, _box(sample["box"])), None, split, ignored, part)
    values = numbers(sample["keypoints"], "keypoints")
    if values.ndim != 2 or values.shape[1] not in (2, 3) or len(values) == 0:
        raise ValueError("keypoints are not a list of pairs, or of triples")
    keypoints, labelled = values[:, :2], values[:, 2] > 0 if values.shape[1] == 3 else None
    if labelled is not None and not labelled.any():
        raise ValueError("no keypoint is labelled")
    box = _box(sample["box"]) if "box" in sample else tight_box(keypoints if labelled is None else keypoints[labelled])
    world = numbers(sample["world_mm"], "world_mm") if "world_mm" in sample else None
    if world is not None and world.shape != (len(keypoints), 3):
        raise ValueError(f"world_mm are not {len(keypoints)} triples")
    boxed = BoxedImage(path, box, keypoints=keypoints, labelled=labelled)
    right = _right(sample.get("handedness"))
    return _Sample(path, boxed, LabelledImage(path, keypoints, box, world, labelled, right=right), split, ignored, part)


def _flag(sample: dict[str, Any], name: str) -> bool:
    said = sample.get(name, False)
    if not isinstance(said, bool):
        raise ValueError(f"{name} is neither true nor false")
    return said


def _right(said: Any) -> bool | None:
    if said is None:
        return None
    if not isinstance(said, str) or said.lower() not in ("left", "right"):
        raise ValueError("handedness is neither 'left' nor 'right'")
    return said.lower() == "right"


def _box(values: Any) -> NDArray[np.float64]:
    box = numbers(values, "box")
    if box.shape != (4,):
        raise ValueError("box is not four numbers")
    if (box[2:] <= box[:2]).any():
        raise ValueError("the box has no width or no height")
    return box


def _from_coco(one: CocoObject) -> _Sample:
    score = None if one.score == 1.0 else one.score
    boxed = BoxedImage(one.path, one.box, score, one.image_id)
    part: Literal["labelled", "crowds"] = "crowds" if one.crowd else "labelled"  # whatever keypoints are labelled
    if one.keypoints is None or one.labelled is None:
        return _Sample(one.path, boxed, None, ignored=one.crowd, part=part)
    labelled = LabelledImage(
        one.path, one.keypoints, one.box, None, one.labelled, one.area_px2, one.image_id, one.crowd
    )
    return _Sample(one.path, boxed, labelled, ignored=one.crowd or not one.labelled.any(), part=part)


_Label = TypeVar("_Label")


class _Read(Protocol[_Label]):
    """`read_labels` or `read_boxes`."""

    def __call__(self, path: Path, *, split: str | None = None) -> list[_Label]:
        """The samples of a file, or those of one split."""
        ...


def prefer_split(read: _Read[_Label], path: Path, split: str) -> tuple[list[_Label], bool]:
    """The samples of a split, or all of them where the file has no such split; and whether it has it.

    Args:
        read: `read_labels` or `read_boxes`.
        path: What it reads.
        split: Name of the split.

    Raises:
        UsageError: See ``read``.
    """
    samples = read(path)  # first: a malformed file fails here
    with suppress(UsageError):
        return read(path, split=split), True
    return samples, False
