"""The networks of this folder with torch's fake quantisers, for training and export; see ``../common/fake_quant.py``.

Transposed convolutions, products of weights and branches, and what makes the outputs stay float: an export measures the
ranges of those that int8 can hold.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.ao import quantization as ao

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from fake_quant import QuantisedGate, become, quantise_convolutions
from lite_backbones import ResidualBlock
from lite_blocks import Gate, InvertedResidual
from lite_network import LitePose
from lite_network import build as build_float


class QuantisedInvertedResidual(InvertedResidual):
    """An inverted residual whose sum is quantised."""

    quantiser: ao.FakeQuantize

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.quantiser(super().forward(x))
        return y


class QuantisedResidualBlock(ResidualBlock):
    """A residual block whose sum is quantised behind its ReLU."""

    quantiser: ao.FakeQuantize

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.quantiser(super().forward(x))
        return y


class QuantisedPose(LitePose):
    """A network whose input is quantised."""

    quantiser: ao.FakeQuantize

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return super().forward(self.quantiser(image))


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    Gate: QuantisedGate,
    InvertedResidual: QuantisedInvertedResidual,
    ResidualBlock: QuantisedResidualBlock,
    LitePose: QuantisedPose,
}


def quantise(network: nn.Module) -> nn.Module:
    """Puts fake quantisers into a `LitePose`, in place; their scales are still to be observed or loaded."""
    quantise_convolutions(network)
    for module in list(network.modules()):
        kind = _KINDS.get(type(module))
        summed = not isinstance(module, InvertedResidual) or module.residual
        if kind is not None and summed:
            become(module, kind)
    return network


def build(**arguments: Any) -> nn.Module:
    """Builds the network with quantisers; see `lite_network.build` for the arguments."""
    return quantise(build_float(**arguments)).eval()
