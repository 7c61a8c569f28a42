"""Crops that show nobody: whether a conversion still says so.

All that int8 is calibrated on shows somebody, as does all that conversions are compared on. So a `presence` that can no
longer fall passes every comparison there, and a tracker follows somebody who has left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.bundle import Nobody
from splite_deploy.decoders import decode
from splite_deploy.runtime.crops import crops_without_images
from splite_deploy.spec import InputSpec, ModelSpec

_PICTURES, _GREY = 2, 128


def crops_of_nobody(spec: InputSpec) -> NDArray[np.uint8]:
    """Crops of random pictures, a grey one, and a black one as behind a covered lens: (M, h, w, C)."""
    pictures = crops_without_images(_PICTURES, spec).pixels
    grey, black = np.full_like(pictures[:1], _GREY), np.zeros_like(pictures[:1])
    return np.concatenate([pictures, grey, black])


def nobody_by(run: Callable[[NDArray[np.uint8]], Mapping[str, FloatArray]], spec: ModelSpec) -> Nobody | None:
    """What a reference makes of crops that show nobody; None of a model without `presence`.

    Crops of which it gives no finite numbers are left out, such as a black one that it divides by its sum: nobody said
    that it can take them. None, too, where none is left.

    Args:
        run: From crops (M, h, w, C) to outputs by role, M first.
        spec: The model.
    """
    if "presence" not in spec.heads:
        return None
    crops = crops_of_nobody(spec.input)
    outputs = run(crops)
    finite = np.logical_and.reduce([finite_crops(values) for values in outputs.values()])
    if not finite.any():
        return None
    return Nobody(crops[finite], presence_of({role: values[finite] for role, values in outputs.items()}, spec))


def finite_crops(values: FloatArray) -> NDArray[np.bool_]:
    """(N,) whether all that an output gives of a crop is finite."""
    finite: NDArray[np.bool_] = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    return finite


def presence_of(outputs: Mapping[str, FloatArray], spec: ModelSpec) -> FloatArray:
    """(N,) `presence` of outputs by role, of a model that has it."""
    return (decode(outputs, spec).heads or {})["presence"]
