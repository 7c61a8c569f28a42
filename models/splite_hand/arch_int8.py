"""SPLite Hand with torch's fake quantisers wherever its int8 graphs quantise, for training and export.

See ``../common/fake_quant.py``. The two convolutions before the outputs stay float, as in every export.
"""

from __future__ import annotations

import sys
from pathlib import Path

from torch import Tensor, nn
from torch.ao import quantization as ao

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from arch import InvertedResidual, SpliteHand, SqueezeExcite, Upsample
from arch import build as build_float
from fake_quant import QuantisedGate, become, quantise_convolutions, round_weights, set_quantisers

__all__ = ["build", "quantise", "round_weights", "set_quantisers"]


class QuantisedResidual(InvertedResidual):
    """An inverted residual whose sum is quantised."""

    quantiser: ao.FakeQuantize

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return self.quantiser(y) if self.residual else y


class QuantisedUpsample(Upsample):
    """An upsampling step whose sum is quantised."""

    quantiser: ao.FakeQuantize

    def forward(self, x: Tensor, lateral: Tensor) -> Tensor:
        joined = self.quantiser(self.shuffle(self.up(x)) + self.lateral(lateral))
        smoothed: Tensor = self.smooth(joined)
        return smoothed


class QuantisedHand(SpliteHand):
    """SPLite Hand whose input is quantised."""

    quantiser: ao.FakeQuantize

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(self.quantiser(image))


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    SqueezeExcite: QuantisedGate,
    InvertedResidual: QuantisedResidual,
    Upsample: QuantisedUpsample,
    SpliteHand: QuantisedHand,
}


def quantise(network: nn.Module) -> nn.Module:
    """Puts fake quantisers into a network of `arch.py`, in place; their scales are still to be observed or loaded."""
    quantise_convolutions(network)
    for module in list(network.modules()):
        kind = _KINDS.get(type(module))
        if kind is not None and (kind is not QuantisedResidual or module.residual):
            become(module, kind)
    return network


def build(width: float = 1.0, depth: float = 1.0, keypoints: int = 21, squeeze_excite: bool = True) -> nn.Module:
    """Builds the network with quantisers; see `arch.SpliteHand` for the arguments."""
    return quantise(build_float(width, depth, keypoints, squeeze_excite)).eval()
