"""Skeletons with a name, for ``[skeleton] preset = "NAME"`` in ``model.toml``. A bundle holds their fields, no name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from splite_deploy.errors import SpecError


@dataclass(frozen=True)
class SkeletonPreset:
    """A skeleton that several models share.

    Attributes:
        keypoint_names: K names, in the order of the network's outputs.
        edges: Pairs of keypoint indices, for drawing.
        flip_pairs: Left/right pairs that a mirror exchanges.
        oks_sigmas: K standard deviations between annotators over the square root of the object's area, for
            `splite_deploy.metrics.accuracy.oks`; empty where none are published.
    """

    keypoint_names: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    flip_pairs: tuple[tuple[int, int], ...] = ()
    oks_sigmas: tuple[float, ...] = ()


COCO17 = SkeletonPreset(
    keypoint_names=(
        "nose",
        *(
            f"{side}_{part}"
            for part in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
            for side in ("left", "right")
        ),
    ),
    edges=(
        *((0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
        *((5, 6), (5, 7), (7, 9), (6, 8), (8, 10)),
        *((5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16)),
    ),
    flip_pairs=tuple((left, left + 1) for left in range(1, 17, 2)),
    oks_sigmas=tuple(s / 1000 for s in (26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89)),
)
"""A person as COCO labels it: "person_keypoints" of its annotations, and the sigmas of its "Keypoint Evaluation"
(cocodataset.org)."""

HAND21 = SkeletonPreset(
    keypoint_names=(
        "wrist",
        *(f"thumb_{part}" for part in ("cmc", "mcp", "ip", "tip")),
        *(
            f"{finger}_{part}"
            for finger in ("index", "middle", "ring", "little")
            for part in ("mcp", "pip", "dip", "tip")
        ),
    ),
    edges=(
        *((0, 1), (1, 2), (2, 3), (3, 4)),
        *((0, 5), (5, 6), (6, 7), (7, 8)),
        *((5, 9), (9, 10), (10, 11), (11, 12)),
        *((9, 13), (13, 14), (14, 15), (15, 16)),
        *((13, 17), (17, 18), (18, 19), (19, 20), (0, 17)),
    ),
)
"""A hand: the wrist, then the thumb to the little finger, each from the palm to the tip, as in MediaPipe Hands."""

SKELETONS: Mapping[str, SkeletonPreset] = {"coco17": COCO17, "hand21": HAND21}
"""Presets by the name that ``model.toml`` gives."""


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
