"""Finds the channels that are coupled, by carrying labels through the exported graph of a network. Imports torch.

Every convolution and linear layer gives its output channels new labels; the rules of each operation move and join
them. Coupled groups are an idea of Torch-Pruning (Fang et al., DepGraph, CVPR 2023); its dependency graph is not used:
version 1.6.1 treats a pixel shuffle as the identity, and behind two channel shuffles it names channels that do not
exist. Channels of an operation that is not known here are kept, with a note.
"""

from __future__ import annotations

import operator
import warnings
from typing import Any

import torch
from torch import Tensor, fx, nn

from splite_deploy.compact import rules_layers, rules_layout
from splite_deploy.compact.labels import FIXED, NEUTRAL, rows
from splite_deploy.compact.walk import StateTensor, Trace, Walk, nodes_in
from splite_deploy.errors import ExportError
from splite_deploy.export.source.reshape import can_reshape

_RULES = {**rules_layout.RULES, **rules_layers.RULES}


def trace(network: nn.Module, example: Tensor, *, numbers: bool = False) -> Trace:
    """Follows the channels from layer to layer and to the outputs, whose channels are protected.

    Args:
        network: In evaluation mode.
        example: An input, (N, ...).
        numbers: Whether sizes of equal pieces are taken for numbers in forward(), which cannot change.

    Raises:
        ExportError: torch.export cannot trace the network.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(network, (example[:1],), strict=False)
    except (Exception, SystemExit) as err:  # torch raises many kinds, some of them private
        reason = str(err).strip().partition("\n")[0] or type(err).__name__
        raise ExportError(
            f"torch cannot trace this network: {reason}",
            hint="Remove control flow that depends on values, or try torch.export.export on it for the details.",
        ) from err
    walk = Walk(network, numbers=numbers)
    for node in program.graph.nodes:
        if node.op == "placeholder":
            walk.values[node] = _placeholder(walk, node, program.graph_signature)
        elif node.op == "call_function":
            walk.values[node] = _call(walk, node)
        elif node.op == "output":
            for result in nodes_in(node.args):
                walk.labels.fix(walk.of(result))
    _settle_parameters(walk)
    _keep_whole(walk)
    return walk.found


def _placeholder(walk: Walk, node: fx.Node, signature: Any) -> Any:
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    if node.name in names:
        # a buffer that is not in the state has no stored width that could shrink
        tensor = walk.tensors.get(names[node.name])
        return torch.full(node.meta["val"].shape, FIXED) if tensor is None else StateTensor(walk.names[id(tensor)])
    value = node.meta.get("val")
    label = NEUTRAL if node.name in signature.inputs_to_lifted_tensor_constants else FIXED
    return torch.full(value.shape, label) if isinstance(value, torch.Tensor) else None


def _call(walk: Walk, node: fx.Node) -> Any:
    if node.target is operator.getitem:
        source, index = node.args
        assert isinstance(source, fx.Node)
        return walk.values[source][index]
    target: Any = node.target
    if not isinstance(target, torch._ops.OpOverload) or "val" not in node.meta:
        return walk.unknown(node)
    schema = target._schema
    name = schema.name.partition("::")[2]
    name = name if name.startswith("_") else name.rstrip("_")
    if name.startswith(("_assert", "sym_")):
        return None
    given: dict[str, Any] = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    given |= dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | node.kwargs
    if name in _RULES:
        return _RULES[name](walk, node, given)
    return rules_layout.pointwise(walk, node, given) if torch.Tag.pointwise in target.tags else walk.unknown(node)


def _keep_whole(walk: Walk) -> None:
    """Keeps the channels of torch's own modules whose widths are set when they are made, such as attention."""
    for name, module in walk.network.named_modules():
        if not can_reshape(module):
            own = [labels for (tensor, _), labels in walk.found.axes.items() if tensor.startswith(f"{name}.")]
            loose = [walk.labels.fix(labels) for labels in own]
            if any(loose):
                walk.found.notes.append(f"kept all channels of '{name}': a {type(module).__name__} has a fixed width")


def _settle_parameters(walk: Walk) -> None:
    """Binds parameters outside of layers to the channels along the one axis that varies with them; others are kept."""
    for name, labels in walk.loose.items():
        axes = walk.labels.varying(labels)
        # it is a layer's own as well
        own_axes = [own for (tensor, _), own in walk.found.axes.items() if tensor == name]
        if len(axes) == 1 and not own_axes:
            walk.bind(name, axes[0], rows(labels, axes[0])[:, 0])
            continue
        loose = [walk.labels.fix(part) for part in (labels, *own_axes)]
        if any(loose) and (axes or own_axes):
            walk.found.notes.append(f"kept the channels that meet '{name}': they lie along several of its axes")
