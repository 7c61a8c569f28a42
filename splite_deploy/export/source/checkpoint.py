"""Checkpoint and architecture to a network with its weights. Runs on the developer's machine; imports torch.

Nothing is unpickled: ``.pt`` files are read with ``weights_only=True``. The architecture is the user's own Python
file, named in ``model.toml``.
"""

from __future__ import annotations

import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from splite_deploy.errors import CheckpointError, SpecError, first_line
from splite_deploy.export.quant.trained import load_quantisers
from splite_deploy.export.source.formats import read_head
from splite_deploy.export.source.header import set_sizes, sizes_in
from splite_deploy.export.source.masks import apply_masks
from splite_deploy.export.source.names import fit_names, leave_out_counters
from splite_deploy.export.source.reshape import reshape_to
from splite_deploy.export.source.symbol import load_symbol
from splite_deploy.files import sha256_of
from splite_deploy.spec import HostSpec

EMA_WRAPPERS = ("ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema", "params_ema", "shadow")
WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net", "weights", "module", "params")
PREFIXES = ("module.", "_orig_mod.")
"""Put before every name by DataParallel, torch.compile and averaging; others are found beside the network."""
_MOST_WRAPPERS = 16
_DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
)
_LONGEST_NAME = 1000
_SHOWN = 80
_MOST_VALUES = 1 << 28
_EXPANDED_BYTES = 1 << 24
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_NUMPY = ("scalar", "_reconstruct")
_BESIDE = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in _NUMPY),
    "numpy.dtype",
    "numpy.ndarray",
)
"""Names in pickles of numpy's scalars and arrays, which lie beside the weights of many training scripts."""

TORCH_HEADS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How a ``.pt`` file begins: a zip archive since torch 1.6, a pickle before."""
_TWO_WAYS_OUT = (
    "Load it in the program that trained it, which has the network's class. Save the weights alone there, with "
    "torch.save(model.state_dict(), ...) or safetensors.torch.save_file(...), or export the network there with "
    "torch.onnx.export and give the ONNX file instead."
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
    others: tuple[str, ...] = ()
    is_safetensors = head[8:9] == b"{" or (path.suffix == ".safetensors" and not head.startswith(TORCH_HEADS))
    if is_safetensors:
        content, metadata = _read_safetensors(path)
        content = _with_aliases(content, metadata, notes)
    else:
        (content, others), metadata = _read_torch(path, head), {}
        if others:
            notes.append(f"left objects beside the weights unread: {', '.join(others)}")
    tensors = _strip_prefixes(leave_out_counters(_unwrap(content, weights, notes, path, others), notes), notes)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            what = "NaN or infinity" if not torch.isfinite(tensor).all() else "numbers that float32 cannot hold"
            raise CheckpointError(
                f"{path}: the tensor '{name}' holds {what}.",
                hint="The training diverged there; use an earlier checkpoint.",
            )
    return Checkpoint(path, sha256_of(path), tensors, tuple(notes), metadata)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
            return tensors, stored.metadata() or {}
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as err:
        raise CheckpointError(
            f"{path} is not a whole safetensors file: {err}.", hint="Copy it again; it may be truncated."
        ) from err


def _with_aliases(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], notes: list[str]) -> dict[str, Tensor]:
    """Adds the names that ``safetensors.torch.save_model`` left out, since their tensors have another one."""
    tied = {name: kept for name, kept in metadata.items() if name not in tensors and kept in tensors}
    notes += [f"'{name}' is tied to '{kept}'" for name, kept in tied.items()]
    return {**tensors, **{name: tensors[kept] for name, kept in tied.items()}}


class _Nothing:
    """Stands for an object of numpy in a pickle."""

    def __new__(cls, *args: Any) -> _Nothing:
        """Takes any arguments, and does nothing with them."""
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        """See `__new__`."""

    def __setstate__(self, state: Any) -> None:
        """Takes any state, and does nothing with it."""


class _Items:
    """Stands for any other object in a pickle: a dictionary of its items if it was one, since torch fills no other."""

    def __new__(cls, *args: Any) -> Any:
        """Takes any arguments, and does nothing with them."""
        return Counter()


def _stand_in(name: str) -> type:
    """A class without code, for torch to make in the place of the one with this name, which is never imported."""
    module, _, last = name.rpartition(".")
    kind = _Nothing if name.startswith("numpy.") else _Items
    return type(last, (kind,), {"__module__": module, "__qualname__": last})


def _read_torch(path: Path, head: bytes) -> tuple[Any, tuple[str, ...]]:
    """The content, and the names of the kinds of objects that were not read: nothing of them is imported or run."""
    if head[4:8] == b"TFL3":
        raise CheckpointError(
            f"{path} is a TFLite file, which stays as it is.",
            hint="Name the checkpoint or ONNX graph that it was made from; 'splite-deploy export' makes a bundle of a "
            ".tflite file as it is.",
        )
    if head[4:8] == b"ORTM":
        raise CheckpointError(
            f"{path} is a graph in ONNX Runtime's own format (.ort), which no other backend reads.",
            hint="Give the .onnx file that it was made from.",
        )
    if not head.startswith(TORCH_HEADS):
        what = "no checkpoint: neither safetensors nor torch wrote it" if head else "empty"
        raise CheckpointError(f"{path} is {what}.", hint="Copy it again, or name a .safetensors or .pt file.")
    if head.startswith(TORCH_HEADS[0]):
        _check_archive(path)
    others: list[str] = []
    try:
        with warnings.catch_warnings(), path.open("rb") as stream:  # by name, torch would go by the suffix
            warnings.simplefilter("ignore")  # about pickle protocols; what is not supported is raised
            if head.startswith(TORCH_HEADS[0]):
                others = sorted(get_unsafe_globals_in_checkpoint(stream))
                stream.seek(0)
            with safe_globals([Counter, *(_stand_in(name) for name in {*others, *_BESIDE})]):
                return torch.load(stream, map_location="cpu", weights_only=True), tuple(others)
    except UnpicklingError as err:
        raise _pickled(path, others) from err
    except Exception as err:  # on damaged bytes torch raises anything, IndexError and struct.error among it
        reason = str(err).partition("\n")[0].partition(". ")[0].rstrip(".") or type(err).__name__
        raise CheckpointError(
            f"{path} is not a whole torch checkpoint: {reason}.", hint="Copy it again; it may be truncated."
        ) from err


def _check_archive(path: Path) -> None:
    """Refuses archives that unpack to more than they are, or have two files of one name: torch writes none of them."""
    try:
        with zipfile.ZipFile(path) as archive:
            held = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as err:
        raise CheckpointError(
            f"{path} is not a whole torch checkpoint: {first_line(err)}.", hint="Copy it again; it may be truncated."
        ) from err
    twice = [name for name, times in Counter(one.filename for one in held).items() if times > 1]
    if twice:
        raise CheckpointError(
            f"{path} is no archive of torch: it has {len(twice)} files of one name, the first '{twice[0][:_SHOWN]}'.",
            hint="Save it again with torch.save.",
        )
    if any(one.compress_type != zipfile.ZIP_STORED for one in held):
        raise CheckpointError(
            f"{path} is no archive of torch, which compresses nothing: it may unpack to any size.",
            hint="Save it again with torch.save.",
        )


def _pickled(path: Path, others: Sequence[str]) -> CheckpointError:
    """Says what lies in the place of weights, and the ways out."""
    makers = [name for name in others if name.startswith("ultralytics.")]
    hint = "Where ultralytics is installed: yolo export format=onnx model=FILE.pt; then give the ONNX file instead."
    kinds = f" ({', '.join(makers or others)})" if others else ""
    return CheckpointError(
        f"{path} holds pickled Python objects{kinds}, not only tensors; it was not loaded, since that runs code.",
        hint=hint if makers else _TWO_WAYS_OUT,
    )


def _unwrap(
    content: Any, weights: str | None, notes: list[str], path: Path, others: Sequence[str] = (), depth: int = 0
) -> dict[str, Tensor]:
    """Finds the state dict inside whatever the training script saved around it."""
    if depth > _MOST_WRAPPERS:
        raise CheckpointError(
            f"{path}: its weights are wrapped in themselves, or more than {_MOST_WRAPPERS} times.", hint=_TWO_WAYS_OUT
        )
    if not isinstance(content, Mapping):
        if others:
            raise _pickled(path, others)
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not a dictionary of tensors.", hint=_TWO_WAYS_OUT
        )
    held = [key for key in (*EMA_WRAPPERS, *WRAPPERS) if _holds_weights(content.get(key))]
    choice = ", ".join(str(key) for key, value in content.items() if _holds_weights(value))
    if weights is not None and not _holds_weights(content.get(weights)):
        if beneath := {key: value for key, value in content.items() if str(key).startswith(f"{weights}.")}:
            notes.append(f"took the weights under '{weights}.'")
            return _tensors({str(key).removeprefix(f"{weights}."): value for key, value in beneath.items()}, path)
        raise CheckpointError(
            f"{path} holds no weights under '{weights}'.",
            hint=f"It holds: {choice or 'weights without a wrapper; leave out --weights'}.",
        )
    if weights is not None or held:
        key = weights or _preferred(content, held, notes)
        others_held = [other for other in held if other != key]
        notes.append(f"took the weights under '{key}'" + (f", not {', '.join(others_held)}" if others_held else ""))
        if "cfg" in content:  # the list of widths that pruning scripts save beside the weights
            notes.append("'cfg' was not needed: the widths follow from the tensors")
        taken = _unwrap(content[key], None, notes, path, others, depth + 1)
        if weights is None and key in EMA_WRAPPERS and others_held:
            _add_statistics(taken, _unwrap(content[others_held[-1]], None, [], path, others, depth + 1), notes)
        return taken
    if tensors := _tensors(content, path):
        return tensors
    if others:
        raise _pickled(path, others)
    keys = ", ".join(map(str, list(content)[:8]))
    raise CheckpointError(
        f"{path} holds no tensors; " + (f"its keys are: {keys}." if keys else "it is empty."),
        hint=f"Name the key of the weights with --weights: {choice}." if choice else _TWO_WAYS_OUT,
    )


def _preferred(content: Mapping[Any, Any], held: Sequence[str], notes: list[str]) -> str:
    """Averaged weights first; mmengine's hook exchanges them with the raw ones, which it counts the steps of."""
    if held[0] == "ema_state_dict" and "steps" in content[held[0]] and "state_dict" in held:
        notes.append("'state_dict' holds the averaged weights: EMAHook of mmengine puts them there")
        return "state_dict"
    return held[0]


def _add_statistics(averaged: dict[str, Tensor], raw: Mapping[str, Tensor], notes: list[str]) -> None:
    """Takes statistics of batch norms from the raw weights where only parameters were averaged."""
    missing = [name for name in raw if name not in averaged]
    if missing and averaged.keys() <= raw.keys() and all(name.endswith(_BUFFERS) for name in missing):
        averaged |= {name: raw[name] for name in missing}
        notes.append(f"took {len(missing)} statistics of norms, which were not averaged, from the raw weights")


def _tensors(content: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    packed = [str(key) for key in content if str(key).endswith("_packed_params")]
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if quantised := packed + [name for name, tensor in tensors.items() if tensor.is_quantized]:
        raise CheckpointError(
            f"{path} holds int8 weights of torch's quantisation, {len(quantised)} of {len(content)}, the first under "
            f"'{quantised[0]}'.",
            hint="Give the checkpoint from before torch.ao.quantization.convert: export reads the scales of fake "
            "quantisers, and makes int8 of float weights.",
        )
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, path)
    return tensors


def _check_tensor(name: str, tensor: Tensor, path: Path) -> None:
    """Refuses tensors that are no plain array of numbers; whatever follows may take them for one."""
    kind, hint = str(tensor.dtype).removeprefix("torch."), "Save it as a plain tensor of float32."
    if len(name) > _LONGEST_NAME:
        what = f"has a name of {len(name)} characters"
    elif tensor.is_nested or tensor.layout != torch.strided:
        layout = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        what, hint = f"is a {layout} tensor, not a plain array", "Save it after tensor.to_dense()."
    elif tensor.device.type != "cpu":
        what, hint = (
            f"has no values: its device is '{tensor.device.type}'",
            "Save it after weights were loaded into it.",
        )
    elif tensor.is_complex():
        what, hint = f"has complex values ({kind})", "No runtime computes with them: give a network of real weights."
    elif tensor.dtype not in _DTYPES:
        what = f"has values of {kind}, from which no float32 network can be made without their scales"
    elif tensor.numel() > _MOST_VALUES or tensor.numel() * tensor.element_size() > _room(tensor):
        what = (
            f"has {tensor.numel():,} values by its shape {tuple(tensor.shape)}, more than it stores or a network needs"
        )
        hint = "Save it after tensor.clone(), or leave it out."
    else:
        return
    raise CheckpointError(f"{path}: the tensor '{name[:_SHOWN]}' {what}.", hint=hint)


def _room(tensor: Tensor) -> int:
    """How many bytes a tensor may have: of an expanded one more than are stored, as far as it does no harm."""
    return max(tensor.untyped_storage().nbytes(), _EXPANDED_BYTES)


def _holds_weights(value: Any) -> bool:
    """Whether this is a state dict, or one of the known wrappers around one; an optimizer's state is neither."""
    left, seen = [value], set[int]()
    while left:
        one = left.pop()
        if not isinstance(one, Mapping) or id(one) in seen:  # a pickle may hold itself
            continue
        if any(isinstance(item, Tensor) for item in one.values()):
            return True
        seen.add(id(one))
        left += [one.get(key) for key in (*EMA_WRAPPERS, *WRAPPERS)]
    return False


def _strip_prefixes(tensors: Mapping[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Takes off what DataParallel, torch.compile and averaging put before every name."""
    stripped = dict(tensors)
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
    except (Exception, SystemExit) as err:
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
    set_sizes(network, sizes_in(checkpoint.metadata, checkpoint.path))
    tensors, fitted = fit_names(network, given, checkpoint.path)
    notes += fitted
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
    if lower := [tensor.dtype for tensor in tensors.values() if tensor.dtype in (torch.float16, torch.bfloat16)]:
        kinds = " and ".join(sorted({str(dtype).removeprefix("torch.") for dtype in lower}))
        notes.append(
            f"{len(lower)} tensors were stored as {kinds}; the reference computes in float32 with their values"
        )
    return tuple(notes)


def _check_shapes(expected: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    given = checkpoint.tensors
    wrong = [name for name in expected if expected[name].shape != given[name].shape]
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{checkpoint.path}: {len(wrong)} tensors have another shape than the architecture; the first is '{name}', "
            f"{tuple(given[name].shape)} in the checkpoint and {tuple(expected[name].shape)} in the architecture.",
            hint="Give the widths of the checkpoint in [arch_args] of model.toml, or to 'splite-deploy init' by "
            "--arch-arg; compacted ones it takes where it is told the size of the input, --input HxW.",
        )
