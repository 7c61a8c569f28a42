"""The state of a walk through an exported graph, with labels in the place of activations. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from splite_deploy.compact.labels import Labels, rows

_OVER_CHANNELS = [
    "amax",
    "amin",
    "bmm",
    "einsum",
    "group_norm",
    "layer_norm",
    "linalg_norm",
    "linalg_vector_norm",
    "log_softmax",
    "matmul",
    "max",
    "mean",
    "min",
    "native_group_norm",
    "native_layer_norm",
    "rms_norm",
    "scaled_dot_product_attention",
    "softmax",
    "std",
    "sum",
    "var",
]
"""Operations that compute over several channels, so that a number of them would change what the others give."""
_LARGEST_PARAMETER = 65536  # elements of a parameter outside of layers that is followed; larger ones are kept


@dataclass(frozen=True)
class StateTensor:
    """A parameter or buffer of the network, where the graph refers to it."""

    name: str


@dataclass
class TracedLayer:
    """A convolution or linear layer.

    Attributes:
        inputs: Labels of its input channels, (in,).
        outputs: Labels of its output channels, (out,).
        work: Multiply-accumulates for one input and one output channel, or, if depthwise, for one output channel.
        depthwise: Whether every output channel reads one input channel.
        shift: Where a bias can be added to its output: its own bias, or the running mean of the batch norm that alone
            follows (there with the opposite sign); None if there is neither.
    """

    inputs: Tensor
    outputs: Tensor
    work: float
    depthwise: bool
    shift: str | None


@dataclass(frozen=True)
class SplitSizes:
    """Sizes of unequal pieces that a module holds as a list of numbers, which has to change with the channels.

    Attributes:
        module: Name of the module.
        attribute: Name of its attribute.
        pieces: Labels along the split axis, one tensor for each piece.
    """

    module: str
    attribute: str
    pieces: tuple[Tensor, ...]


@dataclass
class Trace:
    """The channels that were found.

    Attributes:
        labels: The labels and their joins.
        axes: Labels of the indices along an axis of a tensor, by (name of the tensor, axis).
        layers: Convolutions and linear layers by name, in the order in which they run.
        scales: Batch norms as (name of the scale, name of the shift).
        notes: Channels that are kept because an operation cannot be followed.
        splits: Unequal splits whose sizes a module holds.
    """

    labels: Labels = field(default_factory=Labels)
    axes: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    layers: dict[str, TracedLayer] = field(default_factory=dict)
    scales: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    splits: list[SplitSizes] = field(default_factory=list)


Rule = Callable[["Walk", fx.Node, dict[str, Any]], Any]
"""From a node and its arguments by name to the labels of its value."""


class Walk:
    """What is known so far, and what the rules share.

    Attributes:
        found: The result.
        labels: The labels and their joins.
        tensors: Parameters and buffers by name.
        names: The name of each of them by identity; tied ones have one.
        values: What every node gave: labels, a `StateTensor`, a list of these, or None.
        loose: Labels of the elements of parameters outside of layers.
        network: The network.
        numbers: Whether sizes of equal pieces may be numbers in forward(): then their channels are kept.
    """

    def __init__(self, network: nn.Module, *, numbers: bool = False) -> None:
        self.network, self.numbers = network, numbers
        self.found = Trace()
        self.labels = self.found.labels
        self.tensors: dict[str, Tensor] = network.state_dict(keep_vars=True)
        self.names: dict[int, str] = {}
        for name, tensor in self.tensors.items():
            self.names.setdefault(id(tensor), name)
        self.values: dict[fx.Node, Any] = {}
        self.loose: dict[str, Tensor] = {}

    def of(self, value: Any) -> Tensor:
        """The labels of a node's value."""
        found = self.values[value] if isinstance(value, fx.Node) else value
        if not isinstance(found, StateTensor):
            assert isinstance(found, torch.Tensor)
            return found
        if found.name not in self.loose:
            tensor = self.tensors[found.name]
            followed = tensor.numel() <= _LARGEST_PARAMETER
            labels = self.labels.new(tensor.numel()) if followed else torch.zeros(tensor.numel(), dtype=torch.int64)
            self.loose[found.name] = labels.reshape(tensor.shape)
        return self.loose[found.name]

    def name_of(self, value: Any) -> str | None:
        """The name of a stored tensor; None for everything else."""
        found = self.values[value] if isinstance(value, fx.Node) else None
        return found.name if isinstance(found, StateTensor) else None

    def bind(self, name: str, axis: int, labels: Tensor) -> None:
        """Ties the indices along an axis of a stored tensor to labels; a layer used twice joins both."""
        known = self.found.axes.setdefault((name, axis), labels)
        self.labels.join(known, labels)

    def unknown(self, node: fx.Node, reason: str = "it cannot be followed") -> Any:
        """Protects all channels of the inputs; of the result only the shape is known."""
        if operation(node) in _OVER_CHANNELS:
            reason = "it computes over several of them, whose number counts"
        incoming = [self.values[n] for n in nodes_in((node.args, node.kwargs))]
        tensors = [self.of(value) for value in incoming if isinstance(value, (torch.Tensor, StateTensor))]
        loose = [self.labels.fix(tensor) for tensor in tensors]
        if any(loose):
            self.found.notes.append(f"kept all channels that enter {where(node)}: {reason}")
        shapes = node.meta.get("val")
        return tree_map(lambda v: torch.zeros(v.shape, dtype=torch.int64) if isinstance(v, torch.Tensor) else v, shapes)

    def along(self, node: fx.Node, labels: Tensor, axis: int) -> Tensor:
        """Labels along one axis, (C,); where others vary too, nothing in it can be removed."""
        if set(self.labels.varying(labels)) - {axis}:
            self.labels.fix(labels)
            self.found.notes.append(f"kept all channels that enter {where(node)}: they lie along several axes")
        return rows(labels, axis)[:, 0]


def nodes_in(value: Any) -> Iterator[fx.Node]:
    """The nodes among the arguments of another."""
    if isinstance(value, fx.Node):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from nodes_in(item)
    elif isinstance(value, dict):
        yield from nodes_in(list(value.values()))


def operation(node: fx.Node) -> str:
    """The name of a node's operation in aten."""
    return str(node.target).removeprefix("aten.").partition(".")[0]


def module_of(node: fx.Node) -> str:
    """The name of the module that a node belongs to; empty for the network itself."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0] if stack else ""


def where(node: fx.Node) -> str:
    """The module that a node belongs to, and its operation, as text."""
    path = module_of(node)
    return f"'{path}' ({operation(node)})" if path else f"the network's {operation(node)}"
