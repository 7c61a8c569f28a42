"""Rules for operations without weights: how labels pass through them. Imports torch.

Operations that only rearrange are run on the labels themselves, so that their index mapping is exact. Where a number
in ``forward()`` decides what goes where (equal pieces, groups, blocks), labels are joined so that it keeps its meaning.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from splite_deploy.compact.labels import FIXED, NEUTRAL
from splite_deploy.compact.walk import Rule, SplitSizes, Walk, module_of, nodes_in, operation, where

_SAME = "alias clone contiguous detach dropout feature_dropout lift_fresh_copy to _to_copy type_as"
_LAYOUT = "expand flatten movedim permute reshape squeeze swapaxes t transpose unflatten unsqueeze view _unsafe_view"
_VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)
_PIXELS = ("pixel_shuffle", "pixel_unshuffle")
_SPATIAL = (
    "_adaptive_avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d avg_pool1d "
    "avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool2d_with_indices max_pool3d "
    "reflection_pad2d replication_pad2d upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d "
    "upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d"
)
_CONSTANTS = "arange empty empty_like full full_like ones ones_like rand_like randn_like zeros zeros_like"
_UNTAGGED = ("hardswish",)  # elementwise, but not tagged so in torch


def same(walk: Walk, node: fx.Node, given: dict[str, Any]) -> Tensor:
    """Operations that neither move nor mix elements."""
    return walk.of(node.args[0])


def constant(walk: Walk, node: fx.Node, given: dict[str, Any]) -> Tensor:
    """Constants made in forward(); those like a tensor are as wide as that one."""
    if "_like" in str(node.target):
        return walk.of(node.args[0])
    return torch.full(node.meta["val"].shape, NEUTRAL)


def layout(walk: Walk, node: fx.Node, given: dict[str, Any]) -> Tensor:
    """Operations that move elements without changing them: the labels move with them."""
    target: Any = node.target
    args, kwargs = tree_map(lambda v: walk.of(v) if isinstance(v, fx.Node) else v, (tuple(node.args), node.kwargs))
    if node.target in _VIEWS:  # labels have strides of their own, with which a view may not exist
        target = torch.ops.aten.reshape.default
    result: Tensor = target(*args, **kwargs)
    if isinstance(args[0], (list, tuple)) and bool((result != NEUTRAL).any()):
        result = torch.where(result == NEUTRAL, FIXED, result)  # the width of a constant is a number in forward()
    axes = walk.labels.varying(result)
    if len(axes) > 1:  # only one of them can shrink, the others are numbers in forward()
        if node.target is torch.ops.aten.pixel_shuffle.default:
            shrinking = result.dim() - 3  # the upscale factor stays: blocks of r * r channels are removed together
        elif isinstance(args[0], (list, tuple)):
            shrinking = next(axis for part in args[0] for axis in walk.labels.varying(part))
            shrinking += int("stack" in str(target) and shrinking >= given["dim"] % result.dim())
        else:  # view(n, groups, c // groups, ...): the larger part depends on the width
            shrinking = max(axes, key=lambda axis: (result.shape[axis], axis))
        loose = walk.labels.roots(result) > FIXED
        walk.labels.join_across(result, shrinking)
        if bool((walk.labels.roots(result)[loose] == FIXED).any()):
            walk.found.notes.append(f"kept channels that enter {where(node)}: it lays them beside some that stay")
    return result


def spatial(walk: Walk, node: fx.Node, given: dict[str, Any]) -> Any:
    """Operations on each channel separately: pooling, padding, resampling."""
    labels, shapes = walk.of(node.args[0]), node.meta["val"]
    first = shapes if isinstance(shapes, torch.Tensor) else shapes[0]
    if set(walk.labels.varying(labels)) - {1} or first.dim() < 2 or first.shape[:2] != labels.shape[:2]:
        return walk.unknown(node)
    row = labels.flatten(2)[:, :, :1] if labels.dim() > 2 else labels
    return tree_map(lambda v: row.reshape(*row.shape[:2], *[1] * (v.dim() - 2)).expand(v.shape), shapes)


def pad(walk: Walk, node: fx.Node, given: dict[str, Any]) -> Any:
    """Padding of positions; of channels only by constants, whose number is in forward(): these are kept."""
    labels, pads = walk.of(node.args[0]), given["pad"]
    varying = walk.labels.varying(labels)
    constant = given.get("mode", "constant") == "constant"
    rank = labels.dim()
    ends = {rank - 1 - index // 2: size for index, size in enumerate(pads) if size}
    if any(axis in varying and (size < 0 or not constant) for axis, size in ends.items()):
        return walk.unknown(node)
    for axis in set(range(labels.dim())) - set(varying):
        labels = labels.narrow(axis, 0, 1)
    channels = [size if rank - 1 - index // 2 in varying else 0 for index, size in enumerate(pads)]
    if any(channels):
        kept = f"kept the channels that meet the {sum(channels)} that {where(node)} adds"
        walk.found.notes.append(f"{kept}: their number is in forward()")
    return torch.nn.functional.pad(labels, channels, value=FIXED).expand(node.meta["val"].shape)


def reduce(walk: Walk, node: fx.Node, given: dict[str, Any]) -> Any:
    """Reductions over positions; in reductions over channels their number counts, so all are kept."""
    labels = walk.of(node.args[0])
    dims = given.get("dim") or list(range(labels.dim()))
    dims = [dim % labels.dim() for dim in ([dims] if isinstance(dims, int) else dims)]
    if set(dims) & set(walk.labels.varying(labels)):
        return walk.unknown(node)
    return labels.amax(dims, keepdim=given.get("keepdim", False))


_NUMBERS = "the sizes of its pieces are numbers in forward()"


def split(walk: Walk, node: fx.Node, given: dict[str, Any]) -> Any:
    """Equal pieces shrink equally; unequal ones each by itself, where a list of the module's holds their sizes."""
    labels, target = walk.of(node.args[0]), node.target
    dim = given.get("dim", 0) % labels.dim()
    sizes = [piece.shape[dim] for piece in node.meta["val"]]
    assert callable(target)
    pieces = target(labels, *node.args[1:], **node.kwargs)
    if dim in walk.labels.varying(labels):
        held = _list_of(walk, node, sizes)
        if held and set(walk.labels.varying(labels)) == {dim}:
            rows = tuple(piece.movedim(dim, 0).flatten(1)[:, 0] for piece in pieces)
            walk.found.splits.append(SplitSizes(module_of(node), held, rows))
        elif len(set(sizes)) > 1 or 1 in sizes or (walk.numbers and operation(node) != "chunk"):
            return walk.unknown(node, _NUMBERS)
        else:
            join_pieces(walk, labels, dim, sizes[0])
    return pieces


def _list_of(walk: Walk, node: fx.Node, sizes: list[int]) -> str:
    """The attribute of the node's module that holds these sizes, if one alone does."""
    if walk.numbers or operation(node) != "split_with_sizes":
        return ""
    held = vars(walk.network.get_submodule(module_of(node))).items()
    found = [name for name, value in held if type(value) in (list, tuple) and list(value) == sizes]
    return found[0] if len(found) == 1 else ""


def glu(walk: Walk, node: fx.Node, given: dict[str, Any]) -> Any:
    """The first half times the sigmoid of the second; both shrink equally."""
    labels = walk.of(node.args[0])
    dim = given.get("dim", -1) % labels.dim()
    half = labels.shape[dim] // 2
    if dim in walk.labels.varying(labels):
        join_pieces(walk, labels, dim, half)
    return labels.narrow(dim, 0, half)


def slice_(walk: Walk, node: fx.Node, given: dict[str, Any]) -> Any:
    """One of several equal pieces."""
    labels, target = walk.of(node.args[0]), node.target
    dim = given["dim"] % labels.dim()
    width, kept, step = labels.shape[dim], node.meta["val"].shape[dim], given.get("step", 1)
    if kept != width and dim in walk.labels.varying(labels):
        start = given.get("start") or 0
        if walk.numbers or step != 1 or kept == 1 or width % kept or start % kept:
            return walk.unknown(node, _NUMBERS)
        join_pieces(walk, labels, dim, kept)  # such as x[:, :c // 2]
    assert callable(target)
    return target(labels, *node.args[1:], **node.kwargs)


def pick(walk: Walk, node: fx.Node, given: dict[str, Any]) -> Any:
    """One index along an axis, whose number is in forward()."""
    labels, target = walk.of(node.args[0]), node.target
    if given.get("dim", 0) % labels.dim() in walk.labels.varying(labels):
        return walk.unknown(node)
    assert callable(target)
    return target(labels, *node.args[1:], **node.kwargs)


def shuffle(walk: Walk, node: fx.Node, given: dict[str, Any]) -> Any:
    """Torch's own channel shuffle: the number of groups stays, each of them shrinks."""
    labels = walk.of(node.args[0])
    if set(walk.labels.varying(labels)) - {1}:
        return walk.unknown(node)
    join_pieces(walk, labels, 1, labels.shape[1] // given["groups"])
    n, c, *rest = labels.shape
    return labels.reshape(n, given["groups"], -1, *rest).transpose(1, 2).reshape(n, c, *rest)


def pointwise(walk: Walk, node: fx.Node, given: dict[str, Any]) -> Tensor:
    """Joins the channels that are combined; one that is combined with many others (a mask) is kept."""
    shape = node.meta["val"].shape
    parts = [walk.of(n) for n in nodes_in((node.args, node.kwargs)) if walk.values[n] is not None]
    parts = [part.reshape(*[1] * (len(shape) - part.dim()), *part.shape) for part in parts]
    parts = [part for part in parts if bool((part != NEUTRAL).any())]
    stretched = []
    for part in parts:
        axes = {axis for axis, size in enumerate(shape) if part.shape[axis] == 1 < size}
        if any(axes & set(walk.labels.varying(other)) for other in parts if other is not part):
            stretched.append(part)
    result = torch.full(shape, NEUTRAL)
    for part in parts:
        if any(part is other for other in stretched):
            if walk.labels.fix(part):
                walk.found.notes.append(f"kept the channel of {where(node)} that is combined with all others")
        else:
            walk.labels.join(result, part)
            result = torch.maximum(result, part)
    return torch.where(result == NEUTRAL, FIXED, result) if stretched else result


def join_pieces(walk: Walk, labels: Tensor, dim: int, size: int) -> None:
    """Gives equal pieces along an axis the same labels, index by index."""
    pieces = labels.movedim(dim, 0).reshape(-1, size, labels.numel() // labels.shape[dim])
    walk.labels.join(pieces, pieces[:1])


RULES: dict[str, Rule] = {
    **dict.fromkeys(_SAME.split(), same),
    **dict.fromkeys((*_LAYOUT.split(), *_PIXELS, "cat", "stack"), layout),
    **dict.fromkeys(_SPATIAL.split(), spatial),
    **dict.fromkeys(("pad", "constant_pad_nd"), pad),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), reduce),
    **dict.fromkeys(("chunk", "split", "split_with_sizes"), split),
    **dict.fromkeys(("select", "unbind"), pick),
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), shuffle),
    **dict.fromkeys(_CONSTANTS.split(), constant),
    **dict.fromkeys(_UNTAGGED, pointwise),
    "glu": glu,
    "slice": slice_,
}
"""By the operation's name in aten, without the underscore of in-place operations."""
