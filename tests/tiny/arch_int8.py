"""The tiny network trained for int8: torch's fake quantisers around its convolutions but for the heads."""

import torch
from torch import Tensor, nn
from torch.ao import quantization as ao

_LIMITS = {"quant_min": -128, "quant_max": 127, "dtype": torch.qint8}


def _activation() -> nn.Module:
    return ao.FakeQuantize(ao.MovingAverageMinMaxObserver, qscheme=torch.per_tensor_symmetric, **_LIMITS)


class Quantised(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, 2, 1)
        self.activation = _activation()
        observer = ao.MovingAveragePerChannelMinMaxObserver
        self.weight = ao.FakeQuantize(observer, qscheme=torch.per_channel_symmetric, ch_axis=0, **_LIMITS)

    def forward(self, x: Tensor) -> Tensor:
        weight, conv = self.weight(self.conv.weight), self.conv
        return torch.relu(nn.functional.conv2d(self.activation(x), weight, conv.bias, conv.stride, conv.padding))


class TinyInt8(nn.Module):
    def __init__(self, channels: int, keypoints: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(Quantised(3, channels), Quantised(channels, channels), _activation())
        self.heatmap = nn.Conv2d(channels, keypoints, 1)
        self.depth = nn.Conv2d(channels, keypoints, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(image)
        return self.heatmap(features), self.depth(features)


def build(channels: int = 8, keypoints: int = 5) -> nn.Module:
    """The network with random weights, always the same; its scales are still to be seen or loaded."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TinyInt8(channels, keypoints)
    with torch.no_grad():
        network.heatmap.weight.mul_(6)
    return network
