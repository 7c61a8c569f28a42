"""Steps of a trial: each is a function of contents and options alone, and so has a key by which its result is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from splite_deploy.version import __version__

Kind = Literal["compact", "layers", "train", "score", "export", "measure"]
KINDS: tuple[Kind, ...] = get_args(Kind)
HERE = "here"
"""What the machine is called that no ``devices.toml`` names."""


@dataclass(frozen=True)
class Needs:
    """What a step takes while it runs.

    Attributes:
        cpus: Cores.
        gpus: GPUs.
        device: The machine that it measures on, which it has for itself; None for one that measures nothing.
    """

    cpus: int = 1
    gpus: float = 0
    device: str | None = None


@dataclass(frozen=True, eq=False)
class Step:
    """Something to be done, once.

    Attributes:
        kind: What.
        about: For whom, in words: for progress and messages, not for the key.
        inputs: SHA-256 of each file that it is given, by name.
        options: What else it is a function of; plain data.
        needs: What it takes.
    """

    kind: Kind
    about: str
    inputs: Mapping[str, str]
    options: Mapping[str, Any]
    needs: Needs = field(default_factory=Needs)

    @cached_property
    def key(self) -> str:
        """SHA-256 of all that its result depends on, this version of the program among it."""
        told = {"kind": self.kind, "inputs": dict(self.inputs), "options": dict(self.options), "version": __version__}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.kind} {self.about}"


@dataclass(frozen=True)
class Result:
    """What came of a step.

    Attributes:
        files: SHA-256 of each file that it made, by name.
        facts: What it found; plain data.
        seconds: How long it took.
        node: Where it ran.
    """

    files: Mapping[str, str]
    facts: Mapping[str, Any]
    seconds: float
    node: str
