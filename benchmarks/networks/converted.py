"""A small pose network, to be written by several frameworks: `converted_keras.py` is the same one in Keras."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def layer(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without a bias, and the norm behind it."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Converted(nn.Module):
    """Depthwise convolutions, a gate, a transposed convolution and an enlargement: (N, 3, 64, 64) to 4 heatmaps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep, self.wide = layer(3, 8, 3, 2), layer(8, 8, 3, 2, 8), layer(8, 16)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.down, self.mix = layer(16, 16, 3, 2, 16), layer(16, 16)
        self.up, self.join = nn.ConvTranspose2d(16, 8, 2, 2), layer(40, 16)
        self.slope, self.head = nn.PReLU(16), nn.Conv2d(16, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.relu6(self.stem(image))
        x = functional.relu(self.wide(functional.relu(self.deep(x))))
        gate = torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))
        x = x * torch.sigmoid(self.excite(gate))
        y = functional.relu(self.mix(self.down(x)) + functional.max_pool2d(x, 2))
        larger = functional.interpolate(y, scale_factor=2.0, mode="nearest")
        joined = torch.cat([self.up(y), larger, x], 1)
        maps: Tensor = self.head(self.slope(self.join(joined)))
        return maps


def build() -> Converted:
    """The network with random weights, always the same, whose heatmaps have peaks."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Converted()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.data.uniform_(0.8, 1.2)
        network.slope.weight.data.uniform_(0.05, 0.4)
        network.head.weight.data.mul_(100)
    return network.eval()
