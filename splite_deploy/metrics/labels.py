"""Labelled image sets: a ``labels.json`` beside its images. Standard library and numpy only.

Format: an object with ``samples``, a list of objects with ``image`` (path relative to the file), ``keypoints`` (K
pairs x, y in pixels, origin at the top-left corner of the top-left pixel) and, optionally, ``world_mm`` (K triples in
millimetres), ``split`` and anything else. The box of a sample is its ``box`` (xyxy) or the tight box of its keypoints.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import UsageError

_EXAMPLE = 'A sample looks like {"image": "a.jpg", "keypoints": [[x, y], ...]}.'


@dataclass(frozen=True)
class LabelledImage:
    """One labelled hand or body.

    Attributes:
        path: The image file.
        keypoints: (K, 2) float64 pixels.
        box: (4,) float64 xyxy pixels.
        world_mm: (K, 3) float64 millimetres, or None.
    """

    path: Path
    keypoints: NDArray[np.float64]
    box: NDArray[np.float64]
    world_mm: NDArray[np.float64] | None


def tight_box(keypoints: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The xyxy box that just holds (K, 2) keypoints."""
    box: NDArray[np.float64] = np.concatenate([keypoints.min(axis=0), keypoints.max(axis=0)]).astype(np.float64)
    return box


def read_labels(path: Path, *, split: str | None = None) -> list[LabelledImage]:
    """Reads a labels file.

    Args:
        path: ``labels.json``, or a folder that holds one.
        split: Keeps the samples whose ``split`` is this; all of them where None.

    Raises:
        UsageError: The file is missing or malformed, or no sample is left.
    """
    file = path / "labels.json" if path.is_dir() else path
    labelled = [one for one, its_split in _read(file) if split in (None, its_split)]
    if not labelled:
        which = f" in split '{split}'" if split is not None else ""
        raise UsageError(f"{file} holds no sample{which}.", hint=_EXAMPLE)
    return labelled


def _read(file: Path) -> tuple[tuple[LabelledImage, str | None], ...]:
    """All samples with their splits; a file that was read before and has not changed is not read again."""
    try:
        state = file.stat()
    except OSError as err:
        raise UsageError(f"Cannot read {file}: {err.strerror}.", hint="Name a labels.json or its folder.") from err
    return _parse(file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _parse(file: Path, _mtime_ns: int, _size: int) -> tuple[tuple[LabelledImage, str | None], ...]:
    try:
        samples = json.loads(file.read_text(encoding="utf-8"))["samples"]
        if not isinstance(samples, list):
            raise TypeError("samples is not a list")
    except OSError as err:
        raise UsageError(f"Cannot read {file}: {err.strerror}.", hint="Name a labels.json or its folder.") from err
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as err:
        raise UsageError(
            f"{file} is not a labels file: {err!r}.", hint='It must be JSON with a list "samples".'
        ) from err
    labelled = []
    for index, sample in enumerate(samples):
        try:
            keypoints = np.array(sample["keypoints"], np.float64)
            box = np.array(sample["box"], np.float64) if "box" in sample else tight_box(keypoints)
            world = np.array(sample["world_mm"], np.float64) if "world_mm" in sample else None
            shapes_fit = keypoints.ndim == 2 and keypoints.shape[1] == 2 and box.shape == (4,)
            if not shapes_fit or (world is not None and world.shape != (len(keypoints), 3)):
                raise ValueError("wrong number of values")
            if not np.isfinite(keypoints).all() or not np.isfinite(box).all():
                raise ValueError("a coordinate is null or not finite")
            image = LabelledImage(file.parent / sample["image"], keypoints, box, world)
            labelled.append((image, sample.get("split")))
        except (AttributeError, KeyError, ValueError, TypeError) as err:
            raise UsageError(f"{file}: sample {index} is malformed ({err!r}).", hint=_EXAMPLE) from err
    return tuple(labelled)


def prefer_split(path: Path, split: str) -> tuple[list[LabelledImage], bool]:
    """The samples of a split, or all of them where the file has no such split; and whether it has it.

    Raises:
        UsageError: See `read_labels`.
    """
    samples = read_labels(path)  # first: a malformed file fails here
    with suppress(UsageError):
        return read_labels(path, split=split), True
    return samples, False
