"""Between what every number of a model spec lies, written once.

No network of any size goes beyond them, and what does would end elsewhere and later: in memory that nobody has, in NaN,
or in limits that let everything pass. A decoder may say more of its own parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from splite_deploy.errors import require

Bounds = tuple[float, float]

LONGEST_INPUT_PX = 4096
"""Longest side of a network's input, pixels."""
MOST_KEYPOINTS = 4096
LONGEST_NAME = 200
"""Characters of the name of a model or of a keypoint."""
BOUNDS: Mapping[str, Bounds] = {
    "input.height": (1, LONGEST_INPUT_PX),
    "input.width": (1, LONGEST_INPUT_PX),
    "input.std": (1e-3, 1e4),
    "input.box_padding": (0.1, 10),
    "limits.shift_p95_px": (0, 1_000),
    "limits.shift_max_px": (0, 1e6),  # several times the one of p95, where an export sets it
    "limits.depth_p95": (0, 1e6),
    "limits.score_max": (0, 1),
    "limits.head_p95": (0, 1),
    "limits.box_iou_p05": (0, 0.9999),
    "limits.centre_p95_pct": (0, 100),
    "palm_mm": (0.1, 1e4),
    "decoder.stride": (0.01, LONGEST_INPUT_PX),
    "decoder.strides": (0.01, LONGEST_INPUT_PX),
    "decoder.beta": (1e-6, 1e6),
    "decoder.split_ratio": (1e-3, 100),
    "decoder.radius_factor": (1e-3, 1e3),
    "decoder.depth_extent": (1e-3, 1e5),
    "decoder.bins": (1, 65_536),
    "decoder.classes": (1, 65_536),
    "decoder.max_people": (1, 10_000),
    "decoder.window": (1, LONGEST_INPUT_PX),
    "decoder.score_window": (1, LONGEST_INPUT_PX),
    "decoder.score_clipping": (1e-3, 1e6),
    "decoder.scale": (1e-6, 1e6),
    "decoder.anchors": (1e-3, 1e5),
    "decoder.min_scale": (1e-6, 1e3),
    "decoder.max_scale": (1e-6, 1e3),
    "decoder.aspect_ratios": (1e-3, 1e3),
}
"""Of fields by their names in ``model.toml``, both ends included. Of others, `ELSEWHERE`."""
ELSEWHERE: Bounds = (-1e6, 1e6)


def check_bounds(table: object, where: str) -> None:
    """Compares every number of a table with its bounds.

    Args:
        table: A dataclass of the spec.
        where: Its name in ``model.toml``; empty at the top.

    Raises:
        SpecError: A number lies beyond them; the message gives both.
    """
    for field in dataclasses.fields(table):  # type: ignore[arg-type]  # a dataclass, as its argument says
        name = f"{where}.{field.name}" if where else field.name
        least, most = BOUNDS.get(name, ELSEWHERE)
        for value in _numbers(getattr(table, field.name)):
            said = f"{name} is {value:.6g}, and must lie between {least:g} and {most:g}"
            require(least <= value <= most, said)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, tuple):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value
