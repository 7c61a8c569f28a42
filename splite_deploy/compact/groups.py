"""Removable channels of a traced network, where each of them occurs, and the cost of a choice of them.

Channels that are coupled, because they can only be removed together, count as one: it occurs in several layers, or in
one several times.
"""

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
"""The channel of every index along an axis; -1 where it is protected."""
Removed = NDArray[np.bool_]
"""Whether a channel is removed, (channels,)."""


@dataclass(frozen=True)
class LayerChannels:
    """Channels of one layer.

    Attributes:
        inputs: (in,) channels.
        outputs: (out,) channels.
        work: Multiply-accumulates per pair of channels, or per output channel where ``depthwise``.
        depthwise: Whether every output channel reads one input channel.
        shift: See `splite_deploy.compact.walk.TracedLayer`.
    """

    inputs: Index
    outputs: Index
    work: float
    depthwise: bool
    shift: str | None

    def macs(self, removed: Removed) -> float:
        """Multiply-accumulates without the removed channels."""
        width_in, width_out = kept_of(self.inputs, removed), kept_of(self.outputs, removed)
        return self.work * width_out * (1 if self.depthwise else width_in)


def kept_of(index: Index, removed: Removed) -> int:
    """Number of indices along an axis that remain."""
    return len(index) - int(removed[index[index >= 0]].sum())


@dataclass(frozen=True)
class ChannelGroup:
    """Coupled channels that occur in the same layers, equally often: they compete for the same width.

    Attributes:
        name: The first layer with these outputs.
        channels: Their numbers.
        step: A multiple of this many remains, so that every width is a multiple of ``round_to``.
    """

    name: str
    channels: Index
    step: int


class Groups:
    """Removable channels of a traced network, and their groups.

    Attributes:
        axes: Channels along an axis of a tensor, by (name of the tensor, axis); protected axes are left out.
        layers: Channels of every layer by name, in the order in which they run.
        scales: Batch norms as (scale, shift).
        count: Number of channels.
        notes: Which channels cannot be removed and why, each once.
        splits: Channels of every piece of unequal splits, by (name of the module, its attribute with the sizes).
    """

    def __init__(self, trace: Trace) -> None:
        roots_of = {key: trace.labels.roots(labels).numpy() for key, labels in trace.axes.items()}
        weights = [roots for (name, axis), roots in roots_of.items()]
        roots = np.unique(np.concatenate([*weights, np.array([FIXED])]))
        self._roots = roots[roots != FIXED]
        self.count = len(self._roots)
        self.axes: Mapping[tuple[str, int], Index] = {
            key: index for key, found in roots_of.items() if ((index := self._channels(found)) >= 0).any()
        }
        self.layers: Mapping[str, LayerChannels] = {
            name: LayerChannels(
                self._channels(trace.labels.roots(layer.inputs).numpy()),
                self._channels(trace.labels.roots(layer.outputs).numpy()),
                layer.work,
                layer.depthwise,
                layer.shift,
            )
            for name, layer in trace.layers.items()
        }
        self.notes = tuple(dict.fromkeys(trace.notes))
        self.splits: Mapping[tuple[str, str], tuple[Index, ...]] = {
            (split.module, split.attribute): tuple(
                self._channels(trace.labels.roots(piece).numpy()) for piece in split.pieces
            )
            for split in trace.splits
        }
        self.scales = [pair for pair in dict.fromkeys(trace.scales) if (pair[0], 0) in self.axes]

    def _channels(self, roots: NDArray[np.int64]) -> Index:
        if not self.count:
            return np.full(len(roots), -1)
        places = np.searchsorted(self._roots, roots).clip(max=self.count - 1)
        return np.where(self._roots[places] == roots, places, -1)

    @cached_property
    def signatures(self) -> dict[int, tuple[tuple[str, bool, int], ...]]:
        """Per channel how often it occurs in every layer: (layer, whether as output, times)."""
        found: dict[int, list[tuple[str, bool, int]]] = {channel: [] for channel in range(self.count)}
        for name, layer in self.layers.items():
            for is_output, index in ((False, layer.inputs), (True, layer.outputs)):
                for channel, times in Counter(index[index >= 0].tolist()).items():
                    found[channel].append((name, is_output, times))
        return {channel: tuple(places) for channel, places in found.items()}

    def channel_groups(self, round_to: int) -> list[ChannelGroup]:
        """The channels, grouped by the layers that they occur in.

        Args:
            round_to: Widths are to be multiples of this.
        """
        members: dict[tuple[tuple[str, bool, int], ...], list[int]] = {}
        for channel, signature in self.signatures.items():
            members.setdefault(signature, []).append(channel)
        channel_groups = []
        for signature, channels in members.items():
            step = lcm(*(round_to // gcd(round_to, times) for _, _, times in signature))
            name = next((name for name, is_output, _ in signature if is_output), "")
            channel_groups.append(ChannelGroup(name, np.array(channels), step))
        return channel_groups

    def macs(self, removed: Removed) -> float:
        """Multiply-accumulates of all layers for one input without the removed channels."""
        return sum(layer.macs(removed) for layer in self.layers.values())

    def split_sizes(self, removed: Removed) -> dict[str, list[int]]:
        """Sizes of unequal pieces without the removed channels, by the path of the attribute that holds them."""
        sizes = {key: [kept_of(piece, removed) for piece in pieces] for key, pieces in self.splits.items()}
        return {".".join(filter(None, key)): kept for key, kept in sizes.items() if kept != self._whole(key)}

    def _whole(self, key: tuple[str, str]) -> list[int]:
        return [len(piece) for piece in self.splits[key]]

    def keep(self, key: tuple[str, int], removed: Removed) -> torch.Tensor:
        """Indices along an axis that remain, ascending, int64."""
        index = self.axes[key]
        return torch.from_numpy(np.flatnonzero((index < 0) | ~removed[index]))

    def drop(self, key: tuple[str, int], removed: Removed) -> torch.Tensor:
        """Indices along an axis that are removed, ascending, int64."""
        index = self.axes[key]
        return torch.from_numpy(np.flatnonzero((index >= 0) & removed[index]))
