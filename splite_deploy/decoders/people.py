"""What the decoders of single-stage networks share: candidates, and which of them are people.

Such a network is given a whole picture and gives many candidates, each with a box, a score and K keypoints. Those of a
score above a threshold are taken greedily, the highest first, and those that overlap one that was taken are left out
(non-maximum suppression). N crops, A candidates, M of them chosen.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import DoubleArray, FloatArray
from splite_deploy.decoders.base import Decoded, Decoder, InputSize, People, Sizes
from splite_deploy.errors import BackendError, require

BOX, SCORE, KEYPOINTS = slice(0, 4), 4, 5
"""Columns of a candidate: its box x0, y0, x1, y1 in input pixels, its score, then x, y and score of each keypoint."""
CORNERS = 2
"""Marks of a box, its upper left and its lower right corner, where there are no keypoints; see `marks_of`."""
_Floats = TypeVar("_Floats", FloatArray, DoubleArray)
Rows = Callable[[int, NDArray[np.intp]], FloatArray]
"""Of a crop's number and (M,) numbers of candidates: these candidates, (M, 5 + 3 K), see `BOX`."""


@dataclass(frozen=True)
class PeopleDecoder(Decoder):
    """What all decoders of several people have.

    Attributes:
        min_score: What the score of a person has to reach, 0 to 1.
        overlap: Of two candidates whose boxes overlap by more than this share (intersection over union) only one is a
            person.
        max_people: Of more people in a picture these many, those of the highest scores, are given.
    """

    suppression: ClassVar[Literal["greedy", "weighted", "none"]] = "greedy"
    min_score: float
    overlap: float
    max_people: int

    def __post_init__(self) -> None:
        require(0 < self.min_score < 1, "decoder.min_score must lie between 0 and 1")
        require(0 < self.overlap <= 1, "decoder.overlap must lie between 0 and 1")
        require(self.max_people > 0, "decoder.max_people must be positive")

    @property
    def decoded_layouts(self) -> Mapping[str, str]:
        """A graph that decodes gives all candidates: how many of them are people is not known beforehand."""
        return {"candidates": "NAC"}

    def decoded_shapes(self, keypoints: int) -> Mapping[str, Sizes]:
        """Any number of candidates."""
        return {"candidates": (None, KEYPOINTS + 3 * keypoints)}

    @property
    def numbered(self) -> bool:
        """Whether a candidate's number says where in the input it lies; else the network has sorted them by score."""
        return self.way() != "none"

    def nobody(self, role: str) -> float:
        """What an output holds, at every number, of a candidate that is nobody: its score is 0 then.

        Args:
            role: Of the output.
        """
        return 0.0

    def way(self) -> Literal["greedy", "weighted", "none"]:
        """How candidates that overlap become one: ``none`` where the network has seen to that."""
        return self.suppression

    def stand_out(self, scores: FloatArray, size: InputSize) -> NDArray[np.bool_] | None:
        """(N, A) which candidates may be people, besides their score; None where all of them may.

        Args:
            scores: (N, A) of all candidates.
            size: Of the network's input.
        """
        return None

    def people_among(self, candidates: FloatArray, size: InputSize) -> list[FloatArray]:
        """Those of the candidates (N, A, 5 + 3 K) of each crop that are people, by falling score, in the same columns.

        Args:
            candidates: See `BOX`.
            size: Of the network's input.
        """
        return self._found(candidates[..., SCORE], lambda crop, which: candidates[crop, which], size)

    @abstractmethod
    def scored(self, outputs: Mapping[str, FloatArray], size: InputSize) -> tuple[FloatArray, Rows]:
        """Scores (N, A) of all candidates, and the candidates themselves as they are asked for.

        Args:
            outputs: By role, finite and of shapes that fit.
            size: Of the network's input.
        """

    def candidates(self, outputs: Mapping[str, FloatArray], size: InputSize) -> FloatArray:
        """All candidates (N, A, 5 + 3 K), see `BOX`; a graph that decodes gives these."""
        scores, rows = self.scored(outputs, size)
        every = np.arange(scores.shape[1])
        return np.stack([rows(crop, every) for crop in range(len(scores))])

    def decode(self, outputs: Mapping[str, FloatArray], size: InputSize) -> Decoded:
        """The people of all crops."""
        return people_of(self._found(*self.scored(outputs, size), size))

    def best(self, outputs: Mapping[str, FloatArray], size: InputSize) -> Decoded:
        """The candidate of the highest score of every crop, whatever that score is: one row for each crop.

        Raises:
            BackendError: There are no candidates.
        """
        return people_of(self._found(*self.scored(outputs, size), size, best=True))

    def by_role(self, outputs: Mapping[str, FloatArray], size: InputSize) -> Mapping[str, FloatArray]:
        """All candidates, see `candidates`."""
        return {"candidates": self.candidates(outputs, size)}

    def read(self, decoded: Mapping[str, FloatArray], size: InputSize, *, best: bool = False) -> Decoded:
        """The people among the candidates of a graph that decodes; see `decode` and `best`."""
        candidates = decoded["candidates"]
        found = self._found(candidates[..., SCORE], lambda crop, which: candidates[crop, which], size, best=best)
        return people_of(found)

    def _found(self, scores: FloatArray, rows: Rows, size: InputSize, *, best: bool = False) -> list[FloatArray]:
        """The people of each crop, (M, 5 + 3 K)."""
        if best and scores.shape[1] == 0:
            raise BackendError(
                "The network found nobody: it gave no candidates, of which one could be the best.",
                hint="PoseEstimator.detect gives as many people as there are, and an empty list for none.",
            )
        may, found = self.stand_out(scores, size), []
        for crop, its_scores in enumerate(scores):
            least = min(self.min_score, float(its_scores.max())) if best else self.min_score
            enough = its_scores >= least
            which = np.flatnonzero(enough if may is None else enough & may[crop])
            found.append(suppress(rows(crop, which), self.overlap, 1 if best else self.max_people, self.way()))
        return found


def joined(results: Sequence[Mapping[str, FloatArray]], decoder: Decoder) -> dict[str, FloatArray]:
    """Outputs of crops that were run one by one, or in parts, as those of one batch.

    A network with its suppression inside gives another number of candidates for each crop: rows that are nobody fill
    up, so that all have the same number, and one at least.

    Args:
        results: By role, N first.
        decoder: Of the model.
    """
    return {role: np.concatenate(_evened([one[role] for one in results], role, decoder)) for role in results[0]}


def evened(
    first: Mapping[str, FloatArray], second: Mapping[str, FloatArray], decoder: Decoder
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """The outputs that both have, by role, with the same number of candidates; see `joined`."""
    both = {role: _evened([first[role], second[role]], role, decoder) for role in first if role in second}
    return {role: one for role, (one, _) in both.items()}, {role: other for role, (_, other) in both.items()}


def _evened(arrays: Sequence[FloatArray], role: str, decoder: Decoder) -> list[FloatArray]:
    """The arrays, filled up along their candidates."""
    axis = {**decoder.layouts, **decoder.decoded_layouts}.get(role, "").find("A")
    if not isinstance(decoder, PeopleDecoder) or axis < 0:
        return list(arrays)
    most = max(1, *(one.shape[axis] for one in arrays))
    filled = []
    for one in arrays:
        widths = [(0, most - one.shape[axis] if index == axis else 0) for index in range(one.ndim)]
        fill = 0.0 if role in decoder.decoded_layouts else decoder.nobody(role)
        filled.append(np.pad(one, widths, constant_values=fill) if one.shape[axis] < most else one)
    return filled


def people_of(rows: list[FloatArray]) -> Decoded:
    """Candidates (M, 5 + 3 K) of each crop, which are people, as what is decoded."""
    everybody = np.concatenate(rows)
    crops = np.repeat(np.arange(len(rows)), [len(one) for one in rows])
    keypoints = points_of(everybody)
    people = People(crops, np.ascontiguousarray(everybody[:, BOX]), np.clip(everybody[:, SCORE], 0.0, 1.0))
    return Decoded(np.ascontiguousarray(keypoints[..., :2]), np.clip(keypoints[..., 2], 0.0, 1.0), None, people=people)


def points_of(rows: FloatArray) -> FloatArray:
    """Keypoints (M, K, 3) of candidates (M, 5 + 3 K): x, y and score; M may be 0."""
    return rows[:, KEYPOINTS:].reshape(len(rows), (rows.shape[1] - KEYPOINTS) // 3, 3)


def marks_of(rows: FloatArray) -> FloatArray:
    """What a deviation is measured at, (M, P, 3) x, y and score: keypoints, or without any two corners of the box."""
    points = points_of(rows)
    if points.shape[1]:
        return points
    corners = rows[:, BOX].reshape(len(rows), CORNERS, 2)
    return np.concatenate([corners, np.broadcast_to(rows[:, None, [SCORE]], (len(rows), CORNERS, 1))], axis=2)


def suppress(rows: FloatArray, overlap: float, most: int, way: Literal["greedy", "weighted", "none"]) -> FloatArray:
    """The people among candidates, at most ``most``, by falling score.

    Args:
        rows: (M, 5 + 3 K), see `BOX`.
        overlap: Share by which boxes of two people may overlap.
        most: How many people.
        way: ``greedy``: of those that overlap the one of the highest score, as torchvision's ``nms`` and the YOLO
            family choose. ``weighted``: of these the mean box and the mean keypoints, weighted by score, with the
            highest score, as MediaPipe's ``WeightedNonMaxSuppression`` has it. ``none``: all of them.
    """
    rows = rows[np.argsort(-rows[:, SCORE], kind="stable")]
    if way == "none":
        return rows[:most]
    taken: list[FloatArray] = []
    while len(rows) and len(taken) < most:
        near = overlaps(rows[:1, BOX], rows[:, BOX])[0] > overlap
        near[0] = True  # a box without an area overlaps nothing, not even itself
        person = rows[0]
        if way == "weighted":
            person = np.average(rows[near], axis=0, weights=rows[near, SCORE]).astype(np.float32)
            person[SCORE] = rows[0, SCORE]
        taken.append(person)
        rows = rows[~near]
    return np.stack(taken) if taken else rows


def overlaps(first: _Floats, second: _Floats) -> _Floats:
    """(P, Q) shares by which boxes (P, 4) and (Q, 4), xyxy, overlap: intersection over union; 0 without an area."""
    shared = _shared(first, second)
    return _share(shared, _areas(first)[:, None] + _areas(second)[None] - shared)


def covered(first: _Floats, second: _Floats) -> _Floats:
    """(P, Q) shares of the areas of boxes (P, 4) that boxes (Q, 4), xyxy, cover; 0 without an area."""
    shared = _shared(first, second)
    return _share(shared, np.broadcast_to(_areas(first)[:, None], shared.shape))


def _shared(first: _Floats, second: _Floats) -> _Floats:
    """(P, Q) areas that boxes have in common."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return _product(np.maximum(high - low, 0))


def _areas(boxes: _Floats) -> _Floats:
    return _product(np.maximum(boxes[:, 2:] - boxes[:, :2], 0))


def _product(sides: _Floats) -> _Floats:
    """Areas of (..., 2) sides; not by np.prod, whose warnings of an overflow are numpy's own, and stay."""
    area: _Floats = sides[..., 0] * sides[..., 1]
    return area


def _share(part: _Floats, whole: _Floats) -> _Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def sigmoid(values: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)), which does not overflow."""
    halves: FloatArray = 0.5 * (1 + np.tanh(0.5 * values))
    return halves
