"""What the depth of a decoder is relative to, and measured in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from splite_deploy.errors import require

Unit = Literal["palm", "mm"]
"""Of points in three dimensions."""
DepthUnit = Literal["palm", "mm", "pixel"]
"""Of the depth that a network gives. ``palm``: palm lengths. ``mm``: millimetres. ``pixel``: pixels of the input, at
the scale of x and y."""


@dataclass(frozen=True)
class Depth:
    """How depths are to be read.

    A palm is the root mean square length of the scale bones. For a body any bones will do whose length is known, such
    as those from the hips to the shoulders.

    Attributes:
        root_keypoint: Depths are relative to this keypoint.
        unit: What they are measured in.
        scale_bones: Pairs of keypoints whose root mean square length is one palm.
    """

    root_keypoint: int
    unit: DepthUnit
    scale_bones: tuple[tuple[int, int], ...]

    def check_fields(self) -> None:
        """Refuses a root or bones that no skeleton has.

        Raises:
            SpecError: A number is negative, or a bone has no length.
        """
        require(self.root_keypoint >= 0, "decoder.root_keypoint must not be negative")
        require(len(self.scale_bones) > 0, "decoder.scale_bones needs at least one pair of keypoints")
        require(all(a != b for a, b in self.scale_bones), "decoder.scale_bones has a pair of one keypoint")

    def check(self, keypoints: int) -> None:
        """Refuses keypoints that the skeleton lacks.

        Raises:
            SpecError: The root or a bone names one.
        """
        used = {self.root_keypoint, *(i for bone in self.scale_bones for i in bone)}
        inside = min(used) >= 0 and max(used) < keypoints
        require(inside, "decoder.root_keypoint or scale_bones names no keypoint of the skeleton")
