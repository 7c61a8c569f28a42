"""`splite_deploy.decoders.dark` in torch."""

from __future__ import annotations

from torch import Tensor

from splite_deploy.decoders.base import InputSize
from splite_deploy.decoders.dark import LEAST, Dark
from splite_deploy.decoders.taylor import DARK_STENCIL
from splite_deploy.decoders.torch.taylor import PeakModule


class DarkModule(PeakModule):
    """Keypoints (N, K, 2) in input pixels and scores (N, K) from a heatmap (N, K, H, W)."""

    def __init__(self, decoder: Dark, keypoints: int, size: InputSize) -> None:
        super().__init__(decoder, keypoints, size, reach=2, kernel=decoder.blur_kernel, stencil=DARK_STENCIL)

    def forward(self, heatmap: Tensor) -> tuple[Tensor, ...]:
        """Keypoints and scores."""
        cells = self.largest(heatmap)
        step = self.newton_step(self.positive(self.around(heatmap, cells), LEAST).log())
        return self.places(cells + step * self.inside(cells)), self.score(heatmap)
