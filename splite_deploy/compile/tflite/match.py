"""Which output of a converted network is which: converters rename, reorder and transpose them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from splite_deploy.arrays import FloatArray
from splite_deploy.errors import CompileError

TOLERANCE = 1e-3
"""Share of an output's largest value: far above float rounding, far below the difference of two outputs."""
_LAYOUTS: Mapping[int, tuple[str, ...]] = {4: ("NCHW", "NHWC"), 3: ("NKC", "NCK"), 2: ("NK",)}


class WrongConversionError(CompileError):
    """A converted network computes something else than the original.

    Attributes:
        content: The file, where the converter knows it.
    """

    content: bytes = b""


@dataclass(frozen=True)
class Match:
    """Where a role's output is.

    Attributes:
        index: Its place among the outputs.
        layout: Order of its axes, for example ``NHWC``.
    """

    index: int
    layout: str


def axes(layout: str, target: str) -> tuple[int, ...]:
    """How to transpose an array of one layout into another."""
    return tuple(layout.index(axis) for axis in target)


def match_outputs(
    outputs: Sequence[FloatArray], reference: Mapping[str, FloatArray], order: Sequence[int] = ()
) -> dict[str, Match]:
    """Finds every role among the outputs by its values.

    Args:
        outputs: Of the converted network for an input, in its own order and layouts.
        reference: Of the original network for that input, by role: NCHW, NKC or NK.
        order: When each output is computed. Of equal outputs the first is then that of the first role, as where a
            decoder gives what the network before it gives; without it equal outputs are refused.

    Raises:
        WrongConversionError: No output equals a role's, or more than one does.
    """
    found: dict[str, Match] = {}
    for role, wanted in reference.items():
        layouts = _LAYOUTS.get(wanted.ndim, ())
        scale = float(np.abs(wanted).max())
        distances = {}
        for (index, output), layout in product(enumerate(outputs), layouts):
            if output.ndim == wanted.ndim:
                turned = output.transpose(axes(layout, layouts[0]))
                if turned.shape == wanted.shape:
                    distances[Match(index, layout)] = float(np.abs(turned - wanted).max())
        close = [match for match, distance in distances.items() if distance <= TOLERANCE * scale]
        if order and len({match.layout for match in close}) == 1:
            free = [match for match in close if match not in found.values()]
            close = sorted(free, key=lambda match: order[match.index])[:1]
        if len(close) != 1:
            shapes = ", ".join(str(output.shape) for output in outputs)
            nearest = f"; the nearest is {min(distances.values()):.2g} away" if distances else ""
            raise WrongConversionError(
                f"{len(close) or 'None'} of the converted network's outputs ({shapes}) "
                f"{'equals' if not close else 'equal'} '{role}', {wanted.shape} of up to {scale:.2g}{nearest}.",
                hint="Two outputs of the network may be equal: return them separately."
                if close
                else "The converter changed what the network computes: report it to the authors of onnx2tf.",
            )
        found[role] = close[0]
    return found
