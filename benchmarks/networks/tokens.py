"""Networks with attention."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from blocks import conv_bn, deconvolutions
from torch import Tensor, nn
from torch.nn import functional


class ScaleNorm(nn.Module):
    """A learned scale over the norm of each vector (Nguyen and Salazar 2019)."""

    def __init__(self, size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.scale, self.eps, self.gain = size**-0.5, eps, nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.norm(x, dim=-1, keepdim=True) * self.scale
        return x / norm.clamp(min=self.eps) * self.gain


class GatedAttention(nn.Module):
    """Gated attention unit with relative positions over the keypoints (Hua et al. 2022)."""

    def __init__(self, keypoints: int, size: int, inner: int = 64, expansion: int = 2) -> None:
        super().__init__()
        self.keypoints, self.inner, self.expanded = keypoints, inner, size * expansion
        self.split = nn.Linear(size, 2 * self.expanded + inner, bias=False)
        self.gamma, self.beta = nn.Parameter(torch.rand(2, inner)), nn.Parameter(torch.rand(2, inner))
        self.positions = nn.Parameter(torch.rand(2 * keypoints - 1) * 0.1)
        self.out, self.norm, self.act = nn.Linear(self.expanded, size, bias=False), ScaleNorm(size), nn.SiLU()
        self.residual_scale = nn.Parameter(torch.ones(size))

    def _relative(self) -> Tensor:
        """(K, K) biases of relative positions."""
        k = self.keypoints
        repeated = functional.pad(self.positions, [0, k]).repeat(k)[..., :-k].reshape(-1, k, 3 * k - 2)
        return repeated[..., k - 1 : 1 - k]

    def forward(self, x: Tensor) -> Tensor:
        u, v, base = torch.split(self.act(self.split(self.norm(x))), [self.expanded, self.expanded, self.inner], dim=2)
        query, key = torch.unbind(base.unsqueeze(2) * self.gamma[None, None, :] + self.beta, dim=2)
        scores = torch.bmm(query, key.permute(0, 2, 1)) + self._relative()[:, : x.size(1), : x.size(1)]
        kernel = torch.square(functional.relu(scores / math.sqrt(self.inner)))
        mixed: Tensor = x * self.residual_scale + self.out(u * torch.bmm(kernel, v))
        return mixed


class RTMPose(nn.Module):
    """RTMPose (Jiang et al. 2023) that decodes its two distributions itself: (N, K, 2) pixels.

    Args:
        keypoints: Their number.
        height: Of the input, pixels.
        width: Of the input, pixels.
        decode: ``soft``: mean of the softmax; ``argmax``: highest bin, with the lower of both logits as score.
    """

    def __init__(self, keypoints: int, height: int, width: int, decode: Literal["soft", "argmax"] = "soft") -> None:
        super().__init__()
        self.decode, cells = decode, height * width // 1024
        widths = (3, 16, 32, 64, 128, 128)
        pairs = pairwise(widths)
        self.backbone = nn.Sequential(*(conv_bn(cin, cout, 3, 2, act=nn.SiLU) for cin, cout in pairs))
        self.final = nn.Conv2d(128, keypoints, 7, 1, 3)
        self.embed = nn.Sequential(ScaleNorm(cells), nn.Linear(cells, 128, bias=False))
        self.attention = GatedAttention(keypoints, 128)
        self.bins_x, self.bins_y = 2 * width, 2 * height
        self.head_x = nn.Linear(128, self.bins_x, bias=False)
        self.head_y = nn.Linear(128, self.bins_y, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.attention(self.embed(torch.flatten(self.final(self.backbone(image)), 2)))
        x, y = self.head_x(tokens), self.head_y(tokens)
        if self.decode == "argmax":
            value_x, index_x = x.max(-1)
            value_y, index_y = y.max(-1)
            return torch.stack([index_x / 2.0, index_y / 2.0, torch.minimum(value_x, value_y)], -1)
        centres = torch.arange(self.bins_x, dtype=torch.float32) / 2, torch.arange(self.bins_y).float() / 2
        return torch.stack([(p.softmax(-1) * c).sum(-1) for p, c in zip((x, y), centres, strict=True)], -1)


class Attention(nn.Module):
    """Self-attention of several heads."""

    def __init__(self, size: int, heads: int, *, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.project = nn.Linear(size, 3 * size), nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        n, count, size = x.shape
        inner = size // self.heads
        q, k, v = self.qkv(x).reshape(n, count, 3, self.heads, inner).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * inner**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        mixed: Tensor = self.project(y.transpose(1, 2).reshape(n, count, size))
        return mixed


class EncoderBlock(nn.Module):
    """Attention and two linear layers with the exact GELU, each behind a layer norm (Dosovitskiy et al. 2021)."""

    def __init__(self, size: int, heads: int, *, fused: bool) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(size, eps=1e-6), Attention(size, heads, fused=fused)
        self.norm2 = nn.LayerNorm(size, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class ViTPose(nn.Module):
    """Vision transformer and transposed convolutions (Xu et al. 2022).

    Args:
        keypoints: Their number.
        height: Of the input, pixels.
        width: Of the input, pixels.
        fused: Whether attention is torch's own function, or written out.
        size: Numbers of a token.
        depth: Blocks of the encoder.
        heads: Heads of each.
    """

    def __init__(
        self,
        keypoints: int,
        height: int,
        width: int,
        *,
        fused: bool = True,
        size: int = 96,
        depth: int = 4,
        heads: int = 3,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, size, 16, 16, padding=2)
        self.positions = nn.Parameter(torch.randn(1, height * width // 256 + 1, size) * 0.02)
        self.blocks = nn.Sequential(*(EncoderBlock(size, heads, fused=fused) for _ in range(depth)))
        self.norm = nn.LayerNorm(size)
        self.deconvolutions, self.head = deconvolutions(size, 64, 2), nn.Conv2d(64, keypoints, 1)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patches(image)
        n, _, h, w = patches.shape
        x = patches.flatten(2).transpose(1, 2) + self.positions[:, 1:] + self.positions[:, :1]
        x = self.norm(self.blocks(x)).permute(0, 2, 1).reshape(n, -1, h, w).contiguous()
        maps: Tensor = self.head(self.deconvolutions(x))
        return maps
