"""Channels removed: the proof, the loader's round trip, what is chosen, what is folded, and every refusal."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: TID253

from splite_deploy.compact import CompactOptions, compact, compact_checkpoint, save_compacted
from splite_deploy.compact.groups import Groups
from splite_deploy.compact.importance import METHODS
from splite_deploy.compact.proof import prove, without, zeroed
from splite_deploy.compact.trace import trace
from splite_deploy.errors import ExportError, OutputError, UsageError
from splite_deploy.export.source.checkpoint import build_architecture, load_symbol, load_weights, read_checkpoint
from splite_deploy.export.source.reshape import reshape_to
from splite_deploy.spec import load_model_toml

NAMES = (
    "mobile shuffle sliced-shuffle se unet fuse pixel-shuffle masked tied grouped flattened".split()  # noqa: SIM905
)


def widths(compaction: Any) -> dict[str, tuple[int, int]]:
    return {row.name: (row.inputs_after, row.outputs_after) for row in compaction.layers}


@pytest.mark.parametrize("name", NAMES)
def test_removed_equals_zeroed_and_loads(nets: Any, name: str) -> None:
    network, x = nets.randomised(nets.NETS[name]()), nets.sample()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    network.train()
    result = compact(network, x, CompactOptions("group-norm", ratio=0.4, round_to=2), data=[x, nets.sample(seed=2)])

    assert network.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert not {t.data_ptr() for t in network.state_dict().values()} & {
        t.data_ptr() for t in result.network.state_dict().values()
    }
    dense_outputs, ours = nets.outputs(network.eval(), x), nets.outputs(result.network, x)
    assert [t.shape for t in ours] == [t.shape for t in dense_outputs]
    assert result.max_difference <= 1e-5 * max(float(t.max() - t.min()) for t in dense_outputs)
    assert result.parameters_after == sum(p.numel() for p in result.network.parameters()) < result.parameters_before
    assert result.speed_up > 1.2

    tensors = result.network.state_dict()
    dense = nets.NETS[name]().eval()
    assert reshape_to(dense, tensors, x)
    dense.load_state_dict(tensors)
    assert all(torch.equal(a, b) for a, b in zip(nets.outputs(dense, x), ours, strict=True))
    assert repr(dense) == repr(result.network)


def test_macs_are_those_of_the_layers(nets: Any) -> None:
    network, x = nets.randomised(nets.grouped()), nets.sample((1, 3, 16, 16))
    counted = 0

    def count(module: Any, given: tuple[Tensor, ...], result: Tensor) -> None:
        nonlocal counted
        positions = (given[0] if module.transposed else result).shape[2:].numel()
        counted += module.weight.numel() * positions

    result = compact(network, x, CompactOptions("l1", ratio=0.3, round_to=2))
    for dense_or_not, stated in ((network, result.macs_before), (result.network, result.macs_after)):
        counted = 0
        for module in dense_or_not.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                module.register_forward_hook(count)
        nets.outputs(dense_or_not, x)
        assert stated == counted


# SPLite Hand


@pytest.fixture(scope="module")
def hand(root: Path, nets: Any) -> Any:
    return load_symbol("arch.py:build", root / "models" / "splite_hand")


@pytest.mark.parametrize("method", METHODS)
def test_splite_hand(hand: Any, nets: Any, method: Any) -> None:
    network, x = nets.randomised(hand(width=0.5)), nets.sample((1, 3, 64, 64))
    result = compact(network, x, CompactOptions(method, speed_up=2, round_to=8), data=[x])
    assert 2 <= result.speed_up < 2.6
    assert [t.shape[1] for t in nets.outputs(result.network, x)] == [21, 21]
    for row in result.layers:
        assert row.outputs_after == row.outputs_before or row.outputs_after % 8 == 0
        assert row.outputs_after >= min(8, row.outputs_before)
    after = widths(result)
    assert after["up8.up.0"][1] == 4 * after["up8.lateral.0"][1] == 4 * after["up8.smooth.0.0"][0]
    dense = hand(width=0.5)
    reshape_to(dense, result.network.state_dict(), x)
    dense.load_state_dict(result.network.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(nets.outputs(dense.eval(), x), nets.outputs(result.network, x), strict=True)
    )


# Which channels go


def planted(nets: Any, dead: list[int]) -> Any:
    """A pixel-shuffle net with dead lateral channels, so that whole blocks of its upscaling layer are dead too."""
    network = nets.randomised(nets.PixelShuffled(8))
    blocks = [4 * c + i for c in dead for i in range(4)]
    with torch.no_grad():
        for layer, channels in ((network.up, blocks), (network.lateral, dead)):
            layer[1].weight[channels] = 0
            layer[1].bias[channels] = 0
    return network


@pytest.mark.parametrize("method", METHODS)
def test_dead_channels_go_first(nets: Any, method: Any) -> None:
    dead, x = [1, 4, 6], nets.sample()
    network = planted(nets, dead)
    with torch.no_grad():  # for the norms of the weights they have to be dead there as well
        blocks = [4 * c + i for c in dead for i in range(4)]
        network.up[0].weight[blocks] = 0
        network.lateral[0].weight[dead] = 0
        network.down[0].weight[:, blocks] = 0
    options = CompactOptions(method, threshold=1e-6, round_to=1)
    result = compact(network, x, options, data=[x])
    assert torch.equal(result.network.lateral[0].weight, network.lateral[0].weight[[0, 2, 3, 5, 7]])
    assert widths(result)["up.0"] == (3, 20)
    assert widths(result)["head"] == (8, 5)
    for ours, theirs in zip(nets.outputs(result.network, x), nets.outputs(network, x), strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-6


def test_smallest_scales_go_first(nets: Any) -> None:
    network, x = nets.randomised(nets.conv_bn(3, 16)), nets.sample()
    network = nn.Sequential(network, nn.Conv2d(16, 5, 1)).eval()
    network[0][1].weight.data = torch.linspace(-0.8, 0.7, 16)  # |gamma| counts
    order = network[0][1].weight.abs().argsort()
    result = compact(network, x, CompactOptions("bn-scale", ratio=0.5, round_to=4))
    kept = order[8:].sort().values
    assert torch.equal(result.network[0][1].weight, network[0][1].weight[kept])
    limit = float(network[0][1].weight.detach().abs().sort().values[5])  # five lie below: rounded to four that go
    fewer = compact(network, x, CompactOptions("bn-scale", threshold=limit, round_to=4))
    assert widths(fewer)["0.0"] == (3, 12)


def test_taylor_is_the_sum_of_weight_times_gradient(nets: Any) -> None:
    from splite_deploy.compact.importance import taylor

    network, batches = nets.randomised(nets.SqueezeExcite()), [nets.sample(seed=s) for s in (1, 2)]
    groups = Groups(trace(network, batches[0]))

    def loss(maps: Tensor) -> Tensor:
        return maps.pow(3).mean()

    expected = np.zeros(8)
    for batch in batches:
        network.zero_grad()
        loss(network(batch)).backward()
        for tensor, axes in (
            (network.reduce.weight, (1, 2, 3)),
            (network.reduce.bias, ()),
            (network.expand.weight, (0, 2, 3)),
        ):
            product = (tensor * tensor.grad).abs().detach()
            expected += (product.sum(axes) if axes else product).numpy()
    channels = groups.axes["reduce.weight", 0]
    network.zero_grad()
    scores = taylor(network, groups, batches, loss)
    assert scores[channels] == pytest.approx(expected, rel=1e-5)
    assert all(p.grad is None for p in network.parameters())


def test_no_layer_is_emptied(nets: Any) -> None:
    network, x = nets.randomised(nets.MobileNet()), nets.sample()
    result = compact(network, x, CompactOptions("bn-scale", threshold=100.0, round_to=8))
    assert all(row.outputs_after == 8 for row in result.layers if row.name != "classify")
    assert widths(result)["classify"] == (8, 5)
    assert "'stem.0' keeps 8 of 16 channels, though all lie below the limit" in result.notes
    narrow = nets.randomised(nets.MobileNet(4))  # less than round_to: it stays
    assert widths(compact(narrow, x, CompactOptions("bn-scale", threshold=100.0)))["stem.0"] == (3, 4)


def test_channels_without_a_measure_stay(nets: Any) -> None:
    network, x = nets.randomised(nets.SqueezeExcite()), nets.sample()
    result = compact(network, x, CompactOptions("bn-scale", ratio=0.3, round_to=2))
    assert widths(result)["reduce"][1] == 8
    assert "'reduce' keeps all 8 channels: bn-scale has no measure for them" in result.notes


# Constants of removed channels


class Reader(nn.Module):
    def __init__(self, nets: Any, kernel: int, padding: int, norm: bool, bias: bool) -> None:
        super().__init__()
        self.first = nets.conv_bn(3, 8)
        self.read = nn.Conv2d(8, 6, kernel, padding=padding, bias=bias)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.head = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.head(self.norm(self.read(self.first(x))).relu())
        return maps


@pytest.mark.parametrize(
    ("kernel", "padding", "norm", "bias"),
    [(1, 0, True, False), (1, 0, False, True), (1, 0, True, True), (3, 0, True, False)],
)
def test_shift_is_folded_exactly(nets: Any, kernel: int, padding: int, norm: bool, bias: bool) -> None:
    network, x = nets.randomised(Reader(nets, kernel, padding, norm, bias)), nets.sample()
    network.first[1].weight.data[[2, 5]] = 0  # their shift stays: a constant
    result = compact(network, x, CompactOptions("bn-scale", threshold=1e-6, round_to=1), data=[x])
    (row,) = result.folded
    assert (row.layer, row.channels, row.folded, row.effect) == ("read", 2, True, 0.0)
    assert widths(result)["read"][0] == 6
    assert float((nets.outputs(network, x)[0] - nets.outputs(result.network, x)[0]).abs().max()) <= 1e-6


def test_shift_into_a_padded_convolution_is_exact_but_for_the_border(nets: Any) -> None:
    network, x = nets.randomised(Reader(nets, 3, 1, True, False)), nets.sample()
    network.first[1].weight.data[[2, 5]] = 0
    result = compact(network, x, CompactOptions("bn-scale", threshold=1e-6, round_to=1), data=[x])
    (row,) = result.folded
    assert row.folded
    assert row.effect > 0.01
    gap = (nets.outputs(network, x)[0] - nets.outputs(result.network, x)[0]).abs()
    assert float(gap[:, :, 1:-1, 1:-1].max()) <= 1e-6 < float(gap.max())
    (note,) = result.notes
    assert note.startswith("the constant of 2 removed channels in the input of 'read' is folded but for the border")
    constants = network.first[1].bias.detach()[[2, 5]].relu()
    missing = torch.zeros(1, 2, 16, 16) + constants[:, None, None]
    sums = nn.functional.conv2d(missing, network.read.weight[:, [2, 5]], padding=1)
    assert row.effect == pytest.approx(float((sums - sums[:, :, 8:9, 8:9]).detach().abs().max()), rel=1e-4)


def test_shift_without_a_place_to_go_is_reported(nets: Any) -> None:
    network, x = nets.randomised(Reader(nets, 1, 0, False, False)), nets.sample()
    network.first[1].weight.data[[2, 5]] = 0
    result = compact(network, x, CompactOptions("bn-scale", threshold=1e-6, round_to=1), data=[x])
    (row,) = result.folded
    assert not row.folded
    assert row.effect > 0.01
    assert "is lost: its output changes by up to" in result.notes[-1]


def test_shift_into_a_layer_without_a_module_is_reported(nets: Any) -> None:
    class Bare(Reader):
        def forward(self, x: Tensor) -> Tensor:
            y = nn.functional.conv2d(self.first(x), self.read.weight)
            maps: Tensor = self.head(self.norm(y).relu())
            return maps

    network, x = nets.randomised(Bare(nets, 1, 0, True, False)), nets.sample()
    network.first[1].weight.data[[2, 5]] = 0
    result = compact(network, x, CompactOptions("bn-scale", threshold=1e-6, round_to=1), data=[x])
    assert [(row.layer, row.folded, row.effect) for row in result.folded] == [("read", False, None)]
    assert result.notes[-1].endswith("is lost: its output changes by an unknown amount")


# Refusals


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Nothing says how much to remove."),
        ({"speed_up": 2, "ratio": 0.5}, "speed_up and ratio are given."),
        ({"speed_up": 2, "ratio": 0.5, "threshold": 1}, "speed_up and ratio and threshold are given."),
        ({"speed_up": 1}, "The speed-up is 1."),
        ({"speed_up": float("nan")}, "The speed-up is nan."),
        ({"ratio": 1.0}, "The ratio is 1.0."),
        ({"threshold": -1}, "The threshold is -1."),
        ({"ratio": 0.5, "round_to": 0}, "Widths cannot be rounded to 0."),
        ({"ratio": 0.5, "method": "magic"}, "There is no method 'magic'."),
    ],
)
def test_wrong_options(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        CompactOptions(**{"method": "l1"} | given)
    assert caught.value.message == message
    assert caught.value.hint


def test_what_cannot_be_reached(nets: Any) -> None:
    network, x = nets.randomised(nets.MobileNet()), nets.sample()
    with pytest.raises(ExportError, match=r"The speed-up 50 cannot be reached: with all layers at their least width"):
        compact(network, x, CompactOptions("l1", speed_up=50))
    with pytest.raises(ExportError, match=r"The ratio 0.9 cannot be reached"):
        compact(network, x, CompactOptions("l1", ratio=0.9))
    with pytest.raises(UsageError, match=r"No channel can go below the threshold 1e-09; importances are 0\.\d+ to"):
        compact(network, x, CompactOptions("l1", threshold=1e-9))
    with pytest.raises(UsageError, match='"taylor" needs images'):
        compact(network, x, CompactOptions("taylor", ratio=0.5))
    with pytest.raises(UsageError, match="There are no images"):
        compact(network, x, CompactOptions("l1", ratio=0.5), data=[])
    with pytest.raises(ExportError, match="not a finite number"):
        compact(network, x, CompactOptions("taylor", ratio=0.5), data=[x], loss=lambda y: y)
    with pytest.raises(ExportError, match=r"No channel of this network can be removed\. Kept all channels that enter"):
        compact(nn.Sequential(nn.Conv2d(3, 16, 1), nn.GroupNorm(4, 16)), x, CompactOptions("l1", ratio=0.5))


def test_a_width_in_forward_is_an_error(nets: Any) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(len(x), 2, 8, 16, 16).sum(1)

    network = nn.Sequential(nn.Conv2d(3, 16, 1), Fixed(), nn.Conv2d(8, 5, 1))
    with pytest.raises(ExportError) as caught:
        compact(nets.randomised(network), nets.sample(), CompactOptions("l1", ratio=0.5, round_to=2))
    assert "The network does not run with its channels removed: '1' (Fixed) fails" in caught.value.message
    assert "holds a width as a number" in caught.value.hint


def test_more_groups_than_channels_in_each_are_never_compacted_wrongly(nets: Any) -> None:
    class FourGroups(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            n, c, h, w = x.shape
            return x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)

    network = nets.randomised(nn.Sequential(nn.Conv2d(3, 8, 1), FourGroups(), nn.Conv2d(8, 5, 1)))
    with pytest.raises(ExportError, match="Removing the channels is not the same as setting them to zero") as caught:
        compact(network, nets.sample(), CompactOptions("l1", ratio=0.5, round_to=1))
    assert "the larger part has to be the one that depends on the width" in caught.value.hint


def test_a_wrong_index_is_an_error(nets: Any) -> None:
    network, x = nets.randomised(nets.UNet()), nets.sample()
    groups = Groups(trace(network, x))
    removed = np.zeros(groups.count, bool)
    removed[:2] = True
    good = without(network, groups, removed, x)
    shifted = copy.deepcopy(good)
    key = "fuse.0.weight"
    shifted.load_state_dict(good.state_dict() | {key: good.state_dict()[key].roll(1, 1)})
    with pytest.raises(ExportError, match="Removing the channels is not the same as setting them to zero"):
        prove(good, shifted, [x])
    nan = copy.deepcopy(good)
    nan.head.bias.data[0] = float("nan")
    with pytest.raises(ExportError, match="differ by nan"):
        prove(good, nan, [x])


def test_outputs_that_are_nearly_constant_differ_by_rounding(nets: Any) -> None:
    """As a presence of 0.9999 in every crop does; a wrong index is found there, too."""
    network, x = nets.randomised(nets.UNet()), nets.sample()
    with torch.inference_mode():
        found = network(x)
    network.head.bias.data += 500 * float(found.max() - found.min())
    groups = Groups(trace(network, x))
    removed = np.zeros(groups.count, bool)
    removed[:2] = True
    zero, good = zeroed(network, groups, removed), without(network, groups, removed, x)
    assert prove(zero, good, [x]) >= 0  # by rounding alone, of which some CPUs show none
    shifted = copy.deepcopy(good)
    shifted.fuse[0].weight.data = shifted.fuse[0].weight.data.roll(1, 1)
    with pytest.raises(ExportError, match="Removing the channels is not the same as setting them to zero"):
        prove(zero, shifted, [x])


# Files


def test_checkpoint_to_checkpoint(tiny_checkpoint: Path, tiny_model: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    result = compact_checkpoint(
        tiny_checkpoint,
        tmp_path / "small.safetensors",
        CompactOptions("group-norm", ratio=0.4, round_to=2),
        model=tiny_model,
        crops=3,
        progress=steps.append,
    )
    assert steps[0] == "reading the checkpoint"
    assert steps[-1] == "writing the checkpoint"
    assert result.latency is not None
    assert result.latency.dense.count == result.latency.compacted.count == 200
    assert result.latency.speed_up > 0
    plain = json.loads(json.dumps(result.to_dict()))
    assert "network" not in plain
    assert plain["layers"][0]["name"] == "backbone.0"
    assert plain["latency"]["dense"]["count"] == 200
    stored = read_checkpoint(tmp_path / "small.safetensors")
    spec, host = load_model_toml(tiny_model)
    network, x = build_architecture(host), torch.zeros(1, 3, spec.input.height, spec.input.width)
    assert load_weights(network, stored, x)[0].startswith("reshaped")
    assert all(torch.equal(a, b) for a, b in zip(network(x), result.network(x), strict=True))
    from safetensors import safe_open

    with safe_open(tmp_path / "small.safetensors", framework="pt") as file:
        entry = json.loads(file.metadata()["splite"])
    assert set(entry) == {"format_version", "model", "input", "spec_sha256"}
    assert entry["model"] == "tiny"
    assert entry["input"]["height"] == 64
    assert [f.name for f in tmp_path.iterdir()] == ["small.safetensors"]


def test_what_cannot_be_written(nets: Any, tiny_checkpoint: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a \.safetensors file"):
        compact_checkpoint(tiny_checkpoint, tmp_path / "x.pt", CompactOptions("l1", ratio=0.5), model=tiny_model)
    (tmp_path / "taken.safetensors").mkdir()
    with pytest.raises(OutputError):
        save_compacted(tmp_path / "taken.safetensors", nets.MobileNet(), {})
    with pytest.raises(OutputError):
        save_compacted(tmp_path / "missing" / "x.safetensors", nets.MobileNet(), {})
    assert [f.name for f in tmp_path.iterdir()] == ["taken.safetensors"]
