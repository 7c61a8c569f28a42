"""Checkpoint and architecture to a network with its weights. Runs on the developer's machine; imports torch.

Nothing is unpickled: ``.pt`` files are read with ``weights_only=True``. The architecture is the user's own Python
file, named in ``model.toml``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from splite_deploy.errors import CheckpointError, SpecError
from splite_deploy.export.quant.trained import load_quantisers
from splite_deploy.export.source.formats import read_head
from splite_deploy.export.source.masks import apply_masks
from splite_deploy.export.source.reshape import reshape_to
from splite_deploy.export.source.symbol import load_symbol
from splite_deploy.files import sha256_of
from splite_deploy.spec import HostSpec

EMA_WRAPPERS = ("ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema")
WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net", "weights", "module")
PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.", "architecture.")

TORCH_HEADS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How a ``.pt`` file begins: a zip archive since torch 1.6, a pickle before."""
_TWO_WAYS_OUT = (
    "Save the weights alone, torch.save(model.state_dict(), ...) or safetensors.torch.save_file(...), where the "
    "class is at hand; or there export the network with torch.onnx.export and give the ONNX file instead."
)


@dataclass(frozen=True)
class Checkpoint:
    """Weights as they lie in a file, without their wrapping.

    Attributes:
        path: The file.
        sha256: Its hash.
        tensors: Weights by name.
        notes: What was taken off or chosen on the way, as text.
        metadata: What a ``.safetensors`` file says of itself.
    """

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = field(default=())
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_checkpoint(path: Path, *, weights: str | None = None) -> Checkpoint:
    """Reads the weights of a ``.safetensors`` file or of a ``.pt`` / ``.pth`` / ``.tar`` file of tensors.

    Args:
        path: The checkpoint.
        weights: Key of the wrapped weights to take where the file holds several (``state_dict``,
            ``ema_state_dict``, ...). None takes averaged weights where there are some, and notes it.

    Raises:
        CheckpointError: The file is missing, truncated, a pickled module, holds no weights, or holds NaN.
    """
    head = read_head(path)
    notes: list[str] = []
    is_safetensors = head[8:9] == b"{" or (path.suffix == ".safetensors" and not head.startswith(TORCH_HEADS))
    content, metadata = _read_safetensors(path) if is_safetensors else (_read_torch(path, head), {})
    tensors = _strip_prefixes(_unwrap(content, weights, notes, path), notes)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path}: the tensor '{name}' holds NaN or infinity.",
                hint="The training diverged there; use an earlier checkpoint.",
            )
    return Checkpoint(path, sha256_of(path), tensors, tuple(notes), metadata)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
            return tensors, stored.metadata() or {}
    except (SafetensorError, OSError) as err:
        raise CheckpointError(
            f"{path} is not a whole safetensors file: {err}.", hint="Copy it again; it may be truncated."
        ) from err


def _read_torch(path: Path, head: bytes) -> Any:
    if not head.startswith(TORCH_HEADS):
        what = "no checkpoint: neither safetensors nor torch wrote it" if head else "empty"
        raise CheckpointError(f"{path} is {what}.", hint="Copy it again, or name a .safetensors or .pt file.")
    try:
        with warnings.catch_warnings(), path.open("rb") as stream:  # by name, torch would go by the suffix
            warnings.simplefilter("ignore")  # about pickle protocols; what is not supported is raised
            return torch.load(stream, map_location="cpu", weights_only=True)
    except UnpicklingError as err:
        raise CheckpointError(
            f"{path} holds pickled Python objects, not only tensors; it was not loaded, since that runs code.",
            hint=_TWO_WAYS_OUT,
        ) from err
    except Exception as err:  # on damaged bytes torch raises anything, IndexError and struct.error among it
        reason = str(err).partition("\n")[0].partition(". ")[0].rstrip(".") or type(err).__name__
        raise CheckpointError(
            f"{path} is not a whole torch checkpoint: {reason}.", hint="Copy it again; it may be truncated."
        ) from err


def _unwrap(content: Any, weights: str | None, notes: list[str], path: Path) -> dict[str, Tensor]:
    """Finds the state dict inside whatever the training script saved around it."""
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not a dictionary of tensors.", hint=_TWO_WAYS_OUT
        )
    held = [key for key in (*EMA_WRAPPERS, *WRAPPERS) if isinstance(content.get(key), Mapping)]
    choice = ", ".join(str(key) for key, value in content.items() if _holds_weights(value))
    if weights is not None and not _holds_weights(content.get(weights)):
        raise CheckpointError(
            f"{path} holds no weights under '{weights}'.",
            hint=f"It holds: {choice or 'weights without a wrapper; leave out --weights'}.",
        )
    if weights is not None or held:
        key = weights or held[0]
        others = [other for other in held if other != key]
        notes.append(f"took the weights under '{key}'" + (f", not {', '.join(others)}" if others else ""))
        if "cfg" in content:  # the list of widths that pruning scripts save beside the weights
            notes.append("'cfg' was not needed: the widths follow from the tensors")
        return _unwrap(content[key], None, notes, path)
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(map(str, list(content)[:8]))
        raise CheckpointError(
            f"{path} holds no tensors; " + (f"its keys are: {keys}." if keys else "it is empty."),
            hint=f"Name the key of the weights with --weights: {choice}." if choice else _TWO_WAYS_OUT,
        )
    return tensors


def _holds_weights(value: Any) -> bool:
    """Whether this is a state dict, or one of the known wrappers around one; an optimizer's state is neither."""
    return isinstance(value, Mapping) and (
        any(isinstance(item, Tensor) for item in value.values())
        or any(isinstance(value.get(key), Mapping) for key in (*EMA_WRAPPERS, *WRAPPERS))
    )


def _strip_prefixes(tensors: Mapping[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Takes off what DataParallel, torch.compile and averaging put before every name."""
    stripped = dict(tensors)
    if stripped.pop("n_averaged", None) is not None:
        notes.append("left out 'n_averaged'")
    for prefix in PREFIXES * 2:
        if stripped and all(name.startswith(prefix) for name in stripped):
            stripped = {name.removeprefix(prefix): tensor for name, tensor in stripped.items()}
            notes.append(f"took off the prefix '{prefix}'")
    return stripped


def build_network(host: HostSpec, checkpoint: Checkpoint) -> nn.Module:
    """Builds the architecture with the weights of a checkpoint of its own widths; in evaluation mode.

    Raises:
        SpecError: See `build_architecture`.
        CheckpointError: See `load_weights`.
    """
    network = build_architecture(host)
    load_weights(network, checkpoint)
    return network


def build_architecture(host: HostSpec) -> nn.Module:
    """Builds the untrained network, in evaluation mode.

    Raises:
        SpecError: The architecture is not named, or cannot be built with its arguments.
    """
    if not host.arch:
        raise SpecError(
            f"The model spec in {host.folder} does not name its architecture, which weights alone need.",
            hint='Add arch = "arch.py:build" (and, where it has arguments, a table [arch_args]).',
        )
    build = load_symbol(host.arch, host.folder)
    try:
        network = build(**host.arch_args)
    except Exception as err:
        raise SpecError(
            f"{host.arch} cannot be built: {type(err).__name__}: {err}",
            hint=f"Its arguments come from [arch_args] of model.toml: {dict(host.arch_args)}.",
        ) from err
    if not isinstance(network, nn.Module):
        raise SpecError(
            f"{host.arch} returned a {type(network).__name__}, not a torch.nn.Module.", hint="Return the network."
        )
    return network.eval()


def load_weights(network: nn.Module, checkpoint: Checkpoint, example: Tensor | None = None) -> tuple[str, ...]:
    """Loads a checkpoint into a network of the same architecture.

    Args:
        network: The untrained network.
        checkpoint: Its weights.
        example: An input. Where it is given the checkpoint may be compacted: the network is reshaped to its widths, and
            this input is run through it to prove that the layers fit together.

    Returns:
        What was done to the network, as text; empty if nothing.

    Raises:
        CheckpointError: Names or shapes of the weights do not fit; the message names them.
    """
    expected = network.state_dict()
    given, notes = checkpoint.tensors, []
    if not any(name.endswith("_orig") for name in expected):  # else the architecture masks itself
        given, masked = apply_masks(given, checkpoint.path)
        notes = [f"applied the masks of {masked} tensors"] if masked else []
    # A prefix that was taken for a wrapper's may be the network's own, for example where all lies in self.net
    own = dict(zip(_strip_prefixes(expected, []), expected, strict=False)) if "n_averaged" not in expected else {}
    tensors = {own.get(name, name): tensor for name, tensor in given.items()}
    _check_names(expected, replace(checkpoint, tensors=tensors))
    quantisers = load_quantisers(network, tensors)
    if example is None:
        _check_shapes(expected, replace(checkpoint, tensors=tensors))
    elif reshaped := reshape_to(network, tensors, example):
        first = reshaped[0]
        notes.append(f"reshaped {len(reshaped)} modules to the checkpoint's widths, first {first.name}: {first.change}")
    network.load_state_dict(tensors)
    if quantisers:
        load_quantisers(network, tensors)  # what was loaded has switched observers on again
        notes.append(f"the network was trained for int8: {quantisers} fake quantisers keep their scales")
    return tuple(notes)


def _check_names(expected: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    given = checkpoint.tensors
    if folded := [name for name in given if ".parametrizations." in name and name not in expected]:
        module, _, rest = folded[0].partition(".parametrizations.")
        raise CheckpointError(
            f"{checkpoint.path}: '{module}' is parametrized, so that its {rest.partition('.')[0]} is not in the file "
            f"but what it is computed from ('{folded[0]}').",
            hint="Where the class is at hand call torch.nn.utils.parametrize.remove_parametrizations(module, "
            f"'{rest.partition('.')[0]}'), and save the state dict again.",
        )
    missing = [name for name in expected if name not in given]
    unknown = [name for name in given if name not in expected]
    if missing or unknown:
        parts = [
            f"{len(names)} {what} (first: '{names[0]}')"
            for what, names in (("missing", missing), ("unknown", unknown))
            if names
        ]
        raise CheckpointError(
            f"{checkpoint.path} does not fit its architecture: of {len(expected)} tensors, {' and '.join(parts)}.",
            hint="Check arch and [arch_args] in model.toml, or name another set of weights with --weights.",
        )


def _check_shapes(expected: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    given = checkpoint.tensors
    wrong = [name for name in expected if expected[name].shape != given[name].shape]
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{checkpoint.path}: {len(wrong)} tensors have another shape than the architecture; the first is '{name}', "
            f"{tuple(given[name].shape)} in the checkpoint and {tuple(expected[name].shape)} in the architecture.",
            hint="Give the widths of the checkpoint in [arch_args] of model.toml.",
        )
