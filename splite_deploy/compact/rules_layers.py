"""Rules for layers with weights: the channel of every index of their tensors. Imports torch."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor, fx

from splite_deploy.compact.walk import Rule, TracedLayer, Walk


def conv(walk: Walk, node: fx.Node, given: dict[str, Any]) -> Any:
    """Plain, depthwise, grouped or transposed; the weight is (out, in / groups, ...) or (in, out / groups, ...)."""
    weight, x = walk.name_of(given["weight"]), walk.of(given["input"])
    if weight is None:
        return walk.unknown(node)
    stored, shape, groups = walk.tensors[weight], node.meta["val"].shape, given["groups"]
    axis = x.dim() - stored.dim() + 1
    arriving, cout = walk.along(node, x, axis), shape[axis]
    transposed = "transpose" in str(node.target)
    out_axis, in_axis = (1, 0) if transposed else (0, 1)
    depthwise = 1 < groups == len(arriving)
    if depthwise:
        outputs = arriving.repeat_interleave(cout // groups)
        walk.bind(weight, 0, arriving if transposed else outputs)
    else:
        pieces = arriving.reshape(groups, -1)
        walk.labels.join(pieces, pieces[:1])  # every group loses as many, so that the number of groups stays
        walk.bind(weight, in_axis, arriving if transposed else pieces[0])
        known = walk.found.axes.get((weight, out_axis))
        fresh = (walk.labels.new(cout // groups) if known is None else known[: cout // groups]).repeat(groups)
        walk.bind(weight, out_axis, fresh[: cout // groups] if transposed else fresh)
        outputs = fresh
    positions = prod((x.shape if transposed else shape)[axis + 1 :])
    work = positions * prod(stored.shape[2:]) / (1 if depthwise else groups)
    return _layer(walk, node, given, weight, (arriving, outputs), work, depthwise, axis)


def linear(walk: Walk, node: fx.Node, given: dict[str, Any]) -> Any:
    """Over the last axis; after a flatten one channel is several of its inputs."""
    weight, x = walk.name_of(given["weight"]), walk.of(given["input"])
    if weight is None:
        return walk.unknown(node)
    arriving, shape = walk.along(node, x, x.dim() - 1), node.meta["val"].shape
    walk.bind(weight, 1, arriving)
    known = walk.found.axes.get((weight, 0))
    outputs = walk.labels.new(shape[-1]) if known is None else known
    walk.bind(weight, 0, outputs)
    return _layer(walk, node, given, weight, (arriving, outputs), prod(shape[1:-1]), False, x.dim() - 1)


def _layer(
    walk: Walk,
    node: fx.Node,
    given: dict[str, Any],
    weight: str,
    widths: tuple[Tensor, Tensor],
    work: float,
    depthwise: bool,
    axis: int,
) -> Tensor:
    """Records a layer, binds its bias, and labels its output."""
    outputs, shape, bias = widths[1], node.meta["val"].shape, walk.name_of(given.get("bias"))
    if bias is not None:
        walk.bind(bias, 0, outputs)
    elif isinstance(given.get("bias"), fx.Node):
        walk.labels.join(walk.of(given["bias"]), outputs)
    name = weight.rpartition(".")[0]
    if name in walk.found.layers:
        walk.found.layers[name].work += work
        walk.found.layers[name].shift = None  # it runs twice, and one correction may be wrong for the other
    else:
        shift = bias or _mean_after(walk, node)
        walk.found.layers[name] = TracedLayer(*widths, work, depthwise, shift)
    return outputs.reshape(-1, *[1] * (len(shape) - axis - 1)).expand(shape)


def _mean_after(walk: Walk, node: fx.Node) -> str | None:
    """The running mean of the batch norm that is a layer's only reader."""
    users = list(node.users)
    if len(users) != 1 or "batch_norm" not in str(users[0].target) or len(users[0].args) < 5:
        return None
    mean = users[0].args[3]
    return walk.name_of(mean) if mean in walk.values else None


def batch_norm(walk: Walk, node: fx.Node, given: dict[str, Any]) -> Tensor:
    """Batch and instance norm work on each channel separately."""
    x = walk.of(given["input"])
    channels = walk.along(node, x, 1)
    for key in ("weight", "bias", "running_mean", "running_var"):
        if (name := walk.name_of(given.get(key))) is not None:
            walk.bind(name, 0, channels)
        elif isinstance(given.get(key), fx.Node):
            walk.labels.join(walk.of(given[key]), channels)
    scale, shift = walk.name_of(given.get("weight")), walk.name_of(given.get("bias"))
    if scale is not None and shift is not None:
        walk.found.scales.append((scale, shift))
    return x


def group_norm(walk: Walk, node: fx.Node, given: dict[str, Any]) -> Any:
    """With a group for each channel an instance norm; else it computes over several channels."""
    x = walk.of(given["input"])
    if given["num_groups"] != x.shape[1] or set(walk.labels.varying(x)) - {1}:
        return walk.unknown(node)
    return batch_norm(walk, node, given)


def prelu(walk: Walk, node: fx.Node, given: dict[str, Any]) -> Tensor:
    """One slope for all channels, or one for each."""
    x, weight = walk.of(node.args[0]), given["weight"]
    slopes = walk.of(weight) if walk.name_of(weight) is None else walk.tensors[str(walk.name_of(weight))]
    if slopes.numel() > 1:
        channels = walk.along(node, x, 1)
        if (name := walk.name_of(weight)) is not None:
            walk.bind(name, 0, channels)
        else:
            walk.labels.join(walk.of(weight), channels)
    return x


RULES: dict[str, Rule] = {
    **dict.fromkeys((f"conv{kind}{d}d" for kind in ("", "_transpose") for d in (1, 2, 3)), conv),
    **dict.fromkeys(("batch_norm", "instance_norm"), batch_norm),
    "group_norm": group_norm,
    "linear": linear,
    "prelu": prelu,
}
"""By the operation's name in aten."""
