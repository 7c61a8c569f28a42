"""Removable channels ("units"), the layers that each of them runs through, and what a choice of them costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import gcd, lcm

import numpy as np
import torch
from numpy.typing import NDArray

from splite_deploy.compact.labels import FIXED
from splite_deploy.compact.walk import Trace

Index = NDArray[np.int64]
"""The unit of every index along an axis; -1 where it is protected."""
Removed = NDArray[np.bool_]
"""Which units go, (units,)."""


@dataclass(frozen=True)
class Channels:
    """Channels of one layer.

    Attributes:
        inputs: (in,) units.
        outputs: (out,) units.
        work: Multiply-accumulates per pair of channels, or per output channel where ``depthwise``.
        depthwise: Whether every output channel reads one input channel.
        shift: See `splite_deploy.compact.walk.Layer`.
    """

    inputs: Index
    outputs: Index
    work: float
    depthwise: bool
    shift: str | None

    def macs(self, removed: Removed) -> float:
        """Multiply-accumulates without the removed units."""
        width_in, width_out = kept_of(self.inputs, removed), kept_of(self.outputs, removed)
        return self.work * width_out * (1 if self.depthwise else width_in)


def kept_of(index: Index, removed: Removed) -> int:
    """Number of indices along an axis that stay."""
    return len(index) - int(removed[index[index >= 0]].sum())


@dataclass(frozen=True)
class Family:
    """Units that occur in the same layers, equally often: they compete for the same width.

    Attributes:
        name: The first layer that puts them out.
        units: Their numbers.
        step: Keep a multiple of this many, so that every width is a multiple of ``round_to``.
    """

    name: str
    units: Index
    step: int


class Groups:
    """Units of a traced network.

    Attributes:
        slots: Units along an axis of a tensor, by (name of the tensor, axis); protected axes are left out.
        layers: Channels of every layer by name, in the order in which they run.
        scales: Batch norms as (scale, shift).
        count: Number of units.
    """

    def __init__(self, trace: Trace) -> None:
        slots = {key: trace.labels.roots(labels).numpy() for key, labels in trace.slots.items()}
        weights = [roots for (name, axis), roots in slots.items()]
        roots = np.unique(np.concatenate([*weights, np.array([FIXED])]))
        self._roots = roots[roots != FIXED]
        self.count = len(self._roots)
        self.slots: Mapping[tuple[str, int], Index] = {
            key: index for key, found in slots.items() if ((index := self._units(found)) >= 0).any()
        }
        self.layers: Mapping[str, Channels] = {
            name: Channels(
                self._units(trace.labels.roots(layer.inputs).numpy()),
                self._units(trace.labels.roots(layer.outputs).numpy()),
                layer.work,
                layer.depthwise,
                layer.shift,
            )
            for name, layer in trace.layers.items()
        }
        self.scales = [pair for pair in dict.fromkeys(trace.scales) if (pair[0], 0) in self.slots]

    def _units(self, roots: NDArray[np.int64]) -> Index:
        if not self.count:
            return np.full(len(roots), -1)
        places = np.searchsorted(self._roots, roots).clip(max=self.count - 1)
        return np.where(self._roots[places] == roots, places, -1)

    @cached_property
    def signatures(self) -> dict[int, tuple[tuple[str, bool, int], ...]]:
        """Per unit how often it occurs in every layer: (layer, whether as output, times)."""
        found: dict[int, list[tuple[str, bool, int]]] = {unit: [] for unit in range(self.count)}
        for name, layer in self.layers.items():
            for is_output, index in ((False, layer.inputs), (True, layer.outputs)):
                for unit, times in Counter(index[index >= 0].tolist()).items():
                    found[unit].append((name, is_output, times))
        return {unit: tuple(places) for unit, places in found.items()}

    def families(self, round_to: int) -> list[Family]:
        """Units by what they have in common.

        Args:
            round_to: Widths are to be multiples of this.
        """
        members: dict[tuple[tuple[str, bool, int], ...], list[int]] = {}
        for unit, signature in self.signatures.items():
            members.setdefault(signature, []).append(unit)
        families = []
        for signature, units in members.items():
            step = lcm(*(round_to // gcd(round_to, times) for _, _, times in signature))
            name = next((name for name, is_output, _ in signature if is_output), "")
            families.append(Family(name, np.array(units), step))
        return families

    def macs(self, removed: Removed) -> float:
        """Multiply-accumulates of all layers for one input without the removed units."""
        return sum(layer.macs(removed) for layer in self.layers.values())

    def keep(self, key: tuple[str, int], removed: Removed) -> torch.Tensor:
        """Indices along an axis that stay, ascending, int64."""
        index = self.slots[key]
        return torch.from_numpy(np.flatnonzero((index < 0) | ~removed[index]))

    def drop(self, key: tuple[str, int], removed: Removed) -> torch.Tensor:
        """Indices along an axis that go, ascending, int64."""
        index = self.slots[key]
        return torch.from_numpy(np.flatnonzero((index >= 0) & removed[index]))
