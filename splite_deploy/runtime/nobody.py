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

_PICTURES = 2


def crops_of_nobody(spec: InputSpec) -> NDArray[np.uint8]:
    """Crops of random pictures, and a black one as behind a covered lens: (M, h, w, C)."""
    pictures = crops_without_images(_PICTURES, spec).pixels
    return np.concatenate([pictures, np.zeros_like(pictures[:1])])


def nobody_by(run: Callable[[NDArray[np.uint8]], Mapping[str, FloatArray]], spec: ModelSpec) -> Nobody | None:
    """What a reference makes of crops that show nobody; None of a model without `presence`.

    Args:
        run: From crops (M, h, w, C) to outputs by role, M first.
        spec: The model.
    """
    if "presence" not in spec.heads:
        return None
    crops = crops_of_nobody(spec.input)
    return Nobody(crops, presence_of(run(crops), spec))


def presence_of(outputs: Mapping[str, FloatArray], spec: ModelSpec) -> FloatArray:
    """(N,) `presence` of outputs by role, of a model that has it."""
    return (decode(outputs, spec).heads or {})["presence"]
