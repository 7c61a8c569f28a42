"""A dense network reshaped to the tensors of a compacted checkpoint, without a list of widths. Imports torch.

Widths are read from the tensors. What these do not hold follows from the channels that arrive in a forward pass (groups
of a convolution, norms without weights) or stays as in the dense network: the groups of a GroupNorm, and every number
in ``forward()``. Where such a number is a width the forward pass fails, and the error says where.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from splite_deploy.errors import CheckpointError

Pairs = dict[int, tuple[Tensor, Tensor]]
"""A tensor of the network and the checkpoint's, by the identity of the former: tied ones are one."""
Grouped = dict[nn.Module, dict[str, Any]]
"""Convolutions whose number of groups is not known yet, with their dense widths."""

_LAYERS: tuple[tuple[type[nn.Module], dict[str, int], int], ...] = (
    # kind, its widths with the weight's axis that holds each, the input's axis that has to agree with the first
    (_ConvNd, {"in_channels": 1, "out_channels": 0, "groups": 0}, 1),
    (_NormBase, {"num_features": 0}, 1),
    (nn.GroupNorm, {"num_channels": 0, "num_groups": 0}, 1),
    (nn.Linear, {"in_features": 1, "out_features": 0}, -1),
    (nn.PReLU, {"num_parameters": 0}, 1),
    (nn.Embedding, {"num_embeddings": 0, "embedding_dim": 1}, 0),
    (nn.LayerNorm, {"normalized_shape": 0}, -1),
    (nn.RMSNorm, {"normalized_shape": 0}, -1),
)
_LAYER_TENSORS = ("weight", "bias", "running_mean", "running_var")
_HOLDERS = (nn.Module, nn.ParameterList, nn.ParameterDict)  # torch's own kinds without any width
_OTHER_ARCH = "That is another architecture, not a compacted one: check arch and [arch_args] in model.toml."
_PARTNERS = (
    "Usually a layer was pruned alone while its partner in a residual sum, a concatenation or a squeeze-excite gate "
    "kept its width; else forward() holds a width as a number (view, reshape, chunk, split), or [arch_args] in "
    "model.toml are not those of the checkpoint."
)


@dataclass(frozen=True)
class Reshaped:
    """One module that was reshaped.

    Attributes:
        name: The module, as in the names of its tensors.
        change: What changed, for example ``Conv2d 96 -> 64 in, 96 -> 40 out``.
    """

    name: str
    change: str


class _ForwardError(CheckpointError):
    """The forward pass failed; whether the widths are to blame is still to be seen."""


@dataclass
class _Edits:
    """Changed attributes, in order, so that they can be taken back."""

    log: list[tuple[Any, str, Any]] = field(default_factory=list)

    def set(self, target: Any, attribute: str, value: Any) -> None:
        self.log.append((target, attribute, getattr(target, attribute)))
        setattr(target, attribute, value)

    def put(self, own: Tensor, value: Tensor) -> None:
        """Exchanges the content and not the object, so that whoever shares the tensor keeps sharing it."""
        if own.grad is not None and own.shape != value.shape:
            self.set(own, "grad", None)
        self.set(own, "data", value.detach().to(own.device, own.dtype, copy=True))

    def undo(self) -> None:
        while self.log:
            setattr(*self.log.pop())


def can_reshape(module: nn.Module) -> bool:
    """Whether a module may be given other widths: layers in `_LAYERS`, holders, and the user's own kinds."""
    known = isinstance(module, tuple(kind for kind, _, _ in _LAYERS)) or type(module) in _HOLDERS
    return known or not _own(module) or not type(module).__module__.startswith("torch.nn.")


def reshape_to(network: nn.Module, tensors: Mapping[str, Tensor], example: Tensor) -> tuple[Reshaped, ...]:
    """Reshapes the modules of ``network`` in place to the shapes of ``tensors``; load these afterwards.

    Args:
        network: The dense network.
        tensors: The checkpoint: the names of the network's own state, other widths.
        example: An input, for the forward pass that settles groups and proves that the layers fit together.

    Returns:
        What was reshaped, in the order of the modules; empty where all shapes agree already.

    Raises:
        CheckpointError: The tensors make no network of this architecture; the message names the layer. The network
            is then as it was.
    """
    pairs = _pair(network, tensors)
    names = {module: name for name, module in network.named_modules()}  # a shared module once
    changed = [module for module in names if any(_new(own, pairs).shape != own.shape for own in _own(module).values())]
    if not changed:
        return ()
    before = {module: _widths(module) for module in names}
    grouped: Grouped = {m: before[m] for m in changed if isinstance(m, _ConvNd) and m.groups > 1 and not m.transposed}
    edits = _Edits()
    try:
        for module, widths in [(module, _fit(_label(names[module], module), module, pairs)) for module in changed]:
            for attribute, value in widths.items():
                edits.set(module, attribute, value)
        for own, new in pairs.values():
            if own.shape != new.shape:
                edits.put(own, new)
        _forward(network, example, pairs, partial(_follow, edits, grouped))
    except BaseException as err:
        edits.undo()
        if isinstance(err, _ForwardError):
            _blame_input(network, example)
        raise
    return tuple(Reshaped(name, text) for module, name in names.items() if (text := _change(module, before[module])))


def _own(module: nn.Module) -> dict[str, Tensor]:
    return dict(chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)))


def _new(own: Tensor, pairs: Pairs) -> Tensor:
    return pairs[id(own)][1] if id(own) in pairs else own


def _label(name: str, module: nn.Module) -> str:
    return f"'{name}' ({type(module).__name__})" if name else f"the network ({type(module).__name__})"


def _pair(network: nn.Module, tensors: Mapping[str, Tensor]) -> Pairs:
    held = (network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False))
    pairs: Pairs = {}
    first: dict[int, str] = {}
    for name, own in ((name, own) for name, own in chain(*held) if name in tensors):
        new, old = tuple(tensors[name].shape), tuple(own.shape)
        known = first.setdefault(id(own), name)
        if len(new) != len(old):
            text = f"'{name}' has {len(new)} dimensions in the checkpoint, {new}, and {len(old)} in the architecture"
            raise CheckpointError(f"{text}, {old}.", hint=_OTHER_ARCH)
        if 0 in new and new != old:
            raise CheckpointError(f"'{name}' is empty in the checkpoint: {new}.", hint="Compact the network less.")
        if tensors[known].shape != new:
            text = f"'{known}' and '{name}' are one tensor in the architecture, but in the checkpoint "
            text += f"{tuple(tensors[known].shape)} and {new}."
            raise CheckpointError(text, hint="Prune a layer that is used twice as one.")
        pairs[id(own)] = (own, tensors[name])
    return pairs


def _fit(label: str, module: nn.Module, pairs: Pairs) -> dict[str, Any]:
    """Returns the widths that the module has with the checkpoint's tensors."""
    shapes = {key: tuple(_new(own, pairs).shape) for key, own in _own(module).items()}
    axes = next((axes for kind, axes, _ in _LAYERS if isinstance(module, kind)), None)
    if axes is None:
        return _fit_custom(label, module, shapes)
    layer = {key: shape for key, shape in shapes.items() if key in _LAYER_TENSORS}
    weight = layer.get("weight", layer.get("running_mean"))
    if weight is None:
        text = f"{label} holds no weight, but {', '.join(shapes)}: it cannot be reshaped."
        raise CheckpointError(text, hint="Fold weight_norm and the like, in the architecture and before saving.")
    widths: dict[str, Any] = {attribute: weight[axis] for attribute, axis in axes.items()}
    sizes: dict[str, Any] = {key: shape[0] for key, shape in layer.items()}
    if isinstance(module, _ConvNd):
        widths = _fit_conv(label, module, shapes)
        sizes["weight"] = widths["out_channels"]
    elif isinstance(module, nn.GroupNorm) and module.num_groups != module.num_channels:
        widths["num_groups"] = module.num_groups
    elif "normalized_shape" in widths:
        widths, sizes = {"normalized_shape": weight}, dict(layer)
    if len(set(sizes.values())) > 1:
        parts = ", ".join(f"{size} in {key}" for key, size in sizes.items())
        text = f"{label} has tensors of different widths in the checkpoint: {parts}."
        raise CheckpointError(text, hint="It was not pruned as a whole; save the pruned network again.")
    if isinstance(module, nn.GroupNorm) and weight[0] % widths["num_groups"]:
        text = f"{label} has {weight[0]} channels in the checkpoint, not a multiple of its {module.num_groups} groups."
        raise CheckpointError(text, hint="Prune it to a multiple of its groups, or give these in [arch_args].")
    return widths


def _fit_conv(label: str, conv: _ConvNd, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    new, old, groups = shapes["weight"], conv.weight.shape, conv.groups
    depthwise = 1 < groups == conv.in_channels
    if new[2:] != old[2:]:
        kernels = ["x".join(map(str, shape[2:])) for shape in (new, old)]
        text = f"{label} has a kernel of {kernels[0]} in the checkpoint and of {kernels[1]} in the architecture."
        raise CheckpointError(text, hint=_OTHER_ARCH)
    if depthwise and not conv.transposed and new[1] != 1:
        text = f"{label} is depthwise in the architecture, but has {new[1]} inputs per group in the checkpoint."
        raise CheckpointError(text, hint=_OTHER_ARCH)
    if not conv.transposed:  # the groups are a guess until the channels arrive
        groups = max(1, new[0] * conv.in_channels // conv.out_channels) if depthwise else groups
        return {"in_channels": new[1] * groups, "out_channels": new[0], "groups": groups}
    if depthwise:
        groups = new[0]
    elif groups > 1 and "bias" in shapes:
        groups = max(1, shapes["bias"][0] // new[1])
    elif groups > 1 and new[1] == old[1] and new[0] % (old[0] // groups) == 0:
        groups = new[0] // (old[0] // groups)  # whole groups were removed: what one of them holds is unchanged
    if new[0] % groups:
        raise CheckpointError(f"{label} has {new[0]} inputs, which do not divide into {groups} groups.", hint=_PARTNERS)
    return {"in_channels": new[0], "out_channels": new[1] * groups, "groups": groups}


def _fit_custom(label: str, module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Parameters of the user's own module, where no attribute beside them would be left with the old width."""
    if not can_reshape(module):
        text = f"{label} has other widths in the checkpoint; layers of its kind cannot be reshaped."
        raise CheckpointError(text, hint="Give its widths in [arch_args] of model.toml; fold parametrizations first.")
    renewed = {tuple(own.shape): shapes[key] for key, own in _own(module).items() if shapes[key] != own.shape}
    stale = {a for old, new in renewed.items() for a, b in zip(old, new, strict=True) if a != b}
    for attribute, value in vars(module).items():
        if type(value) is int and value in stale and not attribute.startswith("_"):
            text = f"{label} has other widths in the checkpoint, but {attribute} = {value} in the architecture."
            raise CheckpointError(text, hint="Take it from the parameter's shape there, or give it in [arch_args].")
    held = {key: value for key, value in vars(module).items() if type(value) in (tuple, list, torch.Size)}
    whole = {key: value for key, value in held.items() if all(type(item) is int for item in value)}
    return {key: type(value)(renewed[tuple(value)]) for key, value in whole.items() if tuple(value) in renewed}


def _follow(edits: _Edits, grouped: Grouped, label: str, module: nn.Module, x: Tensor, source: str) -> None:
    """Sets what the tensors do not tell, from the channels that arrive."""
    if module in grouped:
        assert isinstance(module, _ConvNd)
        dense, (out, per_group) = grouped.pop(module), module.weight.shape[:2]
        arriving = x.shape[1 - module.weight.dim()]
        if dense["groups"] == dense["in_channels"] == dense["out_channels"] and out != arriving:
            raise _disagreement(label, arriving, source, out)  # one output per input stays one
        groups, rest = divmod(arriving, per_group)
        if rest or not groups or out % groups:
            text = f"{label} receives {arriving} channels from {source}, but its weight was made for groups of "
            text += f"{per_group} with {out} outputs in all: no number of groups fits."
            raise _ForwardError(text, hint=_PARTNERS)
        edits.set(module, "groups", groups)
        edits.set(module, "in_channels", arriving)
    elif not _own(module) and _plain(module) and isinstance(module, nn.LayerNorm):
        new, old = x.shape[-len(module.normalized_shape) :], module.normalized_shape
        if len(new) == len(old) and sum(a != b for a, b in zip(new, old, strict=True)) == 1:
            edits.set(module, "normalized_shape", tuple(new))
    elif not _own(module) and isinstance(module, _NormBase) and x.dim() > 1:
        edits.set(module, "num_features", x.shape[1])


def _plain(module: nn.Module) -> bool:
    """Whether torch's own forward runs; a subclass can permute its input first."""
    return type(module).forward.__module__.startswith("torch.nn.")


def _disagreement(label: str, arriving: int, source: str, made_for: int) -> _ForwardError:
    text = f"{label} receives {arriving} channels from {source}, but its weight was made for {made_for}."
    return _ForwardError(text, hint=_PARTNERS)


def _widths(module: nn.Module) -> dict[str, Any]:
    axes = next((axes for kind, axes, _ in _LAYERS if isinstance(module, kind)), None)
    own = {key: tuple(t.shape) for key, t in _own(module).items() if axes is None or key not in _LAYER_TENSORS}
    return {attribute: getattr(module, attribute) for attribute in axes or ()} | own


def _change(module: nn.Module, before: Mapping[str, Any]) -> str:
    after = _widths(module)
    names = {"in_channels": "in", "in_features": "in", "out_channels": "out", "out_features": "out"}
    names |= {key: key.removeprefix("num_") for key in before if key.startswith("num_")}
    parts = [f"{old} -> {after[key]} {names.get(key, key)}" for key, old in before.items() if after[key] != old]
    if parts and isinstance(module, nn.GroupNorm) and after["num_groups"] == before["num_groups"]:
        parts.append(f"{module.num_groups} groups as before")  # the tensors do not tell: let the reader judge
    return f"{type(module).__name__} {', '.join(parts)}" if parts else ""


@contextmanager
def _loaded(network: nn.Module, pairs: Pairs) -> Iterator[None]:
    """Evaluation mode with the checkpoint's values, which forward() may depend on; then as before."""
    edits = _Edits()
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        for own in chain(network.parameters(), network.buffers()):
            if own.shape == (new := _new(own, pairs)).shape:
                edits.put(own, new)
        yield
    finally:
        edits.undo()
        for module, training in modes.items():
            module.training = training


def _forward(network: nn.Module, example: Tensor, pairs: Pairs, follow: Callable[..., None] | None) -> None:
    watch = _Watch(example)
    with _loaded(network, pairs), torch.no_grad(), ExitStack() as hooks, watch:
        for name, module in network.named_modules():
            label = _label(name, module)
            enter, leave = partial(watch.enter, label, follow), partial(watch.leave, label)
            hooks.callback(module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        try:
            network(example)
        except _ForwardError:
            raise
        except (Exception, SystemExit) as err:  # forward() is the user's and can raise anything
            raise watch.explain(err) from err


def _blame_input(network: nn.Module, example: Tensor) -> None:
    """Says so where the dense network fails as well."""
    try:
        _forward(network, example, {}, None)
    except _ForwardError as err:
        text = f"The architecture does not run on an input of {tuple(example.shape)} with its own widths either: "
        hint = "Check arch, [arch_args] and the input's size in model.toml."
        raise CheckpointError(text + err.message, hint=hint) from err


class _Watch(TorchFunctionMode):
    """Knows which layers every tensor comes from, and what was running when the forward pass failed."""

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.made: dict[int, tuple[Tensor, tuple[str, ...]]] = {}  # holds the tensors, so that no id is used twice
        self.note(example, ("the input",))
        self.running: list[tuple[str, nn.Module, list[Tensor]]] = []
        self.failed: tuple[BaseException, list[Tensor]] | None = None

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operands = list(_tensors_in((args, kwargs)))
        try:
            result = func(*args, **(kwargs or {}))
        except (Exception, SystemExit) as err:
            self.failed = (err, operands)
            raise
        self.note(result, tuple(dict.fromkeys(chain.from_iterable(map(self.sources, operands)))))
        return result

    def sources(self, tensor: Tensor) -> tuple[str, ...]:
        return self.made[id(tensor)][1] if id(tensor) in self.made else ()

    def note(self, result: Any, sources: tuple[str, ...]) -> None:
        self.made |= {id(tensor): (tensor, sources) for tensor in _tensors_in(result)}

    def name(self, tensor: Tensor) -> str:
        return " and ".join(self.sources(tensor)) or "the layers before it"

    def enter(self, label: str, follow: Callable[..., None] | None, module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = list(_tensors_in((args, kwargs)))
        self.running.append((label, module, inputs))
        if follow is not None and inputs:
            follow(label, module, inputs[0], self.name(inputs[0]))

    def leave(self, label: str, module: nn.Module, args: Any, result: Any) -> None:
        self.running.pop()
        if _own(module):  # a layer with weights gives its output a width; others pass on what they get
            self.note(result, (label,))

    def explain(self, err: BaseException) -> _ForwardError:
        label, module, inputs = self.running[-1]
        made_for = _made_for(module)
        if inputs and made_for is not None and inputs[0].dim() > 1 and inputs[0].shape[made_for[0]] != made_for[1]:
            return _disagreement(label, inputs[0].shape[made_for[0]], self.name(inputs[0]), made_for[1])
        operands = self.failed[1] if self.failed is not None and self.failed[0] is err else inputs
        shown = " and ".join(f"{tuple(operand.shape)} from {self.name(operand)}" for operand in operands)
        reason = (str(err).strip() or type(err).__name__).splitlines()[0].rstrip(".")
        return _ForwardError(f"{label} fails{_place(err)}; it takes {shown or 'no tensor'}: {reason}.", hint=_PARTNERS)


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors_in(item)


def _made_for(module: nn.Module) -> tuple[int, int] | None:
    """The input's channel axis and its size there that a layer of torch's own expects."""
    for kind, axes, axis in _LAYERS:
        if isinstance(module, kind) and _plain(module) and not isinstance(module, nn.Embedding):
            size = getattr(module, next(iter(axes)))
            return axis, size[-1] if isinstance(size, (tuple, list)) else size
    return None


def _place(err: BaseException) -> str:
    """The line of the user's code that failed."""
    torch_folder = Path(torch.__file__).parent
    for frame in reversed(traceback.extract_tb(err.__traceback__)):
        if frame.line and frame.filename != __file__ and not Path(frame.filename).is_relative_to(torch_folder):
            return f" at {Path(frame.filename).name}:{frame.lineno} (`{frame.line}`)"
    return ""
