"""Sparsity-aware training: penalties that drive whole channels towards zero, and pruning step by step. Imports torch.

    network = build()
    penalty = Penalty("group-lasso", network, example)
    strength = LambdaSchedule(peak=1e-4, warm_up=500)
    ...
    total = pose + strength.at(step) * penalty()

Both work with any of torch's optimisers; `models/splite_hand/train.py` uses them. The trained network is still dense:
`splite_deploy.compact.compact` removes the channels.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from splite_deploy.compact.groups import Groups, Removed
from splite_deploy.compact.importance import Method, Scores, stored, sum_of_units, weights_of
from splite_deploy.compact.proof import silence
from splite_deploy.compact.prune import CompactOptions, choose
from splite_deploy.compact.trace import trace
from splite_deploy.errors import ExportError, UsageError

Kind = Literal["bn-scale", "group-lasso"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_EPSILON = 1e-12  # under the root: its slope is infinite at zero, where pruned channels are


@dataclass(frozen=True)
class LambdaSchedule:
    """Strength of a penalty over a training: zero at first, a linear rise, then constant.

    Attributes:
        peak: The strength in the end; the gradient of either penalty is of the order of one per weight.
        start: Steps without a penalty.
        warm_up: Steps of the rise.
    """

    peak: float
    start: int = 0
    warm_up: int = 0

    def at(self, step: int) -> float:
        """The strength at a step, which counts from 0."""
        if step < self.start:
            return 0.0
        return self.peak * min(1.0, (step - self.start + 1) / max(1, self.warm_up))


class Penalty:
    """A scalar to add to the loss; its gradient draws whole channels of little effect to zero.

    * "bn-scale": sum over the batch norms of removable channels of |gamma| (Liu et al., Network Slimming, ICCV 2017).
    * "group-lasso": sum over the groups g of coupled weights of sqrt(|g|) * ||w_g||_2 (Yuan and Lin 2006; for coupled
      channels Fang et al., DepGraph, CVPR 2023). A group has all weights of one channel: those that
      compute it, scale it and read it, in every layer that a residual, a depthwise convolution, a concatenation, a gate
      or a pixel shuffle couples.

    Args:
        kind: One of the two.
        network: The network in training; its parameters are looked up once, so they must not be replaced afterwards.
        example: An input, (N, ...), to trace with.

    Raises:
        UsageError: There is no such kind.
        ExportError: The network cannot be traced, or has nothing to penalise.
    """

    def __init__(self, kind: Kind, network: nn.Module, example: Tensor) -> None:
        if kind not in KINDS:
            raise UsageError(f"There is no penalty '{kind}'.", hint=f"Choose {' or '.join(KINDS)}.")
        groups = traced(network, example)
        parameters = dict(network.named_parameters(remove_duplicate=False))
        if kind == "bn-scale":
            chosen = {(scale, 0) for scale, _ in groups.scales}
        else:
            names = set(weights_of(groups, network))
            chosen = {key for key in groups.axes if key[0] in names}
        if not chosen:
            raise ExportError(
                f"This network has nothing that the penalty '{kind}' works on.",
                hint="Use group-lasso for networks without batch norms, and check that channels can be removed.",
            )
        self.kind = kind
        self._axes: dict[str, list[int]] = {}
        for name, axis in sorted(chosen):
            self._axes.setdefault(name, []).append(axis)
        self._parameters = {name: parameters[name] for name in self._axes}
        index = np.concatenate([groups.axes[name, axis] for name, axes in self._axes.items() for axis in axes])
        # protected channels, -1, are summed into one more place after the others
        self._places = torch.from_numpy(np.where(index < 0, groups.count, index)).to(
            next(iter(parameters.values())).device
        )
        self._count = groups.count
        with torch.no_grad():
            ones = {name: torch.ones_like(parameter) for name, parameter in self._parameters.items()}
            self._roots_of_sizes = self._sums(ones).sqrt()

    def __call__(self) -> Tensor:
        """The penalty at the weights as they are, a scalar that can be differentiated."""
        if self.kind == "bn-scale":
            return self._sums({name: parameter.abs() for name, parameter in self._parameters.items()}).sum()
        squares = self._sums({name: parameter.square() for name, parameter in self._parameters.items()})
        return (self._roots_of_sizes * (squares + _EPSILON).sqrt()).sum()

    def _sums(self, values: dict[str, Tensor]) -> Tensor:
        """Sums values over every channel's slices of all its tensors, (channels,)."""
        slices = []
        for name, axes in self._axes.items():
            value = values[name]
            for axis in axes:
                others = [d for d in range(value.dim()) if d != axis]
                slices.append(value.sum(others) if others else value)
        sums = slices[0].new_zeros(self._count + 1)
        return sums.index_add(0, self._places, torch.cat(slices))[:-1]


class GradualPruning:
    """Sets more and more channels to zero while the network trains, so that it can compensate for each of them.

    The share of multiply-accumulates that remains falls from 1 to ``1 / speed_up`` on the cubic curve of Zhu and Gupta,
    "To prune, or not to prune", 2017: fast at first, slowly towards the end. Zeros stay zeros; after the last
    step `compact` with the same method, speed-up and rounding removes exactly those channels, without loss.

    Call `observe` after every backward pass and `apply` after every optimiser step.

    Args:
        network: The network in training.
        example: An input, (N, ...), to trace with.
        method: The measure of importance; "taylor" uses the gradients of the training itself.
        speed_up: Dense multiply-accumulates over remaining ones in the end, above 1.
        start: Step at which the first channels are set to zero.
        end: Step from which on the speed-up is reached.
        every: Steps between two choices.
        round_to: Widths stay multiples of this.

    Raises:
        UsageError: The options contradict each other.
        ExportError: The network cannot be traced, or cannot become that small.
    """

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        method: Method,
        speed_up: float,
        *,
        start: int,
        end: int,
        every: int = 50,
        round_to: int = 8,
    ) -> None:
        self._goal = CompactOptions(method, speed_up=speed_up, round_to=round_to)
        if not 0 <= start < end or every < 1:
            raise UsageError(
                f"Pruning cannot go from step {start} to step {end}, every {every}.",
                hint="Let it end after it starts, and choose every 1 step or more.",
            )
        self.network, self.start, self.end, self.every = network, start, end, every
        self.groups = traced(network, example)
        self.channel_groups = self.groups.channel_groups(round_to)
        self.removed: Removed = np.zeros(self.groups.count, bool)
        self._losses: dict[str, Tensor] = {}
        any_scores = stored(network, self.groups, self.channel_groups, "group-norm")
        choose(self.groups, self.channel_groups, any_scores, self._goal)  # fails now if the speed-up cannot be reached

    def share_of_macs(self, step: int) -> float:
        """Share of the multiply-accumulates that remains at a step, from 1 down to one over the speed-up."""
        assert self._goal.speed_up is not None
        course = min(1.0, max(0.0, (step - self.start) / (self.end - self.start)))
        return 1 - (1 - 1 / self._goal.speed_up) * (1 - (1 - course) ** 3)

    def observe(self) -> None:
        """Records the gradients of this step, which "taylor" needs; other methods ignore them."""
        if self._goal.method != "taylor":
            return
        for name, parameter in self._own().items():
            if parameter.grad is not None:
                product = (parameter.detach() * parameter.grad).abs()
                self._losses[name] = self._losses[name].add_(product) if name in self._losses else product

    def apply(self, step: int, *others: nn.Module) -> None:
        """Chooses channels at the steps for it, and sets all chosen ones to zero.

        Args:
            step: The number of the step, from 0.
            others: Networks of the same shape to treat in the same way, such as averaged weights.
        """
        if self.start <= step <= self.end and ((step - self.start) % self.every == 0 or step == self.end):
            self._choose(self.share_of_macs(step))
        if self.removed.any():
            for network in (self.network, *others):
                silence(network, self.groups, self.removed)

    def state_dict(self) -> dict[str, Tensor]:
        """The state from which an interrupted training can continue."""
        return {"removed": torch.from_numpy(self.removed), **{f"loss.{k}": v for k, v in self._losses.items()}}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores a saved state."""
        self.removed = state["removed"].numpy().astype(bool)
        self._losses = {key.removeprefix("loss."): v for key, v in state.items() if key.startswith("loss.")}

    def _choose(self, share: float) -> None:
        if share >= 1:
            return
        scores = np.where(self.removed, 0.0, self._scores())  # channels at zero come first, whatever the measure says
        options = CompactOptions(self._goal.method, speed_up=1 / share, round_to=self._goal.round_to)
        chosen, _ = choose(self.groups, self.channel_groups, scores, options)
        self.removed = self.removed | chosen
        self._losses.clear()

    def _scores(self) -> Scores:
        if self._goal.method != "taylor":
            return stored(self.network, self.groups, self.channel_groups, self._goal.method)
        if not self._losses:
            raise UsageError(
                "No gradients were recorded yet, and taylor needs them.",
                hint="Call observe() after backward(), and let pruning start at step 1 or later.",
            )
        return sum_of_units(self.groups, self._losses)

    def _own(self) -> dict[str, nn.Parameter]:
        names = {name for name, _ in self.groups.axes}
        return {name: p for name, p in self.network.named_parameters() if name in names}


def traced(network: nn.Module, example: Tensor) -> Groups:
    """The removable channels of a network, which is not changed.

    Raises:
        ExportError: It cannot be traced.
    """
    return Groups(trace(copy.deepcopy(network).eval(), example))
