"""How far the people that a conversion finds lie from those of the original network.

Two things are compared. *Candidates*, before those that overlap are left out: the same ones of both, by their number,
so that a difference is that of arithmetic alone. And *people*, who are matched by the overlap of their boxes: another
candidate may win where two are about as good.

A network that was not trained finds nobody, or everybody; its candidates of the highest scores are compared instead,
and no people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import DoubleArray, FloatArray
from splite_deploy.decoders import InputSize, PeopleDecoder
from splite_deploy.decoders.people import BOX, KEYPOINTS, SCORE, marks_of, overlaps, suppress
from splite_deploy.metrics.detections import pairs_of

COMPARED = 16
"""So many candidates of a crop are compared, or as many as it shows people if those are more."""
MOST = 0.25
"""A network that takes a larger share of its candidates for people was not trained, or its threshold says nothing."""
MATCH = 0.5
"""Overlap from which two people are the same."""
CLOSE = 0.1
"""So close to the limit of the suppression either of two candidates may be the one that is left."""
_Numbers = NDArray[np.intp]


@dataclass(frozen=True)
class Matched:
    """What became of the people of the reference.

    Attributes:
        found: How many the reference shows.
        missed: Those of them that have no partner.
        new: People without a partner in the reference.
        beyond: By how much the score of one of these two lies over the threshold, at most; 0 if there are none.
        deviation_px: (P, K) distances of the keypoints of the P people that have a partner, pixels of the input; of
            networks without keypoints those of two corners of their boxes, (P, 2).
        overlap: (P,) intersection over union of their boxes.
        centre_px: (P,) distances of the centres of these, pixels of the input.
        centre_share: (P,) the same by the longer side of the box.
    """

    found: int
    missed: int
    new: int
    beyond: float
    deviation_px: DoubleArray
    overlap: DoubleArray
    centre_px: DoubleArray
    centre_share: DoubleArray


@dataclass(frozen=True)
class Moved:
    """What was compared.

    Attributes:
        deviation_px: (M, K) distances of the keypoints of M candidates in pixels of the network's input, or (M, 2); see
            `Matched`.
        scores: (M,) differences of their scores.
        people: What became of the people; None where the network finds nobody, or everybody.
    """

    deviation_px: DoubleArray
    scores: DoubleArray
    people: Matched | None


def compare_people(before: FloatArray, after: FloatArray, decoder: PeopleDecoder, size: InputSize) -> Moved:
    """Compares candidates and people.

    Args:
        before: (N, A, 5 + 3 K) candidates of the reference; see `splite_deploy.decoders.people`.
        after: The same of what is compared with it.
        decoder: Says who of them is a person.
        size: Of the network's input.
    """
    shows = finds_people(before, decoder)
    moved_px, scores = [], []
    # Where rows fill up what a crop has too few of, see `joined`, a number does not say where a candidate lies
    numbered = decoder.numbered and all(_is_one(candidates).all() for candidates in (before, after))
    chosen_of = _chosen(before, decoder, size, shows)
    for first, second, chosen in zip(before, after, chosen_of, strict=True):
        ours, theirs = (chosen, chosen) if numbered else _nearest(first, chosen, second)
        moved_px.append(_distances(first[ours], second[theirs]))
        scores.append(np.abs(first[ours, SCORE].astype(np.float64) - second[theirs, SCORE]))
    people = _matched(before, after, decoder, size) if shows else None
    return Moved(np.concatenate(moved_px), np.concatenate(scores), people)


def finds_people(candidates: FloatArray, decoder: PeopleDecoder) -> bool:
    """Whether there are people, and not as good as everywhere, as a network finds them that was not trained."""
    share = float((candidates[..., SCORE] >= decoder.min_score).mean())
    return 0 < share <= MOST if decoder.numbered else 0 < share < 1


def crops_with_people(candidates: FloatArray, decoder: PeopleDecoder) -> _Numbers:
    """Which crops show people; all of them where the network finds none."""
    if not finds_people(candidates, decoder):
        return np.arange(len(candidates))
    return np.flatnonzero((candidates[..., SCORE] >= decoder.min_score).any(axis=1))


def same_person(candidates: FloatArray, decoder: PeopleDecoder) -> FloatArray:
    """Keypoints (N, K, 3) of one person in N crops that show the same: the best candidate of the first crop.

    Of networks without keypoints two corners of its box, (N, 2, 3).
    """
    best = int(candidates[0, :, SCORE].argmax())
    numbered = decoder.numbered and bool(_is_one(candidates).all())
    rows = []
    for one in candidates:
        _, same = _nearest(candidates[0], np.array([best]), one)
        rows.append(one[best if numbered or not len(same) else same[0]])
    return marks_of(np.stack(rows))


def nearest_person(candidates: FloatArray, keypoints: FloatArray) -> FloatArray:
    """Keypoints (K, 2) of the candidate of one crop, (A, 5 + 3 K), that lie nearest to others, among the best ones."""
    points = marks_of(candidates[np.argsort(-candidates[:, SCORE], kind="stable")[:COMPARED]])[..., :2]
    nearest: FloatArray = points[np.linalg.norm(points - keypoints, axis=2).mean(axis=1).argmin()]
    return nearest


def _chosen(candidates: FloatArray, decoder: PeopleDecoder, size: InputSize, shows: bool) -> list[_Numbers]:
    """Numbers of the candidates of each crop that are compared: its people, then the best of the others."""
    may, found = decoder.stand_out(candidates[..., SCORE], size), []
    for crop, rows in enumerate(candidates):
        order = np.argsort(-rows[:, SCORE], kind="stable")
        if not shows:
            found.append(order[:COMPARED])
            continue
        good = order[rows[order, SCORE] >= decoder.min_score]
        tops = good if may is None else good[may[crop][good]]
        numbered = np.column_stack([rows[tops, :KEYPOINTS], np.arange(len(tops))])
        way = decoder.way()
        kept = suppress(numbered, decoder.overlap, decoder.max_people, "none" if way == "none" else "greedy")
        people = tops[kept[:, KEYPOINTS].astype(np.intp)]
        others = good[~np.isin(good, people)]
        found.append(np.concatenate([people, others[: max(COMPARED - len(people), 0)]]))
    return found


def _is_one(candidates: FloatArray) -> NDArray[np.bool_]:
    """(..., A) which rows are candidates, and do not fill up; see `splite_deploy.decoders.people.joined`."""
    found: NDArray[np.bool_] = candidates.any(axis=-1)
    return found


def _nearest(first: FloatArray, chosen: _Numbers, second: FloatArray) -> tuple[_Numbers, _Numbers]:
    """Numbers of candidates, and of those of another network that lie nearest by box and keypoints, each used once.

    Networks that sort candidates by score exchange those of about the same one. Where the other gives fewer, the
    farthest have no partner: whether they are missed the comparison of people tells.

    Args:
        first: (A, 5 + 3 K).
        chosen: Which of these.
        second: (B, 5 + 3 K).
    """
    ours, theirs = chosen[_is_one(first[chosen])], np.flatnonzero(_is_one(second))
    columns = [*range(SCORE), *(c for c in range(KEYPOINTS, first.shape[1]) if (c - KEYPOINTS) % 3 < 2)]
    away = np.abs(first[ours][:, None, columns] - second[theirs][None, :, columns]).mean(axis=2)
    partner: dict[int, int] = {}
    for _ in range(min(away.shape)):
        row, column = (int(one) for one in np.unravel_index(away.argmin(), away.shape))
        partner[row] = column
        away[row], away[:, column] = np.inf, np.inf
    rows = sorted(partner)
    return ours[rows], theirs[[partner[row] for row in rows]]


def _matched(before: FloatArray, after: FloatArray, decoder: PeopleDecoder, size: InputSize) -> Matched:
    """Matches the people of each crop, those that overlap most first."""
    found, missed, new, beyond = 0, 0, 0, 0.0
    moved_px, boxes, shares = [np.zeros((0, marks_of(before[0, :1]).shape[1]))], [np.zeros((0, 4))], [np.zeros(0)]
    away_px = [np.zeros(0)]
    everybody = (decoder.people_among(candidates, size) for candidates in (before, after))
    for ours, theirs in zip(*everybody, strict=True):
        shared = overlaps(ours[:, BOX], theirs[:, BOX])
        pairs = dict(pairs_of(shared, MATCH))
        found += len(ours)
        first, second = ours[list(pairs)], theirs[list(pairs.values())]
        moved_px.append(_distances(first, second))
        boxes.append(first[:, BOX].astype(np.float64))
        shares.append(shared[list(pairs), list(pairs.values())].astype(np.float64))
        middles = (rows[:, BOX].reshape(-1, 2, 2).astype(np.float64).mean(axis=1) for rows in (first, second))
        away_px.append(np.linalg.norm(np.subtract(*middles), axis=1))
        for alone, others, overlap in (
            (np.delete(ours, list(pairs), axis=0), theirs, np.delete(shared, list(pairs), axis=0)),
            (np.delete(theirs, list(pairs.values()), 0), ours, np.delete(shared, list(pairs.values()), 1).T),
        ):
            # One that lies this close to another may have been left out in its favour
            most = overlap.max(axis=1, initial=0.0)
            lost = alone[(most < decoder.overlap - CLOSE) | (most == 0), SCORE]
            full = len(others) == decoder.max_people
            threshold = float(others[:, SCORE].min()) if full else decoder.min_score
            beyond = max(beyond, float((lost - threshold).max(initial=0.0)))
            missed, new = (missed + len(lost), new) if others is theirs else (missed, new + len(lost))
    x0, y0, x1, y1 = np.concatenate(boxes).T
    sides = np.maximum(x1 - x0, y1 - y0)
    return Matched(
        found,
        missed,
        new,
        beyond,
        np.concatenate(moved_px),
        overlap=np.concatenate(shares),
        centre_px=np.concatenate(away_px),
        centre_share=np.concatenate(away_px) / sides,
    )


def _distances(first: FloatArray, second: FloatArray) -> DoubleArray:
    """(M, P) distances of what `marks_of` gives of candidates."""
    points = [marks_of(rows)[..., :2].astype(np.float64) for rows in (first, second)]
    distances: DoubleArray = np.linalg.norm(points[0] - points[1], axis=-1)
    return distances
