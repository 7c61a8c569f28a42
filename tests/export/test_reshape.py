"""Compacted checkpoints loaded through the dense factory: every layer kind, and what is said where it cannot be."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from nets import (
    IMAGE,
    Fuse,
    MobileNet,
    ShuffleUnit,
    SqueezeExcite,
    UNet,
    conv_bn,
    sample,
)
from torch import Tensor, nn  # noqa: TID253
from torch.nn import functional  # noqa: TID253

from splite_deploy.errors import CheckpointError
from splite_deploy.export.source.reshape import Reshaped, reshape_to


class ChannelsFirst(nn.LayerNorm):
    """As in timm: what arrives is not what is normalised."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtNorm(nn.Module):
    """As in ConvNeXt: parameters of its own, and their shape beside them."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))
        self.normalized_shape = (c,)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.layer_norm(x.movedim(1, -1), self.normalized_shape, self.weight, self.bias)
        return y.movedim(-1, 1)


class LayerScale(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, c, 1, 1))
        self.register_buffer("shift", torch.zeros(c, 1, 1))
        self.rest = nn.ParameterList([nn.Parameter(torch.ones(c, 1, 1))])
        self.notes = [[c], [1, 2]]  # looks like a shape to nobody

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale * self.rest[0] + self.shift


class Last(nn.Module):
    """Brings channels last and back for layers that want them there."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x.movedim(1, -1)).movedim(-1, 1)
        return y


def norms(c: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, c, 3, bias=False),
        nn.GroupNorm(4, c),
        nn.PReLU(c),
        nn.GroupNorm(c, c),
        nn.InstanceNorm2d(c),
        nn.InstanceNorm2d(c, affine=True, track_running_stats=True),
        nn.BatchNorm2d(c, affine=False),
        nn.BatchNorm2d(c, affine=False, track_running_stats=False),
        Last(nn.Sequential(nn.LayerNorm(c), nn.LayerNorm(c, elementwise_affine=False), nn.RMSNorm(c))),
        ChannelsFirst(c),
        ConvNeXtNorm(c),
        LayerScale(c),
        nn.PReLU(),
        nn.LayerNorm((c, 14, 14)),
        nn.Conv2d(c, 5, 1),
    )


def pixel_shuffle(c: int) -> nn.Module:
    return nn.Sequential(conv_bn(3, 4 * c, stride=2), nn.PixelShuffle(2), conv_bn(c, c), nn.Conv2d(c, 5, 1))


def grouped(c: int, groups: int) -> nn.Module:
    """Groups, channel multipliers, and groups whose in and out differ."""
    return nn.Sequential(
        conv_bn(3, c),
        conv_bn(c, 2 * c, groups=groups),
        conv_bn(2 * c, c, groups=groups),
        conv_bn(c, 3 * c, groups=c),
        nn.Conv2d(3 * c, 5, 1),
    )


def transposed(c: int, groups: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, c, 3),
        nn.ConvTranspose2d(c, c, 2, 2, groups=c, bias=False),
        nn.ConvTranspose2d(c, 2 * c, 2, 2, groups=groups),
        nn.ConvTranspose2d(2 * c, c, 2, 2, groups=groups, bias=False),
        nn.ConvTranspose2d(c, 5, 2),
    )


def transposed_inputs(c: int) -> nn.Module:
    """Fewer inputs in as many groups, with as many outputs: the bias tells."""
    return nn.Sequential(nn.Conv2d(3, c, 3), nn.ConvTranspose2d(c, 8, 2, 2, groups=4))


def flattened(c: int) -> nn.Module:
    convs = (nn.Conv1d(3, c, 3), nn.BatchNorm1d(c), nn.Flatten(), nn.Linear(14 * c, 2 * c), nn.BatchNorm1d(2 * c))
    return nn.Sequential(*convs, nn.ReLU(), nn.Linear(2 * c, 5, bias=False))


def volume(c: int) -> nn.Module:
    return nn.Sequential(nn.Conv3d(3, c, 3), nn.BatchNorm3d(c), nn.ConvTranspose3d(c, 5, 3))


def shuffle_net(c: int) -> nn.Module:
    return nn.Sequential(conv_bn(3, c, stride=2), ShuffleUnit(c), ShuffleUnit(c), nn.Conv2d(c, 5, 1))


def randomised(network: nn.Module, seed: int = 0) -> Any:
    """Fills everything, running statistics too, so that no channel is like another."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape, generator=generator) * 0.8 + 0.2
    return network.eval()


def outputs(network: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        result = network.eval()(x)
    return result if isinstance(result, tuple) else (result,)


def state(network: nn.Module) -> dict[str, Any]:
    """Everything that a failure could have left changed: objects, values, modes, attributes."""
    tensors = {name: (id(t), t.clone(), t.grad) for name, t in network.state_dict(keep_vars=True).items()}
    return {"tensors": tensors, "modes": [m.training for m in network.modules()], "repr": repr(network)}


def assert_same_state(network: nn.Module, before: dict[str, Any]) -> None:
    after = state(network)
    assert after["repr"] == before["repr"]
    assert after["modes"] == before["modes"]
    for name, (identity, value, grad) in before["tensors"].items():
        assert after["tensors"][name][0] == identity
        assert torch.equal(after["tensors"][name][1], value), name
        assert after["tensors"][name][2] is grad


def assert_loads(dense: nn.Module, compacted: nn.Module, x: Tensor) -> tuple[Reshaped, ...]:
    """The round trip: reshape, load, and the very same outputs and widths as the compacted network."""
    tensors = compacted.state_dict()
    expected = outputs(compacted, x)
    reshaped = reshape_to(dense, tensors, x)
    dense.load_state_dict(tensors, strict=True)
    for ours, theirs in zip(outputs(dense, x), expected, strict=True):
        assert torch.equal(ours, theirs)
    assert {name: t.shape for name, t in dense.state_dict().items()} == {name: t.shape for name, t in tensors.items()}
    assert repr(dense.eval()) == repr(compacted.eval())  # in_channels, groups, num_features, ...
    assert reshape_to(dense, tensors, x) == ()
    return reshaped


@pytest.mark.parametrize(
    ("factory", "dense", "small", "shape"),
    [
        (MobileNet, (16,), (6,), IMAGE),
        (shuffle_net, (16,), (10,), IMAGE),
        (SqueezeExcite, (16, 8), (12, 3), IMAGE),
        (UNet, (16, 8), (10, 3), IMAGE),
        (pixel_shuffle, (8,), (3,), IMAGE),
        (Fuse, (8, 16), (6, 5), IMAGE),
        (norms, (16,), (12,), IMAGE),
        (grouped, (16, 4), (8, 4), IMAGE),  # thinner groups
        (grouped, (16, 4), (12, 3), IMAGE),  # fewer groups
        (grouped, (16, 4), (3, 1), IMAGE),  # one group is left
        (grouped, (8, 2), (32, 8), IMAGE),  # the dense network is the narrower one
        (transposed, (16, 4), (8, 4), IMAGE),
        (transposed, (16, 4), (12, 3), IMAGE),
        (transposed, (16, 1), (5, 1), IMAGE),
        (transposed_inputs, (16,), (8,), IMAGE),
        (flattened, (8,), (5,), (2, 3, 16)),
        (volume, (8,), (5,), (2, 3, 4, 4, 4)),
        (MobileNet, (6,), (16,), IMAGE),
        (MobileNet, (6,), (1,), IMAGE),
    ],
)
def test_round_trip(
    factory: Callable[..., nn.Module], dense: tuple[int, ...], small: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    compacted = randomised(factory(*small))
    assert assert_loads(factory(*dense), compacted, sample(shape))


def test_report_names_what_changed() -> None:
    reshaped = {r.name: r.change for r in reshape_to(MobileNet(16), MobileNet(6).state_dict(), sample())}
    assert reshaped["stem.0"] == "Conv2d 16 -> 6 out"
    assert reshaped["blocks.1.expand.0"] == "Conv2d 16 -> 6 in, 48 -> 18 out"
    assert reshaped["blocks.1.depthwise.0"] == "Conv2d 48 -> 18 in, 48 -> 18 out, 48 -> 18 groups"
    assert reshaped["blocks.1.depthwise.1"] == "BatchNorm2d 48 -> 18 features"
    assert reshaped["classify"] == "Linear 32 -> 12 in"
    assert list(reshaped) == [name for name, _ in MobileNet(6).named_modules() if name in reshaped]
    assert "blocks.1.depthwise.2" not in reshaped
    others = {r.name: r.change for r in reshape_to(norms(16), norms(12).state_dict(), sample())}
    assert others["1"] == "GroupNorm 16 -> 12 channels, 4 groups as before"
    assert others["4"] == "InstanceNorm2d 16 -> 12 features"
    assert others["8.inner.1"] == "LayerNorm (16,) -> (12,) normalized_shape"
    assert others["11"] == "LayerScale (1, 16, 1, 1) -> (1, 12, 1, 1) scale, (16, 1, 1) -> (12, 1, 1) shift"


def test_embedding() -> None:
    dense = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 3))
    compacted = randomised(nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3)))
    reshaped = assert_loads(dense, compacted, torch.tensor([[0, 6]]))
    assert reshaped[0] == Reshaped("0", "Embedding 10 -> 7 embeddings, 8 -> 4 embedding_dim")


def test_splite_hand_at_half_width(root: Path) -> None:
    sys.path.insert(0, str(root / "models" / "splite_hand"))
    try:
        from arch import build
    finally:
        sys.path.pop(0)
        sys.modules.pop("arch", None)
    compacted = randomised(build(width=0.5))
    x = sample((1, 3, 64, 64))
    assert len(assert_loads(build(width=1.0), compacted, x)) == 82
    assert [tuple(t.shape) for t in outputs(compacted, x)] == [(1, 21, 16, 16)] * 2


# Torch-Pruning


@pytest.mark.parametrize(
    ("factory", "arguments"), [(MobileNet, (16,)), (SqueezeExcite, (16, 8)), (UNet, (16, 8)), (Fuse, (8, 16))]
)
def test_torch_pruning_readme_recipe(factory: Callable[..., Any], arguments: tuple[int, ...], tmp_path: Path) -> None:
    tp = pytest.importorskip("torch_pruning")
    network = randomised(factory(*arguments))
    x = sample()
    heads = [m for m in network.modules() if 5 in (getattr(m, "out_channels", 0), getattr(m, "out_features", 0))]
    pruner = tp.pruner.BasePruner(
        network, x, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.5, ignored_layers=heads
    )
    pruner.step()
    network.zero_grad()
    torch.save(network.state_dict(), tmp_path / "pruned.pt")
    dense = factory(*arguments)
    assert sum(p.numel() for p in network.parameters()) < 0.5 * sum(p.numel() for p in dense.parameters())

    assert_loads(dense, network, x)
    stored = torch.load(tmp_path / "pruned.pt", weights_only=True)
    assert all(torch.equal(stored[name], tensor) for name, tensor in dense.state_dict().items())


def test_torch_pruning_dependency_graph_and_export() -> None:
    tp = pytest.importorskip("torch_pruning")
    network = randomised(MobileNet(16))
    x = sample()
    graph = tp.DependencyGraph().build_dependency(network, example_inputs=x)
    graph.get_pruning_group(network.stem[0], tp.prune_conv_out_channels, idxs=[2, 6, 9]).prune()
    graph.get_pruning_group(network.blocks[1].expand[0], tp.prune_conv_out_channels, idxs=[0, 5]).prune()
    dense = MobileNet(16)
    assert_loads(dense, network, x)
    assert dense.stem[0].weight.shape == (13, 3, 3, 3)
    assert dense.blocks[1].depthwise[0].groups == 46
    exported = torch.export.export(dense, (x,))
    assert torch.equal(exported.module()(x), outputs(network, x)[0])


# Sharing, dtypes, and what stays


def test_tied_layers_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            self.encode = nn.Linear(4, c, bias=False)
            self.middle = nn.Sequential(nn.Linear(c, c), nn.ReLU())
            self.again = self.middle
            self.decode = nn.Linear(4, c, bias=False)
            self.decode.weight = self.encode.weight
            self.register_buffer("mean", torch.zeros(c))
            self.twin = nn.Module()
            self.twin.register_buffer("mean", self.mean)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.again(self.middle(self.encode(x))) + self.decode(x) + self.mean + self.twin.mean
            return y

    dense, compacted = Tied(8), randomised(Tied(6))
    optimised = list(dense.parameters())
    names = [r.name for r in assert_loads(dense, compacted, sample((2, 4)))]
    assert names == ["", "encode", "middle.0", "decode", "twin"]
    assert dense.decode.weight is dense.encode.weight
    assert dense.again is dense.middle
    assert dense.mean is dense.twin.mean
    assert all(a is b for a, b in zip(optimised, dense.parameters(), strict=True))
    untied = compacted.state_dict() | {"decode.weight": torch.zeros(5, 4)}
    with pytest.raises(
        CheckpointError, match=r"'encode.weight' and 'decode.weight' are one tensor in the architecture"
    ):
        reshape_to(Tied(8), untied, sample((2, 4)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_loaded_as_float32(dtype: str) -> None:
    compacted = randomised(MobileNet(6)).to(getattr(torch, dtype)).float()
    halves = {name: t.to(getattr(torch, dtype)) if t.dim() else t for name, t in compacted.state_dict().items()}
    dense = MobileNet(16)
    reshape_to(dense, halves, sample())
    dense.load_state_dict(halves)
    assert {t.dtype for t in dense.parameters()} == {torch.float32}
    assert dense.stem[1].num_batches_tracked.dtype == torch.int64
    assert torch.equal(outputs(dense, sample())[0], outputs(compacted, sample())[0])


def test_forward_may_depend_on_values() -> None:
    class Selection(nn.Module):
        """Network slimming's: which channels pass is in a parameter that keeps its width."""

        def __init__(self, c: int) -> None:
            super().__init__()
            self.indexes = nn.Parameter(torch.ones(c))

        def forward(self, x: Tensor) -> Tensor:
            return x[:, self.indexes.nonzero().flatten()]

    def build(c: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 1), Selection(8), nn.BatchNorm2d(c), nn.Conv2d(c, 5, 1))

    compacted = randomised(build(6))
    compacted[1].indexes.data = torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 1])
    dense = build(8)
    reshape_to(dense, compacted.state_dict(), sample())
    assert dense[1].indexes.sum() == 8  # what keeps its shape is load_state_dict's work
    dense.load_state_dict(compacted.state_dict())
    assert torch.equal(outputs(dense, sample())[0], outputs(compacted, sample())[0])


def test_nothing_changes_where_shapes_agree() -> None:
    network = MobileNet(8).train()
    before = state(network)

    def refuse(*_: Any) -> None:
        raise AssertionError("it ran")

    network.register_forward_pre_hook(refuse)
    assert reshape_to(network, randomised(MobileNet(8)).state_dict(), sample()) == ()
    assert_same_state(network, before)


def test_forward_pass_is_in_evaluation_mode_without_gradients() -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((self.training, torch.is_grad_enabled()))
            return x

    def build(c: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, c, 1), Spy(), nn.BatchNorm2d(c))

    dense, compacted = build(8).train(), randomised(build(6))
    reshape_to(dense, compacted.state_dict(), sample())
    assert seen == [(False, False)]
    assert torch.equal(dense[2].running_mean, compacted[2].running_mean)


def test_training_mode_gradients_and_hooks_are_as_before() -> None:
    network = MobileNet(16).train()
    network.blocks[0].eval()
    network(sample()).sum().backward()
    modes = [m.training for m in network.modules()]
    tensors = MobileNet(6).state_dict()
    reshape_to(network, tensors, sample())
    assert not {t.data_ptr() for t in tensors.values()} & {t.data_ptr() for t in network.state_dict().values()}
    assert modes == [m.training for m in network.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert network.stem[0].weight.grad is None
    assert network.classify.bias.grad is not None
    network(sample()).sum().backward()
    assert network.stem[0].weight.grad.shape == (6, 3, 3, 3)


# Failures


def narrowed(network: nn.Module, prefix: str, channels: int) -> dict[str, Tensor]:
    """A checkpoint in which one layer (and what follows it under that prefix) has fewer outputs."""
    return {
        name: tensor[:channels] if name.startswith(prefix) and tensor.dim() else tensor
        for name, tensor in network.state_dict().items()
    }


def failure(dense: nn.Module, tensors: dict[str, Tensor], x: Tensor | None = None) -> CheckpointError:
    """The error, having checked that it left the network as it was."""
    for parameter in dense.parameters():
        parameter.grad = torch.zeros_like(parameter)
    dense.train()
    before = state(dense)
    with pytest.raises(CheckpointError) as caught:
        reshape_to(dense, tensors, sample() if x is None else x)
    assert_same_state(dense, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in dense.modules())
    assert caught.value.hint.endswith(".")
    return caught.value


def test_depthwise_disagrees() -> None:
    error = failure(MobileNet(16), narrowed(MobileNet(6), "blocks.1.expand", 7))
    assert error.message == (
        "'blocks.1.depthwise.0' (Conv2d) receives 7 channels from 'blocks.1.expand.1' (BatchNorm2d), but its weight "
        "was made for 18."
    )
    assert "residual sum, a concatenation or a squeeze-excite gate" in error.hint
    kept = narrowed(MobileNet(16), "blocks.1.expand", 7)  # the depthwise convolution itself is still the dense one
    assert "receives 7 channels from 'blocks.1.expand.1' (BatchNorm2d), but its weight was made for 48." in str(
        failure(MobileNet(16), kept)
    )


def test_residual_partner_disagrees() -> None:
    error = failure(MobileNet(16), narrowed(MobileNet(6), "blocks.2.project", 7))
    assert error.message.startswith("'blocks.2' (InvertedResidual) fails at nets.py:")
    assert (
        "(`return x + y if self.residual else y`); it takes (2, 12, 4, 4) from 'blocks.1.project.1' (BatchNorm2d) and "
        "(2, 7, 4, 4) from 'blocks.2.project.1' (BatchNorm2d): The size of tensor a (12) must match"
    ) in error.message


def test_layer_with_a_forward_of_its_own_disagrees() -> None:
    """Its input is permuted first: which axis holds the channels is not ours to say."""

    def build(c: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, c, 1), ChannelsFirst(c))

    error = failure(build(8), narrowed(build(6), "0.", 5))
    assert error.message.startswith("'1' (ChannelsFirst) fails at test_reshape.py:")
    assert "(2, 16, 16, 5) from '0' (Conv2d)" in error.message
    assert "Given normalized_shape=[6]" in error.message


def test_concat_disagrees() -> None:
    error = failure(
        UNet(16, 8), UNet(10, 3).state_dict() | {"up.weight": torch.ones(10, 9, 2, 2), "up.bias": torch.ones(9)}
    )
    assert error.message == (
        "'fuse.0' (Conv2d) receives 12 channels from 'top.1' (BatchNorm2d) and 'up' (ConvTranspose2d), but its weight "
        "was made for 13."
    )


def test_squeeze_excite_disagrees() -> None:
    error = failure(SqueezeExcite(16, 8), narrowed(SqueezeExcite(12, 3), "expand", 11))
    assert "(2, 12, 16, 16) from 'body.1' (BatchNorm2d) and (2, 11, 1, 1) from 'expand' (Conv2d)" in error.message


@pytest.mark.parametrize(
    ("function", "line", "taken"),
    [
        (lambda x: x.view(-1, 2, 8, 16, 16).sum(1), "x.view(-1, 2, 8", "(2, 12, 16, 16) from '0' (Conv2d)"),
        (lambda x: torch.add(*x.split(8, 1)), "x.split(8, 1)", "(2, 4, 16, 16) from '0' (Conv2d)"),
        (lambda x: sum(a + b for a, b in [x.split(12, 1)]), "x.split(12, 1)", "(2, 12, 16, 16) from '0' (Conv2d)"),
    ],
)
def test_hard_coded_width(function: Callable[[Tensor], Tensor], line: str, taken: str) -> None:
    class Function(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    def build(c: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, c, 1), Function())

    dense = 24 if "12" in line else 16
    error = failure(build(dense), build(12).state_dict())
    assert error.message.startswith("'1' (Function) fails at test_reshape.py:")
    assert line in error.message
    assert taken in error.message
    assert "forward() holds a width as a number (view, reshape, chunk, split)" in error.hint


@pytest.mark.parametrize(
    ("dense", "other", "message"),
    [
        (
            conv_bn(3, 8, 3),
            conv_bn(3, 6, 5),
            "'0' (Conv2d) has a kernel of 5x5 in the checkpoint and of 3x3 in the architecture.",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 8, 1)),
            nn.Sequential(nn.Linear(3, 8)),
            "'0.weight' has 2 dimensions in the checkpoint, (8, 3), and 4 in the architecture, (8, 3, 1, 1).",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 6, 3, groups=6)),
            nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 6, 3, groups=2)),
            "'1' (Conv2d) is depthwise in the architecture, but has 3 inputs per group in the checkpoint.",
        ),
    ],
)
def test_another_architecture(dense: nn.Module, other: nn.Module, message: str) -> None:
    error = failure(copy.deepcopy(dense), other.state_dict())
    assert error.message == message
    assert "another architecture" in error.hint


def test_groups_that_do_not_fit() -> None:
    dense = grouped(16, 4)
    arriving = failure(dense, grouped(12, 4).state_dict() | {"1.0.weight": torch.ones(24, 5, 3, 3)})
    assert arriving.message == (
        "'1.0' (Conv2d) receives 12 channels from '0.1' (BatchNorm2d), but its weight was made for groups of 5 with 24 "
        "outputs in all: no number of groups fits."
    )
    leaving = failure(dense, narrowed(grouped(12, 4), "1.", 23))
    assert "with 23 outputs in all: no number of groups fits." in leaving.message
    transpose = transposed(16, 4).state_dict() | {"3.weight": torch.ones(30, 3, 2, 2)}
    assert failure(transposed(16, 4), transpose).message == (
        "'3' (ConvTranspose2d) has 30 inputs, which do not divide into 4 groups."
    )


def test_group_norm_that_does_not_divide() -> None:
    error = failure(norms(16), norms(12).state_dict() | {f"1.{name}": torch.ones(10) for name in ("weight", "bias")})
    assert error.message == "'1' (GroupNorm) has 10 channels in the checkpoint, not a multiple of its 4 groups."


def test_layer_that_disagrees_with_itself() -> None:
    tensors = MobileNet(6).state_dict()
    error = failure(MobileNet(16), tensors | {"stem.1.running_var": torch.ones(7)})
    assert error.message == (
        "'stem.1' (BatchNorm2d) has tensors of different widths in the checkpoint: 6 in weight, 6 in bias, 6 in "
        "running_mean, 7 in running_var."
    )
    error = failure(UNet(16, 8), UNet(10, 3).state_dict() | {"head.bias": torch.ones(6)})
    assert error.message == "'head' (Conv2d) has tensors of different widths in the checkpoint: 5 in weight, 6 in bias."


def test_empty_layer() -> None:
    error = failure(MobileNet(16), MobileNet(6).state_dict() | {"stem.0.weight": torch.ones(0, 3, 3, 3)})
    assert error.message == "'stem.0.weight' is empty in the checkpoint: (0, 3, 3, 3)."


def test_attribute_that_would_keep_the_old_width() -> None:
    class Scale(nn.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            self.channels = c
            self.scale = nn.Parameter(torch.ones(c, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale / self.channels

    def build(c: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, c, 1), Scale(c))

    error = failure(build(8), build(6).state_dict())
    assert error.message == "'1' (Scale) has other widths in the checkpoint, but channels = 8 in the architecture."


@pytest.mark.parametrize(
    ("build", "shape", "message"),
    [
        (lambda c: nn.MultiheadAttention(c, 2), (4, 1, 8), "the network (MultiheadAttention) has other widths"),
        (lambda c: nn.GRU(3, c), (4, 3), "the network (GRU) has other widths"),
        (lambda c: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, c, 1)), IMAGE, "holds no weight, but bias"),
    ],
)
def test_layers_that_cannot_be_reshaped(
    build: Callable[[int], nn.Module], shape: tuple[int, ...], message: str
) -> None:
    assert message in failure(build(8), build(6).state_dict(), sample(shape)).message


def test_input_that_the_architecture_does_not_take() -> None:
    error = failure(UNet(16, 8), UNet(10, 3).state_dict(), sample((1, 3, 15, 15)))
    assert error.message.startswith(
        "The architecture does not run on an input of (1, 3, 15, 15) with its own widths either: the network (UNet) "
        "fails at nets.py:"
    )
    assert "(1, 8, 15, 15) from 'top.1' (BatchNorm2d) and (1, 16, 16, 16) from 'up' (ConvTranspose2d)" in error.message
    assert "the input's size" in error.hint
