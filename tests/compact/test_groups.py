"""Which channels go together: exact index mappings, protected outputs, and agreement with Torch-Pruning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: TID253
from torch.nn import functional  # noqa: TID253

from splite_deploy.compact.groups import Groups
from splite_deploy.compact.trace import trace
from splite_deploy.errors import ExportError


def groups_of(network: nn.Module, x: Tensor) -> Groups:
    return Groups(trace(network.eval(), x))


def test_pixel_shuffle_couples_blocks(nets: Any) -> None:
    groups = groups_of(nets.PixelShuffled(8), nets.sample())
    up, lateral = groups.axes["up.0.weight", 0], groups.axes["lateral.0.weight", 0]
    assert up.tolist() == np.repeat(lateral, 4).tolist()  # torch: out[c, h r + i, w r + j] = in[c r r + i r + j, h, w]
    assert len(set(lateral)) == 8
    assert groups.axes["down.0.weight", 1].tolist() == up.tolist()
    assert groups.axes["up.1.running_var", 0].tolist() == up.tolist()


def test_channel_shuffle_couples_halves(nets: Any) -> None:
    groups = groups_of(nn.Sequential(nets.conv_bn(3, 16), nets.ShuffleUnit(16), nn.Conv2d(16, 5, 1)), nets.sample())
    stem, branch = groups.axes["0.0.weight", 0], groups.axes["1.branch.2.0.weight", 0]
    assert stem[:8].tolist() == stem[8:].tolist() == branch.tolist()
    assert groups.axes["2.weight", 1].tolist() == np.repeat(branch, 2).tolist()  # kept and worked alternate
    written = groups_of(
        nn.Sequential(nets.conv_bn(3, 16), nets.SlicedShuffleUnit(16), nn.Conv2d(16, 5, 1)), nets.sample()
    )
    assert {key: index.tolist() for key, index in written.axes.items()} == {
        key: index.tolist() for key, index in groups.axes.items()
    }


def test_concat_keeps_its_order(nets: Any) -> None:
    groups = groups_of(nets.UNet(16, 8), nets.sample())
    top, up = groups.axes["top.0.weight", 0], groups.axes["up.weight", 1]
    assert groups.axes["fuse.0.weight", 1].tolist() == [*top, *up]
    assert len(set(top) & set(up)) == 0
    assert groups.axes["up.weight", 0].tolist() == groups.axes["down.0.weight", 0].tolist()


def test_depthwise_multiplier_flatten_and_groups(nets: Any) -> None:
    groups = groups_of(nets.grouped(), nets.sample())
    assert groups.axes["4.0.weight", 0].tolist() == np.repeat(groups.axes["2.0.weight", 0], 3).tolist()
    assert groups.axes["1.0.weight", 0].reshape(4, 8).tolist() == [groups.axes["2.0.weight", 1].tolist()] * 4
    assert groups.axes["3.weight", 0].tolist() == groups.axes["2.0.weight", 0].tolist()
    assert groups.axes["6.scale", 1].tolist() == groups.axes["6.shift", 0].tolist()
    flat = groups_of(nets.flattened(), nets.sample())
    assert flat.axes["5.weight", 1].tolist() == np.repeat(flat.axes["0.weight", 0], 9).tolist()


def test_outputs_and_inputs_are_protected(nets: Any) -> None:
    for name, factory in nets.NETS.items():
        groups = groups_of(factory(), nets.sample())
        heads = [key for key, layer in groups.layers.items() if len(layer.outputs) == 5]
        assert heads, name
        for head in heads:
            assert (groups.layers[head].outputs == -1).all()
            assert (f"{head}.weight", 0) not in groups.axes
        first = next(iter(groups.layers.values()))
        assert first.inputs.tolist() == [-1, -1, -1]


def test_a_residual_output_protects_all_that_is_added(nets: Any) -> None:
    groups = groups_of(nets.InvertedResidual(8, 24, 8, 1), nets.sample((1, 8, 8, 8)))
    assert (groups.layers["project.0"].outputs == -1).all()
    assert len(set(groups.layers["expand.0"].outputs)) == 24


class Then(nn.Module):
    """A convolution, a function, a convolution."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Conv2d(3, 16, 3), function, nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.last(self.function(self.first(x)))
        return maps


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda y: functional.softmax(y, 1), "softmax"),
        (lambda y: y / y.norm(dim=1, keepdim=True), "linalg_vector_norm"),
        (lambda y: y - y.mean(1, keepdim=True), "mean"),
        (nn.GroupNorm(4, 16), "group_norm"),
        (lambda y: y[:, [1, 0, *range(2, 16)]], "index"),
        (lambda y: torch.cat(y.split([4, 12], 1)[::-1], 1), "split_with_sizes"),
        (lambda y: y * y[:, 3:4], "slice"),
        (lambda y: y.roll(1, 1), "roll"),
        (lambda y: y + y[:, 0].unsqueeze(1), "select"),
        (lambda y: functional.layer_norm(y.movedim(1, -1), (16,)).movedim(-1, 1), "layer_norm"),
    ],
)
def test_what_mixes_channels_keeps_them(nets: Any, function: Any, operation: str) -> None:
    found = trace(Then(function).eval(), nets.sample())
    assert Groups(found).count == 0
    assert operation in " ".join(found.notes)


@pytest.mark.parametrize(
    "function",
    [
        lambda y: functional.pad(functional.max_pool2d(y, 2), (1, 1, 1, 1)),
        lambda y: functional.hardswish(y) + functional.interpolate(y, y.shape[2:], mode="bilinear") * 2,
        lambda y: y.permute(0, 2, 3, 1).sigmoid().permute(0, 3, 1, 2),
        lambda y: y.view(*y.shape[:2], -1).amax(2)[:, :, None, None] + y + torch.zeros_like(y),
        lambda y: torch.stack([y, y], 2).mean(2) * torch.tensor([2.0]),
    ],
)
def test_what_keeps_channels_apart_is_followed(nets: Any, function: Any) -> None:
    found = trace(Then(function).eval(), nets.sample())
    assert Groups(found).count == 16
    assert found.notes == []


def test_a_weight_that_is_read_elsewhere_keeps_its_channels(nets: Any) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            maps: Tensor = self.last(self.first(x)) * self.first.weight.mean()
            return maps

    found = trace(Scaled().eval(), nets.sample())
    assert Groups(found).count == 0
    assert any("'first.weight'" in note for note in found.notes)


def test_a_network_that_cannot_be_traced(nets: Any) -> None:
    with pytest.raises(ExportError, match="torch cannot trace this network") as caught:
        trace(Then(lambda y: y if y.sum() > 0 else -y), nets.sample())
    assert "control flow" in caught.value.hint


@pytest.mark.parametrize("name", ["mobile", "se", "unet", "fuse"])
def test_agrees_with_torch_pruning(nets: Any, name: str) -> None:
    """Where Torch-Pruning maps all operations both find the same channels, layer by layer and index by index."""
    tp = pytest.importorskip("torch_pruning")
    network, x = nets.randomised(nets.NETS[name]()), nets.sample()
    ours = groups_of(network, x)
    graph = tp.DependencyGraph().build_dependency(network, example_inputs=x)
    names = {module: key for key, module in network.named_modules()}
    checked = 0
    for key, layer in ours.layers.items():
        module = network.get_submodule(key)
        if (layer.outputs == -1).all() or layer.depthwise:
            continue
        for position, channel in enumerate(layer.outputs):
            kind = tp.prune_linear_out_channels if isinstance(module, nn.Linear) else tp.prune_conv_out_channels
            theirs = set()
            for dep, indices in graph.get_pruning_group(module, kind, [position]):
                if (target := names.get(dep.target.module)) is None or not list(dep.target.module.parameters()):
                    continue
                incoming = "in_channels" in dep.handler.__name__ and f"{target}.weight" not in _one_sided(ours)
                transposed = isinstance(dep.target.module, nn.ConvTranspose2d)
                axis = int(incoming != transposed)
                theirs |= {(f"{target}.weight", axis, int(getattr(i, "idx", i))) for i in indices}
            mine = {
                (tensor, axis, int(i))
                for (tensor, axis), index in ours.axes.items()
                if tensor.endswith("weight")
                for i in np.flatnonzero(index == channel)
            }
            assert mine == theirs
            checked += 1
    assert checked > 20


def _one_sided(groups: Groups) -> set[str]:
    """Weights whose input and output channels are one: norms and depthwise convolutions."""
    norms = {scale for scale, _ in groups.scales}
    return norms | {f"{name}.weight" for name, layer in groups.layers.items() if layer.depthwise}
