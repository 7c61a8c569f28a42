"""Global soft-argmax with a depth map per keypoint, z = sum(p * Z) (Iqbal et al. 2018, latent 2.5D)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.base import Decoded, InputSize
from splite_deploy.decoders.depth import Depth, Unit
from splite_deploy.decoders.softargmax import SoftArgmax, softargmax, window_mass


@dataclass(frozen=True)
class SoftArgmaxDepth(SoftArgmax):
    """Keypoints as `SoftArgmax`, and depths relative to one of them.

    Attributes:
        root_keypoint: Depths are relative to this keypoint.
        unit: ``palm``: depth is divided by the palm length, the root mean square of ``scale_bones``; ``mm``: the
            network gives millimetres.
        scale_bones: Pairs of keypoints whose root mean square length is one palm.
    """

    type: ClassVar[str] = "softargmax-depth"
    layouts: ClassVar[Mapping[str, str]] = {"heatmap": "NCHW", "depth": "NCHW"}
    root_keypoint: int
    unit: Unit
    scale_bones: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.depth.check_fields()

    @property
    def depth(self) -> Depth:
        """What the depth maps hold."""
        return Depth(self.root_keypoint, self.unit, self.scale_bones)

    def check(self, keypoints: int, size: InputSize) -> None:
        """Refuses keypoints that the skeleton lacks, too."""
        super().check(keypoints, size)
        self.depth.check(keypoints)

    def decode(self, outputs: Mapping[str, FloatArray], size: InputSize) -> Decoded:
        """Keypoints, scores and depths from ``heatmap``, logits, and ``depth``, both (N, K, H, W)."""
        keypoints, weights = softargmax(outputs["heatmap"], self)
        maps = outputs["depth"].reshape(weights.shape[0], weights.shape[1], -1)
        absolute = np.einsum("nkc,nkc->nk", weights.reshape(maps.shape), maps)
        depth = absolute - absolute[:, self.root_keypoint, None]
        return Decoded(keypoints, window_mass(weights, keypoints, self), depth)
