"""Small networks with what conversions stumble over, one of each kind: (N, 3, 64, 64) to 4 heatmaps of stride 4."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253
from torch.nn import functional  # noqa: TID253

SIDE = 64
SAMPLES = Path(__file__).parents[2] / "benchmarks" / "networks" / "samples.py"


class Stem(nn.Module):
    """Padded max pooling, as in every ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.pool, self.c = nn.Conv2d(3, 8, 3, 2, 1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.c(self.pool(torch.relu(self.a(x))))
        return maps


class Grouped(nn.Module):
    """A grouped convolution; the TorchScript exporter names its nodes with slashes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(3, 8, 3, 4, 1),
            nn.Conv2d(8, 8, 3, 1, 1, groups=2),
            nn.Conv2d(8, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.c(torch.relu(self.b(torch.relu(self.a(x)))))
        return maps


class Shuffle(nn.Module):
    """The usual channel shuffle: view, transpose, contiguous, view."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(3, 8, 3, 4, 1),
            nn.Conv2d(8, 8, 3, 1, 1, groups=8),
            nn.Conv2d(8, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        n, c, h, w = x.size()
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        maps: Tensor = self.c(torch.relu(self.b(x)))
        return maps


class ScaleNorm(nn.Module):
    """A learned scale over a norm, as in RTMPose's head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).flatten(2)
        x = x / (torch.linalg.norm(x, dim=-1, keepdim=True) * 0.1).clamp(min=1e-5)
        maps: Tensor = self.c(x.reshape(-1, 8, 16, 16))
        return maps


class Gelu(nn.Module):
    """The exact GELU, by the error function."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Conv2d(3, 16, 3, 4, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.c(functional.gelu(self.a(x)))
        return maps


class ResidualShuffle(nn.Module):
    """A pixel shuffle right behind a residual sum, as at the end of FastPose's backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, 8, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.shuffle, self.c = nn.PixelShuffle(2), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        maps: Tensor = self.c(self.shuffle(torch.relu(x + self.b(x))))
        return maps


class AlignCorners(nn.Module):
    """Bilinear enlargement whose corners stay in their places."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 24, 3, 4, 1), nn.Conv2d(24, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.a(x), 2)
        x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        maps: Tensor = self.c(torch.relu(self.b(x)))
        return maps


class Bicubic(nn.Module):
    """Bicubic enlargement, which converters write as products with constants."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(torch.relu(self.a(x)), 2)
        maps: Tensor = self.c(functional.interpolate(x, scale_factor=2, mode="bicubic"))
        return maps


class Coordinates(nn.Module):
    """What a ReLU gives beside negative constants: one scale for both does not clip the first any more."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(9, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        column = torch.linspace(-1, 1, 16).view(1, 1, 1, 16).expand(x.shape[0], 1, 16, 16)
        maps: Tensor = self.c(self.b(torch.cat([x, column], 1)))
        return maps


class Attention(nn.Module):
    """Attention without a head axis."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 4, 1)
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        n, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(self.q(tokens), self.k(tokens), self.v(tokens))
        maps: Tensor = self.c((tokens + mixed).transpose(1, 2).reshape(n, c, h, w))
        return maps


class ScalarTimes(nn.Module):
    """A product with a scalar constant between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3, 4, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.c(torch.relu(self.b(self.a(x) * 0.3)))
        return maps


class PaddedChannels(nn.Module):
    """An identity padded with channels of zeros, as in BlazePose's blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, 4, 1), nn.Conv2d(16, 32, 3, 1, 1)
        self.m, self.c = nn.Conv2d(32, 32, 3, 1, 1), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        x = torch.relu(self.b(x) + functional.pad(x, (0, 0, 0, 0, 0, 16)))
        maps: Tensor = self.c(torch.relu(self.m(x)))
        return maps


class GroupNormed(nn.Module):
    """Group normalisation between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.c = nn.Conv2d(3, 8, 3, 4, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.c(torch.relu(self.norm(self.a(x))))
        return maps


class LogSigmoid(nn.Module):
    """Finite in torch, minus infinity where a graph takes the logarithm of a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.logsigmoid(8 * self.a(x) - 12)


class MinusSoftplus(LogSigmoid):
    """The same in a form that stays finite."""

    def forward(self, x: Tensor) -> Tensor:
        return -functional.softplus(12 - 8 * self.a(x))


class Overflowing(nn.Module):
    """Infinite in torch already."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Conv2d(3, 4, 3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.c(torch.exp(1000 * self.a(x)))
        return maps


class MixedBatch(nn.Module):
    """Right for one crop at a time; crops of a batch mix, since the 1 in reshape stands for the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.c(torch.relu(self.a(x))).reshape(1, 4, -1)
        z = (z - z.mean(-1, keepdim=True)) / z.std(-1, keepdim=True) * 4
        return z.reshape(-1, 4, 16, 16)


class Huge(nn.Module):
    """Activations of 1e5 between two convolutions: beyond float16."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.a.weight.mul_(1e5)
            self.b.weight.mul_(1e-5)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.c(torch.relu(self.b(torch.relu(self.a(x)))))
        return maps


def seeded(kind: type[nn.Module]) -> nn.Module:
    """A network of this kind with random weights, always the same, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind().eval()


def write(kind: type[nn.Module], folder: Path) -> Path:
    """Writes weights and ``model.toml``, whose architecture lies here.

    Returns:
        The checkpoint.
    """
    (folder / "model.toml").write_text(_toml(kind), encoding="utf-8")
    torch.save(seeded(kind).state_dict(), folder / "net.pt")
    return folder / "net.pt"


def write_onnx(kind: type[nn.Module], folder: Path, opset: int = 17, **options: Any) -> Path:
    """Writes the network as an ONNX graph by the TorchScript exporter, and its ``model.toml``.

    Args:
        kind: The network.
        folder: Where.
        opset: Of the graph.
        options: For ``torch.onnx.export``.

    Returns:
        The graph.
    """
    (folder / "model.toml").write_text(_toml(kind), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, though most graphs out there come from it
        image = torch.zeros(options.pop("batch", 1), 3, SIDE, SIDE)
        network = options.pop("network", None) or seeded(kind)
        torch.onnx.export(
            network, (image,), str(folder / "net.onnx"), dynamo=False, opset_version=opset, verbose=False, **options
        )
    return folder / "net.onnx"


def _toml(kind: type[nn.Module]) -> str:
    return f"""name = "{kind.__name__.lower()}"
arch = "{__file__}:{kind.__name__}"
samples = "{SAMPLES}:samples"
[input]
height = {SIDE}
width = {SIDE}
color = "rgb"
mean = [127.5, 127.5, 127.5]
std = [64, 64, 64]
box_padding = 1.25
pad_value = 0
[decoder]
type = "softargmax"
stride = 4
beta = 1
alignment = "centre"
score_window = 5
[skeleton]
keypoint_names = ["a", "b", "c", "d"]
edges = [[0, 1]]
"""
