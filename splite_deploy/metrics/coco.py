"""COCO's JSON of keypoints and detections, read and written. Standard library and numpy only.

The format: cocodataset.org, "Data format" and "Results format"; that of COCO-WholeBody adds feet, face and hands in
fields of their own. Boxes are x, y, width and height from the corner of the first pixel. Keypoints are numbers of
pixels, so that a keypoint at (0, 0) lies in the centre of the first pixel, at (.5, .5) here: half a pixel is added as
they are read and taken off as they are written, as Detectron2 does.
"""

from __future__ import annotations

import math
import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import InputError
from splite_deploy.metrics.numbers import number, numbers, text

_WHOLE_BODY = ("foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
_HALF = 0.5
_HINT = (
    'COCO\'s JSON is an object with "images" and "annotations" (person_keypoints_val2017.json), or a list of results '
    'with "image_id" and "bbox".'
)


@dataclass(frozen=True)
class CocoObject:
    """One annotation or result.

    Attributes:
        path: The image file.
        image_id: COCO's number of the image.
        box: (4,) float64 xyxy pixels.
        keypoints: (K, 2) float64 pixels of continuous coordinates; None where it is a box alone.
        labelled: (K,) which keypoints are labelled, COCO's v > 0; None without keypoints.
        area_px2: Area of the object, or of its box where the file gives none.
        score: Of a result; 1 for an annotation.
        crowd: Whether the box holds a crowd, in which nobody is told apart.
    """

    path: Path
    image_id: int
    box: NDArray[np.float64]
    keypoints: NDArray[np.float64] | None
    labelled: NDArray[np.bool_] | None
    area_px2: float
    score: float
    crowd: bool


def is_coco(data: object) -> bool:
    """Whether parsed JSON looks like COCO's: an object with images, or a list of results."""
    if isinstance(data, Mapping):
        return "images" in data and "annotations" in data
    return isinstance(data, Sequence) and bool(data) and isinstance(data[0], Mapping) and "image_id" in data[0]


def read_coco(data: Any, file: Path) -> list[CocoObject]:
    """The objects of a file, in its order.

    Of several categories only those with keypoints are taken, else ``person``, else all.

    Args:
        data: Parsed JSON, see `is_coco`.
        file: Where it comes from; the images are looked for beside it, see `image_folder`.

    Raises:
        UsageError: The file is malformed, or its images are not found.
    """
    results = not isinstance(data, Mapping)
    names = {} if results else _names(data, file)
    files = [one.get("file_name") for one in data if isinstance(one, Mapping)] if results else list(names.values())
    refuse_outside(files, file)
    categories = None if results else _categories(data, file)
    found = []
    folder: Path | None = None
    objects = data if results else data["annotations"]
    if not isinstance(objects, list):
        raise InputError(f"{file}: annotations is not a list.", hint=_HINT)
    for index, one in enumerate(objects):
        try:
            if not isinstance(one, Mapping):
                raise ValueError("it is not an object")
            if categories is not None and one.get("category_id") not in categories:
                continue
            image_id = _whole(one["image_id"])
            # Results name no files; those of COCO are named by twelve digits of the image's number
            name = names[image_id] if not results else text(one.get("file_name", f"{image_id:012d}.jpg"), "file_name")
            folder = image_folder(file, name) if folder is None else folder
            found.append(_object(one, folder / name, image_id))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as err:
            what = "result" if results else "annotation"
            named = f", id {one['id']}," if isinstance(one, Mapping) and "id" in one else ""
            raise InputError(f"{file}: {what} {index}{named} is malformed ({err!r}).", hint=_HINT) from err
    return found


def image_files(data: Any, file: Path) -> dict[int, Path]:
    """All images of a file by number, also those without an object; none of a list of results, which has no such list.

    Raises:
        UsageError: The file is malformed, or its images are not found.
    """
    names = _names(data, file) if isinstance(data, Mapping) else {}
    refuse_outside(list(names.values()), file)
    folder = image_folder(file, next(iter(names.values()))) if names else file.parent
    return {image_id: folder / name for image_id, name in names.items()}


def _names(data: Mapping[str, Any], file: Path) -> dict[int, str]:
    """Names of files by the number of the image."""
    names: dict[int, str] = {}
    if not isinstance(data["images"], list):
        raise InputError(f"{file}: images is not a list.", hint=_HINT)
    for index, image in enumerate(data["images"]):
        try:
            image_id, name = _whole(image["id"]), text(image["file_name"], "file_name")
            if names.setdefault(image_id, name) != name:
                raise ValueError(f"there are two images of the id {image_id}")
        except (KeyError, TypeError, ValueError) as err:
            raise InputError(f"{file}: image {index} is malformed ({err!r}).", hint=_HINT) from err
    return names


def refuse_outside(names: Sequence[object], file: Path) -> None:
    """Refuses names of images that lead out of the folder of a set: labels of strangers name what they like.

    Args:
        names: As the labels have them; what is no text is passed over.
        file: The labels.

    Raises:
        UsageError: There is such a name.
    """
    texts = dict.fromkeys(name for name in names if isinstance(name, str))
    outside = [name for name in texts if PurePath(name).is_absolute() or ".." in PurePath(name).parts]
    if outside:
        raise InputError(
            f"{file} names {len(outside)} image{'s'[: len(outside) != 1]} outside of its folder: {outside[0][:200]}.",
            hint="Put the images below the folder of the labels, and name them by their path from there, without '..'.",
        )


def _whole(value: Any) -> int:
    if type(value) not in (int, float) or not abs(value) < 1 << 63 or int(value) != value:
        raise ValueError(f"{reprlib.repr(value)} is no whole number")
    return int(value)


def _categories(data: Mapping[str, Any], file: Path) -> set[int] | None:
    categories = data.get("categories") or []
    try:
        return _wanted(categories)
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise InputError(f"{file}: its categories are malformed ({err!r}).", hint=_HINT) from err


def _wanted(categories: Sequence[Mapping[str, Any]]) -> set[int] | None:
    if not isinstance(categories, list):
        raise TypeError("they are not a list")
    if len(categories) < 2:
        return None
    wanted = [one for one in categories if one.get("keypoints")]
    wanted = wanted or [one for one in categories if one.get("name") == "person"] or list(categories)
    return {_whole(one["id"]) for one in wanted}


def _object(one: Mapping[str, Any], path: Path, image_id: int) -> CocoObject:
    keypoints = labelled = None
    flat = list(one.get("keypoints") or ())
    if flat:
        if all(field in one for field in _WHOLE_BODY):
            flat += [value for field in _WHOLE_BODY for value in one[field]]
        triples = numbers(flat, "keypoints").reshape(-1, 3)
        keypoints, labelled = triples[:, :2] + _HALF, triples[:, 2] > 0
    if "bbox" in one:
        x, y, width, height = numbers(one["bbox"], "bbox").tolist()
        box = np.array([x, y, x + width, y + height])
    elif keypoints is not None and labelled is not None and labelled.any():
        box = np.concatenate([keypoints[labelled].min(axis=0), keypoints[labelled].max(axis=0)])
    else:
        raise KeyError("bbox")
    sides = float((box[2] - box[0]) * (box[3] - box[1]))
    area = sides if one.get("area") is None else _area(one["area"])
    score, crowd = number(one.get("score", 1.0), "score"), one.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise ValueError(f"iscrowd is {reprlib.repr(crowd)}, not 0 or 1")
    if not crowd and (
        labelled is None or labelled.any()
    ):  # COCO has a few without a size among those that nobody finds
        if (box[2:] <= box[:2]).any():
            raise ValueError("the box has no width or no height")
        if not 0 < area < math.inf:
            raise ValueError(f"the area {area:g} is not positive")
    area = area if 0 < area < math.inf else 1.0
    return CocoObject(path, image_id, box, keypoints, labelled, area, score, bool(crowd))


def _area(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError("area is no finite number")
    return float(value)


def image_folder(file: Path, name: str) -> Path:
    """The folder that the names of images are relative to, found by one of them.

    Looked for: the folder of the file, ``images`` there, the folder above and ``images`` there, and in each of them the
    folder of the split, ``val2017`` for ``person_keypoints_val2017.json``.

    Raises:
        UsageError: The image is in none of them.
    """
    split = re.split(r"[_.]", file.stem)[-1]
    near = [file.parent, file.parent / "images", file.parent.parent, file.parent.parent / "images"]
    folders = [folder / part for folder in near for part in ("", split)]
    for folder in folders:
        if os.path.isfile(folder / name):  # noqa: PTH113 - pathlib's raises on a name that is too long
            return folder
    raise InputError(
        f"The image {name} of {file} was not found.",
        hint=f"Put the images beside the file, into 'images' beside it, or into '../{split}' as COCO does.",
    )


def result_score(scores: NDArray[np.floating[Any]], box_score: float | None) -> float:
    """How sure a result is: the mean of its keypoints' scores, times that of its box.

    As in Xiao et al. 2018 (arXiv 1804.06208), without a threshold on keypoints. Without these that of the box.

    Args:
        scores: (K,) of the keypoints, in [0, 1].
        box_score: Of the box; None where it was given.
    """
    of_keypoints = float(scores.mean()) if scores.size else 1.0
    return of_keypoints * (1.0 if box_score is None else box_score)


def result(
    image_id: int,
    keypoints: NDArray[np.floating[Any]],
    scores: NDArray[np.floating[Any]],
    box: NDArray[np.floating[Any]],
    box_score: float | None,
) -> dict[str, Any]:
    """One entry of COCO's results of keypoints, which pycocotools reads by ``loadRes``.

    Args:
        image_id: COCO's number of the image.
        keypoints: (K, 2) pixels of continuous coordinates.
        scores: (K,) in [0, 1].
        box: (4,) xyxy pixels.
        box_score: See `result_score`.
    """
    triples = np.concatenate([keypoints.astype(np.float64) - _HALF, scores.astype(np.float64)[:, None]], axis=1)
    x0, y0, x1, y1 = (float(value) for value in box)
    return {
        "image_id": image_id,
        "category_id": 1,
        "keypoints": [round(value, 4) for value in triples.ravel().tolist()],
        "score": round(result_score(scores, box_score), 6),
        "bbox": [round(value, 3) for value in (x0, y0, x1 - x0, y1 - y0)],
    }


def dataset(
    images: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    name: str,
    keypoint_names: Sequence[str],
    edges: Sequence[tuple[int, int]],
) -> dict[str, Any]:
    """Results as a data set of their own, with their images, which `read_coco` and annotation tools read.

    Args:
        images: ``id``, ``file_name``, ``width`` and ``height`` of each.
        results: Of `result`.
        name: Of the one category.
        keypoint_names: K names.
        edges: Pairs of keypoints that are drawn.
    """
    annotations = []
    for index, one in enumerate(results, 1):
        triples = np.array(one["keypoints"]).reshape(-1, 3)
        triples[:, 2] = 2  # a result has a place for each keypoint; COCO's v says so
        _, _, width, height = one["bbox"]
        count = {"num_keypoints": len(triples), "area": round(width * height, 3), "iscrowd": 0}
        annotations.append({"id": index, **one, "keypoints": triples.ravel().tolist(), **count})
    skeleton = [[a + 1, b + 1] for a, b in edges]  # counted from 1
    category = {"id": 1, "name": name, "keypoints": list(keypoint_names), "skeleton": skeleton}
    return {"images": list(images), "annotations": annotations, "categories": [category]}
