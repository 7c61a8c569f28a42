"""SPLite Hand 2 with torch's fake quantisers wherever its int8 graphs quantise, for training and export.

See ``../common/fake_quant.py``. The convolutions and linear layers before the outputs stay float, as in every export.
Weights have 7 bits, so that the network computes the same on every CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.ao import quantization as ao

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from fake_quant import SEVEN_BITS, become, quantise_convolutions, round_weights, set_quantisers
from hand2_arch import Block, SpliteHand2, Upsample
from hand2_arch import build as build_float

__all__ = ["build", "quantise", "round_weights", "set_quantisers"]


class QuantisedBlock(Block):
    """A residual block whose sum is quantised."""

    quantiser: ao.FakeQuantize

    def forward(self, x: Tensor) -> Tensor:
        summed: Tensor = self.quantiser(super().forward(x))
        return summed


class QuantisedUpsample(Upsample):
    """An upsampling step whose sum is quantised."""

    quantiser: ao.FakeQuantize

    def forward(self, x: Tensor, lateral: Tensor) -> Tensor:
        joined = self.quantiser(self.act(self.shuffle(self.up(x)) + self.lateral(lateral)))
        smoothed: Tensor = self.smooth(joined)
        return smoothed


class QuantisedHand2(SpliteHand2):
    """SPLite Hand 2 whose input is quantised."""

    quantiser: ao.FakeQuantize

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return super().forward(self.quantiser(image))


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    Block: QuantisedBlock,
    Upsample: QuantisedUpsample,
    SpliteHand2: QuantisedHand2,
}


def quantise(network: nn.Module) -> nn.Module:
    """Puts fake quantisers into a network of `hand2_arch.py`, in place; their scales are still to be observed."""
    quantise_convolutions(network, SEVEN_BITS)
    for module in list(network.modules()):
        kind = _KINDS.get(type(module))
        if kind is not None:
            become(module, kind)
    return network


def build(
    channels: Sequence[int] = (16, 32, 64),
    blocks: Sequence[int] = (1, 2, 2),
    head: Sequence[int] = (32, 32),
    smooth: Sequence[int] = (3, 1),
    keypoints: int = 21,
) -> nn.Module:
    """Builds the network with quantisers; see `hand2_arch.SpliteHand2` for the arguments."""
    return quantise(build_float(channels, blocks, head, smooth, keypoints)).eval()
