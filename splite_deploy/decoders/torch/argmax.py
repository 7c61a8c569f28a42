"""`splite_deploy.decoders.argmax` in torch."""

from __future__ import annotations

from torch import Tensor

from splite_deploy.decoders.argmax import QUARTER_STENCIL, Argmax
from splite_deploy.decoders.base import InputSize
from splite_deploy.decoders.torch.taylor import PeakModule


class ArgmaxModule(PeakModule):
    """Keypoints (N, K, 2) in input pixels and scores (N, K) from a heatmap (N, K, H, W)."""

    def __init__(self, decoder: Argmax, keypoints: int, size: InputSize) -> None:
        super().__init__(decoder, keypoints, size, reach=1, stencil=QUARTER_STENCIL)
        self._moves = decoder.offset == "quarter"

    def forward(self, heatmap: Tensor) -> tuple[Tensor, ...]:
        """Keypoints and scores."""
        cells = self.largest(heatmap)
        if not self._moves:
            return self.places(cells), self.score(heatmap)
        step = self.differences(self.around(heatmap, cells)).sign() * 0.25
        return self.places(cells + step * self.inside(cells)), self.score(heatmap)
