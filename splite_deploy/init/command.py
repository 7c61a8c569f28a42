"""What `splite-deploy init` does: looks at a source, and writes its ``model.toml``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splite_deploy.decoders import decode
from splite_deploy.files import refuse_existing, write_file
from splite_deploy.init.draft import Draft, Wishes, draft, draft_of_tensors, unlike, unused
from splite_deploy.init.kinds import Kind
from splite_deploy.init.look import Looked, Normalised, look
from splite_deploy.init.network import Asked, open_network
from splite_deploy.init.recognise import Hints
from splite_deploy.runtime.backends.onnx_file import LEAST_OPSET
from splite_deploy.runtime.file_facts import FileFacts
from splite_deploy.runtime.view import apply_view
from splite_deploy.spec.plain import to_plain
from splite_deploy.spec.presets import SKELETONS
from splite_deploy.spec.recipes import RECIPES
from splite_deploy.spec.toml import MODEL_TOML, parse_model_toml


@dataclass(frozen=True)
class Told:
    """What the user says on the command line.

    Attributes:
        like: Name of a recipe; None without one.
        skeleton: Name of a preset; None leaves it to the number of keypoints.
        size: (H, W) of the input; None leaves it to the file.
        images: Images to run the network on; None makes some.
        name: Of the model; None takes that of the file.
        kind: What the network gives; None leaves it to the outputs.
        given: Values of fields of ``[input]`` and ``[decoder]``, by their key.
        asked: How the source is to be opened.
    """

    like: str | None
    skeleton: str | None
    size: tuple[int, int] | None
    images: Path | None
    name: str | None
    kind: Kind | None
    given: Mapping[str, Any]
    asked: Asked


@dataclass(frozen=True)
class Described:
    """A source and the file that describes it.

    Attributes:
        looked: What was learnt by running it; None where there are weights alone.
        draft: Its ``model.toml``.
        notes: What to know beside it, as text.
        facts: What the file says of itself, where a backend runs it.
    """

    looked: Looked | None
    draft: Draft
    notes: tuple[str, ...] = ()
    facts: FileFacts | None = None

    def to_plain(self) -> dict[str, Any]:
        """As JSON."""
        looked = None if self.looked is None else self.looked.to_plain()
        facts = None if self.facts is None else to_plain(self.facts)
        return {"unknown": list(self.draft.unknown), "text": self.draft.text(), "found": looked, "file": facts}


def describe(
    source: Path, folder: Path, told: Told, *, progress: Callable[[str], None] = lambda message: None
) -> Described:
    """Looks at a source.

    Args:
        source: See `splite_deploy.init.network.open_network`.
        folder: Where ``model.toml`` shall lie, which ``arch`` is relative to there.
        told: What the user says.
        progress: Called with each step as it begins.

    Raises:
        SpliteError: Everything that can be wrong with the source and what the user says of it.
    """
    recipe = None if told.like is None else RECIPES[told.like]
    progress("opening the source")
    network = open_network(source, told.asked)
    wishes = Wishes(
        name=told.name or _word(source.stem),
        like=told.like or "",
        recipe=recipe,
        skeleton=told.skeleton,
        arch=_relative(told.asked.arch, folder),
        arch_args=told.asked.arch_args,
        given=told.given,
    )
    if network is None:
        from splite_deploy.init.torch_network import read_tensors

        tensors = read_tensors(source, told.asked.weights)
        made = draft_of_tensors(tensors, wishes, made_of=source.name, given_size=told.size)
        return Described(None, made)
    count = None if told.skeleton is None else len(SKELETONS[told.skeleton].keypoint_names)
    looked = look(
        network,
        size=told.size,
        usual=None if recipe is None else (recipe.height, recipe.width),
        normalised=None if recipe is None else Normalised(recipe.color, recipe.mean, recipe.std, ""),
        images=told.images,
        hints=Hints(count, told.kind or (None if recipe is None else recipe.reads)),
        progress=progress,
    )
    made = draft(looked, wishes, made_of=source.name)
    notes = tuple(filter(None, [unlike(looked, wishes), unused(made, looked, wishes), too_old(network.facts)]))
    if not made.unknown:
        _check(made, looked, folder / MODEL_TOML)
    return Described(looked, made, notes, network.facts)


def too_old(facts: FileFacts | None) -> str:
    """What to know of a graph that runs as a file, and that ``export`` refuses; empty of others."""
    if facts is None or facts.opset is None or facts.opset >= LEAST_OPSET:
        return ""
    return (
        f"The graph has opset {facts.opset}: run, bench and verify take the file, and export needs {LEAST_OPSET} or "
        "later. For a bundle export it again from its framework with opset 18."
    )


def _check(made: Draft, looked: Looked, path: Path) -> None:
    """Reads what is to be written, and with it what the network gave.

    Raises:
        SpliteError: What the user says cannot be, or does not fit the network.
    """
    spec, host = parse_model_toml(made.text(), path)
    outputs: dict[Any, Any] = {}
    for one in looked.outputs:
        *inner, last = one.source if isinstance(one.source, tuple) else (one.source,)
        held = outputs
        for step in inner:
            held = held.setdefault(step, {})
        held[last] = one.values[:1]
    decode(apply_view(host.view, outputs, spec), spec)


def write_model_toml(described: Described, path: Path, *, overwrite: bool) -> None:
    """Writes the file, whole or not at all.

    Raises:
        OutputError: There is one, and it is not to be replaced; or it cannot be written.
    """
    refuse_existing(path, overwrite=overwrite)
    write_file(path, described.draft.text().encode())


def _word(stem: str) -> str:
    """A name that a model may have."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "model"


def _relative(arch: str, folder: Path) -> str:
    """``file.py:symbol`` relative to the folder of model.toml."""
    if not arch:
        return ""
    file, _, symbol = arch.partition(":")
    return f"{Path(os.path.relpath(file, folder)).as_posix()}:{symbol}"
