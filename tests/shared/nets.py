"""Small networks, one for each way in which channels are coupled."""

from __future__ import annotations

from typing import Any

import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253
from torch.nn import functional  # noqa: TID253

IMAGE = (2, 3, 16, 16)


def conv_bn(cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout), nn.ReLU(inplace=True))


class InvertedResidual(nn.Module):
    def __init__(self, cin: int, hidden: int, cout: int, stride: int) -> None:
        super().__init__()
        self.expand = conv_bn(cin, hidden, 1)
        self.depthwise = conv_bn(hidden, hidden, 3, stride, groups=hidden)
        self.project = conv_bn(hidden, cout, 1)[:2]
        self.residual = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class MobileNet(nn.Module):
    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.stem = conv_bn(3, c, 3, 2)
        self.blocks = nn.Sequential(
            InvertedResidual(c, 3 * c, c, 1), InvertedResidual(c, 3 * c, 2 * c, 2), InvertedResidual(2 * c, c, 2 * c, 1)
        )
        self.classify = nn.Linear(2 * c, 5)

    def forward(self, x: Tensor) -> Tensor:
        classes: Tensor = self.classify(self.blocks(self.stem(x)).mean((2, 3)))
        return classes


class ShuffleUnit(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        half = c // 2
        self.branch = nn.Sequential(conv_bn(half, half, 1), conv_bn(half, half, groups=half), conv_bn(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        kept, worked = x.chunk(2, 1)
        y = torch.cat([kept, self.branch(worked)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class SlicedShuffleUnit(ShuffleUnit):
    """The same, written with slices and torch's own shuffle."""

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        y = torch.cat([x[:, :half], self.branch(x[:, half:])], 1)
        return functional.channel_shuffle(y, 2)


class SqueezeExcite(nn.Module):
    def __init__(self, c: int = 16, inner: int = 8) -> None:
        super().__init__()
        self.body = conv_bn(3, c)
        self.reduce, self.expand = nn.Conv2d(c, inner, 1), nn.Conv2d(inner, c, 1)
        self.head = nn.Conv2d(c, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        maps: Tensor = self.head(y * self.expand(self.reduce(y.mean((2, 3), keepdim=True)).relu()).sigmoid())
        return maps


class UNet(nn.Module):
    def __init__(self, c: int = 16, skip: int = 8) -> None:
        super().__init__()
        self.top, self.down = conv_bn(3, skip), conv_bn(skip, c, stride=2)
        self.up = nn.ConvTranspose2d(c, c, 2, 2)
        self.fuse = conv_bn(skip + c, c)
        self.head = nn.Conv2d(c, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x)
        maps: Tensor = self.head(self.fuse(torch.cat([top, self.up(self.down(top))], dim=1)))
        return maps


class Fuse(nn.Module):
    """Two branches that are added to each other at both resolutions, as in HRNet."""

    def __init__(self, high: int = 8, low: int = 16) -> None:
        super().__init__()
        self.high, self.low = conv_bn(3, high), conv_bn(3, low, stride=2)
        self.down, self.up = conv_bn(high, low, stride=2), conv_bn(low, high, 1)
        self.heads = nn.ModuleList([nn.Conv2d(high, 5, 1), nn.Conv2d(low, 5, 1)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        high, low = self.high(x), self.low(x)
        risen = functional.interpolate(self.up(low), scale_factor=2.0)
        return self.heads[0](high + risen), self.heads[1](low + self.down(high))


class PixelShuffled(nn.Module):
    """Depth to space into a residual sum, and space to depth back."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.up, self.lateral = conv_bn(3, 4 * c, stride=2), conv_bn(3, c)
        self.down = conv_bn(4 * c, c, 1)
        self.head = nn.Conv2d(c, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.pixel_shuffle(self.up(x), 2) + self.lateral(x)
        maps: Tensor = self.head(self.down(functional.pixel_unshuffle(y, 2)))
        return maps


class LayerScale(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, c, 1, 1))
        self.register_buffer("shift", torch.zeros(c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class Masked(nn.Module):
    """Spatial attention: one channel that meets all others, and one read from the image."""

    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.body, self.mask = conv_bn(3, c), nn.Conv2d(c, 1, 3, padding=1)
        self.head = nn.Conv2d(c, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        maps: Tensor = self.head(y * self.mask(y).sigmoid() + x[:, :1])
        return maps


class Tied(nn.Module):
    """One block that runs twice."""

    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.stem, self.block, self.head = conv_bn(3, c), conv_bn(c, c), nn.Conv2d(c, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.head(self.block(self.block(self.stem(x))))
        return maps


def shuffle_net(unit: type[nn.Module] = ShuffleUnit, c: int = 16) -> nn.Module:
    return nn.Sequential(conv_bn(3, c, stride=2), unit(c), unit(c), nn.Conv2d(c, 5, 1))


def sliced_shuffle_net() -> nn.Module:
    return shuffle_net(SlicedShuffleUnit)


def grouped() -> nn.Module:
    """Groups, channel multipliers, and transposed convolutions in groups."""
    return nn.Sequential(
        conv_bn(3, 16),
        conv_bn(16, 32, groups=4),
        conv_bn(32, 16, groups=4),
        nn.PReLU(16),
        conv_bn(16, 48, groups=16),
        nn.Conv2d(48, 16, 1),
        LayerScale(16),
        nn.InstanceNorm2d(16, affine=True, track_running_stats=True),
        nn.ConvTranspose2d(16, 16, 2, 2, groups=16),
        nn.ConvTranspose2d(16, 8, 2, 2, groups=2),
        nn.Conv2d(8, 5, 1),
    )


def flattened() -> nn.Module:
    convs = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Hardswish(inplace=True), nn.AdaptiveAvgPool2d(3), nn.Flatten())
    return nn.Sequential(*convs, nn.Linear(72, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5, bias=False))


NETS: dict[str, Any] = {
    "mobile": MobileNet,
    "shuffle": shuffle_net,
    "sliced-shuffle": sliced_shuffle_net,
    "se": SqueezeExcite,
    "unet": UNet,
    "fuse": Fuse,
    "pixel-shuffle": PixelShuffled,
    "masked": Masked,
    "tied": Tied,
    "grouped": grouped,
    "flattened": flattened,
}


def randomised(network: nn.Module, seed: int = 0) -> Any:
    """Fills everything, running statistics too, so that no channel is like another."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            signed = name.endswith("weight") and tensor.dim() > 1
            tensor.copy_(noise - 0.5 if signed else noise * 0.8 + 0.2)
    return network.eval()


def sample(shape: tuple[int, ...] = IMAGE, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def outputs(network: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        result = network(x)
    return result if isinstance(result, tuple) else (result,)
