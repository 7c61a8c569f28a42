"""Mixed precision: where plain int8 breaks its limits, the layers that cost most go back to float until they hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from splite_deploy.arrays import FloatArray
from splite_deploy.bench.interleaved import Run, interleave
from splite_deploy.bundle.report import ExcludedLayer, LayerSearch, Mixture, Parity
from splite_deploy.decoders.people import joined
from splite_deploy.errors import CompileError, ParityError
from splite_deploy.export.crops import evenly
from splite_deploy.export.reference import Reference
from splite_deploy.metrics.parity import MAX_FACTOR, Outputs, in_force, move, share_used, violations
from splite_deploy.spec import LimitSpec
from splite_deploy.text import Part

Network = Callable[[FloatArray], Outputs]
"""From normalised crops (N, 3, h, w) to outputs by role, N first."""
Progress = Callable[[str], None]

_SAFE = 0.95  # of the limits: kernels of the device sum in another order
_ORDERING = 16  # crops that tell what a layer costs: with four times as many no fewer layers end in float
_SPARED = 8  # layers of the least cost that are tried in int8 again
_LATENCY_RUNS = 15


class Candidates(Protocol):
    """An int8 network of which any layers can stay in float."""

    @property
    def layers(self) -> Mapping[str, str]:
        """The operators of the layers that run in int8, by the layer's name, in the order of execution."""

    def open(self, floats: Collection[str]) -> AbstractContextManager[Network]:
        """The network with these layers in float."""


@dataclass(frozen=True)
class Found:
    """What the search found.

    Attributes:
        floats: Names of the layers that stay in float; none where int8 keeps its limits without.
        record: How it came to that; None where nothing was searched.
    """

    floats: tuple[str, ...] = ()
    record: LayerSearch | None = None


@dataclass(frozen=True)
class Goal:
    """What an int8 network has to keep.

    Attributes:
        reference: What it is compared with, and on what crops.
        limits: How far the keypoints may lie.
        hint: What to do where no mixture keeps them.
        progress: Called as the search begins, and with each `Part` of it.
    """

    reference: Reference
    limits: LimitSpec
    hint: str = ""
    progress: Progress = lambda message: None


def keeps_limits(candidates: Candidates, goal: Goal) -> bool:
    """Whether an int8 network keeps its limits with all layers in int8."""
    return _Search(candidates, goal, ()).share(()) <= 1


def keep_limits(candidates: Candidates, goal: Goal, label: str, start: Collection[str] = ()) -> Found:
    """The layers that have to stay in float so that an int8 network keeps its limits; as few as a greedy search finds.

    Each layer runs once as the only one in int8: the mean deviation of the keypoints tells what it costs. The number of
    the costliest layers that have to be in float is found by halves, and of these the cheapest are tried in int8 again.

    Args:
        candidates: The network.
        goal: What to keep.
        label: Of the artifact.
        start: Layers that are in float from the start.

    Raises:
        ParityError: The limits break even where a single layer is left in int8; the message has the figures.
        BackendError: An output is not finite.
    """
    search = _Search(candidates, goal, tuple(start))
    if search.share(()) <= 1:
        return Found(search.start)
    kinds = candidates.layers
    layers = [name for name in kinds if name not in search.start]
    goal.progress(f"{label} breaks its limits: looking for the layers that have to stay in float")
    costs = {}
    for number, name in enumerate(layers, 1):
        goal.progress(Part(f"what layer {number} of {len(layers)} costs"))
        costs[name] = search.cost(name)
    order = sorted(layers, key=lambda name: -costs[name][0])

    def keeps(floats: Sequence[str]) -> bool:
        goal.progress(Part(f"whether {len(floats)} of {len(layers)} in float are enough"))
        return search.share(floats) <= _SAFE

    broken, count = 0, 1
    while count < len(order) - 1 and not keeps(order[:count]):
        broken, count = count, 2 * count
    count = min(count, len(order) - 1)
    if count < 1 or not keeps(order[:count]):
        raise ParityError(search.hopeless(label, order[:count]), hint=goal.hint)
    while count - broken > 1:
        middle = (broken + count) // 2
        broken, count = (broken, middle) if keeps(order[:middle]) else (middle, count)
    floats = order[:count]
    for name in reversed(floats[1:][-_SPARED:]):
        fewer = [other for other in floats if other != name]
        if keeps(fewer):
            floats = fewer
    plain, mixed = search.mixtures((), floats)
    excluded = tuple(ExcludedLayer(name, kinds[name], costs[name][1]) for name in floats)
    limits = in_force(search.parity(()), goal.limits)
    return Found((*search.start, *floats), LayerSearch(label, len(layers), limits, plain, mixed, excluded))


@dataclass(frozen=True)
class _Search:
    candidates: Candidates
    goal: Goal
    start: tuple[str, ...]
    tried: dict[frozenset[str], Parity] = field(default_factory=dict)

    @property
    def reference(self) -> Reference:
        return self.goal.reference

    def parity(self, floats: Sequence[str]) -> Parity:
        """How far the keypoints lie with these layers in float; each mixture is run once."""
        key = frozenset(floats)
        if key not in self.tried:
            with self.candidates.open([*self.start, *floats]) as network:
                each = [network(crop[None]) for crop in self.reference.tensors]
            found = joined(each, self.reference.spec.decoder)
            self.tried[key] = self.reference.measure("", found).parity
        return self.tried[key]

    def share(self, floats: Sequence[str]) -> float:
        """What of the limits such a mixture uses; infinity where nothing of it is in int8."""
        try:
            return share_used(self.parity(floats), self.goal.limits, self.reference.spec)
        except CompileError:
            return math.inf

    def cost(self, layer: str) -> tuple[float, float]:
        """What a layer costs that alone is in int8: a figure to compare by, and the deviation's p95 in pixels.

        The maximum and even p95 of a few crops hang on single ambiguous keypoints; the mean does not.
        """
        reference, limits = self.reference, self.goal.limits
        some = evenly(len(reference.tensors), _ORDERING)
        try:
            with self.candidates.open([name for name in self.candidates.layers if name != layer]) as network:
                after = network(reference.tensors[some])
        except CompileError:  # alone it is in float too, as a part of an attention is whose neighbours are
            return 0.0, 0.0
        before = {role: values[some] for role, values in reference.outputs.items()}
        moved = move(before, after, reference.spec)
        figure = float(moved.deviation_px.mean()) / limits.shift_p95_px
        if moved.depth is not None:
            figure += float(moved.depth.mean()) / reference.spec.depth_limit(limits)
        if moved.people is not None:
            figure += float(moved.people.scores.mean()) / limits.score_max
        return figure, float(np.percentile(moved.deviation_px, 95))

    def mixtures(self, *floats_of_each: Sequence[str]) -> list[Mixture]:
        """What is recorded of several mixtures, timed with one crop in turn."""
        one = self.reference.tensors[:1]
        runs: dict[str, Run] = {}
        with ExitStack() as stack:
            for index, floats in enumerate(floats_of_each):
                network = stack.enter_context(self.candidates.open([*self.start, *floats]))
                runs[str(index)] = partial(_run, network, one)
            taken_ms = interleave(runs, _LATENCY_RUNS, warmup_frames=3)
        found = []
        for index, floats in enumerate(floats_of_each):
            parity = self.parity(floats)
            shortest_ms = float(taken_ms[str(index)].min())
            score_max = None if parity.people is None else parity.people.score_max
            found.append(Mixture(parity.deviation_px, parity.depth, parity.depth_unit, shortest_ms, score_max))
        return found

    def hopeless(self, label: str, floats: Sequence[str]) -> str:
        """Which limits break although next to nothing is in int8, and by how much."""
        parity = self.parity(floats)
        limits = in_force(parity, self.goal.limits)
        broken = violations(parity, self.goal.limits, self.reference.spec) or [
            f"less than {1 - _SAFE:.0%} of a limit is left"
        ]
        count = len(self.candidates.layers)
        told = (
            f"{label} breaks its limits on {parity.crops} crops with only one of {count} layers in int8: "
            f"{'; '.join(broken)}."
        )
        exceeded = parity.deviation_px.max > limits.shift_max_px
        if exceeded and math.isclose(limits.shift_max_px, MAX_FACTOR * limits.shift_p95_px):
            told += f" The maximum may be {MAX_FACTOR:g} times the limit of p95."
        return told


def _run(network: Network, crop: FloatArray, index: int) -> Outputs:
    return network(crop)
