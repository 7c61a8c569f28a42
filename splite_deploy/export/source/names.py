"""Names of a checkpoint's tensors, fitted to those of its network. Imports torch.

Wrappers of training (DataParallel, torch.compile, Lightning, averaging, a module that holds the network) put prefixes
before names, profilers and losses leave tensors beside them, and safetensors keeps one of several tied names. All of
that is taken off and said; weights that the network has and the file has not are never made up.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from splite_deploy.errors import CheckpointError

_COUNTERS = {"n_averaged": True, "steps": True, "total_ops": False, "total_params": False}
"""Last parts of names of single numbers, with whether they are whole: torch's and mmengine's averaging, thop."""
_WRAPPERS = ("module", "_orig_mod")
"""Parts that DataParallel and torch.compile put into names, wherever in the network they were called."""
_AVERAGED = re.compile(r"(^|[._])(ema|averaged?|avg)([._]|$)")
_TRAINING = re.compile(r"(\w+_)?(loss(es)?|criteri(on|a)|metrics?|aux(iliary)?|teacher|data_preprocessor)(_\w+|\d+)?")
"""Parts of a model that training alone needs."""
_DEEPEST = 3  # parts of a prefix
_OUTSIDE = "\0"
"""Before the names of tensors that are not under the network's prefix."""
_NAMED = 4  # names in a message


def leave_out_counters(tensors: Mapping[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Takes off what wrappers and profilers count beside the weights: numbers by themselves under a known name.

    Args:
        tensors: A state dict.
        notes: Where to say so.
    """
    counted = [name for name in tensors if _is_counter(name, tensors[name])]
    if counted:
        notes.append(f"left out {_listed(sorted({name.rpartition('.')[2] for name in counted}))}")
    return {name: tensor for name, tensor in tensors.items() if name not in counted}


def _is_counter(name: str, tensor: Tensor) -> bool:
    whole = _COUNTERS.get(name.rpartition(".")[2])
    return whole is not None and tensor.numel() == 1 and not (whole and tensor.is_floating_point())


def fit_names(network: nn.Module, given: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Gives a checkpoint's tensors the names of the network's own.

    Args:
        network: The untrained network.
        given: Tensors by the names of the file.
        path: The file, for messages.

    Returns:
        A tensor for every name of the network's state, and what was done, as text.

    Raises:
        CheckpointError: Tensors are missing or unknown, or several networks are in the file; the message names them.
    """
    own = network.state_dict(keep_vars=True)
    kept = {name for name in own if not name.endswith("num_batches_tracked")}
    tensors, notes = _with_prefixes(own, kept, dict(given), path)
    if not kept <= tensors.keys():  # then wrappers may lie inside of the network
        inner, said = _without_inner_wrappers(own, dict(given))
        if said:
            tensors, notes = _with_prefixes(own, kept, inner, path)
            notes.insert(0, said)
    _fill(own, tensors, notes)
    _leave_out(own, tensors, notes)
    _check_names(own, tensors, path)
    _check_kinds(own, tensors, path)
    return tensors, notes


def _without_inner_wrappers(own: Mapping[str, Tensor], given: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    found = {part for name in given for part in name.split(".")[:-1] if part in _WRAPPERS}
    found -= {part for name in own for part in name.split(".")[:-1]}
    renamed = {name: ".".join(part for part in name.split(".") if part not in found) for name in given}
    if not found or len(set(renamed.values())) < len(given):
        return given, ""
    said = f"took '{', '.join(sorted(found))}' out of {sum(a != b for a, b in renamed.items())} names"
    return {renamed[name]: tensor for name, tensor in given.items()}, said


def _with_prefixes(
    own: Mapping[str, Tensor], kept: set[str], given: dict[str, Tensor], path: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Exchanges the prefix of the names for the network's, which the most names agree on; marks the others."""
    if kept <= given.keys() and not any(_AVERAGED.search(name) for name in given if name not in own):
        return given, []
    votes = _votes(kept, given)
    most = max(votes.values(), default=0)
    best = sorted((pair for pair, count in votes.items() if count == most), key=lambda pair: sum(map(len, pair)))
    whole = most == len(kept)
    averaged = [pair for pair in best if whole and _AVERAGED.search(pair[0])]
    if most <= len(kept) / 2 or (("", "") in best and not averaged):
        return given, []
    if len(best) > 1 and whole:
        best = averaged or _any_if_equal(best, own, given, path)
    old, new = best[0]
    renamed = {
        new + name.removeprefix(old) if name.startswith(old) else f"{_OUTSIDE}{name}": tensor
        for name, tensor in given.items()
    }
    if not old:
        return renamed, [f"put the prefix '{new}' before all names"]
    return renamed, [f"took off the prefix '{old}'" + (f", put '{new}' in its place" if new else "")]


def _votes(own: set[str], given: Mapping[str, Tensor]) -> Counter[tuple[str, str]]:
    """How many names a pair of prefixes, the file's and the network's, makes equal."""
    by_rest: dict[str, list[str]] = {}
    for name in given:
        for prefix, rest in _cuts(name):
            by_rest.setdefault(rest, []).append(prefix)
    return Counter((old, new) for name in own for new, rest in _cuts(name) for old in by_rest.get(rest, ()))


def _cuts(name: str) -> Iterator[tuple[str, str]]:
    yield "", name
    ends = (match.end() for match in re.finditer(r"\.", name))
    yield from ((name[:end], name[end:]) for end in islice(ends, _DEEPEST))


def _any_if_equal(
    pairs: list[tuple[str, str]], own: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path
) -> list[tuple[str, str]]:
    """Several networks in one file, if they are equal."""
    copies = [{name: given.get(old + name.removeprefix(new)) for name in own} for old, new in pairs]
    if all(_equal(copies[0][name], copy[name]) for copy in copies[1:] for name in own):
        return pairs
    found = [old.rstrip(".") for old, _ in pairs]
    raise CheckpointError(
        f"{path} holds several networks of this architecture: {_listed(found)}.",
        hint=f"Choose one with --weights, for example --weights {found[0]}.",
    )


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))


def _fill(own: Mapping[str, Tensor], tensors: dict[str, Tensor], notes: list[str]) -> None:
    """Fills in what needs no file: counters, and other names of tensors that are there."""
    counters = [name for name in own if name not in tensors and name.endswith("num_batches_tracked")]
    tensors |= {name: own[name].detach() for name in counters}
    if counters:
        notes.append(f"{len(counters)} counters 'num_batches_tracked' are missing, which evaluation does not need")
    known = {id(own[name]): name for name in own if name in tensors}
    for name in [name for name in own if name not in tensors and id(own[name]) in known]:
        tensors[name] = tensors[known[id(own[name])]]
        notes.append(f"'{name}' is tied to '{known[id(own[name])]}'")


def _leave_out(own: Mapping[str, Tensor], tensors: dict[str, Tensor], notes: list[str]) -> None:
    """Takes off what is beside the network in its file, or what training alone needs."""
    unknown = [name for name in tensors if name not in own]
    flat = {
        f"ema_{name.replace('.', '_')}" for name in own
    }  # mmcv 1 keeps the raw weights so, behind the averaged ones
    left = {name for name in unknown if name.startswith(_OUTSIDE) or name in flat or _trains(name, own)}
    left |= {name for name in unknown if name.endswith("num_batches_tracked")}
    if left:
        said = sorted({_top(name.removeprefix(_OUTSIDE)) for name in left})
        notes.append(f"left out {len(left)} other tensors: {_listed(said)}")
    for name in left:
        del tensors[name]


def _trains(name: str, own: Mapping[str, Tensor]) -> bool:
    parts = name.split(".")
    for end in range(1, len(parts)):
        if _TRAINING.fullmatch(parts[end - 1]):
            return not any(other.startswith(".".join(parts[:end]) + ".") for other in own)
    return False


def _top(name: str) -> str:
    parts = name.split(".")
    end = next((i + 1 for i, part in enumerate(parts[:-1]) if _TRAINING.fullmatch(part)), 1)
    return name if len(parts) == 1 else ".".join(parts[:end]) + ".*"


def _check_names(own: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path) -> None:
    if folded := [name for name in given if ".parametrizations." in name and name not in own]:
        module, _, rest = folded[0].partition(".parametrizations.")
        raise CheckpointError(
            f"{path}: '{module}' is parametrized, so that its {rest.partition('.')[0]} is not in the file "
            f"but what it is computed from ('{folded[0]}').",
            hint="Where the class is at hand call torch.nn.utils.parametrize.remove_parametrizations(module, "
            f"'{rest.partition('.')[0]}'), and save the state dict again.",
        )
    missing = [name for name in own if name not in given]
    unknown = [name for name in given if name not in own]
    if not missing and not unknown:
        return
    parts = [
        f"{len(names)} {what}: {_listed(names)}"
        for what, names in (("missing", missing), ("unknown", unknown))
        if names
    ]
    near = {name: get_close_matches(name, unknown, 1, 0.5) for name in missing[:_NAMED] if len(unknown) < 10_000}
    nearest = ", ".join(f"'{found[0]}' for '{name}'" for name, found in near.items() if found)
    more = "" if missing else " Or, if it can do without them, save the file again without these names."
    raise CheckpointError(
        f"{path} does not fit its architecture: of {len(own)} tensors, {'; '.join(parts)}."
        + (f" Nearest in the file: {nearest}." if nearest else ""),
        hint="Check arch and [arch_args] in model.toml, or name another set of weights with --weights." + more,
    )


def _check_kinds(own: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path) -> None:
    """Whole numbers where the network has floats are quantised weights whose scales lie somewhere else."""
    whole = [n for n in own if own[n].is_floating_point() and not given[n].is_floating_point()]
    if whole:
        kind = str(given[whole[0]].dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{path}: {len(whole)} of {len(own)} tensors hold whole numbers where the network has floats; the first "
            f"is '{whole[0]}', of {kind}.",
            hint="They were quantised by another tool: give the weights from before, and let export make int8 of them.",
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:_NAMED]) + more
