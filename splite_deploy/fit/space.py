"""What is tried: networks, what runs them, and how long they are fine-tuned."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from splite_deploy.errors import OptionError, SpecError, UsageError, naming
from splite_deploy.runtime.backends import exportable_backends
from splite_deploy.spec import PRECISIONS, Precision
from splite_deploy.spec.plain import structure
from splite_deploy.spec.reading import read_toml

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
_MOST = 10_000


@dataclass(frozen=True)
class Candidate:
    """A network, before anybody says what runs it.

    Attributes:
        speed_up: Dense multiply-accumulates over its own, at least; 1 for the network that is not compacted.
        round_to: Its widths are multiples of this.
        height: Of its input, pixels.
        width: Of its input, pixels.
    """

    speed_up: float
    round_to: int
    height: int
    width: int

    @property
    def name(self) -> str:
        """For people and files, such as ``x2-r8-128x128``."""
        compacted = f"x{self.speed_up:g}-r{self.round_to}" if self.speed_up > 1 else "dense"
        return f"{compacted}-{self.height}x{self.width}"


@dataclass(frozen=True)
class Variant:
    """What runs a network."""

    backend: str
    precision: Precision

    @property
    def name(self) -> str:
        """As an artifact is called: ``ort int8``."""
        return f"{self.backend} {self.precision}"


@dataclass(frozen=True)
class Space:
    """All that is tried: every network of the first three by each variant of the next two.

    Attributes:
        speed_up: See `Candidate`.
        round_to: See `Candidate`; what a device likes, such as 8 or 32.
        size: Heights and widths of the input, such as ``128x96``; none for the model's own.
        precision: Precisions.
        backend: Backends that `export` makes artifacts for, and this machine runs.
        steps: Of fine-tuning, in all, after each rung, ascending. After each but the last the better part goes on.
        keep: What part of the networks goes on after a rung, in (0, 1].

    Raises:
        UsageError: A value cannot be used; the message names it.
    """

    speed_up: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0)
    round_to: tuple[int, ...] = (8,)
    size: tuple[str, ...] = ()
    precision: tuple[Precision, ...] = ("fp32", "int8")
    backend: tuple[str, ...] = ("ort",)
    steps: tuple[int, ...] = (500, 2000)
    keep: float = 1 / 3

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if isinstance(values, tuple) and (len(set(values)) < len(values) or not (values or name == "size")):
                said = "a value twice" if values else "no value"
                raise UsageError(f"{name} has {said}.", hint="Give one value or several that differ.")
        backends = [one for one in exportable_backends() if one != "trt"]
        for name, known in (("precision", PRECISIONS), ("backend", backends)):
            if lost := sorted({*getattr(self, name)}.difference(known)):
                hint = f"Choose from {', '.join(known)}."
                if "trt" in lost:
                    hint += " Engines are built on the device: 'splite-deploy compile' the bundle there."
                raise UsageError(f"{name} is {', '.join(lost)}.", hint=hint)
        if not all(1 <= value < math.inf for value in self.speed_up):
            raise UsageError("speed_up has a value below 1.", hint="Give 1 for the dense network, or more, such as 2.")
        if not all(1 <= value <= _MOST for value in self.round_to):
            raise UsageError("round_to has a value that is no width.", hint="Give 1 or more, such as 8.")
        if list(self.steps) != sorted(self.steps) or not all(value >= 1 for value in self.steps):
            raise UsageError(
                f"steps are {', '.join(map(str, self.steps))}.", hint="Give numbers from 1 on, ascending: --steps 500."
            )
        if not 0 < self.keep <= 1:
            raise UsageError(f"keep is {self.keep:g}.", hint="Give a part above 0 and up to 1, such as 0.33.")
        for text in self.size:
            _size_of(text)

    def candidates_for(self, own: Candidate) -> list[Candidate]:
        """The networks; the dense one, which is not rounded, once for each size.

        Args:
            own: The dense network with the input of the model spec.
        """
        sizes = [_size_of(text) for text in self.size] or [(own.height, own.width)]
        found = dict.fromkeys(
            Candidate(speed_up, round_to if speed_up > 1 else 1, *size)
            for size, speed_up, round_to in itertools.product(sizes, self.speed_up, self.round_to)
        )
        return list(found)

    @property
    def variants(self) -> list[Variant]:
        """What runs each of them."""
        return [Variant(*pair) for pair in itertools.product(self.backend, self.precision)]


def read_space(file: Path | None, given: Mapping[str, Any]) -> Space:
    """The space of a ``fit.toml`` and of options, which take the place of what the file says.

    Args:
        file: With any of the fields of `Space`; None is its defaults.
        given: Values by field; empty ones are not given.

    Raises:
        UsageError: A field is unknown or wrong.
    """
    data = {} if file is None else read_toml(file)
    given = {name: value for name, value in given.items() if value not in ((), None)}
    if file is not None:
        with naming(file):
            try:
                known = structure(Space, data, "", every=True)
            except SpecError as err:
                names = ", ".join(field.name for field in fields(Space))
                raise UsageError(err.message, hint=f"The fields are {names}.") from err
            return replace(known, **given)
    try:
        return Space(**given)
    except UsageError as err:
        raise OptionError(err.message, hint=err.hint) from err


def _size_of(text: str) -> tuple[int, int]:
    """(Height, width)."""
    found = _SIZE.fullmatch(text)
    if not found or not all(0 < int(side) <= _MOST for side in found.groups()):
        raise UsageError(f"size is '{text}'.", hint="Write height and width in pixels: 128x96.")
    return int(found[1]), int(found[2])
