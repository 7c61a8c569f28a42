"""Penalties and pruning during a training: their formulas, what they do to networks, and every refusal."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: TID253

from splite_deploy.compact import CompactOptions, compact
from splite_deploy.compact.importance import METHODS
from splite_deploy.compact.sparsity import KINDS, GradualPruning, LambdaSchedule, Penalty, traced
from splite_deploy.errors import ExportError, UsageError

COUPLED = "mobile shuffle se unet fuse pixel-shuffle grouped tied".split()  # noqa: SIM905


class Chain(nn.Module):
    """Two convolutions: the four channels between them are all that can go."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(torch.relu(self.norm(self.first(x))))
        return y


def chain() -> Chain:
    torch.manual_seed(0)
    network = Chain()
    with torch.no_grad():
        network.norm.weight.copy_(torch.tensor([0.5, -1.5, 0.25, 2.0]))
    return network


def test_bn_scale_is_the_sum_of_absolute_gammas() -> None:
    network = chain()
    penalty = Penalty("bn-scale", network, torch.zeros(1, 3, 4, 4))
    value = penalty()
    value.backward()
    assert value.item() == pytest.approx(4.25)
    assert network.norm.weight.grad is not None
    assert network.norm.weight.grad.tolist() == [1, -1, 1, 1]
    assert network.first.weight.grad is None


def test_group_lasso_is_the_formula_over_all_that_a_channel_runs_through() -> None:
    network = chain()
    penalty = Penalty("group-lasso", network, torch.zeros(1, 3, 4, 4))
    value = penalty()
    value.backward()
    expected = 0.0
    for channel in range(4):  # 3 weights make it, 1 scales it, 2 read it
        weights = torch.cat(
            [
                network.first.weight[channel].flatten(),
                network.norm.weight[channel : channel + 1],
                network.last.weight[:, channel].flatten(),
            ]
        )
        expected += math.sqrt(6) * weights.norm().item()
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert network.norm.weight.grad is not None
    assert network.norm.bias.grad is None  # a shift says nothing of a channel's size
    weights = torch.cat([network.first.weight[2].flatten(), network.norm.weight[2:3], network.last.weight[:, 2, 0, 0]])
    slope = math.sqrt(6) * 0.25 / weights.norm().item()
    assert network.norm.weight.grad[2].item() == pytest.approx(slope, rel=1e-5)


def test_the_penalty_follows_the_weights_in_training() -> None:
    network = chain()
    penalty = Penalty("group-lasso", network, torch.zeros(1, 3, 4, 4))
    before = penalty().item()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    assert penalty().item() == pytest.approx(2 * before, rel=1e-5)


def test_zero_channels_have_no_slope() -> None:
    network = chain()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    penalty = Penalty("group-lasso", network, torch.zeros(1, 3, 4, 4))
    penalty().backward()
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())


@pytest.mark.parametrize("name", COUPLED)
def test_every_weight_of_every_coupled_channel_is_drawn(nets: Any, name: str) -> None:
    """The gradient reaches exactly the elements that compaction would remove, weights and scales."""
    network = nets.randomised(nets.NETS[name]())
    penalty = Penalty("group-lasso", network, nets.sample())
    penalty().backward()
    groups = traced(network, nets.sample())
    shifts = {shift for _, shift in groups.scales}
    held = dict(network.named_parameters())
    for key, parameter in held.items():
        axes = [axis for axis in range(parameter.dim()) if (key, axis) in groups.axes]
        reached = torch.zeros(parameter.shape, dtype=torch.bool)
        for axis in axes:
            places = torch.from_numpy(np.flatnonzero(groups.axes[key, axis] >= 0))
            reached.index_fill_(axis, places, True)
        if key in shifts or key.endswith(".bias"):
            assert parameter.grad is None
        else:
            drawn = torch.zeros_like(reached) if parameter.grad is None else parameter.grad != 0
            assert torch.equal(drawn, reached & (parameter != 0)), key


def fit(network: nn.Module, penalty: Penalty | None, strength: LambdaSchedule, steps: int = 400) -> None:
    """Teaches the chain a function of its first input channel alone."""
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        x = torch.randn(16, 3, 4, 4, generator=generator)
        y = network(x)
        loss = (y - x[:, :1].relu()).square().mean()
        if penalty is not None:
            loss = loss + strength.at(step) * penalty()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@pytest.mark.parametrize("kind", KINDS)
def test_needless_channels_shrink_and_needed_ones_stay(kind: Any) -> None:
    plain, sparse = chain(), chain()
    schedule = LambdaSchedule(peak=3e-3, warm_up=50)
    fit(plain, None, schedule)
    fit(sparse, Penalty(kind, sparse, torch.zeros(1, 3, 4, 4)), schedule)

    def sizes(network: Chain) -> list[float]:
        gammas = network.norm.weight.detach().abs()
        return sorted((gammas * network.last.weight.detach()[:, :, 0, 0].norm(dim=0)).tolist())

    assert sizes(sparse)[0] < 0.02 * sizes(sparse)[-1]
    assert sizes(sparse)[-1] > 0.1
    assert sizes(sparse)[0] < 0.2 * sizes(plain)[0]


def test_schedule() -> None:
    schedule = LambdaSchedule(peak=2.0, start=10, warm_up=4)
    assert [schedule.at(step) for step in (0, 9, 10, 11, 13, 14, 1000)] == [0, 0, 0.5, 1.0, 2.0, 2.0, 2.0]
    assert LambdaSchedule(peak=3.0).at(0) == 3.0


def train_pruned(network: nn.Module, pruning: GradualPruning, x: Tensor, steps: int, *others: nn.Module) -> list[int]:
    """A training on noise; returns how many channels are gone after every step."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    counts = []
    for step in range(steps):
        result = network.train()(x)
        loss = torch.stack([y.square().mean() for y in ([result] if isinstance(result, Tensor) else result)]).sum()
        optimiser.zero_grad()
        loss.backward()
        pruning.observe()
        optimiser.step()
        pruning.apply(step, *others)
        counts.append(int(pruning.removed.sum()))
    return counts


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mobile", "se", "pixel-shuffle"])
def test_pruned_in_training_then_removed_without_loss(nets: Any, name: str, method: Any) -> None:
    network, x = nets.randomised(nets.NETS[name]()), nets.sample()
    average = nets.randomised(nets.NETS[name](), seed=7)
    pruning = GradualPruning(network, x, method, 1.5, start=1, end=7, every=2, round_to=2)
    counts = train_pruned(network, pruning, x, 10, average)
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[7] == counts[-1] > counts[3] > 0

    groups = pruning.groups
    for own in (network, average):
        held = dict(own.named_parameters())
        for key, axis in groups.axes:
            if key in held:
                assert not held[key].index_select(axis, groups.drop((key, axis), pruning.removed)).any()
    network.eval()
    chosen = "group-norm" if method == "taylor" else method  # without data, zeros go first by any measure
    result = compact(network, x, CompactOptions(chosen, speed_up=1.5, round_to=2), data=[x])
    assert result.speed_up >= 1.5
    assert result.parameters_after == result.parameters_before - _lost(network, groups, pruning.removed)
    for ours, theirs in zip(nets.outputs(result.network, x), nets.outputs(network, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def _lost(network: nn.Module, groups: Any, removed: Any) -> int:
    lost = 0
    for key, parameter in network.named_parameters():
        kept = math.prod(
            len(groups.keep((key, axis), removed)) if (key, axis) in groups.axes else size
            for axis, size in enumerate(parameter.shape)
        )
        lost += parameter.numel() - kept
    return lost


def test_share_of_macs_is_the_cubic_curve(nets: Any) -> None:
    network = nets.randomised(nets.NETS["mobile"]())
    pruning = GradualPruning(network, nets.sample(), "l1", 2.0, start=10, end=30, round_to=2)
    assert [pruning.share_of_macs(step) for step in (0, 10, 20, 30, 99)] == [1, 1, 1 - 0.5 * (1 - 0.125), 0.5, 0.5]


def test_pruning_goes_on_after_a_cut(nets: Any) -> None:
    def made() -> tuple[nn.Module, GradualPruning]:
        network = nets.randomised(nets.NETS["mobile"]())
        return network, GradualPruning(network, nets.sample(), "l1", 1.5, start=0, end=6, every=2, round_to=2)

    network, pruning = made()
    train_pruned(network, pruning, nets.sample(), 4)
    other, resumed = made()
    other.load_state_dict(network.state_dict())
    resumed.load_state_dict(pruning.state_dict())
    assert np.array_equal(resumed.removed, pruning.removed)
    pruning.apply(4)
    resumed.apply(4)
    assert np.array_equal(resumed.removed, pruning.removed)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_the_network_in_training_is_left_as_it_is(nets: Any) -> None:
    network = nets.randomised(nets.NETS["se"]()).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    Penalty("group-lasso", network, nets.sample())
    GradualPruning(network, nets.sample(), "l1", 1.5, start=0, end=1, round_to=2)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class Plain(nn.Module):
    """Nothing between input and output that could go."""

    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.only(x)
        return y


def test_refusals(nets: Any) -> None:
    x = nets.sample()
    with pytest.raises(UsageError, match="no penalty 'l0'") as caught:
        Penalty("l0", chain(), x)  # type: ignore[arg-type]
    assert caught.value.hint == "Choose bn-scale or group-lasso."
    for kind in KINDS:
        with pytest.raises(ExportError, match=f"nothing that the penalty '{kind}' works on"):
            Penalty(kind, Plain(), x)
    with pytest.raises(UsageError, match="from step 5 to step 5, every 1"):
        GradualPruning(chain(), x, "l1", 2.0, start=5, end=5, every=1)
    with pytest.raises(UsageError, match=r"speed-up is 0\.5"):
        GradualPruning(chain(), x, "l1", 0.5, start=0, end=5)
    with pytest.raises(ExportError, match="speed-up 1000 cannot be reached"):
        GradualPruning(chain(), x, "l1", 1000, start=0, end=5, round_to=1)
    pruning = GradualPruning(chain(), x, "taylor", 2.0, start=0, end=4, every=2, round_to=1)
    with pytest.raises(UsageError, match="No gradients were recorded") as caught:
        pruning.apply(2)
    assert "observe()" in str(caught.value.hint)
