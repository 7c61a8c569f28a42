"""The header entry of a compacted ``.safetensors`` file: what it was made for, and numbers that no tensor tells."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from splite_deploy.errors import CheckpointError, SpecError
from splite_deploy.spec import ModelSpec
from splite_deploy.spec.plain import structure
from splite_deploy.spec.reading import ReadError, parse_json

FORMAT_VERSION = 1
HEADER = "splite"
"""Key of the entry among the file's metadata."""


@dataclass(frozen=True)
class Entry:
    """The header entry.

    Attributes:
        format_version: Of this structure: 1.
        model: Name of the model.
        input: The table ``[input]`` that it was made for.
        spec_sha256: Hex SHA-256 of the model spec, for whoever looks for it; later versions have more fields.
        sizes: Sizes of unequal pieces, by the path of the attribute that holds them; see `set_sizes`.
    """

    format_version: int
    model: str
    input: Mapping[str, Any]
    spec_sha256: str
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def compacted_metadata(spec: ModelSpec, sizes: Mapping[str, Sequence[int]] | None = None) -> dict[str, str]:
    """The metadata to write into a compacted checkpoint of this model.

    Args:
        spec: The model.
        sizes: Sizes of unequal pieces, by the path of the attribute that holds them; see `set_sizes`.
    """
    plain = _of(spec)
    entry = {
        "format_version": FORMAT_VERSION,
        "model": spec.name,
        "input": plain["input"],
        "spec_sha256": _digest(plain),
    }
    if sizes:
        entry["sizes"] = {path: list(held) for path, held in sizes.items()}
    return {HEADER: json.dumps(entry, sort_keys=True)}


def _of(spec: ModelSpec) -> dict[str, Any]:
    """A spec as plain data, without the heads that only the running network tells."""
    return {key: value for key, value in spec.to_dict().items() if key != "heads"}


def check_metadata(metadata: Mapping[str, str], spec: ModelSpec, path: Path) -> tuple[str, ...]:
    """Compares the metadata of a checkpoint with the model it is to be loaded for.

    Returns:
        What differs without harm, as text; empty for a checkpoint without the entry.

    Raises:
        CheckpointError: The entry is damaged or of another format version, or the model's input is another.
    """
    if HEADER not in metadata:
        return ()
    entry = read_entry(metadata[HEADER], path)
    plain = json.loads(json.dumps(_of(spec)))  # as JSON has it: no tuples
    made_for = entry.input
    for name in sorted({*made_for, *plain["input"]}):
        before, now = made_for.get(name), plain["input"].get(name)
        if before != now:
            raise CheckpointError(
                f"{path} was compacted for input.{name} = {json.dumps(before)}; the model spec says {json.dumps(now)}.",
                hint="Name the model.toml that it was compacted with as --model, or correct that field.",
            )
    if entry.model != spec.name:
        return (f"the checkpoint was compacted for the model '{entry.model}', not '{spec.name}'",)
    return ()


def sizes_in(metadata: Mapping[str, str], path: Path) -> dict[str, list[int]]:
    """Sizes of unequal pieces that a compacted checkpoint brings along; none for others.

    Raises:
        CheckpointError: The entry is damaged or of another format version.
    """
    found = read_entry(metadata[HEADER], path).sizes if HEADER in metadata else {}
    return {name: list(sizes) for name, sizes in found.items()}


def set_sizes(network: nn.Module, sizes: Mapping[str, Sequence[int]]) -> None:
    """Sets lists of sizes that modules of a network hold, for example those of ``torch.split(x, self.sizes)``.

    Args:
        network: The network; changed in place.
        sizes: New sizes by the path of the attribute, ``module.attribute``.

    Raises:
        CheckpointError: There is no such list of as many numbers.
    """
    for path, new in sizes.items():
        name, _, attribute = path.rpartition(".")
        modules = dict(network.named_modules())
        old = getattr(modules.get(name), attribute, None)
        if not isinstance(old, (list, tuple)) or len(old) != len(new):
            raise CheckpointError(
                f"The checkpoint was compacted with the sizes {list(new)} in '{path}', which the architecture has not.",
                hint="Use the architecture that it was compacted with, or compact the dense checkpoint again.",
            )
        setattr(modules[name], attribute, type(old)(new))


def read_entry(text: str, path: Path) -> Entry:
    """Reads the header entry.

    Args:
        text: The entry.
        path: Of the checkpoint, for messages.

    Raises:
        CheckpointError: It is damaged, or of another format version.
    """
    hint = "Compact the dense checkpoint again."
    try:
        plain = parse_json(text, HEADER)
        version = plain.get("format_version") if isinstance(plain, dict) else None
        if type(version) is int and version != FORMAT_VERSION:
            raise CheckpointError(
                f"{path} was compacted in format version {version}; this version of splite-deploy reads "
                f"{FORMAT_VERSION}.",
                hint="Update splite-deploy on this machine, or compact the dense checkpoint again.",
            )
        if not isinstance(plain, dict):
            raise CheckpointError(f"{path}: its header entry '{HEADER}' is damaged: it is no object.", hint=hint)
        return structure(Entry, plain, "", unknown="ignore")
    except ReadError as err:
        raise CheckpointError(f"{path}: its header entry '{HEADER}' is damaged: {err.reason}.", hint=hint) from err
    except SpecError as err:
        raise CheckpointError(f"{path}: its header entry '{HEADER}' is damaged: {err.message}", hint=hint) from err


def _digest(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
