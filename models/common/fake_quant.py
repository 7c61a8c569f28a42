"""Torch's fake quantisers for networks of convolutions with batch norm, for training and export.

Symmetric int8 with zero points of 0, which TensorRT insists on and every other runtime takes: weights with one scale
per output channel, activations with one scale per tensor. An activation is part of its convolution, and batch norm is
folded into it with its statistics frozen. Parameters keep their names: without the quantisers' tensors this is a
checkpoint of the float network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.ao import quantization as ao
from torch.nn import functional as F

EIGHT_BITS, SEVEN_BITS = 127, 63
"""Steps from zero to a channel's largest weight. With 7 bits no CPU's sums saturate: those without VNNI and AMX add
pairs of int8 products in 16 bits, and 2 * 255 * 63 is less than 2**15."""
_INT8 = {"quant_min": -128, "quant_max": 127, "dtype": torch.qint8}


class _Largest(ao.MovingAveragePerChannelMinMaxObserver):  # type: ignore[misc]
    """Steps of the largest over a number of them; torch's own, for -128 to 127, are over 127.5."""

    def __init__(self, steps: int, **options: Any) -> None:
        super().__init__(**options)
        self.steps = steps

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        scale, zero_point = super().calculate_qparams()
        return scale * (127.5 / self.steps), zero_point


def activation() -> ao.FakeQuantize:
    """One scale per tensor, from the moving average of each batch's extremes."""
    return ao.FakeQuantize(ao.MovingAverageMinMaxObserver, qscheme=torch.per_tensor_symmetric, **_INT8)


def weight(steps: int = EIGHT_BITS) -> ao.FakeQuantize:
    """One scale per output channel, always that of the weights as they are: the largest over ``steps``."""
    scheme = torch.per_channel_symmetric
    return ao.FakeQuantize(_Largest, qscheme=scheme, ch_axis=0, averaging_constant=1.0, steps=steps, **_INT8)


class QuantisedConv(nn.Sequential):
    """A convolution with batch norm and perhaps an activation, whose weight and output are quantised."""

    def __init__(self, layers: nn.Sequential, steps: int = EIGHT_BITS) -> None:
        super().__init__(*layers)
        self.activates = len(layers) > 2
        self.weight_quantiser, self.quantiser = weight(steps), activation()

    def forward(self, x: Tensor) -> Tensor:
        conv, norm = self[0], self[1]
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        assert norm.running_var is not None and norm.running_mean is not None
        gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        folded = self.weight_quantiser(conv.weight * gain[:, None, None, None])
        bias = norm.bias - norm.running_mean * gain
        y = F.conv2d(x, folded, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        quantised: Tensor = self.quantiser(self[2](y) if self.activates else y)
        return quantised


class QuantisedGate(nn.Module):
    """Squeeze-excite of any class with these layers, whose mean, layers, gate and product are quantised.

    A hard sigmoid, clip(x / 6 + 1/2, 0, 1), lends its factor and its half to the convolution before it. A gate takes
    this class in place of its own, see `become`.
    """

    reduce: nn.Conv2d
    expand: nn.Conv2d
    act: nn.Module
    gate: nn.Module
    mean_quantiser: ao.FakeQuantize
    reduce_weight: ao.FakeQuantize
    reduce_quantiser: ao.FakeQuantize
    expand_weight: ao.FakeQuantize
    gate_quantiser: ao.FakeQuantize
    quantiser: ao.FakeQuantize

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.mean_quantiser(F.adaptive_avg_pool2d(x, 1))
        reduced = F.conv2d(squeezed, self.reduce_weight(self.reduce.weight), self.reduce.bias)
        reduced = self.reduce_quantiser(self.act(reduced))
        assert self.expand.bias is not None
        if isinstance(self.gate, nn.Hardsigmoid):
            gate = F.conv2d(reduced, self.expand_weight(self.expand.weight / 6), self.expand.bias / 6 + 0.5).clamp(0, 1)
        else:
            gate = self.gate(F.conv2d(reduced, self.expand_weight(self.expand.weight), self.expand.bias))
        gated: Tensor = self.quantiser(x * self.gate_quantiser(gate))
        return gated


def become(module: nn.Module, kind: type[nn.Module]) -> None:
    """Makes a module one of another class with the same layers, and adds the quantisers that this class names."""
    module.__class__ = kind
    for name, annotation in kind.__annotations__.items():
        if annotation == "ao.FakeQuantize":
            module.add_module(name, weight() if name.endswith("_weight") else activation())


def quantise_convolutions(network: nn.Module, steps: int = EIGHT_BITS) -> None:
    """Puts fake quantisers around every convolution that has a batch norm behind it in one `torch.nn.Sequential`.

    Args:
        network: Is changed in place.
        steps: From zero to the largest weight of a channel.
    """
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if _is_conv_bn(child):
                assert isinstance(child, nn.Sequential)
                setattr(module, name, QuantisedConv(child, steps))


def _is_conv_bn(module: nn.Module) -> bool:
    """Whether it is a convolution, a batch norm and at most an activation."""
    kinds = [type(layer) for layer in module] if type(module) is nn.Sequential else []
    return kinds[:2] == [nn.Conv2d, nn.BatchNorm2d] and len(kinds) <= 3


def set_quantisers(network: nn.Module, *, quantising: bool, observing: bool) -> None:
    """Switches the fake quantisers of a network and what they observe: without quantising it is the float network.

    Scales of weights always follow the weights where the network quantises.
    """
    for module in network.modules():
        if isinstance(module, ao.FakeQuantize):
            module.enable_fake_quant(quantising)
            module.enable_observer(quantising if module.is_per_channel else observing)


@torch.no_grad()
def round_weights(network: nn.Module) -> None:
    """Rounds the weights of a network with quantisers to the steps of their int8 form.

    The float network is then the one whose weights int8 has: the two differ by the rounding of activations alone.
    """
    for module in network.modules():
        if isinstance(module, QuantisedConv):
            conv, norm = module[0], module[1]
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None
            gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
            _round(conv.weight, gain, module.weight_quantiser.activation_post_process.steps)
        elif isinstance(module, QuantisedGate):
            _round(module.reduce.weight, torch.ones(1, dtype=torch.float64), EIGHT_BITS)
            _round(module.expand.weight, torch.ones(1, dtype=torch.float64), EIGHT_BITS)


def _round(weight: Tensor, gain: Tensor, steps: int) -> None:
    """Rounds a weight that is multiplied by ``gain``, for each output channel or for all, before it is quantised."""
    gain = gain.to(weight.device).reshape(-1, 1, 1, 1)
    folded = weight.double() * gain
    step = (folded.abs().amax((1, 2, 3), keepdim=True) / steps).clamp(min=torch.finfo(torch.float32).eps)
    weight.copy_(torch.where(gain == 0, weight.double(), torch.round(folded / step) * step / gain))
