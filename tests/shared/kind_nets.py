"""Siblings of `case_nets`: operators of pose networks between two convolutions, one network of each kind."""

from __future__ import annotations

from collections.abc import Callable

import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253
from torch.nn import functional  # noqa: TID253

SIDE = 64
_C = 16  # channels in the middle, of 16 x 16 cells


class Between(nn.Module):
    """Convolutions of stride 4 and 1, the middle, and a head of 4 maps."""

    def __init__(self, middle: Callable[[Between, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.middle = middle
        self.a, self.b = nn.Conv2d(3, _C, 3, 4, 1), nn.Conv2d(_C, _C, 3, 1, 1)
        self.c, self.d = nn.Conv2d(_C, _C, 3, 1, 1), nn.Conv2d(_C, 4, 1)
        self.layers = nn.ModuleDict(layers)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.d(torch.relu(self.c(self.middle(self, torch.relu(self.b(torch.relu(self.a(x))))))))
        return maps


def _tokens(net: Between, x: Tensor, mix: Callable[[Tensor], Tensor]) -> Tensor:
    """Cells as tokens, with a residual sum around what mixes them."""
    tokens = x.flatten(2).transpose(1, 2)
    return (tokens + mix(tokens)).transpose(1, 2).reshape(x.shape)


def _attention(net: Between, x: Tensor) -> Tensor:
    def mix(tokens: Tensor) -> Tensor:
        q, k, v = net.layers["qkv"](tokens).chunk(3, -1)
        return net.layers["out"](((q @ k.transpose(1, 2)) * _C**-0.5).softmax(-1) @ v)  # type: ignore[no-any-return]

    return _tokens(net, x, mix)


def _heads(net: Between, x: Tensor) -> Tensor:
    def mix(tokens: Tensor) -> Tensor:
        n = len(tokens)
        q, k, v = net.layers["qkv"](tokens).reshape(n, -1, 3, 2, _C // 2).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, -1, _C)
        return net.layers["out"](mixed)  # type: ignore[no-any-return]

    return _tokens(net, x, mix)


def _softmax_of_convolution(net: Between, x: Tensor) -> Tensor:
    weights = net.layers["one"](x).flatten(2).softmax(-1)
    return x + (weights @ x.flatten(2).transpose(1, 2)).transpose(1, 2).unsqueeze(-1)


def _mlp(net: Between, x: Tensor) -> Tensor:
    def mix(tokens: Tensor) -> Tensor:
        return net.layers["down"](functional.gelu(net.layers["up"](net.layers["norm"](tokens))))  # type: ignore[no-any-return]

    return _tokens(net, x, mix)


def _mean_and_variance(net: Between, x: Tensor) -> Tensor:
    deviation = x - x.mean((2, 3), keepdim=True)
    return deviation / (x.var((2, 3), keepdim=True) + 1e-5).sqrt()


def _norm_over_channels(net: Between, x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    return (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-6)


def _einsum(net: Between, x: Tensor) -> Tensor:
    gram = torch.einsum("nchw,ndhw->ncd", x, x) / 256
    return torch.einsum("ncd,ndhw->nchw", gram, x)


def _strided_split(net: Between, x: Tensor) -> Tensor:
    even, odd = x[:, ::2], x[:, 1::2]
    first, second = torch.cat([odd, even], 1).chunk(2, 1)
    return torch.cat([first * 1.5, second], 1)


def _partial(net: Between, x: Tensor) -> Tensor:
    worked, kept = torch.split(x, [4, _C - 4], 1)
    return torch.cat([net.layers["part"](worked), kept], 1)


def _gate(net: Between, x: Tensor) -> Tensor:
    n, c = x.shape[:2]
    squeezed = functional.adaptive_avg_pool2d(x, 1).view(n, c)
    return x * torch.sigmoid(net.layers["up"](torch.relu(net.layers["down"](squeezed)))).view(n, c, 1, 1)


def _spatial_gate(net: Between, x: Tensor) -> Tensor:
    read = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
    return x * torch.sigmoid(net.layers["look"](read))


def _shuffle_relu(net: Between, x: Tensor) -> Tensor:
    return torch.relu(functional.pixel_shuffle(net.layers["wide"](functional.max_pool2d(x, 2)), 2))


def _resize(mode: str, align: bool | None = None) -> Callable[[Between, Tensor], Tensor]:
    def middle(net: Between, x: Tensor) -> Tensor:
        small = functional.max_pool2d(net.c(x), 2)
        return functional.interpolate(small, scale_factor=2.0, mode=mode, align_corners=align)

    return middle


def _padded_pool(value: float) -> Callable[[Between, Tensor], Tensor]:
    return lambda net, x: functional.max_pool2d(functional.pad(net.c(x), (1, 1, 1, 1), value=value), 3, 1)


Middle = Callable[[Between, Tensor], Tensor]
_AFTER: dict[str, Middle] = {
    "gelu": lambda net, x: functional.gelu(net.c(x)),
    "gelu-tanh": lambda net, x: functional.gelu(net.c(x), approximate="tanh"),
    "silu": lambda net, x: functional.silu(net.c(x)),
    "hardswish": lambda net, x: functional.hardswish(net.c(x)),
    "mish": lambda net, x: functional.mish(net.c(x)),
    "elu": lambda net, x: functional.elu(net.c(x)),
    "relu6": lambda net, x: functional.relu6(net.c(x)),
    "leaky": lambda net, x: functional.leaky_relu(net.c(x), 0.1),
    "square": lambda net, x: net.c(x) ** 2,
    "scalar-sum": lambda net, x: net.c(x) + 0.3,
    "scalar-quotient": lambda net, x: net.c(x) / 3,
    "scalar-difference": lambda net, x: 1 - net.c(x),
    "difference": lambda net, x: net.c(x) - x,
    "maximum": lambda net, x: torch.maximum(net.c(x), x * 0.5),
    "glu": lambda net, x: functional.glu(torch.cat([net.c(x), x], 1), 1),
    "concatenation": lambda net, x: net.c(torch.cat([x[:, :8], 0.5 * net.c(x)[:, 8:]], 1)),
    "concatenation-of-clipped": lambda net, x: torch.cat([functional.relu6(8 * x)[:, :8], 8 * net.c(x)[:, 8:]], 1),
    "bicubic": _resize("bicubic", False),
    "bicubic-aligned": _resize("bicubic", True),
    "bilinear": _resize("bilinear", False),
    "bilinear-aligned": _resize("bilinear", True),
    "nearest": _resize("nearest"),
    "adaptive": lambda net, x: functional.interpolate(functional.adaptive_avg_pool2d(x, 4), size=(16, 16)),
    "reflected": lambda net, x: net.c(functional.pad(x, (1, 1, 1, 1), mode="reflect"))[:, :, 1:-1, 1:-1],
    "padded": lambda net, x: net.c(functional.pad(x, (1, 1, 1, 1), value=0.25))[:, :, 1:-1, 1:-1],
    "padded-channels": lambda net, x: net.c(x) + functional.pad(x[:, :8], (0, 0, 0, 0, 0, 8)),
    "pool-padded-lowest": _padded_pool(-3.4e38),
    "pool-padded-infinite": _padded_pool(float("-inf")),
    "roll": lambda net, x: torch.roll(net.c(x), (1, 1), (2, 3)),
    "gather": lambda net, x: net.c(x)[:, torch.arange(_C - 1, -1, -1)],
    "expand": lambda net, x: net.c(x).mean(1, keepdim=True).expand(-1, _C, -1, -1),
    "unit-length": lambda net, x: functional.normalize(net.c(x), dim=1),
    "mean-variance": _mean_and_variance,
    "channel-norm": _norm_over_channels,
    "einsum": _einsum,
    "strided-split": _strided_split,
}
KINDS: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda middle=middle: Between(middle) for name, middle in _AFTER.items()},
    "instance-norm": lambda: Between(lambda n, x: n.layers["n"](n.c(x)), n=nn.InstanceNorm2d(_C, affine=True)),
    "group-norm": lambda: Between(lambda n, x: functional.silu(n.layers["n"](n.c(x))), n=nn.GroupNorm(4, _C)),
    "layer-norm": lambda: Between(
        lambda n, x: n.layers["n"](n.c(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2), n=nn.LayerNorm(_C)
    ),
    "batch-norm-first": lambda: Between(lambda n, x: torch.relu(n.layers["n"](x + n.c(x))), n=nn.BatchNorm2d(_C)),
    "prelu": lambda: Between(lambda n, x: n.layers["n"](n.c(x)), n=nn.PReLU(_C)),
    "attention": lambda: Between(_attention, qkv=nn.Linear(_C, 3 * _C), out=nn.Linear(_C, _C)),
    "heads": lambda: Between(_heads, qkv=nn.Linear(_C, 3 * _C, bias=False), out=nn.Linear(_C, _C)),
    "softmax-of-convolution": lambda: Between(_softmax_of_convolution, one=nn.Conv2d(_C, 1, 1)),
    "mlp": lambda: Between(_mlp, norm=nn.LayerNorm(_C), up=nn.Linear(_C, 4 * _C), down=nn.Linear(4 * _C, _C)),
    "partial": lambda: Between(_partial, part=nn.Conv2d(4, 4, 3, 1, 1)),
    "gate": lambda: Between(_gate, down=nn.Linear(_C, 8), up=nn.Linear(8, _C)),
    "spatial-gate": lambda: Between(_spatial_gate, look=nn.Conv2d(2, 1, 7, 1, 3)),
    "shuffle-relu": lambda: Between(_shuffle_relu, wide=nn.Conv2d(_C, 4 * _C, 1)),
    "transposed": lambda: Between(
        lambda n, x: torch.relu(n.layers["n"](functional.max_pool2d(x, 3, 2, 1))), n=nn.ConvTranspose2d(_C, _C, 4, 2, 1)
    ),
}


def seeded(name: str) -> nn.Module:
    """A network of this kind with random weights, always the same, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return KINDS[name]().eval()
