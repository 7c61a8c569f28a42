"""The tiny network trained for int8: torch's fake quantisers around its convolutions but for the heads."""

import torch
from torch import Tensor, nn
from torch.ao import quantization as ao

_LIMITS = {"quant_min": -128, "quant_max": 127, "dtype": torch.qint8}


def _activation(kind: str) -> nn.Module:
    if kind == "fused":  # torch's default for training: its observer and its quantiser are one operator
        return ao.FusedMovingAvgObsFakeQuantize(qscheme=torch.per_tensor_symmetric, **_LIMITS)
    if kind == "affine":
        limits = {"quant_min": 0, "quant_max": 255, "dtype": torch.quint8}
        return ao.FakeQuantize(ao.MovingAverageMinMaxObserver, qscheme=torch.per_tensor_affine, **limits)
    return ao.FakeQuantize(ao.MovingAverageMinMaxObserver, qscheme=torch.per_tensor_symmetric, **_LIMITS)


def _weight() -> nn.Module:
    observer = ao.MovingAveragePerChannelMinMaxObserver
    return ao.FakeQuantize(observer, qscheme=torch.per_channel_symmetric, ch_axis=0, **_LIMITS)


class Quantised(nn.Module):
    def __init__(self, inputs: int, outputs: int, kind: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, 2, 1)
        self.activation = _activation(kind)
        self.weight = _weight()

    def forward(self, x: Tensor) -> Tensor:
        weight, conv = self.weight(self.conv.weight), self.conv
        return torch.relu(nn.functional.conv2d(self.activation(x), weight, conv.bias, conv.stride, conv.padding))


class Gate(nn.Module):
    """Multiplies channels by what a trained linear layer makes of their means."""

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)
        self.weight = _weight()
        self.mean, self.gate, self.product = _activation(kind), _activation(kind), _activation(kind)

    def forward(self, x: Tensor) -> Tensor:
        gate = nn.functional.linear(self.mean(x.mean((2, 3))), self.weight(self.linear.weight), self.linear.bias)
        gated: Tensor = self.product(x * self.gate(torch.relu(1 + gate))[:, :, None, None])
        return gated


class TinyInt8(nn.Module):
    def __init__(self, channels: int, keypoints: int, kind: str, gated: bool) -> None:
        super().__init__()
        convs = Quantised(3, channels, kind), Quantised(channels, channels, kind)
        self.backbone = nn.Sequential(*convs, _activation(kind))
        self.gate = Gate(channels, kind) if gated else nn.Identity()
        self.heatmap = nn.Conv2d(channels, keypoints, 1)
        self.depth = nn.Conv2d(channels, keypoints, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.gate(self.backbone(image))
        return self.heatmap(features), self.depth(features)


def build(channels: int = 8, keypoints: int = 5, kind: str = "symmetric", gated: bool = False) -> nn.Module:
    """The network with random weights, always the same; its scales are still to be seen or loaded.

    Args:
        channels: Of both convolutions.
        keypoints: Number of keypoints.
        kind: Of its activations' quantisers: ``symmetric``, ``affine`` (uint8 with a zero point) or ``fused``.
        gated: Adds a linear layer.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TinyInt8(channels, keypoints, kind, gated)
    with torch.no_grad():
        network.heatmap.weight.mul_(6)
    return network
