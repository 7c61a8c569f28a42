"""`splite_deploy.decoders.udp` in torch, one module for each target."""

from __future__ import annotations

from torch import Tensor

from splite_deploy.decoders.base import InputSize
from splite_deploy.decoders.taylor import UDP_STENCIL, blurring
from splite_deploy.decoders.torch.taylor import PeakModule
from splite_deploy.decoders.udp import LEAST, MOST, Udp


class UdpGaussianModule(PeakModule):
    """Keypoints (N, K, 2) in input pixels and scores (N, K) from a heatmap (N, K, H, W)."""

    _down: Tensor
    _across: Tensor

    def __init__(self, decoder: Udp, keypoints: int, size: InputSize) -> None:
        super().__init__(decoder, keypoints, size, reach=1, stencil=UDP_STENCIL)
        self._constant("_down", blurring(self.height, decoder.blur_kernel, "zero"))
        self._constant("_across", blurring(self.width, decoder.blur_kernel, "zero").T)

    def forward(self, heatmap: Tensor) -> tuple[Tensor, ...]:
        """Keypoints and scores."""
        cells = self.largest(heatmap)
        smooth = self._down @ heatmap @ self._across
        most = self.flat(heatmap).amax(dim=-1, keepdim=True)
        scale = most / self.positive(self.flat(smooth).amax(dim=-1, keepdim=True), LEAST**2)
        around = self.around(smooth, cells) * scale
        step = self.newton_step(around.clamp(LEAST, MOST).log())
        return self.places(cells + step), most.squeeze(-1).clamp(0, 1)


class UdpCombinedModule(PeakModule):
    """Keypoints (N, K, 2) in input pixels and scores (N, K) from disks and offsets (N, 3 K, H, W)."""

    _down: Tensor
    _across: Tensor

    def __init__(self, decoder: Udp, keypoints: int, size: InputSize) -> None:
        pairs = [(3 * k + 1, 3 * k + 2) for k in range(keypoints)]
        super().__init__(decoder, keypoints, size, reach=0, kernel=decoder.blur_kernel, border="mirror", pairs=pairs)
        kernel = 2 * decoder.blur_kernel + 1
        self._constant("_down", blurring(self.height, kernel, "mirror"))
        self._constant("_across", blurring(self.width, kernel, "mirror").T)
        self._radius = decoder.radius(self.height, self.width)

    def forward(self, combined: Tensor) -> tuple[Tensor, ...]:
        """Keypoints and scores."""
        smooth = self._down @ combined[:, ::3] @ self._across
        cells = self.largest(smooth)
        step = self.vectors(combined, cells) * self._radius
        return self.places(cells + step), self.score(smooth)


def udp_module(decoder: Udp, keypoints: int, size: InputSize) -> PeakModule:
    """The module of the decoder's target."""
    made = UdpGaussianModule if decoder.target == "gaussian" else UdpCombinedModule
    return made(decoder, keypoints, size)
