"""What lies between two layers: followed where channels can go, else kept with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: TID253
from torch.nn import functional  # noqa: TID253

from splite_deploy.compact import CompactOptions, compact, save_compacted
from splite_deploy.errors import CheckpointError, ExportError
from splite_deploy.export.source.checkpoint import load_weights, read_checkpoint
from splite_deploy.export.source.header import compacted_metadata
from splite_deploy.spec import load_model_toml

HALF = CompactOptions("l1", speed_up=2, round_to=2)
IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
Forward = Callable[[Any, Tensor], Tensor]


class Part(nn.Module):
    """Its own layers, and a function of them and of an input."""

    def __init__(self, forward: Forward, **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self._forward = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


class Between(nn.Module):
    """A part of 16 channels between convolutions."""

    def __init__(self, part: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.a, self.b, self.part = nn.Conv2d(3, 16, 3, 4, 1), nn.Conv2d(16, 16, 3, 1, 1), part
        self.c, self.d = nn.Conv2d(width, 16, 3, 1, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.part(torch.relu(self.b(torch.relu(self.a(x)))))
        maps: Tensor = self.d(torch.relu(self.c(x)))
        return maps


def halved(part: nn.Module, width: int = 16) -> Any:
    torch.manual_seed(0)
    return compact(Between(part, width).eval(), IMAGE, HALF)


def conv(inputs: int, outputs: int, kernel: int = 3, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, groups=groups)


def gate(s: Any, x: Tensor) -> Tensor:
    return x * torch.sigmoid(s.g(torch.relu(s.l(x.flatten(1)))))[:, :, None, None]


def bottleneck(s: Any, x: Tensor) -> Tensor:
    first, second = s.k(x).chunk(2, 1)
    return torch.cat([first, second, s.m(second)], 1)


def residual(s: Any, x: Tensor) -> Tensor:
    y: Tensor = x + s.p(x)
    return y + torch.relu(s.q(y))


FOLLOWED: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "instance norm": (lambda: nn.InstanceNorm2d(16), 16),
    "affine instance norm": (lambda: nn.InstanceNorm2d(16, affine=True), 16),
    "instance norm with statistics": (lambda: nn.InstanceNorm2d(16, affine=True, track_running_stats=True), 16),
    "group norm of single channels": (lambda: nn.GroupNorm(16, 16), 16),
    "one slope": (lambda: nn.PReLU(), 16),
    "a slope for each channel": (lambda: nn.PReLU(16), 16),
    "torch's channel shuffle": (lambda: nn.ChannelShuffle(4), 16),
    "chunks": (lambda: Part(lambda s, x: torch.cat([a * 2 for a in x.chunk(2, 1)], 1)), 16),
    "gated linear unit": (lambda: Part(lambda s, x: functional.glu(s.p(x), 1), p=conv(16, 32, 1)), 16),
    "maximum of halves": (lambda: Part(lambda s, x: torch.max(*s.p(x).chunk(2, 1)), p=conv(16, 32, 1)), 16),
    "chunks, one of which goes on": (lambda: Part(bottleneck, k=conv(16, 16, 1), m=conv(8, 8)), 24),
    "two filters for each channel": (lambda: conv(16, 32, groups=16), 32),
    "groups of a transposed convolution": (
        lambda: Part(lambda s, x: functional.max_pool2d(s.t(x), 2), t=nn.ConvTranspose2d(16, 16, 4, 2, 1, groups=4)),
        16,
    ),
    "residual of a residual": (lambda: Part(residual, p=conv(16, 16), q=conv(16, 16)), 16),
    "shared weights": (lambda: Part(lambda s, x: s.p(torch.relu(s.p(x))), p=conv(16, 16)), 16),
    "pixel shuffle": (
        lambda: Part(lambda s, x: functional.avg_pool2d(functional.pixel_shuffle(s.p(x), 2), 2), p=conv(16, 64, 1)),
        16,
    ),
    "linear behind a flatten": (lambda: Part(gate, l=nn.Linear(16 * 256, 16), g=nn.Linear(16, 16)), 16),
    "identity beside zeros": (
        lambda: Part(lambda s, x: torch.relu(s.p(x) + torch.cat([x, torch.zeros_like(x)], 1)), p=conv(16, 32)),
        32,
    ),
    "a scale of the user's own": (lambda: Part(lambda s, x: x * s.w, w=nn.Parameter(torch.ones(1, 16, 1, 1))), 16),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_channels_go_through(name: str) -> None:
    part, width = FOLLOWED[name]
    result = halved(part(), width)
    assert result.speed_up >= 2
    assert not [note for note in result.notes if "kept" in note]


OVER = "it computes over several of them, whose number counts"
NUMBERS = "the sizes of its pieces are numbers in forward()"
KEPT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "group norm": (lambda: nn.GroupNorm(4, 16), f"enter 'part' (group_norm): {OVER}"),
    "softmax": (lambda: Part(lambda s, x: x.softmax(1)), f"enter 'part' (softmax): {OVER}"),
    "a piece of a fixed size": (
        lambda: Part(lambda s, x: torch.cat([x[:, :8], s.m(x[:, 8:])], 1), m=conv(8, 8)),
        f"enter 'part' (slice): {NUMBERS}",
    ),
    "pieces of a fixed size": (
        lambda: Part(lambda s, x: torch.cat(list(x.split(4, 1))[::-1], 1)),
        f"enter 'part' (split): {NUMBERS}",
    ),
    "unequal pieces": (
        lambda: Part(lambda s, x: torch.cat([torch.relu(a) for a in x.split([4, 12], 1)], 1)),
        f"enter 'part' (split_with_sizes): {NUMBERS}",
    ),
    "an identity padded on both sides": (
        lambda: Part(lambda s, x: s.q(torch.relu(s.p(x) + functional.pad(x, (0, 0, 0, 0, 8, 8)))), p=conv(16, 32),
                     q=conv(32, 16)),
        "meet the 16 that 'part' (pad) adds: their number is in forward()",
    ),
    "attention": (
        lambda: Part(
            lambda s, x: s.m(*[x.flatten(2).transpose(1, 2)] * 3, need_weights=False)[0]
            .transpose(1, 2)
            .reshape(x.shape),
            m=nn.MultiheadAttention(16, 2, batch_first=True),
        ),
        "of 'part.m': a MultiheadAttention has a fixed width",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_kept_channels_are_named_and_the_others_go(name: str) -> None:
    part, reason = KEPT[name]
    result = halved(part())
    assert result.speed_up >= 2
    assert any(reason in note for note in result.notes)


# --- unequal pieces whose sizes a module holds ---


class Weighting(nn.Module):
    """Weights two resolutions from both of them, as in Lite-HRNet: the sizes of the pieces are a list."""

    def __init__(self, sizes: tuple[int, ...] | list[int]) -> None:
        super().__init__()
        self.sizes = sizes
        self.squeeze, self.excite = nn.Conv2d(sum(sizes), 8, 1), nn.Conv2d(8, sum(sizes), 1)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        small = maps[-1].shape[-2:]
        joined = torch.cat([functional.adaptive_avg_pool2d(one, small) for one in maps], 1)
        weights = torch.sigmoid(self.excite(torch.relu(self.squeeze(joined)))).split(self.sizes, 1)
        return [one * functional.interpolate(weight, one.shape[-2:]) for one, weight in zip(maps, weights, strict=True)]


class Branches(nn.Module):
    """Two resolutions of 16 and of 32 channels."""

    def __init__(self, kind: Callable[[list[int]], Any] = list) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, 4, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.weighting = Weighting(kind([16, 32]))
        self.c, self.d = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = torch.relu(self.a(x))
        high, low = self.weighting([high, torch.relu(self.b(high))])
        maps: Tensor = self.d(high + functional.interpolate(self.c(low), scale_factor=2.0))
        return maps


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_of_sizes_changes_with_the_channels(kind: Any, tiny_model: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = compact(Branches(kind).eval(), IMAGE, CompactOptions("l1", speed_up=3, round_to=2))
    sizes = list(result.sizes["weighting.sizes"])
    assert sizes == [result.network.a.out_channels, result.network.b.out_channels] != [16, 32]
    assert any(f"'weighting.sizes' is now {sizes}" in note for note in result.notes)
    spec, _ = load_model_toml(tiny_model)
    save_compacted(tmp_path / "c.safetensors", result.network, compacted_metadata(spec, result.sizes))
    loaded = Branches(kind).eval()
    load_weights(loaded, read_checkpoint(tmp_path / "c.safetensors"), IMAGE[:1])
    assert type(loaded.weighting.sizes) is kind
    with torch.inference_mode():
        assert torch.equal(loaded(IMAGE), result.network(IMAGE))
    with pytest.raises(CheckpointError, match=r"with the sizes \[.*\] in 'weighting\.sizes', which the architecture"):
        load_weights(Between(nn.Identity()), read_checkpoint(tmp_path / "c.safetensors"))


def test_a_list_of_sizes_that_cannot_change_keeps_the_channels() -> None:
    """The network does not run with others, since forward() holds them as numbers, too."""

    class Twice(Branches):
        def forward(self, x: Tensor) -> Tensor:
            maps = super().forward(x)
            sizes = self.weighting.sizes
            return maps * len(torch.ones(sum(sizes)).split([16, 32]))

    torch.manual_seed(0)
    with pytest.raises(ExportError, match="cannot be reached"):
        compact(Twice().eval(), IMAGE, CompactOptions("l1", speed_up=30, round_to=2))


# --- what cannot be reached ---


def test_the_layers_that_hold_channels_are_named_with_what_can_be_asked_for() -> None:
    torch.manual_seed(0)
    network = Between(Part(lambda s, x: x.softmax(1))).eval()
    with pytest.raises(ExportError) as caught:
        compact(network, IMAGE, CompactOptions("l1", speed_up=20, round_to=4))
    assert "Kept all channels that enter 'part' (softmax): it computes over several of them" in caught.value.message
    assert "Layers that hold channels, with their share of the work that is left: 'b' (16 of 16 out, " in (
        caught.value.message
    )
    assert "or allow smaller widths with --round-to 2." in caught.value.hint
    most = float(caught.value.hint.partition("--speed-up ")[2].partition(",")[0])
    assert 1 < most < 20
    assert compact(network, IMAGE, CompactOptions("l1", speed_up=most, round_to=4)).speed_up >= most


def test_the_command_alone(splite: Callable[..., Result], tmp_path: Path) -> None:
    import case_nets

    checkpoint = case_nets.write(case_nets.Shuffle, tmp_path)
    done = splite("compact", checkpoint, "--round-to", 2)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "net-compacted.safetensors").exists()
    again = splite("compact", checkpoint, "--round-to", 2)
    assert again.exit_code == 1
    assert "net-compacted.safetensors exists." in again.stderr
    assert "Add --overwrite" in again.stderr


def test_sizes_are_named_as_the_network_names_them(splite: Callable[..., Result], tmp_path: Path) -> None:
    """A view of model.toml wraps the network; the file has the network's own names."""
    import case_nets

    checkpoint = case_nets.write(case_nets.Shuffle, tmp_path)
    torch.manual_seed(0)
    torch.save(Branches().state_dict(), checkpoint)
    spec = tmp_path / "model.toml"
    text = spec.read_text(encoding="utf-8").replace(f"{case_nets.__file__}:Shuffle", f"{__file__}:Branches")
    spec.write_text(text + "[outputs.heatmap]\nsource = 0\n", encoding="utf-8")
    done = splite("compact", checkpoint, "--round-to", 2, "--crops", 2)
    assert done.exit_code == 0, done.output
    assert "note: 'weighting.sizes' is now [" in done.stderr
    thin = tmp_path / "net-compacted.safetensors"
    exported = splite("export", thin, "--crops", 2, "-o", tmp_path / "net.splite")
    assert exported.exit_code == 0, exported.output
