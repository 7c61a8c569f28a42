"""Skeletons with a name, for ``[skeleton] preset = "NAME"`` in ``model.toml``. A bundle holds their fields, no name.

Keypoints that a mirror exchanges have the same name but for "left" and "right", which are those of the person. Order,
edges and sigmas are those of the data sets, whose sources stand beside each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

from splite_deploy.errors import SpecError

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class SkeletonPreset:
    """A skeleton that several models share.

    Attributes:
        keypoint_names: K names, in the order of the network's outputs.
        edges: Pairs of keypoint indices, for drawing.
        flip_pairs: Left/right pairs that a mirror exchanges.
        oks_sigmas: K standard deviations between annotators over the square root of the object's area, for
            `splite_deploy.metrics.accuracy.oks`; empty where none are published.
        about: What it is, in a few words.
    """

    keypoint_names: tuple[str, ...]
    edges: Pairs
    flip_pairs: Pairs = ()
    oks_sigmas: tuple[float, ...] = ()
    about: str = ""


def _preset(
    about: str, names: Sequence[str], edges: Sequence[tuple[int, int]], sigmas: Sequence[float] = ()
) -> SkeletonPreset:
    """A preset whose flip pairs are told by the names; sigmas are in thousandths, as they are published."""
    place = {name: index for index, name in enumerate(names)}
    pairs = [tuple(sorted((place[name], place[_mirrored(name)]))) for name in names if "left" in name.split("_")]
    flips: Pairs = tuple((low, high) for low, high in sorted(pairs))
    return SkeletonPreset(tuple(names), tuple(edges), flips, tuple(sigma / 1000 for sigma in sigmas), about)


def _mirrored(name: str) -> str:
    return "_".join({"left": "right", "right": "left"}.get(word, word) for word in name.split("_"))


def _sides(*parts: str, order: tuple[str, str] = ("left", "right")) -> list[str]:
    """Each part of both sides: left_eye, right_eye, left_ear ..."""
    return [f"{side}_{part}" for part in parts for side in order]


def _moved(edges: Sequence[tuple[int, int]], by: int) -> list[tuple[int, int]]:
    return [(a + by, b + by) for a, b in edges]


def _ring(first: int, last: int) -> list[tuple[int, int]]:
    """Edges around the keypoints of a closed contour."""
    return [*pairwise(range(first, last + 1)), (last, first)]


_HEAD_EDGES = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6)]
_ARM_EDGES = [(5, 7), (7, 9), (6, 8), (8, 10)]
_LEG_EDGES = [(11, 13), (13, 15), (12, 14), (14, 16)]
_BODY = ["nose", *_sides("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")]
_BODY_EDGES = [*_HEAD_EDGES, (5, 6), *_ARM_EDGES, (5, 11), (6, 12), (11, 12), *_LEG_EDGES]
_BODY_SIGMAS = [26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]

_FINGERS = ("index", "middle", "ring", "little")
_HAND = [
    "wrist",
    *(f"thumb_{part}" for part in ("cmc", "mcp", "ip", "tip")),
    *(f"{finger}_{part}" for finger in _FINGERS for part in ("mcp", "pip", "dip", "tip")),
]


def _hand_edges(*roots: int) -> list[tuple[int, int]]:
    """Edges of the fingers, each joined to its root."""
    bases = range(1, 21, 4)
    fingers = (((root, base), *pairwise(range(base, base + 4))) for root, base in zip(roots, bases, strict=True))
    return list(chain.from_iterable(fingers))


_FAN_EDGES = _hand_edges(0, 0, 0, 0, 0)
_PALM_EDGES = [*_hand_edges(0, 0, 5, 9, 13), (0, 17)]
_HAND_SIGMAS = [29, 22, 35, 37, 47, 26, 25, 24, 35, 18, 24, 22, 26, 17, 21, 21, 32, 20, 19, 22, 31]

_FACE = [
    *(f"right_jaw_{i}" for i in range(1, 9)),
    "chin",
    *(f"left_jaw_{i}" for i in range(8, 0, -1)),
    *(f"right_brow_{i}" for i in range(1, 6)),
    *(f"left_brow_{i}" for i in range(5, 0, -1)),
    *(f"nose_bridge_{i}" for i in range(1, 5)),
    *("right_nostril_1", "right_nostril_2", "nose_base", "left_nostril_2", "left_nostril_1"),
    *(f"right_eyelid_{i}" for i in (1, 2, 3, 4, 5, 6)),
    *(f"left_eyelid_{i}" for i in (4, 3, 2, 1, 6, 5)),
    *(f"right_outer_lip_{i}" for i in (1, 2, 3)),
    "upper_outer_lip",
    *(f"left_outer_lip_{i}" for i in (3, 2, 1, 4, 5)),
    "lower_outer_lip",
    *(f"right_outer_lip_{i}" for i in (5, 4)),
    *("right_inner_lip_1", "right_inner_lip_2", "upper_inner_lip", "left_inner_lip_2", "left_inner_lip_1"),
    *("left_inner_lip_3", "lower_inner_lip", "right_inner_lip_3"),
]
"""Each side from the outside to the middle, in the order of iBUG's 68 points."""
_FACE_EDGES = [
    *pairwise(range(17)),
    *pairwise(range(17, 22)),
    *pairwise(range(22, 27)),
    *pairwise(range(27, 31)),
    *pairwise(range(31, 36)),
    *(edge for ends in ((36, 41), (42, 47), (48, 59), (60, 67)) for edge in _ring(*ends)),
]
_FACE_SIGMAS = [
    *(42, 43, 44, 43, 40, 35, 31, 25, 20, 23, 29, 32, 37, 38, 43, 41, 45),
    *(13, 12, 11, 11, 12, 12, 11, 11, 13, 15),
    *(9, 7, 7, 7, 12, 9, 8, 16, 10, 17, 11, 9, 11, 9, 7, 13, 8, 11, 12, 10),
    *(34, 8, 8, 9, 8, 8, 7, 10, 8, 9, 9, 9, 7, 7, 8, 11, 8, 8, 8, 10, 8),
]


def _both_hands() -> list[str]:
    """Left, then right; their wrists are called roots, since the body has wrists."""
    return [f"{side}_hand_{'root' if part == 'wrist' else part}" for side in ("left", "right") for part in _HAND]


COCO17 = _preset("a person as COCO labels it", _BODY, _BODY_EDGES, _BODY_SIGMAS)
""""person_keypoints" of COCO's annotations, and the sigmas of its "Keypoint Evaluation" (cocodataset.org)."""

HAND21 = _preset("a hand: wrist, then thumb to little finger", _HAND, _PALM_EDGES, _HAND_SIGMAS)
"""A hand: the wrist, then the thumb to the little finger, each from the palm to the tip, as in MediaPipe Hands. Sigmas:
the hands of COCO-WholeBody (github.com/jin-s13/COCO-WholeBody, evaluation), relative to the area of the hand."""

COCO_WHOLEBODY = _preset(
    "a person with feet, face and hands as COCO-WholeBody labels it",
    [
        *(*_BODY, *(f"{side}_{part}" for side in ("left", "right") for part in ("big_toe", "small_toe", "heel"))),
        *(*_FACE, *_both_hands()),
    ],
    [
        *(*_BODY_EDGES, *((15, toe) for toe in (17, 18, 19)), *((16, toe) for toe in (20, 21, 22))),
        *(*_moved(_FACE_EDGES, 23), (9, 91), *_moved(_FAN_EDGES, 91), (10, 112), *_moved(_FAN_EDGES, 112)),
    ],
    [*_BODY_SIGMAS, 68, 66, 66, 92, 94, 94, *_FACE_SIGMAS, *_HAND_SIGMAS, *_HAND_SIGMAS],
)
"""17 of COCO, 6 of the feet, 68 of the face, 21 of each hand, and the sigmas of its evaluation (Jin et al. 2020,
github.com/jin-s13/COCO-WholeBody)."""

_HALPE = [*_BODY, "head", "neck", "hip", *_sides("big_toe", "small_toe", "heel")]
_HALPE_EDGES = [
    *(*_HEAD_EDGES, *_ARM_EDGES, *_LEG_EDGES),
    *((17, 18), (18, 19), (18, 5), (18, 6), (19, 11), (19, 12)),
    *((15, 20), (15, 22), (15, 24), (16, 21), (16, 23), (16, 25)),
]
_HALPE_SIGMAS = [*_BODY_SIGMAS, 80, 80, 80, *6 * [89]]

HALPE26 = _preset("a person with head, neck, hip and feet as Halpe labels it", _HALPE, _HALPE_EDGES, _HALPE_SIGMAS)
"""Body and feet of Halpe-FullBody (Fang et al. 2022, github.com/Fang-Haoshu/Halpe-FullBody), and the sigmas of its
HalpeCOCOAPI; mmpose's halpe26 has 26, 26 and 66 thousandths for head, neck and hip, and 79 for the feet."""

HALPE136 = _preset(
    "a person with feet, face and hands as Halpe labels it",
    [*_HALPE, *_FACE, *_both_hands()],
    [*_HALPE_EDGES, *_moved(_FACE_EDGES, 26), (9, 94), *_moved(_FAN_EDGES, 94), (10, 115), *_moved(_FAN_EDGES, 115)],
    [*_HALPE_SIGMAS, *(68 + 42) * [15]],
)
"""All of Halpe-FullBody, and the sigmas of its HalpeCOCOAPI."""

MPII16 = _preset(
    "a person as MPII labels it",
    [
        *("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle"),
        *("pelvis", "thorax", "upper_neck", "head_top"),
        *("right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist"),
    ],
    [
        *((0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9)),
        *((7, 12), (12, 11), (11, 10), (7, 13), (13, 14), (14, 15)),
    ],
    [89, 83, 107, 107, 83, 89, 26, 26, 26, 26, 62, 72, 179, 179, 72, 62],
)
"""MPII Human Pose (Andriluka et al. 2014); it publishes no sigmas, these are those of mmpose
(configs/_base_/datasets/mpii.py)."""

AIC14 = _preset(
    "a person as AI Challenger labels it",
    [
        *(f"{side}_{part}" for side in ("right", "left") for part in ("shoulder", "elbow", "wrist")),
        *(f"{side}_{part}" for side in ("right", "left") for part in ("hip", "knee", "ankle")),
        *("head_top", "neck"),
    ],
    [
        *((0, 1), (1, 2), (3, 4), (4, 5), (0, 13), (3, 13), (12, 13), (0, 6), (3, 9), (6, 9)),
        *((6, 7), (7, 8), (9, 10), (10, 11)),
    ],
    [
        *(13.88152, 15.15228, 10.57665, 14.17709, 14.97891, 14.02144, 39.09642),
        *(36.86941, 19.81803, 38.43971, 34.12318, 24.15081, 12.91456, 12.36173),
    ],
)
"""AI Challenger 2017, and the sigmas of its evaluation (github.com/AIChallenger/AI_Challenger_2017)."""

CROWDPOSE14 = _preset(
    "a person as CrowdPose labels it",
    [*_sides("shoulder", "elbow", "wrist", "hip", "knee", "ankle"), "top_head", "neck"],
    [
        *((12, 13), (0, 13), (1, 13), (0, 1), (0, 2), (2, 4), (1, 3), (3, 5), (0, 6), (1, 7), (6, 7)),
        *((6, 8), (8, 10), (7, 9), (9, 11)),
    ],
    [79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89, 79, 79],
)
"""CrowdPose (Li et al. 2019), and the sigmas of its API (github.com/Jeff-sjtu/CrowdPose)."""

BLAZEPOSE33 = _preset(
    "a person as MediaPipe BlazePose finds it",
    [
        *("nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer"),
        *("left_ear", "right_ear", "mouth_left", "mouth_right"),
        *_sides("shoulder", "elbow", "wrist", "pinky", "index", "thumb"),
        *_sides("hip", "knee", "ankle", "heel", "foot_index"),
    ],
    [
        *((0, 1), (1, 2), (2, 3), (3, 7), (0, 4), (4, 5), (5, 6), (6, 8), (9, 10), (11, 12)),
        *((11, 13), (13, 15), (15, 17), (15, 19), (15, 21), (17, 19)),
        *((12, 14), (14, 16), (16, 18), (16, 20), (16, 22), (18, 20)),
        *((11, 23), (12, 24), (23, 24), (23, 25), (25, 27), (27, 29), (27, 31), (29, 31)),
        *((24, 26), (26, 28), (28, 30), (28, 32), (30, 32)),
    ],
)
"""MediaPipe's pose landmarks (Bazarevsky et al. 2020, "Pose landmark detection guide" of ai.google.dev); the network
gives six points more behind them. No sigmas are published."""

FACE68 = _preset("the contours of a face: iBUG's 68 points, 300-W", _FACE, _FACE_EDGES, _FACE_SIGMAS)
"""300-W (Sagonas et al. 2016, ibug.doc.ic.ac.uk/resources/300-W); sigmas: the faces of COCO-WholeBody, which has the
same points, relative to the area of the face."""

SKELETONS: Mapping[str, SkeletonPreset] = {
    "coco17": COCO17,
    "coco-wholebody": COCO_WHOLEBODY,
    "halpe26": HALPE26,
    "halpe136": HALPE136,
    "hand21": HAND21,
    "mpii16": MPII16,
    "aic14": AIC14,
    "crowdpose14": CROWDPOSE14,
    "blazepose33": BLAZEPOSE33,
    "face68": FACE68,
}
"""Presets by the name that ``model.toml`` gives."""


def presets_of(count: int) -> tuple[str, ...]:
    """The names of the presets that have so many keypoints."""
    return tuple(name for name, preset in SKELETONS.items() if len(preset.keypoint_names) == count)


def oks_sigmas(keypoint_names: Sequence[str]) -> tuple[float, ...] | None:
    """The published sigmas of a skeleton, known by the names of its keypoints; None where there are none."""
    found = (preset for preset in SKELETONS.values() if preset.keypoint_names == tuple(keypoint_names))
    preset = next(found, None)
    return preset.oks_sigmas if preset is not None and preset.oks_sigmas else None


def expand_preset(skeleton: Mapping[str, Any]) -> Mapping[str, Any]:
    """Replaces ``preset`` in a ``[skeleton]`` table by the fields of the preset.

    Raises:
        SpecError: There is no such preset, or the table has fields beside it.
    """
    if "preset" not in skeleton:
        return skeleton
    name = skeleton["preset"]
    if not isinstance(name, str) or name not in SKELETONS:
        raise SpecError(
            f"Model spec: skeleton.preset is {name!r}, which is not a preset.",
            hint=f"Choose one of: {', '.join(SKELETONS)}; or write keypoint_names and edges.",
        )
    others = [field for field in skeleton if field != "preset"]
    if others:
        raise SpecError(
            f"Model spec: skeleton has the preset '{name}' and {', '.join(others)} beside it.",
            hint="Leave out the preset and write every field, or leave out the others.",
        )
    preset = SKELETONS[name]
    fields = {"keypoint_names": list(preset.keypoint_names), "edges": [list(edge) for edge in preset.edges]}
    return {**fields, "flip_pairs": [list(pair) for pair in preset.flip_pairs]}
