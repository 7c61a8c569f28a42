"""Physical removal of channels: choose them, fold their constants, remove them, prove it. Imports torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, floor
from typing import Any

import numpy as np
from torch import Tensor, nn

from splite_deploy.compact.fold import Folded, fold
from splite_deploy.compact.groups import ChannelGroup, Groups, Removed, kept_of
from splite_deploy.compact.importance import METHODS, Loss, Method, Scores, output_energy, stored, taylor
from splite_deploy.compact.latency import Latency
from splite_deploy.compact.proof import prove, without, zeroed
from splite_deploy.compact.trace import trace
from splite_deploy.compact.walk import Trace
from splite_deploy.errors import ExportError, UsageError
from splite_deploy.spec.plain import to_plain

_NAMED = 4  # places that an error names


@dataclass(frozen=True)
class CompactOptions:
    """How much to remove, and by which measure. Exactly one of ``speed_up``, ``ratio``, ``threshold`` is given.

    Attributes:
        method: The measure; see `splite_deploy.compact.importance`.
        speed_up: Dense multiply-accumulates (MACs) over compacted ones, at least; above 1.
        ratio: Least share of the removable channels to remove, coupled channels counted once; in (0, 1).
        threshold: Channels of less importance are removed. In units of the measure: |gamma| for "bn-scale", the mean
            of their coupled group for "group-norm" and "l1", the loss for "taylor".
        round_to: Widths stay multiples of this, and at least this; rounded up, so that no channel over the limit is
            removed.
    """

    method: Method
    speed_up: float | None = None
    ratio: float | None = None
    threshold: float | None = None
    round_to: int = 8

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"There is no method '{self.method}'.", hint=f"Choose {', '.join(METHODS)}.")
        given = [name for name in ("speed_up", "ratio", "threshold") if getattr(self, name) is not None]
        if len(given) != 1:
            what = f"{' and '.join(given)} are given" if given else "Nothing says how much to remove"
            raise UsageError(f"{what}.", hint="Give exactly one of --speed-up, --ratio and --threshold.")
        if self.speed_up is not None and not 1 < self.speed_up < np.inf:
            raise UsageError(f"The speed-up is {self.speed_up}.", hint="Give more than 1, for example 2.")
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise UsageError(f"The ratio is {self.ratio}.", hint="Give a share between 0 and 1, for example 0.5.")
        if self.threshold is not None and not 0 < self.threshold < np.inf:
            raise UsageError(f"The threshold is {self.threshold}.", hint="Give a positive number.")
        if self.round_to < 1:
            raise UsageError(f"Widths cannot be rounded to {self.round_to}.", hint="Give --round-to 1 or more.")


@dataclass(frozen=True)
class LayerRow:
    """Widths of a layer: channels in and out, before and after."""

    name: str
    kind: str
    inputs_before: int
    inputs_after: int
    outputs_before: int
    outputs_after: int


@dataclass(frozen=True)
class Compaction:
    """A compacted network, and what was measured of it.

    Attributes:
        network: The compacted network, in evaluation mode; it shares nothing with the original.
        layers: Every convolution and linear layer in the order in which they run.
        parameters_before: Number of parameters.
        parameters_after: The same, compacted.
        macs_before: Multiply-accumulates of convolutions and linear layers for one input.
        macs_after: The same, compacted.
        max_difference: Largest difference of an output from the network whose removed channels are zero.
        folded: Constants of removed channels: where they were added, and what could not be folded.
        sizes: Sizes of unequal pieces that were set in modules, by the path of the attribute that holds them.
        notes: For the user: layers at their least width, channels that could not be removed.
        latency: Measured on this CPU before and after; None where it was not requested.
    """

    network: nn.Module
    layers: tuple[LayerRow, ...]
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    max_difference: float
    folded: tuple[Folded, ...]
    notes: tuple[str, ...]
    latency: Latency | None = None
    sizes: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def speed_up(self) -> float:
        """MACs before over after."""
        return self.macs_before / self.macs_after

    def to_dict(self) -> dict[str, Any]:
        """Everything but the network, for JSON."""
        return {key: to_plain(value) for key, value in vars(self).items() if key != "network"}


def compact(
    network: nn.Module,
    example: Tensor,
    options: CompactOptions,
    *,
    data: Iterable[Tensor] | None = None,
    loss: Loss = output_energy,
    progress: Callable[[str], None] = lambda message: None,
) -> Compaction:
    """Removes the least important channels of a copy of the network.

    Args:
        network: The dense network; it is run in evaluation mode.
        example: An input, (N, ...), to trace with.
        options: How much to remove.
        data: Batches of inputs for the proof and for "taylor"; the proof uses the example without them.
        loss: For "taylor": from the network's output to a scalar.
        progress: Called with each step as it begins.

    Raises:
        UsageError: "taylor" has no data, or nothing would be removed.
        ExportError: The network cannot be traced, cannot become that small, or does not run without these channels.
    """
    batches = [example] if data is None else list(data)
    if options.method == "taylor" and data is None:
        raise UsageError('The method "taylor" needs images to run the network on.', hint="Give some with --images DIR.")
    if not batches:
        raise UsageError("There are no images to run the network on.", hint="Give some with --images DIR.")
    progress("tracing the channels")
    try:
        return _compact(network, Groups(_trace(network, example)), example, options, batches, loss, progress)
    except _NumbersError as err:
        progress("tracing the channels again, with sizes of pieces as numbers")
        groups = Groups(_trace(network, example, numbers=True))
        if not groups.notes:  # then no size was to blame
            raise err.cause from err
        return _compact(network, groups, example, options, batches, loss, progress)


class _NumbersError(Exception):
    """The result does not run, or differs; a size in forward() may be to blame."""

    def __init__(self, cause: ExportError) -> None:
        super().__init__(cause.message)
        self.cause = cause


def _trace(network: nn.Module, example: Tensor, *, numbers: bool = False) -> Trace:
    return trace(copy.deepcopy(network).eval(), example, numbers=numbers)


def _compact(
    network: nn.Module,
    groups: Groups,
    example: Tensor,
    options: CompactOptions,
    batches: Sequence[Tensor],
    loss: Loss,
    progress: Callable[[str], None],
) -> Compaction:
    work = copy.deepcopy(network).eval()
    if not groups.count:
        raise ExportError(
            f"No channel of this network can be removed.{_because(groups.notes)}",
            hint="Use convolutions, norms and elementwise operations between the input and the outputs.",
        )
    channel_groups = groups.channel_groups(options.round_to)
    progress(f"rating {groups.count} channels by {options.method}")
    scores = _scores(work, groups, channel_groups, options.method, batches, loss)
    removed, notes = choose(groups, channel_groups, scores, options)
    progress(f"removing {int(removed.sum())} of them")
    folded = fold(work, groups, removed, batches)
    try:
        compacted = without(work, groups, removed, example)
        progress("comparing with the network whose channels are zero")
        largest = prove(zeroed(work, groups, removed), compacted, batches)
    except ExportError as err:
        raise _NumbersError(err) from err
    sizes = groups.split_sizes(removed)
    before = np.zeros(groups.count, bool)
    return Compaction(
        network=compacted,
        layers=_rows(work, groups, removed),
        parameters_before=sum(p.numel() for p in network.parameters()),
        parameters_after=sum(p.numel() for p in compacted.parameters()),
        macs_before=round(groups.macs(before)),
        macs_after=round(groups.macs(removed)),
        max_difference=largest,
        folded=tuple(folded),
        notes=(
            *groups.notes,
            *notes,
            *map(_said, (row for row in folded if row.effect != 0)),
            *(f"'{path}' is now {kept}: the file tells export, set it in other code" for path, kept in sizes.items()),
        ),
        sizes=sizes,
    )


def choose(
    groups: Groups, channel_groups: Sequence[ChannelGroup], scores: Scores, options: CompactOptions
) -> tuple[Removed, list[str]]:
    """Which channels go, with notes on layers that stay wider than the limit asks.

    Speed-up and ratio are met by the lowest threshold on the importance of all channels together that reaches them.

    Raises:
        UsageError: The threshold removes nothing.
        ExportError: Not even the least widths reach the speed-up or ratio.
    """
    none = np.zeros(groups.count, bool)
    dense = groups.macs(none)
    limit = options.threshold
    if limit is None:
        levels = np.unique(scores[~np.isnan(scores)])
        low, high = 0, len(levels)  # levels[i] and all below it are removed

        def reached(index: int) -> float:
            removed = _below(channel_groups, scores, _above(levels, index))
            return dense / groups.macs(removed) if options.speed_up is not None else float(removed.mean())

        goal = options.speed_up if options.speed_up is not None else options.ratio
        assert goal is not None
        most = reached(high - 1) if high else 0.0
        if most < goal:
            what = "speed-up" if options.speed_up is not None else "ratio"
            least = _below(channel_groups, scores, np.inf)
            reachable = floor(most * 100) / 100
            ask = f"at most --{what} {reachable:g}" if reachable > (options.speed_up is not None) else "less"
            narrower = f", or allow smaller widths with --round-to {options.round_to // 2}" * (options.round_to > 1)
            raise ExportError(
                f"The {what} {goal:g} cannot be reached: with all layers at their least width it is {most:.3g}."
                + _because(groups.notes)
                + _holders(groups, least),
                hint=f"Ask for {ask}{narrower}.",
            )
        while low < high - 1:  # the last level is enough, as was shown above
            middle = (low + high - 1) // 2
            if reached(middle) >= goal:
                high = middle + 1
            else:
                low = middle + 1
        limit = _above(levels, low)
    removed = _below(channel_groups, scores, limit)
    if not removed.any():
        known = scores[~np.isnan(scores)]
        text = f"No channel can go below the threshold {limit:g}"
        span = f"; importances are {known.min():.3g} to {known.max():.3g}" if len(known) else ""
        raise UsageError(f"{text}{span}.", hint="Raise --threshold, or lower --round-to.")
    return removed, _notes(channel_groups, scores, limit, options)


def _because(kept: Sequence[str]) -> str:
    """Why channels were kept, as sentences behind an error's first."""
    more = [f"{len(kept) - _NAMED} more places hold channels"] if len(kept) > _NAMED else []
    return "".join(f" {reason[0].upper()}{reason[1:]}." for reason in (*kept[:_NAMED], *more))


def _holders(groups: Groups, least: Removed) -> str:
    """The layers that hold the most work with all others at their least width, as a sentence."""
    held = [(layer.macs(least), name, layer) for name, layer in groups.layers.items()]
    rest = sum(macs for macs, _, _ in held)
    said: list[str] = []
    for macs, name, layer in sorted(held, key=lambda one: -one[0]):
        widths = (
            (int((index < 0).sum()), len(index), what) for index, what in ((layer.inputs, "in"), (layer.outputs, "out"))
        )
        kept = [f"{count} of {whole} {what}" for count, whole, what in widths if count]
        if kept and len(said) < _NAMED:
            said.append(f"'{name}' ({' and '.join(kept)}, {macs / rest:.0%})")
    return f" Layers that hold channels, with their share of the work that is left: {', '.join(said)}." if said else ""


def _above(levels: Scores, index: int) -> float:
    return float(np.nextafter(levels[index], np.inf))


def _below(channel_groups: Sequence[ChannelGroup], scores: Scores, limit: float) -> Removed:
    """The channels below a limit, of each group the least important ones, in whole steps."""
    removed = np.zeros(len(scores), bool)
    for group in channel_groups:
        own = scores[group.channels]
        stay = len(own) - int((own < limit).sum())
        keep = min(len(own), max(group.step, ceil(stay / group.step) * group.step))
        removed[group.channels[np.argsort(own, kind="stable")[: len(own) - keep]]] = True
    return removed


def _notes(channel_groups: Sequence[ChannelGroup], scores: Scores, limit: float, options: CompactOptions) -> list[str]:
    notes = []
    for group in channel_groups:
        own = scores[group.channels]
        if bool((own < limit).all()):
            least = min(len(own), group.step)
            notes.append(f"'{group.name}' keeps {least} of {len(own)} channels, though all lie below the limit")
        if bool(np.isnan(own).all()):
            notes.append(f"'{group.name}' keeps all {len(own)} channels: {options.method} has no measure for them")
    return notes


def _scores(
    network: nn.Module,
    groups: Groups,
    channel_groups: Sequence[ChannelGroup],
    method: Method,
    batches: Sequence[Tensor],
    loss: Loss,
) -> Scores:
    if method == "taylor":
        return taylor(network, groups, batches, loss)
    return stored(network, groups, channel_groups, method)


def _rows(network: nn.Module, groups: Groups, removed: Removed) -> tuple[LayerRow, ...]:
    return tuple(
        LayerRow(
            name,
            type(network.get_submodule(name)).__name__,
            len(layer.inputs),
            kept_of(layer.inputs, removed),
            len(layer.outputs),
            kept_of(layer.outputs, removed),
        )
        for name, layer in groups.layers.items()
    )


def _said(row: Folded) -> str:
    how = "is folded but for the border" if row.folded else "is lost"
    size = "by an unknown amount" if row.effect is None else f"by up to {row.effect:.3g}"
    constant = f"the constant of {row.channels} removed channels in the input of '{row.layer}'"
    return f"{constant} {how}: its output changes {size}"
