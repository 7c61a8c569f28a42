"""Hands of three coloured disks, and two networks that find them in the pixels and are never wrong: a detector, and an
estimator that says whether there is a hand. What is tested with them is all that surrounds networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.bundle import Artifact, TensorSpec
from splite_deploy.metrics.turned_boxes import rotation
from splite_deploy.runtime.backends.base import BaseSession
from splite_deploy.spec import LimitSpec, ModelSpec

Points = NDArray[np.float64]
HEIGHT, WIDTH = 240, 320
NAMES = ("wrist", "middle", "thumb")
COLOURS = np.array([[230, 0, 0], [0, 230, 0], [0, 0, 230]], np.uint8)
UPRIGHT = np.array([[0.0, 20.0], [0.0, -20.0], [-12.0, 3.0]])
"""Wrist, middle knuckle and thumb about the middle of a hand that points up, pixels."""
_PLAIN: dict[str, Any] = {"color": "rgb", "mean": [0.0] * 3, "std": [255.0] * 3, "pad_value": 0}


def hand(x: float, y: float, angle_deg: float = 0.0) -> Points:
    """The keypoints (3, 2) of a hand with its middle there, turned clockwise."""
    return UPRIGHT @ rotation(angle_deg).T + (x, y)


def picture(hands: Sequence[Points], height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """An RGB picture of hands before black."""
    image = np.zeros((height, width, 3), np.uint8)
    for keypoints in hands:
        for (x, y), colour in zip(keypoints, COLOURS, strict=True):
            place = round((x - 0.5) * 16), round((y - 0.5) * 16)
            cv2.circle(image, place, 4 * 16, colour.tolist(), -1, cv2.LINE_AA, 4)
    return image


def estimator_spec(*, turned: bool = True, presence: bool = True) -> ModelSpec:
    """Of `Estimator`."""
    columns = {"columns": ["x", "y", "score"]} if not presence else {}
    return ModelSpec.from_dict(
        {
            "name": "marked",
            "input": {**_PLAIN, "height": 96, "width": 96, "box_padding": 1.6}
            | ({"rotate_by": ["wrist", "middle"]} if turned else {}),
            "decoder": {"type": "coordinates", "scale": "pixel", **columns},
            "skeleton": {"keypoint_names": list(NAMES), "edges": [[0, 1], [0, 2]]},
            "heads": ["presence"] if presence else [],
        }
    )


def detector_spec(names: Sequence[str] = ("wrist", "middle"), padding: float = 1.0) -> ModelSpec:
    """Of `Detector`."""
    decoder = {"type": "yolo-pose", "form": "final", "boxes": "xyxy", "scale": "pixel", "visibility": False}
    return ModelSpec.from_dict(
        {
            "name": "marked-detector",
            "input": {**_PLAIN, "height": 192, "width": 192, "box_padding": padding, "letterbox": "centre"},
            "decoder": {**decoder, "min_score": 0.5, "overlap": 0.5, "max_people": 10},
            "skeleton": {"keypoint_names": list(names), "edges": []},
        }
    )


class _Seeing(BaseSession):
    """A session that looks at pixels.

    Attributes:
        batches: How many crops each inference had.
    """

    def __init__(self, height: int, width: int, outputs: tuple[TensorSpec, ...], batch: int | None) -> None:
        image = TensorSpec("image", (batch, 3, height, width), "float32", "NCHW", "image")
        super().__init__(Artifact("onnx", "ort", "fp32", "f.onnx", "0" * 64, (image,), outputs, LimitSpec(), {}))
        self.batches: list[int] = []

    def _infer(self, feeds: Any) -> dict[str, NDArray[np.float32]]:
        self.batches.append(len(feeds["image"]))
        found = [self._see(crop) for crop in feeds["image"]]
        return {name: np.stack([one[name] for one in found]) for name in found[0]}

    def _see(self, crop: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        raise NotImplementedError

    def _release(self) -> None:
        pass


class Estimator(_Seeing):
    """Gives the hand whose wrist and knuckle lie nearest to the middle of the crop.

    Args:
        presence: Whether presence tells that there is none; else the scores do.
        batch: Crops that an inference takes; None is any number.
    """

    def __init__(self, *, presence: bool = True, batch: int | None = None) -> None:
        points = TensorSpec("coordinates", (batch, 3, 2 if presence else 3), "float32", "NKC", "coordinates")
        heads = (TensorSpec("presence", (batch, 1), "float32", "NC", "presence"),) if presence else ()
        super().__init__(96, 96, (points, *heads), batch)
        self._presence = presence

    def _see(self, crop: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        middle = np.array([48.0, 48.0])
        hands = sorted(hands_in(crop), key=lambda one: float(np.linalg.norm(one[:2].mean(axis=0) - middle)))
        keypoints = hands[0] if hands else np.full((3, 2), 48.0) + UPRIGHT
        sure = 0.9 if hands else 0.1
        if self._presence:
            return {"coordinates": keypoints.astype(np.float32), "presence": np.array([sure], np.float32)}
        return {"coordinates": np.column_stack([keypoints, np.full(3, sure)]).astype(np.float32)}


class Detector(_Seeing):
    """Gives all hands, those further to the left with the higher score.

    Attributes:
        more: Boxes and scores (5 numbers, in pixels of the input) that it gives besides, of nothing.

    Args:
        names: Its keypoints; of others than a hand's it gives the middle of the hand.
    """

    def __init__(self, names: Sequence[str] = ("wrist", "middle")) -> None:
        columns = 6 + 2 * len(names)
        super().__init__(192, 192, (TensorSpec("people", (1, None, columns), "float32", "NAC", "people"),), 1)
        self.more: list[list[float]] = []
        self._names = names

    @property
    def looks(self) -> int:
        """How often it has looked."""
        return len(self.batches)

    def _see(self, crop: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        rows = []
        for hand_px in sorted(hands_in(crop), key=lambda one: float(one[0, 0])):
            named = dict(zip(NAMES, hand_px, strict=True))
            points = [named.get(name, hand_px.mean(axis=0)) for name in self._names]
            score = 0.9 - 0.001 * float(hand_px[0, 0])
            rows.append([*hand_px.min(axis=0), *hand_px.max(axis=0), score, 0.0, *np.ravel(points)])
        for *box, score in self.more:
            rows.append([*box, score, 0.0, *([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2] * len(self._names))])
        return {"people": np.array(rows, np.float32).reshape(len(rows), 6 + 2 * len(self._names))}


def hands_in(crop: NDArray[np.float32]) -> list[Points]:
    """The keypoints of all hands that a picture (3, H, W) of 0 to 1 shows whole: each wrist with what is nearest."""
    places = []
    for channel in range(3):
        weights = np.maximum(crop[channel] - crop[[one for one in range(3) if one != channel]].sum(axis=0) - 0.2, 0)
        count, labels = cv2.connectedComponents((weights > 0).astype(np.uint8))
        found = []
        for one in range(1, count):
            rows, columns = np.nonzero(labels == one)
            its = weights[rows, columns]
            found.append([np.average(columns + 0.5, weights=its), np.average(rows + 0.5, weights=its)])
        places.append(np.array(found).reshape(-1, 2))
    wrists, *others = places
    if any(len(one) == 0 for one in others):
        return []
    nearest = [[one[np.linalg.norm(one - wrist, axis=1).argmin()] for one in others] for wrist in wrists]
    return [np.array([wrist, *rest]) for wrist, rest in zip(wrists, nearest, strict=True)]
