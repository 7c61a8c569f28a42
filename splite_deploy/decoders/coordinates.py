"""Networks that give coordinates themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.base import Decoded, Decoder, InputSize, Sizes
from splite_deploy.decoders.depth import Depth, DepthUnit
from splite_deploy.errors import require

Column = Literal["x", "y", "z", "score"]
Scale = Literal["unit", "pixel", "symmetric"]
_ORDER: tuple[Column, ...] = ("x", "y", "z", "score")
_HINT = 'Say what the numbers of a keypoint are, in order: columns = ["x", "y", "z"]; a network\'s own order is put '
_HINT += "right by columns in [outputs.coordinates]."


@dataclass(frozen=True)
class Coordinates(Decoder):
    """Coordinates (N, K, C): x, y and, where the columns say so, a depth and a score.

    Attributes:
        scale: ``unit``: 0-1 over the input's width and height; ``pixel``: input pixels, origin at the corner;
            ``symmetric``: -1 to 1 over the input.
        columns: What the numbers of a keypoint are: ``x``, ``y``, then ``z`` and ``score`` where there are any. Without
            them they are x and y, and a third is a score.
        scores: Whether a second output holds the scores, in 0 to 1: (N, K), or one for all keypoints (N, 1), such as
            the presence of a hand.
        root_keypoint: Depths are relative to this keypoint; for ``z``.
        unit: What z is measured in: ``palm``, ``mm``, or ``pixel`` where it has the scale of x; for ``z``.
        scale_bones: Pairs of keypoints whose root mean square length is one palm; for ``z``.
    """

    type: ClassVar[str] = "coordinates"
    scale: Scale
    columns: tuple[Column, ...] | None = field(default=None, metadata={"hint": _HINT})
    scores: bool = False
    root_keypoint: int | None = None
    unit: DepthUnit | None = None
    scale_bones: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        if self.columns is not None:
            ordered = tuple(name for name in _ORDER if name in self.columns)
            ordered_ones = self.columns == ordered and self.columns[:2] == ("x", "y")
            require(ordered_ones, 'decoder.columns must be "x", "y", then "z" and "score" where there are any')
            both = self.scores and "score" in self.columns
            require(not both, 'decoder.scores is true and decoder.columns has a "score", too')
        for name in ("root_keypoint", "unit", "scale_bones"):
            given = getattr(self, name) is not None
            says = f"needs decoder.{name}" if self.has_z else f'takes no decoder.{name} without "z" in decoder.columns'
            require(given == self.has_z, f"the depth of coordinates {says}")
        if self.depth is not None:
            self.depth.check_fields()

    @property
    def has_z(self) -> bool:
        """Whether there is a depth."""
        return "z" in (self.columns or ())

    @property
    def depth(self) -> Depth | None:
        """How z is to be read."""
        if self.root_keypoint is None or self.unit is None or self.scale_bones is None:
            return None
        return Depth(self.root_keypoint, self.unit, self.scale_bones)

    @property
    def layouts(self) -> Mapping[str, str]:
        """The coordinates, and their scores where these have an output of their own."""
        return {"coordinates": "NKC", **({"scores": "NK"} if self.scores else {})}

    def shapes(self, keypoints: int, size: InputSize) -> Mapping[str, Sizes]:
        """As many columns as there are; two or three where none are named."""
        columns: int | tuple[int, ...] = (2, 3) if self.columns is None else len(self.columns)
        if self.columns is None and self.scores:
            columns = 2
        return {"coordinates": (keypoints, columns), **({"scores": ((1, keypoints),)} if self.scores else {})}

    def check(self, keypoints: int, size: InputSize) -> None:
        """Refuses keypoints that the skeleton lacks."""
        if self.depth is not None:
            self.depth.check(keypoints)

    def factors(self, size: InputSize) -> tuple[FloatArray, FloatArray]:
        """(2,) what x and y are multiplied by, and what is added then."""
        whole = np.array([size.width, size.height], np.float32)
        if self.scale == "symmetric":
            return whole / 2, whole / 2
        return (whole if self.scale == "unit" else np.ones(2, np.float32)), np.zeros(2, np.float32)

    def decode(self, outputs: Mapping[str, FloatArray], size: InputSize) -> Decoded:
        """Keypoints, scores and depths from ``coordinates`` (N, K, C); a score that nobody gave is 1."""
        values = outputs["coordinates"]
        factor, offset = self.factors(size)
        scores = np.ones(values.shape[:2], np.float32)
        if self.scores:
            scores = np.broadcast_to(outputs["scores"], values.shape[:2]).clip(0.0, 1.0).astype(np.float32)
        elif values.shape[2] > 2 + self.has_z:
            scores = values[..., 2 + self.has_z].clip(0.0, 1.0)
        depth = None
        if self.depth is not None:
            depth = values[..., 2] - values[:, self.depth.root_keypoint, None, 2]
            if self.depth.unit == "pixel":
                depth = depth * factor[0]
        return Decoded(values[..., :2] * factor + offset, scores, depth)
